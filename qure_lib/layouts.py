"""Where image files lie. Any layout in use is found by looking: each folder is listed once.

FashionIQ's images have no home of their own, so copies differ: images/{id}.png or .jpg,
image_data/{category}/{id}.jpg (HP-FashionIQ's way), resized_image/{id}.jpg, or a mixture. CIRR's
and CIRCO's lists name their files; what differs is the folder around them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg")  # of two files of one image, the earlier
FASHIONIQ_FOLDERS = ("images", "image_data", "resized_image")  # each, then the folders in it
CIRR_FOLDERS = ("", "img_raw", "images")  # around what a split list names
CIRCO_FOLDERS = ("COCO2017_unlabeled", "")  # around unlabeled2017/ and COCO's annotations/


@dataclass(frozen=True)
class FoundImages:
    """Where images lie: `paths` by id, and which of them are `missing` (their path is a guess)."""

    paths: dict[str, Path]
    missing: frozenset[str]


def list_fashioniq_images(root: str | Path) -> dict[str, Path]:
    """Every image file in FashionIQ's layouts below `root`, by id.

    An image that is there twice has one path, whichever category asks: 121 of FashionIQ's val
    images are in two.

    Raises:
        ValueError: a folder cannot be read.
    """
    found: dict[str, str] = {}
    for name in FASHIONIQ_FOLDERS:
        folder = os.path.join(root, name)
        files, folders = _list_folder(folder)
        listings = {folder: files} | {f: _list_folder(f)[0] for f in folders}
        for place, names in listings.items():
            split = [(*os.path.splitext(name), name) for name in names]
            images = [s for s in split if s[1].lower() in SUFFIXES]
            for stem, _, name in sorted(images, key=lambda s: (SUFFIXES.index(s[1].lower()), s[2])):
                found.setdefault(stem, os.path.join(place, name))
    return {image_id: Path(path) for image_id, path in found.items()}


def find_by_id(root: str | Path, files: Mapping[str, Path], ids: Iterable[str]) -> FoundImages:
    """Each of `ids` in the `files` that `list_fashioniq_images(root)` found."""
    home = Path(root, "images")
    paths = {i: files[i] if i in files else home / f"{i}.png" for i in ids}
    return FoundImages(paths, frozenset(i for i in paths if i not in files))


def find_by_name(names: Mapping[str, str], folders: Sequence[str | Path]) -> FoundImages:
    """Each named file in the first of `folders` that holds it.

    Args:
        names: image id -> path below a folder, "/" between its parts.

    Raises:
        ValueError: a folder cannot be read.
    """
    listed: dict[str, set[str]] = {}
    paths, missing = {}, set()
    for image_id, name in names.items():
        places = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
        for place in places:
            parent, file = os.path.split(place)
            if parent not in listed:
                listed[parent] = set(_list_folder(parent)[0])
            if file in listed[parent]:
                break
        else:
            place = places[0]
            missing.add(image_id)
        paths[image_id] = Path(place)
    return FoundImages(paths, frozenset(missing))


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files and paths of the folders in a folder; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            kinds = [(entry.name, entry.is_file(), entry.is_dir()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error}); give read access to it") from error
    folders = sorted(os.path.join(folder, name) for name, _, is_folder in kinds if is_folder)
    return [name for name, is_file, _ in kinds if is_file], folders
