"""Train the grid of ablations, every variant with every seed; a stopped command resumes.

    python notebooks/study.py data/synthfashion-mini      (or: make study)

All runs of a seed start from the same stage-1 model and take the same number of gradient steps over
the same triplets, so the variant alone makes the difference. The primary measure was named before
any run: Recall@10 on val, averaged over the categories, at the last epoch.

Each finished run is added to the tables of reports/shipped/study/WORLD, which notebook 05 plots:
runs.csv (one row a run), epochs.csv, definitions.csv (means over the categories), ranks.csv (of
each val query's target at the last epoch), and manifest.json. A run with a row there is not trained
again.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from run import exit_with_parent
from tqdm import tqdm

from qure_lib.features.retriever import Retriever
from qure_lib.files import replacing, write_json
from qure_lib.manifest import run_manifest
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.train.loop import train
from qure_lib.train.run_folder import Run
from qure_lib.train.training_data import TrainingData, load_training_data

ROOT = Path(__file__).resolve().parents[1]
PRIMARY = "val_r10"
TABLES = ("epochs", "definitions", "ranks", "runs")  # runs last: its row says that a run is done
KEY = ["variant", "seed", "settings"]  # the columns that identify a run
PUBLISHED = "between_drops"  # the variant that is the published recipe

NEAR = MiningConfig(search_window=100)
AFTER = MiningConfig("after_target_top_k")

# Question -> variant -> what differs from the published recipe.
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "strategy": {  # Fig. 4, and in-batch contrast
        PUBLISHED: {},
        "after_target_top_k": {"mining": AFTER},
        "top_k": {"mining": MiningConfig("top_k")},
        "all_corpus": {"mining": MiningConfig("all_corpus")},
        "info_nce": {"objective": "info_nce", "mining": MiningConfig("all_corpus")},
    },
    "where drops are sought": {
        "largest": {"mining": MiningConfig(drop_rule="largest")},
        "window_100": {"mining": NEAR},
    },
    "definitions": {"n_def_3": {"n_def": 3}, "n_def_10": {"n_def": 10}},
    "negatives a query": {
        "pairs_3": {"negatives": 3},
        "pairs_5": {"negatives": 5},
        "plackett_luce_3": {"negatives": 3, "objective": "plackett_luce"},
        "plackett_luce_5": {"negatives": 5, "objective": "plackett_luce"},
    },
    "warm-up": {
        "no_warm_up": {"warm_up": False},
        "contrastive_warm_up": {"warm_up_objective": "info_nce"},
    },
    "with a window of 100": {
        "contrastive_window_100": {"warm_up_objective": "info_nce", "mining": NEAR},
        "plackett_luce_5_window_100": {
            "negatives": 5,
            "objective": "plackett_luce",
            "mining": NEAR,
        },
    },
    "contraction": {  # all right after the target; after_target_top_k has 100 throughout
        "fixed_32": {"mining": AFTER, "set_sizes": (32, 32)},
        "shrinking_100_10": {"mining": AFTER, "set_sizes": (100, 10)},
        "growing_10_100": {"mining": AFTER, "set_sizes": (10, 100)},
        "drops_fixed_32": {"set_sizes": (32, 32)},  # between the drops, at a fixed size
    },
}
BASELINES = {  # of the questions whose variants are not compared with the published recipe
    "strategy": "all_corpus",
    "with a window of 100": "window_100",
    "contraction": "fixed_32",
}
VARIANTS = {name: changes for group in QUESTIONS.values() for name, changes in group.items()}


def baseline(question: str) -> str:
    """The variant that a question's variants are compared with."""
    return BASELINES.get(question, PUBLISHED)


@dataclass(frozen=True)
class Scale:
    """How much of a world each run sees. The shipped grid took four core hours."""

    queries: int = 320  # training queries a category; the pool of negatives is not cut
    epochs: int = 12  # so that n_def of 3, 6 and 10 are three schedules
    batch_size: int = 32
    learning_rate: float = 1e-3

    def config(self, variant: str, seed: int) -> TrainConfig:
        """The settings of one run.

        Raises:
            ValueError: an unknown variant.
        """
        if variant not in VARIANTS:
            raise ValueError(f"no variant {variant!r}; there are {list(VARIANTS)}")
        rate = self.learning_rate
        base = TrainConfig(self.epochs, self.batch_size, learning_rate=rate, seed=seed)
        return replace(base, **VARIANTS[variant])

    def cut(self, data: TrainingData) -> TrainingData:
        """The data with only the first training queries of each category; all else is kept."""
        few = slice(self.queries)
        train = {c: replace(q, triplets=q.triplets[few]) for c, q in data.train.items()}
        relevance = {c: None if r is None else r[few] for c, r in data.relevance.items()}
        return replace(data, train=train, relevance=relevance)


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


