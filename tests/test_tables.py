"""qure_lib.tables: the published layout, and one rule for every verdict."""

import json

import numpy as np
import pandas as pd
import pytest

from qure_lib import tables
from qure_lib.reports import Reports
from qure_lib.statistics import Interval, bootstrap_ci


def ranks() -> pd.DataFrame:
    """Recall@10 of dress 1/2, shirt 3/4; Recall@50 of dress 2/2, shirt 3/4."""
    return pd.DataFrame({"category": ["dress"] * 2 + ["shirt"] * 4, "rank": [9, 10, 0, 0, 5, 50]})


def summary(**columns: float) -> pd.DataFrame:
    row = {"measure": "avg_r10", "estimate": 52.0, "low": 50.0, "high": 54.0, "n": 6016}
    return pd.DataFrame([row | columns])


@pytest.mark.parametrize(
    ("published", "same_protocol", "verdict"),
    [
        (52.60, True, "reproduced"),
        (54.00, True, "reproduced"),
        (49.99, True, "differs"),
        (54.01, True, "differs"),
        (52.60, False, "in kind"),
        (99.00, False, "in kind"),
        (np.nan, True, "not published"),
        (np.nan, False, "not published"),
    ],
)
def test_the_verdict_follows_one_rule(published, same_protocol, verdict):
    known = pd.Series({"avg_r10": published})
    compared = tables.compare_with_published(summary(), known, same_protocol)
    assert compared["verdict"].tolist() == [verdict]


def test_a_published_number_is_compared_at_its_own_two_decimals():
    interval = summary(low=50.0, high=53.9951)
    compared = tables.compare_with_published(interval, pd.Series({"avg_r10": 54.0}), True)
    assert compared["verdict"].tolist() == ["reproduced"]


def test_a_count_must_be_met_exactly():
    counted = tables.summarise_counts(pd.Series({"triplets": 5985}))
    for published, verdict in ((5985, "reproduced"), (5986, "differs")):
        known = pd.Series({"triplets": published})
        compared = tables.compare_with_published(counted, known, True)
        assert compared["verdict"].tolist() == [verdict]


def test_a_difference_is_given_only_under_the_same_protocol():
    known = pd.Series({"avg_r10": 52.6})
    same = tables.compare_with_published(summary(), known, True)
    other = tables.compare_with_published(summary(), known, False)
    assert same["difference"].tolist() == [pytest.approx(-0.6)]
    assert other["difference"].isna().all()


def test_a_measure_that_the_paper_lacks_is_said_to_lack():
    compared = tables.compare_with_published(summary(), pd.Series({"map5": 23.22}), True)
    assert compared["verdict"].tolist() == ["not published"]


def test_the_verdict_line_counts():
    compared = pd.DataFrame({"verdict": ["reproduced", "differs", "reproduced"]})
    assert tables.verdict_line(compared) == "Verdict: of 3 numbers, 2 reproduced, 1 differs."


def test_every_category_counts_the_same_in_the_averages():
    result = tables.summarise_recall(ranks()).set_index("measure")
    assert result["estimate"].to_dict() == pytest.approx(
        {
            "dress_r10": 50.0,
            "dress_r50": 100.0,
            "shirt_r10": 75.0,
            "shirt_r50": 75.0,
            "avg_r10": 62.5,
            "avg_r50": 87.5,
            "avg": 75.0,
        }
    )
    assert result["n"].to_dict()["avg"] == 6
    assert (result["low"] <= result["estimate"]).all()
    assert (result["estimate"] <= result["high"]).all()


def test_the_results_table_has_the_published_columns_and_one_row_a_method():
    frame = tables.results_table({"between_drops": ranks(), "top_k": ranks()})
    assert frame["method"].tolist() == ["between_drops", "top_k"]
    assert list(frame.columns[1:-1]) == tables.summarise_recall(ranks())["measure"].tolist()
    assert frame["queries"].tolist() == [6, 6]
    assert frame.loc[0, "dress_r50"] == "100.0 [100.0, 100.0]"


def test_cirr_and_circo_in_the_layouts_of_tables_3_and_5(root):
    ranked = pd.DataFrame({"rank": [0, 4, 7, 60], "subset_rank": [0, 1, 0, 3]})
    precision = pd.DataFrame({f"ap{k}": [k / 100, 0.0] for k in (5, 10, 25, 50)})
    precision["aspects"] = [("colour",), ()]
    layouts = {
        "table3_cirr_test": tables.results_table({"ours": ranked}, tables.summarise_cirr),
        "table5_circo_zero_shot": tables.results_table({"ours": precision}, tables.summarise_circo),
    }
    for name, frame in layouts.items():
        published = pd.read_csv(root / "reports" / "published" / f"{name}.csv")
        assert list(frame.columns) == [*published.columns, "queries"]
    values = tables.summarise_cirr(ranked).set_index("measure")["estimate"].to_dict()
    expected = {"r1": 25, "r5": 50, "r10": 75, "r50": 75, "rs1": 50, "rs2": 75, "rs3": 75}
    assert values == pytest.approx(expected | {"avg_r5_rs1": 50})
    assert tables.summarise_circo(precision)["estimate"].tolist() == [2.5, 5, 12.5, 25]


def test_half_of_cirrs_measures_where_half_was_ranked():
    ranked = pd.DataFrame({"rank": [0, 4, 7, 60], "subset_rank": [0, 1, 0, 3]})
    whole = tables.summarise_cirr(ranked)
    for column, measures in (("rank", slice(0, 4)), ("subset_rank", slice(4, 7))):
        part = tables.summarise_cirr(ranked[[column]])
        pd.testing.assert_frame_equal(part, whole[measures].reset_index(drop=True))


