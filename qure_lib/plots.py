"""Figures: one style, one exporter, and plain functions that draw frames on axes.

Every ``plot_*`` function takes the axes it draws on and returns them. None computes: means,
intervals and shares arrive as columns. ``rank`` is 0-based, 0 the best.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter
from PIL import Image

from qure_lib.images import read_image
from qure_lib.reports import Reports

COLUMN_WIDTH, PAGE_WIDTH = 3.25, 6.75  # inches: one column and two columns of the paper

_BLUE, _ORANGE, _GREEN, _RED, _PINK, _BROWN, _, _GREY, _, _SKY = sns.color_palette(
    "colorblind"
).as_hex()

# Colour is identity: the one place that says which method, or category, has which colour.
METHOD_COLOURS = {
    "between_drops": _BLUE,
    "after_target_top_k": _GREEN,
    "top_k": _ORANGE,
    "all_corpus": _GREY,
    "info_nce": _BROWN,
    "dress": _RED,
    "shirt": _SKY,
    "toptee": _PINK,
    "between_drops_near": _SKY,
    "stage 1 alone": _PINK,
    "frozen encoder": "black",
    "tops": _RED,
    "bottoms": _SKY,
    "outdoor": _PINK,
}
# What an image is to a query; above, inside and below speak of the window of hard negatives.
ZONE_COLOURS = {
    "reference": "black",
    "target": _GREEN,
    "above": _ORANGE,
    "inside": _BLUE,
    "below": _GREY,
    "false negative": _RED,
}
_LINES = ("-", "--", "-.", ":", (0, (6, 1)))
_MARKERS = ("o", "s", "^", "D", "v")


def use_house_style() -> None:
    """Set the fonts, sizes and lines of every figure: 8 pt text, thin axes, legible in print."""
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        rc={
            "font.size": 8,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
            "axes.labelsize": 8,
            "axes.titlesize": 8,
            "legend.fontsize": 7,
            "legend.title_fontsize": 7,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.2,
            "lines.markersize": 3.5,
            "legend.frameon": False,
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
        },
    )


def save_figure(
    figure: Figure, name: str, data: pd.DataFrame, caption: str, reports: Reports
) -> None:
    """Write a figure as PDF and 300-dpi PNG, its data as CSV, and a JSON note for the index.

    Time stamps and versions are left out, so a re-run writes the same bytes.

    Args:
        figure: every axes labelled in both directions, holding an image, or turned off.
        name: file name without suffix, by the paper's number ("fig7_score_curve", "extra_...").
        data: what is drawn, so that a reader can draw it again.
        caption: the first sentence is the title in the index.
        reports: where the figure goes.

    Raises:
        ValueError: an unlabelled axes, an empty `data`, or a name that is no plain file name.
    """
    for ax in figure.axes:
        _refuse_unlabelled(ax, name)
    if data.empty:
        raise ValueError(f"figure {name}: no data; pass the frame that the figure draws")
    stem = reports.write_note("figure", name, caption)
    figure.savefig(stem.with_suffix(".png"), dpi=300, metadata={"Software": None})
    figure.savefig(
        stem.with_suffix(".pdf"), metadata=dict.fromkeys(("Creator", "Producer", "CreationDate"))
    )
    data.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.6g", lineterminator="\n")


def plot_relevance_curve(
    ax: Axes, scores: np.ndarray, target_rank: int, drops: tuple[int, int], log_x: bool = False
) -> Axes:
    """Draw one query's ranking: its scores, the target, the two drops, the window between (Fig. 7).

    Args:
        ax: where to draw.
        scores: (N,) relevance scores, best first.
        target_rank: 0-based.
        drops: ranks just before each drop; the hard negatives are first + 1 to second, and
            (-1, -1) means that the query has no pair.
        log_x: logarithmic ranks, to see the top; rank 0 keeps its place.
    """
    ax.plot(np.arange(len(scores)), scores, color="0.25", zorder=2)
    if min(drops) >= 0:
        _mark_window(ax, scores, drops)
    star = {"marker": "*", "markersize": 9, "markeredgecolor": "white", "markeredgewidth": 0.5}
    star |= {"color": ZONE_COLOURS["target"], "label": f"target (rank {target_rank})"}
    ax.plot(target_rank, scores[target_rank], linestyle="", zorder=3, **star)
    if log_x:
        ax.set_xscale("symlog", linthresh=1)
        ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(xlim=(0 if log_x else -0.01 * len(scores), len(scores)))
    ax.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    ax.legend(loc="best", title="no pair of drops" if min(drops) < 0 else None)
    return ax


def zoom_to_window(ax: Axes, scores: np.ndarray, drops: tuple[int, int], margin: int = 20) -> Axes:
    """Show a relevance curve around its window, `margin` ranks to either side, and say so.

    Args:
        ax: where `plot_relevance_curve` drew.
        scores: (N,) relevance scores, best first.
        drops: ranks just before each drop; (-1, -1) leaves the axes as they are.
        margin: ranks to either side.
    """
    first, second = drops
    if first >= 0:
        start, stop = max(first - margin, 0), min(second + margin, len(scores) - 1)
        pad = 0.05 * (scores[start] - scores[stop])
        ax.set(xlim=(start, stop + 0.5), ylim=(scores[stop] - pad, scores[start] + pad))
        ax.set_title(f"around its {second - first} hard negatives")
    return ax


def plot_aggregate_curve(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw mean score by rank with its band, one line a label (Fig. 8).

    Args:
        ax: where to draw.
        frame: columns rank, mean, low, high, label.
    """
    _plot_bands(ax, frame, "label", ("rank", "mean", "low", "high"))
    ax.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    return ax


