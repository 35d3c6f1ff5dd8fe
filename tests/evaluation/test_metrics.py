import math

import numpy as np
import pytest
import torch

from qure_lib.evaluation.metrics import (
    average_precision_at_k,
    ndcg_at_k,
    preference_rate,
    recall_at_k,
)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# --- Recall@k ---------------------------------------------------------------------------------


def test_recall_counts_targets_above_the_cut():
    #  rank              0  |  9 | 10   (k = 10: ranks 0 to 9 count)
    assert recall_at_k([0, 9, 10], k=10).tolist() == [1, 1, 0]


def test_recall_agrees_with_a_search_of_the_ranking(generator):
    rankings = np.array([generator.permutation(30) for _ in range(50)])
    targets = generator.integers(30, size=50)
    ranks = [list(r).index(t) for r, t in zip(rankings, targets, strict=True)]
    slow = [float(t in r[:7]) for r, t in zip(rankings, targets, strict=True)]
    assert recall_at_k(torch.tensor(ranks), k=7).tolist() == slow


def test_recall_never_falls_as_k_grows(generator):
    ranks = generator.integers(100, size=200)
    rows = np.array([recall_at_k(ranks, k) for k in range(1, 101)])
    assert (np.diff(rows, axis=0) >= 0).all()
    assert (rows[-1] == 1).all()


@pytest.mark.parametrize("ranks", [[], [-1], [np.nan], [np.inf], [0.5], [[0]]])
def test_recall_refuses_what_is_no_rank(ranks):
    with pytest.raises(ValueError, match="target_ranks"):
        recall_at_k(ranks, k=1)


def test_no_metric_takes_k_zero():
    for metric, values in (
        (recall_at_k, [[0]]),
        (average_precision_at_k, [[[0]], [1]]),
        (ndcg_at_k, [[[1.0]]]),
    ):
        with pytest.raises(ValueError, match="k must be whole numbers from 1"):
            metric(*values, k=0)


# --- Average precision ------------------------------------------------------------------------


def test_average_precision_of_a_drawn_ranking():
    #  rank         0    1    2          precision where relevant: 1/1, 2/3
    #  relevant     yes  no   yes
    assert average_precision_at_k([[0, 2]], n_relevant=[2], k=5) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_agrees_with_a_walk_down_the_ranking(generator):
    for k in (1, 3, 10):
        relevant = generator.random((40, 25)) < 0.2
        relevant[:, 0] |= ~relevant.any(axis=1)
        ranks = np.full((40, 25), -1)
        for row, flags in enumerate(relevant):
            found = generator.permutation(np.flatnonzero(flags))
            ranks[row, : len(found)] = found
        slow = []
        for flags in relevant:
            seen, total = 0, 0.0
            for rank in range(k):
                seen += flags[rank]
                total += flags[rank] * seen / (rank + 1)
            slow.append(total / min(k, flags.sum()))
        fast = average_precision_at_k(ranks, relevant.sum(axis=1), k)
        np.testing.assert_allclose(fast, slow)


def test_average_precision_does_not_depend_on_the_order_of_the_ranks(generator):
    ranks = np.array([generator.choice(50, 6, replace=False) for _ in range(20)])
    shuffled = generator.permuted(ranks, axis=1)
    np.testing.assert_array_equal(
        average_precision_at_k(ranks, [6] * 20, 10), average_precision_at_k(shuffled, [6] * 20, 10)
    )


def test_average_precision_is_1_when_the_relevant_come_first_and_0_when_none_is_ranked():
    assert average_precision_at_k([[0, 1, 2, 3]], [4], k=2).tolist() == [1]
    assert average_precision_at_k([[-1, -1]], [2], k=2).tolist() == [0]


@pytest.mark.parametrize(
    ("ranks", "counts", "message"),
    [([[0, 1]], [1], "n_relevant"), ([[3, 3]], [2], "one rank"), ([[-1]], [0], "n_relevant")],
)
def test_average_precision_refuses_ranks_that_cannot_be(ranks, counts, message):
    with pytest.raises(ValueError, match=message):
        average_precision_at_k(ranks, counts, k=5)


# --- NDCG -------------------------------------------------------------------------------------


def test_ndcg_of_a_drawn_ranking():
    # the half-relevant image stands before the relevant one
    worst, best = 0.5 + 1 / math.log2(3), 1 + 0.5 / math.log2(3)
    assert ndcg_at_k([[0.5, 1.0]], k=2) == pytest.approx(worst / best)


def test_ndcg_agrees_with_the_sums_written_out(generator):
    relevance = generator.integers(0, 6, size=(30, 12)) / 5
    relevance[:, 0] += 0.1
    slow = []
    for row in relevance:
        orders = row, sorted(row, reverse=True)
        dcg, ideal = (sum(g / math.log2(r + 2) for r, g in enumerate(o[:5])) for o in orders)
        slow.append(dcg / ideal)
    np.testing.assert_allclose(ndcg_at_k(torch.tensor(relevance), k=5), slow)


