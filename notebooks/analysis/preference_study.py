"""Notebook 06: the judgements themselves, and how far published preference rates can be told apart.

`judged` is what `load_hp_fashioniq` gives, one row a judged query; Q is their number. Rates in
frames are per cents.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import norm

from qure_lib.evaluation.statistics import LEVEL, Interval, bootstrap_ci

# Column of a table -> share of the queries where only one of two models is right.
DISCORDANCE = {"independent samples": None, "30 % discordant": 0.3}
DISCORDANCE |= {"20 % discordant": 0.2, "10 % discordant": 0.1}


# --- the judged rows ----------------------------------------------------------------------------


def score_differences(judged: pd.DataFrame) -> pd.Series:
    """(Q,) the participant's own score of set 1 minus that of set 2, from -4 to 4."""
    return (judged["score_1"] - judged["score_2"]).rename("difference")


def contradictions(judged: pd.DataFrame) -> pd.Series:
    """(Q,) whether the chosen set is the one with the lower score of the same participant."""
    difference, chose_1 = score_differences(judged), judged["preferred"] == 1
    return ((difference > 0) & ~chose_1) | ((difference < 0) & chose_1)


def same_query(judged: pd.DataFrame, number: int) -> list[int]:
    """Index of the rows with row `number`'s reference image and target, its own included."""
    keys = ["category", "reference", "target"]
    return judged.index[(judged[keys] == judged.loc[number, keys]).all(axis=1)].tolist()


def disagreements(judged: pd.DataFrame) -> pd.Series:
    """(Q,) whether another participant chose otherwise for the same reference image and target.

    Two participants seldom saw the same two sets, so choices are compared by their images: two rows
    disagree if the chosen sets share fewer images with one another, and the sets left likewise,
    than each chosen set shares with the set that the other left.
    """
    pairs = zip(judged["set_1"], judged["set_2"], judged["preferred"], strict=True)
    sets = [(set(a), set(b))[:: 1 if best == 1 else -1] for a, b, best in pairs]  # chosen, left
    who, otherwise = judged["participant"].to_numpy(), np.zeros(len(judged), bool)
    for rows in judged.groupby(["category", "reference", "target"]).indices.values():
        for a, b in combinations(rows, 2):
            if who[a] != who[b] and _shared(sets[a], sets[b]) < _shared(sets[a], sets[b][::-1]):
                otherwise[[a, b]] = True
    return pd.Series(otherwise, index=judged.index)


def _shared(some: Sequence[set[str]], others: Sequence[set[str]]) -> int:
    """Images that the first sets of two pairs have in common, and the second ones."""
    return sum(len(a & b) for a, b in zip(some, others, strict=True))


def cluster_labels(judged: pd.DataFrame) -> dict[str, np.ndarray]:
    """(Q,) labels of rows that depend on one another: by participant, and by query.

    The same reference and target are the same query, however its caption is phrased.
    """
    query = judged.groupby(["category", "reference", "target"]).ngroup().to_numpy()
    return {"participants": judged["participant"].to_numpy(), "queries": query}


def count_judged(judged: pd.DataFrame) -> pd.Series:
    """Those counts of Table 1 that the file can tell, by the name of the measure."""
    counts = {
        "total_queries": len(judged),
        "shirt_queries": (judged["category"] == "shirt").sum(),
        "toptee_queries": (judged["category"] == "toptee").sum(),
        "participants": judged["participant"].nunique(),
        "excluded_inconsistent": contradictions(judged).sum(),
    }
    return pd.Series(counts)


def add_uncounted(compared: pd.DataFrame, published: pd.Series) -> pd.DataFrame:
    """Table 1 whole: below the compared counts those that the file can not tell.

    Args:
        compared: of `compare_with_published`.
        published: all counts of Table 1, by measure.

    Returns:
        Columns measure, reproduced, published, verdict.
    """
    lost = published.drop(compared["measure"]).rename_axis("measure").reset_index()
    whole = pd.concat([compared, lost.assign(verdict="not in the file")], ignore_index=True)
    return whole[["measure", "reproduced", "published", "verdict"]].astype({"reproduced": "Int64"})


def dependence_facts(judged: pd.DataFrame) -> pd.DataFrame:
    """What makes rows dependent or undecided: one row a fact, with its count."""
    times_shown = np.bincount(cluster_labels(judged)["queries"])
    same_images = [set(a) == set(b) for a, b in zip(judged["set_1"], judged["set_2"], strict=True)]
    facts = {
        "distinct queries (reference and target)": len(times_shown),
        "queries shown more than once": (times_shown > 1).sum(),
        "rows per participant, at most": judged["participant"].value_counts().max(),
        "rows with the same five images twice, in any order": sum(same_images),
        "rows where the participant's own scores tie": (score_differences(judged) == 0).sum(),
        "rows where choice and own scores contradict": contradictions(judged).sum(),
    }
    return pd.DataFrame({"fact": facts.keys(), "count": facts.values()})


