"""qure_lib.plots: the exporter's promises, and that each plot draws what its frame says."""

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qure_lib import plots
from qure_lib.reports import Reports

DATA = pd.DataFrame({"rank": [0, 1, 2], "score": [0.9, 0.5, 0.1]})
BANDS = pd.DataFrame(
    {
        "epoch": [5, 10] * 2,
        "category": ["dress", "dress", "shirt", "shirt"],
        "set_size_mean": [80.0, 20.0, 60.0, 10.0],
        "set_size_median": [60.0, 9.0, 50.0, 7.0],
        "set_size_q25": [30.0, 5.0, 25.0, 4.0],
        "set_size_q75": [90.0, 25.0, 65.0, 12.0],
        "window_start_fraction": [0.2, 0.9, 0.1, 0.8],
        "window_end_fraction": [0.3, 0.95, 0.2, 0.85],
    }
)
CURVE = pd.DataFrame({"rank": [0, 1], "mean": 0.5, "low": 0.4, "high": 0.6, "label": "dress"})


@pytest.fixture(autouse=True)
def style():
    plots.use_house_style()
    yield
    plt.close("all")


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path, "03_hard_negatives")


def score_figure():
    figure, ax = plt.subplots(figsize=(plots.COLUMN_WIDTH, 2))
    plots.plot_relevance_curve(ax, np.array([0.9, 0.8, 0.79, 0.5, 0.48, 0.2]), 0, (2, 4))
    return figure


def test_costs_are_lines_and_this_run_is_open_marks():
    frame = pd.DataFrame({"images": [10, 100, 10, 100], "seconds": [1.0, 9.0, 2.0, 3.0]})
    frame["label"] = ["exact", "exact", "approximate", "approximate"]
    frame["live"] = [False, False, False, True]
    frame.loc[4] = [10, 5.0, "measured here", True]
    _, ax = plt.subplots()
    plots.plot_scaling(ax, frame, "images", "seconds")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    full, hollow = ax.lines[1:3]
    assert full.get_ydata().tolist() == [2.0] and hollow.get_ydata().tolist() == [3.0]
    assert full.get_color() == hollow.get_color()
    assert hollow.get_markerfacecolor() == "none" and full.get_markerfacecolor() != "none"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["exact", "approximate", "measured here", "this run"]


def test_a_saved_figure_is_pdf_png_csv_and_note(reports):
    plots.save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops. Fig. 7.", reports)
    written = {path.suffix for path in reports.figures.iterdir()}
    assert written == {".pdf", ".png", ".csv", ".json"}
    pd.testing.assert_frame_equal(pd.read_csv(reports.figures / "fig7_score_curve.csv"), DATA)
    note = json.loads((reports.figures / "fig7_score_curve.json").read_text())
    assert note["kind"] == "figure" and note["notebook"] == "03_hard_negatives"
    assert note["title"] == "Two drops" and note["caption"] == "Two drops. Fig. 7."
    with Image.open(reports.figures / "fig7_score_curve.png") as image:
        assert image.width == round(300 * plots.COLUMN_WIDTH)


def test_a_rerun_writes_the_same_bytes(tmp_path):
    contents = []
    for run in ("first", "second"):
        reports = Reports(tmp_path / run, "03_hard_negatives")
        plots.save_figure(score_figure(), "fig7_score_curve", DATA, "Two drops.", reports)
        contents.append({p.name: p.read_bytes() for p in reports.figures.iterdir()})
    assert contents[0] == contents[1]


def test_an_unlabelled_axes_is_refused_by_name(reports):
    figure, (left, right) = plt.subplots(1, 2)
    left.set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    right.set(xlabel="Rank (0 = best)", title="after warm-up")
    with pytest.raises(ValueError, match="after warm-up has no y label"):
        plots.save_figure(figure, "fig7", DATA, "c", reports)
    assert not reports.figures.exists() or not any(reports.figures.iterdir())


def test_a_label_may_be_shared_named_by_ticks_or_needless(reports):
    figure, axes = plt.subplots(2, 2, sharey="row")
    axes[0, 0].set(xlabel="Rank (0 = best)", ylabel="Relevance score (cosine)")
    axes[0, 1].set(xlabel="Rank (0 = best)")
    axes[1, 0].imshow(np.zeros((2, 2)))
    axes[1, 1].set_axis_off()
    plots.save_figure(figure, "fig7", DATA, "c", reports)
    figure, ax = plt.subplots()
    frame = pd.DataFrame({"label": ["QuRe"], "estimate": [1.0], "low": [0.5], "high": [2.0]})
    plots.plot_intervals(ax, frame).set_xlabel("Recall@10 (%)")
    plots.save_figure(figure, "fig8", DATA, "c", reports)
    assert {path.stem for path in reports.figures.iterdir()} == {"fig7", "fig8"}


def test_a_figure_without_data_is_refused(reports):
    with pytest.raises(ValueError, match="figure fig7: no data"):
        plots.save_figure(score_figure(), "fig7", DATA[:0], "c", reports)


