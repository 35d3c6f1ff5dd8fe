"""CIRR's protocol: Recall@K and Recall_subset@K, the reference removed."""

from argparse import Namespace
from pathlib import Path

import pandas as pd
from torch import Tensor

from qure_lib.datasets.cirr import COUNTS, list_images, load_cirr, load_training_splits
from qure_lib.datasets.queries import QuerySet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import DEFAULT_MEMORY

from . import protocol, target_ranks
from .ranking_files import RankingFile, Rankings, read_object
from .statistics import Sample

CIRR_FILES = {  # by metric
    "recall": RankingFile(50, reference=False, head={"version": "rc2", "metric": "recall"}),
    "recall_subset": RankingFile(
        3, reference=False, in_group=True, head={"version": "rc2", "metric": "recall_subset"}
    ),
}


def evaluate_cirr(
    retriever: Embedder, queries: QuerySet, memory: int = DEFAULT_MEMORY
) -> pd.DataFrame:
    """Rank CIRR's split, and each query's own group of six, the reference removed from both.

    Returns:
        One row a query: query_id, rank (0-based, of the target) and subset_rank (0 to 4, among the
        other five of its group), for Recall@K and Recall_subset@K. ValueError as `check_answers`.
    """
    target_ranks.check_answers(queries, "group", with_reference=True)
    wanted = [(t.target, *(i for i in t.group if i != t.reference)) for t in queries.triplets]
    ranks = target_ranks.find_ranks(retriever, queries, wanted, memory, exclude_reference=True)
    columns = {"rank": ranks[:, 0], "subset_rank": (ranks[:, 1:] < ranks[:, :1]).sum(dim=1)}
    return target_ranks.per_query_frame(queries, columns)


def score_cirr(
    queries: QuerySet, recall: Rankings | None = None, recall_subset: Rankings | None = None
) -> pd.DataFrame:
    """`evaluate_cirr`'s columns: rank from rankings of the split, subset_rank from the groups'.

    Either may be missing, and its column then is. Ranks, what else there may be (listed and
    subset_listed) and errors are those of `listed_target_ranks`.
    """
    target_ranks.check_answers(queries, "group", with_reference=True)
    columns: dict[str, Tensor] = {}
    given = (("", "recall", recall), ("subset_", "recall_subset", recall_subset))
    for prefix, metric, rankings in given:
        if rankings is not None:
            found = target_ranks.listed_target_ranks(rankings, queries, CIRR_FILES[metric])
            columns |= {prefix + name: column for name, column in found.items()}
    return target_ranks.per_query_frame(queries, columns)


def rank_cirr(
    retriever: Embedder, queries: QuerySet, memory: int = DEFAULT_MEMORY
) -> tuple[Rankings, Rankings]:
    """Rank any split for CIRR's server: the first 50 images, and the first 3 of each group.

    Neither holds the reference. `RankingFile.write` of each of CIRR_FILES takes them.
    """
    whole = target_ranks.rank_images(retriever, queries, len(queries.corpus), memory, True)
    group = {t.query_id: [i for i in whole[t.query_id] if i in t.group] for t in queries.triplets}
    first, few = (file.count for file in CIRR_FILES.values())
    return {q: i[:first] for q, i in whole.items()}, {q: i[:few] for q, i in group.items()}


def read_cirr(path: str | Path, queries: QuerySet) -> tuple[str, Rankings]:
    """Read a file of CIRR's server: its metric, and its rankings.

    Args:
        path: {"version": "rc2", "metric": "recall", pairid: [image names]} as JSON, without the
            query's reference; or "recall_subset" with names of its group.
        queries: of `load_cirr`, of the file's split.

    Raises:
        ValueError: as `RankingFile.read`; another version or metric.
    """
    content = read_object(path)
    head = {key: content.pop(key, None) for key in ("version", "metric")}
    for metric, file in CIRR_FILES.items():
        if file.head == head:
            return metric, file.parse(content, queries, path)
    known = [file.head for file in CIRR_FILES.values()]
    raise ValueError(f"{path} begins with {head}; write one of {known}")


def cirr_measures(ranks: pd.DataFrame) -> protocol.Measures:
    """CIRR's measures in per cent, in the order of Table 3: r1, ..., rs1, ..., avg_r5_rs1.

    Args:
        ranks: one row a query, with the columns rank and subset_rank, or one of them.
    """
    hits = {}
    if "rank" in ranks:
        for k in (1, 5, 10, 50):
            hits[f"r{k}", f"Recall@{k}"] = protocol.recall(ranks, k)
    if "subset_rank" in ranks:
        for k in (1, 2, 3):
            hits[f"rs{k}", f"Recall_subset@{k}"] = protocol.recall(ranks, k, "subset_rank")
    if {"rank", "subset_rank"} <= set(ranks):
        both = hits["r5", "Recall@5"] + hits["rs1", "Recall_subset@1"]
        hits["avg_r5_rs1", "(R@5+Rs@1)/2"] = both / 2
    return {names: Sample(hit) for names, hit in hits.items()}


def summarise_cirr(ranks: pd.DataFrame) -> pd.DataFrame:
    """`cirr_measures` with their intervals, as `protocol.estimate`."""
    return protocol.estimate(cirr_measures(ranks))


def _score(sets: protocol.QuerySets, args: Namespace) -> pd.DataFrame:
    files = {}
    for path in args.submission:
        metric, rankings = read_cirr(path, sets["cirr"])
        if metric in files:
            raise ValueError(f"{path}: a second file of metric {metric!r}; name one of each")
        files[metric] = rankings
    return score_cirr(sets["cirr"], **files)


CIRR = protocol.Protocol(
    name="cirr",
    about="Recall@1, 5, 10, 50 and Recall_subset@1, 2, 3 on CIRR val, the reference removed.",
    key="cirr",
    layout="cirr",
    counts=COUNTS,
    list_images=list_images,
    measures=cirr_measures,
    summarise=summarise_cirr,
    table=protocol.PaperTable("Table 3", "table3", "table3_cirr_test.csv", recall10="r10"),
    command=protocol.Command(
        load=lambda folder, split, images, args: {
            "cirr": load_cirr(folder, split, images, args.allow_missing)
        },
        evaluate=lambda embedder, sets, args: evaluate_cirr(embedder, sets["cirr"]),
        score=_score,
        title=lambda split, args: f"CIRR {split}, reference removed",
        images=lambda sets: len(sets["cirr"].corpus),
        submission="the server's recall file, recall_subset file, or both, for val",
        root="folder with captions/, image_splits/ and images",
        submission_files="+",
        test_split="test1",
        test_files={f"cirr_test1_{metric}.json": file for metric, file in CIRR_FILES.items()},
        rank=lambda embedder, sets, args: rank_cirr(embedder, sets["cirr"]),
        options={"--composition": protocol.COMPOSITION, "--allow-missing": protocol.ALLOW_MISSING},
    ),
    training=protocol.Training(
        is_at=lambda root: (root / "captions" / "cap.rc2.train.json").is_file(),
        load=load_training_splits,
        evaluate=lambda embedder, sets, memory, relevance: evaluate_cirr(
            embedder, sets["cirr"], memory
        ).assign(category="cirr"),
        measures={f"r{k}": ("rank", k) for k in (10, 50, 1, 5)} | {"rs1": ("subset_rank", 1)},
        select_by=("r5", "rs1"),
        recipe={"epochs": 50, "learning_rate": 1e-5},
    ),
)
