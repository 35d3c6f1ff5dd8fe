"""The published training loop: define, draw, step, validate."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from qure_lib import processes
from qure_lib.device import autocast, describe_device
from qure_lib.evaluation.metrics import recall_at_k
from qure_lib.features.reading import place_features
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import PRECISIONS, TrainConfig
from qure_lib.method.losses import Objective, find_objective, with_auxiliary_positives
from qure_lib.method.negatives import HardNegativeSet
from qure_lib.method.strategies import check_strategy

from .definition import define_hard_negatives, excluded_references
from .execution import Encoder, Execution
from .progress import Progress, set_seed
from .run_folder import Run, RunFolder
from .training_data import TrainingData

CHECKED = 50  # steps on a GPU between two looks at the loss, each of which waits for the GPU


def train(
    config: TrainConfig,
    retriever: Retriever,
    data: TrainingData,
    runs: str | Path,
    name: str,
    execution: Execution | None = None,
) -> Run:
    """Train by the published recipe; resume or open the same run where it is there.

    The run lives in `runs/name-fingerprint` (`RunFolder`). A CPU run repeated with the same seed
    and threads gives the same bits, interrupted or not. Runs that differ only in what follows the
    warm-up share it: the first one leaves it in `runs`, the others go on from there.

    Args:
        retriever: its model is where training starts; it is not changed.

    Raises:
        ValueError: an unknown strategy, too few queries for the objective, or a damaged checkpoint.

    Source: QuRe, arXiv:2507.12416, Algorithm 1; docs/method.md for what the release does.
    """
    check_strategy(config.mining)
    execution = execution or Execution()
    folder = RunFolder(Path(runs), name, config, data.hashes(retriever))
    loop = Loop(config, retriever.copy(), data, folder)
    with folder.opened():
        loop.resume()
        left = range(loop.epoch, config.epochs)
        if left:
            loop.prepare(execution)
        quiet = not left or not processes.is_main()
        for epoch in tqdm(left, desc=name, unit="epoch", mininterval=1.0, disable=quiet):
            row = loop.run_epoch(epoch)
            if execution.on_epoch is not None:
                execution.on_epoch(row)
        run = Run(folder.path, pd.DataFrame(loop.history), pd.DataFrame(loop.mining), retriever)
        if processes.is_main():
            folder.complete(loop.retriever, run, loop.devices, data)
        processes.wait_for_all()
        return run


class Loop:
    """The state of one training run: everything that a checkpoint holds."""

    def __init__(
        self, config: TrainConfig, retriever: Retriever, data: TrainingData, folder: RunFolder
    ) -> None:
        self.config, self.retriever, self.data, self.folder = config, retriever, data, folder
        self.model, self.device = retriever.model, retriever.device
        self.on_gpu = self.device.type == "cuda"
        self.parameters = self.model.trainable_parameters()
        settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        settings["fused"] = self.on_gpu or None  # the fused one need not wait for the scaler
        self.optimizer = torch.optim.AdamW(self.parameters.values(), **settings)
        self.dtype = PRECISIONS[config.precision if self.on_gpu else "fp32"]
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)
        self.encoder = Encoder(self.model, compiled=False)
        self.triplets = [t for q in data.train.values() for t in q.triplets]
        used = {config.objective_at(epoch) for epoch in (0, config.warm_up_epochs)}
        if len(self.triplets) < 2 and not all(find_objective(n).needs_negatives for n in used):
            raise ValueError("in-batch contrast needs at least two training queries; there is one")
        tokens = retriever.tokenize([t.caption for t in self.triplets])
        self.input_ids, self.attention_mask = tokens
        self.caption_lengths = self.attention_mask.sum(dim=1).cpu()
        self.negatives = {
            c: HardNegativeSet.uniform(
                q.target_positions, len(q.corpus), excluded_references(q, config)
            )
            for c, q in data.train.items()
        }
        self.positives: dict[str, HardNegativeSet] = {}  # auxiliary ones, once they are mined
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.mining: list[dict[str, Any]] = []
        self.devices: list[str] = []  # that epochs were trained on
        self.progress = Progress()  # within an epoch
        self.save_after, self.saved = math.inf, monotonic()  # seconds, within an epoch

    def prepare(self, execution: Execution) -> None:
        """Put the features where steps read them, choose how steps run, and say so."""
        name = describe_device(self.device)
        if name not in self.devices:
            self.devices.append(name)
        said = [f"{self.folder.name}: on {name}, {torch.get_num_threads()} threads"]
        if self.on_gpu:
            said = [f"{self.folder.name}: on {name}, {self.config.precision}"]
            features, where = place_features(
                self.retriever.features, self.device, execution.features
            )
            precision = PRECISIONS[self.config.embed_precision]
            self.retriever = replace(self.retriever, features=features, precision=precision)
            said.append(where)
        self.save_after, self.saved = 60 * execution.checkpoint_minutes, monotonic()
        steps = len(self.triplets) // self.config.batch_size * (self.config.epochs - self.epoch)
        compiled = execution.compiles(self.device, steps)
        self.encoder = Encoder(self.model, compiled)
        if compiled:
            said.append("the step is compiled at its first call, a minute or two")
        if processes.is_main():
            tqdm.write("; ".join(said))

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Define if it is time, step through the queries, validate. Returns the history's row.

        An epoch that was begun goes on after its last saved step.
        """
        started, seconds = perf_counter(), self.progress.seconds
        generator = set_seed(self.config.seed * 1_000_003 + epoch, processes.rank_and_count()[0])
        rate = self.config.learning_rate_at(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if epoch in self.config.definition_epochs and not self.progress.steps:
            self.define(epoch)
        seconds["mining"] += perf_counter() - started
        row = {"epoch": epoch} | self.take_steps(epoch, generator) | {"learning_rate": rate}
        trained = perf_counter()
        row |= {"temperature": self.model.temperature.item()} | self.validate()
        row |= {"mining_s": seconds["mining"], "training_s": seconds["training"]}
        row["val_s"] = perf_counter() - trained
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
        if config.auxiliary_positives:
            auxiliary = replace(config.mining, strategy="before_first_drop", set_size=None)
            config = replace(config, mining=auxiliary, auxiliary_positives=False)
            mined = define_hard_negatives(self.retriever, self.data, config)
            self.positives = {c: positives for c, (positives, _) in mined.items()}
        if processes.is_main():
            self.folder.save_definition(epoch, pd.concat(frames), self.parameters)

    def draw(self, epoch: int, generator: torch.Generator) -> list[list[str]]:
        """The image ids of every triplet's negatives, after its auxiliary positive if there is one.

        Negatives are distinct where a set holds so many.
        """
        count = self.config.negatives if epoch >= self.config.warm_up_epochs else 1
        drawn = []
        for category, queries in self.data.train.items():
            positions = self.negatives[category].sample(generator, count)
            if self.positives:
                auxiliary = self.positives[category].sample_positives(generator)
                positions = torch.cat([auxiliary, positions], dim=1)
            drawn += [[queries.corpus.image_ids[p] for p in row] for row in positions.tolist()]
        return drawn

    def take_steps(self, epoch: int, generator: torch.Generator) -> dict[str, float]:
        """One pass over the triplets. Returns the mean loss, and the gradient's mean norm.

        Raises:
            ValueError: the loss is not finite or the temperature not above 0 (a GPU is asked every
                CHECKED steps).
        """
        negatives = self.draw(epoch, generator)
        objective = find_objective(self.config.objective_at(epoch))
        if self.positives:
            objective = with_auxiliary_positives(objective)
        if not objective.needs_negatives:
            negatives = [[] for _ in negatives]
        self.model.train()
        order = torch.randperm(len(self.triplets), generator=generator)
        batches = list(order.split(self.config.batch_size))
        if not objective.needs_negatives and len(batches[-1]) == 1:
            self._join_last(batches)
        progress, started = self.progress, perf_counter() - self.progress.seconds["training"]
        batches = batches[progress.steps :]
        features = self.retriever.stream_features([self._images_of(b, negatives) for b in batches])
        sums = progress.sums.to(self.device)
        progress.restore_generators()
        bar = tqdm(batches, leave=False, mininterval=1.0, disable=not processes.is_main())
        for number, (batch, images) in enumerate(zip(bar, features, strict=True), 1):
            loss, norm = self._step(batch, images, objective)
            finite = norm.isfinite()  # fp16 skips a step that overflows
            parts = loss.double() * len(batch), norm.where(finite, 0.0).double(), finite.double()
            sums += torch.stack(parts)
            if number == len(batches) or number % (CHECKED if self.on_gpu else 1) == 0:
                self._check(sums)
                progress.seconds["training"] = perf_counter() - started
                if number < len(batches):
                    self._save_if_due(progress.steps + number, sums)
        loss, norm, count = sums.tolist()
        mean = norm / count if count else math.nan
        return {"loss": loss / len(self.triplets), "gradient_norm": mean}

    def _save_if_due(self, steps: int, sums: Tensor) -> None:
        """Write a checkpoint within the epoch if the last one is old enough."""
        if not processes.as_main_says(monotonic() - self.saved >= self.save_after):
            return
        self.progress.keep_generators()
        if processes.is_main():
            now = replace(self.progress, steps=steps, sums=sums.cpu())
            self.folder.save(self.retriever, self.state() | {"progress": asdict(now)})
        self.saved = monotonic()

    def _check(self, sums: Tensor) -> None:
        if not math.isfinite(sums[0].item()):
            raise ValueError("the loss is not finite; lower the learning rate")
        if not 0 < (temperature := self.model.temperature.item()) < math.inf:
            raise ValueError(
                f"the temperature is {temperature:g}, not above 0; lower the learning rate"
            )

    def _step(self, batch: Tensor, images: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """One step on a batch. Returns its loss and the gradient's norm, on the device."""

        def forward_and_backward() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.dtype):
                queries, targets, negatives = self._embed(batch, images)
                loss = objective.function(queries, targets, negatives, self.model.temperature)
            self.scaler.scale(loss).backward()
            return loss.detach()

        loss = self.encoder.attempt(forward_and_backward)
        processes.average_gradients(self.parameters.values())
        norm = self._gradient_norm()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, norm

    def _gradient_norm(self) -> Tensor:
        """Of all parameters together, without the scaler's factor."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm / self.scaler.scale(torch.ones_like(norm))

    def _join_last(self, batches: list[Tensor]) -> None:
        """Join a last batch of one query to the one before: contrast within it would be 0."""
        batches[-2:] = [torch.cat(batches[-2:])]
        if processes.is_main():
            tqdm.write(
                f"{len(self.triplets)} queries leave a last batch of one, which in-batch contrast "
                f"cannot use: it joins the batch before, of {len(batches[-1])} then"
            )

    def _images_of(self, batch: Tensor, negatives: list[list[str]]) -> list[str]:
        """This process's references, targets and negatives of a batch."""
        mine = batch[processes.share(len(batch))].tolist()
        triplets = [self.triplets[i] for i in mine]
        ids = [t.reference for t in triplets] + [t.target for t in triplets]
        return ids + [image_id for i in mine for image_id in negatives[i]]

    def _embed(self, batch: Tensor, features: Tensor) -> list[Tensor]:
        """(B, D) queries, (B, T, D) targets and (B, K, T, D) negatives, whole on every process.

        Each process encodes its share.

        Args:
            features: (b + b + b K, P, C) of this process's references, targets and negatives.
        """
        size, batch = len(batch), batch[processes.share(len(batch))]
        count = len(batch)
        static = size == self.config.batch_size
        rows = batch.to(self.device, non_blocking=True)
        length = self.input_ids.shape[1]
        if not (static and self.encoder.is_compiled):
            length = int(self.caption_lengths[batch].max())
        tokens = self.input_ids[rows, :length], self.attention_mask[rows, :length]
        queries, images = self.encoder(static, features[:count], *tokens, features[count:])
        targets, images = images[:count], images[count:]
        images = images.unflatten(0, (count, len(images) // count))
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
        self.epoch, self.progress = row["epoch"] + 1, Progress()
        if processes.is_main():
            self.folder.log("training", row, row["epoch"])
            self.folder.save(self.retriever, self.state(), best)
        self.saved = monotonic()

    def state(self) -> dict[str, Any]:
        """All that `resume` needs."""
        return {
            "epoch": self.epoch,
            "history": self.history,
            "mining": self.mining,
            "negatives": {c: asdict(n) for c, n in self.negatives.items()},
            "positives": {c: asdict(n) for c, n in self.positives.items()},
            "model": {n: p.detach() for n, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "devices": self.devices,
            "progress": asdict(self.progress),
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
        for name in ("negatives", "positives"):
            setattr(self, name, {c: HardNegativeSet(**n) for c, n in state[name].items()})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["model"][name])
        for saved in state["optimizer"]["param_groups"]:  # the run may have begun elsewhere
            saved["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:  # empty where it was not enabled
            self.scaler.load_state_dict(state["scaler"])
        self.devices, self.progress = list(state["devices"]), Progress(**state["progress"])
        self.folder.first_epoch = self.epoch


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """NumPy's scalars as Python's own: a checkpoint holds nothing that needs code to be read."""
    return {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}
