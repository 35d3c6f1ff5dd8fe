"""The two steep drops in a query's relevance scores. Needs no other module of the method."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from qure_lib.arrays import as_positions, as_scores

RULES = ("release", "largest")
CURVES = ("cosine", "preference")
DROPS_TRIED_FIRST = 16  # a pair is looked for among so many of the largest drops before all


@dataclass(frozen=True)
class DropPair:
    """Ranks just before each of the two drops.

    first, second: (Q,) int64, first < second; both -1 where no pair qualifies.
    """

    first: Tensor
    second: Tensor

    def hard_negative_ranks(self, query: int) -> list[int]:
        """Ranks after the first drop, up to and including the one before the second (Eq. 7)."""
        return list(range(int(self.first[query]) + 1, int(self.second[query]) + 1))


def find_steepest_drops(
    ranked_scores: Tensor | ArrayLike,
    target_ranks: Tensor | ArrayLike,
    rule: str = "release",
    consecutive_threshold: int = 1,
    search_window: int | None = None,
    curve: str = "cosine",
    temperature: float | None = None,
) -> DropPair:
    """Find, for each query, the two steep drops that bound its hard negatives.

    A drop is the gap between consecutive images ranked strictly below the target: an image that
    ties with the target is not below it. Of equal drops the better-ranked comes first.

    Args:
        ranked_scores: (Q, N) relevance scores, best first. Unitless; on the cosine curve any
            positive scale or offset. At -inf, last: images left out, which bound no drop.
        target_ranks: (Q,) 0-based rank of each query's target.
        rule: "largest" takes the two largest drops (Eq. 6). "release", the authors' code, goes
            through neighbours in the order of size, (1st, 2nd), (2nd, 3rd), ..., and takes the
            first pair whose ranks differ by more than `consecutive_threshold`.
        consecutive_threshold: for "release" only.
        search_window: how many ranks after the target may hold a drop; None is the whole ranking.
        curve: "cosine" measures a drop in the scores, as released; "preference" in Bradley-Terry's
            probability of an image over the target, 1 - P = sigmoid((s - s_target) / tau).
        temperature: tau of the preference curve, in the scores' unit; the model's own is learned.

    Returns:
        A DropPair of (Q,) ranks just before each drop; -1 where no pair qualifies.

    Raises:
        ValueError: scores not sorted or not finite, a rank outside [0, N), a target left out, an
            unknown rule or curve, or no positive temperature for the preference curve.

    Source: QuRe, arXiv:2507.12416, Eq. 5-7; the preference curve is this kit's (docs/method.md).

    Example:
        >>> scores = torch.tensor([[.95, .90, .89, .60, .58, .57, .20]])
        >>> find_steepest_drops(scores, torch.tensor([0])).hard_negative_ranks(0)
        [3, 4, 5]
    """
    _check_rule(rule, consecutive_threshold, search_window)
    check_curve(curve, temperature)
    ranked_scores = as_scores(ranked_scores)
    target_ranks = as_positions(target_ranks).to(ranked_scores.device)
    _check_ranking(ranked_scores, target_ranks)
    target = ranked_scores.gather(1, target_ranks[:, None])
    if curve == "preference" and temperature is not None:  # `check_curve` refuses None
        drops = _log_preference_drops(ranked_scores, target, temperature)
    else:
        drops = ranked_scores[:, :-1] - ranked_scores[:, 1:]
    drops = _only_below_target(drops, ranked_scores, target_ranks, search_window)
    least_apart = consecutive_threshold if rule == "release" else 0
    pair = _first_pair_apart(drops, least_apart, DROPS_TRIED_FIRST)
    return DropPair(pair.amin(dim=1), pair.amax(dim=1))


def check_curve(curve: str, temperature: float | None) -> None:
    """Refuse an unknown curve, a preference curve without a temperature, and one not above 0.

    Raises:
        ValueError: the message names what is wrong and the remedy.
    """
    if curve not in CURVES:
        raise ValueError(f"curve must be one of {CURVES}, not {curve!r}")
    if temperature is None and curve == "preference":
        raise ValueError(
            "the preference curve needs a temperature: the model's own, 1 / logit_scale; 1 where "
            "the scores are already divided by it"
        )
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")


def _log_preference_drops(ranked_scores: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(Q, N - 1) logarithms of the drops in sigmoid(-m), m = (s_target - s) / temperature.

    sigmoid(-a) - sigmoid(-b) = sigmoid(-a) * sigmoid(b) * (1 - exp(a - b)) for margins a <= b: a
    product, so its logarithm keeps its precision where sigmoid(-m) itself is 0 or 1. Equal scores
    make the least number, not -inf, which stands for no drop at all. Margins are double precision.
    """
    margins = (target.double() - ranked_scores.double()) / temperature
    apart = margins.diff(dim=1)
    drops = F.logsigmoid(-margins[:, :-1]) + F.logsigmoid(margins[:, 1:])
    drops += torch.log(-torch.expm1(-apart))
    return drops.clamp_(min=torch.finfo(torch.float64).min)


