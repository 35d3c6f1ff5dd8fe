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
from .metrics import average_precision_at_k, recall_at_k
from .ranking_files import RankingFile, Rankings
from .statistics import Sample, bootstrap_ci

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
    return _per_query(queries, ranks[:, 0], ranks[:, 1:])


def score_circo(queries: QuerySet, rankings: Rankings) -> pd.DataFrame:
    """`evaluate_circo`'s columns, from rankings; ranks and errors are those of `listed_ranks`."""
    target_ranks.check_answers(queries, "ground_truths", with_reference=False)
    truths = [t.ground_truths for t in queries.triplets]
    truth_ranks = target_ranks.listed_ranks(rankings, queries, truths, CIRCO_FILE)
    ranks = target_ranks.listed_target_ranks(rankings, queries, CIRCO_FILE)
    return _per_query(queries, ranks, truth_ranks)


def _per_query(queries: QuerySet, ranks: Tensor, truth_ranks: Tensor) -> pd.DataFrame:
    """(Q,) ranks of the targets, (Q, R) of the ground truths, -1 for what is not ranked."""
    counts = [len(t.ground_truths) for t in queries.triplets]
    columns = {f"ap{k}": average_precision_at_k(truth_ranks, counts, k) for k in CIRCO_KS}
    frame = target_ranks.per_query_frame(queries, columns | {"rank": ranks})
    return frame.assign(aspects=[t.aspects for t in queries.triplets])


def rank_circo(retriever: Embedder, queries: QuerySet, exclude_reference: bool = False) -> Rankings:
    """Rank any split as `CIRCO_FILE.write` takes it: the first 50 images."""
    count, memory = CIRCO_FILE.count, DEFAULT_MEMORY
    return target_ranks.rank_images(retriever, queries, count, memory, exclude_reference)


def circo_measures(per_query: pd.DataFrame) -> protocol.Measures:
    """CIRCO's mAP@k in per cent, in the order of Table 5: map5, ... for each column ap5, ..."""
    aps = {k: 100 * per_query[f"ap{k}"].astype(float) for k in CIRCO_KS if f"ap{k}" in per_query}
    return {(f"map{k}", f"mAP@{k}"): Sample(ap) for k, ap in aps.items()}


def summarise_circo(per_query: pd.DataFrame) -> pd.DataFrame:
    """The `summary` of `circo_measures`, with intervals."""
    return protocol.estimate(circo_measures(per_query))


def summarise_circo_details(per_query: pd.DataFrame) -> pd.DataFrame:
    """CIRCO's other measures in per cent: r5, ... of the target, map10_{aspect}."""
    ks = [k for k in CIRCO_KS if f"ap{k}" in per_query]
    hits = {k: 100 * recall_at_k(per_query["rank"], k) for k in ks}
    measures = {(f"r{k}", f"Recall@{k}"): bootstrap_ci(hit) for k, hit in hits.items()}
    for aspect, group in per_query.explode("aspects").dropna().groupby("aspects"):
        measures[f"map10_{aspect}", f"mAP@10 {aspect}"] = bootstrap_ci(100 * group["ap10"])
    return protocol.summary(measures)


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
        submission="{query id: [50 image ids]} for val",
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
