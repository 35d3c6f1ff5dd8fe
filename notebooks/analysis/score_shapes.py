"""Notebook 08: a map of where the drop rule opens, and the causal test of the curve's shape.

A point of the map is one row: a curve ("cosine", "preference"), how its scores are shaped, how low
its targets rank, and how often its windows open in the best tenth of the ranking. Points come from
drawn families, from the definitions of the study, and from results of `qure_lib.diagnose`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from grids import CORE, OPEN_QUESTIONS, Grid
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from report import figures
from report.claims import Claim, direction
from report.names import plain_name
from report.tables import interval_text

from analysis import ablations
from analysis.ablations import Rows
from analysis.score_families import (
    BOTTOM,
    FAMILIES,
    READY,
    TEMPERATURE,
    TOP,
    draw_family,
    images_at_rank,
)
from qure_lib import diagnose
from qure_lib.evaluation.statistics import Interval
from qure_lib.files import read_json
from qure_lib.method.drops import CURVES

ALIKE = 0.8, 1.25  # gap ratios between these count as alike at both ends
SIDES = {"wider at the bottom": 0, "alike": 1, "wider at the top": 2}  # in the map's order
SHARES = [f"{curve} (%)" for curve in CURVES]
SHIPPED = {"FashionIQ's words": "words_*.json", "photographs": "photographs*.json"}  # kind -> files
YOURS = "your own"
MARKERS = {"independent draws": "o", "clusters": "s", "drawn garments": "D"}
MARKERS |= dict(zip([*SHIPPED, YOURS], "^P*", strict=True))
STRETCHED = [f"other gaps, same order: {curve}" for curve in CURVES]  # questions of the grid
TRIED = [  # the variants of the causal test, each curve as it is first
    variant
    for question in STRETCHED
    for variant in (OPEN_QUESTIONS.baseline(question), *OPEN_QUESTIONS.questions[question])
]
CLASSES = {10: "#440154", 50: "#31688e", 90: "#35b779", 100: "#fde725"}  # up to so many % -> colour

# ---------------------------------------------------------------- points of the map


def map_families(sizes: Sequence[int], shares: Sequence[float], queries: int) -> pd.DataFrame:
    """Points of every family, corpus size and target rank, on both curves.

    Args:
        sizes: numbers of images N.
        shares: the target's rank, in per cent of N. Below 10: no window opens in the best tenth
            under a target that is its last image.
        queries: drawn for each family and size.
    """
    points = []
    for kind, families in FAMILIES.items():
        for family in families:
            for n in sizes:
                scores = draw_family(family, n, queries)
                about = {"kind": kind, "source": family, "images": n, "queries": queries}
                for share in shares:
                    targets = images_at_rank(scores, round(share * n / 100))
                    reports = diagnose.find_windows([(scores, targets, None)], TEMPERATURE)
                    points += read_points(diagnose.summarise({family: reports}), about)
    return pd.DataFrame(points)


def read_points(result: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of what `qure_lib.diagnose` says of some scores: one a curve that it looked at.

    Returns:
        Rows of `about` with curve, skewness, gap_ratio (mean gap in the best tenth over that in the
        worst), set_size (mean), and in per cent: target (its median rank, of N), best_tenth (of the
        windows, those that open there), begins (median, of N), no_pair (of the queries).
    """
    shape, rows = result["shape"], []
    for curve, found in result["curves"].items():
        if found is not None:
            row = {"curve": curve, "skewness": shape["skewness"]}
            row |= {"gap_ratio": shape["gap_ratio_top_to_bottom"]}
            row |= {"target": shape["target_percent"]["median"]}
            row |= {"best_tenth": _percent(found["share_best_tenth"])}
            row |= {"begins": found["window_start"]["percent"]}
            row |= {"set_size": found["set_size"]["mean"]}
            rows.append(dict(about) | row | {"no_pair": _percent(found["share_no_pair"])})
    return rows


def _percent(share: float | None) -> float:
    return np.nan if share is None else 100 * share


