"""Relevance scores: the best cosine between a query and an image's tokens."""

import torch
from torch import Tensor


def relevance_scores(queries: Tensor, images: Tensor) -> Tensor:
    """s(q, I): the largest of the T cosines between a query and an image's tokens.

    Args:
        queries: (Q, D) unit query embeddings.
        images: (N, T, D) unit image embeddings.

    Returns:
        (Q, N) raw cosines in [-1, 1], not divided by the temperature. The (Q, N, T) product is
        built whole; `ranking.score_corpus` bounds it.
    """
    return torch.einsum("qd,ntd->qnt", queries, images).amax(dim=-1)


def paired_scores(queries: Tensor, images: Tensor) -> Tensor:
    """(B, D) queries and (B, ..., T, D) images of their own -> (B, ...) relevance scores.

    Raises:
        ValueError: B or D differ.
    """
    if queries.shape != (len(images), images.shape[-1]):
        raise ValueError(f"queries {queries.shape} and images {images.shape} differ in B or D")
    shape = (len(queries),) + (1,) * (images.dim() - 2) + (-1,)
    return (queries.view(shape) * images).sum(dim=-1).amax(dim=-1)


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass without a copy (`aminmax` keeps NaN)."""
    return bool(torch.stack(values.aminmax()).isfinite().all())
