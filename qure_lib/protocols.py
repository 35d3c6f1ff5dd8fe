"""Score a model, its saved embeddings, or anyone's ranking file by a published protocol.

Prints one JSON object: the protocol, n queries, the number of images ranked, every metric in per
cent, its 95 % bootstrap interval and its number of queries. What is wrong with the input goes to
stderr, with exit status 2. Annotations alone do for --embeddings and --submission; formats are in
qure_lib.submissions and in qure_lib.embeddings.SavedEmbeddings.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from . import submissions
from .data import (
    CIRCO_PROMPTS,
    Corpus,
    QuerySet,
    find_hp_fashioniq_images,
    load_circo,
    load_cirr,
    load_fashioniq,
    load_hp_fashioniq,
    load_set_scores,
    save_set_scores,
)
from .embeddings import CorpusOnDisk, Embedder, Retriever, SavedEmbeddings
from .evaluation import (
    evaluate_circo,
    evaluate_cirr,
    evaluate_fashioniq,
    evaluate_hp_fashioniq,
    hp_query_set,
    rank_circo,
    rank_cirr,
    score_circo,
    score_cirr,
    score_fashioniq,
    score_hp_fashioniq,
)
from .files import replacing
from .tables import (
    summarise_circo,
    summarise_circo_details,
    summarise_cirr,
    summarise_preference,
    summarise_recall,
)

COMMAND = "python -m qure_lib.evaluation"
CORPORA = {"original": "original split", "union": "VAL-union"}
SPELLED = {  # measures that `_spell` cannot put together
    "avg": "Avg",
    "avg_r5_rs1": "(R@5+Rs@1)/2",
    "preference_rate": "preference rate (one-sided)",
    "agreement": "agreement (two-sided)",
    "base_rate": "base rate",
}
KINDS = {"r": "Recall", "rs": "Recall_subset", "map": "mAP"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 where the input is at fault."""
    args = parser().parse_args(argv)
    try:
        _check_arguments(args)
        result = args.run(args)
    except (ValueError, OSError) as error:
        print(f"{COMMAND} {args.command}: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(COMMAND, description=__doc__, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True, metavar="PROTOCOL")
    for name, protocol in PROTOCOLS.items():
        about = protocol.about
        sub = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        sub.set_defaults(run=protocol.run, **dict.fromkeys(_OPTIONS))
        _add_sources(sub, protocol)
        for flag, settings in protocol.options.items():
            sub.add_argument(flag, **settings)
    return top


def _add_sources(sub: argparse.ArgumentParser, protocol: Protocol) -> None:
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="a saved model")
    source.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help=".safetensors or .npz: queries (Q, D), images (N, T, D) or (N, D), query_ids, "
        "image_ids; any model's, scored by inner products",
    )
    source.add_argument(
        "--submission", type=Path, metavar="FILE", nargs=protocol.files, help=protocol.submission
    )
    sub.add_argument(
        "--root", type=Path, metavar="DATA", help=f"with --checkpoint: {protocol.root}"
    )
    sub.add_argument("--annotations", type=Path, metavar="DIR", help=protocol.annotations)
    sub.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        default=Path("runs/features"),
        help="with --checkpoint: where features and embeddings are kept (default: %(default)s)",
    )
    sub.add_argument(
        "--per-query", type=Path, metavar="FILE.csv", help="write one row a query, ranks 0-based"
    )


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise a ValueError where two arguments do not go together."""
    judged = args.command == "hp-fashioniq"
    needs = ["root"] * bool(args.checkpoint) + ["annotations"] * (judged or not args.checkpoint)
    for name in ("root", "annotations"):
        if (getattr(args, name) is None) == (name in needs):
            source = next(n for n in ("checkpoint", "embeddings", "submission") if getattr(args, n))
            raise ValueError(f"--{source} {'needs' if name in needs else 'takes no'} --{name}")
    if args.submission and (args.exclude_reference or args.test_files):
        raise ValueError("--exclude-reference and --test-files need a model, not a --submission")
    if args.prompt and not args.checkpoint:
        raise ValueError("--prompt needs --checkpoint: saved embeddings have read their captions")
    if args.test_files and args.per_query:
        raise ValueError("--test-files has no --per-query: only the server knows the answers")
    if args.per_query and args.per_query.is_dir():
        raise ValueError(f"--per-query {args.per_query} is a folder; name a file in it")


def run_fashioniq(args: argparse.Namespace) -> dict[str, Any]:
    """Recall@10 and @50 by category, over the corpus that --protocol names."""
    folder = args.root or args.annotations
    queries = load_fashioniq(
        folder, "val", args.protocol, bool(args.checkpoint), args.allow_missing
    )
    if args.submission:
        frame = score_fashioniq(submissions.read_fashioniq(args.submission[0], queries), queries)
    else:
        frame = evaluate_fashioniq(_embedder(args, list(queries.values())), queries)
    images = {category: len(query_set.corpus) for category, query_set in queries.items()}
    name = f"FashionIQ val, {CORPORA[args.protocol]}, reference not removed"
    return _report(args, name, frame, summarise_recall(frame), images)


def run_cirr(args: argparse.Namespace) -> dict[str, Any]:
    """Recall@K and Recall_subset@K, the reference removed; or the server's files for test1."""
    split, folder = "test1" if args.test_files else "val", args.root or args.annotations
    queries = load_cirr(folder, split, bool(args.checkpoint), args.allow_missing)
    if args.test_files:
        rankings = dict(
            zip(
                submissions.CIRR_METRICS,
                rank_cirr(_embedder(args, [queries]), queries),
                strict=True,
            )
        )
        files = {f"cirr_test1_{m}.json": m for m in rankings}
        for name, metric in files.items():
            submissions.write_cirr(args.test_files / name, metric, rankings[metric], queries)
        return _test_report("CIRR test1, reference removed", queries, args.test_files, list(files))
    if args.submission:
        frame = score_cirr(queries, **_read_cirr_files(args.submission, queries))
    else:
        frame = evaluate_cirr(_embedder(args, [queries]), queries)
    name, summary = "CIRR val, reference removed", summarise_cirr(frame)
    return _report(args, name, frame, summary, len(queries.corpus))


