"""The record of a data set: all that training, planning and evaluation know of it."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from qure_lib.datasets.queries import Counts, QuerySet
from qure_lib.features.retriever import Embedder

from .metrics import recall_at_k
from .ranking_files import RankingFile, Rankings
from .statistics import Sample, bootstrap_ci

QuerySets = dict[str, QuerySet]  # by category
Measures = Mapping[tuple[str, str], Sample]  # (name in published files, name in print) -> per cent
MODELS = ("checkpoint", "embeddings")  # what can rank a corpus
SOURCES = (*MODELS, "submission")  # what the evaluation command can score


@dataclass(frozen=True)
class Option:
    """An argument of the evaluation command that only some data sets take."""

    sources: tuple[str, ...]  # of SOURCES, those that it goes with
    help: str
    settings: Mapping[str, Any]  # more of argparse's `add_argument`
    write: Callable[[Any, pd.DataFrame], None] | None = None  # (value, one row a query) -> a file


ALLOW_MISSING = Option(
    ("checkpoint",),
    "leave out what needs a missing image file, and say how much; the result is then not the "
    "protocol's",
    {"action": "store_true"},
)
COMPOSITION = Option(
    MODELS,
    "also rank by the caption alone and by the reference image alone; --embeddings then needs an "
    "array captions (Q, D)",
    {"action": "store_true"},
)


@dataclass(frozen=True)
class Command:
    """A data set's part of `python -m qure_lib.evaluation`; `data` is whatever `load` returns."""

    # (folder of annotations, split, whether to look for images, arguments) -> data
    load: Callable[[Path, str, bool, Namespace], Any]
    # (embedder, data, arguments) -> one row a query
    evaluate: Callable[[Embedder, Any, Namespace], pd.DataFrame]
    # (data, arguments) -> the same columns, from the files of --submission
    score: Callable[[Any, Namespace], pd.DataFrame]
    title: Callable[[str, Namespace], str]  # (split, arguments) -> the protocol in words
    # data -> number of images ranked, by category if there are several corpora; None if unknown
    images: Callable[[Any], int | dict[str, int] | None]
    submission: str  # help texts of --submission and --root
    root: str
    submission_files: int | str = 1  # argparse's nargs
    needs_annotations: bool = False  # whether --checkpoint needs --annotations beside --root
    keeps_features: bool = True  # False for a corpus so large that only embeddings are stored
    query_sets: Callable[[Any], list[QuerySet]] = lambda sets: list(sets.values())  # to embed
    prepare: Callable[[Any, Embedder], Any] = lambda data, embedder: data  # -> data to rank
    test_split: str = ""  # whose answers only a server knows
    test_files: Mapping[str, RankingFile] = field(default_factory=dict)  # for the server, by name
    # (embedder, data, arguments) -> the rankings of each of `test_files`
    rank: Callable[[Embedder, Any, Namespace], Iterable[Rankings]] = lambda *_: ()
    options: Mapping[str, Option] = field(default_factory=dict)  # by flag


@dataclass(frozen=True)
class Training:
    """How to train on a data set."""

    is_at: Callable[[Path], bool]  # whether a folder holds the data set, or one in its layout
    # (folder, pool of negatives, allow_missing) -> train and val queries
    load: Callable[[Path, str, bool], tuple[QuerySets, QuerySets]]
    # (embedder, val queries, memory, graded relevance by category) -> one row a query
    evaluate: Callable[[Embedder, QuerySets, int, Mapping[str, Tensor | None]], pd.DataFrame]
    measures: Mapping[str, tuple[str, int]]  # history's column -> (column of ranks, k) of Recall@k
    select_by: tuple[str, str]  # the two measures whose sum selects the best epoch
    recipe: Mapping[str, Any] = field(default_factory=dict)  # published; beside TrainConfig's


@dataclass(frozen=True)
class PaperTable:
    """The paper's table of a data set."""

    name: str  # "Table 2"
    stem: str  # how the names of reproduced files begin
    file: str  # published numbers, in reports/published/
    recall10: str = ""  # the measure that is Recall@10 over all queries, if there is one


@dataclass(frozen=True)
class Protocol:
    """One data set."""

    name: str  # its subcommand
    about: str  # what is measured, in a sentence
    key: str  # its folder below QURE_DATA and data/
    layout: str  # key of the data set whose layout on disk it has, or its own
    counts: Counts  # published
    list_images: Callable[[Path], dict[str, Path]]  # folder -> id -> file of every image to read
    measures: Callable[[pd.DataFrame], Measures]  # one row a query -> what models are compared by
    summarise: Callable[[pd.DataFrame], pd.DataFrame]  # one row a query -> as `estimate`
    table: PaperTable
    command: Command
    training: Training | None = None  # None if it is only evaluated on


def recall(per_query: pd.DataFrame, k: int, ranks: str = "rank") -> np.ndarray:
    """(Q,) Recall@k in per cent of a column of 0-based ranks; NaN where a ranking ends before k.

    The column `listed`, or `subset_listed` of `subset_rank`, has the rankings' lengths if one does.
    """
    hits = 100 * recall_at_k(per_query[ranks], k)
    lengths = pd.to_numeric(per_query.get(ranks.replace("rank", "listed")), errors="coerce")
    return np.where(lengths < k, np.nan, hits)


def estimate(measures: Measures) -> pd.DataFrame:
    """Measures with their intervals, one row each; NaN if a value is, and so the mean is unknown.

    Columns: measure ("avg_r10"), words ("Recall@10 average"), estimate, low, high and n.
    """
    columns = ["measure", "words", "estimate", "low", "high", "n"]
    rows = []
    for names, sample in measures.items():
        if np.isnan(sample.values).any():
            rows.append((*names, np.nan, np.nan, np.nan, np.size(sample.values)))
        else:
            found = bootstrap_ci(*sample)
            rows.append((*names, found.estimate, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=columns)