def _only_below_target(
    drops: Tensor, ranked_scores: Tensor, target_ranks: Tensor, window: int | None
) -> Tensor:
    """(Q, N + 1) drop after each rank; -inf where it is not below the target, out of the window, or
    down to an image that is left out.
    """
    allowed = ranked_scores[:, :-1] < ranked_scores.gather(1, target_ranks[:, None])
    allowed &= ranked_scores[:, 1:] > -math.inf
    if window is not None:
        ranks = torch.arange(drops.shape[1], device=drops.device)
        allowed &= ranks <= target_ranks[:, None] + window
    drops = drops.masked_fill_(~allowed, -math.inf)
    return F.pad(drops, (0, 2), value=-math.inf)  # at least two columns


def _first_pair_apart(drops: Tensor, least_apart: int, tried: int) -> Tensor:
    """(Q, 2) ranks of the first neighbours by size more than `least_apart` ranks apart, or -1.

    The `tried` largest drops nearly always decide; where they do not, all drops are sorted. Drops
    as small as the smallest of those tried do not count: equal ones may have been left out.
    """
    tried = min(tried, drops.shape[1])
    size, rank = _largest(drops, tried)
    smallest = size[:, -1:] if tried < drops.shape[1] else -math.inf
    qualifies = (size[:, 1:] > smallest) & (rank.diff(dim=1).abs() > least_apart)
    best = qualifies.int().argmax(dim=1, keepdim=True)
    pair = rank.gather(1, torch.cat([best, best + 1], dim=1))
    pair[~qualifies.any(dim=1)] = -1
    undecided = (pair[:, 0] < 0) & (size[:, -1] > -math.inf)
    if tried < drops.shape[1] and undecided.any():
        pair[undecided] = _first_pair_apart(drops[undecided], least_apart, drops.shape[1])
    return pair


def _largest(drops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(Q, count) sizes and ranks of the largest drops; of equal ones the better-ranked first."""
    rank = drops.topk(count, dim=1).indices.sort(dim=1).values
    size, order = drops.gather(1, rank).sort(dim=1, descending=True, stable=True)
    return size, rank.gather(1, order)


def _check_rule(rule: str, consecutive_threshold: int, search_window: int | None) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, not {rule!r}")
    if consecutive_threshold < 0 or (search_window is not None and search_window < 1):
        raise ValueError("consecutive_threshold must be at least 0, search_window 1 (or None)")


def _check_ranking(ranked_scores: Tensor, target_ranks: Tensor) -> None:
    if ranked_scores.dim() != 2 or target_ranks.shape != ranked_scores.shape[:1]:
        raise ValueError(
            f"ranked_scores {tuple(ranked_scores.shape)} must be (Q, N) and "
            f"target_ranks {tuple(target_ranks.shape)} (Q,)"
        )
    if ((target_ranks < 0) | (target_ranks >= ranked_scores.shape[1])).any():
        raise ValueError(f"target_ranks must lie in [0, {ranked_scores.shape[1]})")
    targets = ranked_scores.gather(1, target_ranks[:, None])
    if not torch.cat([targets, ranked_scores[:, :1]], dim=1).isfinite().all():
        raise ValueError("ranked_scores hold NaN or infinity; look at the model's embeddings")
    if not (ranked_scores[:, 1:] <= ranked_scores[:, :-1]).all():
        raise ValueError("ranked_scores must be sorted, best first, without NaN, in every row")
