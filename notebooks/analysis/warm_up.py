"""Notebook 02: how high a warm-up brings the targets, and what a definition then finds."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from report import figures

from qure_lib.method.mining_report import MiningReport

from .hard_negatives import Mined

GROUP = "target rank (% of the corpus)"
BOTTOM = "begins in the bottom half (%)"


def describe_stage1(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Stage 1 of a checkpoint as a table, from the manifest beside it: columns "stage 1", value."""
    images = manifest["val_images"]
    rows = {
        "loss, first epoch": manifest["loss_first_epoch"],
        "loss, last epoch": manifest["loss_last_epoch"],
        "val images": images,
        "top-1 accuracy (%)": 100 * manifest["val_top1"],
        "chance (%)": 100 / images,
        "training time (s)": manifest["seconds"],
    }
    rows |= manifest["settings"]
    return pd.DataFrame(rows.items(), columns=["stage 1", "value"])


def target_ranks(
    mining: Mapping[str, pd.DataFrame], before: Mapping[str, MiningReport]
) -> pd.DataFrame:
    """Median rank of the target at each definition of each run, and before the first epoch.

    Args:
        mining: run -> its mining report, one row a definition and category.
        before: category -> report of the model that every run starts from.

    Returns:
        Columns run, epoch, target (% of the corpus, mean of the categories).
    """
    start = [
        report.summary() | {"epoch": 0, "run": n} for report in before.values() for n in mining
    ]
    reports = [pd.DataFrame(start), *(frame.assign(run=name) for name, frame in mining.items())]
    ranks = pd.concat(reports)
    ranks["target"] = 100 * ranks.target_rank_median / ranks.corpus_size
    return ranks.groupby(["run", "epoch"], sort=False).target.mean().reset_index()


def first_definitions(mined: Mined, good_enough: float) -> pd.DataFrame:
    """What a definition finds at each stage, means of the categories.

    Args:
        mined: stage -> category -> mining report.
        good_enough: % of the corpus; a target that ranks within it is ready for hard negatives.

    Returns:
        One row a stage: "targets ready (%)", the target's rank, size and place of the windows,
        score margin and skewness, and the relevance inside where it is known.
    """
    rows = []
    for stage, categories in mined.items():
        for report in categories.values():
            ready = 100 * report.per_query.target_rank <= good_enough * len(report.mean_scores)
            row = {"stage": stage, "targets ready (%)": 100 * ready.mean()}
            rows.append(row | report.summary())
    columns = ["targets ready (%)", "target_rank_median", "set_size_median"]
    columns += ["window_start_fraction", "share_bottom_half", "share_no_pair", "score_margin"]
    columns += ["score_skewness", "relevance_inside", "false_negative_share"]
    frame = pd.DataFrame(rows)
    known = [column for column in columns if column in frame]
    return frame.groupby("stage", sort=False)[known].mean().reset_index()


def windows_by_target_rank(mined: Mined, good_enough: float) -> pd.DataFrame:
    """Where the windows lie at each stage, by the rank of the target; all categories together.

    Args:
        mined, good_enough: as in `first_definitions`.

    Returns:
        One row a stage and group of queries: stage, GROUP (an ordered categorical), queries, where
        the windows begin, BOTTOM (of the queries with a window), share without one, set size, and
        the graded relevance inside where it is known.
    """
    queries = _place_queries(mined, good_enough)
    groups = queries.groupby(["stage", GROUP], observed=True)
    columns = {
        "queries": groups.size(),
        "window begins (% of the ranking, median)": groups.begins.median(),
        BOTTOM: 100 * groups.bottom.mean(),
        "no pair (%)": 100 * (1 - groups.begins.count() / groups.size()),
        "set size (median)": groups.set_size.median(),
    }
    if "relevance_inside" in queries:
        columns["graded relevance inside"] = groups.relevance_inside.mean()
    return pd.DataFrame(columns).reset_index().astype({"stage": str})


def _place_queries(mined: Mined, good_enough: float) -> pd.DataFrame:
    """The reports' queries, with target and window in % of the ranking, and the target's group."""
    frames = []
    for stage, categories in mined.items():
        for report in categories.values():
            frame, n = report.per_query, len(report.mean_scores)
            target, begins = 100 * frame.target_rank / n, 100 * frame.window_start / n
            bottom = (begins >= 50).astype(float).where(begins.notna())
            frames.append(frame.assign(stage=stage, target=target, begins=begins, bottom=bottom))
    queries = pd.concat(frames, ignore_index=True)
    queries["stage"] = pd.Categorical(queries.stage, list(mined))
    steps = [good_enough, *(step for step in (5, 20) if step > good_enough)]
    labels = [f"up to {good_enough:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(steps))]
    labels += [f"over {steps[-1]:g}"]
    queries[GROUP] = pd.cut(queries.target, [-1, *steps, 100], labels=labels)
    return queries


def bottom_half_shares(windows: pd.DataFrame) -> pd.DataFrame:
    """The share of `windows_by_target_rank` that begins in the bottom half, for `plot_shares`.

    Returns:
        Columns label (the stage), group, share (%), value (the group's place, 0 = best).
    """
    shares = windows[["stage", GROUP, BOTTOM]].set_axis(["label", "group", "share"], axis=1)
    shares = shares.dropna()
    shares = shares.assign(value=shares.group.cat.codes)
    return shares.sort_values("value", kind="stable")


def plot_bottom_half(ax: Axes, shares: pd.DataFrame) -> Axes:
    """Draw `bottom_half_shares`, one line a stage."""
    figures.plot_shares(ax, shares)
    labels = shares.group.cat.categories
    ax.set_xticks(range(len(labels)), labels)
    ax.set(ylim=(-2, 102), xlabel="Target rank (% of the corpus)")
    ax.set_ylabel("Windows that begin\nin the bottom half (%)")
    return ax
