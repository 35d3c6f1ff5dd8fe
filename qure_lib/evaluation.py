"""One evaluator a protocol (METHOD section 6). Each returns per-query results."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from .data import QuerySet
from .embeddings import Retriever
from .metrics import ndcg_at_k
from .ranking import DEFAULT_MEMORY, rank_corpus


def evaluate_fashioniq(
    retriever: Retriever,
    queries: dict[str, QuerySet],
    memory: int = DEFAULT_MEMORY,
    relevance: Mapping[str, Tensor | None] | None = None,
) -> pd.DataFrame:
    """Rank each category's corpus, the reference image not removed.

    Args:
        queries: category -> QuerySet over the corpus of the protocol ("original", or "union").
        relevance: category -> (Q, N) graded relevance, where the data set knows it.

    Returns:
        One row a query: query_id, category, rank (0-based rank of the target); with graded
        relevance also ndcg10 (in [0, 1]) and false_negatives10, how many of the first ten images
        fit the query at least as well as its target does and are not it.
    """
    frames = []
    for category, query_set in queries.items():
        embedded = retriever.embed_queries(query_set)
        images = retriever.embed_corpus(query_set.corpus)
        targets = query_set.target_positions.to(images.device)
        graded = (relevance or {}).get(category)
        chunks = []
        for rows, ranking in rank_corpus(embedded, images, memory):
            columns = {"rank": ranking.ranks_of(targets[rows]).cpu()}
            if graded is not None:
                columns |= _graded(ranking.order.cpu(), columns["rank"], graded[rows])
            chunks.append(pd.DataFrame(columns))
        frame = pd.concat(chunks, ignore_index=True)
        frame.insert(0, "query_id", [t.query_id for t in query_set.triplets])
        frame.insert(1, "category", category)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _graded(order: Tensor, target_ranks: Tensor, relevance: Tensor) -> dict[str, np.ndarray]:
    """The graded measures of one chunk: (q, N) ranked positions and relevance by position."""
    ranked = relevance.gather(1, order)
    as_good = (ranked >= ranked.gather(1, target_ranks[:, None]))[:, :10].sum(dim=1)
    return {
        "ndcg10": ndcg_at_k(ranked, 10),
        "false_negatives10": (as_good - (target_ranks < 10).long()).numpy(),
    }
