"""Hard negatives past memory: an approximate ranking by FAISS, read only around the target.

An inverted file holds all N * T image vectors in `lists` clusters; a query looks into the `nprobe`
nearest. What ranks just after the target is then scored exactly, so that a set differs from the
exact one only by images that were not found. A rule that looks at the whole ranking cannot be had
in this way: its drops lie in tails that no nearest-neighbour search returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .config import MiningConfig
from .drops import find_steepest_drops
from .mining import HardNegativeSet
from .model import paired_scores
from .ranking import DEFAULT_MEMORY, ImagesOnDisk, Ranking

if TYPE_CHECKING:
    import faiss

SAMPLE = 8  # images a list that the clusters are learnt from


@dataclass(frozen=True)
class VectorIndex:
    """FAISS' inverted file of N * T vectors; vector v belongs to image v // tokens."""

    index: faiss.IndexIVF
    tokens: int

    def rank(
        self, queries: Tensor, depth: int, nprobe: int, memory: int = DEFAULT_MEMORY
    ) -> Ranking:
        """The best `depth` images that the `nprobe` nearest lists of each query hold.

        An image scores its best vector's product, as the index stores it. With every list probed
        and nothing compressed this is the exact ranking's beginning. Uses FAISS' own threads.

        Args:
            queries: (Q, D) query embeddings.
            depth: images wanted; depth * T vectors are asked for, since all T of an image may lie
                above the next image.
            memory: bytes that one chunk of found vectors may take.

        Returns:
            A Ranking of (Q, depth) scores and corpus positions, -inf and -1 after the last found.

        Raises:
            ValueError: `nprobe` or `depth` out of range, or embeddings of another length.
        """
        faiss = import_faiss()
        lists, width, n = self.index.nlist, self.index.d, self.index.ntotal // self.tokens
        _check_range("nprobe", nprobe, lists)
        _check_range("depth", depth, n)
        if queries.shape[1] != width:
            raise ValueError(f"queries have {queries.shape[1]} dimensions, the index has {width}")
        wanted = depth * self.tokens
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        order = np.full((len(queries), depth), -1, dtype=np.int64)
        chunk = max(memory // (12 * wanted), 1)
        for start in range(0, len(queries), chunk):
            part = queries[start : start + chunk].float().cpu().numpy()
            probing = faiss.SearchParametersIVF(nprobe=nprobe)
            found = self.index.search(part, wanted, params=probing)
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

    negatives: the sets; empty where the ranking did not reach the end of the search window.
    after: (Q, W) corpus positions of the first W images below the target, -1 after the last found.
    reached: (Q,) whether the ranking goes as far as the search window.
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
    """Cluster all image vectors into an inverted file, a block at a time.

    Args:
        images: (N, T, D) image embeddings; those on disk are read a block at a time.
        lists: number of clusters; None takes the square root of N.
        encoding: how FAISS stores a vector: "Flat" (4 D bytes), "SQ8" (D bytes), "PQ64" (64), ...
        seed: of the sample that the clusters are learnt from, and of k-means.
        memory: bytes of float32 that a block, or the sample, may take. The index comes on top.

    Raises:
        ValueError: more lists than vectors, or no image fits into `memory`.
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
    index.cp.min_points_per_centroid = 1  # a sample is chosen here; FAISS would print its doubts
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    index.train(_flat(_read(images, drawn[: min(SAMPLE * lists, block)].sort().values)))
    for start in range(0, n, block):
        index.add(_flat(images[start : start + block]))
    return VectorIndex(index, tokens)


def mine_near_target(
    ranking: Ranking,
    queries: Tensor,
    images: Tensor | ImagesOnDisk,
    targets: Tensor,
    config: MiningConfig,
) -> NearTarget:
    """The hard negatives between two drops in the search window, from an approximate ranking.

    The target's score is exact, its place is where that score belongs. The images from W ranks
    above to 2 W below it are read and scored exactly, and the drops found among them.

    Args:
        ranking: (Q, depth), see `VectorIndex.rank`; it must reach past the target.
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings, of which some 3 W a query are read.
        targets: (Q,) corpus position of each target.
        config: its drop rule and its search window W.

    Raises:
        ValueError: another strategy than between_drops, no search window or a set size; lengths
            that differ, or a target outside the corpus.
    """
    window, n = config.search_window, images.shape[0]
    _check_mining(ranking, queries, targets, config, n)
    sets, after = [], torch.full((len(queries), window), -1)
    reached = torch.zeros(len(queries), dtype=torch.bool)
    for row, target in enumerate(targets.tolist()):
        band = _around(ranking, row, queries[row], target, images, window)
        (place,) = (band.order[0] == target).nonzero()[0].tolist()
        whole = bool((ranking.order[row] >= 0).sum() == n)
        reached[row] = whole or band.order.shape[1] - place > window + 1
        below = band.order[0, band.scores[0] < band.scores[0, place]][:window]
        after[row, : len(below)] = below
        drops = find_steepest_drops(
            band.scores,
            torch.tensor([place]),
            config.drop_rule,
            config.consecutive_threshold,
            window,
        )
        found = band.order[0, drops.hard_negative_ranks(0)]
        sets.append(found if reached[row] else found[:0])
    offsets = torch.tensor([0, *map(len, sets)]).cumsum(0)
    return NearTarget(HardNegativeSet(offsets, torch.cat(sets), targets.cpu(), n), after, reached)


def compare_near_target(found: NearTarget, exact: NearTarget) -> pd.DataFrame:
    """One row a query: how far approximate sets are the exact ones.

    Returns:
        reached (as in NearTarget); found, the share of the exact W images after the target that
        are among the approximate W; jaccard of the two sets of hard negatives, 1 where both are
        empty; identical, whether they are one set.
    """
    rows = []
    for query in range(len(found.reached)):
        near, wanted = ({*t.after[query].tolist()} - {-1} for t in (found, exact))
        ours, theirs = ({*t.negatives[query].tolist()} for t in (found, exact))
        rows.append(
            {
                "reached": bool(found.reached[query]),
                "found": len(near & wanted) / max(len(wanted), 1),
                "jaccard": len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0,
                "identical": ours == theirs,
            }
        )
    return pd.DataFrame(rows)


def _around(
    ranking: Ranking,
    row: int,
    query: Tensor,
    target: int,
    images: Tensor | ImagesOnDisk,
    window: int,
) -> Ranking:
    """(1, up to 3 W + 2) exactly scored part of one query's ranking, its target included."""
    score = _score(query, images, torch.tensor([target]))
    place = int((ranking.scores[row] > score).sum())
    band = ranking.order[row, max(place - window, 0) : place + 2 * window + 1]
    positions = torch.cat([band[band >= 0], torch.tensor([target])]).unique()
    scores = _score(query, images, positions)
    scores, order = torch.sort(scores, descending=True, stable=True)  # ties by corpus position
    return Ranking(scores[None], positions[order][None])


def _score(query: Tensor, images: Tensor | ImagesOnDisk, positions: Tensor) -> Tensor:
    """(len(positions),) exact scores of one (D,) query, on the CPU."""
    part = _read(images, positions)
    return paired_scores(query[None].to(part.device), part[None])[0].cpu()


def _read(images: Tensor | ImagesOnDisk, positions: Tensor) -> Tensor:
    """(len(positions), T, D) images of a corpus, one by one where they are on disk."""
    if isinstance(images, Tensor):
        return images[positions]
    return torch.cat([images[p : p + 1] for p in positions.tolist()])


def _flat(block: Tensor) -> np.ndarray:
    """(B, T, D) -> (B * T, D) float32, as FAISS takes it."""
    return np.ascontiguousarray(block.float().cpu().flatten(0, 1).numpy())


def _check_mining(
    ranking: Ranking, queries: Tensor, targets: Tensor, config: MiningConfig, n: int
) -> None:
    wanted = config.strategy == "between_drops" and config.set_size is None
    if not wanted or config.search_window is None:
        raise ValueError(
            "only between_drops with a search_window, and no set_size, can be mined from an "
            f"approximate ranking, not {config}: the drops of a whole ranking lie where no search "
            "looks"
        )
    if not len(ranking.order) == len(queries) == len(targets) or (targets % n != targets).any():
        raise ValueError(
            f"ranking, queries and targets must be of one length, not {len(ranking.order)}, "
            f"{len(queries)} and {len(targets)}, and targets positions in a corpus of {n} images"
        )


def _check_range(name: str, value: int, highest: int) -> None:
    if not 1 <= value <= highest:
        raise ValueError(f"{name} must lie in [1, {highest}], not {value}")


def import_faiss() -> Any:
    """The faiss module, or an ImportError with the remedy."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "approximate search needs FAISS; install it with pip install 'qure-lib[scale]'"
        ) from error
    return faiss
