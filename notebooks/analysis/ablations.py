"""Notebook 05: tables, intervals and claims of the study (`study.py`, `grids.py`).

Frames are those of `study.read`: a row a (variant, seed), or a (variant, seed, epoch). Tables
name a variant in words, with its code beside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import study
from grids import FROZEN, Grid
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import figures
from report.claims import Claim, direction
from report.names import plain_name

from qure_lib.evaluation.statistics import LEAST_P, Interval, bootstrap_ci, holm, paired_bootstrap
from qure_lib.files import read_json
from qure_lib.method.config import TrainConfig

PRIMARY = ("cosine", "uniform", "same_sizes", "in_batch")  # what `preference` is tested against
LEAST_TOLERANCE = 1.0  # points of Recall@10
OWN_TEMPERATURE = {FROZEN: ", temperature = that of the end of the warm-up"}


@dataclass(frozen=True)
class Rows:
    """What a grid's runs on one world left: the tables of `study.read`, and their manifest.

    hits: a row a (variant, seed), a column a val query: 100 where its target ranks in the top ten.
    top5: likewise the mean graded relevance of its five best images; empty if it was not kept.
    """

    grid: Grid
    runs: pd.DataFrame
    epochs: pd.DataFrame
    definitions: pd.DataFrame
    hits: pd.DataFrame
    manifest: dict[str, Any]
    top5: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def trained(self) -> list[str]:
        """The variants that have runs, in the order of the grid."""
        return [variant for variant in self.grid.variants if variant in set(self.runs.variant)]


def load_rows(grid: Grid, folder: Path) -> Rows:
    """Read the tables of one world.

    Raises:
        ValueError: there are none.
    """
    tables = study.read(folder)
    if not tables:
        raise ValueError(f"{folder} holds no finished runs; `make study` trains them")
    ranks, top5 = (
        tables.pop(name, pd.DataFrame(columns=study.KEY))
        .set_index(["variant", "seed"])
        .drop(columns="settings")
        for name in ("ranks", "top5")
    )
    manifest = read_json(folder / "manifest.json", dict)
    return Rows(grid, **tables, hits=100.0 * (ranks < 10), manifest=manifest, top5=top5)


def describe_grid(rows: Rows) -> pd.DataFrame:
    """Every variant with its question, what it changes, and how many seeds it was trained with."""
    grid = rows.grid
    lines = [
        {
            "question": question,
            "variant": plain_name(variant),
            "code": variant,
            "changes in the published recipe": _describe(changes)
            + OWN_TEMPERATURE.get(variant, ""),
            "compared with": grid.baseline(question),
            "seeds": (rows.runs.variant == variant).sum(),
        }
        for question, variants in grid.questions.items()
        for variant, changes in variants.items()
    ]
    return pd.DataFrame(lines)


def _describe(changes: Mapping[str, Any]) -> str:
    """The settings that a variant changes, as "n_def = 3, search_window = 100"."""
    changed = study.departures(TrainConfig(**changes))
    changed |= changed.pop("mining", {})
    changed |= dict(changed.pop("options", ()))
    return ", ".join(f"{name} = {value}" for name, value in changed.items())


def measure_interval(hits: pd.DataFrame, variant: str, less: str | None = None) -> Interval:
    """The mean of a variant's hits, or its difference from another's, over seeds and queries.

    Args:
        hits: as in `Rows`, any measure; every category counts the same.
        less: a variant to subtract, on the seeds that both have.

    Returns:
        The 95 % interval, resampling seeds and queries at once (queries alone where there is one
        seed); a PairedDifference with `less`.
    """
    names = [variant] if less is None else [variant, less]
    common = sorted(set.intersection(*(set(hits.loc[name].index) for name in names)))
    category = hits.columns.str.split("/").str[0]
    weights = np.tile(1 / category.map(category.value_counts()), len(common))
    queries = np.tile(np.arange(hits.shape[1]), len(common))
    over = [np.repeat(common, hits.shape[1]), queries] if len(common) > 1 else queries
    values = [hits.loc[name].loc[common].to_numpy().ravel() for name in names]
    if less is None:
        return bootstrap_ci(*values, weights, over)
    return paired_bootstrap(*values, (weights, weights), over)


def measure_variants(hits: pd.DataFrame, variants: Iterable[str]) -> pd.DataFrame:
    """Each variant's interval, as `figures.plot_intervals` takes it: label, estimate, ..."""
    return pd.DataFrame({"label": v} | asdict(measure_interval(hits, v)) for v in variants)


