"""The folder of a run: checkpoint, resume, best epoch, shared warm-up, history, manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from qure_lib import processes
from qure_lib.code_in_use import describe_code
from qure_lib.evaluation.protocol import Training
from qure_lib.features.model_folder import load_trained
from qure_lib.features.retriever import Retriever
from qure_lib.files import (
    check_name,
    file_sha256,
    read_json,
    replacing,
    restore,
    to_plain,
    write_json,
)
from qure_lib.manifest import run_manifest
from qure_lib.method.config import TrainConfig
from qure_lib.method.losses import OBJECTIVES
from qure_lib.method.strategies import STRATEGIES

from .checkpoints import load_checkpoint, previous, save_checkpoint, set_damaged_aside
from .training_data import TrainingData

CARD = Path(__file__).with_name("model_card.md.j2")
# All that the epochs before the first definition depend on, beside their objective and the data.
WARM_UP_SETTINGS: tuple[str, ...] = ("epochs", "batch_size", "learning_rate", "weight_decay")
WARM_UP_SETTINGS += ("warm_up_epochs", "min_learning_rate_ratio", "precision", "embed_precision")
WARM_UP_SETTINGS += ("seed", "memory", "exclude_reference")


@dataclass(frozen=True)
class Run:
    """A finished run. history: one row an epoch; mining: one row a definition and category.

    Files: run.json (manifest), history.csv, mining.csv, last/ and best/ (models, whose frozen tower
    is vision_encoder.safetensors beside them), definitions/ (trained weights and per-query figures
    at each definition), checkpoint.pt, and tensorboard/ (both frames as event files).

    start: the retriever that the run started from, unchanged.
    """

    folder: Path
    history: pd.DataFrame
    mining: pd.DataFrame
    start: Retriever

    def retriever(self, stage: str | int) -> Retriever:
        """A retriever with the weights of a stage, and the frozen features of the start.

        Args:
            stage: "last", "best", or an epoch at which negatives were defined.

        Raises:
            ValueError: no such stage, or its file is damaged or belongs to another model.
        """
        if isinstance(stage, str):
            path = self.folder / check_name(stage, "stage") / "model.safetensors"
        else:
            path = self.folder / "definitions" / f"epoch_{stage:02d}.safetensors"
        retriever = self.start.copy()
        load_trained(path, retriever.model)
        return retriever

    def mined(self, epoch: int) -> pd.DataFrame:
        """The mining report's per-query rows of the definition at `epoch`."""
        return pd.read_csv(self.folder / "definitions" / f"epoch_{epoch:02d}.csv")


