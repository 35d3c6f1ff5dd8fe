"""Figures of the method: what the plots of a ranking, of sets and of images draw."""

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
from analysis import method_figures
from PIL import Image

pytestmark = pytest.mark.usefixtures("style")


def test_the_window_starts_after_the_first_drop_and_ends_before_the_second():
    # rank             target 1    2  |  3    4  |  5
    scores = np.array([0.9, 0.8, 0.79, 0.5, 0.48, 0.2])
    _, ax = plt.subplots()
    method_figures.plot_relevance_curve(ax, scores, 0, (2, 4))
    (window,) = ax.patches
    assert window.get_x() == 2.5 and window.get_x() + window.get_width() == 4.5
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "window (2 hard negatives)" in labels
    assert "first drop (0.290)" in labels and "second drop (0.280)" in labels


def test_a_query_without_a_pair_has_no_window():
    _, ax = plt.subplots()
    method_figures.plot_relevance_curve(ax, np.array([0.9, 0.8]), 1, (-1, -1), log_x=True)
    assert not ax.patches
    assert ax.get_legend().get_title().get_text() == "no pair of drops"


def test_an_image_strip_frames_its_zone_and_turns_the_rest_off():
    _, axes = plt.subplots(1, 3)
    images = [Image.new("RGB", (4, 4), "red")] * 2
    method_figures.plot_image_strip(axes, images, ["0.90 · rank 3", "0.80 · rank 4"], "inside")
    assert [ax.axison for ax in axes] == [True, True, False]
    assert axes[1].get_xlabel() == "0.80 · rank 4"
    frame = matplotlib.colors.to_hex(axes[0].spines["left"].get_edgecolor())
    assert frame == method_figures.ZONE_COLOURS["inside"].lower()


def test_a_strip_has_a_note_for_each_image():
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="zip"):
        method_figures.plot_image_strip(axes, [Image.new("RGB", (4, 4))] * 2, ["0.90"], "inside")


def test_a_query_reads_reference_caption_target(tmp_path):
    path = tmp_path / "reference.png"
    Image.new("P", (4, 6)).save(path)
    _, axes = plt.subplots(1, 3)
    method_figures.plot_query(axes, path, "Is red and has a v neck", Image.new("RGB", (4, 4)))
    assert [ax.get_xlabel() for ax in axes] == ["reference", "", "target"]
    assert axes[1].texts[0].get_text().replace("\n", " ") == "Is red and has a v neck"
