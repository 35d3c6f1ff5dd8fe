"""Notebook 01: what is in a data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from report import figures, tables
from torch import Tensor

from qure_lib.datasets.queries import QuerySet, Triplet

from . import method_figures

MOST = 8  # false negatives a query that the figure tells apart


def compare_counts(counts: pd.DataFrame, published: pd.Series, judged: str) -> pd.DataFrame:
    """Put each data set's counts beside the published ones, and judge one data set's by them.

    Args:
        counts: a row a count, a column a data set; see `annotation_counts`.
        published: FashionIQ's counts by name.
        judged: the column that is judged; only "FashionIQ" can be found equal or different.

    Returns:
        Columns count, the data sets, published and verdict (NaN where `judged` lacks the count):
        published counts first, then those of other categories.
    """
    others = [name for name in counts.index if name.endswith(("_images", "_triplets"))]
    counts = counts.reindex(list(dict.fromkeys([*published.index, *others]))).dropna(how="all")
    summary = tables.summarise_counts(counts[judged].dropna())
    same = judged == "FashionIQ"
    compared = tables.compare_with_published(summary, published, same_protocol=same)
    verdict = compared.set_index("measure")["verdict"]
    counts = counts.assign(published=published).astype("Int64").assign(verdict=verdict)
    return counts.rename_axis("count").reset_index()


def describe_captions(triplets: Mapping[str, Sequence[Triplet]]) -> pd.DataFrame:
    """List the relative captions of several data sets.

    Returns:
        One row a triplet: data, category, caption (lower case), words (how many), and repeated:
        100 if another query of the category has the same caption, else 0.
    """
    rows = [
        {"data": name, "category": t.category, "caption": t.caption.lower()}
        for name, listed in triplets.items()
        for t in listed
    ]
    captions = pd.DataFrame(rows)
    captions["words"] = captions["caption"].str.split().str.len()
    captions["repeated"] = 100 * captions.duplicated(["data", "category", "caption"], keep=False)
    return captions


def summarise_captions(captions: pd.DataFrame) -> pd.DataFrame:
    """Summarise `describe_captions` by data set and category: lengths, repetition, vocabulary."""
    groups = captions.groupby(["data", "category"], sort=False)
    summary = groups.agg(
        captions=("caption", "size"),
        median_words=("words", "median"),
        longest=("words", "max"),
        repeated_percent=("repeated", "mean"),
        vocabulary=("caption", lambda texts: len(set(" ".join(texts).split()))),
    )
    return summary.reset_index()


def caption_lengths(captions: pd.DataFrame) -> pd.DataFrame:
    """Share of the captions of each length, in per cent, as `plot_shares` draws it.

    Lines compare the data sets, or the categories where there is only one data set.
    """
    by = "data" if captions["data"].nunique() > 1 else "category"
    shares = 100 * captions.groupby(by, sort=False)["words"].value_counts(normalize=True)
    lengths = shares.rename("share").reset_index()
    lengths = lengths.sort_values([by, "words"], ascending=[by == "category", True])
    return lengths.rename(columns={by: "label", "words": "value"})


def count_false_negatives(relevance: Tensor, target_positions: Tensor) -> Tensor:
    """Count, for each query, the other images that answer it at least as well as its target.

    The reference image is not left out: FashionIQ ranks it like any other, and where a caption
    says little it can fit as well as the target.

    Args:
        relevance: (Q, N) graded relevance; see `load_graded_relevance`.
        target_positions: (Q,) corpus position of each query's target.

    Returns:
        (Q,) int64.
    """
    of_target = relevance.gather(1, target_positions[:, None])
    return (relevance >= of_target).sum(dim=1) - 1


def summarise_false_negatives(
    relevance: Mapping[str, Tensor], counts: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Summarise `count_false_negatives` by category.

    Args:
        relevance: category -> (Q, N) graded relevance.
        counts: category -> (Q,) false negatives.

    Returns:
        One row a category. share_of_pool_percent: the chance that an image drawn uniformly from
        those other than the target is a false negative.
    """
    rows = []
    for category, count in counts.items():
        images, mean = relevance[category].shape[1], count.float().mean().item()
        row = {"category": category, "queries": len(count), "images": images}
        row["queries_with_one_percent"] = 100 * (count > 0).float().mean().item()
        row |= {"mean_count": mean, "most": count.max().item()}
        rows.append(row | {"share_of_pool_percent": 100 * mean / (images - 1)})
    return pd.DataFrame(rows)


