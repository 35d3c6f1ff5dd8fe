"""Intervals and paired tests over per-query results.

Everything is at the 95 % level. Queries that share a cluster (a participant, a pair of images) are
resampled together, since their results are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, in the unit of the values.

    `n` counts the values with a weight above zero, `n_clusters` the clusters that hold them (the
    scarcer kind where there are two: it is what limits the interval).
    """

    estimate: float
    low: float
    high: float
    n: int
    n_clusters: int


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The difference of two means over the same queries, with a two-sided bootstrap p-value."""

    p_value: float


def bootstrap_ci(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | Sequence[ArrayLike] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the weighted mean sum(w v) / sum(w).

    With 0/1 weights this is a rate among the queries that count, and its denominator varies from
    resample to resample as it should. Resamples that draw no weight at all are left out.

    Args:
        values: (Q,) per-query results, any unit.
        weights: (Q,) >= 0; None weighs all the same.
        clusters: None resamples queries; (Q,) labels resample whole clusters; a list of two
            label arrays resamples both kinds at once, a query counting as often as the product
            of its clusters' draws (the pigeonhole bootstrap, which errs on the wide side: by
            up to sqrt(3) where most clusters of one kind hold a single query).
        n_resamples: number of bootstrap samples.
        seed: of NumPy's generator; the same seed gives the same interval.

    Raises:
        ValueError: no values, NaN, lengths that differ, negative or no weights, fewer than two
            clusters.

    Source: Efron 1979; Owen 2007 for two-way clusters.

    Example:
        >>> bootstrap_ci([1, 1, 0, 1], clusters=["ann", "ann", "bob", "cy"]).n_clusters
        3
    """
    values, weights = _checked(values, weights)
    codes = _cluster_codes(clusters, len(values))
    sums = _resampled_sums(np.stack([weights * values, weights]), codes, n_resamples, seed)
    low, high = _percentiles(_ratio(*sums))
    counted = weights > 0
    return Interval(
        estimate=float(np.average(values, weights=weights)),
        low=low,
        high=high,
        n=int(counted.sum()),
        n_clusters=min(len(np.unique(code[counted])) for code in codes),
    )


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    weights: tuple[ArrayLike, ArrayLike] | None = None,
    clusters: ArrayLike | Sequence[ArrayLike] | None = None,
    seed: int = 0,
) -> PairedDifference:
    """Test whether mean(a) differs from mean(b) when both were measured on the same queries.

    Both means are taken on the same resamples, so what the queries have in common cancels.
    p = 2 min(P(difference <= 0), P(difference >= 0)) over 2,000 resamples, counted with one added,
    at most 1.

    Args:
        a: (Q,) per-query results of one method.
        b: (Q,) those of the other, in the same order.
        weights: None, or (Q,) weights for a and for b, which may differ (a one-sided preference
            rate counts other queries for each scorer).
        clusters: as in `bootstrap_ci`.
        seed: as in `bootstrap_ci`.

    Raises:
        ValueError: as `bootstrap_ci`, or a and b of unequal length.
    """
    if len(a) != len(b):
        raise ValueError(
            f"a has {len(a)} results, b {len(b)}; a paired test needs the same queries"
        )
    (a, weights_a), (b, weights_b) = map(_checked, (a, b), weights or (None, None))
    codes = _cluster_codes(clusters, len(a))
    rows = np.stack([weights_a * a, weights_a, weights_b * b, weights_b])
    sums = _resampled_sums(rows, codes, n_resamples=2000, seed=seed)
    differences = _ratio(*sums[:2]) - _ratio(*sums[2:])
    differences = differences[~np.isnan(differences)]
    low, high = _percentiles(differences)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return PairedDifference(
        estimate=float(np.average(a, weights=weights_a) - np.average(b, weights=weights_b)),
        low=low,
        high=high,
        n=len(a),
        n_clusters=min(len(np.unique(code)) for code in codes),
        p_value=float(min(1.0, 2 * (tail + 1) / (len(differences) + 1))),
    )


