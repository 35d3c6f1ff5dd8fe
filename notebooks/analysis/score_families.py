"""Notebook 08: families of drawn score curves, and how stable the drop rule is on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from report import figures
from report.names import plain_name
from scipy import stats
from torch import Tensor

from analysis.strategies import stretch
from qure_lib.evaluation.statistics import bootstrap_ci
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import choose

SPREAD = 0.085  # standard deviation of a query's scores: the mini model's, as in preference_curve
TEMPERATURE = 0.045  # of the preference curve: about what the mini model learns in the study
CLUSTERS = 30  # so that the best one holds less than a tenth of the images
READY = 1.0  # per cent of N: the study's strong start has its median target within so much
TOP, BOTTOM = "top_stretched_2", "bottom_stretched_2"  # what the protocol's rule names
STRETCHES = {BOTTOM: -2.0, "cosine": 0.0, "top_stretched_1": 1.0, TOP: 2.0}  # variant -> k
PARTS = 20  # of a ranking, over which gaps are averaged
WAYS = {  # of choosing hard negatives, whose stability is measured
    "cosine": MiningConfig(),
    "preference": MiningConfig(curve="preference", temperature=TEMPERATURE),
    "after_target": MiningConfig("after_target_top_k"),
}
Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # (generator, Q, N) -> (Q, N) scores


def _independent(distribution: Any) -> Draw:
    """Every score drawn by itself: no drop of such a curve means anything."""
    return lambda rng, q, n: distribution.rvs(size=(q, n), random_state=rng)


def _smooth(distribution: Any) -> Draw:
    """Evenly spaced quantiles of a distribution: its shape without chance, the same Q times."""
    return lambda rng, q, n: np.tile(distribution.ppf((np.arange(n) + 0.5) / n), (q, 1))


def _clusters(width: float) -> Draw:
    """CLUSTERS normal centres, each image at one of them; `width` is in mean distances of two."""

    def draw(rng: np.random.Generator, q: int, n: int) -> np.ndarray:
        centres = np.sort(rng.normal(size=(q, CLUSTERS)), axis=1)
        apart = np.diff(centres, axis=1).mean(axis=1, keepdims=True)
        chosen = np.take_along_axis(centres, rng.integers(CLUSTERS, size=(q, n)), axis=1)
        return chosen + width * apart * rng.normal(size=(q, n))

    return draw


FAMILIES: dict[str, dict[str, Draw]] = {  # kind -> family -> how its scores are drawn
    "independent draws": {
        "skew-normal, long bottom": _independent(stats.skewnorm(-8)),
        "Gumbel, long bottom": _independent(stats.gumbel_l),
        "beta (5, 2)": _independent(stats.beta(5, 2)),
        "normal": _independent(stats.norm),
        "uniform": _independent(stats.uniform),
        "beta (2, 5)": _independent(stats.beta(2, 5)),
        "skew-normal, long top": _independent(stats.skewnorm(8)),
        "Gumbel, long top": _independent(stats.gumbel_r),
    },
    "clusters": {
        "clusters, sharp": _clusters(0.01),
        "clusters, blurred": _clusters(0.3),
        "clusters, melted": _clusters(1.0),
    },
    "perfectly smooth": {
        "smooth Gumbel, long bottom": _smooth(stats.gumbel_l),
        "smooth normal": _smooth(stats.norm),
        "smooth Gumbel, long top": _smooth(stats.gumbel_r),
    },
}
DRAWN = {family: draw for families in FAMILIES.values() for family, draw in families.items()}


def draw_family(family: str, n: int, queries: int, seed: int = 0) -> Tensor:
    """(Q, N) scores of a family, each query's with mean 0 and standard deviation SPREAD."""
    scores = DRAWN[family](np.random.default_rng(seed), queries, n)
    centred = scores - scores.mean(axis=1, keepdims=True)
    return torch.from_numpy(SPREAD * centred / centred.std(axis=1, keepdims=True))


def images_at_rank(scores: Tensor, rank: int) -> Tensor:
    """(Q,) corpus position of the image at a rank of each query's (Q, N) scores."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, rank]


def list_gaps(families: Sequence[str], n: int, queries: int) -> pd.DataFrame:
    """Where the curves of families have their gaps, by parts of the ranking.

    Returns:
        Columns label (the family), place (middle of the part, per cent of the ranking), gap (mean
        over the part, in mean gaps of the whole curve).
    """
    return _list_gaps({family: draw_family(family, n, queries) for family in families})


def list_stretched(family: str, n: int, queries: int) -> pd.DataFrame:
    """The same of one family's scores as mining sees them in the causal test, by variant."""
    scores = draw_family(family, n, queries)
    return _list_gaps({variant: stretch(scores, k) for variant, k in STRETCHES.items()})


