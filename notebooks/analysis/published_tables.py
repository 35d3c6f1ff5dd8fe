"""Notebook 11: the arithmetic of the published tables, recomputed.

A check returns a frame with a row a number that it looks at: table, check, row (method and
measure), printed, expected, and flagged (they disagree beyond rounding, or
as the check says).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from report import claims, tables
from report.claims import Claim
from report.folder import Reports

from qure_lib.method.config import TrainConfig

FILES = {
    "Table 1": "table1_hpfiq_counts",
    "Table 2": "table2_fashioniq_val",
    "Table 3": "table3_cirr_test",
    "Table 4": "table4_hpfiq_preference",
    "Table 5": "table5_circo_zero_shot",
    "Table 6": "table6_cirr_same_backbone",
    "Table 7": "table7_fashioniq_same_backbone",
    "Table 8": "table8_hpfiq_circo_same_backbone",
    "Fig. 4": "fig4_strategies",
    "Fig. 5": "fig5_negative_set_size",
    "text": "text_differences",
    "later": "later_results",
    "FashionIQ": "fashioniq_counts",
}
CATEGORIES = ("dress", "shirt", "toptee")
_FASHIONIQ = {f"avg_{k}": [f"{c}_{k}" for c in CATEGORIES] for k in ("r10", "r50")}
_FASHIONIQ["avg"] = ["avg_r10", "avg_r50"]
_CIRR = {"avg_r5_rs1": ["r5", "rs1"]}
AVERAGES = {"Table 2": _FASHIONIQ, "Table 7": _FASHIONIQ, "Table 3": _CIRR, "Table 6": _CIRR}
RISING = {  # measures that cannot fall from one to the next
    "Table 2": [[f"{c}_r10", f"{c}_r50"] for c in CATEGORIES],
    "Table 3": [["r1", "r5", "r10", "r50"], ["rs1", "rs2", "rs3"]],
}
RISING |= {"Table 6": RISING["Table 3"], "Table 7": RISING["Table 2"]}
SHARED = {"Table 6": ["Table 3"], "Table 7": ["Table 2"], "Table 8": ["Table 4", "Table 5"]}
QURE, ITS_BACKBONE = "QuRe", "BLIP-2"  # the paper's own rows of Tables 2 to 5
AVERAGE = "average of its own row"
CLAIM = "published_averages"
COUNTED = ["r1", "r5", "r10", "r50", "rs1", "rs2", "rs3"]  # CIRR's shares of queries
SUBSET = 5  # images of a CIRR group that are ranked: six without the reference
HEADER_ENTRIES = 2  # of the file that CIRR's server takes: "version" and "metric"
HALF_DIGIT = 0.005  # what a number printed with two decimals may be off by
TWICE = HALF_DIGIT + 0.0005  # where it was first rounded to three decimals
Z = 1.96  # of a 95 % interval
Published = Mapping[str, pd.DataFrame]


def read_published_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the published numbers: the names of FILES -> frames as in their files.

    Raises:
        ValueError: a file is missing.
    """
    missing = [name for name in FILES.values() if not (folder / f"{name}.csv").is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; it is part of the repository")
    return {table: pd.read_csv(folder / f"{name}.csv") for table, name in FILES.items()}


def _frame(table: str, check: str, rows: Iterable[tuple[str, float, float, bool]]) -> pd.DataFrame:
    """Rows (row, printed, expected, flagged) of one check."""
    frame = pd.DataFrame(rows, columns=["row", "printed", "expected", "flagged"])
    frame.insert(0, "table", table)
    frame.insert(1, "check", check)
    return frame


def _name(row: pd.Series) -> str:
    """A row's method, with its backbone where the table has several."""
    return f"{row.method} ({row.backbone})" if "backbone" in row else row.method


def check_counts(published: Published) -> pd.DataFrame:
    """Table 1: the valid queries and the total from their parts."""
    n = published["Table 1"].set_index("quantity")["count"]
    valid = n.total_queries - n.excluded_irrelevant - n.excluded_inconsistent
    total = n.shirt_queries + n.toptee_queries
    pairs = [("valid queries", n.valid_queries, valid), ("all queries", n.total_queries, total)]
    rows = [(name, printed, sums, printed != sums) for name, printed, sums in pairs]
    return _frame("Table 1", "sum of its parts", rows)


def check_averages(published: Published, table: str) -> pd.DataFrame:
    """Each printed average against the mean of its parts as printed.

    The parts may be off by HALF_DIGIT, and so may their mean, and the average by as much again.
    """
    rows = []
    for _, row in published[table].iterrows():
        for average, parts in AVERAGES[table].items():
            mean = row[parts].astype(float).mean()
            flagged = abs(row[average] - mean) > 2 * HALF_DIGIT + 1e-9
            rows.append((f"{_name(row)} {average}", row[average], mean, flagged))
    return _frame(table, AVERAGE, rows)


def check_order(published: Published, table: str) -> pd.DataFrame:
    """Recalls lie in 0 to 100 % and never fall with K; expected is the least that is possible."""
    rows = []
    for _, row in published[table].iterrows():
        for measures in RISING[table]:
            values = [0.0, *row[measures], 100.0]
            for name, (low, value) in zip(measures, pairwise(values[:-1]), strict=True):
                rows.append((f"{_name(row)} {name}", value, low, not low <= value <= 100))
    return _frame(table, "rises with K, 0 to 100 %", rows)


def check_repeats(published: Published, table: str, least: int = 3) -> pd.DataFrame:
    """Pairs of methods that share `least` neighbouring numbers; printed is how many they share."""
    frame = published[table]
    measures = frame.select_dtypes("number").columns
    rows = []
    for (_, one), (_, other) in combinations(frame.iterrows(), 2):
        if one.method != other.method:
            shared = _longest_run(one[measures] == other[measures])
            named = f"{one.method} and {other.method}: {', '.join(shared)}"
            rows.append((named, len(shared), 0, len(shared) >= least))
    return _frame(table, "no two rows alike", rows)


def _longest_run(same: pd.Series) -> list[str]:
    """The longest run of neighbouring True, as their labels; the first of equal ones."""
    best: list[str] = []
    run: list[str] = []
    for label, equal in same.items():
        run = [*run, label] if equal else []
        best = max(best, run, key=len)
    return best


def check_shared_rows(published: Published, table: str) -> pd.DataFrame:
    """Numbers of Tables 6 to 8 that Tables 2 to 5 print as well."""
    rows = []
    for before in SHARED[table]:
        known = published[before].set_index("method")
        for _, row in published[table].iterrows():
            if row.method in known.index and (row.method != QURE or row.backbone == ITS_BACKBONE):
                for measure, value in known.loc[row.method].items():
                    named = f"{_name(row)} {measure}"
                    rows.append((named, row[measure], value, row[measure] != value))
    return _frame(table, f"as in {' and '.join(SHARED[table])}", rows)


def check_text(published: Published) -> pd.DataFrame:
    """Differences that the paper's text states, from the tables."""
    rows = []
    for said in published["text"].itertuples():
        measured = published[said.table].set_index("method")[said.measure]
        apart = measured[said.method] - measured[said.against]
        flagged = abs(said.points - apart) > 1e-9
        rows.append((f"{said.table}, {said.measure}", said.points, apart, flagged))
    return _frame("text", "difference to SPRC", rows)


def is_count(values: np.ndarray, n: int) -> np.ndarray:
    """Whether some count out of n, as a share in per cent with two decimals, gives the value.

    Source: the GRIM test (Brown and Heathers 2017), for shares; a value may have been rounded to
    three decimals first.
    """
    values = np.asarray(values, dtype=float)
    nearest = 100 * np.round(values * n / 100) / n
    return np.abs(values - nearest) <= TWICE + 1e-9


def check_shares(published: Published, table: str, queries: Mapping[str, int]) -> pd.DataFrame:
    """Recalls that no count of `queries` (by measure) gives; expected is the nearest one."""
    rows = []
    for _, row in published[table].iterrows():
        for measure, n in queries.items():
            nearest = 100 * round(row[measure] * n / 100) / n
            rows.append(
                (f"{_name(row)} {measure}", row[measure], nearest, not is_count(row[measure], n))
            )
    return _frame(table, f"a count out of {_numbers(queries.values())}", rows)


def _numbers(values: Iterable[int]) -> str:
    return " / ".join(f"{n:,}" for n in dict.fromkeys(values))


def count_queries(published: Published) -> dict[str, int]:
    """FashionIQ's val queries by measure of Table 2."""
    n = published["FashionIQ"].set_index("quantity")["count"]
    return {f"{c}_{k}": int(n[f"{c}_val_triplets"]) for c in CATEGORIES for k in ("r10", "r50")}


def check_chance(published: Published, queries: int) -> pd.DataFrame:
    """CIRR's Recall_subset@K that a random order of the group may give; flagged: it may."""
    rows = []
    for _, row in published["Table 3"].iterrows():
        for k in (1, 2, 3):
            chance = k / SUBSET
            half = 100 * Z * math.sqrt(chance * (1 - chance) / queries)
            value = row[f"rs{k}"]
            rows.append(
                (f"{row.method} rs{k}", value, 100 * chance, abs(value - 100 * chance) <= half)
            )
    return _frame("Table 3", "above chance in its group", rows)


def check_lead(published: Published, table: str) -> pd.DataFrame:
    """The paper's own row against the best of the others; flagged: it does not lead."""
    own = published[table].set_index("method").loc[QURE]
    others = published[table].set_index("method").drop(QURE)
    rows = [
        (f"{measure}, best: {others[measure].idxmax()}", value, others[measure].max(), False)
        for measure, value in own.items()
    ]
    frame = _frame(table, "QuRe leads its column", rows)
    return frame.assign(flagged=frame.printed < frame.expected)


def check_figures(published: Published) -> pd.DataFrame:
    """Figures 4 and 5 as read from the plots, against the paper's protocol.

    All strategies share a warm-up, so their curves begin together (expected: the median start); set
    sizes exist at the definitions alone (expected: the nearest definition).
    """
    starts = published["Fig. 4"].set_index("epoch").loc[0]
    middle = starts.median()
    begin = [(name, value, middle, value != middle) for name, value in starts.items()]
    frames = [_frame("Fig. 4", "one start after one warm-up", begin)]
    for data, epochs in {"fashioniq": 30, "cirr": 50}.items():
        defined = TrainConfig(epochs).definition_epochs
        read = [(e, min(defined, key=lambda d, e=e: abs(d - e))) for e in published["Fig. 5"].epoch]
        rows = [(f"{data}, epoch {e}", e, nearest, e != nearest) for e, nearest in read]
        frames.append(_frame("Fig. 5", f"at a definition, {epochs} epochs", rows))
    return pd.concat(frames)


def audit(published: Published, cirr_queries: int) -> pd.DataFrame:
    """All checks of the tables and of the text, one after the other."""
    of_cirr = {n: dict.fromkeys(COUNTED, n) for n in (cirr_queries, cirr_queries + HEADER_ENTRIES)}
    checks = [check_counts(published), *(check_averages(published, table) for table in AVERAGES)]
    checks += [check_shared_rows(published, table) for table in SHARED]
    checks += [check_text(published), *(check_order(published, table) for table in RISING)]
    checks += [check_repeats(published, f"Table {n}") for n in (2, 3, 5)]
    checks += [check_shares(published, t, count_queries(published)) for t in ("Table 2", "Table 7")]
    checks += [
        check_shares(published, t, n) for t in ("Table 3", "Table 6") for n in of_cirr.values()
    ]
    checks += [check_chance(published, cirr_queries)]
    checks += [check_lead(published, f"Table {n}") for n in (2, 3, 4, 5)]
    return pd.concat([*checks, check_figures(published)], ignore_index=True)


def summarise(audited: pd.DataFrame) -> pd.DataFrame:
    """One row a check: table, check, numbers, flagged, and of the flagged ones the largest
    difference (printed less expected; 0 if there is none) with its row.
    """
    lines = []
    for (table, check), part in audited.groupby(["table", "check"], sort=False):
        flagged = part[part.flagged]
        apart = (flagged.printed - flagged.expected).sort_values(key=abs, ascending=False)
        line = {"table": table, "check": check, "numbers": len(part), "flagged": len(flagged)}
        line["largest difference"] = apart.iloc[0] if len(apart) else 0.0
        lines.append(line | {"its row": flagged.row[apart.index[0]] if len(apart) else "-"})
    return pd.DataFrame(lines)


def choose_averages(audited: pd.DataFrame) -> pd.DataFrame:
    """The rows of `check_averages` among those of `audit`."""
    return audited[audited.check == AVERAGE]


def describe_averages(averages: pd.DataFrame) -> str:
    """How many printed averages do not follow from their own row, and which."""
    wrong = averages[averages.flagged]
    named = [
        f"{row.table}, {row.row}: {row.printed:.2f} printed, {row.expected:.2f} recomputed"
        for row in wrong.itertuples()
    ]
    return (
        f"Audit: {len(wrong)} of {len(averages)} published averages do not follow from their own "
        f"rows ({'; '.join(named) or 'none'})."
    )


def plot_averages(ax: Axes, averages: pd.DataFrame) -> Axes:
    """Draw every printed average less its recomputed one; the band is what rounding explains."""
    ax.axvspan(-2 * HALF_DIGIT, 2 * HALF_DIGIT, color="0.85", lw=0, label="rounding")
    names = list(averages.table.unique())
    for flagged, name, look in ((False, "follows", ("C0", "o")), (True, "does not", ("C3", "v"))):
        part = averages[averages.flagged == flagged]
        place = part.table.map(names.index) + 0.5 * (part.groupby("table").cumcount() % 7 - 3) / 7
        style = {"s": 14, "color": look[0], "marker": look[1], "label": name}
        ax.scatter(part.printed - part.expected, place, **style)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xscale("symlog", linthresh=0.02)
    ax.set_xlim(-0.2, 100)
    ax.set(xlabel="Printed less recomputed average (points)", ylabel="Published table")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3)
    return ax


