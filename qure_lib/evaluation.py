"""One evaluator a protocol (METHOD section 6). Each returns per-query results."""

from __future__ import annotations

import pandas as pd

from .data import QuerySet
from .embeddings import Retriever
from .ranking import DEFAULT_MEMORY, rank_corpus


def evaluate_fashioniq(
    retriever: Retriever, queries: dict[str, QuerySet], memory: int = DEFAULT_MEMORY
) -> pd.DataFrame:
    """Rank each category's corpus, the reference image not removed.

    Args:
        queries: category -> QuerySet over the corpus of the protocol ("original", or "union").

    Returns:
        One row a query: query_id, category, rank (0-based rank of the target).
    """
    frames = []
    for category, query_set in queries.items():
        embedded = retriever.embed_queries(query_set)
        images = retriever.embed_corpus(query_set.corpus)
        targets = query_set.target_positions.to(images.device)
        ranks = [r.ranks_of(targets[rows]) for rows, r in rank_corpus(embedded, images, memory)]
        frame = pd.DataFrame({"query_id": [t.query_id for t in query_set.triplets]})
        frame["category"] = category
        frame["rank"] = [rank for chunk in ranks for rank in chunk.tolist()]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
