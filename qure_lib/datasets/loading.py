"""What the loaders share: checks of annotations, and what to do about missing image files."""

import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .image_files import FoundImages
from .queries import Corpus, QuerySet, Triplet, check_distinct

SPLITS = ("train", "val")


def real_annotations(name: str) -> Path | None:
    """Folder `name` ("cirr", "hpfiq", ...) below that of the variable QURE_DATA, if it is there."""
    root = os.environ.get("QURE_DATA")
    return Path(root, name) if root and Path(root, name).is_dir() else None


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, not {value!r}")


def check_entries(
    path: Path, entries: Any, kinds: Mapping[str, type], distinct: Iterable[str] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """(place, entry) of each object in a list that was read from `path`; places are for messages.

    Args:
        kinds: the keys that an entry needs, with the type of their values.
        distinct: the keys whose values must differ between entries.

    Raises:
        ValueError: it is no list, or an empty one, or an entry is not as it must be; the message
            names it.
    """
    if not isinstance(entries, list):
        raise ValueError(f"{path}: needs a list of entries, not a {type(entries).__name__}")
    if not entries:
        raise ValueError(f"{path} holds an empty list: no query, or no image; get the file again")
    placed = [(f"{path}, entry {row}", entry) for row, entry in enumerate(entries)]
    for place, entry in placed:
        known = entry if isinstance(entry, dict) else {}
        wrong = {k: kind.__name__ for k, kind in kinds.items() if type(known.get(k)) is not kind}
        if wrong:
            raise ValueError(f"{place}: needs {wrong}; is this the right file?")
    for key in distinct:
        check_distinct(((place, entry[key]) for place, entry in placed), repr(key))
    return placed


def distinct_strings(entry: dict[str, Any], key: str, kind: type, place: str) -> tuple[str, ...]:
    """The strings of a list of distinct values of one `kind`; ValueError if it is anything else."""
    values = entry.get(key)
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise ValueError(f"{place}: {key!r} must list {kind.__name__}s, not {values!r}; repair it")
    check_distinct(((f"{place}, item {n}", value) for n, value in enumerate(values)), repr(key))
    return tuple(map(str, values))


def check_listed(triplets: Sequence[Triplet], path: Path, listed: Iterable[str], name: str) -> None:
    """Raise ValueError unless the list of images called `name` holds all that a triplet needs."""
    known = set(listed)
    for row, triplet in enumerate(triplets):
        for image_id in needed_images(triplet):
            if image_id not in known:
                raise ValueError(
                    f"{path}, entry {row}: image {image_id!r} is not in {name}; the two files are "
                    "from different releases or one is cut short"
                )


def needed_images(triplet: Triplet) -> tuple[str, ...]:
    """Every image of a triplet: over a part of its group or ground truths, metrics would differ."""
    target = (triplet.target,) if triplet.target else ()  # none in a test split
    return (triplet.reference, *target, *triplet.group, *triplet.ground_truths)


def build_query_set(
    name: str, triplets: Sequence[Triplet], corpus: Iterable[str], found: FoundImages
) -> QuerySet:
    """Triplets over the images of `corpus`, whether or not their files are there."""
    ids, references = tuple(corpus), {t.reference: found.paths[t.reference] for t in triplets}
    ranked = Corpus(ids, tuple(found.paths[i] for i in ids))
    return QuerySet(name, tuple(triplets), ranked, references)


def drop_missing(queries: QuerySet, found: FoundImages, place: str, allow: bool) -> QuerySet:
    """Drop the corpus images whose files are missing and the triplets that need one of them.

    A warning, which names `place`, says how many are dropped, and the QuerySet counts them.

    Raises:
        ValueError: files are missing and `allow` is False, or no triplet is left.
    """
    if not found.missing:
        return queries
    if not allow:
        raise found.error(place)
    triplets, corpus = queries.triplets, queries.corpus
    kept = [t for t in triplets if found.missing.isdisjoint(needed_images(t))]
    ids = [i for i in corpus.image_ids if i not in found.missing]
    warnings.warn(
        f"{place}: {len(kept)} of {len(triplets)} triplets and {len(ids)} of {len(corpus)} corpus "
        "images are kept, files of the rest are missing; results on them are not the protocol's: "
        "do not compare them with published numbers",
        stacklevel=3,
    )
    if triplets and not kept:
        raise ValueError(f"{place}: no triplet is left; put more images there")
    smaller = build_query_set(queries.name, kept, ids, found)
    gone = len(triplets) - len(kept), len(corpus) - len(ids)
    return replace(smaller, dropped_triplets=gone[0], dropped_images=gone[1])
