"""One evaluator a protocol (METHOD section 6). Each returns per-query results.

`evaluate_...` ranks with a model's embeddings; `score_...` takes anyone's rankings (or scores of
sets) as `qure_lib.submissions` reads them, and gives the same columns. A ranking that stops before
the target says only that the target's rank is its length at least; the length then stands for it.

The command, `python -m qure_lib.evaluation --help`, is in `qure_lib.protocols`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .data import Corpus, QuerySet, Triplet
from .embeddings import Embedder
from .metrics import (
    average_precision_at_k,
    chance_average_precision,
    ndcg_at_k,
    preference_rate,
)
from .ranking import DEFAULT_MEMORY, rank_corpus, rank_scores, score_corpus
from .submissions import CIRCO_LISTED, CIRR_LISTED, CIRR_SUBSET_LISTED, Rankings

CIRCO_KS = (5, 10, 25, 50)  # cut-offs of its AP@k


def evaluate_fashioniq(
    retriever: Embedder,
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
        targets = query_set.target_positions.to(embedded.device)
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


def score_fashioniq(
    rankings: Mapping[str, Rankings], queries: Mapping[str, QuerySet]
) -> pd.DataFrame:
    """`evaluate_fashioniq`'s query_id, category and rank, from each category's rankings."""
    frames = []
    for category, query_set in queries.items():
        frame = _per_query(query_set, {"rank": _target_ranks(rankings[category], query_set)})
        frame.insert(1, "category", category)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def evaluate_cirr(
    retriever: Embedder, queries: QuerySet, memory: int = DEFAULT_MEMORY
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
    wanted = [(t.target, *t.group) for t in queries.triplets]
    ranks = _find_ranks(retriever, queries, wanted, memory, exclude_reference=True)
    better = ranks[:, 1:] < ranks[:, :1]  # the reference is never: it ranks last
    return _per_query(queries, {"rank": ranks[:, 0], "subset_rank": better.sum(dim=1)})


def score_cirr(
    queries: QuerySet, recall: Rankings | None = None, recall_subset: Rankings | None = None
) -> pd.DataFrame:
    """`evaluate_cirr`'s columns, from the rankings of the server's two files.

    Args:
        recall: rankings of the split, for the column rank.
        recall_subset: rankings of each query's group, for subset_rank. At least one of the two.
    """
    _check_answers(queries, "group")
    given = {"rank": recall, "subset_rank": recall_subset}
    columns = {name: _target_ranks(r, queries) for name, r in given.items() if r is not None}
    return _per_query(queries, columns)


def rank_cirr(
    retriever: Embedder, queries: QuerySet, memory: int = DEFAULT_MEMORY
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What CIRR's server asks for, of any split: the first 50 images, and the first 3 of the group.

    Returns:
        Rankings of the split and of each query's group, neither with the reference.
    """
    recall, recall_subset = {}, {}
    for rows, ranks in _rank_positions(retriever, queries, memory, exclude_reference=True):
        first = ranks.argsort(dim=1)[:, :CIRR_LISTED].tolist()
        for triplet, order, rank in zip(queries.triplets[rows], first, ranks, strict=True):
            recall[triplet.query_id] = [queries.corpus.image_ids[i] for i in order]
            others = [i for i in triplet.group if i != triplet.reference]
            places = rank[queries.corpus.positions(others)].tolist()
            group = [i for _, i in sorted(zip(places, others, strict=True))]
            recall_subset[triplet.query_id] = group[:CIRR_SUBSET_LISTED]
    return recall, recall_subset


