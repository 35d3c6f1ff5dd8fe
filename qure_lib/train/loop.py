"""The published training loop: define, draw, step, validate."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qure_lib import processes
from qure_lib.datasets.queries import QuerySet
from qure_lib.evaluation.metrics import recall_at_k
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import TrainConfig
from qure_lib.method.losses import find_objective
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.negatives import HardNegativeSet
from qure_lib.method.strategies import check_strategy

from .run_folder import Run, RunFolder
from .training_data import TrainingData


def train(
    config: TrainConfig,
    retriever: Retriever,
    data: TrainingData,
    runs: str | Path,
    name: str,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Run:
    """Train by the published recipe; resume or open the same run where it is there.

    The run lives in `runs/name-fingerprint` (`RunFolder`). A CPU run repeated with the same seed
    and threads gives the same bits, interrupted or not. Runs that differ only in what follows the
    warm-up share it: the first one leaves it in `runs`, the others go on from there.

    Args:
        retriever: its model is where training starts; it is not changed.
        on_epoch: called with each finished epoch's row of the history.

    Raises:
        ValueError: an unknown strategy, too few queries for the objective, or a damaged checkpoint.

    Source: QuRe, arXiv:2507.12416, Algorithm 1; docs/method.md for what the release does.
    """
    check_strategy(config.mining)
    folder = RunFolder(Path(runs), name, config, data.hashes(retriever))
    loop = Loop(config, retriever.copy(), data, folder)
    with folder.opened():
        loop.resume()
        left = range(loop.epoch, config.epochs)
        quiet = not left or not processes.is_main()
        for epoch in tqdm(left, desc=name, unit="epoch", mininterval=1.0, disable=quiet):
            row = loop.run_epoch(epoch)
            if on_epoch is not None:
                on_epoch(row)
        run = Run(folder.path, pd.DataFrame(loop.history), pd.DataFrame(loop.mining), retriever)
        if processes.is_main():
            folder.complete(loop.retriever, run)
        processes.wait_for_all()
        return run


def define_hard_negatives(
    retriever: Retriever, data: TrainingData, config: TrainConfig
) -> dict[str, tuple[HardNegativeSet, MiningReport]]:
    """Mine every category's training queries with the model as it is now (Algorithm 1).

    By `config.mining`; see `TrainConfig.mining_at` for an epoch's. Its temperature is the model's,
    unless one is given.
    """
    if config.mining.temperature is None:
        own = retriever.model.temperature.item()
        config = replace(config, mining=replace(config.mining, temperature=own))
    return {
        category: _mine(retriever, queries, data.relevance.get(category), config)
        for category, queries in data.train.items()
    }


def _mine(
    retriever: Retriever, queries: QuerySet, relevance: Tensor | None, config: TrainConfig
) -> tuple[HardNegativeSet, MiningReport]:
    """One category's: each process mines its share of the queries, and all hold the whole."""
    rows = processes.share(len(queries))
    references = _excluded(queries, config)
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


def _excluded(queries: QuerySet, config: TrainConfig) -> Tensor | None:
    """(Q,) references that mining and sampling leave out; None as released."""
    return queries.reference_positions if config.exclude_reference else None


def learning_rate_at(epoch: int, config: TrainConfig) -> float:
    """Cosine per epoch from the learning rate down towards its `min_learning_rate_ratio`."""
    low = config.learning_rate * config.min_learning_rate_ratio
    cosine = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return low + (config.learning_rate - low) * cosine


