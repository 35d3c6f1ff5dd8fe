"""The page: claims, explorer and every figure and table, without a network."""

import base64
import html
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import run
from PIL import Image
from report.claims import JUDGED, Claim, read_claims, save_claim
from report.folder import Reports, save_figure
from report.page import build_index
from report.tables import compare_with_published, save_table

from qure_lib.evaluation.statistics import Interval

ATTACK = """</script><script>alert(1)</script><img src=x onerror="alert(2)"> & 'this' {{ 7 * 7 }}"""


def add_figure(reports, name="fig7_score_curve", caption="Scores, sorted (Fig. 7). More of it."):
    stem = reports.write_note("figure", name, caption)
    Image.new("RGB", (600, 300), "white").save(stem.with_suffix(".png"), dpi=(300, 300))
    stem.with_suffix(".pdf").write_bytes(b"%PDF")
    stem.with_suffix(".csv").write_text("rank,score\n0,1\n")
    return stem


def add_table(reports, name="table2_recall", caption="Recall. With intervals.", **columns):
    save_table(pd.DataFrame(columns or {"method": ["a|<b>"], "r10": [1.5]}), name, caption, reports)


def add_explorer(reports, caption="Is <b>red</b>", thumbnails=None):
    about = {"groups": [["typical", "a rule"]], "windows": [3, None], "temperature": 0.07}
    about |= {"ranks": {"dress": [0, 1]}, "thumbnails": thumbnails or {}}
    query = {"group": "typical", "category": "dress", "caption": caption, "relevance": None}
    stem = reports.write_note("explorer", "relevance_explorer", "Explore 1 query. By a slider.")
    stem.with_suffix(".jsonl").write_text(f"{json.dumps(about)}\n{json.dumps(query)}\n")
    return [about, query]


def add_executed(reports, cells=(), **about):
    executed = reports.root / "executed" / f"{reports.notebook}.ipynb"
    executed.parent.mkdir(exist_ok=True)
    executed.write_text(json.dumps({"cells": cells, "metadata": {"qure_lib": about}}))


def measure(reports, name, value=1, **about):
    """Save a claim whose interval goes from `value` less 1 to `value` and 1."""
    interval = Interval(value, value - 1, value + 1, 1440, 5)
    save_claim(Claim(name, "More.", "X", **about), interval, reports)


class Parsed(HTMLParser):
    """A page's elements: (tag, attributes, its own text) in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_data(self, data):
        if self.elements:
            self.elements[-1][2].append(data)

    def find(self, tag):
        return [element for element in self.elements if element[0] == tag]


def cells_of(page, claim):
    """The text of a claim's row of the opening table, cell by cell."""
    row = re.search(rf'<tr id="claim-{claim}">(.*?)</tr>', page, re.DOTALL)[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in cells]


def text_of(page):
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_shows_every_item_and_loads_nothing(reports):
    add_figure(reports), add_table(reports), add_explorer(reports)
    add_table(Reports(reports.root, "06_preference_study"), "table4_preference")
    page = build_index(reports.root).read_text()
    for words in ("Scores, sorted (Fig. 7)", "More of it.", "With intervals.", "a|&lt;b&gt;"):
        assert words in page
    assert page.index('id="03_hard_negatives"') < page.index('id="06_preference_study"')
    for link in ("figures/fig7_score_curve.pdf", "tables/table2_recall.md"):
        assert f'href="{link}"' in page and (reports.root / link).is_file()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page)
    assert not re.search(r"fetch\(|XMLHttpRequest|@import|<link[^>]+stylesheet", page)


