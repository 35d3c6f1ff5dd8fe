"""Scores and sorts the corpus in bounded memory, under one tie rule: by corpus position."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .model import relevance_scores

DEFAULT_MEMORY = 256 * 2**20  # bytes for the scores of a group of queries and for sorting them
SORTING = 40  # bytes that sorting, and what is done to a ranking, take for each score
CHUNK = 32 * 2**20  # bytes of one chunk's sorting: larger ones leave the cache
QUERIES = 256  # scored at once against a block of images
PRODUCT = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}  # bytes of a block's (QUERIES, n, T) product


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

    Raises:
        ValueError: a score is NaN.

    Example:
        >>> rank_scores(torch.tensor([[.2, .9, .2]])).order.tolist()
        [[1, 0, 2]]
    """
    sort = _sort_packed if scores.dtype == torch.float32 and not scores.is_cuda else _sort
    ranking = Ranking(*sort(scores))
    if ranking.scores[:, [0, -1]].isnan().any():  # where any sort leaves them
        raise ValueError("relevance scores hold NaN; look at the model's embeddings")
    return ranking


def _sort(scores: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sort(scores, dim=1, descending=True, stable=True)


def _sort_packed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`_sort` of float32 scores: each with its place in one int64, which NumPy sorts with SIMD."""
    bits = (0 - scores).view(torch.int32)  # ascending, and no zero with a sign
    bits ^= bits >> 31 & 0x7FFFFFFF  # now these sort as the numbers do
    keys = bits.long().bitwise_left_shift_(32).add_(torch.arange(scores.shape[1]))
    parts = np.array_split(keys.numpy(), min(torch.get_num_threads(), keys.numel() // 2**17 + 1))
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: part.sort(axis=1), parts))
    order = keys.bitwise_and_(0xFFFFFFFF)
    return scores.gather(1, order), order


def score_corpus(
    queries: Tensor, images: Tensor | ImagesOnDisk, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Tensor]]:
    """Relevance scores, a chunk of queries at a time.

    Args:
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings; those on disk are read once for each group of queries.
        memory: bytes; half of it holds the scores of a group of queries, the other half is for
            sorting a chunk of them. Beside it there is a block of images and its product, of some
            megabytes (`PRODUCT`).

    Yields:
        (rows, scores): a slice of queries and their (q, N) scores.

    Raises:
        ValueError: not even one query fits in `memory`, or the embeddings differ in length.
    """
    n, _, width = images.shape
    if queries.shape[1] != width:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and images {width}; take both of one model"
        )
    if memory < 2 * n * SORTING:
        raise ValueError(
            f"one query against {n} images takes {2 * n * SORTING} bytes, memory is {memory}"
        )
    group = memory // (2 * n * queries.element_size())
    chunk = max(min(memory // 2, CHUNK) // (n * SORTING), 1)
    for first, last in _blocks(len(queries), group):
        scores = _score(queries[first:last], images)
        for start in range(0, len(scores), chunk):
            part = scores[start : start + chunk].clone()  # a view would keep the whole group
            yield slice(first + start, first + start + len(part)), part
        del scores  # before the next group's are made


def _score(queries: Tensor, images: Tensor | ImagesOnDisk) -> Tensor:
    """(q, N) scores, from blocks of images small enough for their product to stay in the cache."""
    n, tokens, width = images.shape
    most = PRODUCT[queries.device.type] // (queries.element_size() * tokens * max(QUERIES, width))
    scores = queries.new_empty(len(queries), n)
    for start, stop in _blocks(n, most):
        block = images[start:stop].to(queries.device)
        for first, last in _blocks(len(queries), QUERIES):
            scores[first:last, start:stop] = relevance_scores(queries[first:last], block)
    return scores


def _blocks(total: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of as few blocks as will do, evenly: a small rest would round differently."""
    count = max(-(-total // max(most, 1)), 1)
    return list(pairwise(total * i // count for i in range(count + 1)))


def rank_corpus(
    queries: Tensor, images: Tensor | ImagesOnDisk, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Ranking]]:
    """`score_corpus`, each chunk sorted. Yields (rows, Ranking)."""
    for rows, scores in score_corpus(queries, images, memory):
        yield rows, rank_scores(scores)
