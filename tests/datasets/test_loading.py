"""What the loaders share: the folder of real annotations, and the checks of entries."""

from pathlib import Path

import pytest

from qure_lib.datasets.loading import check_entries, distinct_strings, real_annotations

FILE = Path("file.json")
KINDS = {"id": int, "name": str}


def test_the_folder_of_real_annotations_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("QURE_DATA", raising=False)
    assert real_annotations("fashioniq") is None
    monkeypatch.setenv("QURE_DATA", str(tmp_path))
    assert real_annotations("fashioniq") is None
    (tmp_path / "fashioniq").mkdir()
    assert real_annotations("fashioniq") == tmp_path / "fashioniq"


def test_entries_get_their_place():
    entries = [{"id": 2, "name": "x", "more": None}, {"id": 1, "name": "x"}]
    checked = check_entries(FILE, entries, KINDS, distinct=["id"])
    assert checked == [("file.json, entry 0", entries[0]), ("file.json, entry 1", entries[1])]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "file.json: needs a list of entries, not a NoneType"),
        ({"id": 1}, "needs a list of entries, not a dict"),
        ([], "file.json holds an empty list: no query, or no image"),
        ([7], r"entry 0: needs \{'id': 'int', 'name': 'str'\}"),
        ([{"id": 1, "name": "x"}, {"id": 2}], r"entry 1: needs \{'name': 'str'\}"),
        ([{"id": True, "name": "x"}], r"entry 0: needs \{'id': 'int'\}"),
        ([{"id": 1.0, "name": "x"}], r"entry 0: needs \{'id': 'int'\}"),
        ([{"id": i, "name": "x"} for i in (4, 5, 4)], "entry 2: 'id' 4 is already at .*entry 0;"),
    ],
)
def test_a_broken_entry_is_named(entries, message):
    with pytest.raises(ValueError, match=message):
        check_entries(FILE, entries, KINDS, distinct=["id"])


def test_only_the_keys_asked_for_are_distinct():
    entries = [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]
    with pytest.raises(ValueError, match="entry 1: 'name' 'x' is already at file.json, entry 0"):
        check_entries(FILE, entries, KINDS, distinct=["id", "name"])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, 2, 1], int, "here, item 2: 'key' 1 is already at here, item 0"),
        (["x", "x"], str, "here, item 1: 'key' 'x' is already at here, item 0"),
        ([1, "2"], int, "here: 'key' must list ints"),
        ([1, True], int, "here: 'key' must list ints"),
        ("xy", str, "here: 'key' must list strs"),
        (None, str, "here: 'key' must list strs"),
    ],
)
def test_a_list_holds_distinct_values_of_one_kind(values, kind, message):
    assert distinct_strings({"key": [3, 1]}, "key", int, "here") == ("3", "1")
    with pytest.raises(ValueError, match=message):
        distinct_strings({"key": values}, "key", kind, "here")
