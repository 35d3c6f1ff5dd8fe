"""Make a stand-in for a real data set: its annotations, cut down, with drawn images.

    python -m data_prep.stand_in circo data/circo-stand-in --annotations data/circo --queries 32

A stand-in tries a whole profile on a machine that may not hold the real images. Each image is drawn
from its id alone, so it is different from the others and the same in every run, and it does not
show what a caption says: numbers measured on it mean nothing. Images are a quarter of typical size.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import GROUP_SIZE, find_cirr_images, load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import HP_KEYS, load_hp_fashioniq
from qure_lib.datasets.loading import SPLITS
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.files import read_json, replacing, run_command

MANIFEST = "STAND_IN.json"
SHAPES = {  # layout on disk -> width and height in pixels, of a third of the images each
    "fashioniq": ((75, 100), (50, 125), (90, 110)),
    "cirr": ((160, 120), (120, 160), (200, 110)),
    "circo": ((160, 120), (120, 160), (160, 107)),
    "hpfiq": ((75, 100), (50, 125), (90, 110)),
}
GRID = 6  # fields of one colour along a side
GREY_SHARE = 1 / 16  # of the images, as some of the real ones are grey
Plan = tuple[dict[str, object], dict[str, str]]  # file -> JSON; image file -> image id


def stand_in(
    name: str, annotations: str | Path, root: str | Path, queries: int | None = 32
) -> Path:
    """Write a stand-in at root, unless the same one is there, and return root.

    Args:
        name: key of a data set in the registry: "fashioniq", "cirr", "circo", "hpfiq".
        annotations: folder of that data set's real annotations.
        queries: how many to keep of each captions file, from its first; None keeps all. A corpus
            keeps the images that they name and as many others.

    Raises:
        ValueError: an unknown name, broken annotations, or a root that holds something else.
    """
    annotations, root = Path(annotations), Path(root)
    layouts = {protocol.key: protocol.layout for protocol in PROTOCOLS.values()}
    if name not in layouts:
        raise ValueError(f"name must be one of {', '.join(layouts)}, not {name!r}")
    if queries is not None and queries < 1:
        raise ValueError(f"queries must be 1 or more, not {queries}")
    layout = layouts[name]
    files, images = PLANS[layout](annotations, queries)
    digest = hashlib.sha256(json.dumps([files, images]).encode()).hexdigest()
    manifest = {"stand_in_for": name, "queries": queries, "sha256_of_plan": digest}
    if _made(root) == manifest:
        return root
    with replacing(root) as fresh:
        for path, content in (files | {MANIFEST: manifest}).items():
            _below(fresh, path).write_text(json.dumps(content), encoding="utf-8")
        for path, image_id in tqdm(images.items(), name, unit="image", mininterval=1.0):
            draw(image_id, SHAPES[layout]).save(_below(fresh, path))
    return root


def _made(root: Path) -> object:
    """The manifest of the stand-in at root; None where root is missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / MANIFEST).is_file():
        raise ValueError(f"{root} holds something else (no {MANIFEST}); name another folder")
    return read_json(root / MANIFEST, dict)


