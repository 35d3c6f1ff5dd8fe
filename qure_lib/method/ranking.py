"""Score and sort a corpus in bounded memory. Equal scores keep the order of the corpus."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qure_lib.arrays import as_scores

from .scores import all_finite, relevance_scores

DEFAULT_MEMORY = 256 * 2**20  # bytes for the scores of a group of queries and for sorting them
SORTING_BYTES_PER_SCORE = 40  # what sorting, and the use of a ranking after it, take at their peak
SORTING_CHUNK_BYTES = 32 * 2**20  # a larger chunk leaves the processor's cache
QUERIES_PER_PRODUCT = 256  # scored at once against a block of images
PRODUCT_BYTES = {"cpu": 4 * 2**20, "cuda": 64 * 2**20}  # of their (queries, images, T) product


class ImagesOnDisk(Protocol):
    """(N, T, D) image embeddings of which only slices are ever in memory, as float32."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __getitem__(self, block: slice) -> Tensor: ...


@dataclass(frozen=True)
class Ranking:
    """A sorted corpus. scores: (Q, N) best first; order: (Q, N) corpus position at each rank."""

    scores: Tensor
    order: Tensor

    def ranks_of(self, positions: Tensor) -> Tensor:
        """(Q,) corpus positions -> (Q,) 0-based ranks.

        Raises:
            ValueError: not one position a query, or one that its query's ranking does not hold.
        """
        if positions.shape != self.order.shape[:1]:
            raise ValueError(
                f"positions {tuple(positions.shape)} must be one a query of {len(self.order)}"
            )
        ranks = (self.order == positions[:, None]).int().argmax(dim=1)
        absent = self.order.gather(1, ranks[:, None])[:, 0] != positions
        absent |= positions < 0  # -1 fills a ranking that stops early
        if absent.any():
            query = int(absent.nonzero()[0])
            raise ValueError(
                f"the ranking of query {query} does not hold corpus position {positions[query]}"
            )
        return ranks

    @cached_property
    def finite(self) -> Self:
        """The same ranking with the images left out (-inf) at their query's lowest other score."""
        if (kept := self.scores > -torch.inf).all():
            return self
        lowest = self.scores.where(kept, torch.inf).amin(dim=1, keepdim=True)
        return type(self)(self.scores.maximum(lowest), self.order)


def rank_scores(scores: Tensor | ArrayLike) -> Ranking:
    """(Q, N) relevance scores -> Ranking; equal scores keep the order of the corpus.

    A score of -inf leaves the image out for this query: it ranks behind all others.

    Raises:
        ValueError: a score is NaN or +inf, or all of a query's are -inf.

    Example:
        >>> rank_scores(torch.tensor([[.2, .9, .2]])).order.tolist()
        [[1, 0, 2]]
    """
    scores = as_scores(scores)
    if scores.dtype == torch.float32 and not scores.is_cuda:
        ranking = Ranking(*_sort_packed(scores))
    else:
        ranking = Ranking(*torch.sort(scores, dim=1, descending=True, stable=True))
    best, worst = ranking.scores[:, 0], ranking.scores[:, -1]  # any sort leaves NaN at an end
    if not best.isfinite().all() or worst.isnan().any():
        raise ValueError(
            "relevance scores hold NaN or infinity, or leave out every image of a query (-inf); "
            "look at the model's embeddings"
        )
    return ranking


def _sort_packed(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same sort of float32: each score and its place in an int64, which NumPy sorts by SIMD."""
    bits = (0 - scores).view(torch.int32)  # ascending, and -0 becomes 0
    bits ^= bits >> 31 & 0x7FFFFFFF  # as integers these sort as the numbers do
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
            sorting a chunk of them. A block of images and its product come on top: some megabytes.

    Yields:
        (rows, scores): a slice of queries and their (q, N) scores, all finite.

    Raises:
        ValueError: not even one query fits in `memory`, the embeddings differ in length, or a
            score is NaN or infinite.
    """
    n, _, width = images.shape
    if queries.shape[1] != width:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and images {width}; take both of one model"
        )
    least = 2 * n * SORTING_BYTES_PER_SCORE
    if memory < least:
        raise ValueError(f"one query against {n} images takes {least} bytes, memory is {memory}")
    group = memory // (2 * n * queries.element_size())
    chunk = max(min(memory // 2, SORTING_CHUNK_BYTES) // (n * SORTING_BYTES_PER_SCORE), 1)
    for first, last in _blocks(len(queries), group):
        scores = _score(queries[first:last], images)
        for start in range(first, last, chunk):
            part = scores[start - first :][:chunk].clone()  # a view would keep the whole group
            if not all_finite(part):
                raise ValueError(_describe_not_finite(part, start))
            yield slice(start, start + len(part)), part
        del scores  # before the next group's are made


def _describe_not_finite(scores: Tensor, first_query: int) -> str:
    query, image = (~scores.isfinite()).nonzero()[0].tolist()
    return (
        f"query {first_query + query} scores {scores[query, image]} with image {image}: an "
        "embedding is not finite, or so large that the product overflows; unit vectors are expected"
    )


def _score(queries: Tensor, images: Tensor | ImagesOnDisk) -> Tensor:
    """(q, N) scores, from blocks of images small enough for their product to stay in the cache."""
    n, tokens, width = images.shape
    row_bytes = queries.element_size() * tokens * max(QUERIES_PER_PRODUCT, width)
    scores = queries.new_empty(len(queries), n)
    for start, stop in _blocks(n, PRODUCT_BYTES[queries.device.type] // row_bytes):
        block = images[start:stop].to(queries.device)
        for first, last in _blocks(len(queries), QUERIES_PER_PRODUCT):
            scores[first:last, start:stop] = relevance_scores(queries[first:last], block)
    return scores


def _blocks(total: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of the fewest blocks, even in size: a small last one rounds differently."""
    count = max(-(-total // max(most, 1)), 1)
    return list(pairwise(total * i // count for i in range(count + 1)))


def rank_corpus(
    queries: Tensor, images: Tensor | ImagesOnDisk, memory: int = DEFAULT_MEMORY
) -> Iterator[tuple[slice, Ranking]]:
    """`score_corpus`, each chunk sorted. Yields (rows, Ranking)."""
    for rows, scores in score_corpus(queries, images, memory):
        yield rows, rank_scores(scores)