def try_denominators(published: Published, candidates: Sequence[int]) -> pd.DataFrame:
    """How many of the distinct recalls of Tables 3 and 6 are a count out of n, for every n.

    Returns:
        Columns n, counts, values (how many there are), share, and chance: the share among all
        numbers from 0.00 to 100.00; both in per cent.
    """
    values = np.unique(np.concatenate([published[t][COUNTED] for t in ("Table 3", "Table 6")]))
    n = np.asarray(candidates)
    counts = np.array([is_count(values, candidate).sum() for candidate in n])
    printable = np.arange(10_001) / 100
    chance = [100 * is_count(printable, candidate).mean() for candidate in n]
    share = 100 * counts / len(values)
    return pd.DataFrame(
        {"n": n, "counts": counts, "values": len(values), "share": share, "chance": chance}
    )


def describe_denominator(tried: pd.DataFrame, queries: int) -> str:
    """What CIRR's server seems to divide by."""
    by_n, entries = tried.set_index("n"), queries + HEADER_ENTRIES
    values, chance = by_n["values"].iloc[0], by_n.chance[queries]
    return (
        f"CIRR: of {values} distinct recalls {by_n.counts[entries]} are a count out of "
        f"{entries:,}, and {by_n.counts[queries]} out of its {queries:,} queries (by chance "
        f"{values * chance / 100:.0f}): the server seems to divide by the entries of the file, "
        "its version and metric included."
    )


