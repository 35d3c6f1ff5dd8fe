"""Notebook 09: what training with auxiliary positives changes, by the rows of the study.

A pair is a variant with auxiliary positives and the same curve without them. How annotators would
choose between the images of two models is simulated from graded relevance; no human took part.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from report import figures
from report.claims import Claim, direction
from report.names import plain_name
from report.tables import interval_text
from scipy.special import ndtr

from data_prep.preferences import LIKING, NOISE
from qure_lib.evaluation.statistics import Interval
from qure_lib.train.training_data import TrainingData

from .ablations import Rows, find_bands, mean_by_seed, measure_interval

PAIRS = {"cosine_auxiliary": "cosine", "preference_auxiliary": "preference"}
SHOWN = ("uniform", "cosine", "cosine_auxiliary", "preference", "preference_auxiliary", "in_batch")
HALF = 50.0  # per cent: simulated annotators prefer neither
MEASURES = {
    "val_r10": "Recall@10 (%)",
    "val_ndcg10": "nDCG@10",
    "val_false_negatives10": "False negatives in the top ten",
    "relevance5": "Relevance of the five best",
}
POSITIVES = {
    "auxiliary": "Images before the first drop",
    "relevance_above": "Graded relevance\nof these images",
    "relevance_inside": "Graded relevance\nof hard negatives",
}


def choose_simulated(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """How often a simulated annotator chooses the first of two sets of images, in per cent.

    Both likings have noise of their own, so the difference is normal and the share is
    Phi(LIKING (first - second) / (NOISE sqrt 2)). The annotators of data_prep/preferences.py also
    favour the set shown first a little; that cancels where the order is drawn.

    Args:
        first, second: mean graded relevance of the sets, in [0, 1].
    """
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return 100 * ndtr(LIKING * apart / (NOISE * np.sqrt(2)))


def simulate_choices(top5: pd.DataFrame, variant: str, less: str) -> pd.DataFrame:
    """Simulated choices of a variant's five best images over another's, on the same val query.

    Args:
        top5: as in `Rows`.

    Returns:
        A row a (variant, seed) of the seeds that both have, a column a query; per cent.
    """
    seeds = sorted(set(top5.loc[variant].index) & set(top5.loc[less].index))
    sets = (top5.loc[name].loc[seeds].to_numpy() for name in (variant, less))
    index = pd.MultiIndex.from_product([[variant], seeds], names=["variant", "seed"])
    return pd.DataFrame(choose_simulated(*sets), index, top5.columns)


def judge_auxiliary(difference: Interval) -> str:
    """The rule of docs/study.md, "Open questions", on a difference in Recall@10."""
    return {"better": "helps", "worse": "harms"}.get(direction(difference), "within noise")


def judge_choices(chosen: Interval) -> str:
    """What simulated annotators prefer: "with", "without" (auxiliary positives) or "neither"."""
    if chosen.low > HALF:
        return "with"
    return "without" if chosen.high < HALF else "neither"


def trained_pairs(rows: Rows) -> dict[str, str]:
    """PAIRS of which both variants have runs with a seed in common."""
    seeds = rows.runs.groupby("variant").seed.agg(set)
    trained = {v: less for v, less in PAIRS.items() if {v, less} <= set(seeds.index)}
    return {v: less for v, less in trained.items() if seeds[v] & seeds[less]}


def compare_pairs(worlds: Mapping[str, Rows]) -> pd.DataFrame:
    """Each trained pair of each world.

    Returns:
        Columns world, label (with them), less (without), seeds; recall, recall_low, recall_high
        (points of Recall@10) and verdict; chosen, chosen_low, chosen_high (per cent of simulated
        choices) and preferred; val_ndcg10 and val_false_negatives10 (the mean difference, and in
        brackets those of several seeds). No row where no pair is trained.
    """
    lines: list[dict[str, Any]] = []
    for world, rows in worlds.items():
        for variant, less in trained_pairs(rows).items():
            choices = simulate_choices(rows.top5, variant, less)
            recall = measure_interval(rows.hits, variant, less=less)
            chosen = measure_interval(choices, variant)
            line = {"world": world, "label": variant, "less": less, "seeds": len(choices)}
            line |= _ends("recall", recall) | {"verdict": judge_auxiliary(recall)}
            line |= _ends("chosen", chosen) | {"preferred": judge_choices(chosen)}
            lines.append(line | _differences_by_seed(rows.runs, variant, less))
    return pd.DataFrame(lines)


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _differences_by_seed(runs: pd.DataFrame, variant: str, less: str) -> dict[str, str]:
    """nDCG@10 and false negatives in the top ten, which have no values by query."""
    found = {}
    for measure in ("val_ndcg10", "val_false_negatives10"):
        by_seed = runs.pivot_table(index="seed", columns="variant", values=measure)
        apart = (by_seed[variant] - by_seed[less]).dropna()
        each = ", ".join(f"{value:+.3f}" for value in apart) if len(apart) > 1 else "one seed"
        found[measure] = f"{apart.mean():+.3f} ({each})"
    return found


def state_answer(pairs: pd.DataFrame, world: str) -> list[str]:
    """The finding: a sentence a pair of the world, and one on what recall and choices say.

    Args:
        pairs: of `compare_pairs`.
    """
    found = pairs[pairs.world == world] if len(pairs) else pairs
    if found.empty:
        return [f"{world}: no run with auxiliary positives is there yet."]
    lines = [
        f"{plain_name(pair.less)}: {pair.verdict}, Recall@10 by {_text(pair, 'recall')} points; "
        f"simulated preference {_text(pair, 'chosen')} %."
        for pair in found.itertuples()
    ]
    opposed = found.verdict.isin(["helps", "harms"])
    opposed &= found.preferred == found.verdict.map({"helps": "without", "harms": "with"})
    where = " and ".join(plain_name(name) for name in found.less[opposed]) or "nowhere"
    question = "Images before the first drop as further positives, against the same curve without:"
    opposite = f"Recall falls and simulated choices rise, or the reverse: {where}."
    return [question, *lines, opposite, *_state_others(pairs, world)]


def _state_others(pairs: pd.DataFrame, world: str) -> list[str]:
    """A sentence on each pair that has another verdict in another world."""
    verdicts = pairs[pairs.world == world].set_index("label").verdict
    elsewhere = pairs[(pairs.world != world) & pairs.label.isin(verdicts.index)]
    other = elsewhere[elsewhere.verdict != elsewhere.label.map(verdicts)]
    return [
        f"Not so in world {name}{' (one seed)' if pair.seeds == 1 else ''}: "
        f"{plain_name(pair.less)}: {pair.verdict}, Recall@10 by {_text(pair, 'recall')} points."
        for name, pair in zip(_short(other.world), other.itertuples(), strict=True)
    ]


def state_caveat(rows: Rows) -> str:
    """What a reader must know beside the answer: drawn data, the model, the seeds."""
    first = rows.definitions[rows.definitions.epoch == rows.definitions.epoch.min()]
    first = first[first.variant == "cosine"]
    ready = 100 * (first.target_rank_median / first.corpus_size).mean()
    return (
        f"Drawn data, a small model, {len(first)} seeds, simulated annotators: at the first "
        f"definition the median target ranks at {ready:.1f} %."
    )


def _text(pair: Any, name: str) -> str:
    return interval_text(*(getattr(pair, f"{name}{end}") for end in ("", "_low", "_high")))


def tabulate_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """`compare_pairs` for a reader: seven columns, the variant's code; empty if it is."""
    if pairs.empty:
        return pairs
    rows = list(pairs.itertuples())
    return pd.DataFrame(
        {
            "world": _short(pairs.world),
            "variant": pairs.label,
            "seeds": pairs.seeds,
            "Recall@10 (points)": [_text(pair, "recall") for pair in rows],
            "nDCG@10": pairs.val_ndcg10,
            "false negatives": pairs.val_false_negatives10,
            "simulated choices (%)": [_text(pair, "chosen") for pair in rows],
        }
    )


