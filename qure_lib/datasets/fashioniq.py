"""FashionIQ, and any data set on disk in its layout."""

import os
import re
from pathlib import Path

from qure_lib.files import read_json

from . import loading
from .captions import join_phrases
from .image_files import FASHIONIQ_FOLDERS, SUFFIXES, find_by_id, list_folder
from .queries import Counts, QuerySet, Triplet

CATEGORIES = ("dress", "shirt", "toptee")  # FashionIQ's and SynthFashion's
COUNTS = Counts(25_136, 15_415, 18_000, 6_016)  # as counted in the annotations
KEYS = {"candidate": str, "target": str, "captions": list}


def find_categories(root: str | Path) -> tuple[str, ...]:
    """The categories of a data set, sorted, from the names of its split lists and captions.

    FashionIQ's three where it has no others: the loaders then name a missing one.
    """
    patterns = ("image_splits/split.*.*.json", "captions/cap.*.*.json")
    files = [path for pattern in patterns for path in Path(root).glob(pattern)]
    found = sorted({path.name.split(".")[1] for path in files})
    return CATEGORIES if set(found) <= set(CATEGORIES) else tuple(found)


def load_fashioniq(
    root: str | Path,
    split: str,
    corpus: str = "original",
    images: bool = True,
    allow_missing: bool = False,
) -> dict[str, QuerySet]:
    """Load FashionIQ, or any data set on disk in its layout (SynthFashion), by category.

    Args:
        root: folder with captions/, image_splits/ and the images below any of FASHIONIQ_FOLDERS.
        split: "train" or "val".
        corpus: "original" split, as in the paper; the "union" of candidates and targets, another
            protocol; or the "targets" alone, the release's pool of training negatives.
        images: False asks for the annotations alone, not for image files.
        allow_missing: drop what needs an image file that is missing; see `drop_missing`.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id is in no split list,
            or an image file is missing; the message names it.
    """
    loading.check_choice("split", split, loading.SPLITS)
    loading.check_choice("corpus", corpus, ("original", "union", "targets"))
    files, sets = list_fashioniq_images(root), {}
    for category in find_categories(root):
        triplets, ids = _read_category(Path(root), category, split, corpus)
        found = find_by_id(root, files, [*ids, *(t.reference for t in triplets)])
        sets[category] = loading.build_query_set(category, triplets, ids, found)
        if images:
            place = f"{root}, {category} {split}"
            sets[category] = loading.drop_missing(sets[category], found, place, allow_missing)
    return sets


def _read_category(
    root: Path, category: str, split: str, corpus: str
) -> tuple[tuple[Triplet, ...], list[str]]:
    """The triplets of a category and the ids of its corpus."""
    list_file = root / "image_splits" / f"split.{category}.{split}.json"
    path = root / "captions" / f"cap.{category}.{split}.json"
    listed, triplets = read_ids(list_file), read_triplets(path, category, split)
    loading.check_listed(triplets, path, listed, list_file.name)
    if corpus == "original":
        return triplets, list(dict.fromkeys(listed))
    references = [t.reference for t in triplets] if corpus == "union" else []
    return triplets, list(dict.fromkeys([*references, *(t.target for t in triplets)]))


def read_ids(path: Path) -> list[str]:
    """The image ids of a split list, some twice: plain file names, as paths are made of them."""
    ids = read_json(path)
    for row, name in enumerate(ids):
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError(f"{path}, entry {row}: {name!r} is no image id; get the file again")
    return ids


def read_triplets(path: Path, category: str, split: str) -> tuple[Triplet, ...]:
    """The triplets of a captions file, listed or not; ValueError if an entry is broken."""
    triplets = []
    for row, (place, entry) in enumerate(loading.check_entries(path, read_json(path), KEYS)):
        phrases = entry["captions"]
        if len(phrases) != 2 or not all(isinstance(phrase, str) for phrase in phrases):
            raise ValueError(f"{place}: 'captions' must hold two strings, not {phrases!r}")
        if "" in (entry["candidate"], entry["target"]):
            raise ValueError(f"{place}: 'candidate' and 'target' must be image ids, not empty")
        query = f"{category}/{split}/{row}", entry["candidate"], join_phrases(*phrases)
        triplets.append(Triplet(*query, entry["target"], category, tuple(phrases)))
    return tuple(triplets)


def list_fashioniq_images(root: str | Path) -> dict[str, Path]:
    """Every image file in FashionIQ's layouts below `root`, by id.

    Of several files of one image (121 of FashionIQ's val images are in two categories), one is
    taken for all categories.
    """
    found: dict[str, Path] = {}
    for name in FASHIONIQ_FOLDERS:
        folder = os.path.join(root, name)
        files, folders = list_folder(folder)
        for place, names in [(folder, files), *((f, list_folder(f)[0]) for f in folders)]:
            split = [(*os.path.splitext(name), name) for name in names]
            images = [s for s in split if s[1].lower() in SUFFIXES]
            for stem, _, name in sorted(images, key=lambda s: (SUFFIXES.index(s[1].lower()), s[2])):
                found.setdefault(stem, Path(place, name))
    return found


def load_training_splits(
    root: str | Path, pool: str = "released", allow_missing: bool = False
) -> tuple[dict[str, QuerySet], dict[str, QuerySet]]:
    """Train and val (over the original split), by category.

    Args:
        pool: negatives of train: the "targets" of its triplets (as "released"), or all "original".
    """
    corpus = "targets" if pool == "released" else pool
    train = load_fashioniq(root, "train", corpus, allow_missing=allow_missing)
    return train, load_fashioniq(root, "val", allow_missing=allow_missing)


def list_images(root: str | Path) -> dict[str, Path]:
    """Id -> file of every image that the published recipe reads, whether or not it is there."""
    train = load_fashioniq(root, "train", corpus="targets", images=False)
    sets = [*train.values(), *load_fashioniq(root, "val", images=False).values()]
    return {i: path for queries in sets for i, path in queries.images.items()}
