"""One evaluator a protocol (METHOD section 6). Each returns per-query results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .data import QuerySet
from .embeddings import Retriever
from .metrics import average_precision_at_k, chance_average_precision, ndcg_at_k
from .ranking import DEFAULT_MEMORY, rank_corpus, rank_scores, score_corpus

CIRCO_KS = (5, 10, 25, 50)  # cut-offs of its AP@k


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


def evaluate_cirr(
    retriever: Retriever, queries: QuerySet, memory: int = DEFAULT_MEMORY
) -> pd.DataFrame:
    """Rank CIRR's split, and each query's own group of six, the reference removed from both.

    Args:
        queries: of `load_cirr`.

    Returns:
        One row a query: query_id, rank (0-based, of the target) and subset_rank (0 to 4, among the
        other five of its group), for Recall@K and Recall_subset@K.

    Raises:
        ValueError: a query has no target (a test split) or no group.
    """
    _check_answers(queries, "group")
    group = torch.stack([queries.corpus.positions(t.group) for t in queries.triplets])
    chunks = []
    for rows, ranks in _rank_positions(retriever, queries, memory, exclude_reference=True):
        rank = ranks.gather(1, queries.target_positions[rows, None])
        better = ranks.gather(1, group[rows]) < rank  # the reference is never: it ranks last
        chunks.append(torch.cat([rank, better.sum(dim=1, keepdim=True)], dim=1))
    frame = pd.DataFrame(torch.cat(chunks).numpy(), columns=["rank", "subset_rank"])
    frame.insert(0, "query_id", [t.query_id for t in queries.triplets])
    return frame


def evaluate_circo(
    retriever: Retriever,
    queries: QuerySet,
    exclude_reference: bool = False,
    memory: int = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Rank CIRCO's corpus for queries that several images answer.

    Args:
        queries: of `load_circo`.
        exclude_reference: leave the reference out of the ranking. The protocol does not say so.

    Returns:
        One row a query: query_id, ap5, ap10, ap25 and ap50 (AP@k over all ground truths), rank
        (0-based, of the single target) and aspects (a tuple; `explode` it for mAP by aspect).

    Raises:
        ValueError: a query has no target (a test split) or no ground truths.
    """
    _check_answers(queries, "ground_truths")
    truths = [queries.corpus.positions(t.ground_truths) for t in queries.triplets]
    n_truths = torch.tensor([len(positions) for positions in truths])
    truths = pad_sequence(truths, batch_first=True, padding_value=-1)
    chunks = []
    for rows, ranks in _rank_positions(retriever, queries, memory, exclude_reference):
        found = ranks.gather(1, truths[rows].clamp(min=0)).where(truths[rows] >= 0, -1)
        columns = {f"ap{k}": average_precision_at_k(found, n_truths[rows], k) for k in CIRCO_KS}
        columns["rank"] = ranks.gather(1, queries.target_positions[rows, None])[:, 0].numpy()
        chunks.append(pd.DataFrame(columns))
    frame = pd.concat(chunks, ignore_index=True)
    frame.insert(0, "query_id", [t.query_id for t in queries.triplets])
    return frame.assign(aspects=[t.aspects for t in queries.triplets])


def _rank_positions(
    retriever: Retriever, queries: QuerySet, memory: int, exclude_reference: bool
) -> Iterator[tuple[slice, Tensor]]:
    """(rows, (q, N) rank of every corpus position); a reference that is excluded ranks last."""
    references = queries.corpus.positions([t.reference for t in queries.triplets])[:, None]
    embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
    for rows, scores in score_corpus(*embedded, memory):
        scores = scores.cpu()
        if exclude_reference:
            scores = scores.scatter(1, references[rows], -torch.inf)
        yield rows, rank_scores(scores).order.argsort(dim=1)


def _check_answers(queries: QuerySet, answers: str) -> None:
    for triplet in queries.triplets:
        if not triplet.target or not getattr(triplet, answers):
            raise ValueError(
                f"{queries.name}, query {triplet.query_id}: no target or no {answers}; the answers "
                "of a test split are on the data set's server, so evaluate val"
            )


def evaluate_all_that_fit(
    embedded: dict[str, tuple[Tensor, Tensor]],
    queries: dict[str, QuerySet],
    relevance: dict[str, Tensor],
    memory: int = DEFAULT_MEMORY,
    ks: tuple[int, ...] = CIRCO_KS,
) -> pd.DataFrame:
    """Average precision over every image that fits its query at least as well as the target does.

    For data where a caption fits many images, so that finding one target says little. The
    reference is left out of the ranking: it would come first by any likeness of pictures.

    Args:
        embedded: category -> (Q, D) query embeddings and (N, T, D) image embeddings, of any scorer.
        queries: category -> QuerySet.
        relevance: category -> (Q, N) graded relevance.
        ks: cut-offs of CIRCO's AP@k, in whose layout (Table 5) several images answer a query.

    Returns:
        One row a query: query_id, category, fitting (how many images), average_precision (of the
        whole ranking), chance (that of a random one), and ap5, ap10, ... for the cut-offs.
    """
    frames = []
    for category, query_set in queries.items():
        references = query_set.corpus.positions([t.reference for t in query_set.triplets])[:, None]
        targets = query_set.target_positions[:, None]
        fits = relevance[category] >= relevance[category].gather(1, targets)
        fits = fits.scatter(1, references, False)
        fitting, n, chunks = fits.sum(dim=1), fits.shape[1], []
        columns = {"average_precision": n} | {f"ap{k}": k for k in ks}
        for rows, scores in score_corpus(*embedded[category], memory):
            order = rank_scores(scores.cpu().scatter(1, references[rows], -torch.inf)).order
            ranks = torch.where(fits[rows].gather(1, order), torch.arange(n), -1)
            chunk = {c: average_precision_at_k(ranks, fitting[rows], k) for c, k in columns.items()}
            chunks.append(pd.DataFrame(chunk))
        about = {"query_id": [t.query_id for t in query_set.triplets], "category": category}
        about |= {"fitting": fitting.numpy(), "chance": chance_average_precision(fitting, n - 1)}
        frames.append(pd.DataFrame(about).join(pd.concat(chunks, ignore_index=True)))
    return pd.concat(frames, ignore_index=True)
