"""Notebook 07: images that fit a query and count as wrong, in top tens and among negatives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from report import figures
from report.names import plain_name
from report.tables import interval_text
from torch import Tensor

from analysis.ablations import Rows
from analysis.ladder import compare_scorers, rate_ladder
from analysis.scorers import holds_target
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.loading import (
    check_choice,
    check_entries,
    distinct_strings,
    real_annotations,
)
from qure_lib.datasets.queries import QuerySet
from qure_lib.datasets.soft import Labels, load_soft_labels
from qure_lib.evaluation.cirr import read_cirr
from qure_lib.evaluation.fashioniq import read_fashioniq
from qure_lib.evaluation.metrics import recall_at_k
from qure_lib.evaluation.ranking_files import Rankings
from qure_lib.evaluation.soft import score_soft
from qure_lib.evaluation.statistics import Interval, bootstrap_ci, paired_bootstrap
from qure_lib.evaluation.target_ranks import rank_images
from qure_lib.features.retriever import Embedder, Retriever
from qure_lib.files import read_json
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import DEFAULT_MEMORY, rank_corpus
from qure_lib.train.training_data import TrainingData

from .method_figures import plot_image, plot_query

CANDIDATES = {"ref_image_name": str, "target_image_name": str, "top_k_names": list}
PICKERS = {  # whose picks are looked at on val; the preference curve needs the temperature
    "uniform": None,
    "cosine": MiningConfig(),
    "preference": MiningConfig(curve="preference"),
    "window_100": MiningConfig(search_window=100),
    "top_k": MiningConfig("top_k"),
}


def as_good(queries: QuerySet, relevance: Tensor) -> Tensor:
    """(Q, N) whether an image fits its query at least as well as the target, which it is not.

    Args:
        relevance: (Q, N) graded relevance.
    """
    targets = queries.target_positions[:, None]
    return (relevance >= relevance.gather(1, targets)).scatter(1, targets, False)


def labelled(queries: QuerySet, labels: Labels) -> tuple[QuerySet, Tensor]:
    """The labelled queries, and (Q, N) which images besides the target fit them."""
    kept = tuple(t for t in queries.triplets if t.query_id in labels)
    fits = torch.zeros(len(kept), len(queries.corpus), dtype=torch.bool)
    for row, triplet in enumerate(kept):
        fits[row, queries.corpus.positions(sorted(labels[triplet.query_id] - {triplet.target}))] = 1
    return replace(queries, triplets=kept), fits


def expected_in_batch(data: TrainingData) -> float:
    """Chance that a target of another query of the batch fits a query as well as its own, in %.

    A batch holds queries of all categories, and a target of another category never fits.
    """
    total = sum(map(len, data.train.values()))
    found = 0.0
    for category, queries in data.train.items():
        fits = as_good(queries, data.relevance[category])
        others = fits[:, queries.target_positions].double()  # of each query: those of the others
        found += others.sum().item() / (total - 1)
    return 100 * found / total


def expected_uniform(data: TrainingData) -> float:
    """Chance that an image of the pool other than the target fits as well as it does, in %."""
    shares = [
        as_good(queries, data.relevance[category]).double().sum(dim=1) / (len(queries.corpus) - 1)
        for category, queries in data.train.items()
    ]
    return 100 * torch.cat(shares).mean().item()


def count_exactly(rows: Rows, data: TrainingData | None, variants: Iterable[str]) -> pd.DataFrame:
    """False negatives of trained variants, from the study's rows, as means over its seeds.

    Args:
        data: the world of the rows; without it uniform and in-batch negatives are not counted.

    Returns:
        One row a variant: label, seeds, recall (Recall@10, %), top10 (false negatives in a val
        query's top ten) with low and high (their range over the seeds), and negatives (%): how many
        of those drawn are false, over all definitions; of uniform and in-batch negatives exactly.
    """
    chances = dict.fromkeys(("uniform", "in_batch"), np.nan)
    if data is not None:
        chances = {"uniform": expected_uniform(data), "in_batch": expected_in_batch(data)}
    mined = 100 * rows.definitions.groupby("variant").false_negative_share.mean()
    lines = []
    for variant in (v for v in variants if v in rows.trained):
        runs = rows.runs[rows.runs.variant == variant]
        counts, share = runs.val_false_negatives10, chances.get(variant, mined.get(variant))
        line = {"label": variant, "seeds": len(runs), "recall": runs.val_r10.mean()}
        line |= {"top10": counts.mean(), "low": counts.min(), "high": counts.max()}
        lines.append(line | {"negatives": share})
    return pd.DataFrame(lines)


def false_negatives_by_strategy(rows: Rows, a: str, b: str) -> Interval:
    """Share of false negatives among the negatives of a, less that of b, in points, by seed."""
    shares = 100 * rows.definitions.groupby(["variant", "seed"]).false_negative_share.mean()
    both = pd.concat([shares[a], shares[b]], axis=1).dropna()
    return paired_bootstrap(*both.to_numpy().T)


def signature(in_groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Recall among all images beside recall within the query's group of six, by model.

    Args:
        in_groups: model -> one row a query with rank and subset_rank (0 to 4), in CIRR's layout.

    Returns:
        One row a model: model (in words), Recall@10 and Recall_subset@1 in per cent, "found, but
        another of its group above it (%)", of the queries whose target is in the first ten.
    """
    lines = []
    for name, frame in in_groups.items():
        found, first = recall_at_k(frame["rank"], 10), recall_at_k(frame["subset_rank"], 1)
        missed = 100 * (found * (1 - first)).sum() / max(found.sum(), 1)
        line = {"model": plain_name(name), "Recall@10 (%)": 100 * found.mean()}
        line |= {"Recall_subset@1 (%)": 100 * first.mean()}
        lines.append(line | {"found, but another of its group above it (%)": missed})
    return pd.DataFrame(lines)


def read_candidates(path: str | Path, queries: QuerySet) -> Rankings:
    """CLIP's twenty best images of each FashionIQ val query, as SoFT's authors released them.

    Raises:
        ValueError: the file is missing or broken, or is not about these queries.
    """
    entries = check_entries(Path(path), read_json(Path(path)), CANDIDATES)
    found = {}
    for place, entry in entries:
        pair = entry["ref_image_name"], entry["target_image_name"]
        found[pair] = [*distinct_strings(entry, "top_k_names", str, place)]
    wanted = {t.query_id: (t.reference, t.target) for t in queries.triplets}
    if missing := [q for q, pair in wanted.items() if pair not in found]:
        raise ValueError(f"{path}: no ranking of {len(missing)} queries, the first {missing[0]}")
    return {query: found[pair] for query, pair in wanted.items()}


def load_real(
    dataset: str,
) -> tuple[dict[str, QuerySet], dict[str, Labels], dict[str, dict[str, Rankings]]]:
    """FashionIQ's or CIRR's real val queries, SoFT's labels of them, and the ranking at hand.

    Args:
        dataset: "fashioniq" or "cirr".

    Returns:
        Category -> queries, category -> labels, and name -> category -> rankings: CLIP's by the
        caption alone, of FashionIQ. All empty unless QURE_DATA holds the data set and soft/.

    Raises:
        ValueError: a file is broken, or another data set.
    """
    check_choice("labels_of", dataset, ("fashioniq", "cirr"))
    folder, soft = real_annotations(dataset), real_annotations("soft")
    if None in (folder, soft):
        return {}, {}, {}
    if dataset == "cirr":
        real, found = {"cirr": load_cirr(folder, images=False)}, {}
    else:
        real = load_fashioniq(folder, "val", images=False)
        files = {c: soft / f"mt_candidates_{c}_by_joined_query_20.json" for c in real}
        lists = {c: read_candidates(files[c], q) for c, q in real.items()}
        found = {"CLIP, caption alone": lists}
    return real, {c: load_soft_labels(soft, q) for c, q in real.items()}, found


def summarise_labelled(
    rankings: Mapping[str, Rankings],
    labels: Mapping[str, Labels],
    query_sets: Mapping[str, QuerySet],
) -> pd.DataFrame:
    """What a ranking scores if all labelled images count, beside the single target.

    Args:
        rankings, labels, query_sets: by category.

    Returns:
        One row a category, then "mean" of them if there are several, with 95 % intervals over
        queries as text: category, target in top 10 (%), any in top 10 (%), others in top 10
        (labelled images beside the target), mAP@10 (%), nDCG@10 (%), queries.
    """
    scored = pd.concat(score_soft(rankings[c], labels[c], q) for c, q in query_sets.items())
    hit = recall_at_k(scored["rank"], 10)
    columns = {
        "target in top 10 (%)": 100 * hit,
        "any in top 10 (%)": 100.0 * ((hit > 0) | (scored["others"] > 0)),
        "others in top 10": scored["others"],
        "mAP@10 (%)": 100 * scored["ap"],
        "nDCG@10 (%)": 100 * scored["ndcg"],
    }
    sizes = scored.groupby("category", sort=False)["rank"].transform("size")
    parts = {name: scored["category"] == name for name in scored["category"].unique()}
    parts |= {"mean": sizes > 0} if len(parts) > 1 else {}
    rows = []
    for name, counts in parts.items():
        found = {c: bootstrap_ci(values, counts / sizes) for c, values in columns.items()}
        row = {c: interval_text(i.estimate, i.low, i.high) for c, i in found.items()}
        others = found["others in top 10"]
        row["others in top 10"] = interval_text(others.estimate, others.low, others.high, ".2f")
        rows.append({"category": name} | row | {"queries": int(counts.sum())})
    return pd.DataFrame(rows)


def rank_real(
    dataset: str,
    query_sets: Mapping[str, QuerySet],
    embedders: Mapping[str, Embedder],
    ranking: str | Path | None = None,
) -> dict[str, dict[str, Rankings]]:
    """Rankings of real val queries, by the protocol of their data set.

    Args:
        dataset: "fashioniq" or "cirr", whose protocol leaves the reference out.
        query_sets: its val queries, by category.
        embedders: name -> a model or saved embeddings.
        ranking: a file of rankings, as the evaluation command takes it.

    Returns:
        Name (of an embedder, or of the file) -> category -> rankings of 20 images or more.

    Raises:
        ValueError: as the readers of ranking files.
    """
    alone, found = dataset == "cirr", {}
    for name, embedder in embedders.items():
        found[name] = {
            category: rank_images(embedder, queries, 20, DEFAULT_MEMORY, alone)
            for category, queries in query_sets.items()
        }
    if ranking is not None and alone:
        found[Path(ranking).stem] = {c: read_cirr(ranking, q)[1] for c, q in query_sets.items()}
    elif ranking is not None:
        found[Path(ranking).stem] = read_fashioniq(ranking, query_sets)
    return found


def share_of_picks(
    embedder: Embedder, queries: QuerySet, fits: Tensor, temperature: float | None
) -> pd.DataFrame:
    """How many of each strategy's picks fit their query, mined on val for this analysis alone.

    Args:
        fits: (Q, N) which images besides the target fit.
        temperature: of the preference curve, which is left out without one.

    Returns:
        One row a query and strategy: query_id, strategy, picks, share (of picks that fit, in %;
        of all other images for `uniform` and where a query has no pair of drops).
    """
    embedded = embedder.embed_queries(queries), embedder.embed_corpus(queries.corpus)
    anywhere = 100 * fits.double().sum(dim=1).numpy() / (fits.shape[1] - 1)
    about = {"query_id": [t.query_id for t in queries.triplets]}
    frames = [pd.DataFrame(about | {"strategy": "uniform", "picks": 0, "share": anywhere})]
    for name, config in PICKERS.items():
        if config is None or (config.curve == "preference" and temperature is None):
            continue
        mining = replace(config, temperature=temperature)
        sets, _ = mine_hard_negatives(*embedded, queries.target_positions, mining)
        owner = torch.repeat_interleave(sets.sizes)
        hits = torch.bincount(owner, fits[owner, sets.negatives].double(), len(queries)).numpy()
        sizes = sets.sizes.numpy()
        share = np.where(sizes > 0, 100 * hits / np.maximum(sizes, 1), anywhere)
        columns = {"strategy": name, "picks": sizes, "share": share}
        frames.append(pd.DataFrame(about | columns))
    return pd.concat(frames, ignore_index=True)


def summarise_picks(picks: pd.DataFrame) -> pd.DataFrame:
    """`share_of_picks` by strategy, with its 95 % interval over queries.

    Returns:
        One row a strategy: strategy (in words), picks a query (median), "of them fit (%)" with its
        interval as text, and queries.
    """
    lines = []
    for name, rows in picks.groupby("strategy", sort=False):
        found, count = bootstrap_ci(rows["share"]), rows["picks"].median()
        line = {"strategy": plain_name(name), "picks a query": f"{count:.0f}" if count else "-"}
        text = interval_text(found.estimate, found.low, found.high, ".2f")
        lines.append(line | {"of them fit (%)": text, "queries": found.n})
    return pd.DataFrame(lines)


def people_and_labels(
    judged: pd.DataFrame, counted: Mapping[str, np.ndarray], seed: int = 0
) -> pd.DataFrame:
    """Is the set with more labelled images the preferred one?

    Args:
        judged: of `load_hp_fashioniq`.
        counted: of `scorers.labelled_images`.

    Returns:
        One row a question: more of, rows (that differ), agree (of them), estimate, low, high (%)
        and n_clusters: the wider of the intervals over participants and over queries, as in
        notebook 06.
    """
    target = holds_target(judged)
    undecided = target[:, 0] == target[:, 1]
    aside = counted["labelled, target aside"]
    asked = dict(counted) | {
        "labelled, target in both or neither": np.where(undecided[:, None], aside, 0),
        "the target": target,
    }
    results = compare_scorers(judged, asked)
    rates = rate_ladder(judged, results, seed)
    rates = rates[(rates.rate == "two-sided") & (rates.over == "rows it decides")]
    rates = rates.set_index("scorer")
    return pd.DataFrame(
        {
            "more of": name,
            "rows": int(result.decides.sum()),
            "agree": int(result.agrees[result.decides].sum()),
        }
        | rates.loc[name, ["estimate", "low", "high", "n_clusters"]].to_dict()
        for name, result in results.items()
    )


def agreement_less_half(people: pd.DataFrame, scorer: str) -> Interval:
    """How often people prefer the set with more, less 50 %, by a row of `people_and_labels`."""
    row = people.set_index("more of").loc[scorer]
    ends = (float(row[end]) - 50 for end in ("estimate", "low", "high"))
    return Interval(*ends, int(row["rows"]), int(row["n_clusters"]))


def choose_query(models: Mapping[str, Retriever], queries: QuerySet, relevance: Tensor) -> int:
    """The first query with the median number of false negatives in the models' top tens.

    Of those alone that have any, and whose target fits in full if there are such: where the
    caption leaves out what the target changes, an image that changes nothing fits as well as it.
    """
    fits, counts = as_good(queries, relevance), torch.zeros(len(queries))
    for model in models.values():
        embedded = model.embed_queries(queries), model.embed_corpus(queries.corpus)
        for rows, ranking in rank_corpus(*embedded):
            counts[rows] += fits[rows].gather(1, ranking.order[:, :10].cpu()).sum(dim=1)
    whole = relevance.gather(1, queries.target_positions[:, None])[:, 0] == 1
    counts = torch.where(whole, counts, 0) if counts[whole].any() else counts
    some = counts[counts > 0]
    if not len(some):
        raise ValueError("no top ten holds an image that fits as well as the target")
    return int((counts == some.quantile(0.5, interpolation="nearest")).nonzero()[0])


def top_ten(
    models: Mapping[str, Retriever], queries: QuerySet, relevance: Tensor, query: int
) -> pd.DataFrame:
    """One query's ten best images by each model.

    Returns:
        One row an image: model, rank, position (in the corpus), image (its id), relevance, zone
        ("target", "false negative" or "below").
    """
    fits, target = as_good(queries, relevance)[query], int(queries.target_positions[query])
    one = replace(queries, triplets=queries.triplets[query : query + 1])
    rows = []
    for name, model in models.items():
        embedded = model.embed_queries(one), model.embed_corpus(queries.corpus)
        _, ranking = next(rank_corpus(*embedded))
        for rank, position in enumerate(ranking.order[0, :10].tolist()):
            zone = "false negative" if fits[position] else "below"
            row = {"model": name, "rank": rank, "position": position}
            row |= {"image": queries.corpus.image_ids[position]}
            row["relevance"] = float(relevance[query, position])
            rows.append(row | {"zone": "target" if position == target else zone})
    return pd.DataFrame(rows)


def new_strips(count: int) -> tuple[Figure, np.ndarray]:
    """A page-wide figure of a query and `count` rows of ten images, with its (1 + count, 10) axes.

    The layout is fixed: titles are wider than their images.
    """
    figure, axes = plt.subplots(1 + count, 10, figsize=(figures.PAGE_WIDTH, 0.88 * (1 + count)))
    figure.set_layout_engine(
        PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    )
    places = {"left": 0.01, "right": 0.99, "top": 0.96, "bottom": 0.06}
    figure.subplots_adjust(**places, wspace=0.08, hspace=0.55)
    return figure, axes


def plot_top_tens(
    axes: np.ndarray, queries: QuerySet, query: int, tops: pd.DataFrame
) -> np.ndarray:
    """Show a query, and below it a row of ten images a model.

    Args:
        axes: (1 + models, 10) of `new_strips`.
        tops: of `top_ten`.
    """
    triplet = queries.triplets[query]
    pair = queries.images[triplet.reference], queries.images[triplet.target]
    for ax in axes[0]:
        ax.set_axis_off()
    ends = axes[0, [0, 4]]  # the caption has three columns between them
    for ax in ends:
        ax.set_axis_on()
    plot_query([ends[0], axes[0, 2], ends[1]], pair[0], triplet.caption, pair[1])
    for row, (model, images) in zip(axes[1:], tops.groupby("model", sort=False), strict=True):
        count = (images.zone == "false negative").sum()
        for ax, image in zip(row, images.itertuples(), strict=True):
            plot_image(
                ax, queries.corpus.paths[image.position], f"{image.relevance:.2f}", image.zone
            )
        title = f"{plain_name(model)}: {count} false negative{'' if count == 1 else 's'}"
        row[0].set_title(title, loc="left", fontsize=7, pad=3)
    return axes


def plot_counts(axes: Sequence[Axes], counted: pd.DataFrame) -> None:
    """Draw `count_exactly`: the top ten on the first axes, the negatives on the second."""
    for y, row in enumerate(counted.itertuples()):
        style = figures.line_style(row.label, y) | {"linestyle": ""}
        axes[0].hlines(y, row.low, row.high, color=style["color"])
        axes[0].plot(row.top10, y, **style)
        axes[1].plot(row.negatives, y, **style)
    names = [plain_name(label) for label in counted.label]
    for ax in axes:
        ax.set(ylim=(len(names) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names)
        ax.set_xlim(left=0)
        ax.grid(axis="x", linewidth=0.4, color="0.9")
    axes[0].set(ylabel="Negatives in training", xlabel="False negatives in the top ten (images)")
    axes[1].set(xlabel="False negatives drawn (%)")
    axes[1].tick_params(labelleft=False)


def describe(counted: pd.DataFrame, people: pd.DataFrame) -> list[str]:
    """The answer in sentences, as far as it is known.

    Args:
        counted: of `count_exactly`, or empty. people: of `people_and_labels`, or empty.
    """
    said = []
    if len(counted):
        best, worst = (counted.loc[i] for i in (counted.top10.idxmax(), counted.top10.idxmin()))
        said.append(
            f"Drawn garments, counted exactly: {plain_name(best.label)} has most false negatives "
            f"in the top ten ({best.top10:.2f} a query, Recall@10 {best.recall:.1f} %), "
            f"{plain_name(worst.label)} fewest ({worst.top10:.2f}, Recall@10 {worst.recall:.1f} %)."
        )
        drawn = counted.set_index("label").negatives
        known = drawn.dropna().items()
        shares = ", ".join(f"{plain_name(name)} {share:.2f} %" for name, share in known)
        said.append(f"Of the negatives drawn, these were false: {shares}.")
    if len(people):
        aside = people.set_index("more of").loc["labelled, target aside"]
        said.append(
            f"Real judgements: people preferred the set with more labelled images, the target left "
            f"aside, in {aside.agree:.0f} of the {aside.rows:.0f} rows where the sets differ "
            f"({interval_text(aside.estimate, aside.low, aside.high)} %)."
        )
    return said or ["Nothing here says which images fit a query."]
