"""A report folder: its notes, which are refused, and what the exporter of figures promises."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report import figures
from report.folder import Reports, note_path, read_notes, save_figure

pytestmark = pytest.mark.usefixtures("style")
DATA = pd.DataFrame({"rank": [0, 1, 2], "score": [0.9, 0.5, 0.1]})


@pytest.mark.parametrize("folder", ["", "notebooks/profiles", ".."])
def test_another_working_folder_is_refused_before_anything_is_written(
    root, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(root / folder)
    with pytest.raises(ValueError, match="working folder is .* begin in its own folder, notebooks"):
        Reports(Path("../reports"), "03_hard_negatives")
    assert Reports(tmp_path, "03_hard_negatives").root == tmp_path  # where it is said in full


def test_a_copy_in_a_folder_beside_the_notebooks_may_write(tmp_path, monkeypatch):
    for name in ("notebooks", "lab", "lab/inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "notebooks" / "01_first.ipynb").touch()
    for name in ("notebooks", "lab"):
        monkeypatch.chdir(tmp_path / name)
        assert Reports(Path("reports"), "01_first").root == Path("reports")
    monkeypatch.chdir(tmp_path / "lab" / "inner")
    with pytest.raises(ValueError, match="working folder is .*inner"):
        Reports(Path("reports"), "01_first")
    Path("01_first.ipynb").touch()
    assert Reports(Path("reports"), "01_first").notebook == "01_first"


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


@pytest.fixture
def folder(reports):
    """Where figures go."""
    return reports.root / "figures"


def score_figure():
    figure, ax = plt.subplots(figsize=(figures.COLUMN_WIDTH, 2))
    ax.plot(DATA["rank"], DATA["score"])
    ax.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    return figure


def test_a_saved_figure_is_pdf_png_csv_and_note(reports, folder):
    save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops. Fig. 7.", reports)
    written = {path.suffix for path in folder.iterdir()}
    assert written == {".pdf", ".png", ".csv", ".json"}
    pd.testing.assert_frame_equal(pd.read_csv(folder / "fig7_score_curve.csv"), DATA)
    note = json.loads((folder / "fig7_score_curve.json").read_text())
    assert note["kind"] == "figure" and note["notebook"] == "03_hard_negatives"
    assert note["title"] == "Two drops" and note["caption"] == "Two drops. Fig. 7."
    with Image.open(folder / "fig7_score_curve.png") as image:
        assert image.width == round(300 * figures.COLUMN_WIDTH)


def test_a_rerun_writes_the_same_bytes(tmp_path):
    contents = []
    for run in ("first", "second"):
        reports = Reports(tmp_path / run, "03_hard_negatives")
        save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops.", reports)
        contents.append({p.name: p.read_bytes() for p in (reports.root / "figures").iterdir()})
    assert contents[0] == contents[1]


def test_an_unlabelled_axes_is_refused_by_name(reports, folder):
    figure, (left, right) = plt.subplots(1, 2)
    left.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    right.set(xlabel="Rank (0 = best)", title="after warm-up")
    with pytest.raises(ValueError, match="after warm-up has no y label"):
        save_figure(figure, "fig7", DATA, "c", reports)
    assert not folder.exists()


def test_a_label_may_be_shared_named_by_ticks_or_needless(reports, folder):
    figure, axes = plt.subplots(2, 2, sharey="row")
    axes[0, 0].set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    axes[0, 1].set(xlabel="Rank (0 = best)")
    axes[1, 0].imshow(np.zeros((2, 2)))
    axes[1, 1].set_axis_off()
    save_figure(figure, "fig7", DATA, "c", reports)
    figure, ax = plt.subplots()
    frame = pd.DataFrame({"label": ["QuRe"], "estimate": [1.0], "low": [0.5], "high": [2.0]})
    figures.plot_intervals(ax, frame).set_xlabel("Recall@10 (%)")
    save_figure(figure, "fig8", DATA, "c", reports)
    assert {path.stem for path in folder.iterdir()} == {"fig7", "fig8"}


def test_a_figure_without_data_is_refused(reports):
    with pytest.raises(ValueError, match="figure fig7: no data"):
        save_figure(score_figure(), "fig7", DATA[:0], "c", reports)