def compare_variants(rows: Rows, questions: Iterable[str]) -> pd.DataFrame:
    """Each trained variant less its question's baseline, on the seeds that both have.

    Returns:
        Columns question, label (the code), baseline, estimate, low, high, n, seeds and verdict.
    """
    lines = []
    for question in questions:
        base = rows.grid.baseline(question)
        for variant in rows.grid.questions[question]:
            if variant != base and {variant, base} <= set(rows.trained):
                found = measure_interval(rows.hits, variant, less=base)
                seeds = len(set(rows.hits.loc[variant].index) & set(rows.hits.loc[base].index))
                row = {"question": question, "label": variant, "baseline": base} | asdict(found)
                lines.append(row | {"seeds": seeds, "verdict": direction(found)})
    return pd.DataFrame(lines).drop(columns=["n_clusters", "p_value"], errors="ignore")


def compare_primary(rows: Rows, others: Sequence[str] = PRIMARY) -> pd.DataFrame:
    """The drop rule on the preference curve less each other variant, with Holm's correction.

    Returns:
        One row a contrast: against (plain), code, estimate, low, high (points), p (Holm, "<" at the
        bootstrap's floor), the difference of each seed, n, and verdict: "better" or "worse" where
        the corrected p is below 0.05, else "within noise".
    """
    found = [measure_interval(rows.hits, "preference", less=other) for other in others]
    corrected = holm([difference.p_value for difference in found])
    means = mean_by_seed(rows.hits)
    lines = []
    for other, difference, p in zip(others, found, corrected, strict=True):
        apart = (means["preference"] - means[other]).dropna()
        certain = p < 0.05
        lines.append(
            {"against": plain_name(other), "code": other}
            | {name: getattr(difference, name) for name in ("estimate", "low", "high")}
            | {"p (Holm)": f"{'< ' if difference.p_value <= LEAST_P else ''}{p:.3f}"}
            | {"each seed": ", ".join(f"{value:+.1f}" for value in apart), "n": difference.n}
            | {"verdict": direction(difference) if certain else "within noise"}
        )
    return pd.DataFrame(lines)


def mean_by_seed(hits: pd.DataFrame) -> pd.DataFrame:
    """A row a seed, a column a variant: mean of the categories of each run's hits."""
    category = hits.columns.str.split("/").str[0]
    return hits.T.groupby(category).mean().mean().unstack("variant")


def judge_repair(primary: pd.DataFrame, moved: Interval) -> str:
    """The study's answer in one sentence, by the rule of docs/study.md.

    Args:
        primary: of `compare_primary`.
        moved: the preference curve less *moved*.
    """
    verdicts = primary.set_index("code").verdict
    if verdicts["cosine"] != "better":
        return "The preference curve does not repair the rule as released."
    if verdicts["same_sizes"] == "better" and direction(moved) == "better":
        return "The drops of the preference curve repair it: it beats both of its controls."
    return (
        "Nearness to the target repairs it: the preference curve beats the rule as released, but "
        "not both controls, which lie as near to the target without drops of their own."
    )


def find_bands(frame: pd.DataFrame, measure: str, variants: Sequence[str]) -> pd.DataFrame:
    """A measure's mean, lowest and highest value over the seeds, by variant and epoch.

    Returns:
        Columns label, epoch, mean, low, high, as `figures.plot_bands` takes them.
    """
    chosen = frame[frame.variant.isin(variants)]
    found = chosen.groupby(["variant", "epoch"])[measure].agg(["mean", "min", "max"]).reset_index()
    found = found.set_axis(["label", "epoch", "mean", "low", "high"], axis=1)
    order = list(variants).index
    return found.sort_values("label", key=lambda label: label.map(order), kind="stable")


