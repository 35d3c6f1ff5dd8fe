"""Notebook 04: trained models compared by recall, and by all images that fit a query."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from report.claims import direction
from torch import Tensor
from torch.nn.functional import normalize

from qure_lib.datasets.queries import QuerySet
from qure_lib.evaluation.circo import CIRCO_KS, evaluate_circo
from qure_lib.evaluation.cirr import evaluate_cirr
from qure_lib.evaluation.metrics import average_precision_at_k, recall_at_k
from qure_lib.evaluation.statistics import PairedDifference, bootstrap_ci, paired_bootstrap
from qure_lib.features.corpus_on_disk import CorpusOnDisk
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import extract_features
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.ranking import DEFAULT_MEMORY, rank_corpus, rank_scores, score_corpus

from .method_figures import plot_image, plot_query

Embedded = dict[str, tuple[Tensor, Tensor]]  # category -> (Q, D) queries and (N, T, D) images


def vary_negatives(recipe: TrainConfig) -> dict[str, TrainConfig]:
    """The published recipe and the three that notebooks 04 and 07 put beside it."""
    uniform = MiningConfig(strategy="all_corpus")
    return {
        "cosine": recipe,
        "preference": replace(recipe, mining=replace(recipe.mining, curve="preference")),
        "uniform": replace(recipe, mining=uniform),
        "in_batch": replace(recipe, objective="info_nce", mining=uniform),
    }


def compare_settings(recipe: TrainConfig, published: TrainConfig) -> pd.DataFrame:
    """Each setting of two runs, mining left out, as text or missing: setting, published, here."""
    theirs, ours = asdict(published), asdict(recipe)
    rows = [{"setting": k, "published": theirs[k], "here": v} for k, v in ours.items()]
    frame = pd.DataFrame(rows)
    return frame[frame["setting"] != "mining"].astype(str)


def measure_interval(
    per_query: Mapping[str, pd.DataFrame],
    summarise: Callable[[pd.DataFrame], pd.DataFrame],
    measure: str,
) -> pd.DataFrame:
    """One measure of several models, as `figures.plot_intervals` takes it.

    Args:
        per_query: model -> one row a query, as `summarise` takes it.
        summarise: a protocol's, in per cent.
        measure: a name of the summary's ("avg_r10").

    Returns:
        One row a model: label, estimate, low, high, n.
    """
    rows = []
    for label, frame in per_query.items():
        summary = summarise(frame).set_index("measure")
        rows.append(summary.loc[[measure], ["estimate", "low", "high", "n"]].assign(label=label))
    return pd.concat(rows, ignore_index=True)[["label", "estimate", "low", "high", "n"]]


def recall_difference(a: pd.DataFrame, b: pd.DataFrame, k: int) -> PairedDifference:
    """Recall@k of a less that of b, in points.

    Args:
        a, b: one row a query with the target's rank, the same queries in the same order.
    """
    return paired_bootstrap(*(100 * recall_at_k(frame["rank"], k) for frame in (a, b)))


def precision_difference(a: pd.DataFrame, b: pd.DataFrame, k: int) -> PairedDifference:
    """AP@k of a less that of b, in points, as `recall_difference`; columns ap{k} hold AP@k."""
    return paired_bootstrap(*(100 * frame[f"ap{k}"] for frame in (a, b)))


def recall_differences(
    per_query: Mapping[str, pd.DataFrame], models: Sequence[str], base: str
) -> pd.DataFrame:
    """Recall@10 and @50 of models less those of uniform negatives.

    Args:
        per_query: model -> one row a query with the target's rank, the same queries for all.
        models: what to compare.
        base: the model with uniform negatives.

    Returns:
        One row a model and cut-off: model, measure, estimate, low, high, n, p_value, and the
        verdict "better", "worse" or "within noise" as "against uniform negatives".
    """
    rows = []
    for model in models:
        for k in (10, 50):
            difference = recall_difference(per_query[model], per_query[base], k)
            row = {"model": model, "measure": f"Recall@{k} (%)"} | asdict(difference)
            rows.append(row | {"against uniform negatives": direction(difference)})
    return pd.DataFrame(rows).drop(columns="n_clusters")


def evaluate_on_cirr(models: Mapping[str, Retriever], queries: QuerySet) -> dict[str, pd.DataFrame]:
    """Each model's ranks on data in CIRR's layout, whose images its features cover."""
    return {name: evaluate_cirr(model, queries) for name, model in models.items()}


def evaluate_on_circo(
    models: Mapping[str, Retriever], queries: QuerySet, cache: Path, on_disk: bool
) -> dict[str, pd.DataFrame]:
    """Each model's average precision on data in CIRCO's layout, whose images are encoded first.

    Args:
        cache: folder of feature stores.
        on_disk: keep only the corpus's embeddings; CIRCO's frozen features would take 65 GB.
    """
    found, images = {}, queries.reference_paths if on_disk else queries.images
    for name, model in models.items():
        tower, config = model.model.vision_encoder, model.model.config
        here = replace(model, features=extract_features(tower, images, config, cache))
        found[name] = evaluate_circo(CorpusOnDisk(here, cache) if on_disk else here, queries)
    return found


def append_published(reproduced: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Published rows below reproduced ones, all as text, "-" where one of them has no number.

    Args:
        reproduced: of `tables.results_table`; measures that were not published are left out.
        published: a file of reports/published/, read as text; its methods are marked as published.
    """
    shared = [column for column in reproduced if column in published or column == "queries"]
    marked = published.assign(method=published["method"] + ", published")
    return pd.concat([reproduced[shared].astype(str), marked], ignore_index=True).fillna("-")


