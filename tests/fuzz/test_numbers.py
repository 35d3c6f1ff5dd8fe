"""Drawn scores and ranks against the rules written slowly; NaN and infinity are always refused."""

import math

import numpy as np
import pytest
import torch
from fuzzing import inputs
from hypothesis import given
from hypothesis import strategies as st

from qure_lib.evaluation.metrics import (
    average_precision_at_k,
    ndcg_at_k,
    preference_rate,
    recall_at_k,
)
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.ranking import rank_scores
from qure_lib.own_scores import hard_negatives

NUMBERS = st.one_of(
    st.integers(-3, 3).map(float),  # many ties
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**127), 2.0**127, width=32),
)
ODD = st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def score_rows(draw, odd: bool = False):
    """(Q, N) float32 or float64 scores of one to three queries over two to forty images."""
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 40))
    flat = draw(st.lists(NUMBERS, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    for _ in range(draw(st.integers(0, 3)) if odd else 0):
        flat[draw(st.integers(0, len(flat) - 1))] = draw(ODD)
    kind = draw(st.sampled_from([np.float32, np.float64]))
    targets = draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    return np.array(flat, dtype=kind).reshape(shape), np.array(targets)


def slow_pair(row, target_rank, rule, apart, window):
    """The rule on one ranking, best first: the ranks just before the two drops, or None."""
    drops = []
    for rank in range(len(row) - 1):
        below = row[rank] < row[target_rank] and row[rank + 1] > -math.inf
        if below and (window is None or rank <= target_rank + window):
            drops.append((rank, row[rank] - row[rank + 1]))
    drops.sort(key=lambda drop: -drop[1])  # stable: of equal drops the better-ranked comes first
    for (one, _), (two, _) in zip(drops, drops[1:], strict=False):
        if abs(one - two) > (apart if rule == "release" else 0):
            return min(one, two), max(one, two)
    return None


@inputs(4)
@given(
    score_rows(),
    st.sampled_from(["release", "largest"]),
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_the_drop_rule_is_the_one_written_slowly(given_scores, rule, apart, window):
    scores, targets = given_scores
    ranked, order = -np.sort(-scores, axis=1), np.argsort(-scores, axis=1, kind="stable")
    ranks = np.array([list(o).index(t) for o, t in zip(order, targets, strict=True)])
    settings = {"rule": rule, "consecutive_threshold": apart, "search_window": window}
    found = find_steepest_drops(ranked, ranks, **settings)
    sets, report = hard_negatives(scores, targets, **settings)
    for query, row in enumerate(ranked):
        pair = slow_pair(row, ranks[query], rule, apart, window) or (-1, -1)
        assert (found.first[query], found.second[query]) == pair
        assert sets[query].tolist() == order[query][pair[0] + 1 : pair[1] + 1].tolist()
        assert targets[query] not in sets[query]
    assert report.per_query.target_rank.tolist() == ranks.tolist()


@inputs(2)
@given(score_rows(odd=True))
def test_scores_that_cannot_be_ranked_are_refused(given_scores):
    scores, targets = given_scores
    bad = np.isnan(scores) | (scores == math.inf)
    left_out = scores[np.arange(len(scores)), targets] == -math.inf
    if bad.any() or left_out.any():
        with pytest.raises(ValueError, match=r"query \d+"):
            hard_negatives(scores, targets)
        return
    sets, _ = hard_negatives(scores, targets)
    for query, chosen in enumerate(sets):
        assert (scores[query, chosen] > -math.inf).all()


@inputs(2)
@given(score_rows(odd=True))
def test_a_ranking_is_the_plain_sort_or_refused(given_scores):
    scores, _ = given_scores
    finite = ~(np.isnan(scores) | (scores == math.inf))
    if not finite.all() or not (scores > -math.inf).any(axis=1).all():
        with pytest.raises(ValueError, match="NaN or infinity"):
            rank_scores(scores)
        return
    ranking = rank_scores(torch.from_numpy(scores))
    assert ranking.order.tolist() == np.argsort(-scores, axis=1, kind="stable").tolist()


RANKS = st.one_of(st.integers(-2, 60), st.sampled_from([0.5, math.nan, math.inf, 2.0]))


@inputs(2)
@given(st.lists(RANKS, max_size=8), st.integers(-1, 12))
def test_recall(ranks, k):
    whole = [r for r in ranks if math.isfinite(r) and r == int(r) and r >= 0]
    if k < 1 or not ranks or len(whole) < len(ranks):
        with pytest.raises(ValueError, match="k|target_ranks"):
            recall_at_k(ranks, k)
    else:
        assert recall_at_k(ranks, k).tolist() == [1.0 if r < k else 0.0 for r in ranks]


@inputs(2)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), st.data())
def test_average_precision(ranks, data):
    k, more = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 3))
    padded, relevant = [*ranks, *[-1] * more], len(ranks) + more
    hits = [r in ranks for r in range(k)]
    expected = sum(sum(hits[: r + 1]) / (r + 1) for r in range(k) if hits[r]) / min(k, relevant)
    assert average_precision_at_k([padded], [relevant], k)[0] == pytest.approx(expected)
    with pytest.raises(ValueError, match="n_relevant"):
        average_precision_at_k([padded], [len(ranks) - 1], k)


@inputs()
@given(st.lists(st.floats(-0.1, 1), min_size=1, max_size=12), st.integers(1, 15))
def test_discounted_gain(relevance, k):
    if min(relevance) < 0 or max(relevance) == 0:
        with pytest.raises(ValueError, match="ranked_relevance"):
            ndcg_at_k([relevance], k)
        return
    if max(relevance) < 1e-300:
        return  # the ratio of two subnormal numbers
    gain, best = (
        sum(g / math.log2(r + 2) for r, g in enumerate(gains[:k]))
        for gains in (relevance, sorted(relevance, reverse=True))
    )
    assert ndcg_at_k([relevance], k)[0] == pytest.approx(gain / best)


@inputs()
@given(st.lists(st.tuples(NUMBERS | ODD, NUMBERS, st.integers(0, 3)), max_size=8))
def test_preference(rows):
    first, second, chosen = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    if not rows or not all(map(math.isfinite, first)) or {*chosen} - {1, 2}:
        with pytest.raises(ValueError, match="score_1|preferred"):
            preference_rate(first, second, chosen)
        return
    expected = [
        0.5 if a == b else float((a > b) == (c == 1))
        for a, b, c in zip(first, second, chosen, strict=True)
    ]
    assert preference_rate(first, second, chosen).agrees.tolist() == expected
