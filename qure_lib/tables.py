"""Tables: per-query results -> the paper's layouts, and reproduced beside published numbers.

A *summary* is a frame with one row a measure and the columns measure, estimate, low, high, n.
Measures carry the names of the published files' columns ("dress_r10"), rates are in per cent.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qure_lib.metrics import recall_at_k
from qure_lib.reports import Reports, read_claims
from qure_lib.statistics import Interval, bootstrap_ci


def save_table(frame: pd.DataFrame, name: str, caption: str, reports: Reports) -> None:
    """Write a table as CSV (full precision) and Markdown (to be read), with a note for the index.

    Args:
        frame: the table; its index is not written.
        name: file name without suffix, by the paper's number ("table2_synthfashion", "extra_...").
        caption: the first sentence is the title in the index.
        reports: where the table goes.

    Raises:
        ValueError: an empty frame, or a name that is no plain file name.
    """
    if frame.empty:
        raise ValueError(f"table {name}: no rows; pass the frame that the table shows")
    stem = reports.write_note("table", name, caption)
    frame.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")
    stem.with_suffix(".md").write_text(to_markdown(frame), encoding="utf-8")


def to_markdown(frame: pd.DataFrame) -> str:
    """The frame as a Markdown table, numbers to the right and floats with two decimals."""
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    rule = ["---:" if right else "---" for right in numeric]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    lines = [[str(column) for column in frame.columns], rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is pd.NA:
        return "-"
    if isinstance(value, float):
        if np.isnan(value):
            return "-"
        return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
    return str(value).replace("|", "\\|")


def summarise_recall(ranks: pd.DataFrame, ks: tuple[int, ...] = (10, 50)) -> pd.DataFrame:
    """Recall@K by category, its mean over the categories, and the mean of those: a summary.

    Every category counts the same in the means: a query weighs 1 / its category's size.

    Args:
        ranks: one row a query, with the columns category and rank (of the target, 0-based).
        ks: the cut-offs.

    Returns:
        Summary in per cent, in the published order: dress_r10, dress_r50, ..., avg_r10, avg_r50,
        avg; `n` is the number of queries and the interval is bootstrapped over them.

    Source: METHOD section 6, FashionIQ val.
    """
    hits = {k: 100 * np.asarray(recall_at_k(ranks["rank"].to_numpy(), k)) for k in ks}
    category = ranks["category"].to_numpy()
    weights = (1 / ranks.groupby("category")["rank"].transform("size")).to_numpy()
    rows = [
        _row(f"{name}_r{k}", bootstrap_ci(hits[k][category == name]))
        for name in dict.fromkeys(category)
        for k in ks
    ]
    rows += [_row(f"avg_r{k}", bootstrap_ci(hits[k], weights=weights)) for k in ks]
    rows += [_row("avg", bootstrap_ci(np.mean(list(hits.values()), axis=0), weights=weights))]
    return pd.DataFrame(rows)


def summarise_cirr(ranks: pd.DataFrame) -> pd.DataFrame:
    """CIRR's measures as a summary in per cent, in the order of Table 3: r1, ..., rs1, ..., avg.

    Args:
        ranks: one row a query, with the columns rank and subset_rank (see `evaluate_cirr`), or
            one of them (see `score_cirr`), and then only its measures.
    """
    rates = {}
    if "rank" in ranks:
        rates |= {f"r{k}": recall_at_k(ranks["rank"], k) for k in (1, 5, 10, 50)}
    if "subset_rank" in ranks:
        rates |= {f"rs{k}": recall_at_k(ranks["subset_rank"], k) for k in (1, 2, 3)}
    if {"r5", "rs1"} <= rates.keys():
        rates["avg_r5_rs1"] = (rates["r5"] + rates["rs1"]) / 2
    return pd.DataFrame([_row(m, bootstrap_ci(100 * values)) for m, values in rates.items()])


def summarise_circo(precision: pd.DataFrame) -> pd.DataFrame:
    """CIRCO's mAP@k as a summary in per cent, in the order of Table 5: map5, map10, ...

    Args:
        precision: one row a query, with a column ap{k} a cut-off (see `evaluate_circo`).
    """
    columns = [name for name in precision if name.startswith("ap")]
    return pd.DataFrame([_row(f"m{c}", bootstrap_ci(100 * precision[c])) for c in columns])


def summarise_circo_details(per_query: pd.DataFrame) -> pd.DataFrame:
    """CIRCO's other measures as a summary in per cent: r5, ... of the target, map10_{aspect}.

    Args:
        per_query: of `evaluate_circo`. An aspect of a single query has no interval (NaN).
    """
    cuts = [name.removeprefix("ap") for name in per_query if name.startswith("ap")]
    rows = [_row(f"r{k}", bootstrap_ci(100 * recall_at_k(per_query["rank"], int(k)))) for k in cuts]
    for aspect, group in per_query.explode("aspects").dropna().groupby("aspects"):
        values = 100 * group["ap10"].to_numpy()
        alone = Interval(values[0], math.nan, math.nan, 1, 1)
        rows.append(_row(f"map10_{aspect}", bootstrap_ci(values) if len(values) > 1 else alone))
    return pd.DataFrame(rows)


def summarise_preference(per_query: pd.DataFrame) -> pd.DataFrame:
    """HP-FashionIQ's rates as a summary in per cent, participants resampled whole.

    Args:
        per_query: of `score_hp_fashioniq`.

    Returns:
        preference_rate (one-sided, as published; n counts its rows), agreement (two-sided) and
        base_rate (set 1 preferred at all, which a random scorer gets for the first).

    Raises:
        ValueError: the scorer never prefers set 1, so there is no one-sided rate.
    """
    if not per_query["one_sided"].any():
        raise ValueError("no set 1 scores higher than its set 2, so there is no one-sided rate")
    agrees, clusters = 100 * per_query["agrees"], per_query["participant"]
    rows = {
        "preference_rate": bootstrap_ci(agrees, per_query["one_sided"], clusters),
        "agreement": bootstrap_ci(agrees, clusters=clusters),
        "base_rate": bootstrap_ci(100 * (per_query["preferred"] == 1), clusters=clusters),
    }
    return pd.DataFrame([_row(measure, interval) for measure, interval in rows.items()])


@dataclass(frozen=True)
class Protocol:
    """How a data set's per-query results become its table of the paper.

    Attributes:
        summarise: per-query results -> a summary.
        paper: the paper's table of that layout.
        table: the same, as file names begin.
        published: its file in reports/published/.
        recall10: the measure that is Recall@10 over all queries.
    """

    summarise: Callable[[pd.DataFrame], pd.DataFrame]
    paper: str
    table: str
    published: str
    recall10: str


PROTOCOLS = {
    "fashioniq": Protocol(
        summarise_recall, "Table 2", "table2", "table2_fashioniq_val.csv", "avg_r10"
    ),
    "cirr": Protocol(summarise_cirr, "Table 3", "table3", "table3_cirr_test.csv", "r10"),
}


def _row(measure: str, interval: Interval) -> dict[str, object]:
    return {
        "measure": measure,
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def summarise_counts(counts: pd.Series) -> pd.DataFrame:
    """Counts by name as a summary: a count is exact, so low = high = estimate."""
    columns = dict.fromkeys(("estimate", "low", "high", "n"), counts.to_numpy())
    return pd.DataFrame({"measure": counts.index.to_numpy()} | columns)


def results_table(
    per_query: Mapping[str, pd.DataFrame],
    summarise: Callable[[pd.DataFrame], pd.DataFrame] = summarise_recall,
) -> pd.DataFrame:
    """Results in the paper's layout: one row a method, "46.8 [44.6, 49.0]" a cell.

    Args:
        per_query: method -> one row a query, as `summarise` takes it.
        summarise: `summarise_recall` (Tables 2 and 7), `summarise_cirr` (Table 3) or
            `summarise_circo` (Table 5).
    """
    rows = []
    for method, frame in per_query.items():
        summary = summarise(frame)
        cells = {r.measure: interval_text(r.estimate, r.low, r.high) for r in summary.itertuples()}
        rows.append({"method": method} | cells | {"queries": len(frame)})
    return pd.DataFrame(rows)


def interval_text(estimate: float, low: float, high: float) -> str:
    """An estimate and its interval as a reader wants them: "46.8 [44.6, 49.0]"."""
    return f"{estimate:.1f} [{low:.1f}, {high:.1f}]"


def read_published(path: str | Path, method: str | None = None, **where: str) -> pd.Series:
    """One method's published numbers, indexed by measure.

    Args:
        path: a file of reports/published/.
        method: the row to take; None for a file with a row a measure (name, value, ...).
        where: further columns that choose the row (backbone="BLIP-2").

    Raises:
        ValueError: the file is missing, or not exactly one row fits.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; the published numbers are in reports/published/")
    frame = pd.read_csv(path)
    if method is None:
        return frame.set_index(frame.columns[0]).iloc[:, 0].rename("published")
    where = {"method": method, **where}
    rows = frame[(frame[list(where)] == pd.Series(where)).all(axis=1)]
    if len(rows) != 1:
        raise ValueError(f"{path}: {len(rows)} rows with {where}; name one row")
    return rows.iloc[0].drop(list(where)).rename("published")