class Experiment:
    """What all runs on a world share: its data, the starting model and the scale."""

    def __init__(self, world: Path, checkpoint: Path, runs: Path, scale: Scale) -> None:
        self.scale, self.runs = scale, Path(runs)
        self.data = scale.cut(load_training_data(world))
        self.retriever = Retriever.open(checkpoint, self.data.images, self.runs / "features")
        self.hashes = self.data.hashes(self.retriever)

    @property
    def mean_relevance(self) -> float | None:
        """Mean graded relevance of the corpora, that of uniform negatives; None if unknown."""
        known = [r for r in self.data.relevance.values() if r is not None]
        return float(sum(r.mean() for r in known) / len(known)) if known else None

    def key(self, variant: str, seed: int) -> tuple[str, int, str]:
        """The run's KEY: its variant, its seed, and the digits of `settings_key`."""
        return variant, seed, settings_key(self.scale.config(variant, seed), self.hashes)

    def run(self, variant: str, seed: int) -> tuple[Run, dict[str, pd.DataFrame]]:
        """Train and evaluate one run.

        Returns:
            The run, and its rows of each of TABLES.
        """
        config = self.scale.config(variant, seed)
        run = train(config, self.retriever, self.data, self.runs, variant)
        per_query = self.data.evaluate(run.retriever("last"))
        times = [name for name in run.history if name.endswith("_s")]
        history = run.history.drop(columns=times)
        tables = {
            "epochs": history,
            "definitions": run.mining.groupby("epoch").mean(numeric_only=True).reset_index(),
            "ranks": per_query.set_index("query_id")[["rank"]].T,
            "runs": history.tail(1).assign(seconds=run.history[times].to_numpy().sum()),
        }
        key = dict(zip(KEY, self.key(variant, seed), strict=True))
        return run, {n: pd.DataFrame(key, f.index).join(f) for n, f in tables.items()}


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """A study's tables by name, without the rows of unfinished runs; empty if no run finished."""
    if not (folder / "runs.csv").is_file():
        return {}
    tables = {name: pd.read_csv(folder / f"{name}.csv", dtype={"settings": str}) for name in TABLES}
    finished = tables["runs"][KEY]
    return {name: finished.merge(frame, on=KEY) for name, frame in tables.items()}


def add(folder: Path, rows: dict[str, pd.DataFrame]) -> None:
    """Write one run's rows into the tables; they replace earlier ones of its variant and seed."""
    before = read(folder)
    for name in TABLES:
        frame = rows[name]
        if before:
            run = frame[["variant", "seed"]].iloc[0]
            old = before[name]
            old = old[(old.variant != run.variant) | (old.seed != run.seed)]
            frame = pd.concat([old, frame], ignore_index=True)
        with replacing(folder / f"{name}.csv") as path:
            frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def run_study(
    experiment: Experiment, inputs: tuple, folder: Path, jobs: list, workers: int
) -> None:
    """Train what is missing, each run in a process of one thread, and add its rows when it is done.

    Args:
        inputs: the arguments of `experiment`; each process makes its own from them.
        folder: of the tables.
        jobs: (variant, seed) of all runs.
        workers: number of processes.
    """
    finished = read(folder)
    known = set(finished["runs"][KEY].itertuples(index=False, name=None)) if finished else set()
    left = [job for job in jobs if experiment.key(*job) not in known]
    print(f"{folder}: {len(jobs) - len(left)} of {len(jobs)} runs are there, {len(left)} to go")
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
    finally:
        pool.shutdown(cancel_futures=True)


def _set_up_process(*inputs: Any) -> None:
    """Give the process one thread, no output, and its own experiment."""
    global _experiment
    exit_with_parent()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _experiment = Experiment(*inputs)


def _run_job(variant: str, seed: int) -> dict[str, pd.DataFrame]:
    """One run's rows. Its folder of tens of megabytes is deleted."""
    run, rows = _experiment.run(variant, seed)
    shutil.rmtree(run.folder)
    return rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("worlds", type=Path, nargs="+", help="data sets in FashionIQ's layout")
    result.add_argument("--only", nargs="+", default=list(VARIANTS), metavar="VARIANT")
    result.add_argument("--seeds", type=int, default=5, help="1000, 1001, ...")
    result.add_argument("--queries", type=int, default=Scale.queries, help="a category")
    result.add_argument("--epochs", type=int, default=Scale.epochs)
    result.add_argument("--checkpoint", type=Path, default=ROOT / "data_prep" / "mini_stage1")
    result.add_argument("--out", type=Path, default=ROOT / "reports" / "shipped" / "study")
    result.add_argument("--runs", type=Path, default=ROOT / "runs" / "study")
    result.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    return result


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    scale = Scale(options.queries, options.epochs)
    seeds = range(1000, 1000 + options.seeds)
    # Variant by variant, so that no two processes train the same seed's warm-up at once.
    jobs = [(variant, seed) for variant in options.only for seed in seeds]
    for world in options.worlds:
        inputs = world, options.checkpoint, options.runs, scale
        experiment, folder = Experiment(*inputs), options.out / world.name
        run_study(experiment, inputs, folder, jobs, options.workers)
        runs = read(folder)["runs"]
        manifest = run_manifest(
            world=world.name,
            primary=PRIMARY,
            scale=scale,
            data=experiment.hashes,
            mean_relevance=experiment.mean_relevance,
            runs=len(runs),
            seconds=runs.seconds.sum(),
            threads_a_run=1,
            configs={variant: scale.config(variant, seeds[0]) for variant in runs.variant.unique()},
        )
        write_json(folder / "manifest.json", manifest)


if __name__ == "__main__":
    main()
