"""The settings of a run: every published hyperparameter with its source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .drops import RULES


@dataclass(frozen=True)
class MiningConfig:
    """How hard negatives are chosen. The defaults are the release's."""

    strategy: str = "between_drops"  # a key of mining.STRATEGIES
    drop_rule: str = "release"  # the published numbers come from it; "largest" is Eq. 6
    consecutive_threshold: int = 1  # "release": ranks of the two drops differ by more than this
    search_window: int | None = None  # ranks after the target that may hold a drop; None: all
    top_k: int = 100  # k of the two top-k strategies (Fig. 4)
    set_size: int | None = None  # images in every set, from the window's start; None: the window's

    def __post_init__(self) -> None:
        if self.drop_rule not in RULES:
            raise ValueError(f"drop_rule must be one of {RULES}, not {self.drop_rule!r}")
        least = {"top_k": 1, "consecutive_threshold": 0, "search_window": 1, "set_size": 1}
        for name, lowest in least.items():
            if (value := getattr(self, name)) is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, not {value}")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the published FashionIQ recipe (METHOD section 3).

    Raises:
        ValueError: a value out of its range, or n_def above the number of epochs.
    """

    epochs: int = 30  # CIRR: 50
    batch_size: int = 32
    learning_rate: float = 5e-6  # CIRR: 1e-5
    min_learning_rate_ratio: float = 0.01  # cosine per epoch down to lr / 100; min_lr is unread
    weight_decay: float = 0.05  # on biases, LayerNorms and the temperature too
    n_def: int = 6  # hard negatives are redefined every floor(epochs / n_def) epochs
    objective: str = "bradley_terry"  # a key of train.OBJECTIVES
    warm_up: bool = True  # False mines the first hard negatives before the first step
    warm_up_objective: str | None = None  # until the first definition; None: `objective`
    negatives: int = 1  # a query and step; warm-up draws one whatever this is
    mining: MiningConfig = field(default_factory=MiningConfig)
    set_sizes: tuple[int, int] | None = None  # of the first and last definition; geometric between
    without_replacement: bool = False  # the release means to, and its workers forget
    exclude_reference: bool = False  # release: a query's reference image may be its negative
    amp: bool = True  # fp16 autocast where there is a GPU
    seed: int = 1000
    memory: int = 256 * 2**20  # bytes for one chunk of scores

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_def", "learning_rate", "negatives", "memory"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.n_def > self.epochs:
            raise ValueError(
                f"n_def ({self.n_def}) is above epochs ({self.epochs}): the hard negatives cannot "
                "be redefined more often than once an epoch; lower n_def or train longer"
            )

        mines = self.objective != "info_nce" and self.mining.strategy != "all_corpus"
        if mines and not self.definition_epochs:
            raise ValueError(
                f"{self.epochs} epochs with n_def = {self.n_def} never define hard negatives (a "
                "definition comes every floor(epochs / n_def) epochs, not at epoch 0); raise n_def"
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


def load_profile(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a profile of the notebooks: the parameters that replace each notebook's own.

    Args:
        path: YAML, {notebook: {parameter: value}}; the notebook "all" stands for every one. A
            notebook with `run: false` is left out.

    Raises:
        ValueError: no such profile, no YAML, or not of that shape.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ValueError(f"no profile {path.stem!r}; there are {known}")
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(profile, dict):
        raise ValueError(f"{path}: write {{notebook: {{parameter: value}}}}, not {profile!r}")
    for notebook, parameters in profile.items():
        if not isinstance(parameters, dict) or not all(isinstance(k, str) for k in parameters):
            raise ValueError(f"{path}: {notebook} needs parameter: value lines, not {parameters!r}")
    return profile
