"""Annotations -> triplets and the corpus that they rank.

Every loader reads its data set's own layout (FashionIQ's, CIRR's, CIRCO's, HP-FashionIQ's) and says
by name what is missing or broken.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .files import replacing
from .layouts import (
    CIRCO_FOLDERS,
    CIRR_FOLDERS,
    FASHIONIQ_FOLDERS,
    SUFFIXES,
    FoundImages,
    find_by_id,
    find_by_name,
    list_fashioniq_images,
)

CATEGORIES = ("dress", "shirt", "toptee")  # FashionIQ's and SynthFashion's
DESCRIBED = ("SynthFashion", "Photographs")  # data sets that know every image's attributes
SPLITS = ("train", "val")
CORPUS_CHOICES = ("original", "union", "targets")
FASHIONIQ_LOOKS = f"as {', '.join(SUFFIXES)} in {', '.join(FASHIONIQ_FOLDERS)}, or a folder there"


@dataclass(frozen=True)
class Triplet:
    """One query and its answer: (reference image, relative caption) -> target. Ids are strings.

    CIRR adds `group`, six similar images with reference and target among them. CIRCO adds
    `ground_truths`, every image that answers, `aspects` of the caption and the `concept` that
    reference and target share. A query of a test split has no target: "".
    """

    query_id: str
    reference: str
    caption: str
    target: str
    category: str
    phrases: tuple[str, ...]
    group: tuple[str, ...] = ()
    ground_truths: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    concept: str = ""


@dataclass(frozen=True)
class Corpus:
    """The N distinct images that are ranked, in one fixed order (ties are broken by it)."""

    image_ids: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.image_ids)}

    def positions(self, image_ids: list[str] | tuple[str, ...]) -> Tensor:
        """(len(image_ids),) int64 corpus positions.

        Raises:
            ValueError: an id is not in the corpus.
        """
        try:
            return torch.tensor([self._position[i] for i in image_ids], dtype=torch.int64)
        except KeyError as error:
            raise ValueError(f"image {error} is not in this corpus of {len(self)}") from None


@dataclass(frozen=True)
class QuerySet:
    """Q triplets that rank one corpus of N images, for example FashionIQ's val shirts.

    `dropped_triplets` and `dropped_images` (of the corpus) count what was left out because files
    are missing (`allow_missing`): unless both are 0, results are not the protocol's.
    """

    name: str
    triplets: tuple[Triplet, ...]
    corpus: Corpus
    reference_paths: dict[str, Path]
    dropped_triplets: int = 0
    dropped_images: int = 0

    def __len__(self) -> int:
        return len(self.triplets)

    @cached_property
    def target_positions(self) -> Tensor:
        """(Q,) corpus position of each query's target."""
        return self.corpus.positions([t.target for t in self.triplets])

    def only_targets(self) -> QuerySet:
        """The same queries over the images that are a target, in the corpus's order."""
        targets = {t.target for t in self.triplets}
        pairs = zip(self.corpus.image_ids, self.corpus.paths, strict=True)
        kept = [(image_id, path) for image_id, path in pairs if image_id in targets]
        return replace(self, corpus=Corpus(*map(tuple, zip(*kept, strict=True))))

    @cached_property
    def reference_positions(self) -> Tensor:
        """(Q,) corpus position of each query's reference, -1 where it is not in the corpus."""
        known = self.corpus._position
        return torch.tensor([known.get(t.reference, -1) for t in self.triplets])

    @property
    def images(self) -> dict[str, Path]:
        """Every distinct image needed: the corpus, then references outside it."""
        return dict(zip(self.corpus.image_ids, self.corpus.paths, strict=True)) | (
            self.reference_paths
        )


def real_annotations(name: str) -> Path | None:
    """Folder `name` below the one that the environment variable QURE_DATA names, if it is there.

    Args:
        name: "fashioniq", "cirr", "circo" or "hpfiq".
    """
    root = os.environ.get("QURE_DATA")
    return Path(root, name) if root and Path(root, name).is_dir() else None


def dataset_name(root: str | Path) -> str:
    """Which data set lies at `root`: one of DESCRIBED by its file of attributes, else FashionIQ."""
    return next((n for n in DESCRIBED if Path(root, f"{n.lower()}.json").is_file()), "FashionIQ")


def find_categories(root: str | Path) -> tuple[str, ...]:
    """The categories of a data set, sorted, from the names of its split lists and captions.

    One that has no others than FashionIQ's should have all of FashionIQ's three: a missing one is
    then a fault that the loaders name.
    """
    patterns = ("image_splits/split.*.*.json", "captions/cap.*.*.json")
    files = [path for pattern in patterns for path in Path(root).glob(pattern)]
    found = sorted({path.name.split(".")[1] for path in files})
    return CATEGORIES if set(found) <= set(CATEGORIES) else tuple(found)


