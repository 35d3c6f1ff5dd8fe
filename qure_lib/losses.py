"""Training objectives as pure functions. Scores are raw cosines; the temperature divides them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
        ValueError: the batches differ.

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

    The chance under Plackett-Luce that the target is chosen first among 1 + K; equivalent to
    InfoNCE with the query's own negatives, and to `bradley_terry_loss` where K = 1.

    Args:
        positive_scores: (B,) relevance of each query's target.
        negative_scores: (B,) or (B, K) relevance of its negatives.
        temperature: tau > 0, learned.

    Raises:
        ValueError: the batches differ.

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
        ValueError: scores are not square.

    Source: van den Oord et al., arXiv:1807.03748, Eq. 4; QuRe section 2 as the usual objective.
    """
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be (B, B), not {tuple(scores.shape)}")
    labels = scores.new_tensor(range(len(scores))).long()
    return F.cross_entropy(scores / temperature, labels)


def _as_columns(positive_scores: Tensor, negative_scores: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) positives and (B, K) negatives."""
    if negative_scores.dim() == 1:
        negative_scores = negative_scores[:, None]
    if positive_scores.dim() != 1 or len(positive_scores) != len(negative_scores):
        raise ValueError(
            f"positive_scores {tuple(positive_scores.shape)} must be (B,) and negative_scores "
            f"{tuple(negative_scores.shape)} (B,) or (B, K) of the same B"
        )
    return positive_scores[:, None], negative_scores
