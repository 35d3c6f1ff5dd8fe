"""What the study keeps of a run for notebook 09: how well its five best images fit."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import rank_scores, score_corpus


def mean_relevance_of_five(
    retriever: Embedder,
    queries: Mapping[str, QuerySet],
    relevance: Mapping[str, Tensor | None],
) -> pd.DataFrame:
    """Mean graded relevance of each query's five best images, its reference left out.

    Returns:
        One row, a column a query (its id); no row where relevance is not known.
    """
    found: dict[str, float] = {}
    for category, known in queries.items():
        if (graded := relevance.get(category)) is None:
            return pd.DataFrame()
        references = known.corpus.positions([t.reference for t in known.triplets])[:, None]
        embedded = retriever.embed_queries(known), retriever.embed_corpus(known.corpus)
        for rows, scores in score_corpus(*embedded):
            others = scores.cpu().scatter(1, references[rows], -torch.inf)
            best = rank_scores(others).order[:, :5]
            means = graded[rows].gather(1, best).double().mean(dim=1).tolist()
            found |= {t.query_id: m for t, m in zip(known.triplets[rows], means, strict=True)}
    return pd.DataFrame([found])