def map_definitions(worlds: Mapping[str, Rows]) -> pd.DataFrame:
    """Points of every definition of the two curves' runs, means over the seeds.

    Args:
        worlds: world -> rows whose definitions have the column share_best_tenth.
    """
    points = []
    for world, rows in worlds.items():
        chosen = rows.definitions[rows.definitions.variant.isin(["cosine", "preference"])]
        for (curve, epoch), found in chosen.groupby(["variant", "epoch"], sort=False):
            row = found.mean(numeric_only=True)
            point = {"kind": "drawn garments", "source": f"{world}, epoch {epoch}"}
            point |= {"images": row.corpus_size, "queries": row.queries, "curve": curve}
            point |= {"skewness": row.score_skewness}
            point |= {"gap_ratio": row.gap_top_tenth / row.gap_bottom_tenth}
            point |= {"target": 100 * row.target_rank_median / row.corpus_size}
            point |= {"best_tenth": 100 * row.share_best_tenth}
            point |= {"begins": 100 * row.window_start_fraction, "set_size": row.set_size_mean}
            points.append(point | {"no_pair": 100 * row.share_no_pair})
    return pd.DataFrame(points)


def map_diagnoses(paths: Iterable[str | Path], kind: str = YOURS) -> pd.DataFrame:
    """Points of results of `python -m qure_lib.diagnose`.

    Args:
        paths: JSON files. One that is still called diagnosis.json goes by the name of its folder.
        kind: as the map's legend calls them.

    Raises:
        ValueError: a file is missing, no JSON or no such result; the message names it.
    """
    points = []
    for path in map(Path, paths):
        result = read_json(path, dict)
        name = path.parent.name if path.stem == "diagnosis" else path.stem
        try:
            sizes = pd.DataFrame(result["corpora"])
            about = {"kind": kind, "source": name, "images": sizes.images.mean()}
            points += read_points(result, about | {"queries": sizes.queries.sum()})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no diagnosis ({error}); run {diagnose.COMMAND}") from error
    return pd.DataFrame(points)


def map_shipped(folder: str | Path) -> pd.DataFrame:
    """Points of the diagnoses that this project ships, by kind."""
    paths = {kind: sorted(Path(folder).glob(files)) for kind, files in SHIPPED.items()}
    return pd.concat(map_diagnoses(found, kind) for kind, found in paths.items())


def tabulate_diagnoses(points: pd.DataFrame) -> pd.DataFrame:
    """The points that are no drawn families and no definitions, one row a source."""
    rows = []
    for (kind, source), found in points.groupby(["kind", "source"], sort=False):
        by_curve = found.set_index("curve").reindex(CURVES)
        row = {"kind": kind, "scores of": source}
        row |= {"images": round(found.images.iloc[0]), "gap ratio": found.gap_ratio.iloc[0]}
        row |= {"target (%)": found.target.iloc[0]}
        rows.append(row | dict(zip(SHARES, by_curve.best_tenth, strict=True)))
    return pd.DataFrame(rows)


def tabulate_map(points: pd.DataFrame) -> pd.DataFrame:
    """Windows that open in the best tenth, by kind of scores and by where their gaps are wide.

    Of drawn families only the points whose target ranks within READY per cent count.

    Returns:
        Columns kind, gaps ("wider at the bottom", "alike", "wider at the top"), points (of a
        curve), and means over them by curve: cosine and preference (%), images in a set of either.
    """
    kept = points[(points.target <= READY) | ~points.kind.isin(FAMILIES)]
    gaps = pd.cut(kept.gap_ratio, [0, *ALIKE, np.inf], labels=[*SIDES])
    rows = []
    for (kind, side), found in kept.groupby([kept.kind, gaps], sort=False, observed=True):
        row = {"kind": kind, "gaps": side, "points": (found.curve == "cosine").sum()}
        for measure, name in (("best_tenth", "{} (%)"), ("set_size", "images, {}")):
            means = found.groupby("curve")[measure].mean()
            row |= {name.format(curve): means.get(curve, np.nan) for curve in CURVES}
        rows.append(row)
    order = {kind: number for number, kind in enumerate(dict.fromkeys([*MARKERS, *FAMILIES]))}
    order |= SIDES
    frame = pd.DataFrame(rows)
    return frame.sort_values(["kind", "gaps"], key=lambda c: c.map(order), ignore_index=True)


