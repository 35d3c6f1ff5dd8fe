"""Controls and rivals of the study, each against the same rule in plain loops."""

import math
import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from analysis.strategies import stretch
from grids import UNIFORM
from shared import embeddings_with

from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES, find_objective
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import Ranking, rank_scores
from qure_lib.method.strategies import STRATEGIES, check_strategy

TAU = 0.05
CONFIG = MiningConfig(curve="preference", temperature=TAU)
OURS = ("preference_scaled", "moved", "same_sizes", "window_by_rank", "significant_gaps")
OURS += ("mid_zone", "positive_margin")


def drawn(queries=50, n=300, seed=0):
    """Rankings of independent scores, spread 0.1, and targets among the best thirty."""
    generator = torch.Generator().manual_seed(seed)
    scores = 0.3 + 0.1 * torch.randn(queries, n, generator=generator, dtype=torch.float64)
    return rank_scores(scores), torch.randint(30, (queries,), generator=generator)


def stepped(targets, firsts, seconds, n=80):
    """Rankings with a step of 0.1 after each of two ranks, else tiny ones; none where it is -1."""
    gaps = torch.full((len(targets), n), 1e-6, dtype=torch.float64)
    gaps -= 1e-9 * torch.arange(n)  # they fall with the rank: alone they make no pair
    for q, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        if first >= 0:
            gaps[q, [first + 1, second + 1]] = 0.1
    scores = 1 - gaps.cumsum(dim=1)
    order = torch.arange(n).expand(len(targets), n)
    return Ranking(scores, order), torch.tensor(targets)


def windows(name, ranking, targets, config=CONFIG, **options):
    """(start, stop) of each query; (0, 0) if it is empty."""
    found = STRATEGIES[name](ranking, targets, config, **options)
    pairs = zip(*(part.tolist() for part in found), strict=True)
    return [(start, stop) if stop > start else (0, 0) for start, stop in pairs]


def rows(ranking, targets):
    """(scores best first, target's rank) of each query, in plain numbers."""
    return zip(ranking.scores.tolist(), targets.tolist(), strict=True)


def first_pair(gaps, apart=1):
    """(start, stop) between the first neighbours by size more than `apart` ranks apart.

    gaps: rank just before a drop -> its size.
    """
    by_size = sorted(gaps, key=lambda rank: (-gaps[rank], rank))
    for one, other in pairwise(by_size):
        if abs(one - other) > apart:
            return min(one, other) + 1, max(one, other) + 1
    return 0, 0


def preference_gaps(scores, target, tau):
    worse = [1 / (1 + math.exp((scores[target] - score) / tau)) for score in scores]
    below = [r for r in range(len(scores) - 1) if scores[r] < scores[target]]
    return {r: worse[r] - worse[r + 1] for r in below}


def test_all_are_registered_and_their_options_are_checked():
    for name in OURS:
        check_strategy(MiningConfig(name))
    with pytest.raises(ValueError, match=r"no option 'factor'; it has \['least', 'slope'\]"):
        check_strategy(MiningConfig("window_by_rank", options={"factor": 2}))


@pytest.mark.parametrize("name", OURS)
def test_no_set_holds_its_target_and_every_window_is_mined_as_it_is(name):
    ranking, targets = drawn(queries=30, n=120)
    positions = ranking.order.gather(1, targets[:, None])[:, 0]
    scores = torch.empty_like(ranking.scores).scatter(1, ranking.order, ranking.scores)
    config = MiningConfig(name, temperature=TAU)
    sets, _ = mine_hard_negatives(*embeddings_with(scores), positions, config)
    for q, (start, stop) in enumerate(windows(name, ranking, targets, config)):
        ranks = [rank for rank in range(start, min(stop, 120)) if rank != targets[q]]
        assert sets[q].tolist() == ranking.order[q, ranks].tolist()


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_the_scaled_preference_curve_is_that_of_another_temperature(factor):
    ranking, targets = drawn()
    found = windows("preference_scaled", ranking, targets, factor=factor)
    slow = [first_pair(preference_gaps(s, t, factor * TAU)) for s, t in rows(ranking, targets)]
    assert found == slow
    other = MiningConfig(curve="preference", temperature=factor * TAU)
    assert found == windows("between_drops", ranking, targets, other)


def test_the_scaled_curve_keeps_the_rule_and_its_threshold():
    ranking, targets = drawn()
    far = MiningConfig(temperature=TAU, consecutive_threshold=5)
    slow = [first_pair(preference_gaps(s, t, TAU), apart=5) for s, t in rows(ranking, targets)]
    assert windows("preference_scaled", ranking, targets, far) == slow
    largest = MiningConfig(temperature=TAU, drop_rule="largest")
    slow = [first_pair(preference_gaps(s, t, TAU), apart=0) for s, t in rows(ranking, targets)]
    assert windows("preference_scaled", ranking, targets, largest) == slow


