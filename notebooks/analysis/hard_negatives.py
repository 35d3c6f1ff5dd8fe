"""Notebooks 02 and 03: where windows of hard negatives lie, and what lies around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, PercentFormatter
from scipy.special import expit
from torch import Tensor

from qure_lib.datasets.queries import QuerySet, Triplet
from qure_lib.features.retriever import Embedder, Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.drops import CURVES, RULES
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.ranking import rank_corpus
from qure_lib.reporting import figures, method_figures
from qure_lib.train.loop import define_hard_negatives
from qure_lib.train.training_data import TrainingData

ZONES = ("above", "inside", "below")
Mined = Mapping[str, Mapping[str, MiningReport]]  # stage -> category -> its report


@dataclass(frozen=True)
class RankedQuery:
    """One query, the ranking that a model gives it, and its window of hard negatives.

    queries, number: a query set, and which of its queries this is.
    scores, order: (N,) relevance scores, best first, and the corpus position at each rank.
    drops: ranks just before each drop; (-1, -1) without a pair.
    config: how its window was found: the curve, and its temperature.
    """

    queries: QuerySet
    number: int
    scores: np.ndarray
    order: np.ndarray
    target_rank: int
    drops: tuple[int, int]
    config: MiningConfig = MiningConfig()

    @property
    def curve(self) -> np.ndarray:
        """(N,) what the drops are measured in: cosines, or 1 - P with the target's P = 0.5."""
        return measured_curve(self.scores, self.target_rank, self.config)

    @property
    def triplet(self) -> Triplet:
        return self.queries.triplets[self.number]


def measured_curve(scores: np.ndarray, target_rank: int, config: MiningConfig) -> np.ndarray:
    """(N,) scores by rank -> what their drops are measured in: the same, or 1 - P."""
    if config.curve == "cosine":
        return scores
    margins = scores[target_rank].astype("float64") - scores
    return expit(-margins / config.temperature)


def rank_query(
    retriever: Embedder, queries: QuerySet, number: int, report: MiningReport
) -> RankedQuery:
    """Rank the corpus for one query, whose target rank and window come from a mining report."""
    one = replace(queries, triplets=queries.triplets[number : number + 1])
    embedded = retriever.embed_queries(one), retriever.embed_corpus(one.corpus)
    ((_, ranking),) = rank_corpus(*embedded)
    scores, order = (t[0].cpu().numpy() for t in (ranking.scores, ranking.order))
    found = report.per_query.iloc[number]
    drops = (-1, -1)
    if found.set_size > 0:
        drops = int(found.window_start) - 1, int(found.window_end)
    return RankedQuery(queries, number, scores, order, int(found.target_rank), drops, report.config)


def mine(retriever: Retriever, data: TrainingData, config: TrainConfig) -> dict[str, MiningReport]:
    """Mine the training queries: category -> what was chosen."""
    mined = define_hard_negatives(retriever, data, config)
    return {category: report for category, (_, report) in mined.items()}


def median_query(values: pd.Series) -> int:
    """The first query with the median value; of two middle values the nearer to the median.

    Args:
        values: one value a query, indexed by its number.

    Raises:
        ValueError: there are no values.
    """
    if values.empty:
        raise ValueError(
            "no query has a window of hard negatives; train for more epochs or choose another "
            "drop_rule"
        )
    return int((values == values.quantile(0.5, interpolation="nearest")).idxmax())


def plot_query_curve(ax: Axes, shown: RankedQuery) -> Axes:
    """Draw a query's relevance-score curve with its target and window, without a legend."""
    about, curve = (shown.curve, shown.target_rank, shown.drops), shown.config.curve
    method_figures.plot_relevance_curve(ax, *about, log_x=curve == "preference", curve=curve)
    ax.get_legend().remove()
    return ax


def curve_points(stages: Mapping[str, RankedQuery]) -> pd.DataFrame:
    """List the points of one query's curves at several stages.

    Returns:
        Columns rank, score, category, stage, target_rank, first_drop (-1 without a pair).
    """
    frames = []
    for stage, shown in stages.items():
        frame = pd.DataFrame({"score": shown.scores}).rename_axis("rank").reset_index()
        about = {"category": shown.queries.name, "stage": stage, "target_rank": shown.target_rank}
        frames.append(frame.assign(**about, first_drop=shown.drops[0]))
    return pd.concat(frames)


def plot_query_curves(axes: Sequence[Axes], stages: Mapping[str, RankedQuery]) -> None:
    """Draw a query's curve at each stage ("after warm-up, cosine"), with the size of its window."""
    for ax, (stage, shown) in zip(axes, stages.items(), strict=True):
        when, _, curve = stage.rpartition(", ")
        count = shown.drops[1] - shown.drops[0]
        title = f"{shown.queries.name}, {when}\n{curve}: {count} in the set"
        plot_query_curve(ax, shown).set_title(title)


