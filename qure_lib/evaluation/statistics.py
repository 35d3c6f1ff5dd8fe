"""Intervals and paired tests over per-query results, at the 95 % level.

Queries that share a cluster (a participant, a pair of images) are resampled together, since their
results are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
LEAST_P = 2 / 2001  # that the 2,000 resamples of `paired_bootstrap` can give
Clusters = ArrayLike | Sequence[ArrayLike] | None


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, in the unit of the values.

    With a single cluster there is nothing to resample: the bounds are then NaN, not the estimate.
    """

    estimate: float
    low: float
    high: float
    n: int  # values with a weight above zero
    n_clusters: int  # that hold them; of two kinds, the scarcer, which limits the interval


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The difference of two means over the same queries, with a two-sided bootstrap p-value."""

    p_value: float  # NaN where the interval is


class Sample(NamedTuple):
    """(Q,) results of one measure by query; the arguments of `bootstrap_ci`."""

    values: ArrayLike
    weights: ArrayLike | None = None
    clusters: Clusters = None

    @property
    def mean(self) -> float:
        """sum(w v) / sum(w)."""
        weights = None if self.weights is None else np.asarray(self.weights, dtype=float)
        return float(np.average(np.asarray(self.values, dtype=float), weights=weights))


def bootstrap_ci(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    clusters: Clusters = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of the weighted mean sum(w v) / sum(w).

    With 0/1 weights this is a rate among the queries that count; their number varies between
    resamples, and a resample without any is left out.

    Args:
        values: (Q,) per-query results, any unit.
        weights: (Q,) >= 0; None weighs all the same.
        clusters: None resamples queries; (Q,) labels resample whole clusters; a list of two label
            arrays resamples both kinds at once, a query counting as often as the product of its
            clusters' draws (pigeonhole bootstrap, Owen 2007: too wide by sqrt(3) at most).
        n_resamples, seed: how many samples NumPy's generator draws, and its seed.

    Raises:
        ValueError: no values, NaN, lengths that differ, or negative or no weights.

    Example:
        >>> bootstrap_ci([1, 1, 0, 1], clusters=["ann", "ann", "bob", "cy"]).n_clusters
        3
    """
    values, weights = _check_values(values, weights)
    codes, n = _cluster_codes(clusters, len(values)), int((weights > 0).sum())
    estimate, n_clusters = float(np.average(values, weights=weights)), _scarcest(codes, weights)
    if n_clusters < 2:
        return Interval(estimate, math.nan, math.nan, n, n_clusters)
    sums = _resampled_sums(np.stack([weights * values, weights]), codes, n_resamples, seed)
    return Interval(estimate, *_percentiles(_ratio(*sums)), n, n_clusters)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    weights: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    clusters: Clusters = None,
    seed: int = 0,
) -> PairedDifference:
    """Test whether mean(a) differs from mean(b) when both were measured on the same queries.

    Both means are taken on the same 2,000 resamples, so what the queries have in common cancels.
    p = 2 min(P(difference <= 0), P(difference >= 0)), counted with one added, at most 1.

    Args:
        a, b: (Q,) per-query results of two methods, in the same order.
        weights: None, or (Q,) weights for a and for b, which may differ (a one-sided preference
            rate counts other queries for each scorer). The rest as in `bootstrap_ci`.

    Raises:
        ValueError: as `bootstrap_ci`, or a and b of unequal length.
    """
    sizes = np.size(a), np.size(b)
    if sizes[0] != sizes[1]:
        raise ValueError(f"{sizes[0]} and {sizes[1]} results; a paired test needs the same queries")
    (a, weights_a), (b, weights_b) = map(_check_values, (a, b), weights or (None, None))
    codes = _cluster_codes(clusters, len(a))
    estimate = float(np.average(a, weights=weights_a) - np.average(b, weights=weights_b))
    n_clusters = _scarcest(codes, weights_a, weights_b)
    if n_clusters < 2:
        return PairedDifference(estimate, math.nan, math.nan, len(a), n_clusters, math.nan)
    rows = np.stack([weights_a * a, weights_a, weights_b * b, weights_b])
    sums = _resampled_sums(rows, codes, n_resamples=2000, seed=seed)
    differences = _ratio(*sums[:2]) - _ratio(*sums[2:])
    differences = differences[~np.isnan(differences)]
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))
    return PairedDifference(estimate, *_percentiles(differences), len(a), n_clusters, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being several (Holm 1979): the k-th smallest of m times m - k + 1.

    Returns:
        Corrected p-values in the given order, at most 1, none below that of a smaller one. NaN, a
        test that could not be made, stays NaN and is not counted.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order, m = np.argsort(p), np.count_nonzero(~np.isnan(p))  # NaN comes last
    stepped = np.maximum.accumulate(p[order] * np.arange(m, m - len(p), -1))
    corrected = np.empty_like(p)
    corrected[order] = stepped.clip(max=1)
    return corrected.tolist()


def _check_values(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    if values.ndim != 1 or values.shape != weights.shape:
        raise ValueError(f"values {values.shape} and weights {weights.shape} must both be (Q,)")
    if not np.isfinite(values).all() or not np.isfinite(weights).all():
        raise ValueError("values and weights must be finite: drop or repair the NaN first")
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("no query counts: there are no values, or no weight is above zero")
    return values, weights


def _cluster_codes(clusters: Clusters, n: int) -> list[np.ndarray]:
    """One or two (n,) integer codes."""
    clusters = np.arange(n) if clusters is None else clusters  # each query on its own
    ways: Sequence[Any] = [clusters]
    if isinstance(clusters, list | tuple) and np.ndim(clusters[0]) == 1:
        ways = clusters
    codes = [np.unique(np.asarray(way), return_inverse=True)[1] for way in ways]
    if len(codes) > 2 or any(code.shape != (n,) for code in codes):
        raise ValueError(f"clusters must be one or two label arrays with one label for each of {n}")
    return codes


def _scarcest(codes: list[np.ndarray], *weights: np.ndarray) -> int:
    """The fewest clusters, of either kind, that hold any (Q,) weights above zero."""
    return min(len(np.unique(code[each > 0])) for code in codes for each in weights)


def _resampled_sums(
    rows: np.ndarray, codes: list[np.ndarray], n_resamples: int, seed: int
) -> np.ndarray:
    """(len(rows), n_resamples) sums of each row of (., Q), clusters drawn with replacement."""
    generator = np.random.default_rng(seed)
    sizes = [int(code.max()) + 1 for code in codes]
    draws = [generator.multinomial(c, np.full(c, 1 / c), n_resamples).astype(float) for c in sizes]
    if len(codes) == 1:
        totals = np.stack([np.bincount(codes[0], row, sizes[0]) for row in rows])
        return totals @ draws[0].T
    cell = codes[0] * sizes[1] + codes[1]
    tables = [np.bincount(cell, row, sizes[0] * sizes[1]).reshape(sizes) for row in rows]
    return np.stack([((draws[0] @ table) * draws[1]).sum(axis=1) for table in tables])


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where a resample holds no weight."""
    unknown = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=unknown, where=denominator > 0)


def _percentiles(estimates: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(estimates, [tail, 1 - tail]).tolist()
    return low, high
