"""Tables: the published layout, and one rule for every verdict."""

import inspect
import json
import re

import numpy as np
import pandas as pd
import pytest
from markup import parse
from nbconvert.filters import markdown2html_mistune
from report import tables

from qure_lib.evaluation import circo, cirr, fashioniq
from qure_lib.evaluation.statistics import paired_bootstrap
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining_report import MiningReport


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
        (52.60, False, "not comparable"),
        (99.00, False, "not comparable"),
        (np.nan, True, "not published"),
        (np.nan, False, "not published"),
    ],
)
def test_the_verdict_follows_one_rule(published, same_protocol, verdict):
    known = pd.Series({"avg_r10": published})
    compared = tables.compare_with_published(summary(), known, same_protocol)
    assert compared["verdict"].tolist() == [verdict]


def test_without_an_interval_nothing_is_reproduced_and_nothing_differs():
    alone = summary(low=np.nan, high=np.nan)
    compared = tables.compare_with_published(alone, pd.Series({"avg_r10": 52.0}), True)
    assert compared["verdict"].tolist() == ["not comparable"]


def test_an_unknown_interval_is_said_in_words():
    ranks = pd.DataFrame({"category": ["dress", "shirt"], "rank": [3, 60]})
    (row,) = tables.results_table({"a": ranks}, fashioniq.summarise_recall).to_dict("records")
    assert row["dress_r10"] == "100.0 (no interval)" and row["avg_r10"].startswith("50.0 [")
    assert tables.interval_text(1.234, np.nan, np.nan, "+.2f") == "+1.23 (no interval)"
    assert tables.interval_text(1.234, -0.5, 2, "+.1f") == "+1.2 [-0.5, +2.0]"


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


def test_only_the_columns_of_a_comparison_are_kept():
    more = summary().assign(words="Recall@10", unit="%")[
        ["words", "measure", "unit", "n", "high", "low", "estimate"]
    ]
    known = pd.Series({"avg_r10": 52.6})
    compared = tables.compare_with_published(more, known, True)
    columns = "measure reproduced low high n published difference verdict"
    assert list(compared.columns) == columns.split()
    pd.testing.assert_frame_equal(compared, tables.compare_with_published(summary(), known, True))


def test_a_measure_that_the_paper_lacks_is_not_published():
    compared = tables.compare_with_published(summary(), pd.Series({"map5": 23.22}), True)
    assert compared["verdict"].tolist() == ["not published"]


def test_the_verdict_line_counts():
    compared = pd.DataFrame({"verdict": ["reproduced", "differs", "reproduced"]})
    assert tables.verdict_line(compared) == "Verdict: of 3 numbers, 2 reproduced, 1 differs."


def test_the_results_table_has_the_published_columns_and_one_row_a_method():
    methods = {"cosine": ranks(), "top_k": ranks()}
    frame = tables.results_table(methods, fashioniq.summarise_recall)
    assert frame["method"].tolist() == ["cosine", "top_k"]
    assert list(frame.columns[1:-1]) == fashioniq.summarise_recall(ranks())["measure"].tolist()
    assert frame["queries"].tolist() == [6, 6]
    assert frame.loc[0, "dress_r50"] == "100.0 [100.0, 100.0]"


def test_cirr_and_circo_in_the_layouts_of_tables_3_and_5(root):
    ranked = pd.DataFrame({"rank": [0, 4, 7, 60], "subset_rank": [0, 1, 0, 3]})
    precision = pd.DataFrame({f"ap{k}": [k / 100, 0.0] for k in (5, 10, 25, 50)})
    precision["aspects"] = [("colour",), ()]
    layouts = {
        "table3_cirr_test": tables.results_table({"ours": ranked}, cirr.summarise_cirr),
        "table5_circo_zero_shot": tables.results_table({"ours": precision}, circo.summarise_circo),
    }
    for name, frame in layouts.items():
        published = pd.read_csv(root / "reports" / "published" / f"{name}.csv")
        assert list(frame.columns) == [*published.columns, "queries"]
    values = cirr.summarise_cirr(ranked).set_index("measure")["estimate"].to_dict()
    expected = {"r1": 25, "r5": 50, "r10": 75, "r50": 75, "rs1": 50, "rs2": 75, "rs3": 75}
    assert values == pytest.approx(expected | {"avg_r5_rs1": 50})
    assert circo.summarise_circo(precision)["estimate"].tolist() == [2.5, 5, 12.5, 25]


def test_a_saved_table_is_csv_markdown_and_note(reports):
    folder = reports.root / "tables"
    frame = pd.DataFrame({"method": ["QuRe"], "avg_r10": [52.6], "queries": [6016]})
    tables.save_table(frame, "table2_fashioniq", "Recall. Val, original split.", reports)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "table2_fashioniq.csv"), frame)
    assert (folder / "table2_fashioniq.md").read_text() == (
        "| method | mean, Recall@10 (%) | queries |\n"
        "| --- | ---: | ---: |\n| QuRe | 52.6 | 6016 |\n"
    )
    note = json.loads((folder / "table2_fashioniq.json").read_text())
    assert note["kind"] == "table" and note["title"] == "Recall"


def test_an_empty_table_is_refused(reports):
    with pytest.raises(ValueError, match="table t: no rows"):
        tables.save_table(pd.DataFrame({"a": []}), "t", "c", reports)