def _list_gaps(curves: Mapping[str, Tensor]) -> pd.DataFrame:
    frames = []
    place = 100 * (np.arange(PARTS) + 0.5) / PARTS
    for label, scores in curves.items():
        gaps = -np.diff(scores.sort(dim=1, descending=True).values.mean(dim=0).numpy())
        means = [part.mean() / gaps.mean() for part in np.array_split(gaps, PARTS)]
        frames.append(pd.DataFrame({"label": label, "place": place, "gap": means}))
    return pd.concat(frames)


def plot_gaps(axes: Sequence[Axes], frames: Sequence[pd.DataFrame]) -> None:
    """Draw `list_gaps` and `list_stretched`, a frame an axes and a line a label."""
    for ax, frame in zip(axes, frames, strict=True):
        for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
            style = figures.line_style(label, index) | {"marker": ""}
            ax.plot(rows.place, rows.gap, **style, label=plain_name(label))
        ax.set(yscale="log", xlabel="Place in the ranking (%, 0 = best)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes[0].set_ylabel("Gap to the next (mean gap = 1)")


# ---------------------------------------------------------------- structure and stability


def state_blind(table: pd.DataFrame) -> str:
    """What `preference_curve.windows_without_structure` found, in a sentence."""
    rows = table[table["drops in"] == "preference"].sort_values("temperature")
    begins, sizes, (low, high) = (
        rows[column].iloc[[0, -1]]
        for column in ("window begins (%)", "images in a set", "temperature")
    )
    return (
        f"Without structure, on the preference curve, at temperature {high:.2g} down to {low:.2g}: "
        f"the median window begins at {begins.iloc[1]:.1f} %, in the end at {begins.iloc[0]:.1f} % "
        f"of the ranking; the mean set goes from {sizes.iloc[1]:.0f} to {sizes.iloc[0]:.0f} images."
    )


def measure_stability(
    families: Sequence[str], noises: Sequence[float], n: int, queries: int
) -> pd.DataFrame:
    """How much of a set stays when the scores get noise; the target ranks at READY per cent.

    Args:
        noises: standard deviations of normal noise on every score, in per cent of SPREAD.

    Returns:
        Columns family, label (a way of WAYS), noise, mean, low, high: the mean Jaccard index of the
        sets before and after (in per cent, 95 % over queries), of queries with a set in either.
    """
    rows = []
    for family in families:
        scores = draw_family(family, n, queries)
        targets = images_at_rank(scores, round(READY * n / 100))
        for way, config in WAYS.items():
            before = mask_sets(scores, targets, config)
            for noise in noises:
                generator = torch.Generator().manual_seed(1)
                drawn = torch.randn(scores.shape, generator=generator, dtype=scores.dtype)
                after = mask_sets(scores + noise * SPREAD / 100 * drawn, targets, config)
                both, either = (before & after).sum(dim=1), (before | after).sum(dim=1)
                shared = (100 * both / either)[either > 0].numpy()
                row = {"family": family, "label": way, "noise": noise}
                found = bootstrap_ci(shared) if len(shared) > 1 else None
                ends = (found.estimate, found.low, found.high) if found else [np.nan] * 3
                rows.append(row | dict(zip(("mean", "low", "high"), ends, strict=True)))
    return pd.DataFrame(rows)


def mask_sets(scores: Tensor, targets: Tensor, config: MiningConfig) -> Tensor:
    """(Q, N) whether an image is one of the query's hard negatives."""
    chosen, described, _ = choose(scores, targets, config)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    query = torch.arange(len(scores)).repeat_interleave(torch.tensor(described.set_size.to_numpy()))
    mask[query, chosen] = True
    return mask


def plot_stability(axes: Sequence[Axes], frame: pd.DataFrame) -> None:
    """Draw `measure_stability`, an axes a family."""
    for ax, (family, rows) in zip(axes, frame.groupby("family", sort=False), strict=True):
        figures.plot_bands(ax, rows, columns=("noise", "mean", "low", "high"))
        ax.get_legend().remove()
        ax.set(xscale="log", ylim=(-2, 102), title=family)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("Noise (% of the spread)")
    axes[0].set_ylabel("Jaccard of the sets (%)")
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=3)
