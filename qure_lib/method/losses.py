"""Training objectives as pure functions. Scores are raw cosines; the temperature divides them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .scores import paired_scores, relevance_scores


def bradley_terry_loss(
    positive_scores: Tensor, negative_scores: Tensor, temperature: float | Tensor
) -> Tensor:
    """-log sigmoid((s(p) - s(n)) / tau), averaged over the batch and its negatives.

    Equivalent to KL([1, 0] || softmax([s(p), s(n)] / tau)), as the release writes it.

    Args:
        positive_scores: (B,) relevance of each query's target.
        negative_scores: (B,) or (B, K) relevance of its negatives; K pairs are averaged.
        temperature: tau > 0, learned.

    Raises:
        ValueError: the batches differ, or there is no negative.

    Source: QuRe, arXiv:2507.12416, Eq. 2-3.

    Example:
        >>> round(bradley_terry_loss(torch.tensor([0.5]), torch.tensor([0.5]), 0.07).item(), 4)
        0.6931
    """
    positive, negatives = _as_columns(positive_scores, negative_scores)
    return -F.logsigmoid((positive - negatives) / temperature).mean()


def plackett_luce_loss(
    positive_scores: Tensor, negative_scores: Tensor, temperature: float | Tensor
) -> Tensor:
    """-log softmax([s(p), s(n_1), ..., s(n_K)] / tau) at the positive, averaged over the batch.

    The probability under Plackett-Luce that the target is chosen first among 1 + K; equivalent to
    InfoNCE with the query's own negatives, and to `bradley_terry_loss` where K = 1.

    Args:
        positive_scores: (B,) relevance of each query's target.
        negative_scores: (B,) or (B, K) relevance of its negatives.
        temperature: tau > 0, learned.

    Raises:
        ValueError: the batches differ, or there is no negative.

    Source: Plackett, Applied Statistics 24(2), 1975; the first choice of the ranking alone.

    Example:
        >>> round(plackett_luce_loss(torch.zeros(1), torch.zeros(1, 3), 0.07).item(), 4)  # log 4
        1.3863
    """
    scores = torch.cat(_as_columns(positive_scores, negative_scores), dim=1)
    return F.cross_entropy(scores / temperature, scores.new_zeros(len(scores), dtype=torch.int64))


def info_nce_loss(scores: Tensor, temperature: float | Tensor) -> Tensor:
    """-log softmax(scores / tau) at the positive, averaged over the batch.

    In-batch contrast has the (B, B) scores of each query with every target of the batch and its
    own target on the diagonal.

    Args:
        scores: (B, B) relevance scores; row b's positive is column b.
        temperature: tau > 0, learned.

    Raises:
        ValueError: scores are not square, or B is 1: there is nothing to contrast, the loss is 0.

    Source: van den Oord et al., arXiv:1807.03748, Eq. 4; QuRe section 2, the usual objective.
    """
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(f"scores must be (B, B) with B of at least 2, not {tuple(scores.shape)}")
    return F.cross_entropy(scores / temperature, torch.arange(len(scores), device=scores.device))


def _as_columns(positive_scores: Tensor, negative_scores: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) positives and (B, K) negatives."""
    negatives = negative_scores[:, None] if negative_scores.dim() == 1 else negative_scores
    fits = negatives.dim() == 2 and positive_scores.shape == negatives.shape[:1]
    if not fits or not negatives.numel():
        raise ValueError(
            f"positive_scores {tuple(positive_scores.shape)} must be (B,) and negative_scores "
            f"{tuple(negative_scores.shape)} (B,) or (B, K) of the same B, neither 0"
        )
    return positive_scores[:, None], negatives


@dataclass(frozen=True)
class Objective:
    """A loss of a batch of queries, as the training loop calls it.

    function: (B, D) queries, (B, T, D) targets, (B, K, T, D) negatives, temperature -> a loss.
    needs_negatives: False for contrast within the batch: K is 0, and B is at least 2.
    """

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    needs_negatives: bool = True


def _bradley_terry(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    positive = paired_scores(queries, targets)
    return bradley_terry_loss(positive, paired_scores(queries, negatives), tau)


def _plackett_luce(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    positive = paired_scores(queries, targets)
    return plackett_luce_loss(positive, paired_scores(queries, negatives), tau)


def _info_nce(queries: Tensor, targets: Tensor, negatives: Tensor, tau: Tensor) -> Tensor:
    return info_nce_loss(relevance_scores(queries, targets), tau)


# One entry adds an objective.
OBJECTIVES: dict[str, Objective] = {
    "bradley_terry": Objective(_bradley_terry),
    "plackett_luce": Objective(_plackett_luce),
    "info_nce": Objective(_info_nce, needs_negatives=False),
}


def with_auxiliary_positives(objective: Objective) -> Objective:
    """The mean of an objective at the target and at an auxiliary positive, the same negatives.

    The auxiliary positive comes first among the (B, 1 + K, T, D) negatives.
    """

    def function(queries: Tensor, targets: Tensor, others: Tensor, tau: Tensor) -> Tensor:
        positives, negatives = others[:, 0], others[:, 1:]
        both = [objective.function(queries, p, negatives, tau) for p in (targets, positives)]
        return torch.stack(both).mean()

    return Objective(function)


def find_objective(name: str) -> Objective:
    """The registered objective.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {sorted(OBJECTIVES)}, not {name!r}")
    return OBJECTIVES[name]