def test_moved_windows_are_another_query_s_as_far_below_and_as_large():
    # query q: target at rank 2 q, window of 3 + q images that begins q + 3 ranks after the target
    targets = [2 * q for q in range(8)]
    firsts = [t + 2 + q for q, t in enumerate(targets)]
    ranking, targets = stepped(targets, firsts, [f + 3 + q for q, f in enumerate(firsts)])
    own = [(3 + q, 3 + q) for q in range(8)]
    starts = windows("preference_scaled", ranking, targets)
    assert [(a - t, b - a) for (a, b), t in zip(starts, targets, strict=True)] == own
    pairings = set()
    for seed in range(20):
        found = windows("moved", ranking, targets, seed=seed)
        placed = [(a - int(t), b - a) for (a, b), t in zip(found, targets, strict=True)]
        assert sorted(placed) == own  # places and sizes are the same
        assert all(mine != its for mine, its in zip(placed, own, strict=True))
        assert windows("moved", ranking, targets, seed=seed) == found
        pairings.add(tuple(placed))
    assert len(pairings) > 10


def test_a_query_without_a_window_gives_none_to_the_query_it_is_paired_with():
    ranking, targets = stepped([0, 4, 9], [-1, 8, 15], [-1, 12, 25])
    found = windows("moved", ranking, targets)
    sizes = [stop - start for start, stop in found]
    assert sorted(sizes) == [0, 4, 10] and sizes[0] > 0


def test_a_moved_window_may_end_with_the_ranking():
    ranking, targets = stepped([0, 78], [40, -1], [60, -1])  # the second target: one image below
    start, stop = STRATEGIES["moved"](ranking, targets, CONFIG)
    assert start.tolist()[1] == 80 == ranking.scores.shape[1]  # 78 + 41, kept inside
    positions = targets.clone()
    config = MiningConfig("moved", temperature=TAU)
    sets, _ = mine_hard_negatives(*embeddings_with(ranking.scores), positions, config)
    assert [len(sets[q]) for q in range(2)] == [0, 0]


def test_same_sizes_are_the_images_right_after_the_target():
    # windows of 4, 10 and none: their mean is 7
    ranking, targets = stepped([0, 4, 9], [8, 15, -1], [12, 25, -1])
    assert windows("same_sizes", ranking, targets) == [(1, 8), (5, 12), (10, 17)]


def test_same_sizes_start_below_ties_with_the_target_and_have_one_image_without_any_window():
    scores = torch.tensor([[0.9, 0.8, 0.8, 0.8, 0.1], [0.9, 0.8, 0.7, 0.6, 0.5]])
    ranking, targets = rank_scores(scores), torch.tensor([1, 3])
    assert windows("preference_scaled", ranking, targets) == [(0, 0), (0, 0)]
    assert windows("same_sizes", ranking, targets) == [(4, 5), (4, 5)]


def test_same_sizes_have_the_mean_size_of_the_preference_windows():
    ranking, targets = drawn(seed=3)
    own = [first_pair(preference_gaps(s, t, TAU)) for s, t in rows(ranking, targets)]
    k = round(statistics.mean(stop - start for start, stop in own if stop > start))
    found = windows("same_sizes", ranking, targets)
    assert found == [(t + 1, t + 1 + k) for t in targets.tolist()] and k > 1


# ---------------------------------------------------------------- rivals


@pytest.mark.parametrize("options", [{}, {"least": 12, "slope": 1}])
def test_a_window_by_rank_has_its_drops_among_as_many_ranks_as_the_target_s_rank_allows(options):
    ranking, targets = drawn(queries=200)
    least, slope = options.get("least", 32), options.get("slope", 4)
    slow = []
    for scores, target in rows(ranking, targets):
        last = min(target + least + slope * target, len(scores) - 2)
        gaps = {r: scores[r] - scores[r + 1] for r in range(target + 1, last + 1)}
        slow.append(first_pair(gaps))
        assert slow[-1][1] <= last + 1
    assert windows("window_by_rank", ranking, targets, **options) == slow


