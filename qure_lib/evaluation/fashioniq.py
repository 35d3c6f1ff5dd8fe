"""FashionIQ's protocol: Recall@10 and @50 by category, the reference not removed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from qure_lib.datasets.fashioniq import COUNTS, list_images, load_fashioniq, load_training_splits
from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import DEFAULT_MEMORY, rank_corpus

from . import protocol
from .metrics import ndcg_at_k
from .ranking_files import RankingFile, Rankings, read_object
from .statistics import Sample
from .target_ranks import listed_target_ranks, per_query_frame

CUT_OFFS = (10, 50)
FASHIONIQ_FILE = RankingFile(max(CUT_OFFS))  # of one category
CORPORA = {"original": "original split", "union": "VAL-union"}


def evaluate_fashioniq(
    retriever: Embedder,
    queries: Mapping[str, QuerySet],
    memory: int = DEFAULT_MEMORY,
    relevance: Mapping[str, Tensor | None] | None = None,
) -> pd.DataFrame:
    """Rank each category's corpus, the reference image not removed.

    Args:
        queries: category -> QuerySet over the corpus of the protocol ("original", or "union").
        relevance: category -> (Q, N) graded relevance, if the data set knows it.

    Returns:
        One row a query: query_id, category, rank (0-based rank of the target); with graded
        relevance also ndcg10 (in [0, 1]) and false_negatives10: images other than the target among
        the first ten that fit the query at least as well as it does.
    """
    frames = []
    for category, query_set in queries.items():
        embedded = retriever.embed_queries(query_set), retriever.embed_corpus(query_set.corpus)
        targets = query_set.target_positions.to(embedded[0].device)
        graded, chunks = (relevance or {}).get(category), []
        for rows, ranking in rank_corpus(*embedded, memory):
            columns: dict[str, Any] = {"rank": ranking.ranks_of(targets[rows]).cpu()}
            if graded is not None:
                columns |= _graded(ranking.order.cpu(), columns["rank"], graded[rows])
            chunks.append(pd.DataFrame(columns))
        about = {"category": [category] * len(query_set)}
        frames.append(per_query_frame(query_set, about | dict(pd.concat(chunks))))
    return pd.concat(frames, ignore_index=True)


def _graded(order: Tensor, target_ranks: Tensor, relevance: Tensor) -> dict[str, np.ndarray]:
    """The graded measures of one chunk: (q, N) ranked positions and relevance by position."""
    ranked = relevance.gather(1, order)
    as_good = (ranked >= ranked.gather(1, target_ranks[:, None]))[:, :10].sum(dim=1)
    false_negatives = (as_good - (target_ranks < 10).long()).numpy()
    return {"ndcg10": ndcg_at_k(ranked, 10), "false_negatives10": false_negatives}


def score_fashioniq(
    rankings: Mapping[str, Rankings], queries: Mapping[str, QuerySet]
) -> pd.DataFrame:
    """`evaluate_fashioniq`'s first three columns, from rankings, as `listed_target_ranks`."""
    frames = []
    for category, query_set in queries.items():
        about = {"category": [category] * len(query_set)}
        columns = listed_target_ranks(rankings[category], query_set, FASHIONIQ_FILE)
        frames.append(per_query_frame(query_set, {**about, **columns}))
    return pd.concat(frames, ignore_index=True)


