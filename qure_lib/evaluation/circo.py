"""CIRCO's protocol: mAP@k over all ground truths."""

from argparse import Namespace
from dataclasses import replace

import pandas as pd
from torch import Tensor

from qure_lib.datasets.circo import CIRCO_PROMPTS, COUNTS, list_images, load_circo
from qure_lib.datasets.queries import Corpus, QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.method.ranking import DEFAULT_MEMORY

from . import protocol, target_ranks
from .metrics import average_precision_at_k
from .ranking_files import RankingFile, Rankings
from .statistics import Sample

CIRCO_KS = (5, 10, 25, 50)  # cut-offs of its AP@k


def known_corpus(queries: QuerySet) -> tuple[str, ...] | None:
    """The images to rank; None if `load_circo` had no list of them but what is annotated."""
    named = {i for t in queries.triplets for i in (t.reference, *t.ground_truths)}
    listed = queries.dropped_images > 0 or not named.issuperset(queries.corpus.image_ids)
    return queries.corpus.image_ids if listed else None


CIRCO_FILE = RankingFile(count=max(CIRCO_KS), numbers=True, corpus=known_corpus)


def evaluate_circo(
    retriever: Embedder,
    queries: QuerySet,
    exclude_reference: bool = False,
    memory: int = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Rank CIRCO's corpus for queries (of `load_circo`) that several images answer.

    Args:
        exclude_reference: leave the reference out of the ranking. The protocol does not say so.

    Returns:
        One row a query: query_id, ap5, ap10, ap25 and ap50 (AP@k over all ground truths), rank
        (0-based, of the single target) and aspects (a tuple; `explode` it for mAP by aspect).
        ValueError as `check_answers`.
    """
    target_ranks.check_answers(queries, "ground_truths", with_reference=False)
    wanted = [(t.target, *t.ground_truths) for t in queries.triplets]
    ranks = target_ranks.find_ranks(retriever, queries, wanted, memory, exclude_reference)
    return _per_query(queries, {"rank": ranks[:, 0]}, ranks[:, 1:])


def score_circo(queries: QuerySet, rankings: Rankings) -> pd.DataFrame:
    """`evaluate_circo`'s columns, from rankings, as `listed_target_ranks`.

    AP@k is NaN where a ranking ends before k.
    """
    target_ranks.check_answers(queries, "ground_truths", with_reference=False)
    truths = [t.ground_truths for t in queries.triplets]
    truth_ranks = target_ranks.listed_ranks(rankings, queries, truths, CIRCO_FILE)
    columns = target_ranks.listed_target_ranks(rankings, queries, CIRCO_FILE)
    frame = _per_query(queries, columns, truth_ranks)
    if "listed" in frame:
        for k in CIRCO_KS:
            frame[f"ap{k}"] = frame[f"ap{k}"].where(frame["listed"] >= k)
    return frame


def _per_query(queries: QuerySet, ranks: dict[str, Tensor], truth_ranks: Tensor) -> pd.DataFrame:
    """(Q,) columns on the targets, and (Q, R) ranks of the ground truths, -1 if not ranked."""
    counts = [len(t.ground_truths) for t in queries.triplets]
    columns = {f"ap{k}": average_precision_at_k(truth_ranks, counts, k) for k in CIRCO_KS}
    frame = target_ranks.per_query_frame(queries, {**columns, **ranks})
    return frame.assign(aspects=[t.aspects for t in queries.triplets])


def rank_circo(retriever: Embedder, queries: QuerySet, exclude_reference: bool = False) -> Rankings:
    """Rank any split as `CIRCO_FILE.write` takes it: the first 50 images."""
    count, memory = CIRCO_FILE.count, DEFAULT_MEMORY
    return target_ranks.rank_images(retriever, queries, count, memory, exclude_reference)


def circo_measures(per_query: pd.DataFrame) -> protocol.Measures:
    """CIRCO's mAP@k in per cent, in the order of Table 5: map5, ... for each column ap5, ..."""
    aps = {k: per_query[f"ap{k}"] for k in CIRCO_KS if f"ap{k}" in per_query}
    aps = {k: 100 * pd.to_numeric(ap, errors="coerce") for k, ap in aps.items()}
    return {(f"map{k}", f"mAP@{k}"): Sample(ap) for k, ap in aps.items()}


def summarise_circo(per_query: pd.DataFrame) -> pd.DataFrame:
    """`circo_measures` with their intervals, as `protocol.estimate`."""
    return protocol.estimate(circo_measures(per_query))


def summarise_circo_details(per_query: pd.DataFrame) -> pd.DataFrame:
    """CIRCO's other measures in per cent: r5, ... of the target, map10_{aspect}."""
    ks = [k for k in CIRCO_KS if f"ap{k}" in per_query]
    measures = {(f"r{k}", f"Recall@{k}"): Sample(protocol.recall(per_query, k)) for k in ks}
    for aspect, group in per_query.explode("aspects").dropna(subset="aspects").groupby("aspects"):
        measures[f"map10_{aspect}", f"mAP@10 {aspect}"] = Sample(100 * group["ap10"])
    return protocol.estimate(measures)


def _title(split: str, args: Namespace) -> str:
    if args.submission:
        return "CIRCO val"
    removed = "" if args.exclude_reference else "not "
    prompt = f", prompt {args.prompt or 'caption'!r}" if args.checkpoint else ""
    return f"CIRCO {split}, reference {removed}removed{prompt}"


def _prepare(queries: QuerySet, embedder: Embedder) -> QuerySet:
    """Take the images of saved embeddings for the corpus, if COCO's list is missing."""
    if known_corpus(queries) or not isinstance(embedder, SavedEmbeddings):
        return queries
    embedder.embed_corpus(queries.corpus)  # all that the annotations name must be there
    return replace(queries, corpus=Corpus(tuple(embedder.images.rows), ()))


CIRCO = protocol.Protocol(
    name="circo",
    about="mAP@5, 10, 25, 50 on CIRCO val over all ground truths, Recall@k of the single target, "
    "and mAP@10 by semantic aspect.",
    key="circo",
    layout="circo",
    counts=COUNTS,
    list_images=list_images,
    measures=circo_measures,
    summarise=lambda frame: pd.concat([summarise_circo(frame), summarise_circo_details(frame)]),
    table=protocol.PaperTable("Table 5", "table5", "table5_circo_zero_shot.csv"),
    command=protocol.Command(
        load=lambda folder, split, images, args: load_circo(
            folder, split, images, args.allow_missing, args.prompt or "caption"
        ),
        query_sets=lambda queries: [queries],
        evaluate=lambda embedder, q, args: evaluate_circo(embedder, q, args.exclude_reference),
        score=lambda q, args: score_circo(q, CIRCO_FILE.read(args.submission[0], q)),
        title=_title,
        images=lambda queries: len(queries.corpus) if known_corpus(queries) else None,
        submission="{query id: [image ids]} for val, 50 a query for all measures",
        root="folder with annotations/ and COCO2017_unlabeled/",
        keeps_features=False,
        prepare=_prepare,
        test_split="test",
        test_files={"circo_test.json": CIRCO_FILE},
        rank=lambda embedder, q, args: [rank_circo(embedder, q, args.exclude_reference)],
        options={
            "--prompt": protocol.Option(
                ("checkpoint",),
                "what the model reads: the caption (default), the release's prompt with its "
                "literal $, or that with the shared concept in its place",
                {"choices": list(CIRCO_PROMPTS)},
            ),
            "--exclude-reference": protocol.Option(
                protocol.MODELS,
                "leave the reference out of the ranking; the protocol does not",
                {"action": "store_true"},
            ),
            "--composition": protocol.COMPOSITION,
            "--allow-missing": protocol.ALLOW_MISSING,
        },
    ),
)
