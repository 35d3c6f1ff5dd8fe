"""Figures: each plot draws what its frame says."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from report import figures
from report.names import BLUE, Look, find_look

pytestmark = pytest.mark.usefixtures("style")
CURVE = pd.DataFrame({"epoch": [0, 1], "mean": 0.5, "low": 0.4, "high": 0.6, "label": "dress"})


def outline(marker):
    """The points of a marker's outline."""
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform()).vertices.round(3).tolist()


def marks_of(ax):
    """Row -> colour and outline of the mark that `plot_intervals` drew there."""
    marks = [marks for marks in ax.collections if isinstance(marks, PathCollection)]
    return {
        int(row): (to_hex(m.get_facecolor()[0]), m.get_paths()[0].vertices.round(3).tolist())
        for m in marks
        for row in m.get_offsets()[:, 1]
    }


def test_rows_of_two_kinds_have_a_colour_each_and_a_name_in_the_legend():
    frame = pd.DataFrame({"label": list("abc"), "estimate": 1, "low": 0, "high": 2}, [7, 8, 9])
    frame["group"] = ["x", "y", "x"]
    _, ax = plt.subplots()
    figures.plot_intervals(ax, frame, 1.5, "base")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "x", "y"]
    (first, x), (second, y), (third, z) = sorted(marks_of(ax).items())
    assert (first, second, third) == (0, 1, 2) and x == z
    assert x[0] != y[0] and x[1] != y[1]  # colour and marker


def test_the_reference_is_a_line_and_the_first_row_is_on_top():
    frame = pd.DataFrame({"label": list("abc"), "estimate": 1, "low": 0, "high": 2})
    _, ax = plt.subplots()
    assert figures.plot_intervals(ax, frame, 1.5, "base") is ax
    assert ax.lines[0].get_xdata() == [1.5, 1.5]
    bottom, top = ax.get_ylim()
    assert bottom > top and [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("code", ["cosine", "strong_cosine", "dress"])
def test_a_label_with_a_look_is_drawn_in_it_wherever_it_comes(code):
    look = find_look(code)
    expected = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
    assert figures.line_style(code, 0) == figures.line_style(code, 3) == expected


def test_labels_without_a_look_differ_in_colour_and_in_both_other_cues():
    styles = [figures.line_style(name, index) for index, name in enumerate("abcde")]
    for cue in ("color", "linestyle", "marker"):
        assert len({str(style[cue]) for style in styles}) == 5


def test_rows_without_groups_have_the_look_of_their_labels():
    frame = pd.DataFrame({"label": ["cosine", "other", "uniform"]})
    _, ax = plt.subplots()
    figures.plot_intervals(ax, frame.assign(estimate=1, low=0, high=2))
    looks = [find_look("cosine"), Look("other", BLUE, "o"), find_look("uniform")]
    colours = [to_hex(colour) for colour in ax.collections[0].get_colors()]
    assert colours == [look.colour for look in looks]
    expected = {row: (look.colour, outline(look.marker)) for row, look in enumerate(looks)}
    assert marks_of(ax) == expected and ax.get_legend() is None


def test_ticks_and_legends_print_codes_in_words():
    frame = pd.DataFrame({"label": ["in_batch", "a"], "estimate": 1, "low": 0, "high": 2})
    _, ax = plt.subplots()
    figures.plot_intervals(ax, frame)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["in-batch contrast", "a"]
    epochs = pd.DataFrame({"run": ["cosine", "uniform"], "epoch": 0, "loss": 1})
    _, ax = plt.subplots()
    figures.plot_epochs(ax, epochs, "loss")
    names = ["drops in the cosine (released)", "uniform negatives"]
    assert ax.get_legend_handles_labels()[1] == names


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
def test_lines_carry_their_labels_in_words(plot, frame):
    for code, name in (("dress", "dress"), ("same_sizes", "same sizes, after the target")):
        _, ax = plt.subplots()
        assert plot(ax, frame.assign(label=code)) is ax
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [name]
        assert ax.get_lines()[0].get_color() == find_look(code).colour
