"""Every ratio that the benchmarks measured, as one picture.

python benchmarks/plot.py reports/benchmarks
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from qure_lib.reporting import figures


def main() -> None:
    folder = Path(sys.argv[1])
    paths = sorted(path for path in folder.glob("*.csv") if path.stem != "scale")
    if not paths:
        sys.exit(f"{folder} holds no results; run `make bench` first")
    frames = [pd.read_csv(path).assign(benchmark=path.stem) for path in paths]
    found = pd.concat(frames).query("unit == 'ratio'")
    figures.use_house_style()
    fig, ax = plt.subplots(figsize=(figures.PAGE_WIDTH, 0.6 + 0.22 * len(found)))
    labels = found.benchmark + ": " + found.what
    bars = ax.barh(range(len(found)), found.value)
    ax.bar_label(bars, [f"{value:.3g}" for value in found.value], padding=2)
    ax.axvline(1, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(found)), labels)
    ax.set(xscale="log", xlabel="Ratio (measured in one run)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    fig.savefig(folder / "ratios.png", dpi=200, bbox_inches="tight")
    print(folder / "ratios.png")


if __name__ == "__main__":
    main()
