"""Tables as a notebook shows them, and warnings folded."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from analysis import readable
from analysis.readable import fold_warnings, table


def cells(frame, words=()):
    """The text of every cell of the table that is shown, the headers first."""
    rows = ElementTree.fromstring(table(frame, words)).iter("tr")
    return [[cell.text.replace("\u00a0", " ") for cell in row] for row in rows]


def test_numbers_are_rounded_and_codes_are_words():
    frame = pd.DataFrame({"curve": ["cosine"], "val_count": [1 / 3], "p": [0.0012], "n": [11452]})
    headers, row = cells(frame.assign(whole=2048.0, ready=np.bool_(True), none=np.nan))
    assert headers == ["drops in", "val count", "p", "n", "whole", "ready", "none"]
    expected = ["drops in the cosine (released)", "0.33", "0.0012", "11,452", "2048", "yes", "-"]
    assert row == expected


def test_columns_are_chosen_named_and_ordered():
    frame = pd.DataFrame({"a": [1], "b": [2], "c": [3]})
    assert cells(frame, {"c": "third", "a": "first"}) == [["third", "first"], ["3", "1"]]
    assert cells(frame, ["b", "a"]) == [["b", "a"], ["2", "1"]]
    with pytest.raises(KeyError):
        table(frame, ["missing"])


def test_a_named_index_is_shown_and_a_plain_one_is_not():
    frame = pd.DataFrame({"kind": ["x", "y"], "v": [1, 2]})
    expected = [["kind", "v"], ["x", "1"], ["y", "2"]]
    assert cells(frame) == cells(frame.groupby("kind").sum()) == expected


def test_a_caption_cannot_become_markup():
    page = table(pd.DataFrame({"caption": ["<script>alert(1)</script>"]}))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_a_table_is_displayed_as_it_is_written(monkeypatch):
    shown = []
    monkeypatch.setattr(readable, "display", shown.append)
    frame = pd.DataFrame({"a": [0.125]})
    readable.show(frame, {"a": "share"})
    assert shown[0].data == table(frame, {"a": "share"})


def test_a_warning_is_said_once_with_its_count_and_range():
    folded = fold_warnings(["93% are easy.", "no pair", "84% are easy.", "no pair", "5% fit."])
    assert folded.to_numpy().tolist() == [[2, "84-93% are easy."], [2, "no pair"], [1, "5% fit."]]


def test_without_warnings_there_is_no_row():
    assert fold_warnings([]).empty


def test_code_names_and_levels_of_columns_are_words_and_file_names_stay():
    frame = pd.DataFrame([["empty_phrases", 1], ["shirt-val_1.png", 2]])
    frame.columns = pd.MultiIndex.from_tuples([("kind", ""), ("dress", "val_images")])
    expected = [["kind", "dress, val images"], ["empty phrases", "1"], ["shirt-val_1.png", "2"]]
    assert cells(frame) == expected


def test_a_short_text_stays_on_one_line_and_a_long_one_does_not():
    frame = pd.DataFrame({"rate": ["46.8 [44.6, 49.0]"], "text": [8 * "word "]})
    written = table(frame)
    assert "46.8\u00a0[44.6,\u00a049.0]" in written and "word word" in written


def test_a_column_of_whole_numbers_has_no_decimals():
    frame = pd.DataFrame({"batch": [64.0, 128.0], "rate": [0.5, 12.0]})
    assert cells(frame)[1:] == [["64", "0.5"], ["128", "12.0"]]
