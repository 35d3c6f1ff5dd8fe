"""Ranking in bounded memory, under one tie rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shared import OnDisk

from qure_lib.method import ranking
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import (
    SORTING_BYTES_PER_SCORE,
    Ranking,
    rank_corpus,
    rank_scores,
    score_corpus,
)
from qure_lib.method.scores import paired_scores, relevance_scores


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


def test_pairs_of_another_length_do_not_broadcast():
    for queries, images in ((unit(1, 8), unit(5, 3, 8)), (unit(5, 8), unit(1, 3, 8))):
        with pytest.raises(ValueError, match="differ in B or D"):
            paired_scores(queries, images)
    with pytest.raises(ValueError, match="differ in B or D"):
        paired_scores(unit(5, 8), unit(5, 3, 1))


def test_chunks_change_nothing_and_bound_the_memory():
    queries, images = unit(10, 8), unit(7, 3, 8)
    whole = torch.cat([s for _, s in score_corpus(queries, images)])
    chunks = list(score_corpus(queries, images, memory=2 * 4 * 7 * SORTING_BYTES_PER_SCORE))
    assert [(r.start, r.stop) for r, _ in chunks] == [(0, 4), (4, 8), (8, 10)]
    assert [s.untyped_storage().nbytes() for _, s in chunks] == [8 * 7 * n for n in (4, 4, 2)]
    torch.testing.assert_close(torch.cat([s for _, s in chunks]), whole)


def test_blocks_of_images_and_of_queries_change_nothing(monkeypatch):
    queries, images = unit(10, 8), unit(70, 3, 8)
    whole = torch.cat([s for _, s in score_corpus(queries, images)])
    monkeypatch.setattr(ranking, "QUERIES_PER_PRODUCT", 4)
    monkeypatch.setattr(ranking, "PRODUCT_BYTES", {"cpu": 8 * 3 * 8 * 9})  # nine images a block
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


def test_single_precision_ranks_as_double_does_with_images_left_out():
    scores = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    scores[:, [7, 9]] = -torch.inf
    single, double = rank_scores(scores), rank_scores(scores.double())
    assert torch.equal(single.order, double.order)
    assert torch.equal(single.scores, scores.gather(1, single.order))
    assert single.order[:, -2:].tolist() == [[7, 9]] * 5


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("others", [0.0, -torch.inf])
def test_a_score_that_is_no_number_or_plus_infinity_is_refused(dtype, wrong, others):
    scores = torch.rand(2, 5).to(dtype)
    scores[1] += others
    scores[1, 3] = torch.copysign(torch.tensor(wrong), torch.tensor(wrong))
    with pytest.raises(ValueError, match="NaN or infinity"):
        rank_scores(scores)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_leaves_an_image_out_for_its_query_alone(dtype):
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]], dtype=dtype)
    scores[0, 1] = -torch.inf
    ranked = rank_scores(scores)
    assert ranked.order.tolist() == [[2, 0, 1], [1, 2, 0]]
    with pytest.raises(ValueError, match="every image of a query"):
        rank_scores(torch.full_like(scores, -torch.inf))


# --- embeddings whose scores overflow ------------------------------------------------------------

LARGE = {torch.float16: 3e3, torch.float32: 3e20, torch.float64: 3e160}


def overflowing(dtype, sign):
    """Finite embeddings of which query 9 and image 5 alone have no finite score."""
    queries, images = unit(10, 8).to(dtype), unit(7, 1, 8).to(dtype)
    queries[9], images[5] = 0, 0
    queries[9, :2], images[5, 0, :2] = LARGE[dtype], LARGE[dtype] * torch.tensor(sign, dtype=dtype)
    assert queries.isfinite().all() and images.isfinite().all()
    return queries, images


@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("sign", [(1.0, 1.0), (-1.0, -1.0), (1.0, 0.0)])
@pytest.mark.parametrize("on_disk", [False, True])
def test_scores_that_overflow_are_refused_and_named(dtype, sign, on_disk):
    queries, images = overflowing(dtype, sign)
    images = OnDisk(images) if on_disk else images
    memory = 2 * 4 * 7 * SORTING_BYTES_PER_SCORE  # four queries at a time
    with pytest.raises(ValueError, match=r"query 9 scores -?(inf|nan) with image 5.*overflows"):
        list(score_corpus(queries, images, memory))
    with pytest.raises(ValueError, match="query 9"):
        list(rank_corpus(queries, images, memory))
    with pytest.raises(ValueError, match="query 9"):
        mine_hard_negatives(queries, images, torch.zeros(10, dtype=torch.int64), MiningConfig())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_embeddings_that_are_not_finite_are_refused(wrong):
    queries, images = unit(3, 8), unit(7, 2, 8)
    images[4, 1, 0] = wrong
    with pytest.raises(ValueError, match="with image 4"):
        list(score_corpus(queries.abs(), images))


def test_large_scores_that_stay_finite_rank_as_small_ones_do():
    queries, images = unit(6, 8).float(), unit(9, 2, 8).float()
    (_, plain), *_ = rank_corpus(queries, images)
    (_, large), *_ = rank_corpus(queries * 2.0**60, images * 2.0**60)
    assert torch.equal(large.order, plain.order)


# --- the rank of a position ----------------------------------------------------------------------


def test_the_rank_of_every_position_is_where_the_order_has_it():
    order = torch.stack([torch.randperm(9) for _ in range(4)])
    ranked = Ranking(torch.zeros(4, 9), order)
    for position in range(9):
        found = ranked.ranks_of(torch.full((4,), position))
        assert order[torch.arange(4), found].tolist() == [position] * 4


@pytest.mark.parametrize("absent", [3, 7, -1])
def test_the_rank_of_a_position_that_is_not_in_the_ranking_is_refused(absent):
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, -torch.inf]])
    stops_early = Ranking(scores, torch.tensor([[0, 3, 2], [2, 0, -1]]))
    assert stops_early.ranks_of(torch.tensor([3, 2])).tolist() == [1, 0]
    with pytest.raises(ValueError, match=f"query 1 does not hold corpus position {absent}"):
        stops_early.ranks_of(torch.tensor([0, absent]))


def test_ranks_of_takes_one_position_a_query():
    ranked = rank_scores(torch.rand(3, 5))
    for wrong in (torch.tensor([1]), torch.tensor([1, 2]), torch.ones(3, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="one a query of 3"):
            ranked.ranks_of(wrong)


def test_ranks_follow_the_images_when_the_corpus_is_reordered():
    queries, images = unit(6, 8), unit(9, 2, 8)
    order = torch.randperm(9)
    (_, plain), *_ = rank_corpus(queries, images)
    (_, moved), *_ = rank_corpus(queries, images[order])
    assert torch.equal(order[moved.order], plain.order)


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match="bytes"):
        next(score_corpus(unit(1, 8), unit(7, 3, 8), memory=10))


def test_images_on_disk_are_read_once_a_group_a_block_at_a_time_and_score_the_same(monkeypatch):
    queries, images = unit(100, 8), unit(70, 3, 8)
    stored, whole = OnDisk(images), torch.cat([s for _, s in score_corpus(queries, images)])
    monkeypatch.setattr(ranking, "PRODUCT_BYTES", {"cpu": 8 * 3 * 256 * 9})  # nine images a block
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
