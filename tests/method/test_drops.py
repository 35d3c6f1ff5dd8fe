"""Drop detection against a drawn case and a slow, plain reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qure_lib.method.drops import find_steepest_drops

DRAWN = torch.tensor([[0.95, 0.90, 0.89, 0.60, 0.58, 0.57, 0.20]])


def plain_drops(scores, target_rank, rule, threshold=1, search_window=None):
    """Eq. 5-6 and the release's rule, written slowly for one query: (first, second) or None."""
    drops = []
    for rank in range(len(scores) - 1):
        below = scores[rank] < scores[target_rank] and scores[rank + 1] < scores[target_rank]
        near = search_window is None or rank <= target_rank + search_window
        if below and near:
            drops.append((scores[rank] - scores[rank + 1], rank))
    drops.sort(key=lambda drop: (-drop[0], drop[1]))
    for (_, a), (_, b) in zip(drops, drops[1:], strict=False):
        if rule == "largest" or abs(a - b) > threshold:
            return min(a, b), max(a, b)
        # "release" goes on with the next neighbours: the larger of this pair is discarded
    return None


def test_hard_negatives_lie_between_the_two_drops():
    # rank          target 1    2  |  3    4    5  |  6
    drops = find_steepest_drops(DRAWN, torch.tensor([0]))
    assert drops.hard_negative_ranks(0) == [3, 4, 5]
    assert (drops.first.tolist(), drops.second.tolist()) == ([2], [5])


def test_release_discards_the_largest_drop_when_the_two_largest_are_adjacent():
    # drops after rank   1     2     3     4     5     6
    # size              .01   .40   .30   .01   .20   .01
    scores = torch.tensor([[1.0, 0.95, 0.94, 0.54, 0.24, 0.23, 0.03, 0.02]])
    largest = find_steepest_drops(scores, torch.tensor([0]), rule="largest")
    release = find_steepest_drops(scores, torch.tensor([0]), rule="release")
    assert largest.hard_negative_ranks(0) == [3]
    assert release.hard_negative_ranks(0) == [4, 5]


@pytest.mark.parametrize("rule", ["release", "largest"])
@pytest.mark.parametrize("search_window", [None, 3, 7])
def test_against_the_plain_rule_on_random_scores(rule, search_window):
    generator = np.random.default_rng(0)
    # Rounded, so that ties among the drops and with the target do occur.
    scores = -np.sort(-generator.random((300, 12)).round(1), axis=1)
    ranks = generator.integers(0, 12, 300)
    found = find_steepest_drops(
        torch.tensor(scores), torch.tensor(ranks), rule, search_window=search_window
    )
    expected = [
        plain_drops(s, r, rule, search_window=search_window) or (-1, -1)
        for s, r in zip(scores, ranks, strict=True)
    ]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert -1 in found.first and (found.first >= 0).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(0, 4))
def test_any_threshold_against_the_plain_rule(seed, n, threshold):
    generator = np.random.default_rng(seed)
    scores = -np.sort(-generator.random((4, n)), axis=1)
    ranks = generator.integers(0, n, 4)
    found = find_steepest_drops(
        torch.tensor(scores), torch.tensor(ranks), consecutive_threshold=threshold
    )
    for query in range(4):
        expected = plain_drops(scores[query], ranks[query], "release", threshold) or (-1, -1)
        assert (found.first[query].item(), found.second[query].item()) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(0, 40), st.sampled_from([32, 64]))
