"""The claims of the paper and of this kit, and what was measured of each."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qure_lib.evaluation.statistics import Interval

from .folder import Reports
from .tables import interval_text

DRAWN, JUDGED = "on drawn data", "on real judgements"


@dataclass(frozen=True)
class Claim:
    """What was measured of one claim.

    name: of claims.csv. measure: what was measured, as a sentence. on: the data set. seeds: how
    many training seeds it covers; None if nothing was trained. unit: what n counts. caveat: what a
    reader must know beside it, as a sentence. data: DRAWN or JUDGED.
    """

    name: str
    measure: str
    on: str
    seeds: int | None = None
    unit: str = "queries"
    caveat: str = ""
    data: str = DRAWN


def read_claims() -> dict[str, dict[str, str]]:
    """Read the claims: name -> source, says, notebook (measures it, or ""), needs, command."""
    with open(Path(__file__).with_name("claims.csv"), encoding="utf-8", newline="") as stream:
        return {row["claim"]: row for row in csv.DictReader(stream)}


def direction(difference: Interval) -> str:
    """Judge a difference: "better" or "worse" by an interval without 0, else "within noise"."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "within noise"


def save_claim(claim: Claim, measured: Interval, reports: Reports) -> str:
    """Judge a claim on other data than the paper's, and save it for the table that opens the index.

    Args:
        measured: a difference, above zero where the claim holds.

    Returns:
        The verdict: "supported on drawn data" (or "on real judgements") if the interval lies above
        zero, "contradicted on ..." if it lies below, "within noise" if it holds zero.

    Raises:
        ValueError: no such claim.
    """
    verdicts = {"better": f"supported {claim.data}", "worse": f"contradicted {claim.data}"}
    verdict = verdicts.get(direction(measured), "within noise")
    text = interval_text(measured.estimate, measured.low, measured.high)
    return _write_claim(claim, verdict, text, measured.n, reports)


def save_count_claim(name: str, compared: pd.DataFrame, on: str, reports: Reports) -> str:
    """Judge a claim of exact counts: "reproduced" if all of `compare_with_published` are."""
    verdict = "reproduced" if (compared["verdict"] == "reproduced").all() else "differs"
    names = compared["measure"].str.replace("_", " ")
    pairs = zip(compared["reproduced"], names, strict=True)
    measure = "Counted: " + ", ".join(f"{count:,.0f} {name}" for count, name in pairs) + "."
    claim = Claim(name, measure, on, unit="judgements")
    return _write_claim(claim, verdict, "exact", int(compared["reproduced"].max()), reports)


def save_number_claim(claim: Claim, row: pd.Series, reports: Reports) -> str:
    """Judge a claim of one number by its row of `compare_with_published`; see `save_claim`."""
    text = interval_text(row["reproduced"], row["low"], row["high"])
    return _write_claim(claim, row["verdict"], text, int(row["n"]), reports)


def _write_claim(claim: Claim, verdict: str, interval: str, n: int, reports: Reports) -> str:
    """Write a claim's note; return its verdict."""
    if claim.name not in read_claims():
        known = [*read_claims()]
        raise ValueError(
            f"no claim {claim.name!r}; there are {known} in notebooks/report/claims.csv"
        )
    about: dict[str, Any] = {"verdict": verdict, "interval": interval, "on": claim.on}
    about |= {"n": f"{n:,} {claim.unit}", "seeds": claim.seeds or "-", "caveat": claim.caveat}
    reports.write_note("claim", claim.name, claim.measure, **about)
    return verdict
