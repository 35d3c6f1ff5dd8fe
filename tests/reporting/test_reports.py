"""The notes of a report folder: what they say, and which are refused."""

import json

import pytest

from qure_lib.reporting.reports import Reports, note_path, read_notes


def test_a_note_says_what_the_page_needs(reports):
    stem = reports.write_note("figure", "fig7", "Scores of\n one query (Fig. 7, vs. text). Then.")
    assert stem == reports.root / "figures" / "fig7"
    note = json.loads(stem.with_suffix(".json").read_text())
    assert note == {
        "kind": "figure",
        "name": "fig7",
        "title": "Scores of one query (Fig. 7, vs. text)",
        "caption": "Scores of one query (Fig. 7, vs. text). Then.",
        "notebook": "03_hard_negatives",
    }
    assert read_notes(reports.root) == [note] and note_path(reports.root, note) == stem


@pytest.mark.parametrize(
    ("kind", "name", "caption", "message"),
    [
        ("picture", "fig7", "A caption.", "unknown kind 'picture'"),
        ("figure", "../fig7", "A caption.", "letters, digits"),
        ("figure", "fig7.5", "A caption.", "letters, digits"),
        ("table", "table2", " \n", "caption is empty"),
    ],
)
def test_a_note_that_would_mislead_is_refused(reports, kind, name, caption, message):
    with pytest.raises(ValueError, match=message):
        reports.write_note(kind, name, caption)


def test_notes_come_by_kind_and_name(reports):
    for kind, name in (("table", "b"), ("table", "a"), ("figure", "z")):
        Reports(reports.root, "04_training").write_note(kind, name, "A caption.")
    assert [(n["kind"], n["name"]) for n in read_notes(reports.root)] == [
        ("figure", "z"),
        ("table", "a"),
        ("table", "b"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "fig7.json: not JSON"),
        ("[]", "needs the keys"),
        ('{"kind": "figure"}', "needs the keys"),
        ('{"kind":"table","name":"fig7","title":"","caption":"","notebook":""}', "describes"),
    ],
)
def test_a_broken_note_is_named(reports, text, message):
    reports.write_note("figure", "fig7", "A caption.").with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_notes(reports.root)


def test_a_claim_without_a_verdict_is_named(reports):
    reports.write_note("claim", "fig4_top_k", "Recall less recall.")
    with pytest.raises(ValueError, match=r"fig4_top_k.json: needs the keys .*verdict"):
        read_notes(reports.root)
