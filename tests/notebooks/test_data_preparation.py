"""analysis.data_preparation: counts, captions, and what answers a query beside its target."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from analysis import data_preparation
from drawn_queries import QUERIES, draw_query_set

from qure_lib.datasets.queries import Triplet


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def captioned(category: str, *captions: str) -> list[Triplet]:
    return [Triplet(f"{category}/{q}", "a", c, "b", category, ()) for q, c in enumerate(captions)]


@pytest.fixture
def counts():
    ours = {"dress_train_images": 10, "empty_phrases": 0, "hat_val_images": 5, "hat_faults": 1}
    theirs = {"dress_train_images": 30, "empty_phrases": 2}
    return pd.DataFrame({"SynthFashion": pd.Series(ours), "FashionIQ": pd.Series(theirs)})


def test_counts_keep_the_published_order_and_judge_one_data_set(counts):
    published = pd.Series({"empty_phrases": 1, "dress_train_images": 30, "nowhere": 7})
    table = data_preparation.compare_counts(counts, published, "FashionIQ")
    assert list(table["count"]) == ["empty_phrases", "dress_train_images", "hat_val_images"]
    assert list(table.columns[1:]) == ["SynthFashion", "FashionIQ", "published", "verdict"]
    assert list(table["verdict"][:2]) == ["differs", "reproduced"]
    assert table["verdict"].isna().tolist() == [False, False, True]
    assert table["FashionIQ"].isna().tolist() == [False, False, True]


def test_only_fashioniq_is_found_equal_or_different(counts):
    published = pd.Series({"dress_train_images": 10, "empty_phrases": 1})
    table = data_preparation.compare_counts(counts, published, "SynthFashion")
    assert not {"reproduced", "differs"} & set(table["verdict"])


def test_a_caption_is_repeated_within_its_data_set_and_category():
    dress = captioned("dress", "Is red", "is RED", "is blue")
    captions = data_preparation.describe_captions(
        {"a": [*dress, *captioned("hat", "is red")], "b": captioned("dress", "is blue and red")}
    )
    assert captions["repeated"].tolist() == [100, 100, 0, 0, 0]
    assert captions["words"].tolist() == [2, 2, 2, 2, 4]
    summary = data_preparation.summarise_captions(captions).set_index(["data", "category"])
    row = summary.loc["a", "dress"]
    assert row[["captions", "longest", "vocabulary"]].tolist() == [3, 2, 3]
    assert row["repeated_percent"] == pytest.approx(200 / 3)
    assert summary["captions"].sum() == 5


def test_shares_of_lengths_add_up_to_each_data_set():
    triplets = {"a": captioned("hat", "x", "x y", "y x"), "b": captioned("hat", "x y z")}
    lengths = data_preparation.caption_lengths(data_preparation.describe_captions(triplets))
    assert lengths.groupby("label")["share"].sum().tolist() == pytest.approx([100, 100])
    of_a = lengths[lengths["label"] == "a"].set_index("value")["share"]
    assert of_a.to_dict() == pytest.approx({1: 100 / 3, 2: 200 / 3})


def test_lengths_of_one_data_set_are_compared_between_its_categories():
    triplets = {"a": captioned("hat", "x y") + captioned("coat", "x", "x y z")}
    lengths = data_preparation.caption_lengths(data_preparation.describe_captions(triplets))
    found = {label: rows["value"].tolist() for label, rows in lengths.groupby("label")}
    assert found == {"coat": [1, 3], "hat": [2]}


@pytest.fixture
def relevance():
    """Grades of a quarter each, over the queries of `draw_query_set`."""
    grades = np.random.default_rng(0).integers(0, 5, (QUERIES, 20)) / 4
    return {"dress": torch.tensor(grades, dtype=torch.float32)}


@pytest.fixture
def queries(tmp_path):
    return {"dress": draw_query_set(tmp_path, "dress", 20)}


@pytest.fixture
def counted(relevance, queries):
    targets = queries["dress"].target_positions
    return {"dress": data_preparation.count_false_negatives(relevance["dress"], targets)}


def test_false_negatives_are_counted_as_one_would_by_hand(relevance, queries, counted):
    for q, target in enumerate(queries["dress"].target_positions.tolist()):
        grades = relevance["dress"][q].tolist()
        fits = [i for i, grade in enumerate(grades) if i != target and grade >= grades[target]]
        assert counted["dress"][q] == len(fits)


def test_the_best_answer_alone_has_no_false_negative():
    relevance = torch.tensor([[0.0, 1.0, 0.5]])
    assert data_preparation.count_false_negatives(relevance, torch.tensor([1])).tolist() == [0]
    assert data_preparation.count_false_negatives(relevance, torch.tensor([0])).tolist() == [2]


def test_the_share_of_the_pool_is_the_chance_of_a_uniform_draw(relevance, queries, counted):
    (row,) = data_preparation.summarise_false_negatives(relevance, counted).to_dict("records")
    hits = []
    for q, target in enumerate(queries["dress"].target_positions.tolist()):
        grades = relevance["dress"][q].tolist()
        hits += [grades[i] >= grades[target] for i in range(20) if i != target]
    assert row["share_of_pool_percent"] == pytest.approx(100 * np.mean(hits))
    assert (row["queries"], row["images"], row["most"]) == (QUERIES, 20, counted["dress"].max())
    some = np.mean([count > 0 for count in counted["dress"].tolist()])
    assert row["queries_with_one_percent"] == pytest.approx(100 * some)


def test_many_false_negatives_are_drawn_as_one_group(relevance, counted):
    shares = data_preparation.relevance_shares(relevance, counted)
    assert shares.groupby("panel")["share"].sum().tolist() == pytest.approx([100, 100])
    fitting = shares[shares["panel"] == "false negatives"].set_index("value")["share"]
    most = data_preparation.MOST
    assert max(fitting.index) == most
    assert fitting[most] == pytest.approx(100 * np.mean([c >= most for c in counted["dress"]]))
    _, axes = plt.subplots(1, 2)
    data_preparation.plot_relevance_shares(axes, shares)
    assert axes[1].get_xticklabels()[-1].get_text() == f"{most}+"
    assert list(axes[1].get_lines()[0].get_ydata()) == fitting.tolist()


def test_a_chosen_query_has_a_perfect_target_and_its_false_negatives(queries):
    relevance = torch.full((QUERIES, 20), 0.25)
    relevance[torch.arange(QUERIES), torch.arange(QUERIES)] = 0.75  # the targets
    relevance[4, [4, 7]] = 1.0
    relevance[6, [6, 1, 2, 3, 9]] = 1.0
    count = data_preparation.count_false_negatives(relevance, queries["dress"].target_positions)
    chosen = data_preparation.choose_false_negatives(
        queries, {"dress": relevance}, {"dress": count}
    )
    (row,) = chosen.to_dict("records")
    assert (row["target"], row["relevance_target"]) == ("dress6", 1.0)
    assert [row[f"other_{k}"] for k in range(3)] == ["dress1", "dress2", "dress3"]
    assert [row[f"relevance_{k}"] for k in range(3)] == [1.0] * 3


def test_places_without_a_false_negative_stay_empty(queries):
    row = {"category": "dress", "reference": "dress0", "caption": "is red", "target": "dress4"}
    row |= {"relevance_target": 1.0, "other_0": "dress5", "relevance_0": 1.0, "other_1": np.nan}
    _, axes = plt.subplots(1, 6)
    data_preparation.plot_false_negatives(axes, row, queries["dress"].images)
    assert axes[3].get_xlabel() == "relevance 1.00" and axes[2].get_xlabel() == "target: 1.00"
    assert [ax.axison for ax in axes] == [True, False, True, True, False, False]


def test_faults_are_summed_and_named_and_none_is_empty():
    frame = pd.DataFrame({"data": ["a", "a", "b"], "category": "hat", "split": "val"})
    frame = frame.assign(images=9, triplets=9, listed_twice=[1, 2, 0], dangling_ids=0)
    assert data_preparation.count_faults(frame) == {"a": "3 listed twice", "b": ""}


def test_the_share_with_false_negatives_is_over_all_queries():
    counts = {"hat": torch.tensor([0, 3]), "coat": torch.tensor([0, 0, 1])}
    share = data_preparation.share_with_false_negatives(counts)
    assert share == pytest.approx(40)