def _short(worlds: pd.Series) -> pd.Series:
    """World names without what all share."""
    return worlds.str.removeprefix("synthfashion-")


def plot_pairs(figure: Figure, pairs: pd.DataFrame) -> None:
    """Draw `compare_pairs` on the figure's two axes: Recall@10, and simulated choices."""
    left, right = figure.axes
    for ax, name, line in ((left, "recall", 0.0), (right, "chosen", HALF)):
        ends = {name: "estimate", f"{name}_low": "low", f"{name}_high": "high"}
        groups = _short(pairs.world) + np.where(pairs.seeds > 1, "", " (one seed)")
        shown = pairs[["label", *ends]].rename(columns=ends).assign(group=groups)
        figures.plot_intervals(ax, shown, line, "no difference").get_legend().remove()
    left.set_xlabel("Recall@10, with less without (points)")
    right.set_xlabel("Simulated choices of those with (%)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def measure_runs(rows: Rows, variants: Iterable[str] = SHOWN) -> pd.DataFrame:
    """What every run ended with: columns label, seed and MEASURES; categories weigh the same."""
    five = mean_by_seed(rows.top5).unstack().rename("relevance5").reset_index()
    found = rows.runs.merge(five, on=["variant", "seed"])
    found = pd.concat([found[found.variant == variant] for variant in variants])
    return found.rename(columns={"variant": "label"})[["label", "seed", *MEASURES]]


def summarise_variants(rows: Rows) -> pd.DataFrame:
    """Means over the seeds, one row a variant of SHOWN that is trained.

    Returns:
        Columns variant (the code), seeds, MEASURES in words, and how often simulated annotators
        choose its five best images over those of the rule as released (per cent).
    """
    runs = measure_runs(rows).groupby("label", sort=False)
    table = runs[list(MEASURES)].mean().rename(columns=MEASURES)
    table.insert(0, "seeds", runs.seed.nunique())
    chosen = [
        mean_by_seed(simulate_choices(rows.top5, code, "cosine"))[code].mean()
        for code in table.index
    ]
    return table.assign(**{"Chosen over released (%)": chosen}).reset_index(names="variant")


def plot_trade_off(figure: Figure, runs: pd.DataFrame) -> None:
    """Draw `measure_runs` on the figure's axes: each further measure over Recall@10, a mark a run.

    An arrow leads from each run without auxiliary positives to that of its seed with them.
    """
    for ax, measure in zip(figure.axes, list(MEASURES)[1:], strict=True):
        for label, found in runs.groupby("label", sort=False):
            style = figures.line_style(str(label), 0) | {"linestyle": ""}
            ax.plot(found.val_r10, found[measure], **style, label=plain_name(label))
        by_run = runs.set_index(["label", "seed"])[["val_r10", measure]]
        for variant, less in PAIRS.items():
            _draw_arrows(ax, by_run, variant, less)
        ax.set(xlabel=MEASURES["val_r10"], ylabel=MEASURES[measure])
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3)