def state_map(points: pd.DataFrame) -> str:
    """What the map says of scores drawn independently, in a sentence written from its points."""
    table = tabulate_map(points).set_index(["kind", "gaps"]).loc["independent draws"]
    top, bottom = (table.loc[f"wider at the {end}"] for end in ("top", "bottom"))
    released, preference = (
        f"for {top[share]:.0f} % of the queries where the curve's gaps are wider at the top, for "
        f"{bottom[share]:.0f} % where they are wider at the bottom"
        for share in SHARES
    )
    return (
        f"On scores drawn independently, with the target within {READY:g} %, the rule as released "
        f"opens in the best tenth {released}; on the preference curve {preference}."
    )


def state_caveat(rows: Rows | None) -> str:
    """What a reader must know beside the answer; rows: of the causal test, if it was trained."""
    said = (
        "Caveat: scores drawn independently hold no structure, so a window near the top proves "
        "nothing about structure."
    )
    if rows is None:
        return said
    return f"{said} The causal test: drawn data, a small model, {rows.runs.seed.nunique()} seeds."


# ---------------------------------------------------------------- the map, drawn


def plot_map(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Draw the map, an axes a curve: gaps across, the target's rank down, windows as colour.

    Of drawn families a larger mark has more images. Perfectly smooth curves are left out.
    """
    for ax, curve in zip(axes, CURVES, strict=True):
        shown = points[(points.curve == curve) & points.kind.isin(MARKERS)]
        shown = shown.dropna(subset=["gap_ratio", "best_tenth"]).reset_index(drop=True)
        colours = pd.cut(shown.best_tenth, [-1, *CLASSES], labels=[*CLASSES.values()])
        for kind, rows in shown.groupby("kind", sort=False):
            rows = rows.sort_values("images", ascending=False)
            sizes = 7 * rows.images.rank(method="dense") if kind in FAMILIES else 28
            look = {"marker": MARKERS[kind], "c": colours[rows.index].astype(str), "s": sizes}
            target = rows.target.clip(lower=50 / rows.images)  # half an image, for the logarithm
            ax.scatter(rows.gap_ratio, target, **look, edgecolors="black", linewidths=0.5)
        ax.axvline(1.0, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", title=plain_name(curve))
        for axis in (ax.xaxis, ax.yaxis):
            figures.plain_log_ticks(axis)
        ax.set_xlabel("Mean gap, best tenth over worst tenth")
    axes[0].invert_yaxis()  # shared
    axes[0].set_ylabel("Median rank of the target (% of N)")


def legend_of_map(figure: Figure, points: pd.DataFrame) -> None:
    """What the marks and the colours of `plot_map` stand for, above the figure."""
    marks = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 5}
    shapes = {kind: (MARKERS[kind], "white") for kind in MARKERS if kind in set(points.kind)}
    bounds = zip([0, *CLASSES], CLASSES.items(), strict=False)
    colours = {f"{low}-{high} %": ("o", colour) for low, (high, colour) in bounds}
    for place, entries, title in (
        ("outside upper center", shapes, ""),
        ("outside lower center", colours, "Windows that open in the best tenth"),
    ):
        handles = [
            plt.Line2D([], [], marker=marker, markerfacecolor=colour, **marks)
            for marker, colour in entries.values()
        ]
        figure.legend(handles, [*entries], loc=place, ncols=len(entries), title=title or None)


# ---------------------------------------------------------------- the causal test


def load_worlds(folder: str | Path, grid: Grid = OPEN_QUESTIONS) -> dict[str, Rows]:
    """World -> its rows of a grid, from the grid's folder; empty where nothing was trained yet."""
    folders = sorted(path.parent for path in Path(folder).glob("*/runs.csv"))
    worlds = {path.name: ablations.load_rows(grid, path) for path in folders}
    return {name.removeprefix("synthfashion-"): rows for name, rows in worlds.items()}


def measure_stretch(rows: Rows) -> dict[str, Interval]:
    """Recall@10 with the cosine's top and bottom stretched less the rule as released, if trained.

    Returns:
        TOP and BOTTOM -> the difference in points; empty unless all three variants have a seed in
        common.
    """
    trained = [set(rows.hits.loc[v].index) for v in ("cosine", TOP, BOTTOM) if v in rows.trained]
    if len(trained) < 3 or not set.intersection(*trained):
        return {}
    return {v: ablations.measure_interval(rows.hits, v, less="cosine") for v in (TOP, BOTTOM)}


def judge_shape(measured: Mapping[str, Interval]) -> str:
    """Whether the shape of the curve decides, by the rule of docs/study.md, with both intervals.

    Args:
        measured: of `measure_stretch`.
    """
    if not measured:
        return "Whether the shape of the curve decides is not known: its runs are not trained yet."
    texts = {v: interval_text(m.estimate, m.low, m.high) for v, m in measured.items()}
    found = (
        f"stretching the top changes the Recall@10 of the rule as released by {texts[TOP]} points, "
        f"stretching the bottom by {texts[BOTTOM]}."
    )
    top, bottom = (direction(measured[v]) == "better" for v in (TOP, BOTTOM))
    if top and not bottom:
        return f"The shape of the curve decides: {found}"
    return f"That the shape of the curve decides is not said: {found}"


def tabulate_variants(rows: Rows, variants: Iterable[str]) -> pd.DataFrame:
    """What each trained variant reached and where its windows opened, over seeds and definitions.

    Returns:
        Columns variant, code, seeds, Recall@10 (%) and the difference from the same curve as it is
        (both with 95 % intervals; "-" for that), begins (%), in best tenth (%), images (in a set).
    """
    differences = ablations.compare_variants(rows, STRETCHED)
    apart = differences.set_index("label") if len(differences) else differences
    mined = rows.definitions.groupby("variant").mean(numeric_only=True)
    lines = []
    for variant in (v for v in variants if v in rows.trained):
        ends = ablations.measure_interval(rows.hits, variant)
        line = {"variant": plain_name(variant), "code": variant}
        line |= {"seeds": len(rows.hits.loc[variant])}
        line |= {"Recall@10 (%)": interval_text(ends.estimate, ends.low, ends.high)}
        line["less the curve as it is"] = "-"
        if variant in apart.index:
            found = apart.loc[variant, ["estimate", "low", "high"]]
            line["less the curve as it is"] = interval_text(*found)
        place = mined.loc[variant]
        line |= {"begins (%)": 100 * place.window_start_fraction}
        line |= {"in best tenth (%)": 100 * place.share_best_tenth, "images": place.set_size_mean}
        lines.append(line)
    return pd.DataFrame(lines)


def compare_attributes(worlds: Mapping[str, Sequence[Rows]]) -> pd.DataFrame:
    """Core variants and those of the causal test that were trained in every world, side by side.

    Args:
        worlds: world -> rows of one or several grids; a run that two grids share counts once.

    Returns:
        Columns variant, code, and for each world "Recall@10, ..." and "begins (%), ..." (NaN
        without windows), means over the seeds.
    """
    columns: dict[str, pd.Series] = {}
    for world, grids in worlds.items():
        runs = pd.concat(rows.runs for rows in grids).drop_duplicates(["variant", "seed"])
        mined = pd.concat(rows.definitions for rows in grids)
        mined = mined.drop_duplicates(["variant", "seed", "epoch"]).groupby("variant")
        columns[f"Recall@10, {world}"] = runs.groupby("variant").val_r10.mean()
        columns[f"begins (%), {world}"] = 100 * mined.window_start_fraction.mean()
    recalls = [column for column in columns if column.startswith("Recall")]
    frame = pd.DataFrame(columns).reindex(dict.fromkeys([*CORE, *TRIED])).dropna(subset=recalls)
    named = {"variant": [plain_name(v) for v in frame.index], "code": frame.index}
    return pd.DataFrame(named).join(frame.reset_index(drop=True))


def state_claim(measured: Mapping[str, Interval], rows: Rows) -> Claim:
    """The claim that wider gaps at the top help, as the page shows it; judged by TOP's interval."""
    bottom = measured[BOTTOM]
    text = interval_text(bottom.estimate, bottom.low, bottom.high)
    seeds = set.intersection(*(set(rows.hits.loc[v].index) for v in ("cosine", TOP)))
    return Claim(
        "ours_shape",
        f"Recall@10 (points): {plain_name(TOP)}, less {plain_name('cosine')}.",
        rows.manifest["world"],
        len(seeds),
        "pairs of seed and val query",
        f"Drawn data, a small model. With the bottom stretched instead: {text} points.",
    )
