"""Numbers that go wrong while training, mining or evaluating: named, stopped, or as documented."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.evaluation.target_ranks import find_ranks
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES, Objective
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import DEFAULT_MEMORY
from qure_lib.own_scores import hard_negatives
from qure_lib.train.loop import train

CONFIG = TrainConfig(epochs=2, n_def=2, learning_rate=1e-3, mining=MiningConfig("all_corpus"))


def with_temperature(retriever, value):
    copy = retriever.copy()
    with torch.no_grad():
        copy.model.temperature.fill_(value)
    return copy


@pytest.mark.parametrize("value", [0.0, -0.01, torch.nan, torch.inf])
def test_a_temperature_that_is_not_above_zero_stops_the_run(value, parts, tmp_path):
    retriever, data = parts
    with pytest.raises(ValueError, match="temperature is|loss is not finite"):
        train(CONFIG, with_temperature(retriever, value), data, tmp_path, "run")
    assert not list(tmp_path.rglob("checkpoint.pt")) and not list(tmp_path.rglob("best"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value, parts, tmp_path, monkeypatch):
    loss = Objective(lambda queries, targets, negatives, tau: queries.sum() * 0 + value)
    monkeypatch.setitem(OBJECTIVES, "broken", loss)
    with pytest.raises(ValueError, match="the loss is not finite"):
        train(replace(CONFIG, objective="broken"), *parts, tmp_path, "run")
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_gradient_that_is_not_finite_leaves_no_checkpoint_of_it(parts, tmp_path, monkeypatch):
    def infinite_slope(queries, targets, negatives, tau):
        return (queries.sum() * 0).sqrt()  # a finite loss, whose gradient is NaN

    monkeypatch.setitem(OBJECTIVES, "steep", Objective(infinite_slope))
    with pytest.raises(ValueError, match="not finite|temperature is nan"):
        train(replace(CONFIG, objective="steep"), *parts, tmp_path, "run")
    assert not list(tmp_path.rglob("checkpoint.pt")) and not list(tmp_path.rglob("best"))


def embedded(scores):
    """Queries and images whose scores are the (Q, N) numbers."""
    scores = torch.tensor(scores)
    return scores, torch.eye(scores.shape[1])[:, None, :]


def test_queries_without_any_pair_of_drops_are_counted_and_warned_of():
    queries, images = embedded([[0.1, 0.2, 0.9], [0.3, 0.2, 0.1]])
    negatives, report = mine_hard_negatives(
        queries, images, torch.tensor([0, 2]), MiningConfig("between_drops")
    )
    assert negatives.sizes.tolist() == [0, 0]
    assert "WARNING: 100% of the queries have no pair of drops" in str(report)
    drawn = negatives.sample(torch.Generator().manual_seed(0), 8)
    assert 0 not in drawn[0] and 2 not in drawn[1]


def test_scores_that_all_tie_hold_no_drop_and_are_warned_of():
    sets, report = hard_negatives(np.full((3, 9), 0.5), np.array([0, 4, 8]))
    assert [len(s) for s in sets] == [0, 0, 0]
    assert "too few different scores below the target" in str(report)
    assert report.per_query.target_rank.tolist() == [0, 4, 8]  # the order of the corpus


def test_sets_of_one_image_give_that_image_in_every_draw():
    queries, images = embedded([[0.9, 0.8, 0.7, 0.1, 0.0]])
    config = MiningConfig("between_drops", drop_rule="largest", set_size=1)
    negatives, report = mine_hard_negatives(queries, images, torch.tensor([0]), config)
    assert negatives.sizes.tolist() == [1] and report.summary()["set_size_median"] == 1
    drawn = negatives.sample(torch.Generator().manual_seed(0), 5)
    assert (drawn == negatives[0]).all()


def test_a_corpus_of_one_image_is_ranked_but_holds_no_negative():
    queries, images = embedded([[0.3]])
    with pytest.raises(ValueError, match="a corpus of 1 images holds no negative"):
        mine_hard_negatives(queries, images, torch.tensor([0]), MiningConfig("between_drops"))
    with pytest.raises(ValueError, match="two images"):
        hard_negatives(np.array([[0.3]]), np.array([0]))

    class One:
        embed_queries = staticmethod(lambda queries: torch.ones(1, 4))
        embed_corpus = staticmethod(lambda corpus: torch.ones(1, 1, 4))

    one = QuerySet("c", (Triplet("q", "r", "", "a", "c", ()),), Corpus(("a",), ()), {})
    assert find_ranks(One(), one, [["a"]], DEFAULT_MEMORY, False).tolist() == [[0]]


def test_half_precision_that_makes_scores_equal_is_said():
    scores = np.linspace(0.5, 0.5001, 20)[None].astype(np.float16)
    with pytest.warns(UserWarning, match="1 of 1 queries have equal scores"):
        hard_negatives(scores, np.array([0]))


def test_an_overflow_of_half_precision_is_refused_as_infinite():
    with np.errstate(over="ignore"):
        scores = np.array([[70_000.0, 1, 0]]).astype(np.float16)
    with pytest.raises(ValueError, match="query 0, image 0: the score is inf"):
        hard_negatives(scores, np.array([1]))
