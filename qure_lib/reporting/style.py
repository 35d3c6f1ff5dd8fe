"""The style of every figure."""

from typing import Any

import seaborn as sns

BLUE, ORANGE, GREEN, RED, PINK, BROWN, _, GREY, YELLOW, SKY = sns.color_palette(
    "colorblind"
).as_hex()
CURVE_COLOURS = {"cosine": RED, "preference": BLUE}
COLUMN_WIDTH, PAGE_WIDTH = 3.25, 6.75  # inches: one column and two columns of the paper
_EIGHT_POINTS = ("font.size", "axes.labelsize", "axes.titlesize")
_SEVEN_POINTS = ("legend.fontsize", "legend.title_fontsize", "xtick.labelsize", "ytick.labelsize")
_HOUSE_STYLE: dict[str, Any] = {
    **dict.fromkeys(_EIGHT_POINTS, 8),
    **dict.fromkeys(_SEVEN_POINTS, 7),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


def use_house_style() -> None:
    """Set the fonts, sizes and lines of every figure: 8 pt text, thin axes, legible in print."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=_HOUSE_STYLE)
