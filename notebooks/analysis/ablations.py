"""Notebook 05: tables and intervals of the grid of ablations (`study.py`).

Frames are those of `study.read`: a row a (variant, seed), or a (variant, seed, epoch).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import study

from qure_lib.evaluation.statistics import Interval, bootstrap_ci, paired_bootstrap
from qure_lib.method.config import TrainConfig
from qure_lib.reporting.claims import direction

ORDER = list(study.VARIANTS)


def describe_grid(runs: pd.DataFrame) -> pd.DataFrame:
    """Every variant with its question, its baseline and how many seeds it was run with."""
    rows = [
        {
            "question": question,
            "variant": variant,
            "differs from the published recipe in": _describe(changes),
            "compared with": study.baseline(question),
            "seeds": (runs.variant == variant).sum(),
        }
        for question, variants in study.QUESTIONS.items()
        for variant, changes in variants.items()
    ]
    return pd.DataFrame(rows)


def _describe(changes: Mapping[str, Any]) -> str:
    """The settings that a variant changes, as "n_def = 3, search_window = 100"."""
    changed = study.departures(TrainConfig(**changes))
    changed |= changed.pop("mining", {})
    return ", ".join(f"{name} = {value}" for name, value in changed.items())


def measure_interval(hits: pd.DataFrame, variant: str, less: str | None = None) -> Interval:
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


def measure_variants(hits: pd.DataFrame) -> pd.DataFrame:
    """Each variant's interval, as `figures.plot_intervals` takes it: label, estimate, ..."""
    return pd.DataFrame({"label": v} | asdict(measure_interval(hits, v)) for v in ORDER)


def compare_variants(hits: pd.DataFrame) -> pd.DataFrame:
    """Each variant less its question's baseline.

    Returns:
        Columns question, label, baseline, estimate, low, high, n, seeds, p_value and verdict.
    """
    rows = []
    for question, variants in study.QUESTIONS.items():
        base = study.baseline(question)
        for variant in [v for v in variants if v != base]:
            difference = measure_interval(hits, variant, less=base)
            row = {"question": question, "label": variant, "baseline": base} | asdict(difference)
            rows.append(row | {"verdict": direction(difference)})
    return pd.DataFrame(rows).rename(columns={"n_clusters": "seeds"})