def base_rates(judged: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How often set 1 was chosen, where the participant's scores tie and where they differ.

    Returns:
        One row a group of rows: rows, set 1 chosen (a count), set 1 chosen (%), low, high, n,
        n_clusters; participants are resampled.
    """
    chose_1, ties = judged["preferred"] == 1, score_differences(judged) == 0
    rows = []
    for label, part in {
        "all rows": ties | True,
        "scores tie": ties,
        "scores differ": ~ties,
    }.items():
        interval = bootstrap_ci(100 * chose_1, part, judged["participant"].to_numpy(), seed=seed)
        rows.append({"rows": label, "set 1 chosen": (chose_1 & part).sum()} | asdict(interval))
    return pd.DataFrame(rows).rename(columns={"estimate": "set 1 chosen (%)"})


def choices_by_score(judged: pd.DataFrame) -> pd.DataFrame:
    """How often set 1 was chosen, by the difference of the participant's own scores.

    Returns:
        One row a difference, the largest first: difference, n, estimate, low, high, label; the
        interval is that of the row's size alone.
    """
    grouped = (judged["preferred"] == 1).groupby(score_differences(judged)).agg(["mean", "size"])
    grouped = grouped.iloc[::-1].reset_index()
    signs = grouped["difference"].map("{:+d}".format).replace("+0", "0").str.replace("-", "\u2212")
    frame = grouped[["difference"]].assign(n=grouped["size"])
    frame = frame.join(_implied_bounds(grouped["mean"], grouped["size"]))
    return frame.assign(label=signs + "  (n = " + frame["n"].astype(str) + ")")


# --- published rates ----------------------------------------------------------------------------


def implied_intervals(models: pd.Series, counted: float) -> pd.DataFrame:
    """Published rates with the intervals that their size alone implies.

    Args:
        models: published one-sided rates by model, the best first.
        counted: rows that each rate counts.

    Returns:
        One row a model: estimate, low, high, label, n, and whether its interval holds the best
        rate.
    """
    frame = _implied_bounds(models / 100, [counted] * len(models))
    frame = frame.assign(label=models.index, n=round(counted))
    return frame.assign(**{"holds the best rate": frame["high"] >= frame["estimate"].max()})


def _implied_bounds(rates: Sequence[float], sizes: Sequence[float]) -> pd.DataFrame:
    """Columns estimate, low, high in per cent: `binomial_interval` of each rate in [0, 1]."""
    intervals = pd.DataFrame([asdict(i) for i in map(binomial_interval, rates, sizes)])
    return 100 * intervals[["estimate", "low", "high"]]


def lead_of_the_best(rates: pd.DataFrame) -> Interval:
    """Points by which the best published rate exceeds the second, with the interval of their size.

    Args:
        rates: of `implied_intervals`.

    Source: Newcombe, Statistics in Medicine 17, 1998 (method 10).
    """
    best, second = rates.iloc[0], rates.iloc[1]
    lead = best["estimate"] - second["estimate"]
    below = np.hypot(best["estimate"] - best["low"], second["high"] - second["estimate"])
    above = np.hypot(best["high"] - best["estimate"], second["estimate"] - second["low"])
    return Interval(lead, lead - below, lead + above, best["n"], best["n"])


def queries_needed(models: pd.Series) -> pd.DataFrame:
    """Queries that separate the best rate from each other model's, at a power of 80 %.

    Args:
        models: published rates by model, the best first.

    Returns:
        One row a model but the best: model, difference (points), and a column for each of
        DISCORDANCE.

    Raises:
        ValueError: two rates differ by more than a discordance allows.
    """
    best, rows = models.iloc[0], []
    for model, rate in models.iloc[1:].items():
        row = {"model": model, "difference": best - rate}
        for samples, share in DISCORDANCE.items():
            row[samples] = queries_to_separate(best / 100, rate / 100, discordance=share)
        rows.append(row)
    return pd.DataFrame(rows)


def needed_by_difference(best: float) -> pd.DataFrame:
    """Queries that separate a rate from the best one, for differences of 0.1 to 8 points.

    Args:
        best: the best rate, in per cent.

    Returns:
        Columns difference (points), samples (a name of DISCORDANCE), queries.
    """
    rows = []
    for samples, share in DISCORDANCE.items():
        for difference in np.geomspace(0.1, 8, 40):
            other = (best - difference) / 100
            needed = queries_to_separate(best / 100, other, discordance=share)
            rows.append({"difference": difference, "samples": samples, "queries": needed})
    return pd.DataFrame(rows)


def plot_queries_needed(
    ax: Axes, curve: pd.DataFrame, needed: pd.DataFrame, counted: float
) -> Axes:
    """Draw `needed_by_difference`, a line a kind of samples; the caller labels the x axis.

    Args:
        needed: of `queries_needed`; grey lines at the models' differences, named on top.
        counted: rows that a published rate counts; a horizontal line.
    """
    sns.lineplot(curve, x="difference", y="queries", hue="samples", style="samples", ax=ax)
    ax.axhline(counted, color="0.4", linewidth=0.8)
    ax.text(0.11, counted / 1.3, "the study", va="top", color="0.4", fontsize=7)
    near, place = 0.0, ax.get_xaxis_transform()
    for row in needed.sort_values("difference").itertuples():
        ax.axvline(row.difference, color="0.8", linewidth=0.8, zorder=0)
        near = max(row.difference, near * 1.25)  # room for a name
        ax.text(near, 1.01, row.model, rotation=60, fontsize=6.5, transform=place)
    ax.set(xscale="log", yscale="log", ylim=(50, 1e8), ylabel="Counted queries for 80 % power")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


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
