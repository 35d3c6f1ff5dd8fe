"""Figures: the exporter's promises, and that each plot draws what its frame says."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qure_lib.reporting import figures
from qure_lib.reporting.reports import Reports

pytestmark = pytest.mark.usefixtures("style")
DATA = pd.DataFrame({"rank": [0, 1, 2], "score": [0.9, 0.5, 0.1]})
CURVE = pd.DataFrame({"epoch": [0, 1], "mean": 0.5, "low": 0.4, "high": 0.6, "label": "dress"})


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
    figures.save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops. Fig. 7.", reports)
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
        figures.save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops.", reports)
        contents.append({p.name: p.read_bytes() for p in (reports.root / "figures").iterdir()})
    assert contents[0] == contents[1]


def test_an_unlabelled_axes_is_refused_by_name(reports, folder):
    figure, (left, right) = plt.subplots(1, 2)
    left.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    right.set(xlabel="Rank (0 = best)", title="after warm-up")
    with pytest.raises(ValueError, match="after warm-up has no y label"):
        figures.save_figure(figure, "fig7", DATA, "c", reports)
    assert not folder.exists()


def test_a_label_may_be_shared_named_by_ticks_or_needless(reports, folder):
    figure, axes = plt.subplots(2, 2, sharey="row")
    axes[0, 0].set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    axes[0, 1].set(xlabel="Rank (0 = best)")
    axes[1, 0].imshow(np.zeros((2, 2)))
    axes[1, 1].set_axis_off()
    figures.save_figure(figure, "fig7", DATA, "c", reports)
    figure, ax = plt.subplots()
    frame = pd.DataFrame({"label": ["QuRe"], "estimate": [1.0], "low": [0.5], "high": [2.0]})
    figures.plot_intervals(ax, frame).set_xlabel("Recall@10 (%)")
    figures.save_figure(figure, "fig8", DATA, "c", reports)
    assert {path.stem for path in folder.iterdir()} == {"fig7", "fig8"}


def test_a_figure_without_data_is_refused(reports):
    with pytest.raises(ValueError, match="figure fig7: no data"):
        figures.save_figure(score_figure(), "fig7", DATA[:0], "c", reports)


def test_rows_of_two_kinds_have_a_colour_each_and_a_name_in_the_legend():
    frame = pd.DataFrame({"label": list("abc"), "estimate": 1, "low": 0, "high": 2}, [7, 8, 9])
    frame["group"] = ["x", "y", "x"]
    _, ax = plt.subplots()
    figures.plot_intervals(ax, frame, 1.5, "base")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "x", "y"]
    places = [points.get_offsets()[:, 1].tolist() for points in ax.collections[1::2]]
    assert places == [[0, 2], [1]]
    colours = {tuple(points.get_facecolor()[0]) for points in ax.collections[1::2]}
    assert len(colours) == 2


def test_the_reference_is_a_line_and_the_first_row_is_on_top():
    frame = pd.DataFrame({"label": list("abc"), "estimate": 1, "low": 0, "high": 2})
    _, ax = plt.subplots()
    assert figures.plot_intervals(ax, frame, 1.5, "base") is ax
    assert ax.lines[0].get_xdata() == [1.5, 1.5]
    bottom, top = ax.get_ylim()
    assert bottom > top and [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_methods_and_categories_differ_in_colour_and_in_a_second_cue():
    groups = (["between_drops", "after_target_top_k", "top_k", "all_corpus", "info_nce"],)
    for group in (*groups, ["dress", "shirt", "toptee"]):
        styles = [figures.line_style(name, 0) for name in group]
        for cue in ("color", "linestyle", "marker"):
            assert len({str(style[cue]) for style in styles}) == len(group)


def test_epochs_draw_a_line_a_run_and_the_definitions():
    frame = pd.DataFrame({"run": ["a", "a", "b", "b"], "epoch": [0, 1] * 2, "loss": [3, 2, 3, 1]})
    _, ax = plt.subplots()
    figures.plot_epochs(ax, frame, "loss", definition_epochs=[1])
    assert [list(line.get_ydata()) for line in ax.get_lines()[1:]] == [[3, 2], [3, 1]]
    assert list(ax.get_lines()[0].get_xdata()) == [1, 1]


@pytest.mark.parametrize(("x", "label"), [("epoch", "Epoch"), ("rank", "Rank (0 = best)")])
def test_bands_are_drawn_from_low_to_high_over_epochs_or_ranks(x, label):
    frame = CURVE.rename(columns={"epoch": x})
    _, ax = plt.subplots()
    assert figures.plot_bands(ax, frame, columns=(x, "mean", "low", "high")) is ax
    (line,), (band,) = ax.get_lines(), ax.collections
    assert line.get_ydata().tolist() == [0.5, 0.5] and line.get_marker() != ""
    low, high = band.get_paths()[0].get_extents().get_points()
    assert (low.tolist(), high.tolist()) == ([0, 0.4], [1, 0.6])
    assert ax.get_xlabel() == label


def test_a_line_of_many_points_has_no_markers():
    frame = pd.DataFrame({"rank": range(61), "mean": 0.5, "low": 0.4, "high": 0.6, "label": "x"})
    _, ax = plt.subplots()
    figures.plot_bands(ax, frame, columns=("rank", "mean", "low", "high"))
    assert ax.get_lines()[0].get_marker() == ""


@pytest.mark.parametrize(
    ("plot", "frame"),
    [
        (figures.plot_bands, CURVE),
        (figures.plot_shares, pd.DataFrame({"value": [1, 2], "share": [40, 60], "label": "dress"})),
    ],
)
def test_lines_carry_their_labels(plot, frame):
    _, ax = plt.subplots()
    assert plot(ax, frame) is ax
    assert ax.get_legend().get_texts()[0].get_text() == "dress"
