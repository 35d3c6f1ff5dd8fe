"""Notebook 03: is the learned temperature a probability's, and what does its curve do by itself?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from report import figures
from report.names import plain_name
from torch import Tensor

from qure_lib import hard_negatives
from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Retriever
from qure_lib.method.scores import relevance_scores


def windows_without_structure(
    temperatures: Sequence[float], n: int = 960, queries: int = 400, spread: float = 0.085
) -> pd.DataFrame:
    """Where either curve puts its windows on scores that were drawn independently.

    Scores are normal with standard deviation `spread`, and the target is one of the best twenty:
    whatever shrinks or moves here has nothing to do with drops.

    Returns:
        One row for the cosine curve, one a temperature: "drops in", temperature, "window begins
        (%)" (median, of the ranking), "images in a set" (mean) and "no pair (%)".
    """
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(queries, n, generator=generator)
    targets = torch.randint(20, (queries,), generator=generator)
    chosen = torch.arange(queries), scores.argsort(dim=1, descending=True)[range(queries), targets]
    rows = []
    for curve, temperature in [("cosine", None), *(("preference", t) for t in temperatures)]:
        _, report = hard_negatives(scores, chosen[1], curve=curve, temperature=temperature)
        row = report.summary()
        rows.append(
            {
                "drops in": curve,
                "temperature": temperature,
                "window begins (%)": 100 * row["window_start_fraction"],
                "images in a set": row["set_size_mean"],
                "no pair (%)": 100 * row["share_no_pair"],
            }
        )
    return pd.DataFrame(rows)


def calibration(
    models: Mapping[str, Retriever],
    queries: Mapping[str, QuerySet],
    relevance: Mapping[str, Tensor],
    pairs: int = 200,
) -> pd.DataFrame:
    """Does the learned temperature give probabilities? Predicted against observed preference.

    For each query `pairs` random pairs of images: the model predicts sigmoid of their difference
    over its temperature; observed is whether the one that it prefers is the more relevant (ties
    count half). Pairs are grouped by tenths of the predicted probability, from 0.5 up.

    Returns:
        Columns label (the model), predicted, observed (means of a group, in %), pairs.
    """
    frames = []
    for name, model in models.items():
        generator = torch.Generator().manual_seed(0)
        for category, known in queries.items():
            images = model.embed_corpus(known.corpus)
            scores = relevance_scores(model.embed_queries(known), images).cpu()
            drawn = torch.randint(scores.shape[1], (2, len(known), pairs), generator=generator)
            apart = scores.gather(1, drawn[0]) - scores.gather(1, drawn[1])
            graded = [relevance[category].gather(1, part) for part in drawn]
            wins = (apart.sign() * (graded[0] - graded[1])).sign() / 2 + 0.5
            sure = torch.sigmoid(apart.abs() / model.model.temperature.item())
            columns = {"predicted": 100 * sure.flatten(), "observed": 100 * wins.flatten()}
            frames.append(pd.DataFrame(columns).assign(label=name))
    frame = pd.concat(frames)
    tenth = pd.cut(frame.predicted, np.linspace(50, 100, 11), include_lowest=True)
    groups = frame.groupby(["label", tenth.rename("tenth")], sort=False, observed=True)
    found = groups[["predicted", "observed"]].mean().assign(pairs=groups.size()).reset_index()
    order = list(models).index
    found = found.sort_values("predicted").drop(columns="tenth")
    return found.sort_values("label", key=lambda label: label.map(order), kind="stable")


def plot_calibration(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Draw `calibration`; on the dashed line what is predicted is what is observed."""
    ax.plot([50, 100], [50, 100], color="0.4", linestyle="--", linewidth=0.9)
    for index, (label, rows) in enumerate(frame.groupby("label", sort=False)):
        style = figures.line_style(str(label), index)
        ax.plot(rows["predicted"], rows["observed"], **style, label=plain_name(label))
    ax.set(xlabel="Preference predicted (%)", ylabel="More relevant one preferred (%)")
    ax.legend()
    return ax
