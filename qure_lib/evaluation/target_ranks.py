"""Ranks of the images that answer a query, from a model or from a ranking file."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import rank_scores, score_corpus

from .ranking_files import RankingFile, Rankings

Wanted = Sequence[Sequence[str]]  # image ids, by query


def per_query_frame(queries: QuerySet, columns: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """One row a query: its query_id, then the columns, each (Q,)."""
    about = {"query_id": [t.query_id for t in queries.triplets]}
    return pd.DataFrame(about | {name: np.asarray(column) for name, column in columns.items()})


def rank_queries(
    retriever: Embedder, queries: QuerySet, memory: int, exclude_reference: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Rank the corpus for a chunk of queries at a time.

    Yields:
        (rows, order): a slice of queries and their (q, N) corpus positions, best first; (q, N - 1)
        if each query's reference is excluded.
    """
    embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
    for rows, scores in score_corpus(*embedded, memory):
        scores, n = scores.cpu(), len(queries.corpus)
        if exclude_reference:
            references = queries.corpus.positions([t.reference for t in queries.triplets[rows]])
            scores, n = scores.scatter(1, references[:, None], -torch.inf), n - 1
        yield rows, rank_scores(scores).order[:, :n]


def rank_images(
    retriever: Embedder, queries: QuerySet, count: int, memory: int, exclude_reference: bool
) -> Rankings:
    """Query id -> its first `count` images, of any split."""
    rankings, ids = {}, queries.corpus.image_ids
    for rows, order in rank_queries(retriever, queries, memory, exclude_reference):
        for triplet, ranked in zip(queries.triplets[rows], order[:, :count].tolist(), strict=True):
            rankings[triplet.query_id] = [ids[position] for position in ranked]
    return rankings


def find_ranks(
    retriever: Embedder, queries: QuerySet, wanted: Wanted, memory: int, exclude_reference: bool
) -> Tensor:
    """(Q, R) 0-based rank of each query's wanted images; -1 for an excluded one, and as padding."""
    rows_of, n = [queries.corpus.positions(tuple(ids)) for ids in wanted], len(queries.corpus)
    places, chunks = pad_sequence(rows_of, batch_first=True, padding_value=n), []
    for rows, order in rank_queries(retriever, queries, memory, exclude_reference):
        ranks = torch.full((len(order), n + 1), -1)  # by position; the last is the padding's
        ranks.scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
        chunks.append(ranks.gather(1, places[rows]))
    return torch.cat(chunks)


def listed_ranks(
    rankings: Rankings, queries: QuerySet, wanted: Wanted, file: RankingFile
) -> Tensor:
    """As `find_ranks`, from rankings that may stop early; -1 also for an unlisted image.

    ValueError as `RankingFile.parse`.
    """
    file.check(rankings, queries, "the rankings")
    rows = []
    for triplet, ids in zip(queries.triplets, wanted, strict=True):
        rank = {image_id: rank for rank, image_id in enumerate(rankings[triplet.query_id])}
        rows.append(torch.tensor([rank.get(image_id, -1) for image_id in ids]))
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def listed_target_ranks(
    rankings: Rankings, queries: QuerySet, file: RankingFile
) -> dict[str, Tensor]:
    """Columns of one row a query, from rankings of any length. ValueError as `listed_ranks`.

    Returns:
        rank: (Q,) 0-based rank of each target; of an unlisted one its list's length, a lower bound.
        listed: (Q,) length of each list; only if one ends before `file.count` and before the last
            image of the corpus, so that `protocol.recall` is unknown beyond it.
    """
    ranks = listed_ranks(rankings, queries, [[t.target] for t in queries.triplets], file)[:, 0]
    lengths = torch.tensor([len(rankings[t.query_id]) for t in queries.triplets])
    columns = {"rank": ranks.where(ranks >= 0, lengths)}
    ends_early = lengths.min() < min(file.count, len(queries.corpus) - 1)
    return columns | ({"listed": lengths} if ends_early else {})


def check_answers(queries: QuerySet, answers: str, with_reference: bool) -> None:
    """Raise ValueError unless every triplet's `answers` are distinct images with its target."""
    for t in queries.triplets:
        ids = getattr(t, answers)
        known = t.target in ids and (t.reference in ids) == with_reference
        if not known or len(set(ids)) < len(ids) or t.reference == t.target:
            raise ValueError(
                f"{queries.name}, query {t.query_id}: {answers} {ids} must be distinct images with "
                f"the target {t.target!r} and {'with' if with_reference else 'without'} the "
                f"reference {t.reference!r}; a test split has no answers, so evaluate val"
            )
