"""Tables in the paper's layouts, and reproduced numbers beside published ones."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from qure_lib.evaluation.statistics import LEAST_P
from report.names import plain_name

from .folder import Reports

SHOWN_COLUMNS = 7  # of a table on the page; the rest is behind "all columns"
# Column or code -> words, the unit's factor, and place ("verdict", "more"; "each": a unit a row).
COLUMNS = pd.read_csv(Path(__file__).with_name("columns.csv"), index_col=0, keep_default_na=False)


def save_table(frame: pd.DataFrame, name: str, caption: str, reports: Reports) -> None:
    """Write a table as CSV (full precision) and Markdown (`in_words`), with a note for the index.

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
    """Write a frame as a Markdown table, `in_words`, numbers to the right.

    Text stays text: it makes no cell, line, link, picture or HTML element of its own.
    """
    shown = in_words(frame)
    rule = ["---:" if right else "---" for right in shown.attrs["numeric"]]
    rows = [[*map(_escape, row)] for row in shown.itertuples(index=False)]
    header = [*map(_escape, shown.columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *rows])


def _escape(text: str) -> str:
    return re.sub(r"[\\|]|<(?=\S)|\](?=[(\[])", r"\\\g<0>", " ".join(text.split()))


def in_words(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as people read it: words in the place of codes, numbers of at most two decimals.

    A verdict comes first. Of more than seven columns, those that say the same in every row come
    late, and last those that columns.csv calls "more".

    Returns:
        Text alone; `attrs["numeric"]` says of each column whether it is of numbers.
    """
    frame = frame.drop(columns=["code", "claim"], errors="ignore")  # for the CSV alone
    mixed = [c for c in frame if frame[c].dtype == bool or COLUMNS.place.get(c) == "each"]
    frame = frame.astype(dict.fromkeys(mixed, object))
    place = COLUMNS.place.reindex(frame.columns).map({"verdict": -1, "more": 2})
    place = place.fillna((frame.nunique(dropna=False) == 1).astype(int))
    if len(place) <= SHOWN_COLUMNS:
        place = place.clip(upper=0)
    shown = [frame[column] for column in place.sort_values(kind="stable").index]
    names = [COLUMNS.words.get(column.name) or _words(column.name) for column in shown]
    words = pd.concat([*map(_cells, shown)], axis=1).set_axis(names, axis=1)
    words.attrs["numeric"] = [pd.api.types.is_numeric_dtype(column) for column in shown]
    return words


def _words(code: str) -> str:
    """Codes in words; text without codes stays as it is."""
    known = COLUMNS.words.get(code) if "_" in code else None
    parts = [plain_name(part) for part in code.split(", ")]
    return known or ", ".join(p.replace("_", " ") if p.isidentifier() else p for p in parts)


def _cells(column: pd.Series) -> pd.Series:
    """A column as text; numbers with as many decimals as they need, at most two."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.map(_cell).astype(str)
    values = column.astype(float) * COLUMNS.times.get(column.name, 1)
    if column.name == "p_value":
        least = f"< {LEAST_P:.3f}"
        return values.map(lambda p: least if p <= LEAST_P else _number(p, 3))
    exact = values.dropna().round(2)
    decimals = next((d for d in (0, 1) if np.array_equal(exact.round(d), exact)), 2)
    return values.map(lambda value: _number(value, decimals))


def _cell(value: object) -> str:
    text = "-" if pd.isna(value) or value == "" else str(value)
    if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text):
        return _cells(pd.Series([float(text)]))[0]
    return {"True": "yes", "False": "no"}.get(text) or _words(text)


def _number(value: float, decimals: int) -> str:
    if 0 < abs(value) < 0.005:  # two decimals would make it zero
        return np.format_float_positional(float(f"{value:.2g}"), trim="-")
    return "-" if np.isnan(value) else f"{value:{',' * (abs(value) >= 10_000)}.{decimals}f}"


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


def interval_text(estimate: float, low: float, high: float, form: str = ".1f") -> str:
    """Write an estimate and its interval, "46.8 [44.6, 49.0]", or "46.8 (no interval)"."""
    interval = "(no interval)" if np.isnan(low) else f"[{low:{form}}, {high:{form}}]"
    return f"{estimate:{form}} {interval}"


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
    a claim can be judged; or no interval. "not published": there is no such number.

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
    judged = np.where(low.notna() & same_protocol, inside, "not comparable")
    verdict = np.where(np.isnan(known), "not published", judged)
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
