"""Score a model, its saved embeddings, or a ranking file by a published protocol; compare models.

Prints one JSON object: the protocol, n queries, the number of images ranked, and each metric in per
cent with its 95 % bootstrap interval (null where a single query or participant counts) and its
number of queries. A metric that needs longer rankings than there are is null, too; notes say so,
also on stderr. Errors go to stderr, with exit status 2. --embeddings and --submission need the
annotations alone; the help of a subcommand has their formats.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from qure_lib.datasets.queries import QuerySet
from qure_lib.features.corpus_on_disk import CorpusOnDisk
from qure_lib.features.retriever import Retriever
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.files import replacing, run_command

from .compare import compare_models, read_per_query
from .composition import CaptionEmbedder, parts_alone, summarise_composition
from .protocol import SOURCES, Command, Protocol, estimate
from .registry import PROTOCOLS

COMMAND = "python -m qure_lib.evaluation"
EMBEDDINGS = ".safetensors or .npz of queries (Q, D), images (N, T, D), query_ids and image_ids"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 if the input is at fault."""
    args = parser().parse_args(argv)
    try:
        result = args.run(args)
    except (ValueError, OSError) as error:
        print(f"{COMMAND} {args.command}: error: {error}", file=sys.stderr)
        return 2
    if not isinstance(result, str):
        for note in result.get("notes", ()):
            print(f"{COMMAND} {args.command}: {note}", file=sys.stderr)
        result = json.dumps(result, indent=2, allow_nan=False)
    print(result)
    return 0


def parser() -> ArgumentParser:
    """The command's arguments: a subcommand for each data set, and `compare`."""
    top = ArgumentParser(COMMAND, description=__doc__, allow_abbrev=False)
    names = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, protocol in PROTOCOLS.items():
        about = protocol.about
        sub = names.add_parser(name, allow_abbrev=False, help=about, description=about)
        _add_arguments(sub, protocol.command)
        sub.set_defaults(run=partial(run, protocol))
    about = "Compare models on the same queries, from the files of --per-query, with correction."
    sub = names.add_parser("compare", allow_abbrev=False, help=about, description=about)
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE.csv", help="one a model")
    measure = "one to compare, as it is printed (repeat for several; default: all of the protocol)"
    sub.add_argument("--measure", action="append", default=[], metavar="NAME", help=measure)
    sub.add_argument("--table", action="store_true", help="print a table, not JSON")
    sub.set_defaults(run=run_compare)
    return top


def _add_arguments(sub: ArgumentParser, command: Command) -> None:
    def add(flag: str, metavar: str, help: str, group: Any = sub, **more: Any) -> None:
        group.add_argument(flag, type=Path, metavar=metavar, help=help, **more)

    source = sub.add_mutually_exclusive_group(required=True)
    add("--checkpoint", "FOLDER", "a saved model", source)
    add("--embeddings", "FILE", EMBEDDINGS, source)
    add("--submission", "FILE", command.submission, source, nargs=command.submission_files)
    add("--root", "DATA", f"with --checkpoint: {command.root}")
    when = "always" if command.needs_annotations else "without --checkpoint"
    add("--annotations", "DIR", f"{when}: the folder of annotations; needs no image files")
    cache = "with --checkpoint: where features and embeddings are kept (default: %(default)s)"
    add("--cache", "FOLDER", cache, default=Path("runs/features"))
    add("--per-query", "FILE.csv", "write one row a query, ranks 0-based")
    sub.set_defaults(test_files=None)
    if command.test_split:
        add("--test-files", "DIR", "write the server's files for the test split, and score nothing")
    for flag, option in command.options.items():
        sub.add_argument(flag, help=option.help, **option.settings)


def _check_arguments(command: Command, args: Namespace) -> None:
    """Raise a ValueError if two arguments do not go together."""
    source = next(name for name in SOURCES if getattr(args, name))
    needed = {"root": source == "checkpoint"}
    needed["annotations"] = command.needs_annotations or source != "checkpoint"
    for name, needs in needed.items():
        if (getattr(args, name) is None) == needs:
            raise ValueError(f"--{source} {'needs' if needs else 'takes no'} --{name}")
    for flag, option in command.options.items():
        if _value(args, flag) and source not in option.sources:
            fitting = " or ".join(f"--{name}" for name in option.sources)
            raise ValueError(f"{flag} needs {fitting}; leave it out with --{source}")
    if args.test_files and source == "submission":
        raise ValueError("--test-files needs --checkpoint or --embeddings, not --submission")
    for name in ("per-query", "composition") if args.test_files else ():
        if getattr(args, name.replace("-", "_"), None):
            raise ValueError(f"--test-files has no --{name}: only the server knows the answers")
    if args.per_query and args.per_query.is_dir():
        raise ValueError(f"--per-query {args.per_query} is a folder; name a file in it")


