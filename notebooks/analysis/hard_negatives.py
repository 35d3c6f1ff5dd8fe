"""Notebooks 02 and 03: where windows of hard negatives lie, and what lies around them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from report import figures
from scipy.special import expit
from torch import Tensor

from qure_lib.datasets.queries import QuerySet, Triplet
from qure_lib.features.retriever import Embedder, Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.drops import CURVES, RULES
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.ranking import rank_corpus
from qure_lib.train.definition import define_hard_negatives
from qure_lib.train.run_folder import Run
from qure_lib.train.training_data import TrainingData

from . import method_figures

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
    """Draw a query's curve with target and window; the legend names their ranks."""
    about, curve = (shown.curve, shown.target_rank, shown.drops), shown.config.curve
    method_figures.plot_relevance_curve(ax, *about, log_x=curve == "preference", curve=curve)
    first, second = shown.drops
    marks = {f"target: {shown.target_rank}": "target"}
    if first >= 0:
        ranks = f"{first + 1}-{second}" if second > first + 1 else f"{second}"
        marks[f"window: {ranks}"] = "inside"
    colours = [method_figures.ZONE_COLOURS[zone] for zone in marks.values()]
    shapes = [{"marker": "*", "markersize": 8}, {"marker": "v", "markersize": 6}]
    handles = [
        Line2D([], [], color=colour, linestyle="", **shape)
        for colour, shape in zip(colours, shapes, strict=False)
    ]
    about = {"frameon": True, "framealpha": 0.85, "edgecolor": "none", "borderaxespad": 0.2}
    ax.legend(handles, marks, loc="lower left", handletextpad=0.1, borderpad=0.2, **about)
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
        target_rank: 0-based; the target itself is left out of "above", which starts at rank 0.
        window: first and last rank of the hard negatives.
    """
    start, end = window
    above = [rank for rank in range(start) if rank != target_rank]
    below = range(end + 1, corpus_size)
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


def plot_zone_images(figure: Figure, shown: RankedQuery, images: pd.DataFrame) -> None:
    """Draw a query with its curve, and below it a row of images a zone (Fig. 6).

    Args:
        figure: an empty one; its two parts are laid out apart, so that the columns stay even.
        images: of `zone_images`.
    """
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, len(ZONES)])
    queries, triplet = shown.queries, shown.triplet
    reference, target = queries.images[triplet.reference], queries.images[triplet.target]
    axes = top.subplots(1, 4, width_ratios=[1, 1, 1, 3])
    method_figures.plot_query(axes[:3], reference, triplet.caption, target)
    plot_query_curve(axes[3], shown)
    columns = max(images.groupby("zone").size().max(), 1)
    _plot_zones(bottom, queries, images, columns)


def _plot_zones(figure: SubFigure, queries: QuerySet, images: pd.DataFrame, columns: int) -> None:
    """One row of images a zone, each with its rank, score and, where it is known, relevance."""
    rows = figure.subplots(len(ZONES), columns, squeeze=False)
    for row, zone in zip(rows, ZONES, strict=True):
        part = images[images.zone == zone]
        notes = [f"rank {i.rank}, score {round(i.score, 2) + 0:.2f}" for i in part.itertuples()]
        if "relevance" in part:
            notes = [f"{n}\nrelevance {v:.2f}" for n, v in zip(notes, part.relevance, strict=True)]
        paths = [queries.corpus.paths[position] for position in part.position]
        method_figures.plot_image_strip(row, paths, notes, zone)


def aggregate_curves(mined: Mined) -> pd.DataFrame:
    """Mean score by rank at each stage, with one standard deviation to either side (Fig. 8).

    Returns:
        Columns rank, mean, std, low, high, label (the stage), category, and the medians over the
        queries of target_rank and window_start (NaN where no query has a window).
    """
    frames = []
    for stage, categories in mined.items():
        for category, report in categories.items():
            mean, std = report.mean_scores, report.std_scores
            columns = {"mean": mean, "std": std, "low": mean - std, "high": mean + std}
            frame = pd.DataFrame(columns).rename_axis("rank").reset_index()
            medians = report.per_query[report.per_query.set_size > 0].window_start.median()
            place = {"target_rank": report.per_query.target_rank.median(), "window_start": medians}
            frames.append(frame.assign(label=stage, category=category, **place))
    return pd.concat(frames)


def plot_aggregate_curves(axes: Sequence[Axes], curves: pd.DataFrame) -> None:
    """Draw `aggregate_curves`, an axes a category; the first has the label, none a legend."""
    for ax, (category, part) in zip(axes, curves.groupby("category"), strict=True):
        figures.plot_bands(ax, part, columns=("rank", "mean", "low", "high")).set_title(category)
        ax.get_legend().remove()
        for label, rows in part.groupby("label", sort=False):
            colour, place = figures.line_style(str(label), 0)["color"], rows.iloc[0]
            for mark, rank in (("*", place.target_rank), ("v", place.window_start)):
                if not np.isnan(rank):
                    score = rows["mean"].iloc[int(rank)]
                    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
                    ax.plot(rank, score, mark, markersize=7.5, color=colour, **edge)
    axes[0].set_ylabel("Relevance score (cosine)")


def legend_of_curves(figure: Figure, ax: Axes) -> None:
    """Name the stages of `plot_aggregate_curves` and its two marks above the figure."""
    handles, labels = ax.get_legend_handles_labels()
    for mark, label in (("*", "median target"), ("v", "median start of the window")):
        handles.append(Line2D([], [], linestyle="", marker=mark, markersize=7, color="0.4"))
        labels.append(label)
    figure.legend(handles, labels, loc="outside upper center", ncols=3)


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
        the lowest and highest category of each (low_..., high_...), and corpus_mean (what
        uniformly drawn negatives have).
    """
    columns = [*(f"relevance_{zone}" for zone in ZONES), "false_negative_share"]
    groups = mining.groupby("epoch")[columns]
    ends = groups.min().add_prefix("low_"), groups.max().add_prefix("high_")
    frame = groups.mean().join(ends).reset_index()
    return frame.assign(corpus_mean=np.mean([r.mean().item() for r in relevance.values()]))