def _draw_arrows(ax: Axes, by_run: pd.DataFrame, variant: str, less: str) -> None:
    style = {"arrowstyle": "->", "color": figures.line_style(variant, 0)["color"], "lw": 0.7}
    for label, seed in by_run.index:
        if label == variant and (less, seed) in by_run.index:
            ax.annotate("", by_run.loc[(variant, seed)], by_run.loc[(less, seed)], arrowprops=style)


def describe_positives(rows: Rows) -> pd.DataFrame:
    """The images between the target and the first drop, at every definition of every run.

    Returns:
        Rows of `definitions` of PAIRS, with and without; and the column auxiliary: how many such
        images a query has, from the median rank of the target and of the window's begin.
    """
    mined = rows.definitions[rows.definitions.variant.isin([*PAIRS, *PAIRS.values()])]
    between = mined.window_start_median - mined.target_rank_median - 1
    return mined.assign(auxiliary=between)


def describe_targets(data: TrainingData) -> dict[str, float]:
    """What a positive could be at best, means over the categories' training queries.

    Returns:
        relevance: graded relevance of the target. fitting: how many other images of the corpus fit
        the query at least as well. corpus: number of images.
    """
    found = []
    for category, queries in data.train.items():
        graded = data.relevance[category]
        own = graded.gather(1, queries.target_positions[:, None])
        fitting = (graded >= own).double().sum(dim=1).mean() - 1
        found.append([own.mean(), fitting, len(queries.corpus)])
    return dict(zip(("relevance", "fitting", "corpus"), np.mean(found, axis=0), strict=True))


