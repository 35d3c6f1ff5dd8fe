"""Claims of the paper: one rule for each verdict, and a note of each measurement."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from report import claims, tables
from report.claims import DRAWN, JUDGED, Claim

from qure_lib.evaluation.statistics import Interval

TOP_K = Claim("fig4_top_k", "Recall@10 less recall@10.", "SynthFashion", seeds=5)


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


def test_without_an_interval_a_difference_is_within_noise(reports):
    unknown = Interval(3.0, math.nan, math.nan, 1, 1)
    assert claims.save_claim(TOP_K, unknown, reports) == "within noise"
    assert note_of(reports, TOP_K.name)["interval"] == "3.0 (no interval)"


@pytest.mark.parametrize("data", [DRAWN, JUDGED])
@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "supported {}"), (-2, -0.1, "contradicted {}"), (-1, 1, "within noise")],
)
def test_a_claim_is_judged_by_its_interval_and_says_on_what_data(reports, low, high, verdict, data):
    measured = Interval((low + high) / 2, low, high, 1440, 5)
    verdict = verdict.format(data)
    assert claims.save_claim(replace(TOP_K, data=data), measured, reports) == verdict
    assert note_of(reports, "fig4_top_k")["verdict"] == verdict


def test_a_claim_s_note_holds_what_the_page_shows_of_it(reports):
    measured = Interval(1.25, 0.5, 2, 1440, 5)
    claims.save_claim(TOP_K, measured, reports)
    plain = note_of(reports, "fig4_top_k")
    assert plain["caption"] == "Recall@10 less recall@10." and plain["on"] == "SynthFashion"
    assert (plain["interval"], plain["n"], plain["seeds"]) == ("1.2 [0.5, 2.0]", "1,440 queries", 5)
    assert plain["caveat"] == ""
    untrained = replace(TOP_K, seeds=None, unit="judgements", caveat="Few of them.")
    claims.save_claim(untrained, measured, reports)
    note = note_of(reports, "fig4_top_k")
    assert (note["n"], note["seeds"], note["caveat"]) == ("1,440 judgements", "-", "Few of them.")


def test_an_unknown_claim_is_refused_and_leaves_no_note(reports):
    with pytest.raises(ValueError, match="no claim 'fig9'.*fig4_top_k"):
        claims.save_claim(replace(TOP_K, name="fig9"), Interval(1, 0.5, 2, 9, 9), reports)
    assert not (reports.root / "claims" / "fig9.json").exists()


def test_counts_are_reproduced_or_differ(reports):
    frame = pd.DataFrame({"measure": ["total_queries"], "reproduced": [3050]})
    for verdict in ("reproduced", "differs"):
        frame["verdict"] = verdict
        assert claims.save_count_claim("table1_counts", frame, "HP", reports) == verdict
    note = note_of(reports, "table1_counts")
    assert note["caption"] == "Counted: 3,050 total queries."
    assert (note["interval"], note["n"], note["seeds"]) == ("exact", "3,050 judgements", "-")


def test_a_number_has_the_verdict_of_its_comparison(reports):
    row = {"measure": "avg", "estimate": 52.0, "low": 50.0, "high": 54.0, "n": 6016}
    for published, verdict in ((52.6, "reproduced"), (60.0, "differs")):
        known = pd.Series({"avg": published})
        (compared,) = tables.compare_with_published(pd.DataFrame([row]), known, True).iloc
        claim = Claim("table2_fashioniq", "The average recall.", "FashionIQ val", seeds=1)
        assert claims.save_number_claim(claim, compared, reports) == verdict
    note = note_of(reports, "table2_fashioniq")
    assert (note["interval"], note["n"], note["seeds"]) == ("52.0 [50.0, 54.0]", "6,016 queries", 1)