def test_circos_details_are_recall_of_the_target_and_map_by_aspect():
    per_query = pd.DataFrame({"rank": [0, 7, 60], "ap5": [1.0, 0, 0], "ap10": [1.0, 0.5, 0]})
    per_query["aspects"] = [("colour", "neck"), ("colour",), ()]
    found = tables.summarise_circo_details(per_query).set_index("measure")
    expected = {"r5": 100 / 3, "r10": 200 / 3, "map10_colour": 75, "map10_neck": 100}
    assert found["estimate"].to_dict() == pytest.approx(expected)
    assert found["n"].tolist() == [3, 3, 2, 1]
    assert found["low"].isna().tolist() == [False, False, False, True]  # one query: no interval


def test_preference_rates_resample_participants():
    agrees = np.array([1, 0, 1, 0.5, 1, 0])
    per_query = pd.DataFrame(
        {"agrees": agrees, "one_sided": [True, False, True, False, False, True]}
    )
    per_query["preferred"] = [1, 1, 1, 2, 2, 2]
    per_query["participant"] = list("aabbcc")
    found = tables.summarise_preference(per_query).set_index("measure")
    expected = {"preference_rate": 200 / 3, "agreement": 350 / 6, "base_rate": 50}
    assert found["estimate"].to_dict() == pytest.approx(expected)
    assert found["n"].tolist() == [3, 6, 6]
    clustered = bootstrap_ci(100 * agrees, clusters=list("aabbcc"))
    assert found.loc["agreement", ["low", "high"]].tolist() == [clustered.low, clustered.high]
    with pytest.raises(ValueError, match="no set 1 scores higher"):
        tables.summarise_preference(per_query.assign(one_sided=False))


def test_a_saved_table_is_csv_markdown_and_note(tmp_path):
    reports = Reports(tmp_path, "04_training")
    frame = pd.DataFrame({"method": ["QuRe"], "avg_r10": [52.6], "queries": [6016]})
    tables.save_table(frame, "table2_fashioniq", "Recall. Val, original split.", reports)
    pd.testing.assert_frame_equal(pd.read_csv(reports.tables / "table2_fashioniq.csv"), frame)
    assert (reports.tables / "table2_fashioniq.md").read_text() == (
        "| method | avg_r10 | queries |\n| --- | ---: | ---: |\n| QuRe | 52.60 | 6016 |\n"
    )
    note = json.loads((reports.tables / "table2_fashioniq.json").read_text())
    assert note["kind"] == "table" and note["title"] == "Recall"


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="table t: no rows"):
        tables.save_table(pd.DataFrame({"a": []}), "t", "c", Reports(tmp_path, "04_training"))


def test_markdown_cells():
    frame = pd.DataFrame({"a": [0.0005, np.nan, 12.345], "b": [True, False, True], "c": "x|y"})
    rows = tables.to_markdown(frame).splitlines()[2:]
    assert rows == ["| 0.0005 | yes | x\\|y |", "| - | no | x\\|y |", "| 12.35 | yes | x\\|y |"]


def test_published_rows_are_found_by_name(tmp_path):
    path = tmp_path / "table7.csv"
    path.write_text("method,backbone,avg\nQuRe,BLIP,57.08\nQuRe,BLIP-2,63.04\n")
    assert tables.read_published(path, "QuRe", backbone="BLIP-2").to_dict() == {"avg": 63.04}
    with pytest.raises(ValueError, match="2 rows with .*QuRe"):
        tables.read_published(path, "QuRe")
    with pytest.raises(ValueError, match=r"table9\.csv is missing"):
        tables.read_published(tmp_path / "table9.csv", "QuRe")


def test_a_published_file_with_a_row_a_measure(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text('quantity,count,source\ntriplets,5985,"FashionIQ, f71b16c"\n')
    assert tables.read_published(path).to_dict() == {"triplets": 5985}


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path / "reports", "05_ablations")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "better"), (-2, -0.1, "worse"), (-1, 1, "within noise"), (0, 1, "within noise")],
)
def test_a_direction_needs_an_interval_without_zero(low, high, verdict):
    assert tables.direction(Interval((low + high) / 2, low, high, 10, 10)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "in kind"), (-2, -0.1, "contradicted in kind"), (-1, 1, "within noise")],
)
def test_a_claim_is_judged_by_its_interval(reports, low, high, verdict):
    measured = Interval((low + high) / 2, low, high, 1440, 5)
    args = "fig4_top_k", "Recall@10 less recall@10.", measured, "SynthFashion", reports
    assert tables.save_claim(*args, seeds=5) == verdict
    note = json.loads((reports.root / "claims" / "fig4_top_k.json").read_text())
    assert (note["verdict"], note["n"], note["seeds"]) == (verdict, "1,440", 5)
    with pytest.raises(ValueError, match="no claim 'fig9'"):
        tables.save_claim("fig9", *args[1:])


def test_counts_are_reproduced_or_differ(reports):
    frame = pd.DataFrame({"measure": ["total_queries"], "reproduced": [3050]})
    for verdict in ("reproduced", "differs"):
        frame["verdict"] = verdict
        assert tables.save_count_claim("table1_counts", frame, "HP", reports) == verdict
    note = json.loads((reports.root / "claims" / "table1_counts.json").read_text())
    assert note["caption"] == "Counted: 3,050 total queries."
