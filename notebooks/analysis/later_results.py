"""Notebook 11: results published since, beside QuRe's own number."""

import math

import pandas as pd
from matplotlib.axes import Axes
from report import figures

from .published_tables import AVERAGES, CATEGORIES, QURE, Published, Z, count_queries

MEASURES = {"avg": "FashionIQ average", "r1": "CIRR Recall@1", "map5": "CIRCO mAP@5"}


def sampling_half_width(published: Published, table: str, measure: str, cirr_queries: int) -> float:
    """Half of a 95 % interval of QuRe's own number, from its recalls as binomial shares; in points.

    The average of R@10 and R@50 is taken to vary as if both did together, which is the most. NaN
    where the number is no recall.
    """
    own = published[table].set_index("method").loc[QURE] / 100
    if (table, measure) == ("Table 3", "r1"):
        return 100 * Z * math.sqrt(own.r1 * (1 - own.r1) / cirr_queries)
    if (table, measure) != ("Table 2", "avg"):
        return math.nan
    queries = count_queries(published)
    errors = [
        math.sqrt(sum(own[part] * (1 - own[part]) / queries[part] for part in AVERAGES[table][k]))
        for k in ("avg_r10", "avg_r50")
    ]
    return 100 * Z * sum(errors) / 2 / len(CATEGORIES)


def compare(published: Published, cirr_queries: int) -> pd.DataFrame:
    """Later results beside QuRe's published number.

    Returns:
        Columns method, table, measure, later, QuRe, difference, half_width (of
        `sampling_half_width`), comparable, reason and source; no number of QuRe where it is "no".
    """
    rows = []
    for row in published["later"].itertuples():
        own = published[row.table].set_index("method").loc[QURE, row.measure]
        own = own if row.comparable != "no" else math.nan
        half = sampling_half_width(published, row.table, row.measure, cirr_queries)
        line = {"method": row.method, "table": row.table, "measure": row.measure}
        line |= {"later": row.value, "QuRe": own, "difference": row.value - own, "half_width": half}
        rows.append(
            line | {name: getattr(row, name) for name in ("comparable", "reason", "source")}
        )
    return pd.DataFrame(rows)


def plot(ax: Axes, later: pd.DataFrame) -> Axes:
    """Draw the differences of `compare` with the sampling error of QuRe's number."""
    shown = later.dropna(subset="difference")
    half = shown.half_width.fillna(0)
    frame = pd.DataFrame({"label": shown.method + ": " + shown.measure.map(MEASURES)})
    frame = frame.assign(estimate=shown.difference, group=shown.comparable)
    frame = frame.assign(low=shown.difference - half, high=shown.difference + half)
    figures.plot_intervals(ax, frame, 0.0, "QuRe as published")
    ax.set_xlabel("Later result less QuRe's (points)")
    return ax
