"""The report on one definition of hard negatives: what was chosen, and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import MiningConfig
from .ranking import Ranking
from .strategies import first_rank_below_target

Members = tuple[Tensor, Tensor]  # (M,) query and (M,) rank of every image in a set


@dataclass(frozen=True)
class MiningReport:
    """What one definition of hard negatives chose for Q queries over N images.

    per_query: one row a query: target_rank, window_start and window_end (first and last rank of
    the set), set_size, score_margin (target's score minus the set's mean; over the temperature it
    is the logit that the loss sees), score_skewness (of all N scores), largest_gap (between
    neighbours); where graded relevance is known relevance_above
    (between target and window), relevance_inside, relevance_below, and how many images fit as well
    as the target: false_negatives (in the set) and false_negatives_top10.
    mean_scores, std_scores: (N,) over queries, by rank (Fig. 8).
    """

    config: MiningConfig
    per_query: pd.DataFrame
    mean_scores: np.ndarray
    std_scores: np.ndarray

    @classmethod
    def from_moments(cls, config: MiningConfig, per_query: pd.DataFrame, sums: np.ndarray) -> Self:
        """A report from its rows and the (2, N) `sum_moments` of all their scores."""
        mean, square = sums / len(per_query)
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return cls(config, per_query.reset_index(drop=True), mean, std)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The reports on consecutive queries over one corpus, as one; a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        frames = [part.per_query for part in parts]
        means = [[p.mean_scores, p.std_scores**2 + p.mean_scores**2] for p in parts]
        parts_sums = (len(f) * np.stack(m) for f, m in zip(frames, means, strict=True))
        sums = sum(parts_sums, np.zeros(()))
        return cls.from_moments(parts[0].config, pd.concat(frames), sums)

    def summary(self) -> dict[str, Any]:
        """One flat row: sizes, places in the ranking, margins and gaps, over all queries."""
        frame, n = self.per_query, len(self.mean_scores)
        mined = frame[frame.set_size > 0]
        gaps = -np.diff(self.mean_scores)
        tenth = max(len(gaps) // 10, 1)
        temperature = self.config.temperature or np.nan  # NaN: not known
        row = {
            "strategy": self.config.strategy,
            "curve": self.config.curve,
            "temperature": temperature,
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
            "share_best_tenth": (mined.window_start < n / 10).mean(),
            "share_bottom_half": (mined.window_start >= n / 2).mean(),
            "score_margin": mined.score_margin.mean(),
            "margin_over_temperature": mined.score_margin.mean() / temperature,
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
        """Sentences on sets that look useless: too few pairs, too easy, or false negatives."""
        row, found = self.summary(), []
        if self.config.strategy == "between_drops" and row["share_no_pair"] > 0.05:
            found.append(
                f"{row['share_no_pair']:.0%} of the queries have no pair of drops (too few "
                "different scores below the target) and draw uniform negatives instead."
            )
        if row["share_bottom_half"] > 0.5:
            found.append(
                f"For {row['share_bottom_half']:.0%} of the queries the window begins in the "
                "bottom half of the ranking: these negatives are easy, the loss will fall without "
                "the model learning. A search_window keeps the drops near the target."
            )
        if row.get("false_negative_share", 0) > 0.2:
            found.append(
                f"{row['false_negative_share']:.0%} of the negatives fit their query at least as "
                "well as the target does."
            )
        return found

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
        warnings = [f"  WARNING: {warning}" for warning in self.warnings()]
        return "\n".join([line.format(**row) for line in lines] + warnings)


def sum_moments(scores: Tensor) -> np.ndarray:
    """(q, N) ranked scores -> (2, N) sums of scores and of their squares, in double precision."""
    exact = scores.double()
    return torch.stack([exact.sum(dim=0), exact.square().sum(dim=0)]).cpu().numpy()


def describe_queries(
    ranking: Ranking, target_ranks: Tensor, members: Members, relevance: Tensor | None
) -> pd.DataFrame:
    """The report's rows for one chunk of queries; relevance: (q, N) by corpus position."""
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
    graded: Tensor, target_ranks: Tensor, members: Members, below: Tensor, bounds: Tensor
) -> dict[str, Tensor]:
    """The report's columns on (q, N) graded relevance by rank.

    below: (q,) first rank below the target. bounds: (2, q) first and last rank of each set.
    """
    query = members[0]
    sizes = torch.bincount(query, minlength=len(graded))
    fits = graded >= graded.gather(1, target_ranks[:, None])
    sums = F.pad(graded.cumsum(dim=1, dtype=torch.float64), (1, 0))
    start, last = bounds.nan_to_num().long()

    def mean(first: Tensor, stop: Tensor) -> Tensor:
        """Over ranks first to stop - 1; NaN where there is none, or the query has no set."""
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
    """(M,) values and the query of each -> (q,) means; NaN for a query without values."""
    return torch.bincount(query, values.double(), minlength=len(sizes)) / sizes
