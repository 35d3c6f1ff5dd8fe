"""Ranking in bounded memory, under one tie rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qure_lib import ranking
from qure_lib.model import paired_scores, relevance_scores
from qure_lib.ranking import SORTING, rank_corpus, rank_scores, score_corpus


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_the_score_is_the_best_query_token():
    query = torch.tensor([[1.0, 0.0]])
    images = torch.tensor([[[0.6, 0.8], [0.0, 1.0]], [[-1.0, 0.0], [0.8, 0.6]]])
    torch.testing.assert_close(relevance_scores(query, images), torch.tensor([[0.6, 0.8]]))


def test_scores_against_a_plain_loop():
    queries, images = unit(5, 8), unit(7, 3, 8)
    expected = [[max((q @ t).item() for t in image) for image in images] for q in queries]
    torch.testing.assert_close(
        relevance_scores(queries, images), torch.tensor(expected, dtype=torch.float64)
    )
    torch.testing.assert_close(
        paired_scores(queries, images[:5]), relevance_scores(queries, images[:5]).diagonal()
    )


def test_chunks_change_nothing_and_bound_the_memory():
    queries, images = unit(10, 8), unit(7, 3, 8)
    whole = torch.cat([s for _, s in score_corpus(queries, images)])
    chunks = list(score_corpus(queries, images, memory=2 * 4 * 7 * SORTING))
    assert [(r.start, r.stop) for r, _ in chunks] == [(0, 4), (4, 8), (8, 10)]
    assert [s.untyped_storage().nbytes() for _, s in chunks] == [8 * 7 * n for n in (4, 4, 2)]
    torch.testing.assert_close(torch.cat([s for _, s in chunks]), whole)


def test_blocks_of_images_and_of_queries_change_nothing(monkeypatch):
    queries, images = unit(10, 8), unit(70, 3, 8)
    whole = torch.cat([s for _, s in score_corpus(queries, images)])
    monkeypatch.setattr(ranking, "QUERIES", 4)
    monkeypatch.setattr(ranking, "PRODUCT", {"cpu": 8 * 3 * 8 * 9})  # nine images a block
    blocked = torch.cat([s for _, s in score_corpus(queries, images)])
    torch.testing.assert_close(blocked, whole)


def test_blocks_score_bit_for_bit_as_one_product_does():
    queries, images = unit(1029, 64).float(), unit(569, 8, 64).float()
    blocked = torch.cat([s for _, s in score_corpus(queries, images)])
    assert torch.equal(blocked, relevance_scores(queries, images))


def test_equal_scores_keep_the_order_of_the_corpus():
    ranked = rank_scores(torch.tensor([[0.5, 0.9, 0.5, 0.9, 0.5]]))
    assert ranked.order.tolist() == [[1, 3, 0, 2, 4]]
    assert ranked.ranks_of(torch.tensor([2])).tolist() == [3]


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (3, 20), elements=st.sampled_from([-1, -0.5, -0.0, 0, 1e-40, 0.5, 1])))
def test_single_precision_ranks_as_a_stable_sort_does(scores):
    found = rank_scores(torch.tensor(scores))
    for row, order, ranked in zip(scores, found.order, found.scores, strict=True):
        expected = sorted(range(20), key=lambda i: (-row[i], i))
        assert order.tolist() == expected and ranked.tolist() == row[expected].tolist()


def test_single_precision_ranks_as_double_does_infinities_included():
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    scores[:, 7], scores[:, 9] = -torch.inf, torch.inf
    single, double = rank_scores(scores), rank_scores(scores.double())
    assert torch.equal(single.order, double.order) and torch.equal(
        single.scores, scores.gather(1, single.order)
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_that_is_no_number_is_refused(sign, dtype):
    scores = torch.rand(2, 5, dtype=dtype)
    scores[1, 3] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    with pytest.raises(ValueError, match="NaN"):
        rank_scores(scores)


def test_ranks_follow_the_images_when_the_corpus_is_reordered():
    queries, images = unit(6, 8), unit(9, 2, 8)
    order = torch.randperm(9)
    (_, plain), *_ = rank_corpus(queries, images)
    (_, moved), *_ = rank_corpus(queries, images[order])
    assert torch.equal(order[moved.order], plain.order)


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match="bytes"):
        next(score_corpus(unit(1, 8), unit(7, 3, 8), memory=10))


class OnDisk:
    """Images that only hand out slices, and remember how long each was."""

    def __init__(self, images):
        self.images, self.shape, self.read = images, tuple(images.shape), []

    def __getitem__(self, block):
        self.read.append(len(self.images[block]))
        return self.images[block]


def test_images_on_disk_are_read_once_a_group_a_block_at_a_time_and_score_the_same(monkeypatch):
    queries, images = unit(100, 8), unit(70, 3, 8)
    stored, whole = OnDisk(images), torch.cat([s for _, s in score_corpus(queries, images)])
    monkeypatch.setattr(ranking, "PRODUCT", {"cpu": 8 * 3 * 256 * 9})  # nine images a block
    memory = 2 * 70 * 8 * 40  # the scores of 40 queries, in double precision, and sorting 8
    chunks = list(score_corpus(queries, stored, memory))
    assert [len(s) for _, s in chunks] == [8, 8, 8, 8, 1] * 2 + [8, 8, 8, 8, 2]
    torch.testing.assert_close(torch.cat([s for _, s in chunks]), whole)
    assert sum(stored.read) == 3 * 70 and max(stored.read) == 9
    with pytest.raises(ValueError, match="one query against 70 images takes 5600 bytes"):
        next(score_corpus(queries, stored, memory=5599))


def test_embeddings_of_two_models_do_not_meet():
    with pytest.raises(ValueError, match="queries have 8 dimensions and images 6"):
        next(score_corpus(unit(2, 8), unit(7, 3, 6)))