def test_significant_gaps_are_the_first_two_above_three_times_the_mean_gap_around():
    ranking, targets = drawn(queries=200)
    slow = []
    for scores, target in rows(ranking, targets):
        gaps = [one - other for one, other in pairwise(scores)]
        found = []
        for rank in range(target + 1, len(gaps)):
            near = [gaps[min(max(r, 0), len(gaps) - 1)] for r in range(rank - 25, rank + 26)]
            if gaps[rank] > 3 * statistics.fmean(near) and (not found or rank > found[0] + 1):
                found.append(rank)
        slow.append((found[0] + 1, found[1] + 1) if len(found) > 1 else (0, 0))
    assert windows("significant_gaps", ranking, targets) == slow
    assert (0, 0) not in slow


def test_significant_gaps_need_two_and_heed_the_threshold():
    ranking, targets = stepped([0, 0], [10, 10], [12, 12])
    ranking.scores[1] = stepped([0], [-1], [-1])[0].scores[0]  # the second query has no step
    assert windows("significant_gaps", ranking, targets) == [(11, 13), (0, 0)]
    far = MiningConfig(consecutive_threshold=2)
    assert windows("significant_gaps", ranking, targets, far) == [(0, 0), (0, 0)]


def test_the_middle_zone_lies_between_two_distances_below_the_target():
    ranking, targets = drawn(queries=100)
    slow, short = [], 0
    for scores, target in rows(ranking, targets):
        unit = statistics.stdev(scores)
        below = [(scores[target] - score) / unit for score in scores]
        start = max(sum(b < 0.1 for b in below), target + 1)
        stop = sum(b < 0.6 for b in below)
        short += stop < start + 8
        slow.append((start, max(stop, start + 8)))
    assert windows("mid_zone", ranking, targets) == slow
    assert 0 < short < 100  # both ends of the zone decide


def test_the_middle_zone_does_not_move_with_offset_and_scale():
    ranking, targets = drawn()
    moved = Ranking(3 * ranking.scores - 5, ranking.order)
    assert windows("mid_zone", moved, targets) == windows("mid_zone", ranking, targets)


def test_a_positive_margin_begins_at_a_share_of_the_target_s_score():
    ranking, targets = drawn(queries=100)
    for share in (0.95, 0.6):
        slow = []
        for scores, target in rows(ranking, targets):
            start = next(r for r, score in enumerate(scores) if score <= share * scores[target])
            slow.append((start, start + 50))
        assert windows("positive_margin", ranking, targets, share=share) == slow
    assert windows("positive_margin", ranking, targets) != slow


# ---------------------------------------------------------------- the objective


def test_one_in_batch_negative_is_the_target_of_the_neighbour_in_the_batch():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 8, generator=generator)
    targets = torch.randn(5, 3, 8, generator=generator)

    def score(query, image):
        return max(float(query @ token) for token in image)

    slow = statistics.mean(
        math.log1p(math.exp((score(q, targets[b - 1]) - score(q, targets[b])) / 0.7))
        for b, q in enumerate(queries)
    )
    none = targets.new_empty(5, 0, 3, 8)
    loss = find_objective("in_batch_one").function(queries, targets, none, torch.tensor(0.7))
    assert loss.item() == pytest.approx(slow, rel=1e-5)
    pairs = OBJECTIVES["bradley_terry"].function(queries, targets, targets.roll(1, 0)[:, None], 0.7)
    torch.testing.assert_close(loss, pairs)


def test_one_in_batch_negative_needs_no_mined_ones():
    config = TrainConfig(epochs=1, n_def=1, objective="in_batch_one", mining=UNIFORM)
    assert not config.definition_epochs and not find_objective("in_batch_one").needs_negatives
    with pytest.raises(ValueError, match="in_batch_one contrasts the queries of a batch"):
        replace(config, batch_size=1)


@pytest.mark.parametrize("k", [-2.0, 1.0, 4.0])
def test_stretching_moves_no_rank_and_widens_the_gaps_at_one_end(k):
    scores = drawn(queries=5)[0].scores
    other = stretch(scores, k)
    assert (other.diff(dim=1) < 0).all()
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(other, dim=1), moment(scores, dim=1))
    wider = other.diff(dim=1) / scores.diff(dim=1)  # falls along the ranking, or rises
    assert (math.copysign(1, k) * wider.diff(dim=1) < 0).float().mean() > 0.99


def test_stretched_drops_are_those_of_the_stretched_scores():
    ranking, targets = drawn(queries=8)
    assert windows("stretched", ranking, targets) == windows("between_drops", ranking, targets)
    z = (ranking.scores - ranking.scores.mean(1, keepdim=True)) / ranking.scores.std(
        1, keepdim=True
    )
    other = Ranking(torch.exp(2 * z), ranking.order)
    cosine = MiningConfig()
    expected = windows("between_drops", other, targets, cosine)
    assert windows("stretched", ranking, targets, cosine, k=2.0) == expected