def state_positives(rows: Rows, targets: Mapping[str, float]) -> list[str]:
    """How many auxiliary positives a query has and how relevant they are: a sentence a variant.

    Args:
        targets: of `describe_targets`.
    """
    lines = [
        f"Beside its target a query has {targets['fitting']:.1f} images that fit as well, of "
        f"{targets['corpus']:.0f} (graded relevance: targets {targets['relevance']:.2f}, corpus "
        f"{rows.manifest['mean_relevance']:.2f})."
    ]
    mined = describe_positives(rows)
    for variant in trained_pairs(rows):
        mean = mined[mined.variant == variant].mean(numeric_only=True)
        lines.append(
            f"{plain_name(variant)}: about {mean.auxiliary:.0f} images before the first drop, "
            f"graded relevance {mean.relevance_above:.2f}; hard negatives "
            f"{mean.relevance_inside:.2f}."
        )
    return lines


def plot_positives(figure: Figure, rows: Rows, targets: Mapping[str, float]) -> pd.DataFrame:
    """Draw, on the figure's three axes, how many such images there are and their relevance.

    Args:
        targets: of `describe_targets`.

    Returns:
        The bands of `find_bands`, with the column `panel`.
    """
    mined, bands = describe_positives(rows), []
    shown = [variant for variant in SHOWN if variant in set(mined.variant)]
    corpus = rows.manifest["mean_relevance"]
    levels = [("fitting", None), ("relevance", corpus), ("relevance", corpus)]
    for ax, column, (best, mean) in zip(figure.axes, POSITIVES, levels, strict=True):
        bands.append(find_bands(mined, column, shown).assign(panel=column))
        figures.plot_bands(ax, bands[-1]).get_legend().remove()
        ax.axhline(targets[best], color="0.4", linestyle=":", label="as good as the target")
        if mean is not None:
            ax.axhline(mean, color="0.4", linestyle="--", label="corpus mean")
            ax.set_ylim(0, 1)
        ax.set(ylabel=POSITIVES[column], xlabel="Epoch of the definition")
    figure.axes[0].set_yscale("symlog", linthresh=1)
    figure.axes[0].set_ylim(0, 1.5 * targets["corpus"])
    figure.axes[0].yaxis.set_major_formatter("{x:g}")
    handles = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3)
    return pd.concat(bands)


CLAIMS = {  # claim -> variant with auxiliary positives
    "auxiliary_cosine": "cosine_auxiliary",
    "auxiliary_preference": "preference_auxiliary",
}
SIMULATED = "auxiliary_simulated"


def state_claims(rows: Rows, on: str, caveat: str) -> dict[Claim, Interval]:
    """The claims that the trained pairs can judge; above zero a claim holds."""
    pairs, claims = trained_pairs(rows), {}
    unit = "pairs of seed and val query"
    for name, variant in CLAIMS.items():
        if less := pairs.get(variant):
            text = f"Recall@10 (points): {plain_name(variant)}, less {plain_name(less)}."
            seeds = len(simulate_choices(rows.top5, variant, less))
            found = measure_interval(rows.hits, variant, less=less)
            claims[Claim(name, text, on, seeds, unit, caveat)] = found
    if less := pairs.get(variant := "preference_auxiliary"):
        choices = simulate_choices(rows.top5, variant, less) - HALF
        text = f"Simulated choices above one half (points): {plain_name(variant)}, over "
        text += f"{plain_name(less)}."
        claim = Claim(SIMULATED, text, on, len(choices), unit, caveat)
        claims[claim] = measure_interval(choices, variant)
    return claims
