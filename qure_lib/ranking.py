"""Scores and sorts the corpus in bounded memory, under one tie rule: by corpus position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .model import relevance_scores

DEFAULT_MEMORY = 256 * 2**20  # bytes for one chunk's (q, N, T) product
SORTING = 32  # bytes that sorting takes for each score: the score, its place, and copies of both


class ImagesOnDisk(Protocol):
    """(N, T, D) image embeddings of which only slices are ever in memory, as float32."""

    shape: tuple[int, int, int]

    def __getitem__(self, block: slice) -> Tensor: ...


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
    queries: Tensor, images: Tensor | ImagesOnDisk, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Tensor]]:
    """Relevance scores, a chunk of queries at a time.

    Args:
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings; those on disk are read a block at a time.
        memory: bytes that the (q, N, T) product of one chunk may take; for images on disk, half of
            it bounds a block, the other half its product, and all of it sorting a chunk's scores.

    Yields:
        (rows, scores): a slice of queries and their (q, N) scores.

    Raises:
        ValueError: not even one query fits in `memory`, or the embeddings differ in length.
    """
    n, tokens, width = images.shape
    if queries.shape[1] != width:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and images {width}; take both of one model"
        )
    on_disk = not isinstance(images, Tensor)
    per_query = n * (SORTING if on_disk else tokens * images.element_size())
    chunk = memory // per_query
    block = memory // (8 * tokens * max(min(chunk, len(queries)), width)) if on_disk else n
    if chunk < 1 or block < 1:
        raise ValueError(
            f"one query against {n} images takes {per_query} bytes, memory is {memory}"
        )
    for start in range(0, len(queries), chunk):
        rows = slice(start, min(start + chunk, len(queries)))
        blocks = (images[s : s + block].to(queries.device) for s in range(0, n, block))
        yield rows, torch.cat([relevance_scores(queries[rows], b) for b in blocks], dim=1)


def rank_corpus(
    queries: Tensor, images: Tensor | ImagesOnDisk, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Ranking]]:
    """`score_corpus`, each chunk sorted. Yields (rows, Ranking)."""
    for rows, scores in score_corpus(queries, images, memory):
        yield rows, rank_scores(scores)
