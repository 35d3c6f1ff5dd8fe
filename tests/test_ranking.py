"""Ranking in bounded memory, under one tie rule."""

import pytest
import torch

from qure_lib.model import paired_scores, relevance_scores
from qure_lib.ranking import rank_corpus, rank_scores, score_corpus


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
    per_query = 7 * 3 * 8
    whole = torch.cat([s for _, s in score_corpus(queries, images)])
    chunks = list(score_corpus(queries, images, memory=4 * per_query))
    assert [len(s) for _, s in chunks] == [4, 4, 2]
    torch.testing.assert_close(torch.cat([s for _, s in chunks]), whole)


def test_equal_scores_keep_the_order_of_the_corpus():
    ranking = rank_scores(torch.tensor([[0.5, 0.9, 0.5, 0.9, 0.5]]))
    assert ranking.order.tolist() == [[1, 3, 0, 2, 4]]
    assert ranking.ranks_of(torch.tensor([2])).tolist() == [3]


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


def test_images_on_disk_are_read_a_block_at_a_time_and_score_the_same():
    queries, images = unit(10, 8), unit(70, 3, 8)
    stored, whole = OnDisk(images), torch.cat([s for _, s in score_corpus(queries, images)])
    chunks = list(score_corpus(queries, stored, memory=4 * 70 * 32))
    assert [len(s) for _, s in chunks] == [4, 4, 2]
    torch.testing.assert_close(torch.cat([s for _, s in chunks]), whole)
    few = OnDisk(images)
    torch.testing.assert_close(
        torch.cat([s for _, s in score_corpus(queries[:1], few, memory=70 * 32)]), whole[:1]
    )
    assert sum(few.read) == 70 and max(few.read) * 3 * 8 * 4 <= 70 * 32
    with pytest.raises(ValueError, match="one query against 70 images takes 2240 bytes"):
        next(score_corpus(queries, stored, memory=70 * 32 - 1))


def test_embeddings_of_two_models_do_not_meet():
    with pytest.raises(ValueError, match="queries have 8 dimensions and images 6"):
        next(score_corpus(unit(2, 8), unit(7, 3, 6)))
