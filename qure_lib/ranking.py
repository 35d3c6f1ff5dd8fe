"""Scores and sorts the corpus in bounded memory, under one tie rule: by corpus position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import relevance_scores

DEFAULT_MEMORY = 256 * 2**20  # bytes for one chunk's (q, N, T) product


@dataclass(frozen=True)
class Ranking:
    """A sorted corpus. scores: (Q, N) best first; order: (Q, N) corpus position at each rank."""

    scores: Tensor
    order: Tensor

    def ranks_of(self, positions: Tensor) -> Tensor:
        """(Q,) corpus positions -> (Q,) 0-based ranks."""
        return (self.order == positions[:, None]).int().argmax(dim=1)


def rank_scores(scores: Tensor) -> Ranking:
    """(Q, N) relevance scores -> Ranking; equal scores keep the order of the corpus.

    Example:
        >>> rank_scores(torch.tensor([[.2, .9, .2]])).order.tolist()
        [[1, 0, 2]]
    """
    return Ranking(*torch.sort(scores, dim=1, descending=True, stable=True))


def score_corpus(
    queries: Tensor, images: Tensor, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Tensor]]:
    """Relevance scores, a chunk of queries at a time.

    Args:
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings.
        memory: bytes that the (q, N, T) product of one chunk may take.

    Yields:
        (rows, scores): a slice of queries and their (q, N) scores.

    Raises:
        ValueError: not even one query fits in `memory`.
    """
    per_query = images.shape[0] * images.shape[1] * images.element_size()
    chunk = memory // per_query
    if chunk < 1:
        raise ValueError(
            f"one query against {len(images)} images takes {per_query} bytes, memory is {memory}"
        )
    for start in range(0, len(queries), chunk):
        rows = slice(start, min(start + chunk, len(queries)))
        yield rows, relevance_scores(queries[rows], images)


def rank_corpus(
    queries: Tensor, images: Tensor, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Ranking]]:
    """`score_corpus`, each chunk sorted. Yields (rows, Ranking)."""
    for rows, scores in score_corpus(queries, images, memory):
        yield rows, rank_scores(scores)
