"""Sets of hard negatives: what is drawn from them, and what they refuse."""

import pytest
import torch

from qure_lib.method.negatives import HardNegativeSet


def test_uniform_draws_leave_target_and_reference_out_and_reach_all_others():
    targets, references = torch.tensor([0, 3, 2, 4]), torch.tensor([3, 0, -1, 1])
    uniform = HardNegativeSet.uniform(targets, 5, references)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([uniform.sample(generator) for _ in range(4000)], dim=1)
    for row, left_out in zip(drawn, ({0, 3}, {3, 0}, {2}, {4, 1}), strict=True):
        counts = torch.bincount(row, minlength=5)
        assert set(counts.nonzero().flatten().tolist()) == set(range(5)) - left_out
        expected = 4000 / (5 - len(left_out))
        assert (counts[counts > 0] - expected).abs().max() < 5 * expected**0.5


def test_a_reference_that_is_the_target_is_left_out_once():
    targets, references = torch.tensor([0, 2, 4]), torch.tensor([0, 2, 4])
    sets = HardNegativeSet.uniform(targets, 5, references)
    drawn = sets.sample(torch.Generator().manual_seed(0), count=400)
    for row, target in zip(drawn.tolist(), targets.tolist(), strict=True):
        assert set(row) == set(range(5)) - {target}
    assert HardNegativeSet.uniform(targets[:1], 2, references[:1]).corpus_size == 2


def test_several_negatives_of_a_set_are_distinct_until_it_is_exhausted():
    sets = HardNegativeSet(
        torch.tensor([0, 3, 7, 7]), torch.tensor([1, 2, 3, 4, 5, 6, 7]), torch.zeros(3).long(), 9
    )
    few, more, empty = sets.sample(torch.Generator().manual_seed(1), count=6).tolist()
    assert sorted(few[:3]) == [1, 2, 3] and few[3:] == few[:3]
    assert sorted(more[:4]) == [4, 5, 6, 7] and more[4:] == more[:2]
    assert len(empty) == 6 and 0 not in empty


def test_one_negative_a_query_is_uniform_over_its_set():
    sets = HardNegativeSet(torch.tensor([0, 4]), torch.tensor([3, 5, 6, 8]), torch.tensor([0]), 9)
    generator = torch.Generator().manual_seed(2)
    drawn = torch.cat([sets.sample(generator) for _ in range(4000)], dim=1)
    counts = torch.bincount(drawn[0], minlength=9)
    assert set(counts.nonzero().flatten().tolist()) == {3, 5, 6, 8}
    assert (counts[[3, 5, 6, 8]] - 1000).abs().max() < 5 * 1000**0.5


def test_the_same_generator_draws_the_same():
    sets = HardNegativeSet.uniform(torch.arange(6), 50, torch.arange(6) + 1)
    for count in (1, 3):
        drawn = [sets.sample(torch.Generator().manual_seed(3), count) for _ in range(2)]
        assert torch.equal(*drawn) and drawn[0].shape == (6, count)


def test_concatenated_shares_are_the_whole():
    offsets, negatives = torch.tensor([0, 2, 2, 5]), torch.tensor([1, 2, 3, 4, 1])
    targets, references = torch.tensor([0, 1, 2]), torch.tensor([5, -1, 0])
    whole = HardNegativeSet(offsets, negatives, targets, 6, references)
    first = HardNegativeSet(offsets[:3], negatives[:2], targets[:2], 6, references[:2])
    last = HardNegativeSet(torch.tensor([0, 3]), negatives[2:], targets[2:], 6, references[2:])
    joined = HardNegativeSet.concatenate([first, last])
    for name in ("offsets", "negatives", "targets", "references"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ValueError, match="count must be at least 1"):
        HardNegativeSet.uniform(torch.tensor([0]), 5).sample(torch.Generator(), count)


@pytest.mark.parametrize(
    ("targets", "corpus_size", "references", "message"),
    [
        ([0], 1, None, "1 images holds no negative: 1 of them"),
        ([0], 2, [1], "2 images holds no negative: 2 of them"),
        ([0, 1], 2, [-1, 0], "2 images holds no negative: 2 of them"),
        ([0, 5], 5, None, "targets lie outside the corpus of 5"),
        ([-1], 5, None, "targets lie outside"),
        ([0], 5, [5], "references lie outside"),
        ([0], 5, [-2], "references lie outside"),
        ([0, 1], 5, [2], "references do not fit 2 targets"),
    ],
)
def test_a_draw_outside_the_corpus_is_impossible(targets, corpus_size, references, message):
    references = None if references is None else torch.tensor(references)
    with pytest.raises(ValueError, match=message):
        HardNegativeSet.uniform(torch.tensor(targets), corpus_size, references)


@pytest.mark.parametrize(
    ("offsets", "negatives", "message"),
    [
        ([0, 1], [5], "negatives lie outside the corpus of 5"),
        ([0, 1], [-1], "negatives lie outside"),
        ([0, 1], [1, 2], "do not fit"),
        ([1, 2], [1, 2], "do not fit"),
        ([0, 1, 2], [1, 2], "do not fit"),
    ],
)
def test_sets_that_do_not_fit_their_queries_are_refused(offsets, negatives, message):
    with pytest.raises(ValueError, match=message):
        HardNegativeSet(torch.tensor(offsets), torch.tensor(negatives), torch.tensor([0]), 5)


def test_an_auxiliary_positive_is_of_its_set_or_the_target():
    offsets, members = torch.tensor([0, 3, 3, 4]), torch.tensor([1, 2, 4, 0])
    sets = HardNegativeSet(offsets, members, torch.tensor([3, 5, 6]), corpus_size=7)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([sets.sample_positives(generator) for _ in range(50)], dim=1)
    assert [set(row.tolist()) for row in drawn] == [{1, 2, 4}, {5}, {0}]