def test_every_picture_has_words_and_is_smaller_than_its_file(reports):
    add_figure(reports)
    page = build_index(reports.root).read_text()
    pictures = Parsed(page).find("img")
    assert len(pictures) == 2  # on the first screen and in its notebook's section
    for _, about, _ in pictures:
        assert about["alt"] == "Scores, sorted (Fig. 7)"
        assert (about["width"], about["height"]) == ("250", "125")  # of 2 inches
        data = base64.b64decode(about["src"].removeprefix("data:image/webp;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "WEBP" and image.size == (400, 200)


def test_the_same_reports_give_the_same_bytes(reports):
    add_figure(reports), add_table(reports), add_explorer(reports)
    first = build_index(reports.root).read_bytes()
    assert build_index(reports.root).read_bytes() == first


def test_fifty_busy_figures_stay_below_ten_megabytes(reports, style):
    rng = np.random.default_rng(0)
    fig, axes = plt.subplots(2, 4, figsize=(6.75, 3.4))
    for ax in axes.flat:
        ax.imshow(rng.random((8, 8, 3)), interpolation="bicubic")
        ax.plot(rng.random((8, 5)) * 7)
    save_figure(fig, "fig0", pd.DataFrame({"x": [1]}), "A figure.", reports)
    source = reports.root / "figures" / "fig0"
    for number in range(1, 50):
        stem = reports.write_note("figure", f"fig{number}", "A figure.")
        for suffix in (".png", ".pdf", ".csv"):
            stem.with_suffix(suffix).hardlink_to(source.with_suffix(suffix))
    many = {str(n): "data:image/webp;base64," + "A" * 1000 for n in range(2000)}
    add_explorer(reports, thumbnails=many)
    assert 50 * source.with_suffix(".png").stat().st_size > 15e6
    assert 2e6 < build_index(reports.root).stat().st_size < 10e6


def test_items_follow_the_order_of_the_executed_notebook(reports):
    for name in ("table1", "table2", "table3"):
        add_table(reports, name, f"{name} shows.")
    cells = [
        {"cell_type": "markdown", "source": "# 03 Which?\n\nIt *matters* to [us](x).\n\n| a | b |"},
        {"cell_type": "code", "source": ['save_table(a, "table3")\n', 'save_table(b, "table1")']},
    ]
    add_executed(reports, cells, profile="mini", commit="1" * 40, versions={"torch": "2"})
    page = build_index(reports.root).read_text()
    assert re.findall(r'<figure id="table-(\w+)"', page) == ["table3", "table1", "table2"]
    assert "<h2>03 Which?</h2>" in page and "It matters to us" in page
    assert 'href="executed/03_hard_negatives.ipynb"' in page
    made = page[page.index('<section id="made">') :]
    assert "<b>mini</b> · commit 111111111 · torch 2" in made
    assert "torch 2" not in page.removesuffix(made)


def test_a_notebook_opens_with_one_figure_and_folds_the_rest(reports):
    for name in ("fig1", "fig2"):
        add_figure(reports, name, f"{name} shows.")
    add_table(reports, "table1", "table1 shows.")
    page = build_index(reports.root).read_text()
    section = re.search(r'<section id="03_hard_negatives">(.*?)</section>', page, re.DOTALL)[1]
    opened, folded = section.split("<details>")
    assert re.findall(r'<figure id="([\w-]+)"', opened) == ["figure-fig1"]
    assert re.findall(r'<figure id="([\w-]+)"', folded) == ["figure-fig2", "table-table1"]
    assert "1 more figure and" in folded and "1 table</summary>" in folded


def test_the_first_screen_shows_the_study_s_figure(reports):
    add_figure(reports, "fig1", "Another.")
    add_figure(Reports(reports.root, "05_ablations"), "fig4_negatives", "The study.")
    header = build_index(reports.root).read_text().split("<nav")[0]
    assert 'alt="The study"' in header and "Another" not in header


def test_no_table_shows_more_than_seven_columns_or_twelve_rows_unless_asked(reports):
    wide = {f"column_{letter}": range(13) for letter in "abcdefgh"}
    add_table(reports, "table1", "Wide.", **wide | {"verdict": [*"abcdefghijklm"]})
    add_table(reports, "table2", "Small.", **{letter: range(12) for letter in "abcdefg"})
    page = build_index(reports.root).read_text()
    parsed = Parsed(page)
    heads = [(text[0], kind["class"]) for _, kind, text in parsed.find("th") if "class" in kind]
    assert [name for name, kind in heads[:9] if "more" not in kind] == [
        "verdict",
        *(f"column {letter}" for letter in "abcdef"),
    ]
    assert [name for name, kind in heads if "more" in kind] == ["column g", "column h"]
    assert [name for name, _ in heads[9:]] == [*"abcdefg"]
    cells = [kind["class"] for _, kind, _ in parsed.find("td") if "class" in kind]
    assert ["more" in kind for kind in cells[: 9 * 13]] == ([False] * 7 + [True] * 2) * 13
    assert {about["id"] for _, about, _ in parsed.find("input")} == {
        "table1-columns",
        "table1-rows",
    }
    assert [text[0] for _, _, text in parsed.find("label")] == ["all 9 columns", "all 13 rows"]
    assert ".all-columns:not(:checked) ~ .scroll .more { display: none; }" in page
    assert ".all-rows:not(:checked) ~ .scroll tbody tr:nth-child(n + 13) { display: none; }" in page


def test_no_header_shows_an_underscore_and_whole_numbers_are_whole(reports):
    add_table(reports, batch_size=[64.0], is_ready=[True], share_no_pair=[0.25])
    page = build_index(reports.root).read_text()
    parts = [*Parsed(page).find("th"), *Parsed(page).find("td")]
    cells = [text[0] for _, about, text in parts if "class" in about]
    assert cells == ["batch size", "is ready", "no pair of drops (%)", "64", "yes", "25"]


def test_a_folder_without_a_figure_or_table_has_no_page(reports):
    add_explorer(reports)
    with pytest.raises(ValueError, match="make reproduce"):
        build_index(reports.root)


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".csv"])
def test_a_missing_file_is_named(reports, suffix):
    add_figure(reports).with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=rf"fig7_score_curve\{suffix} is missing.*03_hard"):
        build_index(reports.root)