def test_more_drops_than_are_tried_first_and_many_of_one_size(seed, n, threshold, bits):
    generator = np.random.default_rng(seed)
    scores = -np.sort(-generator.integers(0, 4 * n, (4, n))).astype(f"float{bits}") / 4
    ranks = generator.integers(0, max(n // 3, 1), 4)
    found = find_steepest_drops(
        torch.tensor(scores), torch.tensor(ranks), consecutive_threshold=threshold
    )
    for query in range(4):
        expected = plain_drops(scores[query], ranks[query], "release", threshold) or (-1, -1)
        assert (found.first[query].item(), found.second[query].item()) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_hundred_equal_drops_the_best_ranked_counts(dtype):
    drops = torch.ones(2, 100, dtype=dtype)
    drops[:, [90, 91]] = torch.tensor([2.0, 3.0], dtype=dtype)
    scores = drops.flip(1).cumsum(dim=1).flip(1)
    found = find_steepest_drops(scores, torch.tensor([0, 20]))
    # the two largest are neighbours, so that the larger is discarded
    assert (found.first.tolist(), found.second.tolist()) == ([1, 21], [90, 90])


def test_temperature_and_offset_move_no_drop():
    scores = torch.rand(20, 50, dtype=torch.float64).sort(dim=1, descending=True).values
    ranks = torch.randint(0, 20, (20,))
    plain, moved = (find_steepest_drops(s, ranks) for s in (scores, scores * 8 - 3))
    assert torch.equal(plain.first, moved.first) and torch.equal(plain.second, moved.second)


def test_a_drop_that_overflows_is_still_the_largest():
    scores = torch.tensor([[0.9, 0.8, 0.79, -0.8, -0.81, -0.9]]) * 3e38  # 1.59 * 3e38 is inf
    found = find_steepest_drops(scores, torch.tensor([0]))
    exact = find_steepest_drops(scores.double(), torch.tensor([0]))
    assert found.hard_negative_ranks(0) == exact.hard_negative_ranks(0) == [3, 4]


def test_images_that_tie_with_the_target_are_not_below_it():
    #            target  tie | .5  .4 | .1  -- the drop from the tie to .5 is above the first image
    scores = torch.tensor([[0.9, 0.9, 0.5, 0.4, 0.1, 0.09]])
    assert find_steepest_drops(scores, torch.tensor([0])).first.tolist() == [2]


@pytest.mark.parametrize("target_rank", [4, 5, 6])
def test_too_few_images_below_the_target_hold_no_pair(target_rank):
    drops = find_steepest_drops(DRAWN, torch.tensor([target_rank]))
    assert drops.first.tolist() == drops.second.tolist() == [-1]
    assert drops.hard_negative_ranks(0) == []


def test_a_query_without_a_pair_leaves_its_neighbours_alone():
    drops = find_steepest_drops(DRAWN.expand(3, -1), torch.tensor([0, 6, 0]))
    assert drops.first.tolist() == [2, -1, 2]


def test_a_search_window_of_one_rank_holds_one_drop_and_so_no_pair():
    assert find_steepest_drops(DRAWN, torch.tensor([0]), search_window=1).first.tolist() == [-1]
    near = find_steepest_drops(DRAWN, torch.tensor([0]), rule="largest", search_window=4)
    assert near.hard_negative_ranks(0) == [3]  # the drop after rank 5 is out of reach


@pytest.mark.parametrize(
    ("scores", "ranks", "kwargs", "message"),
    [
        ([[0.1, 0.2]], [0], {}, "sorted"),
        ([[float("nan"), 0.2]], [0], {}, "NaN"),
        ([[0.3, float("nan"), 0.2]], [0], {}, "NaN"),
        ([[float("inf"), 0.2]], [1], {}, "infinity"),
        ([[0.3, 0.2, -float("inf")]], [2], {}, "infinity"),
        ([[0.2, 0.1]], [0], {"curve": "probability"}, "curve"),
        ([[0.2, 0.1]], [0], {"curve": "preference"}, "needs a temperature"),
        ([[0.2, 0.1]], [0], {"curve": "preference", "temperature": 0.0}, "temperature"),
        ([[0.2, 0.1]], [0], {"curve": "preference", "temperature": float("nan")}, "temperature"),
        ([[0.2, 0.1]], [0], {"temperature": -1.0}, "temperature"),
        ([[0.2, 0.1]], [2], {}, r"\[0, 2\)"),
        ([[0.2, 0.1]], [-1], {}, r"\[0, 2\)"),
        ([[0.2, 0.1]], [0, 1], {}, r"\(Q,\)"),
        ([[0.2, 0.1]], [0], {"rule": "steepest"}, "rule"),
        ([[0.2, 0.1]], [0], {"search_window": 0}, "search_window"),
        ([[0.2, 0.1]], [0], {"consecutive_threshold": -1}, "consecutive_threshold"),
    ],
)
def test_bad_input_is_refused(scores, ranks, kwargs, message):
    with pytest.raises(ValueError, match=message):
        find_steepest_drops(torch.tensor(scores), torch.tensor(ranks), **kwargs)
