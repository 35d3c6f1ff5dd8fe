"""Tables in the paper's layouts, and reproduced numbers beside published ones."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from .reports import Reports


def save_table(frame: pd.DataFrame, name: str, caption: str, reports: Reports) -> None:
    """Write a table as CSV (full precision) and Markdown (two decimals), with a note for the index.

    Args:
        frame: the table; its index is not written.
        name, caption: see `Reports.write_note`.

    Raises:
        ValueError: an empty frame, or a name that is no plain file name.
    """
    if frame.empty:
        raise ValueError(f"table {name}: no rows; pass the frame that the table shows")
    stem = reports.write_note("table", name, caption)
    frame.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")
    stem.with_suffix(".md").write_text(to_markdown(frame), encoding="utf-8")


def to_markdown(frame: pd.DataFrame) -> str:
    """Write a frame as a Markdown table, numbers to the right and floats with two decimals."""
    rule = ["---:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in frame.dtypes]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    lines = [[str(column) for column in frame.columns], rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
    return str(value).replace("|", "\\|")


def summarise_counts(counts: pd.Series) -> pd.DataFrame:
    """Counts by name as a summary: a count is exact, so low = high = estimate."""
    columns = dict.fromkeys(("estimate", "low", "high", "n"), counts.to_numpy())
    return pd.DataFrame({"measure": counts.index.to_numpy()} | columns)


def results_table(
    per_query: Mapping[str, pd.DataFrame], summarise: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Results in the paper's layout: one row a method, "46.8 [44.6, 49.0]" a cell.

    Args:
        per_query: method -> one row a query.
        summarise: `summarise_recall` (Table 2), `summarise_cirr` (3) or `summarise_circo` (5).
    """
    rows = []
    for method, frame in per_query.items():
        summary = summarise(frame).itertuples()
        cells = {r.measure: interval_text(r.estimate, r.low, r.high) for r in summary}
        rows.append({"method": method} | cells | {"queries": len(frame)})
    return pd.DataFrame(rows)


def interval_text(estimate: float, low: float, high: float) -> str:
    """Write an estimate and its interval with one decimal: "46.8 [44.6, 49.0]"."""
    return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"


def read_published(path: str | Path, method: str | None = None, **where: str) -> pd.Series:
    """Read one method's published numbers, indexed by measure.

    Args:
        path: a file of reports/published/.
        method: the row to take; None for a file with a row a measure (name, value, ...).
        where: further columns that choose the row (backbone="BLIP-2").

    Raises:
        ValueError: the file is missing, a measure is there twice, or not exactly one row fits.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; the published numbers are in reports/published/")
    frame = pd.read_csv(path)
    if method is None:
        numbers = frame.set_index(frame.columns[0]).iloc[:, 0].rename("published")
        for name in numbers.index[numbers.index.duplicated()]:
            raise ValueError(f"{path}: {name!r} is there twice; delete one")
        return numbers
    where = {"method": method, **where}
    if not {*where} <= {*frame.columns}:
        raise ValueError(f"{path}: needs the columns {[*where]}; it has {[*frame.columns]}")
    rows = frame[(frame[list(where)] == pd.Series(where)).all(axis=1)]
    if len(rows) != 1:
        raise ValueError(f"{path}: {len(rows)} rows with {where}; name one row")
    return rows.iloc[0].drop(list(where)).rename("published")


def compare_with_published(
    summary: pd.DataFrame, published: pd.Series, same_protocol: bool
) -> pd.DataFrame:
    """Put reproduced numbers beside published ones and judge each by one rule.

    "reproduced": the published number lies in the interval, at the published two decimals.
    "differs": it does not. "not comparable": another data set or protocol, so only the direction of
    a claim can be judged. "not published": there is no such number.

    Args:
        summary: measure, estimate, low, high, n; a count has low = high = estimate. Other columns
            are left out.
        published: numbers by measure; see `read_published`.
        same_protocol: whether data set and protocol are the published ones.

    Returns:
        Columns measure, reproduced, low, high, n, published, difference, verdict.
    """
    known = pd.to_numeric(published.reindex(summary["measure"])).to_numpy()
    low, high = (summary[column].astype(float).round(2) for column in ("low", "high"))
    inside = np.where((low <= known) & (known <= high), "reproduced", "differs")
    verdict = np.where(
        np.isnan(known), "not published", inside if same_protocol else "not comparable"
    )
    compared = summary[["measure", "estimate", "low", "high", "n"]].assign(
        published=known,
        difference=summary["estimate"].to_numpy() - known if same_protocol else np.nan,
        verdict=verdict,
    )
    return compared.rename(columns={"estimate": "reproduced"})


def verdict_line(compared: pd.DataFrame) -> str:
    """Count the verdicts of `compare_with_published` in one line."""
    counts = compared["verdict"].value_counts(sort=False)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Verdict: of {len(compared)} numbers, {parts}."
