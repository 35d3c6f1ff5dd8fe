"""Does a model compose? The caption alone and the reference image alone, beside both."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from qure_lib.datasets.queries import Corpus, QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import ImagesOnDisk

from . import protocol
from .metrics import recall_at_k
from .statistics import Sample


class CaptionEmbedder(Embedder, Protocol):
    """An embedder that also knows the relative captions by themselves."""

    def embed_captions(self, queries: QuerySet) -> Tensor:
        """(Q, D) embeddings of the relative captions alone."""


@dataclass(frozen=True)
class Alone:
    """An embedder of one part of each query."""

    embed_queries: Callable[[QuerySet], Tensor]
    embed_corpus: Callable[[Corpus], Tensor | ImagesOnDisk]


def parts_alone(embedder: CaptionEmbedder) -> dict[str, Embedder]:
    """Embedders of the caption alone and of the reference image alone, by name.

    The caption alone is the model's `embed_captions`: stage 1's text-only path of a QuReModel, or
    `captions` of saved embeddings. The reference alone is the mean of its T image embeddings.
    Training on composed queries uses neither, so a part may hold more than these find: the share
    that needs composition is an upper bound.
    """
    references = partial(_embed_references, embedder)
    queries: dict[str, Callable[[QuerySet], Tensor]] = {
        "caption": embedder.embed_captions,
        "reference": references,
    }
    return {part: Alone(embed, embedder.embed_corpus) for part, embed in queries.items()}


def _embed_references(embedder: Embedder, queries: QuerySet) -> Tensor:
    """(Q, D) mean embedding of each query's reference image."""
    ids = tuple(dict.fromkeys(t.reference for t in queries.triplets))
    paths = (queries.reference_paths.get(i) for i in ids)
    references = Corpus(ids, tuple(path for path in paths if path))
    embedded = embedder.embed_corpus(references)[:].mean(dim=1)
    return embedded[references.positions([t.reference for t in queries.triplets])]


def summarise_composition(ranks: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """How many queries each part answers alone, and how many of the answers need both; per cent.

    A query is answered if its target's rank is below k. All queries count the same.

    Args:
        ranks: one row a query: rank, caption_rank and reference_rank, 0-based, of the target.

    Returns:
        As `protocol.estimate`, first of all queries, then of those that both parts together answer.
        The last row is the share of these answers that needs composition.

    Raises:
        ValueError: both parts answer fewer than two queries, or a rank is missing.
    """
    columns = ("rank", "caption_rank", "reference_rank")
    both, caption, reference = (recall_at_k(ranks[column], k) for column in columns)
    if both.sum() < 2:
        raise ValueError(f"composition: only {both.sum():.0f} of the targets rank below {k}")
    hits = {"both": both, "caption alone": caption, "reference alone": reference}
    hits["either alone"] = np.maximum(caption, reference)
    hits["only both"] = both * (1 - hits["either alone"])
    shares = {f"{part}, of all queries": Sample(100 * hit) for part, hit in hits.items()}
    for part in list(hits)[1:]:
        shares[f"{part}, of both's answers"] = Sample(100 * hits[part], both)
    return protocol.estimate({(words, words): share for words, share in shares.items()})