def test_ndcg_does_not_depend_on_the_scale_of_relevance(generator):
    relevance = generator.random((10, 8)) + 0.01
    np.testing.assert_allclose(ndcg_at_k(relevance, 4), ndcg_at_k(7 * relevance, 4))


def test_ndcg_is_1_for_a_sorted_row_and_for_k_beyond_the_corpus():
    assert ndcg_at_k([[1.0, 0.5, 0.0]], k=100).tolist() == [1]


@pytest.mark.parametrize("relevance", [[[0.0, 0.0]], [[1.0, -1.0]], [[np.nan, 1.0]]])
def test_ndcg_refuses_a_query_without_relevance(relevance):
    with pytest.raises(ValueError, match="ranked_relevance"):
        ndcg_at_k(relevance, k=1)


# --- Preference rate --------------------------------------------------------------------------


def published_rate(preference):
    """P(set 1 preferred | score_1 > score_2)."""
    return preference.agrees[preference.one_sided].mean()


def test_preference_of_a_drawn_case():
    #           set 1 scored higher  | set 2 higher | tie
    #           and chosen  not      | chosen       |
    score_1 = [0.9, 0.8, 0.1, 0.5]
    score_2 = [0.2, 0.3, 0.4, 0.5]
    preference = preference_rate(score_1, score_2, preferred=[1, 2, 2, 1])
    assert preference.agrees.tolist() == [1, 0, 1, 0.5]
    assert preference.one_sided.tolist() == [True, True, False, False]
    assert published_rate(preference) == 1 / 2
    assert preference.agreement == 2.5 / 4


def test_preference_agrees_with_plain_counting(generator):
    first, second = generator.integers(0, 5, size=(2, 300))
    preferred = generator.integers(1, 3, size=300)
    higher = chosen = 0
    credit = 0.0
    for a, b, p in zip(first, second, preferred, strict=True):
        if a > b:
            higher += 1
            chosen += p == 1
        credit += 0.5 if a == b else float((1 if a > b else 2) == p)
    preference = preference_rate(torch.tensor(first), second, preferred)
    assert published_rate(preference) == pytest.approx(chosen / higher)
    assert preference.agreement == pytest.approx(credit / 300)


def test_a_coin_decides_the_ties_over_all_queries(generator):
    first, second = generator.integers(0, 3, size=(2, 400))
    preferred = generator.integers(1, 3, size=400)
    preference = preference_rate(first, second, preferred)
    assert preference.decides.tolist() == (first != second).tolist()
    coins = generator.random((2, 2000, 400)) / 10  # too small to turn a decision
    picks = (first + coins[0] > second + coins[1]).mean(axis=0)
    np.testing.assert_allclose(preference.picks_1, picks, atol=0.06)


def test_preference_is_blind_to_a_monotone_change_of_the_scores(generator):
    first, second = generator.normal(size=(2, 100))
    preferred = generator.integers(1, 3, size=100)
    plain = preference_rate(first, second, preferred)
    changed = preference_rate(np.exp(3 * first), np.exp(3 * second), preferred)
    np.testing.assert_array_equal(plain.agrees, changed.agrees)


def test_agreement_but_not_the_one_sided_rate_survives_swapping_the_sets(generator):
    first, second = generator.normal(size=(2, 500))
    preferred = np.where(generator.random(500) < 0.7, 1, 2)  # a base rate far from one half
    plain = preference_rate(first, second, preferred)
    swapped = preference_rate(second, first, 3 - preferred)
    np.testing.assert_array_equal(plain.agrees, swapped.agrees)
    assert published_rate(plain) > 0.6 > 0.4 > published_rate(swapped)


def test_a_scorer_that_always_ties_has_no_one_sided_rate():
    preference = preference_rate([1.0, 1.0], [1.0, 1.0], [1, 2])
    assert not preference.one_sided.any()
    assert preference.agreement == 0.5


@pytest.mark.parametrize(
    ("first", "second", "preferred", "message"),
    [
        ([1.0], [1.0, 2.0], [1], "one a judged query"),
        ([np.inf], [1.0], [1], "score_1"),
        ([1.0], [-np.inf], [1], "score_2"),
        ([np.nan], [1.0], [1], "score_1"),
        ([1.0], [1.0], [0], "preferred"),
        ([1.0], [1.0], [3], "preferred"),
        ([], [], [], "score_1"),
    ],
)
def test_preference_refuses_bad_input(first, second, preferred, message):
    with pytest.raises(ValueError, match=message):
        preference_rate(first, second, preferred)
