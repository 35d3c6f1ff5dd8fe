"""Every ratio that the benchmarks measured, as one picture.

python benchmarks/plot.py reports/benchmarks
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "notebooks"))
from report import figures

LIMIT = ", limit by operations"


def main() -> None:
    folder = Path(sys.argv[1])
    paths = sorted(path for path in folder.glob("*.csv") if path.stem != "scale")
    if not paths:
        sys.exit(f"{folder} holds no results; run `make bench` first")
    frames = [pd.read_csv(path).assign(benchmark=path.stem) for path in paths]
    found = pd.concat(frames).query("unit == 'ratio'")
    limits = found[found.what.str.endswith(LIMIT)].set_index("what").value
    found = found[~found.what.str.endswith(LIMIT)]
    figures.use_house_style()
    fig, ax = plt.subplots(figsize=(figures.PAGE_WIDTH, 0.9 + 0.22 * len(found)))
    plot_ratios(ax, found, limits)
    fig.savefig(folder / "ratios.png", dpi=200, metadata={"Software": None})
    print(folder / "ratios.png")


def plot_ratios(ax: Axes, found: pd.DataFrame, limits: pd.Series) -> Axes:
    """Draw each ratio as a line from 1, and what its operations alone would give as an open mark.

    Args:
        found: columns benchmark, what, value; the first row on top.
        limits: "training, limit by operations" -> ratio, beside "training, store over encode".
    """
    rows = np.arange(len(found))
    ax.axvline(1, color="0.4", linewidth=0.8)
    ax.hlines(rows, 1, found.value, linewidth=3)
    ax.plot(found.value, rows, "o", markersize=5)
    for row, (what, value) in enumerate(zip(found.what, found.value, strict=True)):
        limit = limits.get(what.split(",")[0] + LIMIT, np.nan)
        ax.plot(limit, row, "o", markersize=8, markerfacecolor="none", color="0.3")
        right = value >= 1
        place = {"xytext": (8 if right else -8, 0), "textcoords": "offset points", "va": "center"}
        text = f"{value:.3g}" if np.isnan(limit) else f"{value:.3g} (operations: {limit:.3g})"
        ax.annotate(
            text, (np.nanmax([value, limit]), row), ha="left" if right else "right", **place
        )
    ax.set_yticks(rows, found.benchmark + ": " + found.what)
    ax.set(xscale="log", xlim=(0.15, 130), ylim=(len(found) - 0.5, -0.5))
    ax.set_xlabel(
        "Ratio (measured in one run). Open marks: by counted operations, all at one speed;\n"
        "speeds differ between parts, so a measured ratio can be larger"
    )
    figures.plain_log_ticks(ax.xaxis)
    return ax


if __name__ == "__main__":
    main()
