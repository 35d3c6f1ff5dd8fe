"""The settings of a run: every published hyperparameter with its source."""

import math
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

import torch

from .drops import RULES, check_curve
from .losses import find_objective

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def _setting(
    default: Any, about: str, lowest: float | None = None, highest: float = math.inf
) -> Any:
    """A field with its default, its line of help, which the commands print, and its range."""
    return field(default=default, metadata={"help": about, "range": (lowest, highest)})


def _check_ranges(config: Any) -> None:
    """Refuse a number, or one of several, that is out of its setting's range; None passes."""
    for setting in fields(config):
        value = getattr(config, setting.name)
        lowest, highest = setting.metadata.get("range", (None, None))
        kind, of = (Real, "") if isinstance(setting.default, float) else (Integral, "whole ")
        for number in value if isinstance(value, tuple | list) else [value]:
            if lowest is None or number is None:
                continue
            if not (isinstance(number, kind) and lowest <= number <= highest and number < math.inf):
                most = f", at most {highest}" if highest < math.inf else ""
                span = f"a {of}number, at least {lowest}{most}"
                raise ValueError(f"{setting.name} must be {span}, not {number!r}")


@dataclass(frozen=True)
class MiningConfig:
    """How hard negatives are chosen. The defaults are the release's.

    Raises:
        ValueError: an unknown drop rule or curve, or a number out of its range.
    """

    strategy: str = _setting("between_drops", "mining strategy")
    drop_rule: str = _setting("release", "release: the authors' code; largest: Eq. 6")
    consecutive_threshold: int = _setting(1, "rule release: the drops' ranks differ by more", 0)
    search_window: int | None = _setting(None, "ranks after the target to search; None: all", 1)
    curve: str = _setting("cosine", "cosine, as released; preference: drops in Bradley-Terry's 1-P")
    temperature: float | None = _setting(None, "of the preference curve; None: the model's own")
    top_k: int = _setting(100, "k of the strategies top_k and after_target_top_k (Fig. 4)", 1)
    set_size: int | None = _setting(None, "images in a set, from the window's start; None: all", 1)
    options: tuple[tuple[str, Any], ...] = ()  # the strategy's own parameters; takes a mapping

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted(dict(self.options).items())))
        if self.drop_rule not in RULES:
            raise ValueError(f"drop_rule must be one of {RULES}, not {self.drop_rule!r}")
        check_curve(self.curve, 1.0 if self.temperature is None else self.temperature)
        _check_ranges(self)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the published FashionIQ recipe.

    Raises:
        ValueError: a value out of its range, n_def above the number of epochs, no definition where
            one is needed, an unknown objective, or in-batch contrast with batches of one query.
    """

    epochs: int = _setting(30, "published: FashionIQ 30, CIRR 50", 1)
    batch_size: int = _setting(32, "queries a step, of all processes together", 1)
    learning_rate: float = _setting(5e-6, "published: FashionIQ 5e-6, CIRR 1e-5", 1e-12)
    min_learning_rate_ratio: float = _setting(0.01, "the rate's cosine falls to this share", 0, 1)
    weight_decay: float = _setting(0.05, "AdamW's, on biases and LayerNorms too", 0)
    n_def: int = _setting(6, "hard negatives are redefined every floor(epochs / n_def) epochs", 1)
    objective: str = _setting("bradley_terry", "training objective")
    warm_up: bool = _setting(True, "--no-warm-up mines before the first step")
    warm_up_objective: str | None = _setting(None, "until the first definition; None: objective")
    negatives: int = _setting(1, "negatives a query and step; the warm-up draws one", 1)
    auxiliary_positives: bool = _setting(False, "images before the first drop are positives too")
    mining: MiningConfig = field(default_factory=MiningConfig)
    set_sizes: tuple[int, int] | None = _setting(None, "first and last set size, geometric", 1)
    exclude_reference: bool = _setting(False, "never draw the reference (the release may)")
    precision: str = _setting("fp16", "of steps on a GPU: fp16 (published), bf16 or fp32")
    embed_precision: str = _setting("fp32", "of embeddings for mining and val on a GPU")
    seed: int = _setting(1000, "seed of the run", -(2**40), 2**40)
    memory: int = _setting(256 * 2**20, "bytes for one chunk of scores", 1)

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.set_sizes is not None and len(self.set_sizes) != 2:
            raise ValueError(f"set_sizes must be two numbers, first and last, not {self.set_sizes}")
        for name in ("precision", "embed_precision"):
            if getattr(self, name) not in PRECISIONS:
                known, given = tuple(PRECISIONS), getattr(self, name)
                raise ValueError(f"{name} must be one of {known}, not {given!r}")
        needs_negatives = find_objective(self.objective).needs_negatives
        mines = needs_negatives and self.mining.strategy != "all_corpus"
        self._check_schedule(mines)
        if self.auxiliary_positives and not (mines and self.mining.strategy == "between_drops"):
            raise ValueError(
                "auxiliary_positives lie before the first drop: they need the strategy "
                f"between_drops and an objective with negatives, not {self.mining.strategy!r} and "
                f"{self.objective!r}"
            )
        for epoch in {0, self.warm_up_epochs}:
            name = self.objective_at(epoch)
            if not find_objective(name).needs_negatives and self.batch_size < 2:
                raise ValueError(
                    f"{name} contrasts the queries of a batch, and batch_size is "
                    f"{self.batch_size}: the loss would be 0; take at least 2"
                )

    def _check_schedule(self, mines: bool) -> None:
        """Refuse a schedule that has no definition where one is needed, or more than epochs."""
        least = 2 if self.warm_up and (mines or self.warm_up_objective) else 1
        if least <= self.n_def <= self.epochs:
            return
        remedy = f"take n_def from {least} to epochs"
        if least == 2:
            remedy += ", --epochs 2 or more; or --n-def 1 with --no-warm-up, which mines at epoch 0"
        if least == 2 and not self.warm_up_objective:
            remedy += ", or with --strategy all_corpus, which does not mine"
        raise ValueError(
            f"n_def is {self.n_def} and epochs {self.epochs}, but hard negatives are redefined "
            f"every floor(epochs / n_def) epochs: {remedy}"
        )

    @property
    def definition_epochs(self) -> tuple[int, ...]:
        """Epochs e > 0 with e mod floor(epochs / n_def) == 0, at whose start negatives are mined.

        Without a warm-up, epoch 0 as well.

        Example:
            >>> TrainConfig(epochs=30, n_def=6).definition_epochs
            (5, 10, 15, 20, 25)
        """
        every = self.epochs // self.n_def
        return tuple(range(every if self.warm_up else 0, self.epochs, every))

    @property
    def warm_up_epochs(self) -> int:
        """How many epochs come before the first definition; all of them if there is none."""
        return min(self.definition_epochs, default=self.epochs)

    def objective_at(self, epoch: int) -> str:
        """The objective of an epoch: `warm_up_objective` before the first definition, if set."""
        warming = epoch < self.warm_up_epochs
        return (warming and self.warm_up_objective) or self.objective

    def learning_rate_at(self, epoch: int) -> float:
        """Cosine per epoch from the learning rate down towards its `min_learning_rate_ratio`."""
        low = self.learning_rate * self.min_learning_rate_ratio
        return low + (self.learning_rate - low) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def mining_at(self, epoch: int) -> MiningConfig:
        """How negatives are mined at one of the definition epochs.

        Example:
            >>> config = TrainConfig(epochs=4, n_def=4, set_sizes=(100, 4))
            >>> [config.mining_at(epoch).set_size for epoch in config.definition_epochs]
            [100, 20, 4]
        """
        if self.set_sizes is None:
            return self.mining
        first, last = self.set_sizes
        place = self.definition_epochs.index(epoch) / max(len(self.definition_epochs) - 1, 1)
        return replace(self.mining, set_size=round(first * (last / first) ** place))


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. The defaults are the published ViT-L model's."""

    encoder: str = "clip"  # a key of ENCODERS
    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1024  # C
    vision_layers: int = 23  # BLIP-2 takes CLIP ViT-L's last layer but one
    vision_heads: int = 16
    qformer_width: int = 768
    qformer_layers: int = 12
    qformer_heads: int = 12
    num_query_tokens: int = 32  # T
    embedding_dim: int = 256  # D
    vocab_size: int = 30_523  # BERT-uncased and [DEC]
    max_caption_tokens: int = 32  # L
    dropout: float = 0.1  # hidden and attention, active in training