def zone_ranks(
    target_rank: int, window: tuple[int, int], corpus_size: int, count: int
) -> dict[str, list[int]]:
    """Choose up to `count` evenly spread ranks above, inside and below a query's window (Fig. 6).

    Args:
        target_rank: 0-based; "above" starts after it.
        window: first and last rank of the hard negatives.
    """
    start, end = window
    above, below = range(target_rank + 1, start), range(end + 1, corpus_size)
    zones = {"above": above, "inside": range(start, end + 1), "below": below}
    return {
        name: sorted({zone[int(i)] for i in np.linspace(0, len(zone) - 1, count)}) if zone else []
        for name, zone in zones.items()
    }


def zone_images(shown: RankedQuery, relevance: Tensor | None, count: int = 6) -> pd.DataFrame:
    """List images above, inside and below a query's window, evenly spread over each zone.

    Args:
        shown: a query with a window.
        relevance: (Q, N) graded relevance of its query set; None if it is not known.
        count: images a zone, at most.

    Returns:
        Columns category, query, zone, rank, score, position (in the corpus), and relevance where
        it is known; best rank first in each zone.
    """
    window = shown.drops[0] + 1, shown.drops[1]
    ranks = zone_ranks(shown.target_rank, window, len(shown.order), count)
    rows = [(zone, rank) for zone in ZONES for rank in ranks[zone]]
    images = pd.DataFrame(rows, columns=["zone", "rank"])
    images.insert(0, "category", shown.queries.name)
    images.insert(1, "query", shown.number)
    images["score"] = shown.scores[images["rank"]]
    images["position"] = shown.order[images["rank"]]
    if relevance is not None:
        images["relevance"] = relevance[shown.number].numpy()[images["position"]]
    return images


def plot_zone_images(axes: np.ndarray, shown: RankedQuery, images: pd.DataFrame) -> None:
    """Draw a query with its curve, and below it a row of images a zone (Fig. 6).

    Args:
        axes: (4, n) for n images a zone, n > 3; the curve takes the place of the first row's rest.
        images: of `zone_images`.
    """
    queries, triplet = shown.queries, shown.triplet
    reference, target = queries.images[triplet.reference], queries.images[triplet.target]
    method_figures.plot_query(axes[0, :3], reference, triplet.caption, target)
    for ax in axes[0, 3:]:
        ax.remove()
    place = axes[0, 0].get_gridspec()[0, 3:]
    plot_query_curve(axes[0, 0].figure.add_subplot(place), shown)
    for row, zone in zip(axes[1:], ZONES, strict=True):
        part = images[images.zone == zone]
        notes = [f"{image.score:.2f}, rank {image.rank}" for image in part.itertuples()]
        if "relevance" in part:
            notes = [f"{n}\nrelevance {v:.2f}" for n, v in zip(notes, part.relevance, strict=True)]
        paths = [queries.corpus.paths[position] for position in part.position]
        method_figures.plot_image_strip(row, paths, notes, zone)


def aggregate_curves(mined: Mined) -> pd.DataFrame:
    """Mean score by rank at each stage, with one standard deviation to either side (Fig. 8).

    Returns:
        Columns rank, mean, std, low, high, label (the stage), category.
    """
    frames = []
    for stage, categories in mined.items():
        for category, report in categories.items():
            mean, std = report.mean_scores, report.std_scores
            columns = {"mean": mean, "std": std, "low": mean - std, "high": mean + std}
            frame = pd.DataFrame(columns).rename_axis("rank").reset_index()
            frames.append(frame.assign(label=stage, category=category))
    return pd.concat(frames)


def plot_aggregate_curves(axes: Sequence[Axes], curves: pd.DataFrame) -> None:
    """Draw `aggregate_curves`, an axes a category; the first has the legend and the label."""
    for ax, (category, part) in zip(axes, curves.groupby("category"), strict=True):
        figures.plot_bands(ax, part, columns=("rank", "mean", "low", "high")).set_title(category)
    axes[0].set_ylabel("Relevance score (cosine)")
    for ax in axes[1:]:
        ax.get_legend().remove()


def gaps_by_fifth(mined: Mined) -> pd.DataFrame:
    """Mean score gap between neighbours, in thousandths of cosine, by fifth of the ranking.

    Returns:
        One row a stage and category: stage, category, "0-20 %" to "80-100 %", skewness (mean over
        the queries).
    """
    rows = []
    for stage, categories in mined.items():
        for category, report in categories.items():
            row = {"stage": stage, "category": category}
            for fifth, gap in enumerate(report.gap_by_rank(5)):
                row[f"{20 * fifth}-{20 * fifth + 20} %"] = 1000 * gap
            rows.append(row | {"skewness": report.per_query.score_skewness.mean()})
    return pd.DataFrame(rows)


