"""Figures of the method: score curves, windows, images by zone. Plots return their axes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image
from report.names import BLUE, GREEN, GREY, ORANGE, RED

from qure_lib.datasets.image_files import read_image

Picture = Image.Image | Path  # an image, or the file of one
# What an image is to a query. "above", "inside" and "below": of the window of hard negatives.
ZONE_COLOURS = {
    "reference": "black",
    "target": GREEN,
    "above": ORANGE,
    "inside": BLUE,
    "below": GREY,
    "false negative": RED,
}


CURVE_LABELS = {"cosine": "Score (cosine)", "preference": "1 - P"}


def plot_relevance_curve(
    ax: Axes,
    scores: np.ndarray,
    target_rank: int,
    drops: tuple[int, int],
    log_x: bool = False,
    curve: str = "cosine",
) -> Axes:
    """Draw one query's ranking: its scores, the target, the two drops, the window between (Fig. 7).

    Args:
        scores: (N,) what the drops are measured in, best first: relevance scores, or 1 - P.
        target_rank: 0-based.
        drops: ranks just before each drop; the hard negatives are first + 1 to second, and
            (-1, -1) means that the query has no pair.
        log_x: logarithmic ranks, which spread the top; rank 0 stays visible.
        curve: a key of CURVE_LABELS, for the y axis.
    """
    ax.plot(np.arange(len(scores)), scores, color="0.25", zorder=2)
    if min(drops) >= 0:
        _mark_window(ax, scores, drops)
    star: dict[str, Any] = {"marker": "*", "markersize": 9, "markeredgecolor": "white"}
    star |= {"markeredgewidth": 0.5, "color": ZONE_COLOURS["target"], "linestyle": "", "zorder": 3}
    ax.plot(target_rank, scores[target_rank], label=f"target (rank {target_rank})", **star)
    if log_x:
        ax.set_xscale("symlog", linthresh=1)
        ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(xlim=(0 if log_x else -0.01 * len(scores), len(scores)))
    ax.set(xlabel="Rank (0 = best)", ylabel=CURVE_LABELS[curve])
    ax.legend(loc="best", title="no pair of drops" if min(drops) < 0 else None)
    return ax


def _mark_window(ax: Axes, scores: np.ndarray, drops: tuple[int, int]) -> None:
    """Shade the ranks between two drops; a wedge on top shows where, however narrow they are."""
    first, second = drops
    colour, count = ZONE_COLOURS["inside"], second - first
    label = f"window ({count} hard negative{'s'[: count != 1]})"
    ax.axvspan(first + 0.5, second + 0.5, color=colour, alpha=0.25, lw=0, label=label)
    wedge: dict[str, Any] = {"marker": "v", "markersize": 6, "color": colour, "clip_on": False}
    ax.plot((first + second + 1) / 2, 0.95, transform=ax.get_xaxis_transform(), zorder=3, **wedge)
    for name, rank, line in (("first", first, "--"), ("second", second, ":")):
        label = f"{name} drop ({scores[rank] - scores[rank + 1]:.3f})"
        ax.axvline(rank + 0.5, color=colour, linestyle=line, linewidth=0.9, label=label)


def plot_image(ax: Axes, image: Picture, note: str = "", zone: str = "reference") -> Axes:
    """Show one image, framed in the colour of its zone, with a note under it.

    Args:
        note: a few words a line ("0.61 · rank 12").
        zone: a key of ZONE_COLOURS.

    Raises:
        ValueError: the file cannot be decoded; the message names it.
    """
    if not isinstance(image, Image.Image):
        image = read_image(image).convert("RGB")
    ax.imshow(np.asarray(image))
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(note, fontsize=6.5, labelpad=2.5)
    for spine in ax.spines.values():
        spine.set(visible=True, color=ZONE_COLOURS[zone], linewidth=1.8)
    return ax


def plot_image_strip(
    axes: Sequence[Axes], images: Sequence[Picture], notes: Sequence[str], zone: str
) -> Sequence[Axes]:
    """Show one row of images of one zone, as in Fig. 6; unused axes are turned off.

    Args:
        axes: at least as many as there are images.
        images, notes: one note an image, best rank first; see `plot_image`.
        zone: a key of ZONE_COLOURS; "above", "inside" and "below" the window label the row.
    """
    for ax, image, note in zip(axes[: len(images)], images, notes, strict=True):
        plot_image(ax, image, note, zone)
    for ax in axes[len(images) :]:
        ax.set_axis_off()
    if len(images) and zone in ("above", "inside", "below"):
        axes[0].set_ylabel(f"{zone}\nthe window", color=ZONE_COLOURS[zone], fontweight="bold")
    return axes


def plot_query(
    axes: Sequence[Axes], reference: Picture, caption: str, target: Picture
) -> Sequence[Axes]:
    """Show a query and its answer on three axes: reference image, relative caption, target."""
    plot_image(axes[0], reference, "reference", "reference")
    plot_image(axes[2], target, "target", "target")
    axes[1].set_axis_off()
    lines = textwrap.wrap(caption, 15)
    size = 7 if len(lines) <= 6 else 5.5
    axes[1].text(0.5, 0.58, "\n".join(lines), ha="center", va="center", fontsize=size)
    arrow = {"arrowstyle": "->", "color": "0.4", "linewidth": 0.8}
    axes[1].annotate("", (1.05, 0.08), (-0.05, 0.08), arrowprops=arrow, annotation_clip=False)
    return axes
