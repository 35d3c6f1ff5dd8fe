"""Rankings against all images that SoFT's labels call fitting, beside the single target."""

import numpy as np
import pandas as pd

from qure_lib.datasets.queries import QuerySet
from qure_lib.datasets.soft import Labels

from .metrics import average_precision_at_k, ndcg_at_k
from .ranking_files import Rankings


def score_soft(rankings: Rankings, labels: Labels, queries: QuerySet, k: int = 10) -> pd.DataFrame:
    """How the first k images of each labelled query's ranking do.

    Labels were pooled from three top-20 lists: an unlabelled image may fit, so average precision
    and nDCG are lower bounds, and low for a model whose results were not in the pool.

    Args:
        rankings: query id -> k image ids or more, best first.
        labels: of `load_soft_labels`; queries without labels are left out.
        k: how many images count, at least 1.

    Returns:
        One row a query: query_id, category, rank (of the target, 0-based; the ranking's length,
        a lower bound, if it is not listed), fitting (images that fit, with the target), others (of
        them in the first k, beside the target), ap and ndcg (AP@k and nDCG@k of all that fit).

    Raises:
        ValueError: a labelled query has no ranking, one of fewer than k images, or one twice.
    """
    rows = []
    for triplet in (t for t in queries.triplets if t.query_id in labels):
        query, fitting = triplet.query_id, labels[triplet.query_id]
        ranked = list(rankings.get(query, ()))
        if len(ranked) < k or len(set(ranked)) < len(ranked):
            raise ValueError(
                f"{queries.name}, query {query}: {len(ranked)} images, {len(set(ranked))} distinct;"
                f" rank {k} or more, each once"
            )
        hits = np.array([image in fitting for image in ranked[:k]])
        ranks, rest = np.flatnonzero(hits), np.zeros(len(fitting) - hits.sum())
        place = ranked.index(triplet.target) if triplet.target in ranked else len(ranked)
        gains = np.concatenate([hits.astype(float), rest + 1])  # those not found come after k
        row = {"query_id": query, "category": queries.name, "rank": place, "fitting": len(fitting)}
        row["others"] = int(hits.sum()) - (place < k)
        row["ap"] = average_precision_at_k([ranks], [len(fitting)], k)[0] if len(ranks) else 0.0
        rows.append(row | {"ndcg": ndcg_at_k(gains[None], k)[0]})
    return pd.DataFrame(rows)