def plot_variants(
    figure: Figure, rows: Rows, variants: Sequence[str], ncols: int = 3
) -> pd.DataFrame:
    """Draw variants on the figure's two axes: recall over the epochs, and at the last one.

    Returns:
        What is drawn: the bands of `find_bands`, and the intervals of `measure_variants`.
    """
    left, right = figure.axes
    curves, ends = (
        find_bands(rows.epochs, "val_r10", variants),
        measure_variants(rows.hits, variants),
    )
    figures.plot_bands(left, curves).get_legend().remove()
    left.set_ylabel("Val Recall@10 (%)")
    figures.plot_intervals(right, ends).set_xlabel("Recall@10 at the last epoch (%)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=ncols)
    return pd.concat([curves, ends])


def plot_differences(ax: Axes, compared: pd.DataFrame) -> Axes:
    """Draw `compare_variants`: a colour a question, the number of seeds in brackets."""
    labels = [f"{plain_name(v)} ({n})" for v, n in zip(compared.label, compared.seeds, strict=True)]
    base = compared.baseline.map(plain_name)
    groups = compared.question + ", less " + base
    figures.plot_intervals(ax, compared.assign(label=labels, group=groups), 0.0, "no difference")
    ax.set_xlabel("Difference in Recall@10 at the last epoch (points)")
    return ax


WHY = {  # table, column -> label
    ("definitions", "window_start_fraction"): "Window begins\n(share of the ranking)",
    ("epochs", "loss"): "Loss",
    ("epochs", "gradient_norm"): "Gradient norm",
}


def plot_why(figure: Figure, rows: Rows, variants: Sequence[str]) -> pd.DataFrame:
    """Draw, on the figure's three axes, where windows begin, the loss and the gradient's norm.

    Returns:
        The bands of `find_bands`, with the column `panel`.
    """
    bands = []
    for ax, ((table, column), label) in zip(figure.axes, WHY.items(), strict=True):
        frame = getattr(rows, table).dropna(subset=column)
        bands.append(find_bands(frame, column, variants).assign(panel=column))
        figures.plot_bands(ax, bands[-1]).get_legend().remove()
        ax.set(yscale="log", ylabel=label)
    handles = figure.axes[1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3)
    return pd.concat(bands)


def compare_speed(epochs: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Mean Recall@10 over the epochs, of a variant less another, paired by seed.

    Returns:
        Columns variant, less, estimate, low, high, seeds, p_value and learns: "faster" or "slower"
        where the 95 % interval leaves out zero, else "alike".
    """
    speed = epochs.pivot_table(index="seed", columns="variant", values="val_r10")
    words = {"better": "faster", "worse": "slower", "within noise": "alike"}
    rows = []
    for variant, other in pairs:
        apart = paired_bootstrap(speed[variant], speed[other])
        row = {"variant": variant, "less": other} | asdict(apart)
        rows.append(row | {"learns": words[direction(apart)]})
    return pd.DataFrame(rows).drop(columns="n_clusters").rename(columns={"n": "seeds"})


def summarise_runs(rows: Rows, variants: Iterable[str]) -> pd.DataFrame:
    """What each variant's runs were like, means over seeds (and definitions), one row a variant.

    Columns: variant, code, seeds, Recall@10 and its SD over the seeds, nDCG@10, epochs until the
    mean last Recall@10 of `uniform` (NaN if a seed never has it), loss and gradient norm at the
    last epoch, where its windows begin, their size, their graded relevance and false negatives.
    """
    mined = rows.definitions.dropna(subset="set_size_mean")  # others have no sets
    last, chosen = rows.runs.groupby("variant"), mined.groupby("variant")
    goal = last.val_r10.mean()["uniform"]
    reached = rows.epochs[rows.epochs.val_r10 >= goal]
    first = reached.groupby(["variant", "seed"]).epoch.min().unstack()
    first = first.reindex(columns=rows.runs.seed.unique())
    first = first[last.val_r10.size().reindex(first.index) == first.notna().sum(axis=1)]
    columns = {
        "seeds": last.seed.nunique(),
        "Recall@10 (%)": last.val_r10.mean(),
        "SD": last.val_r10.std(),
        "nDCG@10": _mean(last, "val_ndcg10"),
        "epochs to uniform's last": first.mean(axis=1) + 1,
        "loss": last.loss.mean(),
        "gradient norm": _mean(last, "gradient_norm"),
        "window begins (%)": 100 * _mean(chosen, "window_start_fraction"),
        "images in a set": _mean(chosen, "set_size_mean"),
        "relevance inside": _mean(chosen, "relevance_inside"),
        "false negatives (%)": 100 * _mean(chosen, "false_negative_share"),
    }
    frame = pd.DataFrame(columns).reindex(list(variants))
    named = {"variant": [plain_name(v) for v in frame.index], "code": frame.index}
    return pd.DataFrame(named).join(frame.reset_index(drop=True))


def _mean(groups: Any, column: str) -> pd.Series | float:
    """Means by group; NaN where the data set does not know the column."""
    return groups[column].mean() if column in groups.obj else np.nan


def compare_worlds(worlds: Mapping[str, Rows]) -> pd.DataFrame:
    """Recall@10 of each variant in each world as "mean ± SD" over the seeds; "-": not run there."""
    columns, order = {}, {}
    for world, rows in worlds.items():
        found = rows.runs.groupby("variant").val_r10.agg(["mean", "std", "size"])
        columns[world] = found.apply(_spread, axis=1)
        order |= dict.fromkeys(rows.trained)
    several = min(2, len(columns))
    shared = [v for v in order if sum(v in column for column in columns.values()) >= several]
    table = pd.DataFrame(columns).reindex(shared).fillna("-")
    table.insert(0, "variant", [plain_name(v) for v in table.index])
    return table.reset_index(drop=True)


def _spread(row: pd.Series) -> str:
    """Mean and SD; the number of seeds alone where there is one."""
    return f"{row['mean']:.1f} ± {row['std']:.1f}" if row["size"] > 1 else f"{row['mean']:.1f}"


def compare_live(live: pd.DataFrame, shipped: pd.DataFrame) -> pd.DataFrame:
    """Runs of this machine beside the shipped ones.

    Another processor adds in another order, and training takes such a difference as far as another
    seed would. So a run agrees if it lies within three standard deviations of the shipped seeds, or
    LEAST_TOLERANCE points, of the shipped run.

    Args:
        live, shipped: rows of `runs`.

    Returns:
        Columns variant, code, seed, live, shipped, tolerance (val Recall@10 in points) and verdict:
        "same" (to a tenth of a point), "same but for rounding" (within the tolerance), "differs",
        or "other settings" where no shipped run has these settings.
    """
    rows = []
    for run in live.itertuples():
        seeds = shipped[shipped.variant == run.variant]
        same = seeds[(seeds.seed == run.seed) & (seeds.settings == run.settings)].val_r10
        known = same.iloc[0] if len(same) else np.nan
        spread = 3 * seeds.val_r10.std() if len(seeds) > 1 else 0.0
        tolerance = max(spread, LEAST_TOLERANCE)
        verdict = "same but for rounding" if abs(run.val_r10 - known) <= tolerance else "differs"
        if same.empty:
            verdict = "other settings"
        elif abs(run.val_r10 - known) < 0.1:
            verdict = "same"
        row = {"variant": plain_name(run.variant), "code": run.variant, "seed": run.seed}
        row |= {"live": run.val_r10, "shipped": known, "tolerance": tolerance}
        rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


# Claim -> (variant, the variant that it is to beat).
CONTRASTS = {
    "fig4_all_corpus": ("cosine", "uniform"),
    "fig4_top_k": ("cosine", "top_k"),
    "fig4_after_target": ("cosine", "after_target"),
    "table2_contrast": ("cosine", "in_batch"),
    "ours_released": ("preference", "cosine"),
    "ours_uniform": ("preference", "uniform"),
    "ours_same_sizes": ("preference", "same_sizes"),
    "ours_moved": ("preference", "moved"),
    "ours_in_batch": ("preference", "in_batch"),
}


def measure_claims(rows: Rows) -> dict[str, tuple[str, Interval, str]]:
    """What the study measures of the claims that it can judge; above zero a claim holds.

    Returns:
        Claim -> what was measured in words, its interval, and what n counts. Claims whose variants
        were not trained, or on graded relevance that is not known, are left out.
    """
    measured = {}
    for claim, (variant, other) in CONTRASTS.items():
        if {variant, other} <= set(rows.trained):
            text = f"Recall@10 (points): {plain_name(variant)}, less {plain_name(other)}."
            found = measure_interval(rows.hits, variant, less=other)
            measured[claim] = text, found, "pairs of seed and val query"
    for variant, claims in {
        "cosine": ("fig5_shrinking_sets", "eq7_hard", "eq7_false_negatives"),
        "preference": ("ours_shrinking_sets", "ours_hard", "ours_false_negatives"),
    }.items():
        if variant in rows.trained:
            measured |= dict(zip(claims, _measure_sets(rows, variant), strict=False))
    return measured


def _measure_sets(rows: Rows, variant: str) -> Iterable[tuple[str, Interval, str]]:
    """Shrinking, graded relevance and false negatives of a variant's sets, as far as known."""
    mined = rows.definitions.set_index(["variant", "seed", "epoch"]).sort_index()
    drops, name = mined.loc[variant], plain_name(variant)
    sizes = drops.set_size_mean.unstack()
    shrunk = bootstrap_ci((sizes.iloc[:, 0] - sizes.iloc[:, -1]).to_numpy())
    yield f"Images in the mean set, first definition less last: {name}.", shrunk, "seeds"
    corpus = rows.manifest["mean_relevance"]
    seeds = drops.index.get_level_values("seed")
    if corpus is None:
        return
    above = bootstrap_ci(100 * (drops.relevance_inside - corpus), clusters=seeds)
    text = f"Graded relevance (points) of the sets less the corpus mean: {name}."
    yield text, above, "definitions"
    if "top_k" not in rows.trained:
        return
    both = mined.loc["top_k"].false_negative_share - drops.false_negative_share
    both = 100 * both.dropna()
    fewer = bootstrap_ci(both, clusters=both.index.get_level_values("seed"))
    text = f"False negatives among the negatives (points), best 100 less {name}."
    yield text, fewer, "definitions"


def state_claims(rows: Rows, on: str, caveat: str) -> dict[Claim, Interval]:
    """The claims of `measure_claims` as the page shows them."""
    claims = {}
    for name, (text, interval, unit) in measure_claims(rows).items():
        seeds = interval.n if unit == "seeds" else _seeds(rows, name)
        claims[Claim(name, text, on, seeds, unit, caveat)] = interval
    return claims


def _seeds(rows: Rows, claim: str) -> int:
    """How many seeds a claim covers: those that both of its variants have."""
    variants = CONTRASTS.get(claim, ("preference",) if claim.startswith("ours") else ("cosine",))
    if claim.endswith("false_negatives"):
        variants += ("top_k",)
    return len(set.intersection(*(set(rows.hits.loc[v].index) for v in variants)))


def tabulate_claims(
    measured: Mapping[Claim, Interval], verdicts: Mapping[str, str]
) -> pd.DataFrame:
    """One row a claim: verdict, measured (in words), estimate, low, high, seeds, n, n counts."""
    return pd.DataFrame(
        {
            "verdict": verdicts[claim.name],
            "measured": claim.measure,
            "estimate": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "seeds": claim.seeds,
            "n": interval.n,
            "n counts": claim.unit,
            "claim": claim.name,
        }
        for claim, interval in measured.items()
    )