def _read_cirr_files(paths: list[Path], queries: QuerySet) -> dict[str, submissions.Rankings]:
    files = {}
    for path in paths:
        metric, rankings = submissions.read_cirr(path, queries)
        if metric in files:
            raise ValueError(f"{path}: a second file of metric {metric!r}; name one of each")
        files[metric] = rankings
    return files


def run_circo(args: argparse.Namespace) -> dict[str, Any]:
    """mAP@k over all ground truths, Recall@k of the target, mAP@10 by aspect; or a test file."""
    split, folder = "test" if args.test_files else "val", args.root or args.annotations
    prompt = args.prompt or "caption"
    queries = load_circo(folder, split, bool(args.checkpoint), args.allow_missing, prompt)
    removed = f"reference {'' if args.exclude_reference else 'not '}removed"
    name = f"CIRCO {split}, {removed}" + f", prompt {prompt!r}" * bool(args.checkpoint)
    if args.submission:
        frame = score_circo(queries, submissions.read_circo(args.submission[0], queries))
        images = len(queries.corpus) if submissions.knows_corpus(queries) else None
        return _report(args, "CIRCO val", frame, _summarise_circo(frame), images)
    embedder = _embedder(args, [queries])
    if not submissions.knows_corpus(queries):
        embedder.embed_corpus(queries.corpus)  # all that the annotations name must be there
        queries = replace(queries, corpus=Corpus(tuple(embedder.images.rows), ()))
    if args.test_files:
        rankings = rank_circo(embedder, queries, args.exclude_reference)
        submissions.write_circo(args.test_files / "circo_test.json", rankings, queries)
        return _test_report(name, queries, args.test_files, ["circo_test.json"])
    frame = evaluate_circo(embedder, queries, args.exclude_reference)
    return _report(args, name, frame, _summarise_circo(frame), len(queries.corpus))


