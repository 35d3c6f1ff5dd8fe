"""Hard negatives: two drops, or an ablation's strategy, -> a set a query, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import MiningConfig
from .drops import find_steepest_drops
from .ranking import DEFAULT_MEMORY, ImagesOnDisk, Ranking, rank_scores, score_corpus

Window = tuple[Tensor, Tensor]  # (q,) first rank in the set, (q,) first rank after it


def all_corpus(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """The whole corpus but the target: an empty set, and an empty set draws uniformly."""
    return torch.zeros_like(target_ranks), torch.zeros_like(target_ranks)


def top_k(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """The k best-ranked images but the target."""
    start = torch.zeros_like(target_ranks)
    return start, start + config.top_k


def after_target_top_k(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """The k best-ranked images among those that score below the target."""
    start = first_rank_below_target(ranking, target_ranks)
    return start, start + config.top_k


def between_drops(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """QuRe's hard negatives: the images between two steep drops after the target (Eq. 5-7)."""
    drops = find_steepest_drops(
        ranking.scores,
        target_ranks,
        config.drop_rule,
        config.consecutive_threshold,
        config.search_window,
    )
    return drops.first + 1, drops.second + 1


# The one place to touch to add a strategy: a ranking in, the window of ranks out. The target is
# never in the set, and a query whose window is empty draws uniformly from the corpus.
STRATEGIES: dict[str, Callable[[Ranking, Tensor, MiningConfig], Window]] = {
    "all_corpus": all_corpus,
    "top_k": top_k,
    "after_target_top_k": after_target_top_k,
    "between_drops": between_drops,
}


def first_rank_below_target(ranking: Ranking, target_ranks: Tensor) -> Tensor:
    """(Q,) first rank that scores strictly below the target; N where none does."""
    return (ranking.scores >= ranking.scores.gather(1, target_ranks[:, None])).sum(dim=1)


@dataclass(frozen=True)
class HardNegativeSet:
    """Q ragged sets of corpus positions: query q's are negatives[offsets[q]:offsets[q + 1]].

    targets: (Q,) corpus positions. A query with an empty set draws uniformly from the corpus of
    `corpus_size` images, its target excepted, and its reference where `references` has its position
    (-1: not in the corpus).
    """

    offsets: Tensor
    negatives: Tensor
    targets: Tensor
    corpus_size: int
    references: Tensor | None = None

    @classmethod
    def uniform(
        cls, targets: Tensor, corpus_size: int, references: Tensor | None = None
    ) -> HardNegativeSet:
        """Warm-up's: every set empty, so every draw uniform."""
        left_out = 1 if references is None else 2
        if corpus_size <= left_out:
            raise ValueError(
                f"a corpus of {corpus_size}, with {left_out} left out, holds no negative"
            )
        empty = torch.zeros(0, dtype=torch.int64)
        offsets = torch.zeros(len(targets) + 1, dtype=torch.int64)
        return cls(offsets, empty, targets, corpus_size, references)

    @property
    def sizes(self) -> Tensor:
        """(Q,) number of negatives of each query."""
        return self.offsets.diff()

    def __getitem__(self, query: int) -> Tensor:
        return self.negatives[self.offsets[query] : self.offsets[query + 1]]

    def sample(self, generator: torch.Generator, draw: int | None = None) -> Tensor:
        """One negative a query.

        Args:
            draw: None draws with replacement, as the release does in effect; a number takes that
                element of each set, cyclically, so that on a `shuffled` set consecutive numbers
                exhaust every set before any repeats.

        Returns:
            (Q,) int64 corpus positions.
        """
        sizes = self.sizes
        fallback = self._draw_uniformly(generator)
        u = torch.rand(sizes.shape, generator=generator, dtype=torch.float64)
        within = (u * sizes).long() if draw is None else draw % sizes.clamp(min=1)
        chosen = fallback.clone()
        full = sizes > 0
        chosen[full] = self.negatives[(self.offsets[:-1] + within)[full]]
        return chosen

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """(Q,) corpus positions, any but the target's and an excluded reference's."""
        if self.references is None:
            drawn = torch.randint(self.corpus_size - 1, self.targets.shape, generator=generator)
            return drawn + (drawn >= self.targets)
        there = self.references >= 0
        u = torch.rand(self.targets.shape, generator=generator, dtype=torch.float64)
        drawn = (u * (self.corpus_size - 1 - there.long())).long()
        drawn += drawn >= torch.where(there, self.targets.minimum(self.references), self.targets)
        return drawn + (there & (drawn >= self.targets.maximum(self.references)))

    @classmethod
    def concatenate(cls, parts: Sequence[HardNegativeSet]) -> HardNegativeSet:
        """The sets of consecutive queries over one corpus, as one."""
        sizes, negatives, targets, references = (
            [getattr(part, name) for part in parts]
            for name in ("sizes", "negatives", "targets", "references")
        )
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(sizes).cumsum(0)])
        return cls(
            offsets,
            torch.cat(negatives),
            torch.cat(targets),
            parts[0].corpus_size,
            None if references[0] is None else torch.cat(references),
        )

    def shuffled(self, generator: torch.Generator) -> HardNegativeSet:
        """The same sets, each in random order."""
        rows = torch.repeat_interleave(torch.arange(len(self.targets)), self.sizes)
        keys = torch.rand(len(self.negatives), generator=generator, dtype=torch.float64)
        order = torch.argsort(rows + keys)
        return replace(self, negatives=self.negatives[order])


