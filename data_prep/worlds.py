"""Measure the worlds of SynthFashion by criteria that were written down before.

    python -m data_prep.worlds      (adds new worlds to data_prep/worlds.csv; two minutes a world)

worlds.md explains CRITERIA. worlds.csv is the log of all worlds that were tried: a row is replaced
if the same world is measured again, and never removed. No strategy for negatives is trained here:
worlds are judged before any strategy is trained on them.
"""

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep import synthfashion
from data_prep.catalogue import WORLDS
from qure_lib.features.retriever import Retriever
from qure_lib.files import replacing, run_command
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.train.definition import define_hard_negatives
from qure_lib.train.loop import train
from qure_lib.train.progress import set_seed
from qure_lib.train.training_data import TrainingData, load_training_data

HERE = Path(__file__).parent
SIZE, SEED = "tried", 0  # the train split is that of size mini
WARM_UPS = {"published": "bradley_terry", "contrastive": "info_nce"}  # name -> objective
EPOCHS, LEARNING_RATE = 3, 1e-3
# Written down before any world but the default was measured.
CRITERIA = {  # column -> kind of world -> (at least, at most)
    "score_skewness": {"right": (0.2, np.inf), "left": (-np.inf, -0.2)},
    "gap_top_over_bottom": {"right": (1.0, np.inf), "left": (0.0, 1.0)},
    "target_rank_percent": {"right": (0.0, 1.0), "left": (0.0, 1.0)},
    "false_negative_percent": {"right": (0.0, 2.0), "left": (0.0, 5.0)},
}
SHAPE = [column for column in CRITERIA if column != "target_rank_percent"]  # why: worlds.md


def measure(name: str, checkpoint: Path, data_root: Path, runs: Path) -> list[dict]:
    """Figures of a world's train queries: one row for the stage-1 model and for each warm-up."""
    root = data_root / f"synthfashion-{name}-{SIZE}"
    synthfashion.prepare(root, SIZE, SEED, world=name)
    data = load_training_data(root)
    retriever = Retriever.open(checkpoint, data.images, runs / "features")
    about = {"world": name} | asdict(WORLDS[name]) | graded_figures(data)
    rows = [about | {"warm_up": "none"} | score_figures(retriever, data)]
    for warm_up, objective in WARM_UPS.items():
        set_seed(SEED)
        uniform = MiningConfig(strategy="all_corpus")
        config = TrainConfig(
            EPOCHS, learning_rate=LEARNING_RATE, n_def=1, objective=objective, mining=uniform
        )
        run = train(config, retriever, data, runs, f"world-{name}-{warm_up}")
        rows.append(about | {"warm_up": warm_up} | score_figures(run.retriever("last"), data))
    return rows


def graded_figures(data: TrainingData) -> dict[str, float]:
    """Figures of the annotations alone: skewness of graded relevance, share of false negatives."""
    skewness, share = [], []
    for category, relevance in data.relevance.items():
        centred = relevance.double() - relevance.double().mean(dim=1, keepdim=True)
        moments = ((centred**k).mean(dim=1) for k in (3, 2))
        third, second = moments
        skewness.append((third / second**1.5).mean().item())
        targets = data.train[category].target_positions[:, None]
        others = (relevance >= relevance.gather(1, targets)).sum(dim=1) - 1
        share.append(100 * others.double().mean().item() / (relevance.shape[1] - 1))
    return {"relevance_skewness": np.mean(skewness), "false_negative_percent": np.mean(share)}


def score_figures(retriever: Retriever, data: TrainingData) -> dict[str, float]:
    """Figures of the model's score curves: means over the categories."""
    mined = define_hard_negatives(retriever, data, TrainConfig())
    rows = pd.DataFrame([report.summary() for _, report in mined.values()])
    rank = 100 * rows["target_rank_median"] / rows["corpus_size"]
    gaps = rows["gap_top_tenth"] / rows["gap_bottom_tenth"]
    return {
        "score_skewness": rows["score_skewness"].mean(),
        "gap_top_over_bottom": gaps.mean(),
        "target_rank_percent": rank.mean(),
        "window_start_percent": 100 * rows["window_start_fraction"].mean(),
        "set_size_median": rows["set_size_median"].mean(),
    }


def judge(row: pd.Series, columns: Iterable[str] = CRITERIA) -> str:
    """Judge a row by the CRITERIA of these columns: "right"-skewed, "left"-skewed or "neither"."""
    for kind in ("right", "left"):
        bounds = {column: CRITERIA[column][kind] for column in columns}
        if all(low <= row[column] <= high for column, (low, high) in bounds.items()):
            return kind
    return "neither"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "worlds", nargs="*", help="names of catalogue.WORLDS; default: all new ones"
    )
    parser.add_argument("--log", type=Path, default=HERE / "worlds.csv")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    log = pd.read_csv(options.log) if options.log.is_file() else pd.DataFrame({"world": []})
    drawn = [name for name, world in WORLDS.items() if world.style == "photograph"]
    for name in options.worlds or [name for name in drawn if name not in set(log["world"])]:
        rows = pd.DataFrame(measure(name, HERE / "mini_stage1", options.data, options.runs))
        rows["kind"] = rows.apply(judge, axis=1)
        rows["shape"] = rows.apply(judge, axis=1, columns=SHAPE)
        log = pd.concat([log[log["world"] != name], rows], ignore_index=True)
        with replacing(options.log) as path:
            log.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
        print(rows.drop(columns=["style"]).to_string(index=False))


if __name__ == "__main__":
    run_command(main)
