"""analysis.preference_explorer: rows, filters, other participants; it needs no image."""

import pandas as pd
import pytest
from analysis.preference_explorer import PreferenceExplorer
from markup import assert_harmless, parse
from PIL import Image

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
SETS = {"set_1": tuple("abcde"), "set_2": tuple("vwxyz")}
KEYS = ["participant", "reference", "target", "preferred", "score_1", "score_2"]
ROWS = [
    ("ann", "r", "t", 1, 4, 2),
    ("bob", "r", "t", 2, 3, 3),  # a tie; bob disagrees with ann
    ("cid", "r", "u", 2, 5, 1),  # against the own scores
    ("dan", "q", "a", 1, 2, 1),
]


@pytest.fixture
def judged():
    frame = pd.DataFrame(ROWS, columns=KEYS)
    frame["category"] = ["shirt", "shirt", "shirt", "toptee"]
    frame["caption"] = ["is Red", "is red and long", "has dots", "is red"]
    shown = {name: [images] * len(frame) for name, images in SETS.items()}
    return frame.assign(question_set="first", **shown)


@pytest.fixture
def explorer(judged):
    return PreferenceExplorer(judged, {}, "A study")


def shown_rows(explorer):
    """Numbers of the rows that the buttons lead through."""
    numbers = []
    for place in range(len(explorer.rows)):
        text = parse(explorer.row.value).text
        assert text.startswith(f"{place + 1} of {len(explorer.rows)}. A study, row ")
        numbers.append(int(text.split("row ")[1].split(":")[0]))
        explorer.next.click()
    return numbers


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("all rows", [0, 1, 2, 3]),
        ("own scores tie", [1]),
        ("choice against own scores", [2]),
        ("participants disagree on the query", [0, 1]),
    ],
)
def test_a_filter_keeps_its_rows_and_says_how_many(explorer, name, rows):
    explorer.filter.value = name
    assert shown_rows(explorer) == rows
    assert (f"{name} ({len(rows)})", name) in explorer.filter.options


def test_filters_add_up(explorer):
    explorer.search.value = "RED is"
    assert shown_rows(explorer) == [0, 1, 3]
    explorer.category.value = "shirt"
    assert shown_rows(explorer) == [0, 1]
    explorer.filter.value = "own scores tie"
    assert shown_rows(explorer) == [1]
    explorer.search.value = "dots"
    assert explorer.rows == [] and explorer.next.disabled and "No row" in explorer.row.value
    explorer.next.click()
    explorer.search.value = ""
    assert shown_rows(explorer) == [1] and not explorer.next.disabled


def test_a_word_to_look_for_is_no_pattern(explorer):
    explorer.search.value = "re."
    assert explorer.rows == []


def test_the_buttons_stay_within_the_rows(explorer):
    explorer.previous.click()
    assert explorer.place.value == 1
    explorer.place.value = 4
    explorer.next.click()
    assert explorer.place.value == 4
    seen = set()
    for _ in range(40):
        explorer.random.click()
        seen.add(explorer.place.value)
    assert seen == {1, 2, 3, 4}


def test_a_row_is_shown_whole_without_images(explorer):
    explorer.place.value = 3
    page, text = explorer.row.value, parse(explorer.row.value).text
    assert not [tag for tag, _ in parse(page).elements if tag == "img"]
    for part in ("cid", "first", "has dots", "own score 5", "own score 1", *"abcdevwxyz"):
        assert part in text
    chosen = page.split('class="row chosen"')[1]
    assert "set 2" in chosen and "set 1" not in chosen
    assert "choice against own scores" in text and "Nobody else" in text


def test_others_who_judged_the_query_are_listed(explorer):
    text = parse(explorer.row.value).text
    others = text.split("of other sets:")[1]
    assert "bob" in others and "set 2" in others and "3, 3" in others
    assert "ann" not in others and "cid" not in others  # cid's has another target


def test_images_are_shown_where_the_files_are(judged, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    explorer = PreferenceExplorer(judged, {"a": tmp_path / "a.png"}, "A study")
    elements = parse(explorer.row.value).elements
    assert [a["alt"] for tag, a in elements if tag == "img"] == ["a"]
    assert len([a for _, a in elements if a.get("class") == "no-image"]) == 11


@pytest.mark.parametrize(
    "column", ["caption", "participant", "question_set", "reference", "target"]
)
def test_text_of_the_file_stays_text(judged, column):
    explorer = PreferenceExplorer(judged.assign(**{column: HOSTILE}), {}, "A study")
    assert_harmless(explorer.row.value, HOSTILE)