def found_and_missed(ranks: pd.DataFrame, within: int = 5) -> dict[str, list[int]]:
    """Each category's first query with its target among the best images, and the first without.

    Args:
        ranks: one row a query, in order: category, rank (of the target, 0-based).
        within: how many images count.
    """
    chosen = {}
    for category, rows in ranks.groupby("category", sort=False):
        found = rows["rank"].to_numpy() < within
        chosen[str(category)] = [int(np.argmax(kind)) for kind in (found, ~found) if kind.any()]
    return chosen


def find_top_results(
    retriever: Retriever,
    queries: Mapping[str, QuerySet],
    relevance: Mapping[str, Tensor | None],
    chosen: Mapping[str, Sequence[int]],
    count: int = 5,
) -> pd.DataFrame:
    """The best-ranked images of chosen queries.

    Args:
        queries: category -> QuerySet.
        relevance: category -> (Q, N) graded relevance, or None if it is not known.
        chosen: category -> numbers of its queries.
        count: images a query.

    Returns:
        One row an image: category, query (its number), target_rank, rank, score, position (in the
        corpus), image (its id), relevance (NaN if unknown) and zone: "target", "false negative"
        (fits at least as well as the target does) or "below".
    """
    rows = []
    for category, numbers in chosen.items():
        query_set = queries[category]
        few = replace(query_set, triplets=tuple(query_set.triplets[n] for n in numbers))
        ranked = rank_corpus(retriever.embed_queries(few), retriever.embed_corpus(few.corpus))
        parts = [ranking for _, ranking in ranked]
        order = torch.cat([part.order for part in parts]).cpu()
        scores = torch.cat([part.scores for part in parts]).cpu()
        for number, one, of_one in zip(numbers, order, scores, strict=True):
            target = int(query_set.target_positions[number])
            about = {"category": category, "query": number}
            about["target_rank"] = one.tolist().index(target)
            graded = relevance.get(category)
            graded = None if graded is None else graded[number]
            rows += [about | r for r in _best(one[:count], of_one, target, graded)]
    frame = pd.DataFrame(rows)
    names = [queries[r.category].corpus.image_ids[r.position] for r in frame.itertuples()]
    return frame.assign(image=names)


def _best(
    order: Tensor, scores: Tensor, target: int, graded: Tensor | None
) -> Iterator[dict[str, Any]]:
    """One query's best images, as `find_top_results` lists them."""
    for rank, position in enumerate(order.tolist()):
        fits = graded is not None and bool(graded[position] >= graded[target])
        zone = "target" if position == target else "false negative" if fits else "below"
        known = np.nan if graded is None else float(graded[position])
        row = {"rank": rank, "score": float(scores[rank]), "position": position}
        yield row | {"relevance": known, "zone": zone}


def plot_top_results(axes: Sequence[Axes], queries: QuerySet, top: pd.DataFrame) -> Sequence[Axes]:
    """Show one query and its best-ranked images, each with rank, score and relevance.

    Args:
        axes: three for the query, then one an image.
        queries: the category's.
        top: the query's rows of `find_top_results`.
    """
    first = top.iloc[0]
    triplet = queries.triplets[first.query]
    shown = queries.images[triplet.reference], triplet.caption, queries.images[triplet.target]
    plot_query(axes[:3], *shown)
    axes[0].set_ylabel(queries.name)
    axes[2].set_xlabel(f"target\nat rank {first.target_rank}")
    for ax, hit in zip(axes[3:], top.itertuples(), strict=True):
        known = "" if np.isnan(hit.relevance) else f"\nrelevance {hit.relevance:.2f}"
        path = queries.corpus.paths[hit.position]
        plot_image(ax, path, f"rank {hit.rank}, {hit.score:.2f}{known}", hit.zone)
    return axes


def embed_all(retriever: Retriever, queries: Mapping[str, QuerySet]) -> Embedded:
    """The model's embeddings of every category's queries and corpus."""
    return {
        category: (retriever.embed_queries(q), retriever.embed_corpus(q.corpus))
        for category, q in queries.items()
    }


def embed_frozen(retriever: Retriever, queries: Mapping[str, QuerySet]) -> Embedded:
    """As `embed_all`, by the frozen encoder alone: of a query its reference, not its caption."""
    return {
        category: (
            pool_features(retriever, [t.reference for t in q.triplets]),
            pool_features(retriever, q.corpus.image_ids)[:, None],
        )
        for category, q in queries.items()
    }


