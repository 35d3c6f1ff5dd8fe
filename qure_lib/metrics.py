"""Metrics as pure functions: one number a query, so that an interval can be put on any mean.

Arrays or CPU tensors in, NumPy float64 out. A rank is 0-based; averages are left to
`qure_lib.statistics`. Protocols: METHOD section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def recall_at_k(target_ranks: ArrayLike, k: int) -> np.ndarray:
    """Whether the target is among the first k images: Recall@k = [rank < k].

    Args:
        target_ranks: (Q,) 0-based rank of each query's target.
        k: how many images count.

    Returns:
        (Q,) 1.0 or 0.0.

    Raises:
        ValueError: k < 1, or a rank that is negative, missing or no whole number.

    Example:
        >>> recall_at_k([0, 9, 10], k=10)
        array([1., 1., 0.])
    """
    _check_k(k)
    ranks = _whole_numbers("target_ranks", target_ranks, ndim=1, lowest=0)
    return (ranks < k).astype(float)


def average_precision_at_k(relevant_ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> np.ndarray:
    """Average precision over the first k images, with several relevant images a query.

    AP@k = 1 / min(k, n_relevant) * sum over relevant ranks r < k of (relevant at or above r) /
    (r + 1).

    Args:
        relevant_ranks: (Q, R) 0-based ranks of the relevant images, in any order; -1 fills
            the rows of queries with fewer than R, or stands for one that was not ranked.
        n_relevant: (Q,) number of relevant images, ranked or not.
        k: how many images count.

    Returns:
        (Q,) in [0, 1].

    Raises:
        ValueError: k < 1, n_relevant < 1 or fewer than the ranks given, or a rank given twice.

    Source: CIRCO's mAP@k (METHOD section 6).

    Example:
        >>> average_precision_at_k([[0, 2, -1]], n_relevant=[2], k=5)  # (1/1 + 2/3) / 2
        array([0.83333333])
    """
    _check_k(k)
    ranks = _whole_numbers("relevant_ranks", relevant_ranks, ndim=2, lowest=-1)
    counts = _whole_numbers("n_relevant", n_relevant, ndim=1, lowest=1)
    if len(counts) != len(ranks) or ((ranks >= 0).sum(axis=1) > counts).any():
        raise ValueError("n_relevant must be one number a row, at least as many as its ranks")
    beyond = np.iinfo(np.int64).max - 1
    ranks = np.sort(np.where(ranks < 0, beyond, ranks), axis=1)
    if ((np.diff(ranks, axis=1) == 0) & (ranks[:, 1:] != beyond)).any():
        raise ValueError("relevant_ranks: a query has two relevant images at one rank")
    precision = np.arange(1, ranks.shape[1] + 1) / (ranks + 1)
    return np.where(ranks < k, precision, 0).sum(axis=1) / np.minimum(k, counts)


def chance_average_precision(n_relevant: ArrayLike, n_ranked: int) -> np.ndarray:
    """What a random ranking's average precision is, in expectation, over the whole ranking.

    E[AP] = q + (1 - q) H(N) / N with q = (R - 1) / (N - 1), H the harmonic number.

    Args:
        n_relevant: (Q,) R, how many images are relevant, at least one.
        n_ranked: N, how many are ranked, at least as many.

    Returns:
        (Q,) in (0, 1].

    Raises:
        ValueError: a count below 1, or above `n_ranked`.

    Example:
        >>> chance_average_precision([1, 2], n_ranked=2)  # (1/1 + 1/2) / 2 and 1
        array([0.75, 1.  ])
    """
    counts = _whole_numbers("n_relevant", n_relevant, ndim=1, lowest=1)
    if (counts > n_ranked).any():
        raise ValueError(f"n_relevant must be at most n_ranked, {n_ranked}")
    share = (counts - 1) / max(n_ranked - 1, 1)
    return share + (1 - share) * (1 / np.arange(1, n_ranked + 1)).mean()


def ndcg_at_k(ranked_relevance: ArrayLike, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first k images, with linear gains.

    DCG@k = sum over ranks r < k of relevance[r] / log2(r + 2); NDCG@k divides it by the DCG@k
    of the best order of the same images, so a row must hold the whole ranking.

    Args:
        ranked_relevance: (Q, N) graded relevance >= 0, in the ranking's order, best first.
        k: how many images count.

    Returns:
        (Q,) in [0, 1].

    Raises:
        ValueError: k < 1, a negative or missing relevance, or a query without relevant images.

    Source: Järvelin and Kekäläinen, ACM TOIS 20(4), 2002.

    Example:
        >>> ndcg_at_k([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], k=1)
        array([1., 0.])
    """
    _check_k(k)
    relevance = _finite("ranked_relevance", ranked_relevance, ndim=2)
    if (relevance < 0).any() or (relevance.max(axis=1, initial=0) == 0).any():
        raise ValueError("ranked_relevance must be >= 0, with a relevant image in every row")
    discount = 1 / np.log2(np.arange(min(k, relevance.shape[1])) + 2)
    ideal = -np.sort(-relevance, axis=1)
    return relevance[:, :k] @ discount / (ideal[:, :k] @ discount)


