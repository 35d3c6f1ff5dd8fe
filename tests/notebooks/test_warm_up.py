"""analysis.warm_up: targets, windows and recall, from small mining reports."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis import warm_up
from report.names import find_look

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining_report import MiningReport

N = 100  # images: ranks are per cents of the corpus


def report(targets, starts, sizes=None, **columns) -> MiningReport:
    """A mining report on a few queries; a window start of NaN is a query without a pair."""
    starts = np.array(starts, dtype=float)
    sizes = np.where(np.isnan(starts), 0, 10) if sizes is None else np.array(sizes)
    frame = pd.DataFrame({"target_rank": targets, "window_start": starts, "set_size": sizes})
    frame["window_end"] = frame.window_start + frame.set_size - 1
    frame = frame.assign(score_margin=0.1, score_skewness=0.0, largest_gap=0.01, **columns)
    return MiningReport(MiningConfig(), frame, np.linspace(1, 0, N), np.full(N, 0.1))


def test_stage_1_shows_its_settings_and_the_level_of_chance():
    manifest = {"loss_first_epoch": 3.0, "loss_last_epoch": 1.0, "val_images": 50, "seconds": 9}
    manifest |= {"val_top1": 0.5, "settings": {"epochs": 4}}
    table = warm_up.describe_stage1(manifest).set_index("stage 1")["value"]
    assert (table["chance (%)"], table["top-1 accuracy (%)"], table["epochs"]) == (2, 50, 4)
    assert table.index[-1] == "epochs"


def test_every_run_starts_at_the_same_target_rank():
    before = {"dress": report([40, 60, 80], [np.nan] * 3), "hat": report([10, 20, 30], [50] * 3)}
    columns = {"epoch": [2, 2, 4, 4], "corpus_size": [200, 100] * 2}
    mining = {
        "a": pd.DataFrame(columns | {"target_rank_median": [20, 10, 2, 1]}),
        "b": pd.DataFrame(columns | {"target_rank_median": [40, 10, 20, 30]}),
    }
    ranks = warm_up.target_ranks(mining, before).set_index(["run", "epoch"])["target"]
    assert ranks["a", 0] == ranks["b", 0] == (60 + 20) / 2
    assert (ranks["a"].tolist(), ranks["b"].tolist()) == ([40, 10, 1], [40, 15, 20])


def test_a_target_is_ready_within_the_yardstick():
    mined = {"late": {"dress": report([0, 1, 2, 50], [3, 4, 60, np.nan])}}
    (row,) = warm_up.first_definitions(mined, good_enough=1.0).to_dict("records")
    assert (row["targets ready (%)"], row["share_no_pair"]) == (50, 0.25)
    assert row["share_bottom_half"] == pytest.approx(1 / 3)
    assert "relevance_inside" not in row


def test_stages_are_means_over_categories_in_the_order_given():
    graded = {"relevance_above": 0.5, "relevance_below": 0.25}
    graded |= {"false_negatives": 0, "false_negatives_top10": 0}
    near = report([0, 0], [1, 1], relevance_inside=[0.5, 0.5], **graded)
    far = report([90, 90], [95, 95], sizes=[2, 2], relevance_inside=[0.25, 0.75], **graded)
    mined = {"z": {"dress": near, "hat": far}, "a": {"dress": far, "hat": far}}
    found = warm_up.first_definitions(mined, good_enough=5)
    assert found["stage"].tolist() == ["z", "a"]
    assert found["targets ready (%)"].tolist() == [50, 0]
    assert found["set_size_median"].tolist() == [6, 2]
    assert found["relevance_inside"].tolist() == [0.5, 0.5]


def test_windows_are_grouped_by_the_rank_of_the_target():
    mined = {
        "early": {"dress": report([1, 2, 20, 21], [10, 60, np.nan, 70])},
        "late": {"dress": report([0, 1], [2, 50]), "hat": report([0], [np.nan])},
    }
    windows = warm_up.windows_by_target_rank(mined, good_enough=1)
    assert windows["stage"].tolist() == ["early"] * 4 + ["late"]
    labels = ["up to 1", "1 to 5", "5 to 20", "over 20"]
    assert windows[warm_up.GROUP].tolist() == [*labels, "up to 1"]
    assert windows["queries"].tolist() == [1, 1, 1, 1, 3]
    begins = windows["window begins (% of the ranking, median)"]
    np.testing.assert_array_equal(begins, [10, 60, np.nan, 70, 26])
    np.testing.assert_array_equal(windows[warm_up.BOTTOM], [0, 100, np.nan, 100, 50])
    np.testing.assert_allclose(windows["no pair (%)"], [0, 0, 100, 0, 100 / 3])


def test_a_mild_yardstick_leaves_fewer_groups():
    mined = {"late": {"dress": report([9, 11, 99], [12, 13, np.nan])}}
    groups = warm_up.windows_by_target_rank(mined, good_enough=10)[warm_up.GROUP]
    assert groups.tolist() == ["up to 10", "10 to 20", "over 20"]


def test_the_figure_has_a_place_for_every_group_and_none_for_queries_without_windows():
    mined = {"late": {"dress": report([0, 10, 99], [2, 60, np.nan])}}
    windows = warm_up.windows_by_target_rank(mined, good_enough=1)
    shares = warm_up.bottom_half_shares(windows)
    assert shares["value"].tolist() == [0, 2] and shares["share"].tolist() == [0, 100]
    _, ax = plt.subplots()
    assert warm_up.plot_bottom_half(ax, shares) is ax
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["up to 1", "1 to 5", "5 to 20", "over 20"]
    assert list(ax.get_lines()[0].get_xdata()) == [0, 2]
    plt.close("all")


def test_a_stage_keeps_its_look_and_is_named_in_the_legend():
    found = report([0, 10, 99], [2, 60, 80])
    mined = {"after warm-up": {"dress": found}, "published, longer": {"dress": found}}
    shares = warm_up.bottom_half_shares(warm_up.windows_by_target_rank(mined, good_enough=1))
    _, ax = plt.subplots()
    warm_up.plot_bottom_half(ax, shares)
    first, second = ax.get_lines()
    look = find_look("after warm-up")
    assert (first.get_color(), first.get_marker()) == (look.colour, look.marker)
    assert (second.get_color(), second.get_marker()) != (look.colour, look.marker)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(mined)
    plt.close("all")