@dataclass(frozen=True)
class MiningReport:
    """What one definition of hard negatives chose for Q queries over N images.

    per_query: one row a query: target_rank, window_start and window_end (first and last rank of
    the set), set_size, score_margin (target's score less the set's mean), score_skewness (of all
    N scores), largest_gap (between neighbours); where graded relevance is known relevance_above
    (between target and window), relevance_inside, relevance_below, false_negatives (in the set)
    and false_negatives_top10.
    mean_scores, std_scores: (N,) over queries, by rank (Fig. 8).
    """

    strategy: str
    per_query: pd.DataFrame
    mean_scores: np.ndarray
    std_scores: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[MiningReport]) -> MiningReport:
        """The reports on consecutive queries over one corpus, as one; a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        weights = [len(part.per_query) for part in parts]
        mean = np.average([part.mean_scores for part in parts], axis=0, weights=weights)
        squares = [part.std_scores**2 + part.mean_scores**2 for part in parts]
        variance = np.average(squares, axis=0, weights=weights) - mean**2
        per_query = pd.concat([part.per_query for part in parts], ignore_index=True)
        return cls(parts[0].strategy, per_query, mean, np.sqrt(np.maximum(variance, 0)))

    def summary(self) -> dict[str, float | str | int]:
        """One flat row: the figures that METHOD section 2 asks of every definition."""
        frame, n = self.per_query, len(self.mean_scores)
        mined = frame[frame.set_size > 0]
        gaps = -np.diff(self.mean_scores)
        tenth = max(len(gaps) // 10, 1)
        row = {
            "strategy": self.strategy,
            "queries": len(frame),
            "corpus_size": n,
            "set_size_mean": mined.set_size.mean(),
            "set_size_median": mined.set_size.median(),
            "set_size_q25": mined.set_size.quantile(0.25),
            "set_size_q75": mined.set_size.quantile(0.75),
            "window_start_median": mined.window_start.median(),
            "window_end_median": mined.window_end.median(),
            "window_start_fraction": mined.window_start.median() / n,
            "window_end_fraction": mined.window_end.median() / n,
            "target_rank_mean": frame.target_rank.mean(),
            "target_rank_median": frame.target_rank.median(),
            "share_no_pair": float((frame.set_size == 0).mean()),
            "share_bottom_half": (mined.window_start >= n / 2).mean(),
            "score_margin": mined.score_margin.mean(),
            "score_skewness": frame.score_skewness.mean(),
            "gap_top_tenth": gaps[:tenth].mean(),
            "gap_bottom_tenth": gaps[-tenth:].mean(),
        }
        if "relevance_inside" in frame:
            for name in ("relevance_above", "relevance_inside", "relevance_below"):
                row[name] = frame[name].mean()
            row["false_negative_share"] = mined.false_negatives.sum() / max(mined.set_size.sum(), 1)
            row["false_negatives_top10"] = frame.false_negatives_top10.mean()
        return row

    def gap_by_rank(self, bins: int = 10) -> np.ndarray:
        """(bins,) mean score gap between neighbours, from the best-ranked share to the worst."""
        return np.array([part.mean() for part in np.array_split(-np.diff(self.mean_scores), bins)])

    def warnings(self) -> list[str]:
        """Plain words where the sets look useless."""
        row, said = self.summary(), []
        if self.strategy == "between_drops" and row["share_no_pair"] > 0.05:
            said.append(
                f"{row['share_no_pair']:.0%} of the queries have no pair of drops (their targets "
                "rank too low) and draw uniform negatives instead."
            )
        if row["share_bottom_half"] > 0.5:
            said.append(
                f"For {row['share_bottom_half']:.0%} of the queries the window begins in the "
                "bottom half of the ranking: these negatives are easy, the loss will fall without "
                "the model learning. A search_window keeps the drops near the target."
            )
        if row.get("false_negative_share", 0) > 0.2:
            said.append(
                f"{row['false_negative_share']:.0%} of the negatives fit their query at least as "
                "well as the target does."
            )
        return said

    def __str__(self) -> str:
        row = self.summary()
        if row["share_no_pair"] == 1:
            lines = [
                "{strategy}: every negative is drawn uniformly from {corpus_size} images, "
                "target at rank {target_rank_median:.0f}, skewness {score_skewness:+.2f}"
            ]
        else:
            lines = [
                "{strategy}: sets of {set_size_median:.0f} images (median; mean "
                "{set_size_mean:.1f}), ranks {window_start_median:.0f}-{window_end_median:.0f} of "
                "{corpus_size} (from {window_start_fraction:.0%} down the ranking), target at rank "
                "{target_rank_median:.0f}, no pair for {share_no_pair:.1%}, "
                "margin {score_margin:.3f}, skewness {score_skewness:+.2f}"
            ]
            if "relevance_inside" in row:
                lines.append(
                    "  graded relevance above / inside / below the window: {relevance_above:.2f} / "
                    "{relevance_inside:.2f} / {relevance_below:.2f}; false negatives in the sets: "
                    "{false_negative_share:.1%}"
                )
        said = [f"  WARNING: {warning}" for warning in self.warnings()]
        return "\n".join([line.format(**row) for line in lines] + said)


def mine_hard_negatives(
    queries: Tensor,
    images: Tensor | ImagesOnDisk,
    targets: Tensor,
    config: MiningConfig,
    relevance: Tensor | None = None,
    memory: int = DEFAULT_MEMORY,
    references: Tensor | None = None,
) -> tuple[HardNegativeSet, MiningReport]:
    """Rank the corpus for every query and take each query's hard negatives.

    Args:
        queries: (Q, D) query embeddings.
        images: (N, T, D) image embeddings, in memory or on disk.
        targets: (Q,) corpus position of each target.
        relevance: (Q, N) graded relevance where it is known, for the report alone.
        memory: bytes for scores and their ranking, as in `ranking.score_corpus`.
        references: (Q,) corpus position of each reference, -1 where it is not in the corpus, to
            keep it out of every set; None, as released, leaves it in. It is ranked as low as the
            lowest other, so that it makes no drop of its own, and the report counts it there.
            Where fewer than four images rank below the target, the tie may complete a pair.

    Returns:
        The sets, and the report on them.

    Raises:
        ValueError: an unknown strategy or a target outside the corpus.

    Source: QuRe, arXiv:2507.12416, Algorithm 1 with Eq. 7's inequality.
    """
    if config.strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {sorted(STRATEGIES)}, not {config.strategy!r}")
    n = images.shape[0]
    if len(targets) != len(queries) or ((targets < 0) | (targets >= n)).any():
        raise ValueError(f"targets must be (Q,) positions in the corpus of {n} images")
    negatives, frames, moments = [], [], torch.zeros(2, n, dtype=torch.float64)
    for rows, scores in score_corpus(queries, images, memory):
        excluded = None if references is None else references[rows].to(scores.device)
        if excluded is not None:
            _put_last(scores, excluded)
        ranking = rank_scores(scores)
        target_ranks = ranking.ranks_of(targets[rows])
        members = _members(ranking, target_ranks, config, excluded)
        negatives.append(ranking.order[members].cpu())
        graded = None if relevance is None else relevance[rows].to(scores.device)
        frames.append(_describe(ranking, target_ranks, members, graded))
        exact = ranking.scores.double()
        moments += torch.stack([exact.sum(dim=0), exact.square().sum(dim=0)]).cpu()
    per_query = pd.concat(frames, ignore_index=True)
    offsets = F.pad(torch.tensor(per_query.set_size.to_numpy()).cumsum(0), (1, 0))
    chosen = HardNegativeSet(offsets, torch.cat(negatives), targets.cpu(), n, references)
    mean, square = (moments / len(queries)).numpy()
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return chosen, MiningReport(config.strategy, per_query, mean, std)


def _put_last(scores: Tensor, references: Tensor) -> None:
    """Lower (q, N) scores, in place, at (q,) references to the lowest other; -1 for none."""
    rows = (references >= 0).nonzero().flatten()
    at = rows, references[rows]
    scores[at] = torch.inf
    scores[at] = scores[rows].amin(dim=1)


def _members(
    ranking: Ranking, target_ranks: Tensor, config: MiningConfig, excluded: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(M,) query and (M,) rank of every image in a set: in its window, not the target, allowed."""
    start, stop = STRATEGIES[config.strategy](ranking, target_ranks, config)
    if config.set_size is not None:
        stop = torch.where(stop > start, start + config.set_size, stop)
    start = start.clamp(min=0)
    lengths = (stop.clamp(max=ranking.scores.shape[1]) - start).clamp(min=0)
    query = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    rank = torch.arange(len(query), device=query.device) + (start - before)[query]
    kept = rank != target_ranks[query]
    if excluded is not None:
        kept &= ranking.order[query, rank] != excluded[query]
    return query[kept], rank[kept]


