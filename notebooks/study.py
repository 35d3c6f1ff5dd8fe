"""Train the study, step by step; a stopped command resumes.

    python notebooks/study.py negatives      (or: make study)

docs/study.md is the protocol: what is asked, and what was fixed before the first run. All runs of a
seed start from the same stage-1 model and take the same number of gradient steps over the same
triplets, so the variant alone makes the difference. The primary measure is Recall@10 on val,
averaged over the categories, at the last epoch.

Each finished run is added to the tables of reports/shipped/study/GRID/WORLD, which the notebooks
plot: runs.csv (one row a run), epochs.csv, definitions.csv (means over the categories), ranks.csv
(of each val query's target at the last epoch), top5.csv (mean graded relevance of each val query's
five best images, where it is known), and manifest.json. A run with a row there is not
trained again.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from analysis.auxiliary import mean_relevance_of_five
from grids import FROZEN, GRIDS, Grid
from run import exit_with_parent
from tqdm import tqdm

from qure_lib.features.retriever import Retriever
from qure_lib.files import replacing, run_command, write_json
from qure_lib.manifest import run_manifest
from qure_lib.method.config import TrainConfig
from qure_lib.train.loop import train
from qure_lib.train.run_folder import Run
from qure_lib.train.training_data import TrainingData, load_training_data

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "reports" / "shipped" / "study"
PRIMARY = "val_r10"
# Of them top5 may be missing; runs is written last: its row says that a run is done.
TABLES = ("epochs", "definitions", "ranks", "top5", "runs")
KEY = ["variant", "seed", "settings"]  # the columns that identify a run


def departures(settings: Any) -> dict[str, Any]:
    """The settings that differ from their defaults, nested dataclasses included.

    Example:
        >>> departures(TrainConfig(n_def=3, mining=MiningConfig(search_window=100)))
        {'n_def': 3, 'mining': {'search_window': 100}}
    """
    default, changed = type(settings)(), {}
    for name in (field.name for field in fields(settings)):
        value = getattr(settings, name)
        if value != getattr(default, name):
            changed[name] = departures(value) if is_dataclass(value) else value
    return changed


def settings_key(config: TrainConfig, hashes: dict[str, str]) -> str:
    """Eight hex digits of the settings that differ from the defaults, the data and the model.

    A new setting with a default does not change them. Nor does a changed default: after one, train
    the shipped rows again.

    Args:
        hashes: of `TrainingData.hashes`.
    """
    text = json.dumps([departures(config), hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def cut(data: TrainingData, queries: int) -> TrainingData:
    """The data with only the first training queries of each category; all else is kept."""
    few = slice(queries)
    train = {c: replace(q, triplets=q.triplets[few]) for c, q in data.train.items()}
    relevance = {c: None if r is None else r[few] for c, r in data.relevance.items()}
    return replace(data, train=train, relevance=relevance)


def run_config(grid: Grid, variant: str, seed: int, folder: Path) -> TrainConfig:
    """The settings of one run; the frozen temperature is read from the tables in `folder`.

    Raises:
        ValueError: an unknown variant, or the frozen temperature of a seed whose uniform run, which
            has the same warm-up, is not there yet.
    """
    config = grid.config(variant, seed)
    if variant != FROZEN:
        return config
    learned = {}
    if tables := read(folder):
        learned = tables["epochs"].set_index(["variant", "seed", "epoch"]).temperature.to_dict()
    temperature = learned.get(("uniform", seed, config.warm_up_epochs - 1))
    if temperature is None:
        raise ValueError(f"{folder}: no uniform run of seed {seed}; {FROZEN} needs its temperature")
    temperature = round(temperature, 4)  # the rest is another processor's rounding
    return replace(config, mining=replace(config.mining, temperature=temperature))


class Experiment:
    """What all runs of a grid on a world share: data, starting model, and the folder of tables."""

    def __init__(self, grid: Grid, world: Path, checkpoint: Path, runs: Path, folder: Path) -> None:
        self.grid, self.runs, self.folder = grid, Path(runs), Path(folder)
        self.data = cut(load_training_data(world), grid.queries)
        self.retriever = Retriever.open(checkpoint, self.data.images, self.runs / "features")
        self.hashes = self.data.hashes(self.retriever)

    @property
    def mean_relevance(self) -> float | None:
        """Mean graded relevance of the corpora, that of uniform negatives; None if unknown."""
        known = [r for r in self.data.relevance.values() if r is not None]
        return float(sum(r.mean() for r in known) / len(known)) if known else None

    def key(self, variant: str, seed: int) -> tuple[str, int, str]:
        """The run's KEY: its variant, its seed, and the digits of `settings_key`."""
        config = run_config(self.grid, variant, seed, self.folder)
        return variant, seed, settings_key(config, self.hashes)

    def run(self, variant: str, seed: int) -> tuple[Run, dict[str, pd.DataFrame]]:
        """Train and evaluate one run, or open it where it was trained.

        Returns:
            The run, and its rows of each of TABLES (top5 has none if relevance is not known).
        """
        config = run_config(self.grid, variant, seed, self.folder)
        run = train(config, self.retriever, self.data, self.runs, variant)
        trained = run.retriever("last")
        per_query = self.data.evaluate(trained)
        times = [name for name in run.history if name.endswith("_s")]
        history = run.history.drop(columns=times)
        tables = {
            "epochs": history,
            "definitions": _mean_by_epoch(run.mining),
            "ranks": per_query.set_index("query_id")[["rank"]].T,
            "top5": mean_relevance_of_five(trained, self.data.val, self.data.val_relevance),
            "runs": history.tail(1).assign(seconds=run.history[times].to_numpy().sum()),
        }
        key = dict(zip(KEY, self.key(variant, seed), strict=True))
        return run, {n: pd.DataFrame(key, f.index).join(f) for n, f in tables.items()}