def compare_with_published(
    summary: pd.DataFrame, published: pd.Series, same_protocol: bool
) -> pd.DataFrame:
    """Put reproduced numbers beside published ones and judge each by one rule.

    "reproduced": the published number lies in the interval, at the published two decimals.
    "differs": it does not. "in kind": another data set or protocol, so only the direction of a
    claim can be judged. "not published": there is no such number.

    Args:
        summary: measure, estimate, low, high, n; a count has low = high = estimate.
        published: numbers by measure; see `read_published`.
        same_protocol: whether data set and protocol are the published ones.

    Returns:
        Columns measure, reproduced, low, high, n, published, difference, verdict.
    """
    known = pd.to_numeric(published.reindex(summary["measure"])).to_numpy()
    low, high = (summary[column].astype(float).round(2) for column in ("low", "high"))
    inside = np.where((low <= known) & (known <= high), "reproduced", "differs")
    verdict = np.where(np.isnan(known), "not published", inside if same_protocol else "in kind")
    return summary.rename(columns={"estimate": "reproduced"}).assign(
        published=known,
        difference=summary["estimate"].to_numpy() - known if same_protocol else np.nan,
        verdict=verdict,
    )


def verdict_line(compared: pd.DataFrame) -> str:
    """One line that counts the verdicts of `compare_with_published`."""
    counts = compared["verdict"].value_counts(sort=False)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Verdict: of {len(compared)} numbers, {parts}."


