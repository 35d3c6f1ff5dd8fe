"""Hard negatives of corpora beyond memory: an approximate ranking by FAISS, exact near the target.

An inverted file holds all N * T image vectors in `lists` clusters; a query looks into the `nprobe`
nearest. The images near the target are then scored exactly, so that a set differs from the exact
one only by images that were not found. Rules that need the full ranking are not supported: its tail
holds drops that no nearest-neighbour search returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.negatives import HardNegativeSet
from qure_lib.method.ranking import DEFAULT_MEMORY, ImagesOnDisk, Ranking, rank_scores
from qure_lib.method.scores import all_finite, paired_scores

IMAGES_PER_LIST = 8  # that the clusters are learnt from


@dataclass(frozen=True)
class VectorIndex:
    """FAISS' inverted file (`IndexIVF`) of N * T vectors; vector v is of image v // tokens."""

    index: Any
    tokens: int

    def rank(
        self, queries: Tensor, depth: int, nprobe: int, memory: int = DEFAULT_MEMORY
    ) -> Ranking:
        """The best `depth` images that the `nprobe` nearest lists of each query hold.

        With all lists and the encoding "Flat" this is the beginning of the exact ranking.

        Args:
            queries: (Q, D) query embeddings.
            depth: images; depth * T vectors are searched for, since all T of an image may lead.
            memory: bytes that one chunk of found vectors may take.

        Returns:
            (Q, depth) scores and corpus positions, -inf and -1 after the last found.

        Raises:
            ValueError: `nprobe` or `depth` out of range, or embeddings of another length.
        """
        _check_range("nprobe", nprobe, self.index.nlist)
        _check_range("depth", depth, self.index.ntotal // self.tokens)
        if queries.shape[1] != self.index.d:
            raise ValueError(
                f"queries have {queries.shape[1]} dimensions, the index has {self.index.d}"
            )
        probing = import_faiss().SearchParametersIVF(nprobe=nprobe)
        vectors, wanted = _as_vectors(queries), depth * self.tokens
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        order = np.full((len(queries), depth), -1, dtype=np.int64)
        chunk = max(memory // (12 * wanted), 1)
        for start in range(0, len(queries), chunk):
            found = self.index.search(vectors[start : start + chunk], wanted, params=probing)
            for row, (score, vector) in enumerate(zip(*found, strict=True), start):
                score, vector = score[vector >= 0], vector[vector >= 0]
                image, best = np.unique(vector // self.tokens, return_index=True)
                ranked = np.argsort(-score[best], kind="stable")[:depth]  # ties by position
                scores[row, : len(ranked)] = score[best][ranked]
                order[row, : len(ranked)] = image[ranked]
        return Ranking(torch.from_numpy(scores), torch.from_numpy(order))


@dataclass(frozen=True)
class NearTarget:
    """What was found around Q targets in an approximate ranking.

    negatives: the sets; empty if the ranking does not reach the end of the search window.
    after: (Q, W) corpus positions of the first W images below the target, -1 after the last found.
    reached: (Q,) whether it does.
    """

    negatives: HardNegativeSet
    after: Tensor
    reached: Tensor


def build_index(
    images: Tensor | ImagesOnDisk,
    lists: int | None = None,
    encoding: str = "Flat",
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> VectorIndex:
    """Cluster the vectors of (N, T, D) image embeddings, of which a block at a time is read.

    Args:
        lists: number of clusters; None takes the square root of N.
        encoding: how FAISS stores a vector: "Flat" (4 D bytes), "SQ8" (D bytes), "PQ64" (64), ...
        seed: of k-means and of the sample that it sees.
        memory: bytes of float32 that a block, or the sample, may take. The index comes on top.

    Raises:
        ValueError: more lists than vectors, no image fits into `memory`, or one is not finite.
        ImportError: FAISS is not installed.
    """
    faiss = import_faiss()
    n, tokens, width = images.shape
    lists = round(n**0.5) if lists is None else lists
    _check_range("lists", lists, n * tokens)
    block = memory // (4 * tokens * width)
    if block < 1:
        raise ValueError(f"one image takes {4 * tokens * width} bytes, memory is {memory}")
    index = faiss.index_factory(width, f"IVF{lists},{encoding}", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # or FAISS prints a warning about small samples
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    sample = drawn[: min(IMAGES_PER_LIST * lists, block)].sort().values
    index.train(_as_vectors(_read(images, sample)))
    for start in range(0, n, block):
        index.add(_as_vectors(images[start : start + block]))
    return VectorIndex(index, tokens)


def mine_near_target(
    ranking: Ranking,
    queries: Tensor,
    images: Tensor | ImagesOnDisk,
    targets: Tensor,
    config: MiningConfig,
) -> NearTarget:
    """The hard negatives between two drops in the search window W, from an approximate ranking.

    Args:
        ranking: (Q, depth) of `VectorIndex.rank`; it must reach past the target.
        queries, targets: (Q, D) query embeddings, (Q,) corpus positions.
        images: (N, T, D) image embeddings; from W ranks above to 2 W below the target's exact score
            they are read and scored exactly.
        config: its drop rule and its search window.

    Raises:
        ValueError: a configuration without both drops and a search window; lengths that differ, or
            a position outside the corpus.
    """
    window, n = config.search_window, images.shape[0]
    _check_mining(ranking, queries, targets, config, n)
    sets, after = [], torch.full((len(queries), window), -1)
    reached = torch.zeros(len(queries), dtype=torch.bool)
    rule = config.drop_rule, config.consecutive_threshold, window
    for row, target in enumerate(targets.cpu()):
        score = partial(_score, queries[row], images)
        band = _rank_around(ranking, row, target, score, window)
        place = band.ranks_of(target[None])
        whole = bool((ranking.order[row] >= 0).sum() == n)
        reached[row] = whole or band.order.shape[1] - place > window + 1
        below = band.order[0, band.scores[0] < band.scores[0, place]][:window]
        after[row, : len(below)] = below
        found = find_steepest_drops(band.scores, place, *rule).hard_negative_ranks(0)
        sets.append(band.order[0, found if reached[row] else []])
    offsets = torch.tensor([0, *map(len, sets)]).cumsum(0)
    return NearTarget(HardNegativeSet(offsets, torch.cat(sets), targets.cpu(), n), after, reached)


def _rank_around(
    ranking: Ranking, row: int, target: Tensor, score: Callable[[Tensor], Tensor], window: int
) -> Ranking:
    """(1, up to 3 W + 2) exactly scored part of one query's ranking, its target included."""
    place = int((ranking.scores[row] > score(target[None])).sum())
    band = ranking.order[row, max(place - window, 0) : place + 2 * window + 1]
    positions = torch.cat([band[band >= 0], target[None]]).unique()
    exact = rank_scores(score(positions)[None])
    return Ranking(exact.scores, positions[exact.order])


def _score(query: Tensor, images: Tensor | ImagesOnDisk, positions: Tensor) -> Tensor:
    """(len(positions),) exact scores of one (D,) query, on the CPU."""
    part = _read(images, positions)
    return paired_scores(query[None].to(part.device), part[None])[0].cpu()


def _read(images: Tensor | ImagesOnDisk, positions: Tensor) -> Tensor:
    """(len(positions), T, D) images of a corpus; of one on disk each is read alone."""
    if isinstance(images, Tensor):
        return images[positions]
    return torch.cat([images[p : p + 1] for p in positions.tolist()])


def _as_vectors(embeddings: Tensor) -> np.ndarray:
    """(..., D) -> (rows, D) float32 for FAISS, which takes NaN without an error."""
    if not all_finite(embeddings):
        raise ValueError("embeddings hold NaN or infinity; compute them again")
    return np.ascontiguousarray(embeddings.float().cpu().flatten(0, -2).numpy())


def _check_mining(
    ranking: Ranking, queries: Tensor, targets: Tensor, config: MiningConfig, n: int
) -> None:
    plain = config.strategy == "between_drops" and config.set_size is None
    if not plain or config.search_window is None:
        raise ValueError(
            "an approximate ranking supports only between_drops with a search_window, and no "
            f"set_size, not {config}"
        )
    outside = (targets % n != targets).any() or (ranking.order >= n).any()
    if outside or not len(ranking.order) == len(queries) == len(targets):
        raise ValueError(
            f"ranking, queries and targets must be of one length, not {len(ranking.order)}, "
            f"{len(queries)} and {len(targets)}, with positions in a corpus of {n} images"
        )


def _check_range(name: str, value: int, highest: int) -> None:
    if not 1 <= value <= highest:
        raise ValueError(f"{name} must lie in [1, {highest}], not {value}")


def import_faiss() -> Any:
    """The faiss module, or an ImportError with the remedy."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError("FAISS is missing: pip install 'qure-lib[scale]'") from error
    return faiss