def test_markdown_cells():
    frame = pd.DataFrame({"a": [0.0005, np.nan, 12.345], "b": [True, False, True], "c": "x|y"})
    rows = tables.to_markdown(frame).splitlines()[2:]
    assert rows == ["| 0.0005 | yes | x\\|y |", "| - | no | x\\|y |", "| 12.35 | yes | x\\|y |"]


@pytest.mark.parametrize(
    "text",
    [
        "<script>document.title = 'ran'</script>",
        "\\<img src=x onerror=run()>",
        "a\n\n# b | c",
        "x\\|y",
    ]
    + ["[see](javascript:run())", "![](x.png)", "</td><iframe src=x>", "a & b"],
)
def test_text_in_a_markdown_table_stays_text(text):
    page = markdown2html_mistune(tables.to_markdown(pd.DataFrame({text: [text], "b": ["c"]})))
    parsed = parse(page)
    assert {tag for tag, _ in parsed.elements} == {"table", "thead", "tbody", "tr", "th", "td"}
    assert len(parsed.elements) == 9 and parsed.text.count(" ".join(text.split())) == 2


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([64.0, 1800], ["64", "1800"]),
        ([64.0, np.nan, 12_345], ["64", "-", "12,345"]),
        ([0.5, 2.0, -3.25], ["0.50", "2.00", "-3.25"]),
        ([0.5, 20_000.0], ["0.5", "20,000.0"]),
        ([5e-06, 0.001, 0], ["0.000005", "0.001", "0"]),
        (["64.0", "True", "", None, "5e-06", "12.5"], ["64", "yes", "-", "-", "0.000005", "12.5"]),
    ],
)
def test_numbers_have_the_decimals_that_their_column_needs(numbers, shown):
    assert tables.in_words(pd.DataFrame({"here": numbers})).here.tolist() == shown


def test_rows_of_different_units_have_decimals_of_their_own():
    frame = pd.DataFrame({"stage 1": ["loss", "batch_size"], "value": [0.1302, 64.0]})
    assert tables.in_words(frame).value.tolist() == ["0.13", "64"]
    assert tables.in_words(frame)["stage 1"].tolist() == ["loss", "batch size"]


def test_codes_become_words_and_shares_percentages():
    row = {
        "curve": "cosine",
        "share_no_pair": 0.125,
        "method": "in_batch, last",
        "verdict": "reproduced",
        "some_thing": "a_b",
    }
    shown = tables.in_words(pd.DataFrame([row])).iloc[0].to_dict()
    assert shown == {
        "drops in": "drops in the cosine (released)",
        "no pair of drops (%)": "12.5",
        "method": "in-batch contrast, last",
        "verdict": "reproduced",
        "some thing": "a b",
    }


def test_a_verdict_comes_first_and_details_come_last():
    names = ["set_size_q25", "same", *"abcdefg", "verdict", "code"]
    frame = pd.DataFrame([dict.fromkeys(names, row) | {"same": 0} for row in (1, 2)])
    shown = tables.in_words(frame)
    assert [*shown] == ["verdict", *"abcdefg", "same", "images in a set, lower quartile"]
    assert [*tables.in_words(frame[["same", "a", "verdict"]])] == ["verdict", "same", "a"]


def test_the_names_of_columns_are_words_and_tell_columns_apart():
    assert tables.COLUMNS.index.is_unique
    assert not tables.COLUMNS.words.str.contains("_").any()
    report = MiningReport(MiningConfig(), pd.DataFrame(), np.zeros(2), np.zeros(2))
    columns = inspect.getsource(type(report).summary)
    named = re.findall(r'"([a-z0-9]+(?:_[a-z0-9]+)+)"(?=:|\])', columns)
    assert len(named) > 15 and {*named} <= {*tables.COLUMNS.index}


def test_published_rows_are_found_by_name(tmp_path):
    path = tmp_path / "table7.csv"
    path.write_text("method,backbone,avg\nQuRe,BLIP,57.08\nQuRe,BLIP-2,63.04\n")
    assert tables.read_published(path, "QuRe", backbone="BLIP-2").to_dict() == {"avg": 63.04}
    with pytest.raises(ValueError, match="2 rows with .*QuRe"):
        tables.read_published(path, "QuRe")
    with pytest.raises(ValueError, match=r"needs the columns .*'model'\]; it has .*'backbone'"):
        tables.read_published(path, "QuRe", model="BLIP-2")
    with pytest.raises(ValueError, match=r"table9\.csv is missing"):
        tables.read_published(tmp_path / "table9.csv", "QuRe")


def test_a_published_file_with_a_row_a_measure(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text('quantity,count,source\ntriplets,5985,"FashionIQ, f71b16c"\n')
    assert tables.read_published(path).to_dict() == {"triplets": 5985}
    path.write_text("quantity,count\ntriplets,5985\ntriplets,5986\n")
    with pytest.raises(ValueError, match=r"counts\.csv: 'triplets' is there twice"):
        tables.read_published(path)


def test_a_p_value_at_the_bootstraps_floor_is_a_bound():
    a = np.arange(20.0)
    p = paired_bootstrap(a + 1, a).p_value  # every resample agrees
    table = tables.in_words(pd.DataFrame({"model": list("abc"), "p_value": [p, 0.0312, np.nan]}))
    assert table["p"].tolist() == ["< 0.001", "0.031", "-"]
