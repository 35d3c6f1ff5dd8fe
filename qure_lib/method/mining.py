"""Rank the corpus and take each query's hard negatives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from qure_lib.arrays import as_positions, as_scores

from .config import MiningConfig
from .mining_report import Members, MiningReport, describe_queries, sum_moments
from .negatives import HardNegativeSet
from .ranking import DEFAULT_MEMORY, ImagesOnDisk, Ranking, rank_scores, score_corpus
from .scores import all_finite
from .strategies import STRATEGIES, check_strategy


def mine_hard_negatives(
    queries: Tensor | ArrayLike,
    images: Tensor | np.ndarray | ImagesOnDisk,
    targets: Tensor | ArrayLike,
    config: MiningConfig,
    relevance: Tensor | ArrayLike | None = None,
    memory: int = DEFAULT_MEMORY,
    references: Tensor | ArrayLike | None = None,
) -> tuple[HardNegativeSet, MiningReport]:
    """Rank the corpus for every query and take each query's hard negatives.

    Args:
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings, in memory or on disk.
        targets: (Q,) corpus position of each target.
        relevance: (Q, N) graded relevance where it is known, for the report alone.
        memory: bytes for scores and their ranking, as in `ranking.score_corpus`.
        references: (Q,) corpus position of each reference, -1 where it is not in the corpus: kept
            out of every set, ranked last, and bounding no drop. None, as released, keeps it in.

    Raises:
        ValueError: an unknown strategy, shapes that do not fit, a position outside the corpus, a
            corpus that holds no negative, a preference curve without `config.temperature`, or
            scores or relevance that are not finite.

    Source: QuRe, arXiv:2507.12416, Algorithm 1 with Eq. 7's inequality.
    """
    check_strategy(config)
    queries, targets = as_scores(queries), as_positions(targets).cpu()
    images = as_scores(images) if isinstance(images, np.ndarray) else images
    relevance = None if relevance is None else as_scores(relevance)
    references = None if references is None else as_positions(references)
    empty = HardNegativeSet.uniform(targets, images.shape[0], references)
    _check(queries, empty, relevance)
    negatives, frames, moments = [], [], np.zeros((2, images.shape[0]))
    for rows, scores in score_corpus(queries, images, memory):
        targets, excluded = (p[rows].to(scores.device) for p in (empty.targets, empty.excluded))
        _leave_out(scores, excluded)
        graded = None if relevance is None else relevance[rows].to(scores.device)
        chosen, described, sums = choose(scores, targets, config, graded)
        negatives.append(chosen.cpu())
        frames.append(described)
        moments += sums
    report = MiningReport.from_moments(config, pd.concat(frames), moments)
    offsets = F.pad(torch.tensor(report.per_query.set_size.to_numpy()).cumsum(0), (1, 0))
    return replace(empty, offsets=offsets, negatives=torch.cat(negatives)), report


def _check(queries: Tensor, empty: HardNegativeSet, relevance: Tensor | None) -> None:
    shape = len(queries), empty.corpus_size
    if len(empty.targets) != len(queries):
        raise ValueError(f"{len(empty.targets)} targets do not fit {len(queries)} queries")
    if relevance is not None and (relevance.shape != shape or not all_finite(relevance)):
        raise ValueError(f"relevance must be (Q, N) = {shape}, without NaN or infinity")


def _leave_out(scores: Tensor, positions: Tensor) -> None:
    """Lower (q, N) scores, in place, at (q,) positions to -inf; position -1 for none."""
    rows = (positions >= 0).nonzero().flatten()
    scores[rows, positions[rows]] = -torch.inf


def choose(
    scores: Tensor, targets: Tensor, config: MiningConfig, relevance: Tensor | None = None
) -> tuple[Tensor, pd.DataFrame, np.ndarray]:
    """Rank (q, N) scores and take the sets of (q,) targets; -inf leaves an image out.

    Returns:
        (M,) corpus positions of all sets in turn, the report's rows, and its moments.
    """
    ranking = rank_scores(scores)
    members, described = take_sets(ranking, targets, config, relevance)
    return ranking.order[members], described, sum_moments(ranking.finite.scores)


def take_sets(
    ranking: Ranking, targets: Tensor, config: MiningConfig, relevance: Tensor | None = None
) -> tuple[Members, pd.DataFrame]:
    """The members of the sets of (q,) targets, and the report's rows; as `choose`, once ranked."""
    target_ranks = ranking.ranks_of(targets)
    members = _members(ranking, target_ranks, config)
    return members, describe_queries(ranking.finite, target_ranks, members, relevance)


def _members(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Members:
    """What is in the sets: the images in each query's window, not its target, not left out."""
    find_window, options = STRATEGIES[config.strategy], dict(config.options)
    start, stop = find_window(ranking, target_ranks, config, **options)
    if config.set_size is not None:
        stop = torch.where(stop > start, start + config.set_size, stop)
    start = start.clamp(min=0)
    lengths = (stop.clamp(max=ranking.scores.shape[1]) - start).clamp(min=0)
    query = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    rank = torch.arange(len(query), device=query.device) + (start - before)[query]
    kept = (rank != target_ranks[query]) & (ranking.scores[query, rank] > -torch.inf)
    return query[kept], rank[kept]