def find_bands(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A measure's mean, lowest and highest value over the seeds, by variant and epoch.

    Returns:
        Columns label, epoch, mean, low, high, as `figures.plot_bands` takes them.
    """
    found = frame.groupby(["variant", "epoch"])[measure].agg(["mean", "min", "max"]).reset_index()
    return found.set_axis(["label", "epoch", "mean", "low", "high"], axis=1)


def choose(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """The rows with these labels, in the order of the labels."""
    chosen = frame[frame["label"].isin(labels)]
    return chosen.sort_values("label", key=lambda column: column.map(labels.index), kind="stable")


def compare_speed(epochs: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Mean Recall@10 over the epochs, of a variant less another, paired by seed.

    Returns:
        Columns variant, less, estimate, low, high, seeds, p_value and learns: "faster" or "slower"
        where the 95 % interval leaves out zero, else "alike".
    """
    speed = epochs.pivot_table(index="seed", columns="variant", values="val_r10")
    words = {"better": "faster", "worse": "slower", "within noise": "alike"}
    rows = []
    for variant, other in pairs:
        apart = paired_bootstrap(speed[variant], speed[other])
        row = {"variant": variant, "less": other} | asdict(apart)
        rows.append(row | {"learns": words[direction(apart)]})
    return pd.DataFrame(rows).drop(columns="n_clusters").rename(columns={"n": "seeds"})


def summarise_stability(runs: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """Spread over the seeds and speed, one row a variant.

    "epochs to all_corpus" is the mean over the seeds of the first epoch with the Recall@10 that
    uniform negatives end with; NaN if a seed never has it.
    """
    last, every = runs.groupby("variant"), epochs.groupby("variant")
    goal = last.val_r10.mean()["all_corpus"]
    first = epochs[epochs.val_r10 >= goal].groupby(["variant", "seed"]).epoch.min().unstack()
    first = first.reindex(columns=runs.seed.unique())
    columns = {
        "Recall@10": last.val_r10.mean(),
        "SD over seeds": last.val_r10.std(),
        "mean over epochs": every.val_r10.mean(),
        "epochs to all_corpus": first.mean(axis=1, skipna=False),
        "final loss": last.loss.mean(),
    }
    return pd.DataFrame(columns).loc[ORDER].rename_axis("variant").reset_index()


def summarise_beyond_recall(runs: pd.DataFrame, definitions: pd.DataFrame) -> pd.DataFrame:
    """What Recall@10 does not see, as means over seeds and definitions, one row a variant.

    Graded measures of val and of the negatives are there where the data set knows relevance.
    """
    on_val = ["val_r10", "val_r50", "val_ndcg10", "val_false_negatives10"]
    of_sets = ["false_negative_share", "relevance_inside"]
    of_sets += ["window_start_fraction", "share_bottom_half"]
    means = [
        frame.groupby("variant")[[column for column in columns if column in frame]].mean()
        for frame, columns in ((runs, on_val), (definitions, of_sets))
    ]
    return means[0].join(means[1]).loc[ORDER].reset_index()


def compare_worlds(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Recall@10 of each variant in each world as "mean ± SD" over the seeds; "-": not run there.

    Args:
        runs: world -> its runs.
    """
    columns, place = {}, {variant: position for position, variant in enumerate(ORDER)}
    for world, frame in runs.items():
        found = frame.groupby("variant").val_r10.agg(["mean", "std"])
        columns[world] = found.apply(lambda row: f"{row['mean']:.1f} ± {row['std']:.1f}", axis=1)
    table = pd.DataFrame(columns).fillna("-").sort_index(key=lambda index: index.map(place))
    return table.rename_axis("variant").reset_index()


def compare_live(live: pd.DataFrame, shipped: pd.DataFrame) -> pd.DataFrame:
    """Runs that were trained again beside the shipped ones.

    Args:
        live, shipped: rows of `runs`.

    Returns:
        Columns variant, seed, live, shipped, lowest seed, highest seed (val Recall@10 in per
        cent) and verdict: "same" (to a tenth of a point), "within the seeds" (in the range of the
        shipped seeds), "differs", or "other settings" where no shipped run has these settings.
    """
    rows = []
    for run in live.itertuples():
        seeds = shipped[shipped.variant == run.variant]
        same = seeds[(seeds.seed == run.seed) & (seeds.settings == run.settings)].val_r10
        known = same.iloc[0] if len(same) else np.nan
        low, high = seeds.val_r10.min(), seeds.val_r10.max()
        verdict = "within the seeds" if low <= run.val_r10 <= high else "differs"
        if same.empty:
            verdict = "other settings"
        elif abs(run.val_r10 - known) < 0.1:
            verdict = "same"
        row = {"variant": run.variant, "seed": run.seed, "live": run.val_r10, "shipped": known}
        rows.append(row | {"lowest seed": low, "highest seed": high, "verdict": verdict})
    return pd.DataFrame(rows)


def measure_claims(
    hits: pd.DataFrame, definitions: pd.DataFrame, corpus_relevance: float | None
) -> dict[str, tuple[str, Interval]]:
    """What the study measures of the paper's claims; above zero a claim holds.

    Args:
        hits: as in `measure_interval`, in per cent.
        definitions: means over the categories of each definition.
        corpus_relevance: mean graded relevance of the corpus; None if it is not known.

    Returns:
        Claim -> what was measured in words, and its interval. Claims on graded relevance are left
        out where it is not known.
    """
    others = {
        "fig4_all_corpus": "all_corpus",
        "fig4_top_k": "top_k",
        "fig4_after_target": "after_target_top_k",
        "table2_contrast": "info_nce",
    }
    measured = {}
    for claim, other in others.items():
        text = f"Recall@10 (points) of between_drops less that of {other}, at the last epoch."
        measured[claim] = text, measure_interval(hits, "between_drops", less=other)
    return measured | _measure_claims_on_sets(definitions, corpus_relevance)


def _measure_claims_on_sets(
    definitions: pd.DataFrame, corpus_relevance: float | None
) -> dict[str, tuple[str, Interval]]:
    mined = definitions.set_index(["variant", "seed", "epoch"]).sort_index()
    drops, best_ranked = mined.loc["between_drops"], mined.loc["top_k"]
    sizes = drops.set_size_mean.unstack()
    shrunk = (sizes.iloc[:, 0] - sizes.iloc[:, -1]).to_numpy()
    text = "Images in the mean set of between_drops, first definition less last."
    measured = {"fig5_shrinking_sets": (text, bootstrap_ci(shrunk))}
    if corpus_relevance is not None:
        seeds = drops.index.get_level_values("seed")
        above = 100 * (drops.relevance_inside - corpus_relevance)
        text = "Graded relevance (points) of the images between the drops less the corpus mean."
        measured["eq7_hard"] = text, bootstrap_ci(above, clusters=seeds)
        fewer = 100 * (best_ranked.false_negative_share - drops.false_negative_share)
        text = "False negatives among the negatives (points), top_k less between_drops."
        measured["eq7_false_negatives"] = text, bootstrap_ci(fewer, clusters=seeds)
    return measured


def tabulate_claims(
    measured: Mapping[str, tuple[str, Interval]], verdicts: Mapping[str, str]
) -> pd.DataFrame:
    """One row a claim: claim, measured (in words), estimate, low, high, n, verdict."""
    rows = [
        {"claim": claim, "measured": text} | asdict(interval) | {"verdict": verdicts[claim]}
        for claim, (text, interval) in measured.items()
    ]
    return pd.DataFrame(rows).drop(columns=["n_clusters", "p_value"], errors="ignore")