@torch.no_grad()
def pool_features(retriever: Retriever, image_ids: Sequence[str]) -> Tensor:
    """(images, C) unit means of the frozen tokens: the encoder's own view of each image."""
    size = retriever.batch_size
    parts = [image_ids[start : start + size] for start in range(0, len(image_ids), size)]
    means = [retriever.read_features(part).mean(dim=1) for part in parts]
    return torch.cat([normalize(mean, dim=-1) for mean in means])


def evaluate_all_that_fit(
    embedded: Embedded,
    queries: Mapping[str, QuerySet],
    relevance: Mapping[str, Tensor],
    memory: int = DEFAULT_MEMORY,
    ks: tuple[int, ...] = CIRCO_KS,
) -> pd.DataFrame:
    """Average precision over every image that fits its query at least as well as the target does.

    For data where a caption fits many images, so that finding one target says little. The
    reference is left out of the ranking: it would come first by any likeness of pictures.

    Args:
        embedded: of any scorer.
        queries: category -> QuerySet.
        relevance: category -> (Q, N) graded relevance.
        ks: cut-offs of CIRCO's AP@k, in whose layout (Table 5) several images answer a query.

    Returns:
        One row a query: query_id, category, fitting (how many images), average_precision (of the
        whole ranking), chance (that of a random one), and ap5, ap10, ... for the cut-offs.
    """
    frames = []
    for category, query_set in queries.items():
        frame = _rank_all_that_fit(embedded[category], query_set, relevance[category], memory, ks)
        frame.insert(1, "category", category)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _rank_all_that_fit(
    embedded: tuple[Tensor, Tensor],
    queries: QuerySet,
    relevance: Tensor,
    memory: int,
    ks: tuple[int, ...],
) -> pd.DataFrame:
    """`evaluate_all_that_fit` for one category."""
    references = queries.corpus.positions([t.reference for t in queries.triplets])[:, None]
    fits = relevance >= relevance.gather(1, queries.target_positions[:, None])
    fits = fits.scatter(1, references, False)
    fitting, n = fits.sum(dim=1), fits.shape[1]
    cut_offs = {"average_precision": n} | {f"ap{k}": k for k in ks}
    chunks = []
    for rows, scores in score_corpus(*embedded, memory):
        order = rank_scores(scores.cpu().scatter(1, references[rows], -torch.inf)).order
        ranks = torch.where(fits[rows].gather(1, order), torch.arange(n), -1)
        found = {c: average_precision_at_k(ranks, fitting[rows], k) for c, k in cut_offs.items()}
        chunks.append(pd.DataFrame(found))
    about = {"query_id": [t.query_id for t in queries.triplets], "fitting": fitting.numpy()}
    about["chance"] = chance_average_precision(fitting, n - 1)
    return pd.DataFrame(about).join(pd.concat(chunks, ignore_index=True))


def chance_average_precision(n_relevant: np.ndarray, n_ranked: int) -> np.ndarray:
    """The expected average precision of a random ranking, over the whole ranking.

    E[AP] = q + (1 - q) H(N) / N with q = (R - 1) / (N - 1), H the harmonic number.

    Args:
        n_relevant: (Q,) R, how many images are relevant, at least one.
        n_ranked: N, how many are ranked, at least as many.

    Returns:
        (Q,) in (0, 1].

    Raises:
        ValueError: a count below 1, or above `n_ranked`.

    Example:
        >>> chance_average_precision([1, 2], n_ranked=2)  # (1/1 + 1/2) / 2 and 1
        array([0.75, 1.  ])
    """
    counts = np.asarray(n_relevant, dtype=np.int64)
    if ((counts < 1) | (counts > n_ranked)).any():
        raise ValueError(f"n_relevant must lie in [1, {n_ranked}], the number of ranked images")
    share = (counts - 1) / max(n_ranked - 1, 1)
    return share + (1 - share) * (1 / np.arange(1, n_ranked + 1)).mean()


def average_precision_table(precision: Mapping[str, pd.DataFrame], base: str) -> pd.DataFrame:
    """Mean average precision of several models, compared with one of them.

    Args:
        precision: model -> a frame of `evaluate_all_that_fit`, the same queries for all.
        base: the model to compare with, the frozen encoder.

    Returns:
        One row a model, in per cent: label, the mean of the categories with its 95 % interval over
        queries (estimate, low, high, n), each category's mean, chance, the median number of
        fitting images, and the verdict "against the frozen encoder" ("-" for itself).
    """
    rows = []
    for name, frame in precision.items():
        values, against = (100 * p["average_precision"] for p in (frame, precision[base]))
        weights = 1 / frame.groupby("category")["category"].transform("size")
        row = {"label": name} | asdict(bootstrap_ci(values, weights))
        row |= values.groupby(frame["category"]).mean().to_dict()
        row["chance"] = 100 * frame.groupby("category")["chance"].mean().mean()
        row["fitting images, median"] = frame["fitting"].median()
        difference = paired_bootstrap(values, against, (weights, weights))
        row["against the frozen encoder"] = "-" if name == base else direction(difference)
        rows.append(row)
    return pd.DataFrame(rows).drop(columns="n_clusters")