def _below(root: Path, name: str) -> Path:
    """The path of a file to write; its folder is made."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the annotations name a file outside their folder, {name!r}; refused")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    return root / path


def draw(image_id: str, shapes: tuple[tuple[int, int], ...]) -> Image.Image:
    """Blurred fields of colour, drawn from the id alone, in one of the shapes."""
    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    fields = Image.fromarray(rng.integers(0, 256, (GRID, GRID, 3), dtype=np.uint8))
    size = shapes[rng.integers(len(shapes))]
    image = fields.resize(size, Image.Resampling.BICUBIC)
    return image.convert("L") if rng.random() < GREY_SHARE else image


def plan_fashioniq(annotations: Path, queries: int | None) -> Plan:
    """Train and val of each category, with images/{id}.png."""
    files, images = {}, {}
    for split in SPLITS:
        for category, whole in load_fashioniq(annotations, split, images=False).items():
            entries = read_json(annotations / f"captions/cap.{category}.{split}.json")[:queries]
            named = {entry[key] for entry in entries for key in ("candidate", "target")}
            ids = _cut(whole.corpus.image_ids, named, queries)
            files[f"captions/cap.{category}.{split}.json"] = entries
            files[f"image_splits/split.{category}.{split}.json"] = ids
            images |= {f"images/{i}.png": i for i in ids}
    return files, images


def plan_cirr(annotations: Path, queries: int | None) -> Plan:
    """All three splits, with images where the lists say. Missing train captions are composed."""
    files, images = {}, {}
    for split in ("train", "val", "test1"):
        path, listed = f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json"
        names = read_json(annotations / listed, dict)
        if split == "train" and not (annotations / path).is_file():
            entries = compose_cirr(list(find_cirr_images(annotations, split).paths), queries)
        else:
            load_cirr(annotations, split, images=False)  # names what is broken
            entries = read_json(annotations / path)[:queries]
        named = {i for entry in entries for i in entry["img_set"]["members"]}
        kept = {i: names[i] for i in _cut(names, named, queries)}
        files |= {path: entries, listed: kept}
        images |= {name: i for i, name in kept.items()}
    return files, images


def compose_cirr(ids: list[str], queries: int | None) -> list[dict]:
    """Queries in the layout of CIRR's train captions, marked as composed.

    Six neighbours in the split list form a group, with five queries from one image to the next.
    """
    entries = []
    for start in range(0, len(ids) - GROUP_SIZE + 1, GROUP_SIZE):
        members = ids[start : start + GROUP_SIZE]
        for place, (reference, target) in enumerate(pairwise(members)):
            entry = {"pairid": len(entries), "reference": reference, "target_hard": target}
            entry |= {"target_soft": {target: 1.0}, "composed": True}
            entry |= {"caption": f"composed: show picture {place + 2} of group {start}"}
            ranks = {"reference_rank": place, "target_rank": place + 1}
            entry["img_set"] = {"id": start // GROUP_SIZE, "members": members} | ranks
            entries.append(entry)
    return entries[:queries]


def plan_circo(annotations: Path, queries: int | None) -> Plan:
    """Val and test, with COCO's list of the images that they name and of as many others."""
    files, named = {}, set()
    for split in ("val", "test"):
        triplets = load_circo(annotations, split, images=False).triplets[:queries]
        named |= {int(i) for t in triplets for i in (t.reference, *t.ground_truths)}
        path = f"annotations/{split}.json"
        files[path] = read_json(annotations / path)[:queries]
    others = (number for number in range(1, 10**6) if number not in named)
    ids = sorted(named | set(islice(others, queries or len(named))))
    listed = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]
    info = {"info": {"description": "stand-in"}, "images": listed}
    files["COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"] = info
    folder = "COCO2017_unlabeled/unlabeled2017"
    return files, {f"{folder}/{row['file_name']}": str(row["id"]) for row in listed}


def plan_hpfiq(annotations: Path, queries: int | None) -> Plan:
    """The first judged queries, with their images in image_data/{category}/{id}.jpg."""
    judged = load_hp_fashioniq(annotations / "hpfiq.json")[:queries]
    left, kept = len(judged), {}
    for participant, sets in read_json(annotations / "hpfiq.json", dict).items():
        for name, questions in sets.items():
            taken = min(left, len(questions[HP_KEYS[0]]))
            if taken:
                cut = {key: questions[key][:taken] for key in HP_KEYS}
                kept.setdefault(participant, {})[name] = cut
            left -= taken
    images = {
        f"image_data/{row.category}/{i}.jpg": i
        for row in judged.itertuples()
        for i in (row.reference, row.target, *row.set_1, *row.set_2)
    }
    return {"hpfiq.json": kept}, images


def _cut(listed: Iterable[str], named: set[str], queries: int | None) -> list[str]:
    """The named images and as many others as there are queries, in the list's order."""
    listed = list(listed)
    others = set(islice((i for i in listed if i not in named), queries))
    return [i for i in listed if i in named or i in others]


PLANS = {  # by layout on disk
    "fashioniq": plan_fashioniq,
    "cirr": plan_cirr,
    "circo": plan_circo,
    "hpfiq": plan_hpfiq,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[p.key for p in PROTOCOLS.values()])
    parser.add_argument("root", type=Path, help="folder to make")
    parser.add_argument("--annotations", type=Path, required=True, help="folder of the real ones")
    parser.add_argument("--queries", type=int, default=32, help="of each captions file; 0 for all")
    options = parser.parse_args()
    try:
        stand_in(options.name, options.annotations, options.root, options.queries or None)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    print(f"A stand-in for {options.name} is in {options.root}; its images are drawn")


if __name__ == "__main__":
    run_command(main)