def binomial_interval(rate: float, n: float) -> Interval:
    """The interval that a rate over n independent queries implies (Wilson's score interval).

    For a published rate without an interval: its size alone says how far it can be trusted. The
    one-sided preference rate counts only the queries where set 1 has the higher score, about half
    of the valid ones, so n is about valid / 2. Clusters would make the interval wider still.

    Args:
        rate: in [0, 1].
        n: the rate's denominator; need not be whole where it is estimated.

    Raises:
        ValueError: a rate outside [0, 1] or n < 1.

    Source: Wilson, JASA 22, 1927.

    Example:
        >>> interval = binomial_interval(0.5, 100)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.404, 0.596)
    """
    if not 0 <= rate <= 1 or not n >= 1:
        raise ValueError(f"rate {rate} must lie in [0, 1] (divide per cents by 100), n {n} be >= 1")
    z = norm.ppf((1 + LEVEL) / 2)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(
        estimate=rate, low=float(low), high=float(high), n=round(n), n_clusters=round(n)
    )


def queries_to_separate(
    rate_a: float, rate_b: float, power: float = 0.8, discordance: float | None = None
) -> int:
    """How many queries each of two rates needs, so that a test at 5 % tells them apart.

    n = (z(0.975) + z(power))^2 (d - (a - b)^2) / (a - b)^2. For independent samples d is a (1 - b)
    + b (1 - a), so that the middle term is a (1 - a) + b (1 - b); for rates over the same queries
    it is the share of queries where only one of the two is right, and n may be far smaller.

    Args:
        rate_a: in [0, 1].
        rate_b: in [0, 1], another value.
        power: probability of finding the difference.
        discordance: d for rates over the same queries, at least |a - b|; None for independent ones.

    Raises:
        ValueError: a rate outside [0, 1], equal rates, a power outside (0, 1), or a discordance
            that the two rates rule out.

    Source: McNemar's test; Connor, Biometrics 43, 1987.

    Example:
        >>> queries_to_separate(0.70, 0.75), queries_to_separate(0.70, 0.75, discordance=0.1)
        (1248, 307)
    """
    if not (0 <= rate_a <= 1 and 0 <= rate_b <= 1 and rate_a != rate_b and 0 < power < 1):
        raise ValueError(f"two different rates in [0, 1] and a power in (0, 1): {rate_a}, {rate_b}")
    difference = abs(rate_a - rate_b)
    if discordance is None:
        discordance = rate_a * (1 - rate_b) + rate_b * (1 - rate_a)
    highest = min(rate_a + rate_b, 2 - rate_a - rate_b)
    if not difference - 1e-9 <= discordance <= highest + 1e-9:
        raise ValueError(
            f"discordance {discordance} must lie in [{difference:.3g}, {highest:.3g}], which the "
            "two rates leave"
        )
    z = norm.ppf((1 + LEVEL) / 2) + norm.ppf(power)
    return math.ceil(z**2 * (discordance - difference**2) / difference**2)


def _checked(values: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    if values.ndim != 1 or values.shape != weights.shape:
        raise ValueError(f"values {values.shape} and weights {weights.shape} must both be (Q,)")
    if not np.isfinite(values).all() or not np.isfinite(weights).all():
        raise ValueError("values and weights must be finite: drop or repair the NaN first")
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("no query counts: there are no values, or no weight is above zero")
    return values, weights


def _cluster_codes(clusters: ArrayLike | Sequence[ArrayLike] | None, n: int) -> list[np.ndarray]:
    """One or two (Q,) integer codes; each query its own cluster where there are none."""
    if clusters is None:
        ways = [np.arange(n)]
    else:
        two_way = isinstance(clusters, list | tuple) and np.ndim(clusters[0]) == 1
        ways = list(clusters) if two_way else [clusters]
    codes = [np.unique(np.asarray(way), return_inverse=True)[1] for way in ways]
    if len(codes) > 2 or any(code.shape != (n,) for code in codes):
        raise ValueError(f"clusters must be one or two label arrays with one label for each of {n}")
    if any(code.max() < 1 for code in codes):
        raise ValueError("an interval needs at least two clusters")
    return codes


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
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )


def _percentiles(estimates: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(estimates, [tail, 1 - tail])
    return float(low), float(high)