def share_with_false_negatives(counts: Mapping[str, Tensor]) -> float:
    """Share (%) of all queries that have a false negative; see `count_false_negatives`."""
    return 100 * torch.cat(list(counts.values())).gt(0).float().mean().item()


def count_faults(integrity: pd.DataFrame) -> dict[str, str]:
    """Each data set's faults in words, "3 dangling ids, 2 repeated pairs"; "" without any.

    Args:
        integrity: columns data, category, split, images, triplets, and a column a kind of fault.
    """
    faults = integrity.drop(columns=["category", "split", "images", "triplets"])
    totals = faults.groupby("data", sort=False).sum()
    return {
        str(name): ", ".join(f"{n} {fault.replace('_', ' ')}" for fault, n in row.items() if n)
        for name, row in totals.iterrows()
    }


def relevance_shares(relevance: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> pd.DataFrame:
    """Distributions of graded relevance and of false negatives, as `plot_shares` draws them.

    Args:
        relevance: category -> (Q, N) graded relevance.
        counts: category -> (Q,) false negatives; those above MOST count as MOST.

    Returns:
        Columns value, label (the category), share (%), panel ("graded relevance" or "false
        negatives").
    """
    panels = {
        "graded relevance": relevance,
        "false negatives": {name: count.clamp(max=MOST) for name, count in counts.items()},
    }
    frames = []
    for panel, values in panels.items():
        shares = {n: pd.Series(v.flatten()).value_counts(normalize=True) for n, v in values.items()}
        frame = 100 * pd.DataFrame(shares).fillna(0).sort_index().rename_axis("value")
        melted = frame.reset_index().melt("value", var_name="label", value_name="share")
        frames.append(melted.assign(panel=panel))
    return pd.concat(frames)


def plot_relevance_shares(axes: Sequence[Axes], shares: pd.DataFrame) -> None:
    """Draw `relevance_shares` on two axes, a panel each; relevance on a logarithmic scale."""
    for ax, (_, panel) in zip(axes, shares.groupby("panel", sort=False), strict=True):
        figures.plot_shares(ax, panel)
    axes[0].set(xlabel="Graded relevance (share of the attributes)", ylabel="Query-image pairs (%)")
    axes[0].set(yscale="log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].set(xlabel="Other images at least as relevant as the target", ylabel="Queries (%)")
    axes[1].set_xticks(range(MOST + 1), [*map(str, range(MOST)), f"{MOST}+"])


def choose_false_negatives(
    queries: Mapping[str, QuerySet], relevance: Mapping[str, Tensor], counts: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Choose, for each category, a query whose target fits best, and up to three false negatives.

    Among equally relevant targets a query with three or more false negatives comes first.

    Returns:
        One row a category: category, relevance_target, reference, caption, target, other_0 to
        other_2 (image ids) and relevance_0 to relevance_2; missing where there are fewer.
    """
    rows = []
    for category, count in counts.items():
        grades, targets = relevance[category], queries[category].target_positions
        of_target = grades.gather(1, targets[:, None])[:, 0]
        query = int((of_target * (count > 0) * 100 + count.clamp(max=3)).argmax())
        fits = (grades[query] >= of_target[query]).nonzero()[:, 0].tolist()
        found = [i for i in fits if i != targets[query]][:3]
        triplet, ids = queries[category].triplets[query], queries[category].corpus.image_ids
        row = {"category": category, "relevance_target": of_target[query].item()}
        row |= {name: getattr(triplet, name) for name in ("reference", "caption", "target")}
        row |= {f"other_{k}": ids[i] for k, i in enumerate(found)}
        rows.append(row | {f"relevance_{k}": grades[query, i].item() for k, i in enumerate(found)})
    return pd.DataFrame(rows)


def plot_false_negatives(
    axes: Sequence[Axes], row: Mapping[str, Any], paths: Mapping[str, Path]
) -> None:
    """Draw a query and its false negatives.

    Args:
        axes: six: reference, caption, target, and up to three others.
        row: one of `choose_false_negatives`.
        paths: image id -> file.
    """
    others = [k for k in range(3) if isinstance(row.get(f"other_{k}"), str)]
    method_figures.plot_query(
        axes[:3], paths[row["reference"]], row["caption"], paths[row["target"]]
    )
    axes[0].set_ylabel(row["category"])
    axes[2].set_xlabel(f"target: {row['relevance_target']:.2f}", fontsize=6.5)
    notes = [f"relevance {row[f'relevance_{k}']:.2f}" for k in others]
    images = [paths[row[f"other_{k}"]] for k in others]
    method_figures.plot_image_strip(axes[3:], images, notes, "false negative")