def test_rows_of_two_kinds_have_a_colour_each_and_a_name_in_the_legend():
    frame = pd.DataFrame({"label": list("abc"), "estimate": 1, "low": 0, "high": 2}, [7, 8, 9])
    frame["group"] = ["x", "y", "x"]
    _, ax = plt.subplots()
    plots.plot_intervals(ax, frame, 1.5, "base")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "x", "y"]
    places = [points.get_offsets()[:, 1].tolist() for points in ax.collections[1::2]]
    assert places == [[0, 2], [1]]
    colours = {tuple(points.get_facecolor()[0]) for points in ax.collections[1::2]}
    assert len(colours) == 2


def test_the_window_starts_after_the_first_drop_and_ends_before_the_second():
    # rank          target 1    2  |  3    4  |  5
    figure = score_figure()
    (window,) = figure.axes[0].patches
    assert window.get_x() == 2.5 and window.get_x() + window.get_width() == 4.5
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "window (2 hard negatives)" in labels
    assert "first drop (0.290)" in labels and "second drop (0.280)" in labels


def test_a_zoom_shows_the_window_and_its_neighbours():
    scores = np.linspace(1, 0, 100)
    _, ax = plt.subplots()
    plots.plot_relevance_curve(ax, scores, 3, (50, 60))
    plots.zoom_to_window(ax, scores, (50, 60), margin=5)
    assert ax.get_xlim() == (45, 65.5)
    bottom, top = ax.get_ylim()
    assert bottom < scores[65] and scores[45] < top < scores[30]


def test_a_query_without_a_pair_has_no_window():
    _, ax = plt.subplots()
    plots.plot_relevance_curve(ax, np.array([0.9, 0.8]), 1, (-1, -1), log_x=True)
    assert not ax.patches
    assert ax.get_legend().get_title().get_text() == "no pair of drops"


@pytest.mark.parametrize("plot", [plots.plot_negative_set_size, plots.plot_window_position])
def test_a_category_keeps_its_colour_in_every_plot(plot):
    _, ax = plt.subplots()
    assert plot(ax, BANDS) is ax
    colours = {line.get_label(): line.get_color() for line in ax.get_lines()}
    assert colours["dress"] == plots.METHOD_COLOURS["dress"]
    assert colours["shirt"] == plots.METHOD_COLOURS["shirt"]


def test_methods_and_categories_differ_in_colour_and_in_a_second_cue():
    groups = (["between_drops", "after_target_top_k", "top_k", "all_corpus", "info_nce"],)
    for group in (*groups, ["dress", "shirt", "toptee"]):
        styles = [plots._line_style(name, 0) for name in group]
        for cue in ("color", "linestyle", "marker"):
            assert len({str(style[cue]) for style in styles}) == len(group)


def test_the_top_of_the_ranking_is_drawn_at_the_top():
    _, ax = plt.subplots()
    plots.plot_window_position(ax, BANDS)
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_epochs_draw_a_line_a_run_and_the_definitions():
    frame = pd.DataFrame({"run": ["a", "a", "b", "b"], "epoch": [0, 1] * 2, "loss": [3, 2, 3, 1]})
    _, ax = plt.subplots()
    plots.plot_epochs(ax, frame, "loss", definition_epochs=[1])
    assert [list(line.get_ydata()) for line in ax.get_lines()[1:]] == [[3, 2], [3, 1]]
    assert list(ax.get_lines()[0].get_xdata()) == [1, 1]


def test_zone_relevance_draws_three_zones_and_the_corpus():
    zones = {f"relevance_{zone}": [0.5, 0.6] for zone in ("above", "inside", "below")}
    _, ax = plt.subplots()
    plots.plot_zone_relevance(ax, pd.DataFrame({"epoch": [1, 2], "corpus_mean": 0.3} | zones))
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == ["above the window", "inside the window", "below the window", "corpus mean"]


def test_an_image_strip_frames_its_zone_and_turns_the_rest_off():
    _, axes = plt.subplots(1, 3)
    images = [Image.new("RGB", (4, 4), "red")] * 2
    plots.plot_image_strip(axes, images, ["0.90 · rank 3", "0.80 · rank 4"], "inside")
    assert [ax.axison for ax in axes] == [True, True, False]
    assert axes[1].get_xlabel() == "0.80 · rank 4"
    frame = matplotlib.colors.to_hex(axes[0].spines["left"].get_edgecolor())
    assert frame == plots.ZONE_COLOURS["inside"].lower()


def test_a_query_reads_reference_caption_target(tmp_path):
    path = tmp_path / "reference.png"
    Image.new("P", (4, 6)).save(path)
    _, axes = plt.subplots(1, 3)
    plots.plot_query(axes, path, "Is red and has a v neck", Image.new("RGB", (4, 4)))
    assert [ax.get_xlabel() for ax in axes] == ["reference", "", "target"]
    assert axes[1].texts[0].get_text().replace("\n", " ") == "Is red and has a v neck"


@pytest.mark.parametrize(
    ("plot", "frame"),
    [
        (plots.plot_aggregate_curve, CURVE),
        (plots.plot_epoch_bands, CURVE.rename(columns={"rank": "epoch"})),
        (plots.plot_shares, pd.DataFrame({"value": [1, 2], "share": [40, 60], "label": "dress"})),
    ],
)
def test_lines_carry_their_labels(plot, frame):
    _, ax = plt.subplots()
    assert plot(ax, frame) is ax
    assert ax.get_legend().get_texts()[0].get_text() == "dress"
