"""The page: every figure, table and claim, in the notebooks' order, without a network."""

import json
import re

import pytest
from PIL import Image

from qure_lib.evaluation.statistics import Interval
from qure_lib.reporting.claims import JUDGED, Claim, read_claims, save_claim
from qure_lib.reporting.page import build_index
from qure_lib.reporting.reports import Reports


def add_figure(reports, name="fig7_score_curve", caption="Scores, sorted (Fig. 7). More of it."):
    stem = reports.write_note("figure", name, caption)
    Image.new("RGB", (600, 300), "white").save(stem.with_suffix(".png"), dpi=(300, 300))
    stem.with_suffix(".pdf").write_bytes(b"%PDF")
    stem.with_suffix(".csv").write_text("rank,score\n0,1\n")
    return stem


def add_table(reports, name="table2_recall", caption="Recall. With intervals."):
    stem = reports.write_note("table", name, caption)
    stem.with_suffix(".csv").write_text("method,r10\na|<b>,1.5\n")
    stem.with_suffix(".md").write_text("| method | r10 |\n| --- | ---: |\n| a\\|<b> | 1.50 |\n")
    return stem


def cells_of(page, claim):
    """The text of a claim's row of the opening table, cell by cell."""
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL) if claim in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in cells]


def test_the_page_shows_every_item_and_loads_nothing(reports):
    add_figure(reports), add_table(reports)
    add_table(Reports(reports.root, "06_preference_study"), "table4_preference")
    page = build_index(reports.root).read_text()
    for words in ("Scores, sorted (Fig. 7)", "More of it.", "With intervals.", "a|&lt;b&gt;"):
        assert words in page
    assert 'src="data:image/png;base64,' in page
    assert page.index('id="03_hard_negatives"') < page.index('id="06_preference_study"')
    for link in ("figures/fig7_score_curve.pdf", "tables/table2_recall.md"):
        assert f'href="{link}"' in page and (reports.root / link).is_file()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page)


def test_the_same_reports_give_the_same_bytes(reports):
    add_figure(reports), add_table(reports)
    first = build_index(reports.root).read_bytes()
    assert build_index(reports.root).read_bytes() == first


def test_items_follow_the_order_of_the_executed_notebook(reports):
    for name in ("table1", "table2", "table3"):
        add_table(reports, name, f"{name} shows.")
    cells = [
        {"cell_type": "markdown", "source": "# 03 Which?\n\nIt *matters* to [us](x).\n\n| a | b |"},
        {"cell_type": "code", "source": ['save_table(a, "table3")\n', 'save_table(b, "table1")']},
    ]
    metadata = {"qure_lib": {"profile": "mini", "commit": "1" * 40, "versions": {"torch": "2"}}}
    executed = reports.root / "executed" / "03_hard_negatives.ipynb"
    executed.parent.mkdir()
    executed.write_text(json.dumps({"cells": cells, "metadata": metadata}))
    page = build_index(reports.root).read_text()
    assert re.findall(r'<figure id="table-(\w+)"', page) == ["table3", "table1", "table2"]
    assert "<h2>03 Which?</h2>" in page and "It matters to us" in page
    assert "<b>mini</b> · commit 111111111 · torch 2" in page
    assert 'href="executed/03_hard_negatives.ipynb"' in page


def test_a_folder_without_a_figure_or_table_has_no_page(tmp_path):
    with pytest.raises(ValueError, match="make reproduce"):
        build_index(tmp_path)


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".csv"])
def test_a_missing_file_is_named(reports, suffix):
    add_figure(reports).with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=rf"fig7_score_curve\{suffix} is missing.*03_hard"):
        build_index(reports.root)


def test_the_page_opens_with_every_claim(reports):
    add_figure(reports)
    measured = Interval(1, 0.5, 1.5, 1440, 5)
    known = Claim("fig4_top_k", "Recall less recall.", "X", 5, caveat="A small <model>.")
    save_claim(known, measured, reports)
    save_claim(Claim("ours_released", "More.", "Y", data=JUDGED), measured, reports)
    page = build_index(reports.root).read_text()
    assert page.index('id="claims"') < page.index('id="03_hard_negatives"')
    for claim in read_claims().values():
        assert len(cells_of(page, claim["says"].replace("'", "&#39;"))) == 4
    measured = cells_of(page, read_claims()["fig4_top_k"]["says"])[1:]
    text = "Recall less recall. On X; n = 1,440 queries, 5 seeds. A small &lt;model&gt;."
    by = "03_hard_negatives"  # the link to who measured
    assert measured == ["supported on drawn data", "1.0 [0.5, 1.5]", f"{text} {by}"]
    ours = cells_of(page, read_claims()["ours_released"]["says"])
    text = f"More. On Y; n = 1,440 queries. {by}"
    assert ours[1:] == ["supported on real judgements", "1.0 [0.5, 1.5]", text]
    other = cells_of(page, read_claims()["fig4_all_corpus"]["says"])
    assert other[1:] == ["not run yet", "-", "Run notebook 05_ablations."]
    never = cells_of(page, "QuRe reaches 63.04")
    assert never[1] == "not testable here" and "make reproduce PROFILE=fashioniq" in never[3]