def _mean_by_epoch(mining: pd.DataFrame) -> pd.DataFrame:
    """Means over the categories of what each definition chose."""
    return mining.groupby("epoch").mean(numeric_only=True).reset_index()


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """A study's tables by name, without the rows of unfinished runs; empty if no run finished."""
    if not (folder / "runs.csv").is_file():
        return {}
    names = [n for n in TABLES if n != "top5" or (folder / "top5.csv").is_file()]
    tables = {name: pd.read_csv(folder / f"{name}.csv", dtype={"settings": str}) for name in names}
    finished = tables["runs"][KEY]
    return {name: finished.merge(frame, on=KEY) for name, frame in tables.items()}


def add(folder: Path, rows: dict[str, pd.DataFrame]) -> None:
    """Write one run's rows into the tables; they replace earlier ones of its variant and seed."""
    before, run = read(folder), rows["runs"].iloc[0]
    for name in (n for n in TABLES if n in rows and not rows[n].empty):
        frame = rows[name]
        if name in before:
            old = before[name]
            old = old[(old.variant != run.variant) | (old.seed != run.seed)]
            frame = pd.concat([old, frame], ignore_index=True)
        with replacing(folder / f"{name}.csv") as path:
            frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def run_step(experiment: Experiment, inputs: tuple, jobs: list, workers: int) -> None:
    """Train what is missing, each run in a process of one thread, and add its rows when it is done.

    Args:
        inputs: the arguments of `experiment`; each process makes its own from them.
        jobs: (variant, seed) of all runs.
        workers: number of processes.
    """
    folder = experiment.folder
    finished = read(folder)
    known = set(finished["runs"][KEY].itertuples(index=False, name=None)) if finished else set()
    left = [job for job in jobs if experiment.key(*job) not in known]
    print(f"{folder}: {len(jobs) - len(left)} of {len(jobs)} runs are there, {len(left)} to go")
    if not left:
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_set_up_process, initargs=inputs
    )
    try:
        waiting: dict[Future, tuple] = {pool.submit(_run_job, *job): job for job in left}
        for done in tqdm(as_completed(waiting), folder.name, len(left), unit="run"):
            try:
                add(folder, done.result())
            except ValueError as error:
                raise ValueError(f"{waiting[done]}: {error}") from error
            _write_manifest(experiment)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_manifest(experiment: Experiment) -> None:
    """Say beside the tables what they were made of."""
    grid, runs = experiment.grid, read(experiment.folder)["runs"]
    scale = {n: getattr(grid, n) for n in ("queries", "epochs", "batch_size", "learning_rate")}
    keys = runs.groupby("variant", sort=False).seed.min().items()
    manifest = run_manifest(
        world=experiment.folder.name,
        primary=PRIMARY,
        scale=scale,
        data=experiment.hashes,
        mean_relevance=experiment.mean_relevance,
        runs=len(runs),
        seconds=runs.seconds.sum(),
        threads_a_run=1,
        configs={v: run_config(grid, v, seed, experiment.folder) for v, seed in keys},
    )
    write_json(experiment.folder / "manifest.json", manifest)


def _set_up_process(*inputs: Any) -> None:
    """Give the process one thread, no output, and its own experiment."""
    global _experiment
    exit_with_parent()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    _experiment = Experiment(*inputs)


def _run_job(variant: str, seed: int) -> dict[str, pd.DataFrame]:
    """One run's rows. Its folder of tens of megabytes is deleted."""
    run, rows = _experiment.run(variant, seed)
    shutil.rmtree(run.folder)
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("grid", choices=GRIDS)
    result.add_argument("--worlds", nargs="+", metavar="WORLD", help="only these, of --data")
    result.add_argument("--only", nargs="+", metavar="VARIANT", help="only these")
    result.add_argument("--seeds", type=int, help="at most so many of each variant")
    result.add_argument("--queries", type=int, help="a category; another number is another study")
    result.add_argument("--epochs", type=int, help="likewise")
    result.add_argument("--data", type=Path, default=ROOT / "data", help="folder of the worlds")
    result.add_argument("--checkpoint", type=Path, default=ROOT / "data_prep" / "mini_stage1")
    result.add_argument("--out", type=Path, default=SHIPPED)
    result.add_argument("--runs", type=Path, default=ROOT / "runs" / "study")
    result.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    return result


def _refuse_unknown(options: argparse.Namespace, grid: Grid) -> None:
    """Exit with a message if a variant or world is not of the grid, or a number is below 1."""
    known = {"only": list(grid.variants), "worlds": list(dict.fromkeys(w for w, *_ in grid.steps))}
    for name, names in known.items():
        if unknown := sorted(set(getattr(options, name) or ()) - set(names)):
            parser().error(f"--{name} {unknown[0]}: {options.grid} has {', '.join(names)}")
    for name in ("seeds", "queries", "epochs", "workers"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser().error(f"--{name} must be at least 1, not {value}")


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    grid = GRIDS[options.grid]
    _refuse_unknown(options, grid)
    scale = {n: getattr(options, n) for n in ("queries", "epochs") if getattr(options, n)}
    grid = replace(grid, **scale)
    for world, variants, seeds in grid.steps:
        variants = variants or tuple(grid.variants)
        wanted = [v for v in variants if v in (options.only or variants)]
        if not wanted or world not in (options.worlds or [world]):
            continue
        jobs = grid.jobs(wanted, min(seeds, options.seeds or seeds))
        folder = options.out / options.grid / world
        inputs = grid, options.data / world, options.checkpoint, options.runs, folder
        run_step(Experiment(*inputs), inputs, jobs, options.workers)


if __name__ == "__main__":
    run_command(main)
