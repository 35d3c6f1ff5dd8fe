"""The whole grid of ablations: every variant with every seed, as one command that can be resumed.

    python notebooks/study.py data/synthfashion-mini      (or: make study)

All runs of a seed start from the same stage-1 model and take the same number of gradient steps over
the same triplets, so that a difference is the variant's doing. The primary measure was named before
any run: Recall@10 on val, averaged over the categories, at the last epoch.

Each finished run is added to the tables of reports/shipped/study/WORLD, which notebook 05 plots:
runs.csv (a row a run), epochs.csv, definitions.csv (means over the categories), ranks.csv (of each
val query's target at the last epoch), with manifest.json. A run whose row is there is not repeated.
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

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from qure_lib.config import MiningConfig, TrainConfig
from qure_lib.embeddings import Retriever
from qure_lib.evaluation import evaluate_fashioniq
from qure_lib.files import replacing
from qure_lib.processes import exit_with_parent
from qure_lib.runs import run_manifest, write_json
from qure_lib.statistics import Interval, bootstrap_ci, paired_bootstrap
from qure_lib.train import Run, TrainingData, data_hashes, load_training_data, train

ROOT = Path(__file__).resolve().parents[1]
PRIMARY = "val_r10"
TABLES = ("epochs", "definitions", "ranks", "runs")  # a run counts once the last has its row
KEY = ["variant", "seed", "settings"]

NEAR = MiningConfig(search_window=100)
AFTER = MiningConfig("after_target_top_k")

# Question -> variant -> what differs from the published recipe, which is `between_drops`.
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "strategy": {  # Fig. 4, and in-batch contrast
        "between_drops": {},
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
    "contraction": {  # one place, right after the target; after_target_top_k stays at 100
        "fixed_32": {"mining": AFTER, "set_sizes": (32, 32)},
        "shrinking_100_10": {"mining": AFTER, "set_sizes": (100, 10)},
        "growing_10_100": {"mining": AFTER, "set_sizes": (10, 100)},
        "drops_fixed_32": {"set_sizes": (32, 32)},  # QuRe's place, a size that stays
    },
}
BASELINES = {  # what a question's variants are compared with, if not the published recipe
    "strategy": "all_corpus",
    "with a window of 100": "window_100",
    "contraction": "fixed_32",
}
VARIANTS = {name: changes for group in QUESTIONS.values() for name, changes in group.items()}


@dataclass(frozen=True)
class Scale:
    """How much of a world each run sees. The defaults let the grid fit an hour on two cores."""

    queries: int = 320  # training queries a category; the pool of negatives stays whole
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
        """The first training queries of each category, and everything else."""
        few = slice(self.queries)
        train = {c: replace(q, triplets=q.triplets[few]) for c, q in data.train.items()}
        relevance = {c: None if r is None else r[few] for c, r in data.relevance.items()}
        return replace(data, train=train, relevance=relevance)


def departures(settings: Any) -> dict[str, Any]:
    """What a settings dataclass has that its defaults have not, in nested ones likewise.

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
    """Eight hex digits of what differs from the defaults, and of the data and starting weights.

    A setting that is added with a default leaves them as they are; a default that is changed does
    not show in them, so that the shipped rows must then be made again.
    """
    text = json.dumps([departures(config), hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Bench:
    """A world, a starting model and a scale: what every run of a study has in common."""

    def __init__(self, world: Path, checkpoint: Path, runs: Path, scale: Scale) -> None:
        self.scale, self.runs = scale, Path(runs)
        self.data = scale.cut(load_training_data(world))
        self.retriever = Retriever.open(checkpoint, self.data.images, self.runs / "features")
        self.start = {n: v.clone() for n, v in self.retriever.model.state_dict().items()}
        self.hashes = data_hashes(self.retriever, self.data)

    @property
    def mean_relevance(self) -> float | None:
        """Graded relevance of the corpus, which uniform negatives have; None if it is not known."""
        known = [r for r in self.data.relevance.values() if r is not None]
        return float(sum(r.mean() for r in known) / len(known)) if known else None

    def key(self, variant: str, seed: int) -> tuple[str, int, str]:
        """Variant, seed, and eight hex digits that change with any setting, data or weights."""
        return variant, seed, settings_key(self.scale.config(variant, seed), self.hashes)

    def run(self, variant: str, seed: int) -> tuple[Run, dict[str, pd.DataFrame]]:
        """Train and evaluate one run; the run, and its rows of every table."""
        self.retriever.model.load_state_dict(self.start)
        config = self.scale.config(variant, seed)
        run = train(config, self.retriever, self.data, self.runs, variant)
        per_query = evaluate_fashioniq(self.retriever, self.data.val)
        times = [name for name in run.history if name.endswith("_s")]
        last = run.history.drop(columns=times).tail(1)
        tables = {
            "epochs": run.history.drop(columns=times),
            "definitions": run.mining.groupby("epoch").mean(numeric_only=True).reset_index(),
            "ranks": per_query.set_index("query_id")[["rank"]].T,
            "runs": last.assign(seconds=run.history[times].to_numpy().sum()),
        }
        key = dict(zip(KEY, self.key(variant, seed), strict=True))
        return run, {n: pd.DataFrame(key, f.index).join(f) for n, f in tables.items()}


def interval(hits: pd.DataFrame, variant: str, less: str | None = None) -> Interval:
    """The mean of a variant's hits, or its difference from another's, over seeds and queries.

    Args:
        hits: one row a (variant, seed), one column a val query ("shirt/val/12"), any measure;
            every category counts the same.
        less: a variant to subtract, on the seeds that both have.

    Returns:
        The 95 % interval, resampling seeds and queries at once; a PairedDifference with `less`.
    """
    names = [variant] if less is None else [variant, less]
    common = sorted(set.intersection(*(set(hits.loc[name].index) for name in names)))
    category = hits.columns.str.split("/").str[0]
    weights = np.tile(1 / category.map(category.value_counts()), len(common))
    over = [np.repeat(common, hits.shape[1]), np.tile(np.arange(hits.shape[1]), len(common))]
    values = [hits.loc[name].loc[common].to_numpy().ravel() for name in names]
    if less is None:
        return bootstrap_ci(*values, weights, over)
    return paired_bootstrap(*values, (weights, weights), over)


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """A study's tables by name; rows of runs that did not finish are left out, all if none did."""
    if not (folder / "runs.csv").is_file():
        return {}
    tables = {name: pd.read_csv(folder / f"{name}.csv", dtype={"settings": str}) for name in TABLES}
    finished = tables["runs"][KEY]
    return {name: finished.merge(frame, on=KEY) for name, frame in tables.items()}


def add(folder: Path, rows: dict[str, pd.DataFrame]) -> None:
    """Add one run's rows to the tables, in place of the same variant's and seed's earlier ones."""
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


def run_study(bench: Bench, arguments: tuple, folder: Path, jobs: list, workers: int) -> None:
    """Run (variant, seed) jobs in processes of one thread each, adding each one's rows when done.

    Args:
        arguments: what `bench` was made of; each process makes its own.
    """
    finished = read(folder)
    known = set(finished["runs"][KEY].itertuples(index=False, name=None)) if finished else set()
    left = [job for job in jobs if bench.key(*job) not in known]
    print(f"{folder}: {len(jobs) - len(left)} of {len(jobs)} runs are there, {len(left)} to go")
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_open, initargs=arguments
    )
    try:
        waiting: dict[Future, tuple] = {pool.submit(_work, *job): job for job in left}
        for done in tqdm(as_completed(waiting), folder.name, len(left), unit="run"):
            try:
                add(folder, done.result())
            except ValueError as error:
                raise ValueError(f"{waiting[done]}: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _open(*arguments: Any) -> None:
    """Set a process up: one thread, no output of its own, and the bench."""
    global _bench
    exit_with_parent()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _bench = Bench(*arguments)


def _work(variant: str, seed: int) -> dict[str, pd.DataFrame]:
    run, rows = _bench.run(variant, seed)
    shutil.rmtree(run.folder)  # tens of megabytes a run, and its rows are what is wanted
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
    for world in options.worlds:
        inputs = world, options.checkpoint, options.runs, scale
        bench, folder = Bench(*inputs), options.out / world.name
        # Variant by variant, so that no two processes train the same seed's warm-up at once.
        jobs = [(variant, seed) for variant in options.only for seed in seeds]
        run_study(bench, inputs, folder, jobs, options.workers)
        runs = read(folder)["runs"]
        manifest = run_manifest(
            world=world.name,
            primary=PRIMARY,
            scale=scale,
            data=bench.hashes,
            mean_relevance=bench.mean_relevance,
            runs=len(runs),
            seconds=runs.seconds.sum(),
            threads_a_run=1,
            configs={variant: scale.config(variant, seeds[0]) for variant in runs.variant.unique()},
        )
        write_json(folder / "manifest.json", manifest)


if __name__ == "__main__":
    main()
