"""Claims of the paper: one rule for each verdict, and a note of each measurement."""

import json

import pandas as pd
import pytest

from qure_lib.evaluation.statistics import Interval
from qure_lib.reporting import claims, tables


def note_of(reports, claim):
    return json.loads((reports.root / "claims" / f"{claim}.json").read_text())


def test_claims_are_measured_by_notebooks_that_are_there_or_say_what_they_need(root):
    notebooks = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    for claim in claims.read_claims().values():
        assert claim["notebook"] in notebooks or (not claim["notebook"] and claim["needs"])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "better"), (-2, -0.1, "worse"), (-1, 1, "within noise"), (0, 1, "within noise")],
)
def test_a_direction_needs_an_interval_without_zero(low, high, verdict):
    assert claims.direction(Interval((low + high) / 2, low, high, 10, 10)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "in kind"), (-2, -0.1, "contradicted in kind"), (-1, 1, "within noise")],
)
def test_a_claim_is_judged_by_its_interval(reports, low, high, verdict):
    measured = Interval((low + high) / 2, low, high, 1440, 5)
    args = "fig4_top_k", "Recall@10 less recall@10.", measured, "SynthFashion", reports
    assert claims.save_claim(*args, seeds=5) == verdict
    note = note_of(reports, "fig4_top_k")
    assert (note["verdict"], note["n"], note["seeds"]) == (verdict, "1,440", 5)
    with pytest.raises(ValueError, match="no claim 'fig9'"):
        claims.save_claim("fig9", *args[1:])


def test_counts_are_reproduced_or_differ(reports):
    frame = pd.DataFrame({"measure": ["total_queries"], "reproduced": [3050]})
    for verdict in ("reproduced", "differs"):
        frame["verdict"] = verdict
        assert claims.save_count_claim("table1_counts", frame, "HP", reports) == verdict
    note = note_of(reports, "table1_counts")
    assert note["caption"] == "Counted: 3,050 total queries."
    assert (note["interval"], note["n"], note["seeds"]) == ("exact", "3,050", "-")


def test_a_number_has_the_verdict_of_its_comparison(reports):
    row = {"measure": "avg", "estimate": 52.0, "low": 50.0, "high": 54.0, "n": 6016}
    for published, verdict in ((52.6, "reproduced"), (60.0, "differs")):
        known = pd.Series({"avg": published})
        (compared,) = tables.compare_with_published(pd.DataFrame([row]), known, True).iloc
        args = "table2_fashioniq", "The average recall.", compared, "FashionIQ val", reports
        assert claims.save_number_claim(*args) == verdict
    note = note_of(reports, "table2_fashioniq")
    assert (note["interval"], note["n"], note["seeds"]) == ("52.0 [50.0, 54.0]", "6,016", 1)
