"""Training objectives as pure functions. Scores are raw cosines; the temperature divides them."""

from __future__ import annotations

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
        >>> import torch
        >>> round(bradley_terry_loss(torch.tensor([0.5]), torch.tensor([0.5]), 0.07).item(), 4)
        0.6931
    """
    if negative_scores.dim() == 1:
        negative_scores = negative_scores[:, None]
    if positive_scores.dim() != 1 or len(positive_scores) != len(negative_scores):
        raise ValueError(
            f"positive_scores {tuple(positive_scores.shape)} must be (B,) and negative_scores "
            f"{tuple(negative_scores.shape)} (B,) or (B, K) of the same B"
        )
    return -F.logsigmoid((positive_scores[:, None] - negative_scores) / temperature).mean()


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