def direction(difference: Interval) -> str:
    """What an interval of a difference says: "better" or "worse" where it leaves out zero.

    "within noise" otherwise.
    """
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"


def save_claim(
    name: str, measure: str, measured: Interval, on: str, reports: Reports, seeds: int | None = None
) -> str:
    """Judge one claim of the paper, and write it for the table that opens the index.

    "in kind": on other data than the paper's, and the interval lies on the claim's side of zero.
    "contradicted in kind": it lies on the other side. "within noise": it holds zero.

    Args:
        name: a claim of qure_lib/claims.csv.
        measure: what was measured, as a sentence.
        measured: a difference, above zero where the claim holds.
        on: the data set.
        reports: where it goes.
        seeds: how many training seeds it covers; None where nothing was trained.

    Returns:
        The verdict.

    Raises:
        ValueError: no such claim.
    """
    says = {"better": "in kind", "worse": "contradicted in kind"}
    verdict = says.get(direction(measured), "within noise")
    text = interval_text(measured.estimate, measured.low, measured.high)
    _write_claim(
        name, measure, reports, verdict=verdict, interval=text, n=measured.n, on=on, seeds=seeds
    )
    return verdict


def save_count_claim(name: str, compared: pd.DataFrame, on: str, reports: Reports) -> str:
    """Judge a claim of exact counts: "reproduced" if all of `compare_with_published` are."""
    verdict = "reproduced" if (compared["verdict"] == "reproduced").all() else "differs"
    names = compared["measure"].str.replace("_", " ")
    pairs = zip(compared["reproduced"], names, strict=True)
    measure = "Counted: " + ", ".join(f"{count:,.0f} {name}" for count, name in pairs) + "."
    n = int(compared["reproduced"].max())
    _write_claim(name, measure, reports, verdict=verdict, interval="exact", n=n, on=on, seeds=None)
    return verdict


def save_number_claim(
    name: str, measure: str, row: pd.Series, on: str, reports: Reports, seeds: int = 1
) -> str:
    """Judge a claim of one number by its row of `compare_with_published`; see `save_claim`."""
    text = interval_text(row["reproduced"], row["low"], row["high"])
    about = {"verdict": row["verdict"], "interval": text, "n": int(row["n"])}
    _write_claim(name, measure, reports, **about, on=on, seeds=seeds)
    return row["verdict"]


def _write_claim(name: str, measure: str, reports: Reports, **about: Any) -> None:
    if name not in read_claims():
        raise ValueError(f"no claim {name!r} in qure_lib/claims.csv; there are {[*read_claims()]}")
    about |= {"n": f"{about['n']:,}", "seeds": about["seeds"] or "-"}
    reports.write_note("claim", name, measure, **about)
