"""Notebook 06: the preference rates of scorers that look at no image, beside the published ones.

`judged` is what `load_hp_fashioniq` gives, one row a judged query; `results` is what
`compare_scorers` gives. Rates in frames are per cents; intervals are 95 % bootstraps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from report.claims import direction
from report.figures import line_style, plot_intervals
from report.tables import interval_text

from analysis.preference_study import cluster_labels
from analysis.scorers import OWN_CHOICE, what_it_sees
from qure_lib.evaluation.metrics import Preference, preference_rate
from qure_lib.evaluation.statistics import Interval, bootstrap_ci, paired_bootstrap

COMPARED = ("random", "holds the target", "participants' own")  # in four ways to resample


def compare_scorers(
    judged: pd.DataFrame, scored: Mapping[str, np.ndarray]
) -> dict[str, Preference]:
    """Compare each scorer's choices with the participants'.

    Args:
        scored: scorer -> (Q, 2) scores of set 1 and set 2; a row with NaN is a tie.

    Returns:
        Scorer -> `preference_rate`, without the scorers that never prefer set 1.
    """
    results = {}
    for name, scores in scored.items():
        pairs = np.where(np.isnan(scores).any(axis=1, keepdims=True), 0, scores)
        results[name] = preference_rate(*pairs.T, judged["preferred"])
    return {name: result for name, result in results.items() if result.one_sided.any()}


def rate_ladder(judged: pd.DataFrame, results: Mapping[str, Preference], seed: int) -> pd.DataFrame:
    """Four rates of each scorer: one-sided and two-sided, over all rows and over those it decides.

    Returns:
        One row a scorer and rate: scorer, rate ("one-sided", "two-sided"), over ("all rows",
        "rows it decides"), estimate, low, high, n, n_clusters, group (what the scorer sees). The
        interval is the wider of those over participants and over queries.
    """
    chose_1 = judged["preferred"] == 1
    clusters = [*cluster_labels(judged).values()]
    rows = []
    for name, result in results.items():
        ways = {
            ("one-sided", "all rows"): (chose_1, result.picks_1),
            ("one-sided", "rows it decides"): (chose_1, result.one_sided),
            ("two-sided", "all rows"): (result.agrees, None),
            ("two-sided", "rows it decides"): (result.agrees, result.decides),
        }
        for (rate, over), (values, weights) in ways.items():
            interval = _wider(bootstrap_ci, clusters, seed, 100 * values, weights)
            rows.append({"scorer": name, "rate": rate, "over": over} | asdict(interval))
    ladder = pd.DataFrame(rows)
    return ladder.assign(group=ladder["scorer"].map(what_it_sees))


def _wider(
    bootstrap: Callable[..., Interval], clusters: Sequence[np.ndarray], seed: int, *values: object
) -> Interval:
    """The widest of the intervals that resample either kind of cluster; one unknown is widest."""
    each = [bootstrap(*values, clusters=labels, seed=seed) for labels in clusters]
    return max(each, key=lambda interval: np.nan_to_num(interval.high - interval.low, nan=np.inf))


def one_sided_rates(ladder: pd.DataFrame, over: str) -> pd.DataFrame:
    """The published kind of rate of every scorer, as `plot_intervals` takes it.

    Args:
        over: "all rows" or "rows it decides".
    """
    chosen = ladder[(ladder["rate"] == "one-sided") & (ladder["over"] == over)]
    chosen = chosen[chosen["group"] != OWN_CHOICE]
    return chosen.rename(columns={"scorer": "label"}).reset_index(drop=True)


def ladder_panels(ladder: pd.DataFrame, published: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """The frames of the ladder's figure: over all rows, and over the rows that a scorer decides.

    Args:
        published: of `implied_intervals`, to stand below the scorers; None to leave it out.
    """
    left, right = one_sided_rates(ladder, "all rows"), one_sided_rates(ladder, "rows it decides")
    if published is not None:
        sized = published.drop(columns="holds the best rate")
        sized = sized.assign(group="published (interval of its size alone)")
        left = pd.concat([left, sized], ignore_index=True)
    right["label"] = "n = " + right["n"].map("{:,}".format)
    return {"all rows": left, "the rows it decides": right}


def ladder_table(
    ladder: pd.DataFrame,
    results: Mapping[str, Preference],
    scored: Mapping[str, np.ndarray],
    known_images: Mapping[str, float],
) -> pd.DataFrame:
    """The ladder with a row a scorer: what it knows, what it decides, and its four rates as text.

    Args:
        scored: as `compare_scorers` takes it.
        known_images: scorer -> per cent of the images shown of which it can read anything.
    """
    text = [interval_text(*row) for row in ladder[["estimate", "low", "high"]].to_numpy()]
    wide = ladder.assign(text=text).pivot(index="scorer", columns=["rate", "over"], values="text")
    wide.columns = [f"{rate}, {over} (%)" for rate, over in wide.columns]
    rows = [
        {
            "scorer": name,
            "sees": what_it_sees(name).removeprefix("sees "),
            "images known (%)": known_images.get(name, np.nan),
            "rows scored": (~np.isnan(scored[name]).any(axis=1)).sum(),
            "rows decided": result.decides.sum(),
            "of these for set 1": result.one_sided.sum(),
        }
        for name, result in results.items()
    ]
    return pd.DataFrame(rows).merge(wide, on="scorer", validate="one_to_one")


def reached_models(ladder: pd.DataFrame, models: pd.Series) -> dict[str, pd.Series]:
    """Scorers without an image -> the models whose rate their interval over all rows reaches.

    Args:
        models: published one-sided rates by model.
    """
    rates = one_sided_rates(ladder, "all rows")
    highs = rates[rates["group"].str.startswith("sees")].set_index("label")["high"]
    reached = {name: models[models <= round(high, 2)] for name, high in highs.items()}
    return {name: part for name, part in reached.items() if len(part)}


def describe_reached(ladder: pd.DataFrame, models: pd.Series, n_rows: int) -> str:
    """Say in Markdown which scorers that look at no image match a published model."""
    reached = reached_models(ladder, models)
    found = [
        f"*{name}* ({what_it_sees(name)}) gets {_rate_text(ladder, name, 'all rows')} and so "
        f"reaches {', '.join(f'{model} ({rate})' for model, rate in part.items())}"
        for name, part in reached.items()
    ]
    answers_only = {what_it_sees(name) for name in reached} == {"sees the answer"}
    hint = ", but sees the answer," if answers_only else ""
    return (
        f"**{'A' if found else 'No'} scorer that looks at no image{hint} matches a published "
        f"model** over all {n_rows:,} rows{': ' * bool(found)}{'; '.join(found)}. "
        f"The published rates run from {models.min():.2f} to {models.max():.2f}."
    )


def describe_ladder(
    ladder: pd.DataFrame,
    results: Mapping[str, Preference],
    models: pd.Series | None,
    base_rate: float,
) -> str:
    """Say in Markdown what the best scorer that sees the query alone gets, and the target itself.

    Args:
        models: published one-sided rates by model; None on a study that they are not about.
        base_rate: per cent of the rows where set 1 was chosen.
    """
    rates = one_sided_rates(ladder, "all rows").set_index("label")
    best = rates.loc[rates["group"] == "sees the query", "estimate"].idxmax()
    part = one_sided_rates(ladder, "rows it decides").set_index("label").loc["holds the target"]
    matched = below = ""
    if models is not None:
        matched = "matches one too" if best in reached_models(ladder, models) else "matches none"
        matched += " and "
        below = f", with {(models < part['low']).sum()} of the {len(models)} published rates below "
        below += "it; what the models get on these rows is not known"
    return (
        f"Of those that see the query alone the best, *{best}*, {matched}gets "
        f"{_rate_text(ladder, best, 'all rows')}; chance is {base_rate:.1f}. Exactly one set holds "
        f"the target in {results['holds the target'].decides.sum():,} rows. On these alone *holds "
        f"the target* gets {_rate_text(ladder, 'holds the target', 'rows it decides')}, "
        f"n = {part['n']}{below}."
    )


def _rate_text(ladder: pd.DataFrame, scorer: str, over: str) -> str:
    row = one_sided_rates(ladder, over).set_index("label").loc[scorer]
    return interval_text(row["estimate"], row["low"], row["high"])


def rates_by_clustering(
    judged: pd.DataFrame, results: Mapping[str, Preference], seed: int
) -> pd.DataFrame:
    """Rates of the scorers of COMPARED under four ways to resample.

    Returns:
        One row a scorer, way and rate: scorer, rate ("one-sided" over the rows that it decides for
        set 1, "two-sided" over all), clusters ("rows", "participants", "queries", "both"),
        estimate, low, high, n, n_clusters.
    """
    labels = cluster_labels(judged)
    clusterings = {"rows": None} | labels | {"both": [*labels.values()]}
    rows = []
    for scorer, (way, clusters) in product(COMPARED, clusterings.items()):
        result = results[scorer]
        for rate, weights in {"one-sided": result.one_sided, "two-sided": None}.items():
            interval = bootstrap_ci(100 * result.agrees, weights, clusters, seed=seed)
            rows.append({"scorer": scorer, "rate": rate, "clusters": way} | asdict(interval))
    return pd.DataFrame(rows)


def design_effects(rates: pd.DataFrame) -> pd.Series:
    """By scorer, how many times more queries clusters ask for: squared ratio of interval widths.

    Args:
        rates: of `rates_by_clustering`; one-sided rates are used.
    """
    widths = rates[rates["rate"] == "one-sided"].assign(width=rates["high"] - rates["low"])
    widths = widths.pivot(index="scorer", columns="clusters", values="width")
    return (widths["participants"] / widths["rows"]) ** 2


def paired_tests(
    judged: pd.DataFrame, results: Mapping[str, Preference], seed: int
) -> pd.DataFrame:
    """Test each pair of scorers on the same resamples, by the two-sided rate over all rows.

    Returns:
        One row a pair: scorer, against, discordant (%), difference (points), low, high, n,
        n_clusters, p_value, "p, all pairs" (times their number, Bonferroni), and "scorer is":
        "better", "worse" or "within noise" by that p. The interval is the wider of those over
        participants and over queries.
    """
    names = [name for name in results if what_it_sees(name) != OWN_CHOICE]
    pairs, clusters = list(combinations(names, 2)), [*cluster_labels(judged).values()]
    tests = []
    for first, second in pairs:
        a, b = results[first].agrees, results[second].agrees
        test = _wider(paired_bootstrap, clusters, seed, 100 * a, 100 * b)
        row = {"scorer": first, "against": second, "discordant (%)": 100 * np.mean(a != b)}
        adjusted = min(len(pairs) * test.p_value, 1)  # NaN stays NaN
        verdict = direction(test) if adjusted < 0.05 else "within noise"
        tests.append(row | asdict(test) | {"p, all pairs": adjusted, "scorer is": verdict})
    return pd.DataFrame(tests).rename(columns={"estimate": "difference"})


def plot_clusterings(axes: Sequence[Axes], rates: pd.DataFrame) -> None:
    """Draw how wide the intervals of `rates_by_clustering` are, an axes a kind of rate."""
    for ax, rate in zip(axes, ("one-sided", "two-sided"), strict=True):
        groups = rates[rates["rate"] == rate].groupby("scorer", sort=False)
        for index, (scorer, rows) in enumerate(groups):
            width = rows["high"] - rows["low"]
            ax.plot(rows["clusters"], width, **line_style("", index), label=scorer)
        ax.set(title=f"{rate} rate", xlabel="Drawn together", ylim=(0, None))
    axes[0].set_ylabel("Width of the interval (points)")
    axes[0].legend()


def plot_ladder(
    axes: Sequence[Axes],
    panels: Mapping[str, pd.DataFrame],
    base_rate: float,
    models: pd.Series | None,
) -> None:
    """Draw `ladder_panels`, an axes a panel.

    Args:
        models: published rates, whose range becomes a band; None to draw none.
    """
    for ax, (over, frame) in zip(axes, panels.items(), strict=True):
        plot_intervals(ax, frame, base_rate, f"base rate {base_rate:.1f} %")
        ax.set_xlabel(f"Preference rate, one-sided,\nover {over} (%)")
        if models is not None:
            ax.axvspan(models.min(), models.max(), color="0.92", lw=0, zorder=0)
    axes[1].set_ylim(axes[0].get_ylim())  # the same scorer at the same height
    axes[1].get_legend().remove()
