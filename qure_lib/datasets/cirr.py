"""CIRR, and any data set on disk in its layout."""

from pathlib import Path

from qure_lib.files import read_json

from . import loading
from .image_files import FoundImages, find_by_name
from .queries import Counts, QuerySet, Triplet, check_distinct

CIRR_FOLDERS = ("", "img_raw", "images")  # around what a split list names
COUNTS = Counts(16_939, 2_297, 28_225, 4_181)  # train queries: CIRR's paper
KEYS = {"pairid": int, "reference": str, "caption": str, "img_set": dict}
GROUP_SIZE = 6


def load_cirr(
    root: str | Path, split: str = "val", images: bool = True, allow_missing: bool = False
) -> QuerySet:
    """Load CIRR, or any data set on disk in its layout (SynthFashion's cirr_like/).

    Args:
        root: folder with captions/, image_splits/ and the images where the split list says, there
            or below img_raw/ or images/.
        split: "train", "val" or "test1" (whose queries have no target).
        images: False asks for the annotations alone, not for image files.
        allow_missing: drop what needs an image file that is missing; see `drop_missing`.

    Returns:
        Triplets with their `group`, over all images of the split.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id comes twice or is not
            in the split list, reference and target are not two of a group of six, or an image file
            is missing; the message names it.
    """
    loading.check_choice("split", split, ("train", "val", "test1"))
    path, place = Path(root, "captions", f"cap.rc2.{split}.json"), f"{root}, {split}"
    found = find_cirr_images(root, split)
    triplets = _read_cirr(path, has_targets=split != "test1")
    loading.check_listed(triplets, path, found.paths, f"split.rc2.{split}.json")
    queries = loading.build_query_set("cirr", triplets, found.paths, found)
    return loading.drop_missing(queries, found, place, allow_missing) if images else queries


def _read_cirr(path: Path, has_targets: bool) -> list[Triplet]:
    triplets, kinds = [], KEYS | ({"target_hard": str} if has_targets else {})
    for place, entry in loading.check_entries(path, read_json(path), kinds, distinct=["pairid"]):
        reference, target = entry["reference"], entry["target_hard"] if has_targets else ""
        group = loading.distinct_strings(entry["img_set"], "members", str, f"{place}, 'img_set'")
        pair = {reference, target} if has_targets else {reference}
        if len(group) != GROUP_SIZE or not pair <= set(group) or target == reference:
            raise ValueError(
                f"{place}: 'img_set' must hold six images, the reference and another one as the "
                f"target among them; not {group} for {reference!r} -> {target!r}; repair it"
            )
        query = str(entry["pairid"]), reference, entry["caption"], target
        triplets.append(Triplet(*query, "cirr", (entry["caption"],), group))
    return triplets


def find_cirr_images(root: str | Path, split: str) -> FoundImages:
    """The images of CIRR's split list, in its order; ValueError if it is missing or broken."""
    path = Path(root, "image_splits", f"split.rc2.{split}.json")
    names = read_json(path, dict)
    for image_id, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}, {image_id!r}: {name!r} is no path; get it again")
    check_distinct(((f"{path}, {image_id!r}", name) for image_id, name in names.items()), "file")
    return find_by_name(names, root, CIRR_FOLDERS, path)


def load_training_splits(
    root: str | Path, pool: str = "released", allow_missing: bool = False
) -> tuple[dict[str, QuerySet], dict[str, QuerySet]]:
    """Train over its pool of negatives and val over all its images, each as the category "cirr".

    Args:
        pool: all "original" train images (as "released"), or the "targets" of the train triplets.
    """
    train, val = (load_cirr(root, s, allow_missing=allow_missing) for s in loading.SPLITS)
    return {"cirr": train.only_targets() if pool == "targets" else train}, {"cirr": val}


def list_images(root: str | Path) -> dict[str, Path]:
    """Id -> file of every image that the published recipe reads, whether or not it is there."""
    train, val = (load_cirr(root, split, images=False) for split in loading.SPLITS)
    return train.images | val.images
