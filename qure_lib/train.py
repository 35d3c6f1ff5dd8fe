"""The published training loop: warm-up, redefinition of hard negatives, steps.

`python -m qure_lib.train --help` is its command, for one process, or one that `accelerate launch`
starts of several.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from . import processes
from .config import MiningConfig, TrainConfig
from .data import SPLITS, QuerySet, load_cirr, load_fashioniq, load_graded_relevance
from .embeddings import Retriever
from .evaluation import evaluate_cirr, evaluate_fashioniq
from .files import replacing
from .losses import bradley_terry_loss, info_nce_loss, plackett_luce_loss
from .metrics import recall_at_k
from .mining import STRATEGIES, HardNegativeSet, MiningReport, mine_hard_negatives
from .model import QuReModel, paired_scores, relevance_scores
from .ranking import DEFAULT_MEMORY
from .runs import (
    event_writer,
    fingerprint,
    load_checkpoint,
    run_manifest,
    save_checkpoint,
    set_seed,
    write_json,
)


def _bradley_terry(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    positive = paired_scores(queries, targets)
    return bradley_terry_loss(positive, paired_scores(queries, negatives), tau)


def _plackett_luce(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    positive = paired_scores(queries, targets)
    return plackett_luce_loss(positive, paired_scores(queries, negatives), tau)


def _info_nce(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    return info_nce_loss(relevance_scores(queries, targets), tau)


# The one place to touch to add an objective: (B, D) queries, (B, T, D) targets, (B, K, T, D)
# negatives and the temperature -> a loss. In-batch contrast needs no negatives and is given none.
OBJECTIVES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "bradley_terry": _bradley_terry,
    "plackett_luce": _plackett_luce,
    "info_nce": _info_nce,
}


POOLS = ("released", "targets", "original")


@dataclass(frozen=True)
class TrainingData:
    """Training queries over their pools of negatives, val queries over the protocol's corpus.

    Both by category; CIRR is one category. relevance, val_relevance: (Q, N) graded relevance a
    category, where the data set knows it. protocol: "fashioniq" or "cirr", by which val is ranked.
    """

    train: dict[str, QuerySet]
    val: dict[str, QuerySet]
    relevance: dict[str, Tensor | None]
    val_relevance: dict[str, Tensor | None] = field(default_factory=dict)
    protocol: str = "fashioniq"

    @property
    def images(self) -> dict[str, Path]:
        """Every distinct image of both splits, by id."""
        both = [*self.train.values(), *self.val.values()]
        return {i: path for queries in both for i, path in queries.images.items()}

    @property
    def whole(self) -> bool:
        """Whether nothing was left out because its image file is missing."""
        both = [*self.train.values(), *self.val.values()]
        return not any(q.dropped_triplets or q.dropped_images for q in both)

    def evaluate(self, retriever: Retriever, memory: int = DEFAULT_MEMORY) -> pd.DataFrame:
        """One row a val query, by the data set's own protocol.

        Returns:
            The frame of `evaluate_fashioniq`; for CIRR that of `evaluate_cirr`, with its category.
        """
        if self.protocol == "fashioniq":
            return evaluate_fashioniq(retriever, self.val, memory, self.val_relevance)
        ((category, queries),) = self.val.items()
        return evaluate_cirr(retriever, queries, memory).assign(category=category)


def load_training_data(
    root: str | Path, allow_missing: bool = False, pool: str = "released"
) -> TrainingData:
    """FashionIQ's or CIRR's layout at `root`, by the published protocol (METHOD sections 3 and 6).

    FashionIQ's val ranks the original split; CIRR's all val images, the reference removed.

    Args:
        allow_missing: leave out what needs an image file that is missing (the loaders say by how
            much).
        pool: where negatives come from: the "targets" of the (same category's) train triplets, or
            all images of the "original" train split. "released": targets on FashionIQ, all on CIRR.

    Raises:
        ValueError: an unknown pool, or what the loaders refuse.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {POOLS}, not {pool!r}")
    if Path(root, "captions", "cap.rc2.train.json").is_file():
        splits = [load_cirr(root, split, allow_missing=allow_missing) for split in SPLITS]
        if pool == "targets":
            splits[0] = splits[0].only_targets()
        train, val = ({"cirr": queries} for queries in splits)
        return TrainingData(train, val, {"cirr": None}, protocol="cirr")
    corpus = "targets" if pool == "released" else pool
    train = load_fashioniq(root, "train", corpus=corpus, allow_missing=allow_missing)
    val = load_fashioniq(root, "val", allow_missing=allow_missing)
    relevance = {c: load_graded_relevance(root, q, "train") for c, q in train.items()}
    val_relevance = {c: load_graded_relevance(root, q, "val") for c, q in val.items()}
    return TrainingData(train, val, relevance, val_relevance)


@dataclass(frozen=True)
class Run:
    """A finished run's folder. history: one row an epoch; mining: one row a definition, category.

    Files: run.json (manifest), history.csv, mining.csv, last/ and best/ (models), definitions/
    (trained weights and per-query figures at each definition), checkpoint.pt, and tensorboard/
    (both frames as event files).
    """

    folder: Path
    history: pd.DataFrame
    mining: pd.DataFrame

    def load(self, model: QuReModel, stage: str | int) -> QuReModel:
        """Put the trained weights of a stage into `model` and return it.

        Args:
            stage: "last", "best", or an epoch at which negatives were defined.

        Raises:
            ValueError: no such stage, or its file is damaged or belongs to another model.
        """
        path = self.folder / str(stage) / "model.safetensors"
        if not isinstance(stage, str):
            path = self.folder / "definitions" / f"epoch_{stage:02d}.safetensors"
        try:
            missing, unexpected = model.load_state_dict(load_file(path), strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be loaded ({error}); train this run again") from error
        if unexpected or set(missing) & model.trainable_parameters().keys():
            raise ValueError(f"{path} belongs to another model; train this run again")
        return model

    def mined(self, epoch: int) -> pd.DataFrame:
        """The mining report's per-query rows of the definition at `epoch`."""
        return pd.read_csv(self.folder / "definitions" / f"epoch_{epoch:02d}.csv")


def train(
    config: TrainConfig,
    retriever: Retriever,
    data: TrainingData,
    runs: str | Path,
    name: str,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Train by the published recipe, or go on from, or open, the same run's last checkpoint.

    The run lives in `runs/name-fingerprint`; the fingerprint covers the settings, data, starting
    weights and this package's code, so a change of any starts afresh. A CPU run repeated with the
    same seed and threads gives the same bits, interrupted or not. Runs that differ only in what
    follows the warm-up share it: the first one leaves it in `runs`, the others go on from there.

    Args:
        retriever: its model is trained in place and ends at the last epoch.
        on_epoch: called with each finished epoch's row of the history.

    Raises:
        ValueError: an unknown objective or strategy, or a damaged checkpoint.

    Source: QuRe, arXiv:2507.12416, Algorithm 1; METHOD section 3 for what the release does.
    """
    for objective in (config.objective, config.warm_up_objective or config.objective):
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {sorted(OBJECTIVES)}, not {objective!r}")
    if config.mining.strategy not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {sorted(STRATEGIES)}, not {config.mining.strategy!r}"
        )
    loop = _Loop(config, retriever, data, Path(runs), name)
    with _turn(loop.folder):
        loop.open()
        left = range(loop.epoch, config.epochs)
        quiet = not left or not processes.is_main()
        for epoch in tqdm(left, desc=name, unit="epoch", mininterval=1.0, disable=quiet):
            row = loop.run_epoch(epoch)
            if on_epoch is not None:
                on_epoch(row)
        return loop.finish()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: of notebooks that want the same run one trains it, others open it."""
    if not processes.is_main():  # the main process's turn is that of all
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"{folder.name}: another process is at it; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def define_hard_negatives(
    retriever: Retriever, data: TrainingData, config: TrainConfig
) -> dict[str, tuple[HardNegativeSet, MiningReport]]:
    """Mine every category's training queries with the model as it is now (Algorithm 1).

    By `config.mining`; see `TrainConfig.mining_at` for an epoch's.
    """
    return {
        category: _mine(retriever, queries, data.relevance.get(category), config)
        for category, queries in data.train.items()
    }


def _mine(
    retriever: Retriever, queries: QuerySet, relevance: Tensor | None, config: TrainConfig
) -> tuple[HardNegativeSet, MiningReport]:
    """One category's: each process mines its share of the queries, and all hold the whole."""
    rows = processes.share(len(queries))
    references = excluded_references(queries, config)
    mined = mine_hard_negatives(
        retriever.embed_queries(queries)[rows],
        retriever.embed_corpus(queries.corpus),
        queries.target_positions[rows].to(retriever.device),
        config.mining,
        None if relevance is None else relevance[rows],
        config.memory,
        None if references is None else references[rows],
    )
    chosen, reports = zip(*processes.gather_shares(mined, len(queries)), strict=True)
    return HardNegativeSet.concatenate(chosen), MiningReport.concatenate(reports)


def excluded_references(queries: QuerySet, config: TrainConfig) -> Tensor | None:
    """What mining and sampling leave out beside the target: None as released."""
    return queries.reference_positions if config.exclude_reference else None


def learning_rate_at(epoch: int, config: TrainConfig) -> float:
    """Cosine per epoch from the learning rate down towards its `min_learning_rate_ratio`."""
    low = config.learning_rate * config.min_learning_rate_ratio
    cosine = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return low + (config.learning_rate - low) * cosine


class _Loop:
    """The state of one training run: everything that a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, retriever: Retriever, data: TrainingData, runs: Path, name: str
    ) -> None:
        self.config, self.retriever, self.data, self.name = config, retriever, data, name
        self.model = retriever.model
        self.data_hashes = data_hashes(retriever, data)
        self.folder = runs / f"{name}-{fingerprint(config=config, data=self.data_hashes)}"
        self.parameters = self.model.trainable_parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.amp = config.amp and retriever.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.triplets = [t for q in data.train.values() for t in q.triplets]
        tokens = retriever.tokenize([t.caption for t in self.triplets])
        self.input_ids, self.attention_mask = tokens
        self.negatives = {
            c: HardNegativeSet.uniform(
                q.target_positions, len(q.corpus), excluded_references(q, config)
            )
            for c, q in data.train.items()
        }
        self.epoch, self.defined_at = 0, 0
        self.history: list[dict[str, Any]] = []
        self.mining: list[dict[str, Any]] = []

    def open(self) -> None:
        """Go on from the run's checkpoint, or from its warm-up, where there is one."""
        starts_here = not self.checkpoint.exists() and self.warm_up.exists()
        if starts_here and processes.is_main():
            with replacing(self.folder) as scratch:
                shutil.copytree(self.warm_up, scratch)
        processes.wait_for_all()
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def warm_up(self) -> Path:
        """Folder of the warm-up, which what follows it cannot have changed."""
        shared = {name: getattr(self.config, name) for name in _WARM_UP_SETTINGS}
        mark = fingerprint(config=shared, objective=self._objective(0), data=self.data_hashes)
        return self.folder.parent / f"warm_up-{mark}"

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        started = time.perf_counter()
        generator = set_seed(self.config.seed * 1_000_003 + epoch, processes.rank_and_count()[0])
        rate = learning_rate_at(epoch, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if epoch in self.config.definition_epochs:
            self._define(epoch, generator)
        mined = time.perf_counter()
        loss = self._steps(epoch, generator)
        trained = time.perf_counter()
        row = {"epoch": epoch, "loss": loss, "learning_rate": rate}
        row["temperature"] = self.model.temperature.item()
        row |= self._validate()
        ended = time.perf_counter()
        row |= {
            "mining_s": mined - started,
            "training_s": trained - mined,
            "val_s": ended - trained,
        }
        self._keep(epoch, row)
        return row

    def _define(self, epoch: int, generator: torch.Generator) -> None:
        """Mine every category's hard negatives, and print and save the report."""
        config = replace(self.config, mining=self.config.mining_at(epoch))
        mined = define_hard_negatives(self.retriever, self.data, config)
        for category, (chosen, report) in mined.items():
            if self.config.without_replacement:
                chosen = chosen.shuffled(generator)
            self.negatives[category] = chosen
            row = {"epoch": epoch, "category": category} | report.summary()
            self.mining.append(_plain_numbers(row))
            if processes.is_main():
                self._log(f"mining_{category}", report.summary(), epoch)
                tqdm.write(f"epoch {epoch}, {category}: {report}")
        self.defined_at = epoch
        if processes.is_main():
            self._keep_definition(epoch, {c: report for c, (_, report) in mined.items()})

    def _keep_definition(self, epoch: int, reports: dict[str, MiningReport]) -> None:
        stem = self.folder / "definitions" / f"epoch_{epoch:02d}"
        per_query = pd.concat(
            report.per_query.assign(
                category=category, query_id=[t.query_id for t in self.data.train[category].triplets]
            )
            for category, report in reports.items()
        )
        with replacing(stem.with_suffix(".csv")) as path:
            per_query.to_csv(path, index=False)
        with replacing(stem.with_suffix(".safetensors")) as path:
            save_file({n: p.detach().clone() for n, p in self.parameters.items()}, path)

    def _draw(self, epoch: int, generator: torch.Generator) -> list[list[str]]:
        """The image ids of every triplet's negatives: distinct ones where its set holds so many."""
        count = self.config.negatives if epoch >= self.config.warm_up_epochs else 1
        drawn = []
        for category, queries in self.data.train.items():
            sets, draws = self.negatives[category], [None]
            if self.config.without_replacement:
                draws = [(epoch - self.defined_at) * count + k for k in range(count)]
            elif count > 1:
                sets, draws = sets.shuffled(generator), range(count)
            positions = torch.stack([sets.sample(generator, draw) for draw in draws], dim=1)
            drawn += [[queries.corpus.image_ids[p] for p in row] for row in positions.tolist()]
        return drawn

    def _objective(self, epoch: int) -> str:
        warming = epoch < self.config.warm_up_epochs
        return (warming and self.config.warm_up_objective) or self.config.objective

    def _steps(self, epoch: int, generator: torch.Generator) -> float:
        """One pass over the triplets. Returns the mean loss."""
        negatives, objective = self._draw(epoch, generator), self._objective(epoch)
        if objective == "info_nce":
            negatives = [[] for _ in negatives]
        self.model.train()
        order = torch.randperm(len(self.triplets), generator=generator)
        total = 0.0
        batches, quiet = order.split(self.config.batch_size), not processes.is_main()
        for batch in tqdm(batches, leave=False, mininterval=1.0, disable=quiet):
            with torch.autocast(self.retriever.device.type, torch.float16, enabled=self.amp):
                loss = self._loss(batch, [negatives[i] for i in batch], objective)
            if not torch.isfinite(loss):
                raise ValueError("the loss is not finite; lower the learning rate")
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            processes.average_gradients(self.parameters.values())
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total += loss.item() * len(batch)
        return total / len(self.triplets)

    def _loss(self, batch: Tensor, negatives: list[list[str]], objective: str) -> Tensor:
        """The whole batch's, on every process; each encodes its share."""
        size, mine = len(batch), processes.share(len(batch))
        batch, negatives = batch[mine], negatives[mine]
        triplets = [self.triplets[i] for i in batch]
        rows = batch.to(self.retriever.device)
        length = int(self.attention_mask[rows].sum(dim=1).max())
        queries = self.model.encode_query(
            self.retriever.read_features([t.reference for t in triplets]),
            self.input_ids[rows, :length],
            self.attention_mask[rows, :length],
        )
        image_ids = [t.target for t in triplets] + [i for row in negatives for i in row]
        images = self.model.encode_image(self.retriever.read_features(image_ids))
        targets, images = images[: len(batch)], images[len(batch) :]
        images = images.unflatten(0, (len(batch), len(negatives[0])))
        whole = [processes.gather_rows(t, size) for t in (queries, targets, images)]
        return OBJECTIVES[objective](*whole, self.model.temperature)

    def _validate(self) -> dict[str, float]:
        """Means over the categories: recall in per cent, and the graded measures if there are."""
        per_query = self.data.evaluate(self.retriever, self.config.memory)
        measures = {f"r{k}": ("rank", k) for k in (10, 50)}
        if "subset_rank" in per_query:
            measures |= {"r1": ("rank", 1), "r5": ("rank", 5), "rs1": ("subset_rank", 1)}
        for measure, (column, k) in measures.items():
            per_query[measure] = 100 * recall_at_k(per_query[column], k)
        ranks = ["query_id", "rank", "subset_rank"]
        means = per_query.drop(columns=ranks, errors="ignore").groupby("category").mean().mean()
        return _plain_numbers(means.add_prefix("val_").to_dict())

    def _keep(self, epoch: int, row: dict[str, Any]) -> None:
        """End an epoch: history, and the main process's files."""
        best = all(self._score(row) > self._score(past) for past in self.history)
        self.history.append(row)
        self.epoch = epoch + 1
        if processes.is_main():
            self._log("training", row, epoch)
            self._save(best)

    def _save(self, best: bool) -> None:
        """The model if it is the best, and the atomic checkpoint last."""
        if best:
            self.retriever.save(self.folder / "best")
        state = {
            "epoch": self.epoch,
            "defined_at": self.defined_at,
            "history": self.history,
            "mining": self.mining,
            "negatives": {c: asdict(n) for c, n in self.negatives.items()},
            "model": {n: p.detach() for n, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(self.checkpoint, state)
        ends_warm_up = self.epoch == self.config.warm_up_epochs < self.config.epochs
        if ends_warm_up:
            with _turn(self.warm_up):
                if not self.warm_up.exists():
                    with replacing(self.warm_up) as scratch:
                        shutil.copytree(self.folder, scratch)

    def _score(self, row: dict[str, Any]) -> float:
        """What the best epoch is chosen by: the mean that the protocol's table ends with."""
        first, second = {"fashioniq": ("r10", "r50"), "cirr": ("r5", "rs1")}[self.data.protocol]
        return row[f"val_{first}"] + row[f"val_{second}"]

    @cached_property
    def _events(self) -> Any:
        return event_writer(self.folder / "tensorboard", self.epoch)

    def _log(self, group: str, row: dict[str, Any], epoch: int) -> None:
        """Numbers to TensorBoard's event files."""
        for name, value in row.items():
            if not isinstance(value, str):
                self._events.add_scalar(f"{group}/{name}", value, epoch)
        self._events.flush()

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint)
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.checkpoint} is not this run's checkpoint ({type(error).__name__}: "
                f"{error}); delete its folder to train afresh"
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.defined_at = state["epoch"], state["defined_at"]
        self.history, self.mining = state["history"], state["mining"]
        self.negatives = {c: HardNegativeSet(**n) for c, n in state["negatives"].items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["model"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def finish(self) -> Run:
        run = Run(self.folder, pd.DataFrame(self.history), pd.DataFrame(self.mining))
        if processes.is_main():
            self._complete(run)
        processes.wait_for_all()
        return run

    def _complete(self, run: Run) -> None:
        """Write what a finished run has, where it is not there."""
        if not (self.folder / "last").exists():
            self.retriever.save(self.folder / "last")
        for file, frame in (("history.csv", run.history), ("mining.csv", run.mining)):
            with replacing(self.folder / file) as path:
                frame.to_csv(path, index=False)
        if not (self.folder / "run.json").exists():
            manifest = run_manifest(
                name=self.name,
                config=self.config,
                data=self.data_hashes,
                seconds=run.history[["mining_s", "training_s", "val_s"]].sum().to_dict(),
                processes=processes.rank_and_count()[1],
            )
            write_json(self.folder / "run.json", manifest)


# All that the epochs before the first definition depend on, beside their objective and the data.
_WARM_UP_SETTINGS = ("warm_up_epochs", "epochs", "batch_size", "learning_rate", "weight_decay")
_WARM_UP_SETTINGS += ("min_learning_rate_ratio", "amp", "seed", "memory", "exclude_reference")


def _plain_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """NumPy's scalars as Python's own: a checkpoint holds nothing that needs code to be read."""
    return {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}


def data_hashes(retriever: Retriever, data: TrainingData) -> dict[str, str]:
    """Hashes of the triplets and pools, the images' content (by the features), and the weights."""
    annotations = hashlib.sha256()
    for queries in [*data.train.values(), *data.val.values()]:
        asked = [(t.query_id, t.reference, t.caption, t.target) for t in queries.triplets]
        annotations.update(repr((asked, queries.corpus.image_ids)).encode())
    weights = hashlib.sha256()
    for name, parameter in sorted(retriever.model.trainable_parameters().items()):
        weights.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return {
        "annotations": annotations.hexdigest(),
        "features": retriever.features.key,
        "starting_weights": weights.hexdigest(),
    }


COMMAND = "python -m qure_lib.train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 where the input is at fault."""
    args = parser().parse_args(argv)
    try:
        config = _given(args, TrainConfig, mining=_given(args, MiningConfig))
        with processes.joined():
            data = load_training_data(args.data_root, args.allow_missing, args.pool)
            retriever = Retriever.open(args.checkpoint, data.images, args.runs / "features")
            name = args.name or config.mining.strategy
            run = train(config, retriever, data, args.runs, name)
            if processes.is_main():
                print(run.history.to_string(index=False), run.folder, sep="\n")
    except (ValueError, OSError) as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _given(args: argparse.Namespace, kind: type, **more: Any) -> Any:
    """The settings of a dataclass: its defaults where the command line is silent."""
    given = {f.name: getattr(args, f.name) for f in fields(kind) if f.name in args}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}, **more)


def parser() -> argparse.ArgumentParser:
    """The command's arguments: data, folders, and every setting of a run."""
    top = argparse.ArgumentParser(
        COMMAND,
        description="Train by the published recipe, or go on where the same command was stopped. "
        "With several processes: `accelerate launch --multi_gpu --num_processes 2 -m "
        "qure_lib.train ...`, on GPUs, or on CPUs where there is none.",
        allow_abbrev=False,
    )
    top.add_argument("data_root", type=Path, help="folder in FashionIQ's or CIRR's layout")
    top.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of the model to start from"
    )
    top.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)"
    )
    top.add_argument("--name", help="of the run (default: its strategy)")
    top.add_argument(
        "--pool", choices=POOLS, default="released", help="of negatives (default: %(default)s)"
    )
    top.add_argument(
        "--allow-missing", action="store_true", help="leave out what has no image file"
    )
    for kind in (TrainConfig, MiningConfig):
        _add_settings(top.add_argument_group(inspect.getdoc(kind).split(".")[0]), kind)
    return top


def _add_settings(group: Any, kind: type) -> None:
    """A flag for each field of a settings' dataclass; the comment beside the field is its help."""
    about = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(kind), re.MULTILINE))
    hints = get_type_hints(kind)
    for setting in fields(kind):
        value, *parts = get_args(hints[setting.name]) or (hints[setting.name],)  # of `int | None`
        if value is MiningConfig:
            continue
        if value is bool:
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        elif of := get_args(value):  # set_sizes
            how = {"type": of[0], "nargs": len(of)}
        else:
            how = {"type": value}
        said = [about.get(setting.name, ""), f"(default: {setting.default})"]
        group.add_argument(
            f"--{setting.name.replace('_', '-')}",
            **how,
            default=argparse.SUPPRESS,
            help=" ".join(said).strip().replace("%", "%%"),
        )


if __name__ == "__main__":
    sys.exit(main())
