"""Strategies and an objective that the study compares with the two drops: its controls and rivals.

Importing this module registers them. The constants of `mid_zone`, `positive_margin` and
`significant_gaps` were chosen after looking at one world (docs/study.md): they are shown, not
tested.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import check_curve, find_steepest_drops
from qure_lib.method.losses import OBJECTIVES, Objective, bradley_terry_loss
from qure_lib.method.ranking import Ranking
from qure_lib.method.scores import paired_scores
from qure_lib.method.strategies import (
    Window,
    between_drops,
    first_rank_below_target,
    strategy,
)


def preference_window(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, factor: float = 1.0
) -> Window:
    """The window between two drops of the preference curve, at `factor` times the temperature."""
    check_curve("preference", config.temperature)
    drops = find_steepest_drops(
        ranking.scores,
        target_ranks,
        config.drop_rule,
        config.consecutive_threshold,
        curve="preference",
        temperature=config.temperature * factor,
    )
    return drops.first + 1, drops.second + 1


@strategy("preference_scaled")
def preference_scaled(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, *, factor: float = 1.0
) -> Window:
    """Control: the preference curve at another temperature than the model's."""
    return preference_window(ranking, target_ranks, config, factor)


@strategy("moved")
def moved(ranking: Ranking, target_ranks: Tensor, config: MiningConfig, *, seed: int = 0) -> Window:
    """Control: another query's preference window, as far below this target as below its own.

    Places and sizes are the same, but no window follows drops of its own query. Queries are paired
    at random among those ranked together; no query keeps its own window.
    """
    start, stop = preference_window(ranking, target_ranks, config)
    order = torch.randperm(len(start), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    below, size = (start - target_ranks)[other], (stop - start)[other]
    start = (target_ranks + below).clamp(0, ranking.scores.shape[1])
    return start, start + size


@strategy("same_sizes")
def same_sizes(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """Control: the k images right after the target, k the mean size of the preference windows.

    The mean is over those queries that have a window, among the queries that are ranked together
    (873 of 960 in the worlds of the study, then the rest).
    """
    start, stop = preference_window(ranking, target_ranks, config)
    sizes = (stop - start).double()
    k = int(sizes[sizes > 0].mean().nan_to_num(1.0).round())
    first = first_rank_below_target(ranking, target_ranks)
    return first, first + k


@strategy("window_by_rank")
def window_by_rank(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, *, least: int = 32, slope: int = 4
) -> Window:
    """Drops of the cosine within least + slope * (the target's rank) ranks after the target."""
    last = (target_ranks + least + slope * target_ranks + 1).clamp(max=ranking.scores.shape[1] - 1)
    floor = ranking.scores.gather(1, last[:, None])  # beyond it scores are level
    level = ranking.scores.maximum(floor)
    settings = config.drop_rule, config.consecutive_threshold
    drops = find_steepest_drops(level, target_ranks, *settings)
    return drops.first + 1, drops.second + 1


@strategy("significant_gaps")
def significant_gaps(
    ranking: Ranking,
    target_ranks: Tensor,
    config: MiningConfig,
    *,
    times: float = 3.0,
    around: int = 51,
) -> Window:
    """Between the first two gaps below the target above `times` the mean of `around` near gaps."""
    scores, half = ranking.scores, around // 2
    gaps = scores[:, :-1] - scores[:, 1:]
    padded = F.pad(gaps[:, None], (half, half), mode="replicate")
    local = F.avg_pool1d(padded, around, stride=1)[:, 0]
    below = scores[:, :-1] < scores.gather(1, target_ranks[:, None])
    large = below & (gaps > times * local)
    ranks = torch.arange(gaps.shape[1], device=gaps.device)
    first = large.int().argmax(dim=1)
    later = large & (ranks > first[:, None] + config.consecutive_threshold)
    second = later.int().argmax(dim=1)
    found = later.any(dim=1)
    return (first + 1).where(found, 0), (second + 1).where(found, 0)


@strategy("mid_zone")
def mid_zone(
    ranking: Ranking,
    target_ranks: Tensor,
    config: MiningConfig,
    *,
    nearest: float = 0.1,
    farthest: float = 0.6,
    least: int = 8,
) -> Window:
    """Images between two distances below the target, in standard deviations of the scores."""
    scores = ranking.scores
    below = scores.gather(1, target_ranks[:, None]) - scores
    below = below / scores.std(dim=1, keepdim=True)
    start = (below < nearest).sum(dim=1).maximum(first_rank_below_target(ranking, target_ranks))
    return start, (below < farthest).sum(dim=1).maximum(start + least)


@strategy("positive_margin")
def positive_margin(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, *, share: float = 0.95
) -> Window:
    """The 50 best images that score at most `share` of the target's score."""
    target = ranking.scores.gather(1, target_ranks[:, None])
    start = (ranking.scores > share * target).sum(dim=1)
    return start, start + 50


@strategy("stretched")
def stretched(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, *, k: float = 0.0
) -> Window:
    """Causal test: the two drops of scores that `stretch` gave other gaps, in the same order."""
    other = replace(ranking, scores=stretch(ranking.scores, k))
    return between_drops(other, target_ranks, config)


def stretch(scores: Tensor, k: float) -> Tensor:
    """Scores with other gaps in the same order: exp(k z) of each query's standardised scores z.

    A positive k widens the gaps at the top of the ranking and narrows those at its bottom; a
    negative one (-exp(k z)) does the reverse; 0 changes nothing. Mean and standard deviation stay.

    Args:
        scores: (Q, N), all finite.

    Returns:
        (Q, N) in double precision.
    """
    exact = scores.double()
    spread, mean = torch.std_mean(exact, dim=1, keepdim=True)
    if k == 0:
        return exact
    other = math.copysign(1.0, k) * torch.exp(k * (exact - mean) / spread)
    other_spread, other_mean = torch.std_mean(other, dim=1, keepdim=True)
    return mean + spread * (other - other_mean) / other_spread


def _in_batch_one(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    """Bradley-Terry against the target of the batch's previous query: batches are random."""
    positive = paired_scores(queries, targets)
    return bradley_terry_loss(positive, paired_scores(queries, targets.roll(1, 0)), tau)


OBJECTIVES["in_batch_one"] = Objective(_in_batch_one, needs_negatives=False)