def plot_negative_set_size(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the size of the hard-negative set at each definition, by category (Fig. 5).

    Args:
        ax: where to draw; the size is on a logarithmic axis.
        frame: columns epoch, category, set_size_mean, set_size_median, and the band set_size_q25
            to set_size_q75, as in a mining report.
    """
    columns = ("epoch", "set_size_mean", "set_size_q25", "set_size_q75")
    _plot_bands(ax, frame, "category", columns)
    for index, (category, rows) in enumerate(frame.groupby("category", sort=False)):
        style = _line_style(str(category), index) | {"linestyle": "", "markerfacecolor": "white"}
        ax.plot(rows["epoch"], rows["set_size_median"], **style)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set(xlabel="Epoch of the definition", ylabel="Hard negatives a query")
    ax.set_xticks(sorted(set(frame["epoch"])))
    _legend_with(ax, "median", marker="o", markerfacecolor="white", color="0.3", linestyle="")
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
    _plot_bands(ax, frame, "category", ("epoch", start, start, end))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set(ylim=(1.02, -0.02), xlabel="Epoch of the definition")
    ax.set_xticks(sorted(set(frame["epoch"])))
    ax.set_ylabel("Window, start to end\n(% of the ranking, 0 = best)")
    return ax


def plot_epochs(
    ax: Axes, frame: pd.DataFrame, column: str, definition_epochs: Sequence[int] = ()
) -> Axes:
    """Draw one figure of the history over the epochs, a line a run; the caller labels the y axis.

    Args:
        ax: where to draw.
        frame: columns run, epoch and `column`.
        column: what is drawn ("loss", "val_r10").
        definition_epochs: where the hard negatives were defined; dotted vertical lines.
    """
    for epoch in definition_epochs:
        ax.axvline(epoch, color="0.75", linestyle=":", linewidth=0.8, zorder=0)
    for index, (run, rows) in enumerate(frame.groupby("run", sort=False)):
        cue = {"linestyle": _LINES[index % len(_LINES)], "marker": _MARKERS[index % len(_MARKERS)]}
        style = _line_style(str(run), index) | cue | {"markersize": 2.5}
        ax.plot(rows["epoch"], rows[column], **style, label=run)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Epoch")
    return ax


def plot_epoch_bands(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw a measure over the epochs with its band, a line a label; the caller labels the y axis.

    Args:
        ax: where to draw.
        frame: columns epoch, mean, low, high, label.
    """
    _plot_bands(ax, frame, "label", ("epoch", "mean", "low", "high"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Epoch")
    return ax


def plot_zone_relevance(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the graded relevance of the zones around the window at each definition.

    Args:
        ax: where to draw.
        frame: columns epoch, relevance_above, relevance_inside, relevance_below, corpus_mean.
    """
    for index, zone in enumerate(("above", "inside", "below")):
        style = {"color": ZONE_COLOURS[zone], "marker": _MARKERS[index]}
        ax.plot(frame["epoch"], frame[f"relevance_{zone}"], **style, label=f"{zone} the window")
    ax.plot(frame["epoch"], frame["corpus_mean"], color="0.4", linestyle="--", label="corpus mean")
    ax.set(xlabel="Epoch of the definition", ylabel="Mean graded relevance", ylim=(0, 1))
    ax.set_xticks(sorted(set(frame["epoch"])))
    ax.legend()
    return ax


def plot_intervals(
    ax: Axes, frame: pd.DataFrame, reference: float | None = None, reference_label: str = ""
) -> Axes:
    """Draw estimates with their intervals, one row a label, the first on top.

    The caller labels the x axis, since only it knows the unit.

    Args:
        ax: where to draw.
        frame: columns label, estimate, low, high, and where rows are of several kinds, group:
            a colour and a marker each, named in the legend.
        reference: a value to compare with (a base rate, a published number); a dashed line.
        reference_label: its name in the legend.
    """
    rows = np.arange(len(frame))
    if reference is not None:
        ax.axvline(reference, color="0.4", linestyle="--", linewidth=0.9, label=reference_label)
    colours = [METHOD_COLOURS.get(str(label), _BLUE) for label in frame["label"]]
    groups = frame["group"].to_numpy() if "group" in frame else np.full(len(frame), "")
    for index, group in enumerate(dict.fromkeys(groups)):
        mine = rows[groups == group]
        colour = f"C{index}" if group else [colours[row] for row in mine]
        ax.hlines(mine, frame["low"].iloc[mine], frame["high"].iloc[mine], colors=colour)
        style = {"marker": _MARKERS[index], "s": 14, "zorder": 3, "label": group or None}
        ax.scatter(frame["estimate"].iloc[mine], mine, c=colour, **style)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_yticks(rows, [str(label) for label in frame["label"]])
    ax.set(ylim=(len(frame) - 0.5, -0.5))
    ax.grid(axis="x", linewidth=0.4, color="0.9")
    return ax


def plot_shares(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw distributions over whole numbers or grades, one line a label; the caller labels axes.

    Args:
        ax: where to draw.
        frame: columns value, share, label; shares in per cent.
    """
    for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        ax.plot(rows["value"], rows["share"], **_line_style(str(label), index), label=label)
    ax.legend()
    return ax


def plot_scaling(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> Axes:
    """Draw a cost against a size on logarithmic axes, one line a label; the caller labels the axes.

    Args:
        ax: where to draw.
        frame: columns `x`, `y`, label, and live: rows of this run are open marks, the others full.
        x, y: names of columns, above zero.
    """
    for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        style = _line_style(str(label), index)
        shipped, live = rows[~rows["live"]], rows[rows["live"]]
        hollow = style | {"linestyle": "", "markerfacecolor": "none", "markersize": 5.5}
        for part, look in ((shipped, style), (live, hollow)):
            if len(part):
                name = "" if look is hollow and len(shipped) else label
                ax.plot(part[x], part[y], **look, label=name)
    ax.set(xscale="log", yscale="log")
    ax.legend()
    if frame["live"].any():
        _legend_with(ax, "this run", marker="o", markerfacecolor="none", color="0.3", linestyle="")
    return ax


def plot_image(
    ax: Axes, image: Image.Image | Path, note: str = "", zone: str = "reference"
) -> Axes:
    """Show one image, framed in the colour of its zone, with a note under it.

    Args:
        ax: where to draw.
        image: a PIL image or the path of one.
        note: a few words a line ("0.61 · rank 12").
        zone: a key of ZONE_COLOURS.
    """
    if not isinstance(image, Image.Image):
        with Image.open(image) as opened:
            image = opened.convert("RGB")
    ax.imshow(np.asarray(image))
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(note, fontsize=6.5, labelpad=2.5)
    for spine in ax.spines.values():
        spine.set(visible=True, color=ZONE_COLOURS[zone], linewidth=1.8)
    return ax


def image_html(path: Path, note: str = "", zone: str = "reference") -> str:
    """`plot_image` for a page: a small <figure>, framed in the colour of its zone."""
    image = f'<img src="{_thumbnail(path)}" style="border-color: {ZONE_COLOURS[zone]}">'
    return f"<figure>{image}{note}</figure>"


def plot_image_strip(
    axes: Sequence[Axes], images: Sequence[Image.Image | Path], notes: Sequence[str], zone: str
) -> Sequence[Axes]:
    """Show one row of images of one zone, as in Fig. 6; axes left over are turned off.

    Args:
        axes: at least as many as there are images.
        images: PIL images or paths, best rank first.
        notes: the words under each: score, rank, graded relevance.
        zone: a key of ZONE_COLOURS; "above", "inside" and "below" the window label the row.
    """
    for ax, image, note in zip(axes, images, notes, strict=False):
        plot_image(ax, image, note, zone)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    if len(images) and zone in ("above", "inside", "below"):
        axes[0].set_ylabel(f"{zone}\nthe window", color=ZONE_COLOURS[zone], fontweight="bold")
    return axes


def plot_query(
    axes: Sequence[Axes], reference: Image.Image | Path, caption: str, target: Image.Image | Path
) -> Sequence[Axes]:
    """Show a query and its answer: reference image, relative caption, target.

    Args:
        axes: three, in that order.
        reference: a PIL image or the path of one.
        caption: the relative caption; wrapped.
        target: as `reference`.
    """
    plot_image(axes[0], reference, "reference", "reference")
    plot_image(axes[2], target, "target", "target")
    axes[1].set_axis_off()
    lines = textwrap.wrap(caption, 15)
    size = 7 if len(lines) <= 6 else 5.5
    axes[1].text(0.5, 0.58, "\n".join(lines), ha="center", va="center", fontsize=size)
    axes[1].annotate(
        "",
        xy=(1.05, 0.08),
        xytext=(-0.05, 0.08),
        arrowprops={"arrowstyle": "->", "color": "0.4", "linewidth": 0.8},
        annotation_clip=False,
    )
    return axes


@lru_cache(maxsize=8192)
def _thumbnail(path: Path) -> str:
    """An image file as a small JPEG, written out as an <img> takes it."""
    image = read_image(path).convert("RGB")
    image.thumbnail((96, 96))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _mark_window(ax: Axes, scores: np.ndarray, drops: tuple[int, int]) -> None:
    """Shade the ranks between two drops, and draw a line at each drop with its size."""
    first, second = drops
    colour, count = ZONE_COLOURS["inside"], second - first
    label = f"window ({count} hard negative{'s'[: count != 1]})"
    ax.axvspan(first + 0.5, second + 0.5, color=colour, alpha=0.25, lw=0, label=label)
    for name, rank, line in (("first", first, "--"), ("second", second, ":")):
        label = f"{name} drop ({scores[rank] - scores[rank + 1]:.3f})"
        ax.axvline(rank + 0.5, color=colour, linestyle=line, linewidth=0.9, label=label)


def _plot_bands(ax: Axes, frame: pd.DataFrame, group: str, columns: tuple[str, ...]) -> None:
    """Draw a line and a band a group, in order of appearance; `columns` are x, line, low, high."""
    x, line, low, high = columns
    for index, (label, rows) in enumerate(frame.groupby(group, sort=False)):
        style = _line_style(str(label), index)
        if len(rows) > 60:
            style["marker"] = ""
        ax.plot(rows[x], rows[line], **style, label=label)
        ax.fill_between(rows[x], rows[low], rows[high], color=style["color"], alpha=0.2, lw=0)
    ax.legend()


def _line_style(label: str, index: int) -> dict[str, Any]:
    """Colour by identity, where the label has one, and a line and a marker as second cue."""
    known = list(METHOD_COLOURS)
    position = known.index(label) if label in METHOD_COLOURS else index
    return {
        "color": METHOD_COLOURS.get(label, f"C{index}"),
        "linestyle": _LINES[position % len(_LINES)],
        "marker": _MARKERS[position % len(_MARKERS)],
    }


def _legend_with(ax: Axes, label: str, **line: str) -> None:
    """Add one entry, for a mark that several lines share, to the legend."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend([*handles, plt.Line2D([], [], **line)], [*labels, label])


def _refuse_unlabelled(ax: Axes, figure: str) -> None:
    if not (ax.axison and ax.get_visible()) or ax.images:
        return
    shared = {"x": ax.get_shared_x_axes(), "y": ax.get_shared_y_axes()}
    for name, group in shared.items():
        siblings = [getattr(a, f"{name}axis") for a in group.get_siblings(ax)]
        if not any(_is_labelled(axis) for axis in siblings):
            raise ValueError(
                f"figure {figure}: axes {ax.get_title() or ax.get_position().bounds} has no "
                f"{name} label; say what it shows and in which unit with ax.set_{name}label"
            )


def _is_labelled(axis: Axis) -> bool:
    """Whether the axis has a label, or ticks that are words."""
    words = isinstance(axis.get_major_formatter(), StrCategoryFormatter | FuncFormatter)
    return words or bool(axis.get_label_text().strip())