@dataclass(frozen=True)
class Preference:
    """How a scorer's choice between two sets meets a person's, one entry a judged query.

    Attributes:
        agrees: (Q,) 1.0 where the set with the higher score is the preferred one, 0.0 where it
            is the other, 0.5 where the scores tie. Its mean is the two-sided agreement rate.
        one_sided: (Q,) True where set 1 has the higher score. The mean of `agrees` over these
            is the published preference rate.
    """

    agrees: np.ndarray
    one_sided: np.ndarray

    @property
    def decides(self) -> np.ndarray:
        """(Q,) True where the scores differ."""
        return self.agrees != 0.5

    @property
    def picks_1(self) -> np.ndarray:
        """(Q,) probability that the scorer picks set 1, where a coin decides its ties.

        As weights of the choices they give the published rate over all queries, which a scorer
        with many ties shares with models that have none.
        """
        return np.where(self.decides, self.one_sided, 0.5)

    @property
    def rate(self) -> float:
        """The published, one-sided rate: P(set 1 preferred | score_1 > score_2)."""
        return float(self.agrees[self.one_sided].mean()) if self.one_sided.any() else float("nan")

    @property
    def agreement(self) -> float:
        """The two-sided rate: over all queries, ties of the scorer counted half."""
        return float(self.agrees.mean())


def preference_rate(score_1: ArrayLike, score_2: ArrayLike, preferred: ArrayLike) -> Preference:
    """Compare a scorer's choice between two sets of images with a person's, query by query.

    The published rate is P(set 1 preferred | s(set 1) > s(set 2)), where s is the mean relevance
    score of the set's five images. A scorer that knows nothing gets the base rate at which set 1
    is preferred, not one half; the two-sided agreement has no such offset.

    Args:
        score_1: (Q,) score of the first set; any scale.
        score_2: (Q,) score of the second set.
        preferred: (Q,) 1 or 2, the set that the person chose.

    Raises:
        ValueError: lengths differ, no query, a score is not finite, or a choice is not 1 or 2.

    Source: QuRe, arXiv:2507.12416, Table 4; METHOD section 6.

    Example:
        >>> preference_rate([.9, .8, .1], [.2, .3, .4], preferred=[1, 2, 2]).rate
        0.5
    """
    first = _finite("score_1", score_1, ndim=1)
    second = _finite("score_2", score_2, ndim=1)
    chosen = _whole_numbers("preferred", preferred, ndim=1, lowest=1)
    if not len(first) == len(second) == len(chosen):
        raise ValueError(
            f"score_1, score_2 and preferred have {len(first)}, {len(second)} and {len(chosen)} "
            "entries; give one a judged query"
        )
    if (chosen > 2).any():
        raise ValueError("preferred must be 1 or 2, the set that was chosen")
    agrees = (1 + np.sign(first - second) * np.where(chosen == 1, 1, -1)) / 2
    return Preference(agrees=agrees, one_sided=first > second)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")


def _finite(name: str, values: ArrayLike, ndim: int) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != ndim or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be {ndim}-dimensional, not empty and finite; its shape is {array.shape}"
        )
    return array


def _whole_numbers(name: str, values: ArrayLike, ndim: int, lowest: int) -> np.ndarray:
    array = _finite(name, values, ndim)
    if (array < lowest).any() or (array != np.floor(array)).any():
        raise ValueError(f"{name} must be whole numbers from {lowest}")
    return array.astype(np.int64)