def plot_denominators(ax: Axes, tried: pd.DataFrame, queries: int) -> Axes:
    """Draw `try_denominators`, with the queries and the entries of a submission marked."""
    ax.plot(tried.n, tried.share, color="0.6", linewidth=0.6, label="any n")
    ax.plot(tried.n, tried.chance, color="0.3", linestyle="--", linewidth=0.9, label="by chance")
    marks = {queries: ("queries", "C0", "o"), queries + HEADER_ENTRIES: ("entries", "C3", "v")}
    for n, (name, colour, marker) in marks.items():
        share = tried.set_index("n").share[n]
        ax.scatter(n, share, color=colour, marker=marker, s=20, zorder=3, label=f"{n:,} {name}")
    ax.set(xlabel="Divided by n", ylabel="Recalls that are a count (%)", ylim=(0, 110))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)
    return ax


def save_claim(averages: pd.DataFrame, reports: Reports) -> str:
    """Judge the claim that every published average is the mean of its own row; the verdict."""
    follow = int((~averages.flagged).sum())
    row = {"measure": "averages", "estimate": follow, "low": follow, "high": follow}
    summary = pd.DataFrame([row | {"n": len(averages)}])
    known = pd.Series({"averages": len(averages)})
    (judged,) = tables.compare_with_published(summary, known, same_protocol=True).iloc
    wrong = ", ".join(averages[averages.flagged].table + ", " + averages[averages.flagged].row)
    measure = f"Averages that follow from their own row, of {len(averages)}."
    caveat = f"Those that do not: {wrong}." if wrong else ""
    claim = Claim(CLAIM, measure, "the published tables", unit="averages", caveat=caveat)
    return claims.save_number_claim(claim, judged, reports)