def set_seed(seed: int, rank: int = 0) -> torch.Generator:
    """Seed Python, NumPy and torch (dropout), and give a generator of its own for sampling.

    Args:
        rank: of several processes, which draw the same samples and each its own dropout.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed + 10_007 * rank)  # of its 64 bits CPUs use the lower 32
    return torch.Generator().manual_seed(seed)


class Loop:
    """The state of one training run: everything that a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, retriever: Retriever, data: TrainingData, folder: RunFolder
    ) -> None:
        self.config, self.retriever, self.data, self.folder = config, retriever, data, folder
        self.model = retriever.model
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
            c: HardNegativeSet.uniform(q.target_positions, len(q.corpus), _excluded(q, config))
            for c, q in data.train.items()
        }
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.mining: list[dict[str, Any]] = []

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Define if it is time, step through the queries, validate. Returns the history's row."""
        started = time.perf_counter()
        generator = set_seed(self.config.seed * 1_000_003 + epoch, processes.rank_and_count()[0])
        rate = learning_rate_at(epoch, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if epoch in self.config.definition_epochs:
            self.define(epoch)
        mined = time.perf_counter()
        row = {"epoch": epoch} | self.take_steps(epoch, generator) | {"learning_rate": rate}
        trained = time.perf_counter()
        row |= {"temperature": self.model.temperature.item()} | self.validate()
        times = {"mining_s": mined - started, "training_s": trained - mined}
        row |= times | {"val_s": time.perf_counter() - trained}
        self._end_epoch(row)
        return row

    def define(self, epoch: int) -> None:
        """Mine every category's hard negatives, and print and save the report."""
        config = replace(self.config, mining=self.config.mining_at(epoch))
        mined = define_hard_negatives(self.retriever, self.data, config)
        frames = []
        for category, (self.negatives[category], report) in mined.items():
            summary = report.summary()
            self.mining.append(_plain({"epoch": epoch, "category": category} | summary))
            ids = [t.query_id for t in self.data.train[category].triplets]
            frames.append(report.per_query.assign(category=category, query_id=ids))
            if processes.is_main():
                self.folder.log(f"mining_{category}", summary, epoch)
                tqdm.write(f"epoch {epoch}, {category}: {report}")
        if processes.is_main():
            self.folder.save_definition(epoch, pd.concat(frames), self.parameters)

    def draw(self, epoch: int, generator: torch.Generator) -> list[list[str]]:
        """The image ids of every triplet's negatives: distinct ones where its set holds so many."""
        count = self.config.negatives if epoch >= self.config.warm_up_epochs else 1
        drawn = []
        for category, queries in self.data.train.items():
            positions = self.negatives[category].sample(generator, count)
            drawn += [[queries.corpus.image_ids[p] for p in row] for row in positions.tolist()]
        return drawn

    def take_steps(self, epoch: int, generator: torch.Generator) -> dict[str, float]:
        """One pass over the triplets. Returns the mean loss, and the gradient's mean norm.

        Raises:
            ValueError: the loss is not finite, or there is one query for in-batch contrast.
        """
        negatives = self.draw(epoch, generator)
        objective = find_objective(self.config.objective_at(epoch))
        if not objective.needs_negatives:
            negatives = [[] for _ in negatives]
        self.model.train()
        order = torch.randperm(len(self.triplets), generator=generator)
        batches = list(order.split(self.config.batch_size))
        if not objective.needs_negatives and len(batches[-1]) == 1:
            self._join_last(batches)
        total, norms, quiet = 0.0, [], not processes.is_main()
        for batch in tqdm(batches, leave=False, mininterval=1.0, disable=quiet):
            with torch.autocast(self.retriever.device.type, torch.float16, enabled=self.amp):
                embedded = self._embed(batch, [negatives[i] for i in batch])
                loss = objective.function(*embedded, self.model.temperature)
            if not torch.isfinite(loss):
                raise ValueError("the loss is not finite; lower the learning rate")
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            processes.average_gradients(self.parameters.values())
            norms.append(self._gradient_norm())
            self.scaler.step(self.optimizer)
            self.scaler.update()
            total += loss.item() * len(batch)
        finite = [norm for norm in norms if math.isfinite(norm)]  # fp16 skips a step that overflows
        mean = sum(finite) / len(finite) if finite else math.nan
        return {"loss": total / len(self.triplets), "gradient_norm": mean}

    def _gradient_norm(self) -> float:
        """Of all parameters together, without the scaler's factor."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) / self.scaler.get_scale()

    def _join_last(self, batches: list[Tensor]) -> None:
        """Join a last batch of one query to the one before: contrast within it would be 0."""
        if len(batches) == 1:
            raise ValueError("in-batch contrast needs at least two training queries; there is one")
        batches[-2:] = [torch.cat(batches[-2:])]
        if processes.is_main():
            tqdm.write(
                f"{len(self.triplets)} queries leave a last batch of one, which in-batch contrast "
                f"cannot use: it joins the batch before, of {len(batches[-1])} then"
            )

    def _embed(self, batch: Tensor, negatives: list[list[str]]) -> list[Tensor]:
        """(B, D) queries, (B, T, D) targets and (B, K, T, D) negatives, whole on every process.

        Each process encodes its share.
        """
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
        return [processes.gather_rows(t, size) for t in (queries, targets, images)]

    def validate(self) -> dict[str, float]:
        """Means over the categories: recall in per cent, and the graded measures if there are."""
        per_query = self.data.evaluate(self.retriever, self.config.memory)
        for measure, (column, k) in self.data.training.measures.items():
            per_query[measure] = 100 * recall_at_k(per_query[column], k)
        ranks = ["query_id", "rank", "subset_rank"]
        means = per_query.drop(columns=ranks, errors="ignore").groupby("category").mean().mean()
        return _plain(means.add_prefix("val_").to_dict())

    def _end_epoch(self, row: dict[str, Any]) -> None:
        first, second = (f"val_{measure}" for measure in self.data.training.select_by)
        best = all(row[first] + row[second] > r[first] + r[second] for r in self.history)
        self.history.append(row)
        self.epoch = row["epoch"] + 1
        if processes.is_main():
            self.folder.log("training", row, row["epoch"])
            self.folder.save_epoch(self.retriever, self.state(), best)

    def state(self) -> dict[str, Any]:
        """All that `resume` needs."""
        return {
            "epoch": self.epoch,
            "history": self.history,
            "mining": self.mining,
            "negatives": {c: asdict(n) for c, n in self.negatives.items()},
            "model": {n: p.detach() for n, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if (state := self.folder.load()) is None:
            return
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}; delete its folder to train afresh"
            message = f"{self.folder.checkpoint} is not this run's checkpoint ({reason})"
            raise ValueError(message) from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.history, self.mining = state["epoch"], state["history"], state["mining"]
        self.negatives = {c: HardNegativeSet(**n) for c, n in state["negatives"].items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["model"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.folder.first_epoch = self.epoch


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """NumPy's scalars as Python's own: a checkpoint holds nothing that needs code to be read."""
    return {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}