class RunFolder:
    """The files of one run, `runs/name-fingerprint`. Rank 0 alone writes them.

    The fingerprint covers the settings, data, starting model and the code in use, so that a change
    of any starts a run of its own.

    Raises:
        ValueError: the name would lead out of `runs`.
    """

    def __init__(self, runs: Path, name: str, config: TrainConfig, hashes: dict[str, str]) -> None:
        self.name, self.config, self.hashes = check_name(name, "run name"), config, hashes
        objectives = {config.objective_at(e) for e in (0, config.warm_up_epochs)}
        used = {o: describe_code(OBJECTIVES[o]) for o in sorted(objectives)}
        used["strategy"] = describe_code(STRATEGIES[config.mining.strategy])
        self.path = runs / f"{name}-{fingerprint(config=config, data=hashes, used=used)}"
        shared = {setting: getattr(config, setting) for setting in WARM_UP_SETTINGS}
        first = config.objective_at(0)
        mark = fingerprint(config=shared, objective=[first, used[first]], data=hashes)
        self.warm_up = runs / f"warm_up-{mark}"  # what follows it cannot have changed it
        self.checkpoint = self.path / "checkpoint.pt"
        self.tower = self.path / "vision_encoder.safetensors"  # once for all models of the run
        self.first_epoch = 0  # of this process: 0, or where it resumed
        self.saver = ThreadPoolExecutor(1)
        self.saving: Future[None] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the run's lock; close TensorBoard's files at the end."""
        with exclusive(self.path):
            restore(self.path / "best")
            try:
                yield
                self.finish_saving()
            finally:
                self.saver.shutdown()
                if "events" in vars(self):
                    self.events.close()

    def load(self) -> dict[str, Any] | None:
        """The state to go on from: the run's checkpoint, or its warm-up's; None to start afresh."""
        if processes.is_main():
            set_damaged_aside(self.checkpoint)
            if not self.checkpoint.exists() and self.warm_up.exists():
                with replacing(self.path) as scratch:
                    shutil.copytree(self.warm_up, scratch)
        processes.wait_for_all()
        return load_checkpoint(self.checkpoint) if self.checkpoint.exists() else None

    def save_definition(
        self, epoch: int, per_query: pd.DataFrame, parameters: Mapping[str, Tensor]
    ) -> None:
        """Keep one definition: its figures by query, and the weights that it was mined with."""
        stem = self.path / "definitions" / f"epoch_{epoch:02d}"
        with replacing(stem.with_suffix(".csv")) as path:
            per_query.to_csv(path, index=False)
        with replacing(stem.with_suffix(".safetensors")) as path:
            save_file({n: p.detach().clone() for n, p in parameters.items()}, path)

    def save(self, retriever: Retriever, state: dict[str, Any], best: bool = False) -> None:
        """Write the model if it is the best so far, and the atomic checkpoint last.

        A GPU goes on: a thread writes what is copied there. The next call waits for it.
        """
        self.finish_saving()
        if retriever.device.type != "cuda":
            return self._save(retriever, state, best)
        self.saving = self.saver.submit(self._save, retriever.copy(), deepcopy(state), best)

    def finish_saving(self) -> None:
        """Wait for the thread that `save` may have left writing; raises what it raised."""
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.result()

    def _save(self, retriever: Retriever, state: dict[str, Any], best: bool) -> None:
        if best:
            retriever.save(self.path / "best", self.tower)
        save_checkpoint(self.checkpoint, state)
        warm = state["epoch"] == self.config.warm_up_epochs < self.config.epochs
        if warm and not state["progress"]["steps"]:
            with exclusive(self.warm_up):
                if not self.warm_up.exists():
                    kept = shutil.ignore_patterns(".*", previous(self.checkpoint).name)
                    with replacing(self.warm_up) as scratch:
                        shutil.copytree(self.path, scratch, ignore=kept)

    def complete(
        self, retriever: Retriever, run: Run, devices: list[str], data: TrainingData
    ) -> None:
        """Write what a finished run has, where it is not there; devices: where it was trained."""
        self.finish_saving()
        if not (self.path / "last").exists():
            retriever.save(self.path / "last", self.tower)
        for file, frame in (("history.csv", run.history), ("mining.csv", run.mining)):
            with replacing(self.path / file) as path:
                frame.to_csv(path, index=False)
        if not (self.path / "run.json").exists():
            splits = {"train": data.train, "val": data.val}
            manifest = run_manifest(
                name=self.name,
                config=self.config,
                data=self.hashes,
                protocol=data.protocol,
                queries={s: {c: len(q) for c, q in sets.items()} for s, sets in splits.items()},
                features_made_by=retriever.features.made_by,
                trained_on=devices,
                seconds=run.history[["mining_s", "training_s", "val_s"]].sum().to_dict(),
                processes=processes.rank_and_count()[1],
            )
            write_json(self.path / "run.json", manifest)
        self.write_cards(run.history, data.training)

    def write_cards(self, history: pd.DataFrame, training: Training) -> None:
        """Describe best/ and last/ by the manifest, in a README.md each that is not there yet."""
        best = history[[f"val_{measure}" for measure in training.select_by]].sum(axis=1).idxmax()
        manifest = read_json(self.path / "run.json", dict)
        for stage, row in {"best": history.loc[best], "last": history.iloc[-1]}.items():
            values = {"manifest": manifest, "stage": stage, "row": row, "of": training.measures}
            card = ModelCard.from_template(ModelCardData(), str(CARD), **values)
            if not (path := self.path / stage / "README.md").exists():
                with replacing(path) as scratch:
                    card.save(scratch)

    @cached_property
    def events(self) -> Any:
        """TensorBoard's writer; hides what an interrupted run wrote beyond its checkpoint."""
        from torch.utils.tensorboard import SummaryWriter  # seconds to import

        return SummaryWriter(self.path / "tensorboard", purge_step=self.first_epoch)

    def log(self, group: str, row: dict[str, Any], epoch: int) -> None:
        """Write a row's numbers to TensorBoard's event files."""
        for name, value in row.items():
            if not isinstance(value, str):
                self.events.add_scalar(f"{group}/{name}", value, epoch)
        self.events.flush()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock: of processes that want the same run one trains it, others open it."""
    if not processes.is_main():  # rank 0 holds it for all ranks
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tqdm.write(f"{folder.name}: another process is training this run; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fingerprint(**parts: Any) -> str:
    """Eight hex digits that change with any part, or with the code that makes a run's results."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=to_plain).encode())
    root = Path(__file__).parents[1]
    for source in sorted(root.rglob("*.py")):
        if source.relative_to(root).parts[0] != "reporting":  # it changes no result
            digest.update(file_sha256(source).encode())
    return digest.hexdigest()[:8]
