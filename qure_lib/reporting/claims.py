"""The paper's claims, and what was measured of each."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from qure_lib.evaluation.statistics import Interval

from .reports import Reports
from .tables import interval_text


def read_claims() -> dict[str, dict[str, str]]:
    """Read the paper's claims: name -> source, says, notebook (that measures it, or ""), needs."""
    with open(Path(__file__).with_name("claims.csv"), encoding="utf-8", newline="") as stream:
        return {row["claim"]: row for row in csv.DictReader(stream)}


def direction(difference: Interval) -> str:
    """Judge a difference: "better" or "worse" if its interval leaves out 0, else "within noise"."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"


def save_claim(
    name: str, measure: str, measured: Interval, on: str, reports: Reports, seeds: int | None = None
) -> str:
    """Judge one claim of the paper on other data, and save it for the table that opens the index.

    Args:
        name: a claim of claims.csv.
        measure: what was measured, as a sentence.
        measured: a difference, above zero where the claim holds.
        on: the data set.
        seeds: how many training seeds it covers; None if nothing was trained.

    Returns:
        The verdict: "in kind" if the interval lies above zero, "contradicted in kind" if it lies
        below, "within noise" if it holds zero.

    Raises:
        ValueError: no such claim.
    """
    verdicts = {"better": "in kind", "worse": "contradicted in kind"}
    verdict = verdicts.get(direction(measured), "within noise")
    text = interval_text(measured.estimate, measured.low, measured.high)
    about = {"verdict": verdict, "interval": text, "n": measured.n, "on": on, "seeds": seeds}
    return _write_claim(name, measure, reports, about)


def save_count_claim(name: str, compared: pd.DataFrame, on: str, reports: Reports) -> str:
    """Judge a claim of exact counts: "reproduced" if all of `compare_with_published` are."""
    verdict = "reproduced" if (compared["verdict"] == "reproduced").all() else "differs"
    names = compared["measure"].str.replace("_", " ")
    pairs = zip(compared["reproduced"], names, strict=True)
    measure = "Counted: " + ", ".join(f"{count:,.0f} {name}" for count, name in pairs) + "."
    about = {"verdict": verdict, "interval": "exact", "n": int(compared["reproduced"].max())}
    return _write_claim(name, measure, reports, about | {"on": on, "seeds": None})


def save_number_claim(
    name: str, measure: str, row: pd.Series, on: str, reports: Reports, seeds: int = 1
) -> str:
    """Judge a claim of one number by its row of `compare_with_published`; see `save_claim`."""
    text = interval_text(row["reproduced"], row["low"], row["high"])
    about = {"verdict": row["verdict"], "interval": text, "n": int(row["n"])}
    return _write_claim(name, measure, reports, about | {"on": on, "seeds": seeds})


def _write_claim(name: str, measure: str, reports: Reports, about: dict[str, Any]) -> str:
    """Write a claim's note; return its verdict."""
    if name not in read_claims():
        raise ValueError(f"no claim {name!r}; there are {[*read_claims()]} in reporting/claims.csv")
    about |= {"n": f"{about['n']:,}", "seeds": about["seeds"] or "-"}
    reports.write_note("claim", name, measure, **about)
    return about["verdict"]