def read_fashioniq(path: str | Path, queries: Mapping[str, QuerySet]) -> dict[str, Rankings]:
    """Read rankings of FashionIQ's val queries, by category.

    Args:
        path: {category: {query: [image ids]}} as JSON, best first. A query is its row in
            cap.{category}.val.json, from 0: "12", or "dress/val/12". The reference may be listed.
        queries: of `load_fashioniq`, over the corpus of the protocol that the file was made for.

    Raises:
        ValueError: as `RankingFile.read`; another category, or a query under both names.
    """
    content, rankings = read_object(path), {}
    if content.keys() != queries.keys() or not all(isinstance(c, dict) for c in content.values()):
        raise ValueError(f"{path}: write {{query: [image ids]}} for each of {sorted(queries)}")
    for category, query_set in queries.items():
        prefix = f"{category}/val/"
        named = {prefix + q.removeprefix(prefix): ids for q, ids in content[category].items()}
        if len(named) < len(content[category]):
            raise ValueError(f"{path}, {category}: a query is there by number and by id; keep one")
        rankings[category] = FASHIONIQ_FILE.parse(named, query_set, path)
    return rankings


def recall_measures(ranks: pd.DataFrame) -> protocol.Measures:
    """Recall@10 and @50 by category, their means over the categories, and the mean of those.

    In per cent, in the order of Table 2: dress_r10, dress_r50, ..., avg_r10, avg_r50, avg. Every
    category counts the same in the means: a query weighs 1 / its category's size.

    Args:
        ranks: one row a query, with the columns category and rank (of the target, 0-based).
    """
    hits = {k: protocol.recall(ranks, k) for k in CUT_OFFS}
    category = ranks["category"].to_numpy()
    if {"avg", "average"} & set(category):
        raise ValueError("a category is called avg or average, like the means; rename its files")
    weights = (1 / ranks.groupby("category")["rank"].transform("size")).to_numpy()
    measures = {
        (f"{name}_r{k}", f"Recall@{k} {name}"): Sample(hits[k][category == name])
        for name in dict.fromkeys(category)
        for k in CUT_OFFS
    }
    for k in CUT_OFFS:
        measures[f"avg_r{k}", f"Recall@{k} average"] = Sample(hits[k], weights)
    measures["avg", "Avg"] = Sample(np.mean(list(hits.values()), axis=0), weights)
    return measures


def summarise_recall(ranks: pd.DataFrame) -> pd.DataFrame:
    """`recall_measures` with their intervals, as `protocol.estimate`."""
    return protocol.estimate(recall_measures(ranks))


FASHIONIQ = protocol.Protocol(
    name="fashioniq",
    about="Recall@10 and @50 on FashionIQ val, the reference not removed.",
    key="fashioniq",
    layout="fashioniq",
    counts=COUNTS,
    list_images=list_images,
    measures=recall_measures,
    summarise=summarise_recall,
    table=protocol.PaperTable("Table 2", "table2", "table2_fashioniq_val.csv", recall10="avg_r10"),
    command=protocol.Command(
        load=lambda folder, split, images, args: load_fashioniq(
            folder, split, args.protocol, images, args.allow_missing
        ),
        evaluate=lambda embedder, sets, args: evaluate_fashioniq(embedder, sets),
        score=lambda sets, args: score_fashioniq(read_fashioniq(args.submission[0], sets), sets),
        title=lambda split, args: (
            f"FashionIQ {split}, {CORPORA[args.protocol]}, reference not removed"
        ),
        images=lambda sets: {category: len(q.corpus) for category, q in sets.items()},
        submission="{category: {query: [image ids]}}, 50 a query for all measures, a query as its "
        "row in the captions' file",
        root="folder with captions/, image_splits/ and images",
        options={
            "--protocol": protocol.Option(
                protocol.SOURCES,
                "the corpus: the original split, or the smaller union of the val triplets' images, "
                "whose results are not comparable with the others (default: %(default)s)",
                {"choices": list(CORPORA), "default": "original"},
            ),
            "--composition": protocol.COMPOSITION,
            "--allow-missing": protocol.ALLOW_MISSING,
        },
    ),
    training=protocol.Training(
        is_at=lambda root: True,  # any folder: the loader names what is missing
        load=load_training_splits,
        evaluate=evaluate_fashioniq,
        measures={"r10": ("rank", 10), "r50": ("rank", 50)},
        select_by=("r10", "r50"),
    ),
)