def test_every_claim_has_a_row_with_its_command(reports):
    add_figure(reports)
    add_executed(reports, profile="smoke", versions={})
    measure(reports, "fig4_top_k", 0.5, seeds=5, caveat="A small <model>.")
    measure(reports, "ours_released", 2, data=JUDGED)
    page = build_index(reports.root).read_text()
    assert page.index('id="claims"') < page.index('id="03_hard_negatives"')
    rows = {claim: cells_of(page, claim) for claim in read_claims()}
    assert all(len(row) == 4 for row in rows.values())
    verdict, says, text, command = rows["fig4_top_k"]
    assert verdict == "≈ within noise" and says.endswith("best-ranked images. Fig. 4")
    expected = "More. 0.5 [−0.5, 1.5] On X; n = 1,440 queries, 5 seeds. A small &lt;model&gt;."
    assert text == f"{expected} Notebook 03"
    assert command == ".venv/bin/python notebooks/run.py --only 03 --profile smoke"
    verdict, _, text, _ = rows["ours_released"]
    assert verdict == "✓ supported on real judgements"
    assert text == "More. 2.0 [1.0, 3.0] On X; n = 1,440 queries. Notebook 03"
    assert rows["fig4_all_corpus"][0] == "○ not run yet"
    assert rows["fig4_all_corpus"][3] == ".venv/bin/python notebooks/run.py --only 05"
    assert rows["table2_fashioniq"][0] == "○ not testable here"
    assert rows["table2_fashioniq"][3] == "make reproduce PROFILE=fashioniq"
    assert rows["table1_valid"][3] == "No command can."


def test_what_its_notebook_ran_without_is_not_testable_and_says_what_it_needs(reports):
    add_table(Reports(reports.root, "06_preference_study"))
    verdict, _, needs, command = cells_of(build_index(reports.root).read_text(), "table1_counts")
    assert verdict == "○ not testable here" and needs == read_claims()["table1_counts"]["needs"]
    assert "data_prep.hp_fashioniq fetch" in command


def test_the_commands_of_claims_exist():
    root = Path(run.__file__).parents[1]
    profiles = {path.stem for path in (root / "notebooks" / "profiles").glob("*.yaml")}
    numbers = run.find_notebooks(root / "notebooks")
    for claim in read_claims().values():
        assert claim["notebook"] in {"", *(path.stem for path in numbers.values())}
        assert {*re.findall(r"PROFILE=([\w-]+)", claim["command"])} <= profiles
        assert {*re.findall(r"--only (\d+)", claim["command"])} <= numbers.keys()
        for module in re.findall(r"-m ([\w.]+)", claim["command"]):
            assert (root / module.replace(".", "/")).with_suffix(".py").is_file()


def test_a_caveat_that_repeats_is_said_once_above(reports):
    add_figure(reports)
    for name, caveat in (("fig4_top_k", "Same."), ("ours_moved", "Same."), ("eq7_hard", "Own.")):
        measure(reports, name, caveat=caveat)
    page = build_index(reports.root).read_text()
    table = page[page.index('<table class="cards">') : page.index("</table>")]
    assert "Same." not in table and "Own." in table
    assert "says nothing else: Same." in page and "Read it with care. Same." in text_of(page)


def test_chips_and_legend_have_the_verdicts_words(reports):
    add_figure(reports)
    measure(reports, "fig4_top_k", 2)
    measure(reports, "ours_moved", -2, data=JUDGED)
    measure(reports, "eq7_hard", 0)
    summary = pd.DataFrame({"measure": ["a", "b", "c"], "estimate": 1.0, "low": 0.0, "high": 2.0})
    published = pd.Series({"a": 1.0, "b": 3.0})
    rows = [compare_with_published(summary.assign(n=9), published, same) for same in (True, False)]
    add_table(reports, "table2", "Beside.", verdict=[*pd.concat(rows).verdict, "worse"])
    page = build_index(reports.root).read_text()
    chips = r'<span class="chip (\w+)"><span aria-hidden="true">(.)</span> ([^<]+)</span>'
    assert {verdict: (kind, mark) for kind, mark, verdict in re.findall(chips, page)} == {
        "supported on drawn data": ("good", "✓"),
        "reproduced": ("good", "✓"),
        "contradicted on real judgements": ("bad", "✗"),
        "differs": ("bad", "✗"),
        "worse": ("bad", "▼"),
        "within noise": ("noise", "≈"),
        "not published": ("none", "○"),
        "not comparable": ("none", "○"),
        "not run yet": ("none", "○"),
        "not testable here": ("none", "○"),
    }
    legend = re.search(r'<ul class="legend".*?</ul>', page, re.DOTALL)[0]
    means = r"</span> ([a-z ]+)</span> <b>(\d+)</b> <span class=\"small\">\w"
    verdicts = Counter(cells_of(page, claim)[0][2:] for claim in read_claims())
    assert {verdict: int(count) for verdict, count in re.findall(means, legend)} == verdicts


