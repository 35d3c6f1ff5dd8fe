"""Metrics as pure functions: one number a query, so that an interval can be put on any mean.

Arrays or CPU tensors in, NumPy float64 out. A rank is 0-based, and k >= 1 is how many images count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def recall_at_k(target_ranks: ArrayLike, k: int) -> np.ndarray:
    """Recall@k = [rank < k]: (Q,) target ranks -> (Q,) 1.0 if the target is in the first k, or 0.0.

    Raises:
        ValueError: k < 1, or a rank that is negative, missing or no whole number.

    Example:
        >>> recall_at_k([0, 9, 10], k=10)
        array([1., 1., 0.])
    """
    _whole_numbers("k", [k], ndim=1, lowest=1)
    return (_whole_numbers("target_ranks", target_ranks, ndim=1, lowest=0) < k).astype(float)


def average_precision_at_k(relevant_ranks: ArrayLike, n_relevant: ArrayLike, k: int) -> np.ndarray:
    """Average precision of the first k images, several of them relevant (CIRCO): (Q,) in [0, 1].

    AP@k = 1 / min(k, n_relevant) * sum over relevant ranks r < k of (relevant at or above r) /
    (r + 1).

    Args:
        relevant_ranks: (Q, R) ranks of the relevant images, in any order; -1 pads the rows of
            queries with fewer than R, and stands for an image that was not ranked.
        n_relevant: (Q,) number of relevant images, ranked or not.

    Raises:
        ValueError: k < 1, n_relevant < 1 or fewer than the ranks given, or a rank given twice.

    Example:
        >>> average_precision_at_k([[0, 2, -1]], n_relevant=[2], k=5)  # (1/1 + 2/3) / 2
        array([0.83333333])
    """
    _whole_numbers("k", [k], ndim=1, lowest=1)
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


def ndcg_at_k(ranked_relevance: ArrayLike, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first k images, linear gains: (Q,) in [0, 1].

    DCG@k = sum over ranks r < k of relevance[r] / log2(r + 2); NDCG@k divides it by that of the
    images' best order (Järvelin and Kekäläinen, ACM TOIS 20(4), 2002).

    Args:
        ranked_relevance: (Q, N) graded relevance >= 0 of the whole ranking, best first.

    Raises:
        ValueError: k < 1, a negative or missing relevance, or a query without relevant images.

    Example:
        >>> ndcg_at_k([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], k=1)
        array([1., 0.])
    """
    _whole_numbers("k", [k], ndim=1, lowest=1)
    relevance = _finite("ranked_relevance", ranked_relevance, ndim=2)
    if (relevance < 0).any() or (relevance.max(axis=1, initial=0) == 0).any():
        raise ValueError("ranked_relevance must be >= 0, with a relevant image in every row")
    discount = 1 / np.log2(np.arange(min(k, relevance.shape[1])) + 2)
    ideal = -np.sort(-relevance, axis=1)
    return relevance[:, :k] @ discount / (ideal[:, :k] @ discount)


@dataclass(frozen=True)
class Preference:
    """A scorer's choices between two sets beside a person's, one entry a judged query."""

    agrees: (
        np.ndarray
    )  # (Q,) 1.0 if the set with the higher score is preferred, 0.0 if not; tie 0.5
    one_sided: np.ndarray  # (Q,) whether set 1 has the higher score

    @property
    def decides(self) -> np.ndarray:
        """(Q,) True where the scores differ."""
        return self.agrees != 0.5

    @property
    def picks_1(self) -> np.ndarray:
        """(Q,) how likely it picks set 1, ties by a coin: weights of the rate over all queries."""
        return np.where(self.decides, self.one_sided, 0.5)

    @property
    def agreement(self) -> float:
        """The two-sided rate: over all queries, ties of the scorer counted half."""
        return float(self.agrees.mean())


def preference_rate(score_1: ArrayLike, score_2: ArrayLike, preferred: ArrayLike) -> Preference:
    """Compare a scorer's choice between two sets of images with a person's, query by query.

    The published rate (Table 4) is the mean of `agrees` where `one_sided`, P(set 1 preferred |
    score_1 > score_2): for a random scorer, how often set 1 is preferred at all.

    Args:
        score_1, score_2: (Q,) scores of the two sets (mean relevance of their images), any scale.
        preferred: (Q,) 1 or 2, the set that the person chose.

    Raises:
        ValueError: lengths differ, no query, a score is not finite, or a choice is not 1 or 2.

    Example:
        >>> preference_rate([.9, .8, .1], [.2, .3, .4], preferred=[1, 2, 2]).agrees
        array([1., 0., 1.])
    """
    first, second = _finite("score_1", score_1, ndim=1), _finite("score_2", score_2, ndim=1)
    chosen = _whole_numbers("preferred", preferred, ndim=1, lowest=1)
    if not len(first) == len(second) == len(chosen):
        lengths = f"{len(first)}, {len(second)} and {len(chosen)}"
        raise ValueError(f"{lengths} scores and choices; give one a judged query of each")
    if (chosen > 2).any():
        raise ValueError("preferred must be 1 or 2, the set that was chosen")
    agrees = (1 + np.sign(first - second) * np.where(chosen == 1, 1, -1)) / 2
    return Preference(agrees=agrees, one_sided=first > second)


def _finite(name: str, values: ArrayLike, ndim: int) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != ndim or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name}, {array.shape}, must have {ndim} dimensions and finite values")
    return array


def _whole_numbers(name: str, values: ArrayLike, ndim: int, lowest: int) -> np.ndarray:
    array = _finite(name, values, ndim)
    if (array < lowest).any() or (array != np.floor(array)).any():
        raise ValueError(f"{name} must be whole numbers from {lowest}")
    return array.astype(np.int64)
