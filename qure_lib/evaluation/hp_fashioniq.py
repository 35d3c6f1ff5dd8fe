"""HP-FashionIQ's protocol: how often people preferred the set with the higher score."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from qure_lib.datasets import hp_fashioniq
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.features.retriever import Embedder
from qure_lib.method.ranking import DEFAULT_MEMORY, score_corpus

from . import protocol
from .metrics import preference_rate
from .statistics import Sample

Judged = tuple[pd.DataFrame, dict[str, Path] | None]  # queries; files, if a model reads them


def evaluate_hp_fashioniq(
    retriever: Embedder,
    judged: pd.DataFrame,
    images: Mapping[str, Path] | None = None,
    memory: int = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Score both sets of each judged query: the mean relevance score of a set's five images.

    Arguments as `hp_query_set`, results as `score_hp_fashioniq`.
    """
    queries = hp_query_set(judged, images)
    pairs = zip(judged["set_1"], judged["set_2"], strict=True)
    shown = torch.stack([queries.corpus.positions(a + b) for a, b in pairs])
    embedded = retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)
    scores = [
        chunk.cpu().gather(1, shown[rows]).double().unflatten(1, (2, -1)).mean(dim=2)
        for rows, chunk in score_corpus(*embedded, memory)
    ]
    return score_hp_fashioniq(judged, torch.cat(scores).numpy())


def hp_query_set(judged: pd.DataFrame, images: Mapping[str, Path] | None) -> QuerySet:
    """Judged queries as a QuerySet over the distinct images of their sets. Targets are not scored.

    Args:
        judged: of `load_hp_fashioniq`. A query's id is its row number, "0" the first.
        images: image id -> file, of the sets and the references; None if no file is read.

    Raises:
        ValueError: an image has no file.
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
    files = images or {}
    paths = tuple(files[i] for i in shown if i in files)
    reference_paths = {i: files[i] for i in references if i in files}
    return QuerySet("hp-fashioniq", triplets, Corpus(tuple(shown), paths), reference_paths)


def score_hp_fashioniq(judged: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Compare (Q, 2) scores of the two sets, of any model, with the participants' choices.

    Returns:
        One row a judged query: query_id, participant, category, reference, target, preferred,
        set_score_1 and set_score_2, agrees (1, 0, or 0.5 if the scores tie) and one_sided
        (whether set 1 scores higher: the published rate is the mean of `agrees` over these).
        ValueError as `preference_rate`.
    """
    frame = judged[["participant", "category", "reference", "target", "preferred"]].copy()
    frame.insert(0, "query_id", [str(row) for row in range(len(judged))])
    preference = preference_rate(scores[:, 0], scores[:, 1], judged["preferred"])
    return frame.assign(
        set_score_1=scores[:, 0],
        set_score_2=scores[:, 1],
        agrees=preference.agrees,
        one_sided=preference.one_sided,
    )


def preference_measures(per_query: pd.DataFrame) -> protocol.Measures:
    """A scorer's rates in per cent, participants resampled whole.

    preference_rate (one-sided, as published; n counts its rows) and agreement (two-sided).

    Raises:
        ValueError: the scorer never prefers set 1, so there is no one-sided rate.
    """
    agrees, one_sided = (per_query[name].astype(float) for name in ("agrees", "one_sided"))
    if not one_sided.any():
        raise ValueError("no set 1 scores higher than its set 2, so there is no one-sided rate")
    agrees, people = 100 * agrees, per_query["participant"]
    measures = {
        ("preference_rate", "preference rate (one-sided)"): Sample(agrees, one_sided, people)
    }
    return measures | {("agreement", "agreement (two-sided)"): Sample(agrees, clusters=people)}


def summarise_preference(per_query: pd.DataFrame) -> pd.DataFrame:
    """`preference_measures` and base_rate with their intervals, as `protocol.estimate`.

    base_rate is how often set 1 is preferred: a random scorer's preference_rate.
    """
    base_rate = Sample(100 * (per_query["preferred"] == 1), clusters=per_query["participant"])
    measures = {**preference_measures(per_query), ("base_rate", "base rate"): base_rate}
    return protocol.estimate(measures)


def _load(folder: Path, split: str, images: bool, args: Namespace) -> Judged:
    path = folder / "hpfiq.json" if folder.is_dir() else folder
    judged = hp_fashioniq.load_hp_fashioniq(path)
    return judged, hp_fashioniq.find_hp_fashioniq_images(judged, args.root) if images else None


HP_FASHIONIQ = protocol.Protocol(
    name="hp-fashioniq",
    about="How often the set of five images with the higher score is the one that people "
    "preferred.",
    key="hpfiq",
    layout="hpfiq",
    counts=hp_fashioniq.COUNTS,
    list_images=hp_fashioniq.list_images,
    measures=preference_measures,
    summarise=summarise_preference,
    table=protocol.PaperTable("Table 4", "table4", "table4_hpfiq_preference.csv"),
    command=protocol.Command(
        load=_load,
        query_sets=lambda data: [hp_query_set(*data)],
        evaluate=lambda embedder, data, args: evaluate_hp_fashioniq(embedder, *data),
        score=lambda data, args: score_hp_fashioniq(
            data[0], hp_fashioniq.load_set_scores(args.submission[0], len(data[0]))
        ),
        title=lambda split, args: "HP-FashionIQ, all judged queries, intervals over participants",
        images=lambda data: len(hp_query_set(*data).corpus),
        submission="CSV of set scores: row,set,score or row,set,score_1 ... score_5",
        root="FashionIQ's folder, which has the images",
        needs_annotations=True,
        options={
            "--set-scores": protocol.Option(
                protocol.SOURCES,
                "write the scores of the sets, row,set,score, as notebook 06 takes them",
                {"type": Path, "metavar": "FILE.csv"},
                lambda path, frame: hp_fashioniq.save_set_scores(
                    path, frame[["set_score_1", "set_score_2"]].to_numpy()
                ),
            )
        },
    ),
)