NEAR = """repair the rule as released (2.0 [1.0, 3.0] points of Recall@10), but as many images right
after the target do as well (0.0 [−1.0, 1.0]), and another query's windows do as well (0.0 [−1.0,
1.0]): it is nearness to the target that repairs it, not the drops."""
MIXED = """repair the rule as released (2.0 [1.0, 3.0] points of Recall@10), but as many images
right after the target are beaten (2.0 [1.0, 3.0]), and another query's windows do better (−2.0
[−3.0, −1.0]): it is nearness to the target that repairs it, not the drops."""
DROPS = """repair the rule as released (2.0 [1.0, 3.0] points of Recall@10), and they beat both of
their controls: it is the drops that repair it."""
NOTHING = "do not repair the rule as released (0.0 [−1.0, 1.0] points of Recall@10)."


@pytest.mark.parametrize(
    ("released", "same", "moved", "found"),
    [(2, 0, 0, NEAR), (2, 2, -2, MIXED), (2, 2, 2, DROPS), (0, 2, 2, NOTHING), (-2, 0, 0, None)],
)
def test_the_finding_is_written_from_the_claims(reports, released, same, moved, found):
    add_figure(reports)
    for name, value in (("released", released), ("same_sizes", same), ("moved", moved)):
        measure(reports, f"ours_{name}", value)
    page = html.unescape(re.sub(r"</?b>", "", build_index(reports.root).read_text()))
    found = found or NOTHING.replace("(0.0 [−1.0, 1.0]", "(−2.0 [−3.0, −1.0]")
    assert f"that the model prefers the target {' '.join(found.split())}" in " ".join(page.split())


def test_without_the_study_the_first_screen_says_how_to_get_it(reports):
    add_figure(reports)
    header = text_of(build_index(reports.root).read_text().split("<nav")[0])
    assert "Found here : nothing yet; .venv/bin/python notebooks/run.py --only 05" in header
    assert "No BLIP-2 weights and no FashionIQ image have been through this code." in header


@pytest.mark.parametrize(
    ("profile", "said"), [("smoke", (True, True)), ("fashioniq", (False, False))]
)
def test_the_caveats_are_those_of_the_profile(reports, profile, said):
    add_figure(reports)
    add_executed(reports, profile=profile, versions={})
    page = text_of(build_index(reports.root).read_text())
    assert ("no FashionIQ image" in page, "means nothing" in page) == said


def test_what_captions_and_names_hold_stays_text(reports):
    expected = add_explorer(reports, ATTACK, {ATTACK: "data:image/webp;base64,AAAA"})
    add_figure(reports, caption=f"{ATTACK}. And {ATTACK}"), add_table(reports, **{ATTACK: [ATTACK]})
    claim = Claim("fig4_top_k", ATTACK, ATTACK, unit=ATTACK, caveat=ATTACK)
    save_claim(claim, Interval(1, 0, 2, 9, 9), reports)
    cells = [{"cell_type": "markdown", "source": f"# {ATTACK}\n\n{ATTACK}"}] * 2
    add_executed(reports, cells, profile=ATTACK, commit=ATTACK, versions={ATTACK: ATTACK})
    page = build_index(reports.root).read_text()
    parsed = Parsed(page)
    assert len(parsed.find("script")) == 2 and page.count("</script>") == 2
    assert not [a for _, a, _ in parsed.elements if any(name.startswith("on") for name in a)]
    assert all(about["src"].startswith("data:image/webp") for _, about, _ in parsed.find("img"))
    assert "{{ 7 * 7 }}" in page
    ((_, about, data), _) = parsed.find("script")
    assert about["type"] == "application/json" and json.loads("".join(data)) == expected


def test_the_script_puts_nothing_into_the_page_as_html():
    folder = Path(__file__).parents[3] / "notebooks" / "report"
    script = (folder / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert 'startsWith("data:image/")' in script


def test_images_that_are_not_shared_are_said_to_be_named(reports):
    add_figure(reports), add_explorer(reports)
    assert "Images are named, not shown" in build_index(reports.root).read_text()
    add_explorer(reports, thumbnails={"a": "data:image/webp;base64,AAAA"})
    assert "Images are named, not shown" not in build_index(reports.root).read_text()
