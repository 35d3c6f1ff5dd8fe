"""Figures: functions that draw a frame on axes and return the axes, in the house style."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator

from qure_lib.reporting.style import COLUMN_WIDTH, PAGE_WIDTH, use_house_style
from report.names import BLUE, find_look, plain_name

__all__ = ["COLUMN_WIDTH", "PAGE_WIDTH", "use_house_style"]  # beside what is drawn here
LINES = ("-", "--", "-.", ":", (0, (6, 1)))
MARKERS = ("o", "s", "^", "D", "v")


def plot_epochs(
    ax: Axes, frame: pd.DataFrame, column: str, definition_epochs: Sequence[int] = ()
) -> Axes:
    """Draw one column of the history over the epochs, a line a run; the caller labels the y axis.

    Args:
        frame: columns run, epoch and `column` ("loss", "val_r10").
        definition_epochs: epochs that define hard negatives; dotted vertical lines.
    """
    for epoch in definition_epochs:
        ax.axvline(epoch, color="0.75", linestyle=":", linewidth=0.8, zorder=0)
    for index, (run, rows) in enumerate(frame.groupby("run", sort=False)):
        style = line_style(str(run), index) | {"markersize": 2.5}
        ax.plot(rows["epoch"], rows[column], **style, label=plain_name(run))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Epoch")
    return ax


def plot_bands(
    ax: Axes,
    frame: pd.DataFrame,
    group: str = "label",
    columns: tuple[str, str, str, str] = ("epoch", "mean", "low", "high"),
) -> Axes:
    """Draw a line with a band for each group, as in Fig. 8; the caller labels the y axis.

    Args:
        frame: the columns `group` and `columns`; groups are drawn in order of appearance.
        group: the column that names a line.
        columns: names of x ("epoch" or "rank"), line, and lower and upper end of the band.
    """
    x, line, low, high = columns
    for index, (label, rows) in enumerate(frame.groupby(group, sort=False)):
        style = line_style(str(label), index)
        if len(rows) > 60:
            style["marker"] = ""
        ax.plot(rows[x], rows[line], **style, label=plain_name(label))
        ax.fill_between(rows[x], rows[low], rows[high], color=style["color"], alpha=0.2, lw=0)
    if x == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel={"epoch": "Epoch", "rank": "Rank (0 = best)"}.get(x, x))
    ax.legend()
    return ax


def plot_intervals(
    ax: Axes, frame: pd.DataFrame, reference: float | None = None, reference_label: str = ""
) -> Axes:
    """Draw estimates with their intervals, one row a label; the caller labels the x axis.

    Args:
        frame: columns label, estimate, low, high, first row on top, and optionally group: each
            group has a colour and a marker, named in the legend.
        reference: a value to compare with (a base rate, a published number); a dashed line.
        reference_label: its name in the legend.
    """
    rows = np.arange(len(frame))
    if reference is not None:
        ax.axvline(reference, color="0.4", linestyle="--", linewidth=0.9, label=reference_label)
    looks = [find_look(str(label)) for label in frame["label"]]
    colours = [look.colour if look else BLUE for look in looks]
    marks = [look.marker if look else MARKERS[0] for look in looks]
    groups = frame["group"].to_numpy() if "group" in frame else np.full(len(frame), "")
    for index, group in enumerate(dict.fromkeys(groups)):
        mine = rows[groups == group]
        colour = f"C{index}" if group else [colours[row] for row in mine]
        ax.hlines(mine, frame["low"].iloc[mine], frame["high"].iloc[mine], colors=colour)
        for row in mine:
            shade = colour if group else colours[row]
            mark = MARKERS[index % len(MARKERS)] if group else marks[row]
            named, x = group if group and row == mine[0] else None, frame["estimate"].iloc[row]
            ax.scatter(x, row, s=14, color=shade, marker=mark, label=named, zorder=3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_yticks(rows, [plain_name(label) for label in frame["label"]])
    ax.set(ylim=(len(frame) - 0.5, -0.5))
    ax.grid(axis="x", linewidth=0.4, color="0.9")
    return ax


def plot_shares(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw the column share (%) over value, a line a label; the caller labels both axes."""
    for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        ax.plot(
            rows["value"], rows["share"], **line_style(str(label), index), label=plain_name(label)
        )
    ax.legend()
    return ax


def line_style(label: str, index: int) -> dict[str, Any]:
    """Give a label its colour, line and marker; those of `index` if it has none of its own."""
    if look := find_look(label):
        return {"color": look.colour, "linestyle": look.line, "marker": look.marker}
    return {
        "color": f"C{index}",
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2, 5, 10, ..., as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def legend_with(ax: Axes, label: str, **line: Any) -> None:
    """Add one entry, for a mark that several lines share, to the legend."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend([*handles, plt.Line2D([], [], **line)], [*labels, label])