def evaluate_circo(
    retriever: Embedder,
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
    wanted = [(t.target, *t.ground_truths) for t in queries.triplets]
    ranks = _find_ranks(retriever, queries, wanted, memory, exclude_reference)
    return _circo_results(queries, ranks[:, 0], ranks[:, 1:])


def score_circo(queries: QuerySet, rankings: Rankings) -> pd.DataFrame:
    """`evaluate_circo`'s columns, from rankings of 50 images at least."""
    _check_answers(queries, "ground_truths")
    truth_ranks = _listed_ranks(rankings, queries, [t.ground_truths for t in queries.triplets])
    return _circo_results(queries, _target_ranks(rankings, queries), truth_ranks)


def _circo_results(queries: QuerySet, target_ranks: Tensor, truth_ranks: Tensor) -> pd.DataFrame:
    """(Q,) ranks of the targets, (Q, R) of the ground truths, -1 for what is not ranked."""
    counts = [len(t.ground_truths) for t in queries.triplets]
    columns = {f"ap{k}": average_precision_at_k(truth_ranks, counts, k) for k in CIRCO_KS}
    frame = _per_query(queries, columns | {"rank": target_ranks})
    return frame.assign(aspects=[t.aspects for t in queries.triplets])


def rank_circo(
    retriever: Embedder,
    queries: QuerySet,
    exclude_reference: bool = False,
    memory: int = DEFAULT_MEMORY,
) -> dict[str, list[str]]:
    """What CIRCO's server asks for, of any split: the first 50 images of each query."""
    rankings = {}
    for rows, ranks in _rank_positions(retriever, queries, memory, exclude_reference):
        first = ranks.argsort(dim=1)[:, :CIRCO_LISTED].tolist()
        for triplet, order in zip(queries.triplets[rows], first, strict=True):
            rankings[triplet.query_id] = [queries.corpus.image_ids[i] for i in order]
    return rankings


def evaluate_hp_fashioniq(
    retriever: Embedder,
    judged: pd.DataFrame,
    images: Mapping[str, Path] | None = None,
    memory: int = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Score both sets of each judged query: the mean relevance score of a set's five images.

    Args:
        judged: of `load_hp_fashioniq`. A query's id is its row number, "0" the first.
        images: image id -> file, where the retriever reads files.

    Returns:
        As `score_hp_fashioniq`.
    """
    queries = hp_query_set(judged, images)
    shown = torch.stack([
        queries.corpus.positions(a + b)
        for a, b in zip(judged["set_1"], judged["set_2"], strict=True)
    ])  # fmt: skip
    embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
    scores = [
        chunk.cpu().gather(1, shown[rows]).double().unflatten(1, (2, -1)).mean(dim=2)
        for rows, chunk in score_corpus(*embedded, memory)
    ]
    return score_hp_fashioniq(judged, torch.cat(scores).numpy())


def hp_query_set(judged: pd.DataFrame, images: Mapping[str, Path] | None) -> QuerySet:
    """Judged queries as a QuerySet over the distinct images of their sets. Targets are not scored.

    Args:
        judged: of `load_hp_fashioniq`.
        images: image id -> file, of the sets and the references; None where no file is read.

    Raises:
        ValueError: there are files, but not of every image.
    """
    shown = dict.fromkeys(i for sets in (judged["set_1"], judged["set_2"]) for s in sets for i in s)
    references = dict.fromkeys(judged["reference"])
    missing = [i for i in shown | references if images is not None and i not in images]
    if missing:
        raise ValueError(f"image {missing[0]!r} has no file; name the folder of FashionIQ's images")
    triplets = tuple(
        Triplet(str(row), q.reference, q.caption, q.target, q.category, (q.caption,))
        for row, q in enumerate(judged.itertuples())
    )
    paths, files = (
        {i: images[i] for i in ids} if images is not None else {} for ids in (shown, references)
    )
    corpus = Corpus(tuple(shown), tuple(paths.values()))
    return QuerySet("hp-fashioniq", triplets, corpus, files)


def score_hp_fashioniq(judged: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Compare scores of the two sets with the participants' choices.

    Args:
        judged: of `load_hp_fashioniq`.
        scores: (Q, 2), of any model (`load_set_scores`).

    Returns:
        One row a judged query: query_id, participant, category, reference, target, preferred,
        set_score_1 and set_score_2, agrees (1, 0, or 0.5 where the scores tie) and one_sided
        (whether set 1 scores higher: the published rate is the mean of `agrees` over these).
    """
    frame = judged[["participant", "category", "reference", "target", "preferred"]].copy()
    frame.insert(0, "query_id", [str(row) for row in range(len(judged))])
    preference = preference_rate(*scores.T, judged["preferred"])
    return frame.assign(
        set_score_1=scores[:, 0],
        set_score_2=scores[:, 1],
        agrees=preference.agrees,
        one_sided=preference.one_sided,
    )


def _per_query(queries: QuerySet, columns: Mapping[str, Tensor | np.ndarray]) -> pd.DataFrame:
    about = {"query_id": [t.query_id for t in queries.triplets]}
    return pd.DataFrame(about | {name: np.asarray(column) for name, column in columns.items()})


def _find_ranks(
    retriever: Embedder,
    queries: QuerySet,
    wanted: Sequence[Sequence[str]],
    memory: int,
    exclude_reference: bool,
) -> Tensor:
    """(Q, R) rank of each wanted image of each query; -1 fills the rows that want fewer."""
    places = [queries.corpus.positions(tuple(ids)) for ids in wanted]
    places = pad_sequence(places, batch_first=True, padding_value=-1)
    chunks = [
        ranks.gather(1, places[rows].clamp(min=0)).where(places[rows] >= 0, -1)
        for rows, ranks in _rank_positions(retriever, queries, memory, exclude_reference)
    ]
    return torch.cat(chunks)


def _listed_ranks(rankings: Rankings, queries: QuerySet, wanted: Sequence[Sequence[str]]) -> Tensor:
    """As `_find_ranks`, from rankings that stop early: -1 also for what one does not list."""
    rows = []
    for triplet, ids in zip(queries.triplets, wanted, strict=True):
        rank = {image_id: rank for rank, image_id in enumerate(rankings[triplet.query_id])}
        rows.append(torch.tensor([rank.get(image_id, -1) for image_id in ids]))
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def _target_ranks(rankings: Rankings, queries: QuerySet) -> Tensor:
    """(Q,) rank of each target; its ranking's length, the least it can be, where not listed."""
    ranks = _listed_ranks(rankings, queries, [[t.target] for t in queries.triplets])[:, 0]
    lengths = torch.tensor([len(rankings[t.query_id]) for t in queries.triplets])
    return ranks.where(ranks >= 0, lengths)


def _rank_positions(
    retriever: Embedder, queries: QuerySet, memory: int, exclude_reference: bool
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


if __name__ == "__main__":
    import sys

    from .protocols import main

    sys.exit(main())