def zone_ranks(
    target_rank: int, window: tuple[int, int], corpus_size: int, count: int
) -> dict[str, list[int]]:
    """Up to `count` ranks, evenly spread, above, inside and below a query's window (Fig. 6).

    Args:
        target_rank: 0-based; "above" starts after it.
        window: first and last rank of the set.
        corpus_size: N.
    """
    start, end = window
    zones = {
        "above": range(target_rank + 1, start),
        "inside": range(start, end + 1),
        "below": range(end + 1, corpus_size),
    }
    return {
        name: sorted({zone[int(i)] for i in np.linspace(0, len(zone) - 1, count)}) if zone else []
        for name, zone in zones.items()
    }


def _describe(
    ranking: Ranking,
    target_ranks: Tensor,
    members: tuple[Tensor, Tensor],
    relevance: Tensor | None,
) -> pd.DataFrame:
    """The report's rows for one chunk of queries."""
    scores, (query, rank) = ranking.scores, members
    sizes = torch.bincount(query, minlength=len(scores))
    end = sizes.cumsum(0)
    bounds = torch.full((2, len(scores)), torch.nan, dtype=torch.float64, device=scores.device)
    full = sizes > 0
    bounds[:, full] = torch.stack([rank[(end - sizes)[full]], rank[end[full] - 1]]).double()
    centred = scores - scores.mean(dim=1, keepdim=True)
    squares = centred * centred
    variance, third = (m.mean(dim=1).double() for m in (squares, squares * centred))
    margins = scores.gather(1, target_ranks[:, None])[query, 0] - scores[members]
    columns = {
        "target_rank": target_ranks,
        "window_start": bounds[0],
        "window_end": bounds[1],
        "set_size": sizes,
        "score_margin": _mean_by_query(margins, query, sizes),
        "score_skewness": third / variance.pow(1.5),
        "largest_gap": -scores.diff(dim=1, append=scores[:, -1:]).amin(dim=1),
    }
    if relevance is not None:
        below = first_rank_below_target(ranking, target_ranks)
        graded = relevance.gather(1, ranking.order)
        columns |= _describe_relevance(graded, target_ranks, members, below, bounds)
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _describe_relevance(
    graded: Tensor,
    target_ranks: Tensor,
    members: tuple[Tensor, Tensor],
    below: Tensor,
    bounds: Tensor,
) -> dict[str, Tensor]:
    """The report's columns on (q, N) graded relevance by rank.

    below: (q,) first rank below the target. bounds: (2, q) first and last rank of each set.
    """
    query, _ = members
    sizes = torch.bincount(query, minlength=len(graded))
    fits = graded >= graded.gather(1, target_ranks[:, None])
    sums = F.pad(graded.cumsum(dim=1, dtype=torch.float64), (1, 0))
    start, last = bounds.nan_to_num().long()

    def mean(first: Tensor, stop: Tensor) -> Tensor:
        """Of the ranks from first to before stop; NaN where there are none, or there is no set."""
        total = sums.gather(1, stop[:, None]) - sums.gather(1, first[:, None])
        return total.squeeze(1) / (stop - first).where((stop > first) & (sizes > 0), torch.nan)

    return {
        "relevance_above": mean(below, start),
        "relevance_inside": _mean_by_query(graded[members], query, sizes),
        "relevance_below": mean(last + 1, torch.full_like(last, graded.shape[1])),
        "false_negatives": torch.bincount(query[fits[members]], minlength=len(graded)),
        "false_negatives_top10": fits[:, :10].sum(dim=1) - (target_ranks < 10).long(),
    }


def _mean_by_query(values: Tensor, query: Tensor, sizes: Tensor) -> Tensor:
    """(M,) values, and the query of each -> (q,) means; NaN for a query without any."""
    return torch.bincount(query, values.double(), minlength=len(sizes)) / sizes