def _summarise_circo(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([summarise_circo(frame), summarise_circo_details(frame)])


def run_hp_fashioniq(args: argparse.Namespace) -> dict[str, Any]:
    """The one-sided preference rate, beside the two-sided agreement and the base rate."""
    path = args.annotations
    judged = load_hp_fashioniq(path / "hpfiq.json" if path.is_dir() else path)
    if args.submission:
        frame = score_hp_fashioniq(judged, load_set_scores(args.submission[0], len(judged)))
    else:
        images = find_hp_fashioniq_images(judged, args.root) if args.checkpoint else None
        queries = hp_query_set(judged, images)
        frame = evaluate_hp_fashioniq(_embedder(args, [queries]), judged, images)
    if args.set_scores:
        save_set_scores(args.set_scores, frame[["set_score_1", "set_score_2"]].to_numpy())
    shown = len({i for sets in (judged["set_1"], judged["set_2"]) for s in sets for i in s})
    name = "HP-FashionIQ, all judged queries, intervals over participants"
    return _report(args, name, frame, summarise_preference(frame), shown)


def _embedder(args: argparse.Namespace, query_sets: list[QuerySet]) -> Embedder:
    """The model or the saved embeddings that the arguments name, for these queries."""
    if args.embeddings:
        saved = SavedEmbeddings.open(args.embeddings)
        saved.check_queries([t.query_id for q in query_sets for t in q.triplets])
        return saved
    few = args.command != "circo"  # then features are kept, and serve every model of this encoder
    parts = [q.images if few else q.reference_paths for q in query_sets]
    images = {i: path for part in parts for i, path in part.items()}
    retriever = Retriever.open(args.checkpoint, images, args.cache)
    return retriever if few else CorpusOnDisk(retriever, args.cache)


def _report(
    args: argparse.Namespace,
    protocol: str,
    frame: pd.DataFrame,
    summary: pd.DataFrame,
    images: int | dict[str, int] | None,
) -> dict[str, Any]:
    """What is printed; and the per-query file, if it was asked for."""
    if args.per_query:
        if "aspects" in frame:
            frame = frame.assign(aspects=frame["aspects"].str.join(" "))
        with replacing(args.per_query) as scratch:
            frame.to_csv(scratch, index=False, lineterminator="\n")
    rows = {_spell(row.measure): row for row in summary.itertuples()}
    bounds = {n: [None if math.isnan(b) else b for b in (r.low, r.high)] for n, r in rows.items()}
    return {
        "protocol": protocol,
        "n": len(frame),
        "images": images,
        "unit": "per cent",
        "metrics": {name: row.estimate for name, row in rows.items()},
        "intervals": bounds,
        "queries": {name: row.n for name, row in rows.items()},
    }


def _test_report(
    protocol: str, queries: QuerySet, folder: Path, names: list[str]
) -> dict[str, Any]:
    files = [str(folder / name) for name in names]
    return {"protocol": protocol, "n": len(queries), "images": len(queries.corpus), "files": files}


def _spell(measure: str) -> str:
    """A measure as METHOD section 6 writes it.

    Example:
        >>> [_spell(m) for m in ("rs1", "dress_r10", "map10_negation")]
        ['Recall_subset@1', 'Recall@10 dress', 'mAP@10 negation']
    """
    if measure in SPELLED:
        return SPELLED[measure]
    before, kind, k, after = re.fullmatch(r"(?:(.+)_)?(rs?|map)(\d+)(?:_(.+))?", measure).groups()
    words = (f"{KINDS[kind]}@{k}", "average" if before == "avg" else before, after)
    return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Protocol:
    """A subcommand: what it runs, and the help of its arguments."""

    run: Callable[[argparse.Namespace], dict[str, Any]]
    about: str
    submission: str
    root: str
    files: int | str = 1
    annotations: str = "without --checkpoint: the folder of annotations; images are not looked for"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


_OPTIONS = ("prompt", "test_files", "exclude_reference", "allow_missing", "set_scores")
_ALLOW_MISSING = {
    "action": "store_true",
    "help": "with --checkpoint: leave out queries and images whose files are missing, and say how "
    "many; the result is then not the protocol's",
}
_TEST_FILES = {
    "type": Path,
    "metavar": "DIR",
    "help": "write the server's files for the test split there, and score nothing",
}

PROTOCOLS = {
    "fashioniq": Protocol(
        run_fashioniq,
        "Recall@10 and @50 on FashionIQ val, the reference not removed.",
        "{category: {query: [50 image ids or more]}}, a query as its row in the captions' file",
        "folder with captions/, image_splits/ and images",
        options={
            "--protocol": {
                "choices": list(CORPORA),
                "default": "original",
                "help": "the corpus: the original split, or the smaller union of the val triplets' "
                "images, whose results never stand beside the others (default: %(default)s)",
            },
            "--allow-missing": _ALLOW_MISSING,
        },
    ),
    "cirr": Protocol(
        run_cirr,
        "Recall@1, 5, 10, 50 and Recall_subset@1, 2, 3 on CIRR val, the reference removed.",
        "the server's recall file, recall_subset file, or both, for val",
        "folder with captions/, image_splits/ and images",
        files="+",
        options={"--test-files": _TEST_FILES, "--allow-missing": _ALLOW_MISSING},
    ),
    "circo": Protocol(
        run_circo,
        "mAP@5, 10, 25, 50 on CIRCO val over all ground truths, Recall@k of the single target, and "
        "mAP@10 by semantic aspect.",
        "{query id: [50 image ids]} for val",
        "folder with annotations/ and COCO2017_unlabeled/",
        options={
            "--prompt": {
                "choices": list(CIRCO_PROMPTS),
                "help": "what the model reads: the caption (default), the release's prompt with "
                "its literal $, or that with the shared concept in its place",
            },
            "--exclude-reference": {
                "action": "store_true",
                "help": "leave the reference out of the ranking; the protocol does not",
            },
            "--test-files": _TEST_FILES,
            "--allow-missing": _ALLOW_MISSING,
        },
    ),
    "hp-fashioniq": Protocol(
        run_hp_fashioniq,
        "How often the set of five images with the higher score is the one that people preferred.",
        "CSV of set scores: row,set,score or row,set,score_1 ... score_5",
        "FashionIQ's folder, which has the images",
        annotations="folder of hpfiq.json, or a file like it (always needed)",
        options={
            "--set-scores": {
                "type": Path,
                "metavar": "FILE.csv",
                "help": "write the scores of the sets, row,set,score, as notebook 06 takes them",
            }
        },
    ),
}