def clean_caption(caption: str, max_words: int = 50) -> str:
    """Lower-case, replace .!"()*#:;~ by spaces, collapse spaces, keep at most `max_words` words.

    Source: BLIP's caption cleaning, as the release applies it before tokenisation.
    """
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])


def join_phrases(first: str, second: str) -> str:
    """FashionIQ's two phrases as one relative caption. Source: release, train and val alike."""
    return f"{first.strip('.?, ').capitalize()} and {second.strip('.?, ')}"


def read_json(path: Path, kind: type = list) -> Any:
    """Parse a JSON file whose top level is `kind`.

    Raises:
        ValueError: missing, truncated, not UTF-8, absurdly nested, an object with a key twice, or
            another type at the top.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path} is missing. `make data` draws SynthFashion; for a real data set, name the "
            "folder that it was unpacked to (FashionIQ's holds captions/ and image_splits/)."
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): truncated? Get it again.") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a {kind.__name__}, found {type(content).__name__}")
    return content


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is there twice")
    return content


@dataclass(frozen=True)
class _FileRule:
    """What a loader does about image files that are missing."""

    place: str  # root, name and split, for messages
    images: bool
    allow_missing: bool
    looked_in: str

    def missing(self, found: FoundImages) -> frozenset[str]:
        """The images to drop.

        Raises:
            ValueError: files are missing and none may be.
        """
        if not self.images:
            return frozenset()
        if found.missing and not self.allow_missing:
            first = next(found.paths[i] for i in found.paths if i in found.missing)
            raise ValueError(
                f"{self.place}: {len(found.missing)} image files are missing, the first is {first} "
                f"(looked for {self.looked_in}). Put them there, draw SynthFashion with "
                "`make data`, or leave out what needs them with allow_missing=True."
            )
        return found.missing


def load_fashioniq(
    root: str | Path,
    split: str,
    corpus: str = "original",
    images: bool = True,
    allow_missing: bool = False,
) -> dict[str, QuerySet]:
    """Load FashionIQ, or any data set on disk in its layout (SynthFashion), by category.

    Args:
        root: folder with captions/, image_splits/ and the images in any layout of `layouts`.
        split: "train" or "val".
        corpus: "original" split (METHOD section 6), the "union" of candidates and targets
            (a second protocol, never put beside the first), or the "targets" alone (the
            release's pool of training negatives).
        images: False asks for the annotations alone, not for image files.
        allow_missing: drop triplets and corpus images whose files are missing, warn by how many,
            and count them in the QuerySet.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id is in no split list,
            or an image file is missing; the message names it.
    """
    root = Path(root)
    _check_split(split, SPLITS)
    if corpus not in CORPUS_CHOICES:
        raise ValueError(f"corpus must be one of {CORPUS_CHOICES}, not {corpus!r}")
    files, sets = list_fashioniq_images(root), {}
    for category in find_categories(root):
        triplets, chosen = _read_category(root, category, split, corpus)
        found = find_by_id(root, files, [*chosen, *(t.reference for t in triplets)])
        rule = _FileRule(f"{root}, {category} {split}", images, allow_missing, FASHIONIQ_LOOKS)
        sets[category] = _query_set(category, triplets, chosen, found, rule)
    return sets


def _read_category(
    root: Path, category: str, split: str, corpus: str
) -> tuple[tuple[Triplet, ...], list[str]]:
    """The triplets of a category and the ids of its corpus."""
    split_file = root / "image_splits" / f"split.{category}.{split}.json"
    caption_file = root / "captions" / f"cap.{category}.{split}.json"
    listed = _read_ids(split_file)
    triplets = _read_triplets(caption_file, category, split)
    _check_listed(triplets, set(listed), caption_file, split_file)
    references = list(dict.fromkeys(t.reference for t in triplets))
    targets = list(dict.fromkeys(t.target for t in triplets))
    chosen = {
        "original": listed,
        "union": list(dict.fromkeys(references + targets)),
        "targets": targets,
    }[corpus]
    return triplets, chosen


def _read_ids(path: Path) -> list[str]:
    """The distinct image ids of a split list: plain file names, since paths are made of them."""
    ids = read_json(path)
    for row, image_id in enumerate(ids):
        if not isinstance(image_id, str) or not re.fullmatch(r"[\w-][\w.-]*", image_id):
            raise ValueError(
                f"{path}, entry {row}: {image_id!r} is no image id; get the file again"
            )
    return list(dict.fromkeys(ids))


def _read_triplets(path: Path, category: str, split: str) -> tuple[Triplet, ...]:
    triplets = []
    for row, entry in enumerate(read_json(path)):
        missing = {"candidate", "target", "captions"} - set(
            entry if isinstance(entry, dict) else ()
        )
        if missing:
            raise ValueError(
                f"{path}, entry {row}: no {sorted(missing)}; is this FashionIQ's file?"
            )
        phrases = entry["captions"]
        strings = isinstance(phrases, list) and all(isinstance(p, str) for p in phrases)
        if not strings or len(phrases) != 2:
            raise ValueError(f"{path}, entry {row}: 'captions' must hold two strings: {phrases!r}")
        if not all(isinstance(entry[key], str) for key in ("candidate", "target")):
            raise ValueError(f"{path}, entry {row}: 'candidate' and 'target' must be image ids")
        triplets.append(
            Triplet(
                query_id=f"{category}/{split}/{row}",
                reference=entry["candidate"],
                caption=join_phrases(*phrases),
                target=entry["target"],
                category=category,
                phrases=tuple(phrases),
            )
        )
    return tuple(triplets)


def _check_listed(
    triplets: tuple[Triplet, ...], listed: set[str], caption_file: Path, split_file: Path
) -> None:
    for row, triplet in enumerate(triplets):
        ids = (triplet.reference, triplet.target, *triplet.group, *triplet.ground_truths)
        for image_id in ids:
            if image_id not in listed:
                raise ValueError(
                    f"{caption_file}, entry {row}: image {image_id!r} is not in {split_file.name}; "
                    "the two files are from different releases or one is cut short"
                )


def _query_set(
    name: str,
    triplets: tuple[Triplet, ...],
    corpus: list[str],
    found: FoundImages,
    rule: _FileRule,
) -> QuerySet:
    """Triplets over the images of `corpus`, without what needs a file that is missing.

    A triplet needs its reference and its target, in CIRR all of its group and in CIRCO all of its
    ground truths: over some of them its metrics would measure something else.
    """
    missing = rule.missing(found)
    kept = tuple(
        t
        for t in triplets
        if missing.isdisjoint((t.reference, t.target, *t.group, *t.ground_truths))
    )
    ids = tuple(i for i in corpus if i not in missing)
    if missing:
        warnings.warn(
            f"{rule.place}: {len(kept)} of {len(triplets)} triplets and {len(ids)} of "
            f"{len(corpus)} corpus images are kept, files of the rest are missing; "
            "results on them are not the protocol's and stand beside no published number",
            stacklevel=3,
        )
    if triplets and not kept:
        raise ValueError(f"{rule.place}: no triplet is left; put more images there")
    return QuerySet(
        name=name,
        triplets=kept,
        corpus=Corpus(ids, tuple(found.paths[i] for i in ids)),
        reference_paths={t.reference: found.paths[t.reference] for t in kept},
        dropped_triplets=len(triplets) - len(kept),
        dropped_images=len(corpus) - len(ids),
    )


CIRR_KEYS = {"pairid": int, "reference": str, "caption": str, "img_set": dict}
CIRCO_KEYS = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
CIRCO_ANSWERS = {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}
GROUP_SIZE = 6
CIRCO_PROMPTS = {  # around CIRCO's relative caption
    "caption": "{caption}",  # as annotated
    "released": "a photo of $ that {caption}",  # the release keeps a literal $
    "repaired": "a photo of {concept} that {caption}",  # the shared concept in its place
}


def load_cirr(
    root: str | Path, split: str = "val", images: bool = True, allow_missing: bool = False
) -> QuerySet:
    """Load CIRR, or any data set on disk in its layout (SynthFashion's cirr_like/).

    Args:
        root: folder with captions/, image_splits/ and the images where the split list says, there
            or below img_raw/ or images/.
        split: "train", "val" or "test1" (whose queries have no target).
        images: False asks for the annotations alone, not for image files.
        allow_missing: drop corpus images whose files are missing and queries whose group lost one,
            warn by how many, and count them in the QuerySet.

    Returns:
        Triplets with their `group`, over all images of the split.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id is not in the split
            list or not in the group of six, or an image file is missing; the message names it.
    """
    root = Path(root)
    _check_split(split, ("train", "val", "test1"))
    caption_file = root / "captions" / f"cap.rc2.{split}.json"
    split_file = root / "image_splits" / f"split.rc2.{split}.json"
    found = find_cirr_images(root, split)
    triplets = _read_cirr(caption_file, {} if split == "test1" else {"target_hard": str})
    _check_answered(triplets, found, caption_file, split_file)
    looked_in = f"below {', '.join(str(root / folder) for folder in CIRR_FOLDERS)}"
    rule = _FileRule(f"{root}, {split}", images, allow_missing, looked_in)
    return _query_set("cirr", tuple(triplets), list(found.paths), found, rule)


def _read_cirr(path: Path, answers: dict[str, type]) -> list[Triplet]:
    triplets = []
    for place, entry in _read_entries(path, CIRR_KEYS | answers, "CIRR"):
        target = entry["target_hard"] if answers else ""
        group = _strings(entry["img_set"].get("members"), str)
        if len(set(group)) != GROUP_SIZE or not {entry["reference"], target} <= {*group, ""}:
            raise ValueError(
                f"{place}: the members of 'img_set' must be six images, reference and target "
                f"among them, not {group}; get the file again"
            )
        query = str(entry["pairid"]), entry["reference"], entry["caption"], target
        triplets.append(Triplet(*query, "cirr", (entry["caption"],), group=group))
    return triplets


def find_cirr_images(root: str | Path, split: str) -> FoundImages:
    """The images of CIRR's split list, in its order.

    Raises:
        ValueError: the list is missing or broken; the message names the entry.
    """
    split_file = Path(root, "image_splits", f"split.rc2.{split}.json")
    names = read_json(split_file, dict)
    for image_id, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"{split_file}, {image_id!r}: {name!r} is no path; get it again")
    return find_by_name(names, [Path(root, folder) for folder in CIRR_FOLDERS])


def load_circo(
    root: str | Path,
    split: str = "val",
    images: bool = True,
    allow_missing: bool = False,
    prompt: str = "caption",
) -> QuerySet:
    """Load CIRCO, or any data set on disk in its layout (SynthFashion's circo_like/).

    Args:
        root: folder with annotations/, and with COCO's annotations/image_info_unlabeled2017.json
            and its images, unlabeled2017/, both in COCO2017_unlabeled/ or here.
        split: "val" or "test" (whose queries have no target).
        images: False does not ask for image files; where COCO's list is missing too, the corpus
            is only the images that this split's annotations name, too few to evaluate on.
        allow_missing: drop corpus images whose files are missing and queries that lost their
            reference or any ground truth, warn by how many, and count them in the QuerySet.
        prompt: a key of CIRCO_PROMPTS, what the model reads. METHOD section 6 says that the
            release keeps a literal "$" and drops the shared concept; the words around them are
            our reading of it.

    Returns:
        Triplets with their `ground_truths`, `aspects` and `concept`, over COCO's unlabeled images.
        Image ids are COCO's numbers as strings.

    Raises:
        ValueError: a file is missing or broken, an entry lacks a key, an id is not in the corpus,
            the target is no ground truth or the reference is one, or an image file is missing; the
            message names it.
    """
    root = Path(root)
    _check_split(split, ("val", "test"))
    if prompt not in CIRCO_PROMPTS:
        raise ValueError(f"prompt must be one of {sorted(CIRCO_PROMPTS)}, not {prompt!r}")
    caption_file, info_file = root / "annotations" / f"{split}.json", coco_list(root)
    triplets = _read_circo(caption_file, {} if split == "test" else CIRCO_ANSWERS, prompt)
    if images or info_file.is_file():
        found = find_circo_images(root)
    else:
        named = chain.from_iterable((t.reference, *t.ground_truths) for t in triplets)
        found = _find_coco({i: f"{i:0>12}.jpg" for i in named}, root)
    _check_answered(triplets, found, caption_file, info_file)
    looked_in = f"in unlabeled2017/ below {', '.join(str(root / f) for f in CIRCO_FOLDERS)}"
    rule = _FileRule(f"{root}, {split}", images, allow_missing, looked_in)
    return _query_set("circo", tuple(triplets), list(found.paths), found, rule)


def _read_circo(path: Path, answers: dict[str, type], prompt: str) -> list[Triplet]:
    triplets = []
    for place, entry in _read_entries(path, CIRCO_KEYS | answers, "CIRCO"):
        reference, caption = str(entry["reference_img_id"]), entry["relative_caption"]
        target, truths, aspects = "", (), ()
        if answers:
            target, aspects = str(entry["target_img_id"]), _strings(entry["semantic_aspects"], str)
            truths = _strings(entry["gt_img_ids"], int)
            if target not in truths or reference in truths:
                raise ValueError(
                    f"{place}: 'gt_img_ids' must be image ids with the target and without the "
                    f"reference, not {entry['gt_img_ids']}; get the file again"
                )
        concept = entry["shared_concept"]
        words = CIRCO_PROMPTS[prompt].format(caption=caption, concept=concept)
        query = str(entry["id"]), reference, words, target, "circo", (caption,), ()
        triplets.append(Triplet(*query, truths, aspects, concept))
    return triplets


def find_circo_images(root: str | Path) -> FoundImages:
    """The images of COCO's list in CIRCO's folder, in its order.

    Raises:
        ValueError: the list is missing or broken; the message names the entry.
    """
    return _find_coco(dict(_read_coco(coco_list(root))), root)


def _find_coco(names: dict[str, str], root: str | Path) -> FoundImages:
    return find_by_name(names, [Path(root, folder, "unlabeled2017") for folder in CIRCO_FOLDERS])


def coco_list(root: str | Path) -> Path:
    """Where COCO's list of its unlabeled images lies, or should, in CIRCO's folder."""
    paths = [
        Path(root, folder, "annotations", "image_info_unlabeled2017.json")
        for folder in CIRCO_FOLDERS
    ]
    return next((path for path in paths if path.is_file()), paths[0])


def _check_answered(
    triplets: list[Triplet], found: FoundImages, caption_file: Path, list_file: Path
) -> None:
    untold = {""} if not any(t.target for t in triplets) else set()  # targets of a test split
    _check_listed(tuple(triplets), found.paths.keys() | untold, caption_file, list_file)


def _check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"split must be one of {known}, not {split!r}")


def _read_entries(path: Path, kinds: dict[str, type], name: str) -> Iterator[tuple[str, Any]]:
    """(place, entry) for each entry of a list of objects, once its keys are checked."""
    for row, entry in enumerate(read_json(path)):
        known = entry if isinstance(entry, dict) else {}
        wrong = {k: kind.__name__ for k, kind in kinds.items() if type(known.get(k)) is not kind}
        if wrong:
            raise ValueError(f"{path}, entry {row}: needs {wrong}; is this {name}'s file?")
        yield f"{path}, entry {row}", entry


def _read_coco(path: Path) -> list[tuple[str, str]]:
    """(id, file name) of every image of a list in COCO's layout."""
    found = []
    for row, image in enumerate(read_json(path, dict).get("images", [])):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise ValueError(f"{path}, image {row}: no 'file_name'; get the file again")
        found.append((str(image.get("id")), image["file_name"]))
    return found


def _strings(values: Any, kind: type) -> tuple[str, ...]:
    """A JSON list of `kind` as a tuple of strings; () for anything else."""
    whole = isinstance(values, list) and all(type(value) is kind for value in values)
    return tuple(map(str, values)) if whole else ()


def load_graded_relevance(root: str | Path, query_set: QuerySet, split: str) -> Tensor | None:
    """Exact graded relevance of every corpus image to every query, where the data set knows it.

    Returns:
        (Q, N) float32 in [0, 1], the share of the wanted attributes that an image has; an attribute
        on a scale of [0, 1] counts by its closeness (a hue goes round). None where `root` has no
        relevance/ folder (every real data set).

    Raises:
        ValueError: the relevance file and the captions do not belong together.
    """
    path = Path(root, "relevance", f"rel.{query_set.name}.{split}.json")
    if not path.parent.is_dir():
        return None
    wanted = [entry.get("wanted", {}) for entry in read_json(path)]
    if query_set.dropped_triplets and len(wanted) == len(query_set) + query_set.dropped_triplets:
        wanted = [wanted[int(t.query_id.rpartition("/")[2])] for t in query_set.triplets]
    file = f"{dataset_name(root).lower()}.json"
    known = read_json(Path(root, file), dict).get("images", {})
    images = [known.get(i, {}) for i in query_set.corpus.image_ids]
    names = sorted(wanted[0]) if wanted else []
    whole = bool(names) and all(row.keys() == set(names) for row in (*wanted, *images))
    if len(wanted) != len(query_set) or not whole:
        raise ValueError(
            f"{path} and {file} do not fit the {len(query_set)} queries and "
            f"{len(images)} images of {query_set.name}; make them again with `make data`"
        )
    return sum(_closeness(name, wanted, images) for name in names) / len(names)


def _closeness(name: str, wanted: list[dict[str, Any]], images: list[dict[str, Any]]) -> Tensor:
    """(Q, N) in [0, 1]: whether an attribute is the wanted word, or how near on its scale."""
    a, b = ([row[name] for row in rows] for rows in (wanted, images))
    if isinstance(a[0], str):
        codes = {word: code for code, word in enumerate(dict.fromkeys(a + b))}
        a, b = ([codes[word] for word in words] for words in (a, b))
        return (torch.tensor(a)[:, None] == torch.tensor(b)).float()
    apart = (torch.tensor(a)[:, None] - torch.tensor(b)).abs()
    return 1 - (2 * torch.minimum(apart, 1 - apart) if name == "colour" else apart)


def integrity_report(root: str | Path) -> pd.DataFrame:
    """Count what a data set in FashionIQ's layout holds and what is wrong with it.

    Reads the annotations alone, and reports what `load_fashioniq` would refuse.

    Returns:
        One row a category and split: category, split, images, triplets, repeated_ids (listed
        twice), dangling_ids (in a triplet, in no list), duplicate_pairs (same reference and
        target), empty_phrases (triplets where one of the two says nothing), train_val_overlap
        (ids of this split also in the other).
    """
    root = Path(root)
    listed = {
        (c, s): read_json(root / "image_splits" / f"split.{c}.{s}.json")
        for c in find_categories(root)
        for s in SPLITS
    }
    rows = []
    for (category, split), ids in listed.items():
        other = listed[category, SPLITS[1 - SPLITS.index(split)]]
        path = root / "captions" / f"cap.{category}.{split}.json"
        row = _count_problems(_read_triplets(path, category, split), ids)
        overlap = len(set(ids) & set(other))
        rows.append({"category": category, "split": split} | row | {"train_val_overlap": overlap})
    return pd.DataFrame(rows)


def _count_problems(triplets: tuple[Triplet, ...], listed: list[str]) -> dict[str, int]:
    used = {image_id for t in triplets for image_id in (t.reference, t.target)}
    return {
        "images": len(set(listed)),
        "triplets": len(triplets),
        "repeated_ids": len(listed) - len(set(listed)),
        "dangling_ids": len(used - set(listed)),
        "duplicate_pairs": len(triplets) - len({(t.reference, t.target) for t in triplets}),
        "empty_phrases": sum(not all(p.strip(".?, ") for p in t.phrases) for t in triplets),
    }


def count_shared_images(root: str | Path) -> pd.DataFrame:
    """Count ids that the lists of two categories share: columns split, first, second, shared."""
    rows = []
    for split in SPLITS:
        ids = {
            c: set(read_json(Path(root, "image_splits", f"split.{c}.{split}.json")))
            for c in find_categories(root)
        }
        rows += [(split, a, b, len(ids[a] & ids[b])) for a, b in combinations(ids, 2)]
    return pd.DataFrame(rows, columns=["split", "first", "second", "shared"])


def annotation_counts(root: str | Path) -> pd.Series:
    """Every count of `integrity_report` and `count_shared_images` under one name each.

    Returns:
        Integers by name: dress_train_images, dress_train_triplets, ...; each kind of fault, over
        all categories and splits; shirt_toptee_val_shared, ...
    """
    report, shared = integrity_report(root), count_shared_images(root)
    counts = {
        f"{row.category}_{row.split}_{what}": getattr(row, what)
        for row in report.itertuples()
        for what in ("images", "triplets")
    }
    for fault in ("repeated_ids", "dangling_ids", "duplicate_pairs", "empty_phrases"):
        counts[fault] = report[fault].sum()
    counts["train_val_overlap"] = report.loc[report["split"] == "val", "train_val_overlap"].sum()
    for row in shared.itertuples():
        counts[f"{row.first}_{row.second}_{row.split}_shared"] = row.shared
    return pd.Series(counts, name="count")


def count_false_negatives(relevance: Tensor, target_positions: Tensor) -> Tensor:
    """Count, for each query, the other images that answer it at least as well as its target.

    The reference image is not left out: FashionIQ ranks it like any other, and where a caption
    says little it can fit as well as the target.

    Args:
        relevance: (Q, N) graded relevance; see `load_graded_relevance`.
        target_positions: (Q,) corpus position of each query's target.

    Returns:
        (Q,) int64.
    """
    of_target = relevance.gather(1, target_positions[:, None])
    return (relevance >= of_target).sum(dim=1) - 1


def load_target_captions(root: str | Path) -> dict[str, dict[str, str]]:
    """What relative captions say of each target: target -> reference -> caption.

    Over all categories and both splits; a pair with two captions has them joined.
    """
    captions: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        for query_set in load_fashioniq(root, split, images=False).values():
            for t in query_set.triplets:
                known = captions.setdefault(t.target, {})
                known[t.reference] = f"{known.get(t.reference, '')} {t.caption}".strip()
    return captions


def load_image_attributes(root: str | Path) -> dict[str, dict[str, str]]:
    """What is known of each image in words: image id -> attribute -> value.

    FashionIQ's attributes/{category}.{split}.json give "title" and "tags" of a quarter of its
    images; SynthFashion's synthfashion.json gives what was drawn. Empty where `root` has neither.

    Raises:
        ValueError: a file is broken, or an entry lacks its title or tags; the message names it.
    """
    drawn = Path(root, "synthfashion.json")
    if drawn.is_file():
        return read_json(drawn, dict)["images"]
    known = {}
    for path in sorted(Path(root, "attributes").glob("*.json")):
        for image_id, entry in read_json(path, dict).items():
            try:
                tags = " ".join(tag for group in entry["tags"] for tag in group)
                known[image_id] = {"title": entry["title"] or "", "tags": tags}
            except (TypeError, KeyError) as error:
                raise ValueError(f"{path}, image {image_id!r}: no title or tags") from error
    return known


HP_KEYS = (
    "ref_img_paths",
    "targ_img_paths",
    "sentences",
    "retrieved_set1",
    "retrieved_set2",
    "preferred set",
)
SET_SIZE = 5


def load_hp_fashioniq(path: str | Path) -> pd.DataFrame:
    """Load HP-FashionIQ: which of two sets of five images a person found to answer a query better.

    Args:
        path: hpfiq.json, or a file of the same structure (SynthFashion's hpfiq_simulated.json).

    Returns:
        One row a judged query, in the file's order: participant, question_set, category,
        reference, caption (spelled-out punctuation restored; a hyphen is a hyphen), target, set_1
        and set_2 (five image ids each), preferred (1 or 2), score_1 and score_2 (the participant's
        own, 1 to 5).

    Raises:
        ValueError: the file is missing or cut short, or an entry lacks a key, has lists of unequal
            length or a value of another kind; the message names participant, key and row.
    """
    rows = []
    for participant, question_sets in read_json(path, dict).items():
        place = f"{path}, participant {participant!r}"
        if not isinstance(question_sets, dict) or not question_sets:
            raise ValueError(f"{place}: expected question sets by name; get the file again")
        for name, questions in question_sets.items():
            judged = _read_judgements(questions, f"{place}, {name!r}")
            rows += [{"participant": participant, "question_set": name} | j for j in judged]
    if not rows:
        raise ValueError(f"{path} holds no participant; get the file again")
    return pd.DataFrame(rows)


def find_hp_fashioniq_images(judged: pd.DataFrame, root: str | Path) -> dict[str, Path]:
    """Image id -> file of what scoring HP-FashionIQ's sets takes: references and sets, no targets.

    Args:
        judged: of `load_hp_fashioniq`.
        root: FashionIQ's folder (they are its val images), in any layout of `layouts`.

    Raises:
        ValueError: files are missing; the message names the first.
    """
    found = find_by_id(root, list_fashioniq_images(root), scored_images(judged))
    _FileRule(f"{root}, HP-FashionIQ", True, False, FASHIONIQ_LOOKS).missing(found)
    return found.paths


def scored_images(judged: pd.DataFrame) -> list[str]:
    """Ids of what scoring takes: references and both sets' images, not targets."""
    sets = chain.from_iterable((*judged["set_1"], *judged["set_2"]))
    return list(dict.fromkeys([*judged["reference"], *sets]))


def _read_judgements(questions: Any, place: str) -> list[dict[str, Any]]:
    """The rows of one question set, whose keys hold parallel lists."""
    missing = set(HP_KEYS) - set(questions if isinstance(questions, dict) else ())
    if missing:
        raise ValueError(f"{place}: no {sorted(missing)}; is this HP-FashionIQ's file?")
    for key in HP_KEYS:
        if not isinstance(questions[key], list):
            raise ValueError(f"{place}, {key!r}: expected a list; is this HP-FashionIQ's file?")
    lengths = {key: len(questions[key]) for key in HP_KEYS}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{place}: lists of unequal length, {lengths}; get the file again")
    columns = [questions[key] for key in HP_KEYS]
    return [
        _read_judgement(dict(zip(HP_KEYS, row, strict=True)), f"{place}, row {number}")
        for number, row in enumerate(zip(*columns, strict=True))
    ]


def _read_judgement(entry: dict[str, Any], place: str) -> dict[str, Any]:
    category, reference = _split_image_path(entry["ref_img_paths"], f"{place}, 'ref_img_paths'")
    target = _split_image_path(entry["targ_img_paths"], f"{place}, 'targ_img_paths'")[1]
    set_1, score_1 = _read_set(entry["retrieved_set1"], f"{place}, 'retrieved_set1'")
    set_2, score_2 = _read_set(entry["retrieved_set2"], f"{place}, 'retrieved_set2'")
    if not isinstance(entry["sentences"], str):
        raise ValueError(f"{place}, 'sentences': expected a caption, not {entry['sentences']!r}")
    return {
        "category": category,
        "reference": reference,
        "caption": restore_punctuation(entry["sentences"]),
        "target": target,
        "set_1": set_1,
        "set_2": set_2,
        "preferred": _read_choice(entry["preferred set"], 2, f"{place}, 'preferred set'"),
        "score_1": score_1,
        "score_2": score_2,
    }


def _read_set(entry: Any, place: str) -> tuple[tuple[str, ...], int]:
    if not isinstance(entry, dict) or not {"img_path", "user_score"} <= set(entry):
        raise ValueError(f"{place}: expected 'img_path' and 'user_score'; get the file again")
    paths = entry["img_path"]
    if not isinstance(paths, list) or len(paths) != SET_SIZE:
        raise ValueError(f"{place}: 'img_path' must list {SET_SIZE} images, not {paths!r}")
    ids = tuple(_split_image_path(p, place)[1] for p in paths)
    return ids, _read_choice(entry["user_score"], 5, f"{place}, 'user_score'")


def _split_image_path(path: Any, place: str) -> tuple[str, str]:
    """Category and id of ".../{category}/{id}.jpg"."""
    found = re.fullmatch(r"(?:.*/)?([^/]+)/([^/]+)\.\w+", path) if isinstance(path, str) else None
    if found is None:
        raise ValueError(f"{place}: expected a path like 'shirt/B000LUIBH8.jpg', not {path!r}")
    return found[1], found[2]


def _read_choice(value: Any, highest: int, place: str) -> int:
    """A whole number from 1, which the file writes as a string."""
    if str(value) not in map(str, range(1, highest + 1)):
        raise ValueError(f"{place}: expected 1 to {highest}, not {value!r}; get the file again")
    return int(value)


def restore_punctuation(caption: str) -> str:
    """Undo HP-FashionIQ's spelled-out punctuation; hyphens are the captions' own and stay.

    Example:
        >>> restore_punctuation("is it a t-shirtquestionmark  and black andmark bluedotmark")
        'is it a t-shirt? and black & blue.'
    """
    for word, mark in ((r"dotmark\b", "."), (r"questionmark\b", "?"), (r"\bandmark\b", "&")):
        caption = re.sub(word, mark, caption)
    return " ".join(caption.split())


def load_set_scores(path: str | Path, n_rows: int) -> np.ndarray:
    """Load any model's scores of the two sets of each judged query.

    Args:
        path: CSV with a line a set: row (0-based, the order of `load_hp_fashioniq`), set (1 or 2)
            and either score or the five image scores score_1 ... score_5, whose mean it is.
        n_rows: number of judged queries.

    Returns:
        (n_rows, 2) float64 scores of set 1 and set 2.

    Raises:
        ValueError: the file is missing, is no CSV, lacks a column, holds a set twice, not at all or
            of no such row, or a score that is no finite number; the message names the line.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is missing; name a CSV with row, set, score")
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV ({error}); write row,set,score") from error
    images = [f"score_{i}" for i in range(1, SET_SIZE + 1)]
    columns = images if set(images) <= set(frame.columns) else ["score"]
    missing = [c for c in ("row", "set", *columns) if c not in frame.columns]
    if missing:
        raise ValueError(f"{path}: no column {missing}; write row,set,score or row,set,{images}")
    numbers = frame[["row", "set", *columns]].apply(pd.to_numeric, errors="coerce").astype(float)
    _check_set_scores(numbers, n_rows, path)
    scores = np.empty((n_rows, 2))
    places = numbers["row"].astype(int), numbers["set"].astype(int) - 1
    scores[places] = numbers[columns].mean(axis=1)
    return scores


def save_set_scores(path: str | Path, scores: np.ndarray) -> None:
    """Write (n_rows, 2) scores of set 1 and set 2 so that `load_set_scores` reads them."""
    rows, columns = np.indices(scores.shape).reshape(2, -1)
    frame = pd.DataFrame({"row": rows, "set": columns + 1, "score": scores.ravel()})
    with replacing(path) as scratch:
        frame.to_csv(scratch, index=False, lineterminator="\n")


def _check_set_scores(numbers: pd.DataFrame, n_rows: int, path: str | Path) -> None:
    known = numbers["row"].isin(range(n_rows)) & numbers["set"].isin((1, 2))
    problems = {
        f"row must be 0 to {n_rows - 1} and set 1 or 2": ~known,
        "a score is missing or no finite number": ~np.isfinite(numbers).all(axis=1),
        "this set was already given": numbers.duplicated(["row", "set"]),
    }
    for problem, lines in problems.items():
        if lines.any():
            raise ValueError(f"{path}, line {int(lines.idxmax()) + 2}: {problem}; repair it")
    if len(numbers) != 2 * n_rows:
        raise ValueError(
            f"{path}: {len(numbers)} sets, but {n_rows} queries have two each; add the missing ones"
        )