def plot_negative_set_size(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the size of the hard-negative set at each definition, by category, log scale (Fig. 5).

    Args:
        frame: columns epoch, category, set_size_mean, set_size_median, and the quartiles
            set_size_q25 and set_size_q75, as in a mining report.
    """
    for rows, style in _side_by_side(frame):
        ends = rows.set_size_q25, rows.set_size_q75
        ax.vlines(rows.place, *ends, color=style["color"], linewidth=2.5, alpha=0.35)
        ax.plot(rows.place, rows.set_size_mean, **style)
        style |= {"linestyle": "", "markerfacecolor": "white", "label": None}
        ax.plot(rows.place, rows.set_size_median, **style)
    ax.set_yscale("log")
    figures.plain_log_ticks(ax.yaxis)
    ax.set(xlabel="Epoch of the definition", ylabel="Hard negatives a query")
    ax.set_xticks(sorted(set(frame["epoch"])))
    return ax


def plot_window_position(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw where the window of hard negatives lies in the ranking at each definition.

    Args:
        ax: where to draw; the top of the ranking is at the top.
        frame: columns epoch, category, window_start_fraction, window_end_fraction, in [0, 1] of
            N, as in a mining report; a bar runs from the start to the end.
    """
    ax.axhspan(0.5, 1.05, color="0.93", lw=0, zorder=0)
    epochs = sorted(set(frame["epoch"]))
    ax.text(epochs[0], 0.53, "bottom half", color="0.4", fontsize=7, va="top")
    for rows, style in _side_by_side(frame):
        ends = rows.window_start_fraction, rows.window_end_fraction
        ax.vlines(rows.place, *ends, color=style["color"], linewidth=2.5, alpha=0.35)
        ax.plot(rows.place, ends[0], **style)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set(ylim=(1.05, -0.05), xticks=epochs, xlabel="Epoch of the definition")
    ax.set_ylabel("Window, start to end\n(% of the ranking, 0 = best)")
    return ax


def _side_by_side(frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Each category's rows and style; `place` keeps categories with one value apart."""
    epochs = np.sort(frame["epoch"].unique())
    step = 0.12 * (np.diff(epochs).min() if len(epochs) > 1 else 1)
    groups = list(frame.groupby("category", sort=False))
    for index, (category, rows) in enumerate(groups):
        place = rows["epoch"] + step * (index - (len(groups) - 1) / 2)
        style = figures.line_style(str(category), index) | {"label": str(category)}
        yield rows.assign(place=place), style


def legend_of_sets(figure: Figure, ax: Axes) -> None:
    """Name the categories and the marks of `plot_negative_set_size` above the figure."""
    handles, labels = ax.get_legend_handles_labels()
    marks = {
        "mean": {"marker": "o", "linestyle": ""},
        "median": {"marker": "o", "markerfacecolor": "white", "linestyle": ""},
        "quartiles (left), start to end (right)": {"linewidth": 2.5, "alpha": 0.35},
    }
    handles += [Line2D([], [], color="0.3", **style) for style in marks.values()]
    figure.legend(handles, [*labels, *marks], loc="outside upper center", ncols=len(handles))


def plot_zone_relevance(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the graded relevance of the zones around the window at each definition.

    Args:
        ax: where to draw.
        frame: of `relevance_by_zone`; bands run from the lowest category to the highest.
    """
    for index, zone in enumerate(ZONES):
        style = {"color": method_figures.ZONE_COLOURS[zone], "marker": figures.MARKERS[index]}
        name = f"relevance_{zone}"
        ax.plot(frame["epoch"], frame[name], **style, label=f"{zone} the window")
        ends = frame[f"low_{name}"], frame[f"high_{name}"]
        ax.fill_between(frame["epoch"], *ends, color=style["color"], alpha=0.2, lw=0)
    ax.plot(frame["epoch"], frame["corpus_mean"], color="0.4", linestyle="--", label="corpus mean")
    ax.set(xlabel="Epoch of the definition", ylabel="Mean graded relevance")
    ax.set_xticks(sorted(set(frame["epoch"])))
    return ax


def mining_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The definitions of several runs as a notebook shows them, a row an epoch and category.

    Returns:
        Indexed by epoch and category; for each run images in a set (mean), where the median window
        begins (% of the ranking), and, where they are known, false negatives (% of the images in
        sets).
    """
    frame = pd.concat(run.mining.assign(run=name) for name, run in runs.items())
    table = frame[["epoch", "category", "run"]].assign(
        images=frame.set_size_mean, begins=100 * frame.window_start_fraction
    )
    if "false_negative_share" in frame:
        table["false negatives"] = 100 * frame.false_negative_share
    words = {"images": "images in a set", "begins": "begins at (%)"}
    table = table.rename(columns=words | {"false negatives": "false negatives (%)"})
    return table.pivot(index=["epoch", "category"], columns="run")


def mining_warnings(run: Run, config: MiningConfig) -> list[str]:
    """The warnings of every definition of a run and of every category, from its saved queries."""
    found = []
    for row in run.mining.itertuples():
        queries = run.mined(row.epoch)
        queries = queries[queries.category == row.category]
        found += MiningReport(config, queries, *np.zeros((2, row.corpus_size))).warnings()
    return found