def _value(args: Namespace, flag: str) -> Any:
    return getattr(args, flag.strip("-").replace("-", "_"))


def run(protocol: Protocol, args: Namespace) -> dict[str, Any]:
    """Evaluate by a protocol, or write its server's files. Returns what is printed."""
    command, embedder = protocol.command, None
    _check_arguments(command, args)
    split = command.test_split if args.test_files else "val"
    data = command.load(args.annotations or args.root, split, bool(args.checkpoint), args)
    if not args.submission:
        embedder = open_embedder(command, command.query_sets(data), args)
        data = command.prepare(data, embedder)
    query_sets = command.query_sets(data)
    n = sum(map(len, query_sets))
    images = command.images(data)
    about: dict[str, Any] = {"protocol": command.title(split, args), "n": n, "images": images}
    if args.test_files and embedder:
        files, rankings = command.test_files, command.rank(embedder, data, args)
        for (name, file), ranked in zip(files.items(), rankings, strict=True):
            file.write(args.test_files / name, ranked, *query_sets)
        return about | {"files": [str(args.test_files / name) for name in files]}
    frame = command.evaluate(embedder, data, args) if embedder else command.score(data, args)
    if embedder and getattr(args, "composition", False):
        alone = {p: command.evaluate(e, data, args) for p, e in parts_alone(embedder).items()}
        frame = frame.assign(**{f"{part}_rank": f["rank"] for part, f in alone.items()})
        about |= {f"{part} alone": _as_json(protocol.summarise(f)) for part, f in alone.items()}
        about["in the first 10"] = _as_json(summarise_composition(frame))
    if args.per_query:
        _write_per_query(args.per_query, frame.assign(protocol=protocol.name), images)
    for flag, option in command.options.items():
        if option.write and _value(args, flag):
            option.write(_value(args, flag), frame)
    return about | _as_json(protocol.summarise(frame))


def _write_per_query(path: Path, frame: pd.DataFrame, images: int | dict[str, int] | None) -> None:
    """Write one row a query, and how many images it ranks, if that is known."""
    if "aspects" in frame:
        frame = frame.assign(aspects=frame["aspects"].str.join(" "))
    if images is not None:
        counts = frame["category"].map(images) if isinstance(images, dict) else images
        frame = frame.assign(images=counts)
    with replacing(path) as scratch:
        frame.to_csv(scratch, index=False, lineterminator="\n")


def run_compare(args: Namespace) -> dict[str, Any] | str:
    """Compare the models of per-query files. Returns what is printed: an object, or a table."""
    protocol, frames = read_per_query(args.files)
    differences = compare_models(frames, protocol, args.measure)
    if args.table:
        return differences.to_string(index=False, float_format="{:.3f}".format)
    estimates = {n: _as_json(estimate(protocol.measures(f))) for n, f in frames.items()}
    about = {"protocol": protocol.name, "n": len(next(iter(frames.values()))), "models": estimates}
    return about | {"differences": differences.to_dict("records")}


def open_embedder(command: Command, query_sets: list[QuerySet], args: Namespace) -> CaptionEmbedder:
    """The model or the saved embeddings that the arguments name, for these queries."""
    if args.embeddings:
        saved = SavedEmbeddings.open(args.embeddings)
        saved.check_queries([t.query_id for q in query_sets for t in q.triplets])
        return saved
    kept = [q.images if command.keeps_features else q.reference_paths for q in query_sets]
    images = {i: path for paths in kept for i, path in paths.items()}
    retriever = Retriever.open(args.checkpoint, images, args.cache)
    return retriever if command.keeps_features else CorpusOnDisk(retriever, args.cache)


def _as_json(summary: pd.DataFrame) -> dict[str, Any]:
    """A summary by the measures' names in print, NaN as null; notes say why."""
    plain = summary.astype(object).where(summary.notna(), None).set_index("words")
    bounds = {words: [low, high] for words, low, high in plain[["low", "high"]].itertuples()}
    metrics, queries = plain["estimate"].to_dict(), plain["n"].to_dict()
    found = {"unit": "per cent", "metrics": metrics, "intervals": bounds, "queries": queries}
    unknown = [words for words, value in metrics.items() if value is None]
    lone = [words for words, ends in bounds.items() if None in ends and words not in unknown]
    why = {"no result, since a ranking lists too few images": unknown}
    why["no interval, since a single query or participant counts"] = lone
    notes = [f"{reason}: {', '.join(words)}" for reason, words in why.items() if words]
    return found | ({"notes": notes} if notes else {})


if __name__ == "__main__":
    run_command(main)