def compare_rules(
    retriever: Retriever, data: TrainingData, config: TrainConfig, near: int
) -> pd.DataFrame:
    """Mine on each curve by each rule, over the whole ranking and `near` ranks after the target.

    Returns:
        One row a curve, rule and search window, means over the categories: "drops in", rule,
        "drops sought in", size, place and margin of the windows, and the relevance inside where it
        is known.
    """
    rows = []
    for curve, rule, window in product(CURVES, RULES, (None, near)):
        mining = replace(config.mining, curve=curve, drop_rule=rule, search_window=window)
        where = "whole ranking" if window is None else f"{window} ranks after the target"
        about = {"drops in": curve, "rule": rule, "drops sought in": where}
        mined = mine(retriever, data, replace(config, mining=mining))
        rows += [about | report.summary() for report in mined.values()]
    columns = ["set_size_median", "window_start_fraction", "share_no_pair", "share_bottom_half"]
    columns += ["margin_over_temperature", "relevance_inside", "false_negative_share"]
    frame = pd.DataFrame(rows)
    known = [column for column in columns if column in frame]
    by = ["drops in", "rule", "drops sought in"]
    return frame.groupby(by, sort=False)[known].mean().reset_index()


def relevance_by_zone(mining: pd.DataFrame, relevance: Mapping[str, Tensor]) -> pd.DataFrame:
    """Graded relevance by zone at each definition, means over the categories.

    Args:
        mining: the mining report, one row a definition and category.
        relevance: category -> (Q, N) graded relevance.

    Returns:
        Columns epoch, relevance_above, relevance_inside, relevance_below, false_negative_share,
        corpus_mean (what uniformly drawn negatives have).
    """
    columns = [*(f"relevance_{zone}" for zone in ZONES), "false_negative_share"]
    frame = mining.groupby("epoch")[columns].mean().reset_index()
    return frame.assign(corpus_mean=np.mean([r.mean().item() for r in relevance.values()]))


def plot_negative_set_size(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the size of the hard-negative set at each definition, by category, log scale (Fig. 5).

    Args:
        frame: columns epoch, category, set_size_mean, set_size_median, and the band set_size_q25
            to set_size_q75, as in a mining report.
    """
    figures.plot_bands(
        ax, frame, "category", ("epoch", "set_size_mean", "set_size_q25", "set_size_q75")
    )
    for index, (category, rows) in enumerate(frame.groupby("category", sort=False)):
        style = figures.line_style(str(category), index) | {
            "linestyle": "",
            "markerfacecolor": "white",
        }
        ax.plot(rows["epoch"], rows["set_size_median"], **style)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set(xlabel="Epoch of the definition", ylabel="Hard negatives a query")
    ax.set_xticks(sorted(set(frame["epoch"])))
    figures.legend_with(
        ax, "median", marker="o", markerfacecolor="white", color="0.3", linestyle=""
    )
    sns.move_legend(ax, "lower left", bbox_to_anchor=(0, 1), ncols=2)  # off lines and bands
    return ax


def plot_window_position(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw where the window of hard negatives lies in the ranking at each definition.

    Args:
        ax: where to draw; the top of the ranking is at the top.
        frame: columns epoch, category, window_start_fraction, window_end_fraction, in [0, 1] of
            N, as in a mining report; the band runs from the start to the end.
    """
    ax.axhspan(0.5, 1.02, color="0.93", lw=0, zorder=0, label="bottom half")
    start, end = "window_start_fraction", "window_end_fraction"
    figures.plot_bands(ax, frame, "category", ("epoch", start, start, end))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set(ylim=(1.02, -0.02), xlabel="Epoch of the definition")
    ax.set_xticks(sorted(set(frame["epoch"])))
    ax.set_ylabel("Window, start to end\n(% of the ranking, 0 = best)")
    return ax


def plot_zone_relevance(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the graded relevance of the zones around the window at each definition.

    Args:
        ax: where to draw.
        frame: columns epoch, relevance_above, relevance_inside, relevance_below, corpus_mean.
    """
    for index, zone in enumerate(ZONES):
        style = {"color": method_figures.ZONE_COLOURS[zone], "marker": figures.MARKERS[index]}
        ax.plot(frame["epoch"], frame[f"relevance_{zone}"], **style, label=f"{zone} the window")
    ax.plot(frame["epoch"], frame["corpus_mean"], color="0.4", linestyle="--", label="corpus mean")
    ax.set(xlabel="Epoch of the definition", ylabel="Mean graded relevance", ylim=(0, 1))
    ax.set_xticks(sorted(set(frame["epoch"])))
    ax.legend()
    return ax
