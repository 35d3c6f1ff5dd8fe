"""analysis.hard_negatives: single queries, windows and rules, and what the plots draw."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from analysis import hard_negatives
from analysis.hard_negatives import plot_negative_set_size, zone_ranks
from drawn_queries import QUERIES, DrawnEmbedder, draw_query_set
from report import figures
from report.names import find_look

from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.mining_report import MiningReport
from qure_lib.train.definition import define_hard_negatives
from qure_lib.train.run_folder import Run
from qure_lib.train.training_data import TrainingData

TAU = 0.1
PREFERENCE = TrainConfig(mining=MiningConfig(curve="preference"))
BANDS = pd.DataFrame(
    {
        "epoch": [5, 10] * 2,
        "category": ["dress", "dress", "shirt", "shirt"],
        "window_start_fraction": [0.2, 0.9, 0.1, 0.8],
        "window_end_fraction": [0.3, 0.95, 0.2, 0.85],
    }
)


class DrawnModel(DrawnEmbedder):
    """With a temperature, which mining asks for."""

    model = SimpleNamespace(temperature=torch.tensor(TAU))


@pytest.fixture(autouse=True)
def style():
    figures.use_house_style()
    yield
    plt.close("all")


@pytest.fixture
def data(tmp_path) -> TrainingData:
    queries = {name: draw_query_set(tmp_path, name, 40) for name in ("dress", "hat")}
    grades = torch.rand(QUERIES, 40, generator=torch.Generator().manual_seed(0))
    return TrainingData(queries, queries, {"dress": grades, "hat": grades})


@pytest.fixture
def mined(data) -> dict[str, MiningReport]:
    return hard_negatives.mine(DrawnModel("start"), data, TrainConfig())


@pytest.fixture
def shown(data, mined) -> hard_negatives.RankedQuery:
    """The dress query with the median window."""
    sizes = mined["dress"].per_query.set_size
    number = hard_negatives.median_query(sizes[sizes > 0])
    model = DrawnModel("start")
    return hard_negatives.rank_query(model, data.train["dress"], number, mined["dress"])


def test_one_query_is_ranked_as_one_would_by_hand(data, mined):
    model, queries = DrawnModel("start"), data.train["dress"]
    images = model.embed_corpus(queries.corpus).numpy()
    for number, row in enumerate(mined["dress"].per_query.itertuples()):
        scores = (images @ model.embed_queries(queries)[number].numpy()).max(axis=1)
        one = hard_negatives.rank_query(model, queries, number, mined["dress"])
        np.testing.assert_array_equal(one.order, np.argsort(-scores, kind="stable"))
        np.testing.assert_allclose(one.scores, np.sort(scores)[::-1], atol=1e-6)
        assert one.order[one.target_rank] == queries.target_positions[number] == number
        window = (row.window_start - 1, row.window_end) if row.set_size else (-1, -1)
        assert one.drops == window and one.triplet is queries.triplets[number]


def test_the_median_query_is_the_first_with_a_value_that_occurs():
    sizes = pd.Series([0, 9, 4, 1, 4], index=[10, 11, 12, 13, 14])
    assert hard_negatives.median_query(sizes) == 12
    assert hard_negatives.median_query(sizes[sizes > 0][:2]) == 12  # of 9 and 4
    with pytest.raises(ValueError, match="no query has a window"):
        hard_negatives.median_query(sizes[sizes > 9])


def test_curves_list_every_rank_of_every_stage(shown):
    points = hard_negatives.curve_points({"before": shown, "after": shown})
    assert points["stage"].tolist() == ["before"] * 40 + ["after"] * 40
    assert points["rank"].tolist() == [*range(40)] * 2
    np.testing.assert_array_equal(points["score"][:40], shown.scores)
    assert set(points["first_drop"]) == {shown.drops[0]} and set(points["category"]) == {"dress"}


def test_a_curve_is_the_cosine_or_how_probably_each_image_beats_the_target():
    scores = np.array([0.9, 0.5, 0.5, 0.1], dtype="float32")
    np.testing.assert_array_equal(hard_negatives.measured_curve(scores, 1, MiningConfig()), scores)
    config = MiningConfig(curve="preference", temperature=0.2)
    curve = hard_negatives.measured_curve(scores, 1, config)
    np.testing.assert_allclose(curve, [1 / (1 + np.exp(-m / 0.2)) for m in (0.4, 0, 0, -0.4)])


def test_a_query_s_curve_is_the_one_that_its_window_was_found_on(data, shown):
    np.testing.assert_array_equal(shown.curve, shown.scores)
    model = DrawnModel("start")
    mined = hard_negatives.mine(model, data, PREFERENCE)["dress"]
    ranked = hard_negatives.rank_query(model, data.train["dress"], shown.number, mined)
    assert (ranked.config.curve, ranked.config.temperature) == ("preference", pytest.approx(TAU))
    assert ranked.curve[ranked.target_rank] == 0.5 and (np.diff(ranked.curve) <= 0).all()
    first, second = ranked.drops  # two large drops of this curve, below the target
    below = -np.diff(ranked.curve)[ranked.target_rank + 1 :]
    sizes = -np.diff(ranked.curve)[[first, second]]
    assert ranked.target_rank < first and (sizes >= np.median(below)).all()


def test_a_query_is_drawn_once_a_stage_with_the_size_of_its_window(shown):
    config = MiningConfig(curve="preference", temperature=TAU)
    stages = {
        "early, cosine": shown,
        "late, cosine": replace(shown, drops=(-1, -1)),
        "late, preference": replace(shown, drops=(30, 33), config=config),
    }
    _, axes = plt.subplots(1, 3)
    hard_negatives.plot_query_curves(axes, stages)
    size = shown.drops[1] - shown.drops[0]
    titles = [f"early\ncosine: {size}", "late\ncosine: 0", "late\npreference: 3"]
    assert [ax.get_title() for ax in axes] == [f"dress, {words} in the set" for words in titles]
    assert [ax.get_ylabel() for ax in axes] == ["Score (cosine)", "Score (cosine)", "1 - P"]
    assert [ax.get_xscale() for ax in axes] == ["linear", "linear", "symlog"]
    for ax, drawn in zip(axes, stages.values(), strict=True):
        np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), drawn.curve)
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert words[0] == f"target: {drawn.target_rank}"
        first, second = drawn.drops
        assert words[1:] == ([f"window: {first + 1}-{second}"] if first >= 0 else [])
    assert [len(ax.patches) for ax in axes] == [1, 0, 1]  # the window
    with pytest.raises(ValueError, match="zip"):
        hard_negatives.plot_query_curves(axes[:2], stages)


def test_images_come_from_their_zone_with_score_and_relevance(shown, data):
    images = hard_negatives.zone_images(shown, data.relevance["dress"], count=4)
    start, end = shown.drops[0] + 1, shown.drops[1]
    bounds = {"above": (0, start - 1), "inside": (start, end)}
    bounds["below"] = end + 1, 39
    assert set(images["zone"]) <= set(bounds) and shown.target_rank not in set(images["rank"])
    for image in images.itertuples():
        low, high = bounds[image.zone]
        assert low <= image.rank <= high and image.query == shown.number
        assert image.position == shown.order[image.rank]
        assert image.score == shown.scores[image.rank]
        assert image.relevance == data.relevance["dress"][shown.number, image.position]
    assert images.groupby("zone").size().max() <= 4
    inside = images[images["zone"] == "inside"]["rank"]
    assert (inside.min(), inside.max()) == (start, end)
    assert "relevance" not in hard_negatives.zone_images(shown, None)


def test_images_are_drawn_in_a_row_a_zone_under_the_query(shown, data):
    images = hard_negatives.zone_images(shown, data.relevance["dress"])
    figure = plt.figure()
    hard_negatives.plot_zone_images(figure, shown, images)
    columns = images.groupby("zone").size().max()
    assert len(figure.axes) == 4 + 3 * columns  # query and curve, then the images
    rows = np.array(figure.axes[4:]).reshape(3, -1)
    for row, zone in zip(rows, hard_negatives.ZONES, strict=True):
        part = images[images["zone"] == zone]
        assert [ax.axison for ax in row] == [k < len(part) for k in range(columns)]
        for ax, image in zip(row, part.itertuples(), strict=False):
            score = f"{image.score:.2f}".replace("-0.00", "0.00")
            note = f"rank {image.rank}, score {score}\nrelevance {image.relevance:.2f}"
            assert ax.get_xlabel() == note


def test_the_band_of_a_mean_curve_is_one_deviation_to_either_side(mined):
    curves = hard_negatives.aggregate_curves({"start": mined, "end": mined})
    assert curves[["label", "category"]].drop_duplicates().to_numpy().tolist() == [
        ["start", "dress"],
        ["start", "hat"],
        ["end", "dress"],
        ["end", "hat"],
    ]
    np.testing.assert_allclose(curves["high"] - curves["mean"], curves["std"])
    np.testing.assert_allclose(curves["mean"] - curves["low"], curves["std"])
    np.testing.assert_array_equal(curves["mean"][:40], mined["dress"].mean_scores)
    _, axes = plt.subplots(1, 2)
    hard_negatives.plot_aggregate_curves(axes, curves)
    assert [ax.get_title() for ax in axes] == ["dress", "hat"]
    stars = [line for line in axes[1].get_lines() if line.get_marker() == "*"]
    median = mined["hat"].per_query.target_rank.median()
    assert [line.get_xdata()[0] for line in stars] == [median, median]


def test_gaps_of_all_fifths_add_up_to_the_whole_descent(mined):
    gaps = hard_negatives.gaps_by_fifth({"start": mined}).set_index("category")
    assert list(gaps.columns[1:6]) == ["0-20 %", "20-40 %", "40-60 %", "60-80 %", "80-100 %"]
    counts = [len(part) for part in np.array_split(np.arange(39), 5)]
    mean = mined["hat"].mean_scores
    descent = (gaps.loc["hat"].iloc[1:6].astype(float) * counts).sum()
    assert descent == pytest.approx(1000 * (mean[0] - mean[-1]))


def test_each_rule_chooses_what_mining_by_it_chooses(data):
    model = DrawnModel("start")
    table = hard_negatives.compare_rules(model, data, TrainConfig(), near=10)
    assert table["drops in"].tolist() == ["cosine"] * 4 + ["preference"] * 4
    assert table["rule"].tolist() == ["release", "release", "largest", "largest"] * 2
    places = ["whole ranking", "10 ranks after the target"]
    assert table["drops sought in"].tolist() == places * 4
    columns = ["set_size_median", "window_start_fraction", "share_no_pair"]
    columns += ["margin_over_temperature", "relevance_inside"]
    for row in table.to_dict("records"):
        near = 10 if row["drops sought in"].startswith("10") else None
        mining = MiningConfig(drop_rule=row["rule"], search_window=near, curve=row["drops in"])
        found = define_hard_negatives(model, data, TrainConfig(mining=mining))
        summaries = [report.summary() for _, report in found.values()]
        for column in columns:
            assert row[column] == pytest.approx(np.mean([s[column] for s in summaries])), column
    assert len(table.drop_duplicates(columns)) == 8


def test_rules_are_compared_without_relevance_where_it_is_not_known(data):
    unknown = replace(data, relevance=dict.fromkeys(data.train))
    table = hard_negatives.compare_rules(DrawnModel("start"), unknown, TrainConfig(), near=10)
    assert "set_size_median" in table and "relevance_inside" not in table


def test_relevance_by_zone_stands_beside_the_mean_of_the_corpus():
    columns = ["relevance_above", "relevance_inside", "relevance_below", "false_negative_share"]
    mining = pd.DataFrame({"epoch": [1, 1, 2, 2], "category": ["dress", "hat"] * 2})
    mining = mining.assign(**{name: [0.25, 0.75, 0.5, 1.0] for name in columns})
    relevance = {"dress": torch.tensor([[0.0, 0.5]]), "hat": torch.tensor([[1.0, 1.0, 1.0]])}
    frame = hard_negatives.relevance_by_zone(mining, relevance)
    assert frame["relevance_inside"].tolist() == [0.5, 0.75]
    assert frame["low_relevance_inside"].tolist() == [0.25, 0.5]
    assert frame["high_relevance_inside"].tolist() == [0.75, 1.0]
    assert frame["corpus_mean"].tolist() == [0.625, 0.625]  # each category counts the same


def test_a_category_keeps_its_colour():
    _, ax = plt.subplots()
    assert hard_negatives.plot_window_position(ax, BANDS) is ax
    colours = {line.get_label(): line.get_color() for line in ax.get_lines()}
    for category in ("dress", "shirt"):
        assert colours[category] == find_look(category).colour


def test_the_top_of_the_ranking_is_drawn_at_the_top():
    _, ax = plt.subplots()
    hard_negatives.plot_window_position(ax, BANDS)
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_zone_relevance_draws_three_zones_and_the_corpus():
    zones = {f"relevance_{zone}": [0.5, 0.6] for zone in ("above", "inside", "below")}
    ends = {f"{end}_{zone}": [0.4, 0.7] for end in ("low", "high") for zone in zones}
    frame = pd.DataFrame({"epoch": [1, 2], "corpus_mean": 0.3} | zones | ends)
    _, ax = plt.subplots()
    hard_negatives.plot_zone_relevance(ax, frame)
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels == ["above the window", "inside the window", "below the window", "corpus mean"]


def test_zones_are_spread_over_the_ranking():
    # rank:  above 0-9 (target 2) | window 10-13 | below 14-29
    zones = zone_ranks(2, (10, 13), 30, count=4)
    assert zones == {"above": [0, 3, 6, 9], "inside": [10, 11, 12, 13], "below": [14, 19, 24, 29]}
    empty = {"above": [], "inside": [1], "below": []}
    assert zone_ranks(0, (1, 1), 2, count=4) == empty


SIZES = pd.DataFrame(
    {
        "epoch": [5, 10] * 2,
        "category": ["dress", "dress", "shirt", "shirt"],
        "set_size_mean": [80.0, 20.0, 60.0, 10.0],
        "set_size_median": [60.0, 9.0, 50.0, 7.0],
        "set_size_q25": [30.0, 5.0, 25.0, 4.0],
        "set_size_q75": [90.0, 25.0, 65.0, 12.0],
    }
)


def test_a_category_keeps_its_colour_and_has_an_open_mark_at_the_median():
    _, ax = plt.subplots()
    assert plot_negative_set_size(ax, SIZES) is ax
    lines = {line.get_label(): line for line in ax.get_lines()}
    for category in ("dress", "shirt"):
        assert lines[category].get_color() == find_look(category).colour
    medians = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata().tolist() for line in medians] == [[60, 9], [50, 7]]
    assert ax.get_yscale() == "log" and ax.get_xticks().tolist() == [5, 10]


def test_categories_with_the_same_sizes_are_drawn_side_by_side():
    _, ax = plt.subplots()
    plot_negative_set_size(ax, SIZES.assign(set_size_mean=7.0))
    places = [
        line.get_xdata().tolist() for line in ax.get_lines() if line.get_linestyle() != "None"
    ]
    assert places[0] != places[1] and np.mean(places, axis=0).tolist() == [5, 10]


def test_a_mining_table_and_its_warnings_repeat_the_report(data, mined, tmp_path):
    report = mined["dress"]
    row = {"epoch": 2, "category": "dress"} | report.summary()
    (tmp_path / "definitions").mkdir()
    saved = tmp_path / "definitions" / "epoch_02.csv"
    report.per_query.assign(category="dress").to_csv(saved, index=False)
    run = Run(tmp_path, pd.DataFrame(), pd.DataFrame([row]), DrawnModel("start"))
    table = hard_negatives.mining_table({"cosine": run, "other": run})
    begins = 100 * report.summary()["window_start_fraction"]
    assert table.loc[2, "dress"]["begins at (%)"].tolist() == [begins, begins]
    assert hard_negatives.mining_warnings(run, report.config) == report.warnings()
    assert report.warnings()  # this drawn case has some
