"""Photographs: the Clothing data set in FashionIQ's layout, with composed relative captions.

    python -m data_prep.photos fetch data/photos-original       (about 154 MB)
    QURE_PHOTOS=data/photos-original python -m data_prep.photos prepare data/photos

Some 5,000 photographs that people took of their own clothes (CC0), each with its sender, one of 17
classes and a flag for children's sizes. Captions are composed from the class, a colour measured in
the picture, and that flag. Many photographs fit one caption; graded relevance says which, and is
right as far as class, measured colour and flag are. Senders, not photographs, are divided into
train and val, so that no background is in both.
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
from collections import Counter
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from data_prep.colours import measure_colour
from data_prep.download import Source, download
from data_prep.pretrain import initialise, train_tokenizer
from data_prep.wordings import PHRASES, join_wordings
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.loading import SPLITS
from qure_lib.features.model_folder import save_model
from qure_lib.files import file_sha256, replacing, run_command
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel
from qure_lib.train.progress import set_seed

NAME, VERSION = "Photographs", "1.0"
HOME = "https://raw.githubusercontent.com/alexeygrigorev/clothing-dataset/master"
ROWS = 5_403  # of the published images.csv
LARGEST = 16 * 2**20  # bytes of one file
SIDE = 256  # pixels of the longer side, at most, as written
VAL_SHARE = 0.3
TO_GET = "`python -m data_prep.photos fetch data/photos-original` downloads them there."

GROUPS = {  # category -> class -> its noun
    "tops": {
        "T-Shirt": "a t-shirt", "Longsleeve": "a long sleeved top", "Shirt": "a button-up shirt",
        "Polo": "a polo shirt", "Undershirt": "an undershirt", "Body": "a bodysuit",
        "Top": "a strappy top", "Blouse": "a blouse",
    },
    "bottoms": {
        "Pants": "a pair of pants", "Shorts": "a pair of shorts", "Skirt": "a skirt",
        "Dress": "a dress",
    },
    "outdoor": {
        "Outwear": "a coat or jacket", "Blazer": "a blazer", "Hoodie": "a hoodie",
        "Shoes": "a pair of shoes", "Hat": "a hat",
    },
}  # fmt: skip
NO_CLASS = ("Not sure", "Other", "Skip")  # labels of photographs that are left out
WORDINGS = {  # attribute -> new value, or "*" -> wordings
    "kind": {"*": ["is {new}", "is {new} instead of {old}", "shows {new}", "is {new}, not {old}"]},
    "colour": PHRASES["colour"],
    "size": {
        "child": ["is for a child", "is for kids", "is a children's size", "is much smaller"],
        "adult": ["is for an adult", "is for grown ups", "is an adult size", "is much larger"],
    },
}
Photograph = dict[str, str]  # id, sender, category, kind, colour, size


# ---------------------------------------------------------------- to download


def fetch(root: str | Path, home: str = HOME, rows: int | None = ROWS) -> Path:
    """Download images.csv and every photograph with a class, one file at a time.

    Every file is written whole and checked. Files that are there are kept: a second call resumes.

    Args:
        root: folder for images.csv and images/.
        home: web address of the data set's folder.
        rows: that images.csv must have; None accepts any number.

    Returns:
        root.

    Raises:
        ValueError: images.csv has another length, or photographs are missing; names the first.
    """
    root, table = Path(root), Path(root, "images.csv")
    if not table.is_file():
        download(Source(f"{home}/images.csv", largest=LARGEST), table)
    listed = read_table(root)
    if rows is not None and len(listed) != rows:
        raise ValueError(
            f"{table} has {len(listed)} rows, the published one {rows}: it is cut short or a newer "
            "edition; delete it to download it again, or accept it with --rows"
        )
    paths = [photograph_path(root, row) for row in listed if row["label"] not in NO_CLASS]
    wanted = [path for path in paths if not path.is_file()]
    with ThreadPool(8) as pool:
        faults = pool.imap_unordered(partial(_fetch_photograph, home), wanted)
        faults = list(tqdm(faults, "photographs", len(wanted), unit="file", mininterval=1.0))
    faults = sorted(fault for fault in faults if fault)
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(paths)} photographs are still missing ({faults[0]}); run the "
            "same command again to resume"
        )
    return root


def _fetch_photograph(home: str, path: Path) -> str | None:
    """Download one photograph and decode it; return what went wrong, None for nothing."""
    try:
        download(Source(f"{home}/images/{path.name}", largest=LARGEST), path)
        read_image(path)
    except (OSError, ValueError) as error:
        path.unlink(missing_ok=True)
        return f"{path.name}: {error}"
    return None


def read_table(root: Path) -> list[dict[str, str]]:
    """The rows of images.csv: image, sender_id, label, kids.

    Raises:
        ValueError: the table is missing or broken, or a column or a photograph is there twice; the
            message names the line.
    """
    table = Path(root, "images.csv")
    if not table.is_file():
        raise ValueError(f"{table} is missing. {TO_GET}")
    with open(table, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        rows, columns = list(reader), reader.fieldnames or []
    if len(set(columns)) < len(columns):
        raise ValueError(f"{table}, line 1: a column is there twice in {columns}; keep one")
    known, seen = {label for kinds in GROUPS.values() for label in kinds} | {*NO_CLASS}, set()
    for line, row in enumerate(rows, start=2):
        sound = re.fullmatch(r"[\w-]+", row.get("image") or "") and row.get("sender_id")
        if not sound or row.get("label") not in known or row.get("kids") not in ("True", "False"):
            raise ValueError(f"{table}, line {line}: {row}; is this the Clothing data set's file?")
        if row["image"] in seen:
            raise ValueError(f"{table}, line {line}: {row['image']} is listed twice")
        seen.add(row["image"])
    if not rows:
        raise ValueError(f"{table} lists no photograph; delete it to download it again")
    return rows


def photograph_path(root: Path, row: dict[str, str]) -> Path:
    """The file of a row's photograph."""
    return Path(root, "images", f"{row['image']}.jpg")


# ---------------------------------------------------------------- queries


def split_senders(senders: list[str], rng: random.Random) -> dict[str, str]:
    """Sender -> "train" or "val"; about VAL_SHARE of the photographs become val."""
    counts, val = Counter(senders), 0
    splits = {}
    for sender in rng.sample(sorted(counts), len(counts)):
        fits = val + counts[sender] <= VAL_SHARE * len(senders)
        splits[sender] = "val" if fits else "train"
        val += counts[sender] * fits
    return splits


def make_queries(
    photographs: dict[str, Photograph], rng: random.Random
) -> tuple[list[dict], list[dict]]:
    """Make a query for every photograph as target, and say what each asks for.

    The reference differs from the target in one or two of WORDINGS' attributes, and the captions
    mention every difference. So a query asks for the target's attributes, and every photograph that
    has them fits.

    Returns:
        triplets: {"target", "candidate", "captions": [a, b]}, as in FashionIQ.
        wanted: for each triplet {"wanted": {attribute: value}}.
    """
    ids = list(photographs)
    values = np.array([[photographs[i][a] for a in WORDINGS] for i in ids])
    triplets, wanted = [], []
    for target in rng.sample(range(len(ids)), len(ids)):
        distances = (values != values[target]).sum(axis=1)
        near = [group for d in (1, 2) if (group := np.flatnonzero(distances == d).tolist())]
        if not near:
            continue
        reference = ids[rng.choice(rng.choice(near))]
        old, new = photographs[reference], photographs[ids[target]]
        options = {a: phrase_options(a, old[a], new[a]) for a in WORDINGS if old[a] != new[a]}
        captions = join_wordings(options, rng)
        triplets.append({"target": ids[target], "candidate": reference, "captions": captions})
        wanted.append({"wanted": {a: new[a] for a in WORDINGS}})
    return triplets, wanted


def phrase_options(attribute: str, old: str, new: str) -> list[str]:
    """Every wording of one change."""
    table = WORDINGS[attribute]
    return [words.format(old=old, new=new) for words in table.get(new, table.get("*"))]


# ---------------------------------------------------------------- on disk


def prepare(root: str | Path, source: str | Path | None = None, seed: int = 0) -> Path:
    """Make the data set at root, unless it is there already.

    It is made in a folder beside root, which replaces root when it is complete.

    Args:
        root: a new or empty folder, or an earlier version of this data set.
        source: folder with images.csv and images/; None for the one that QURE_PHOTOS names.
        seed: of the split and the queries.

    Returns:
        root.

    Raises:
        ValueError: no source, a broken or incomplete source, or other files at root.
    """
    root, source = Path(root), source or os.environ.get("QURE_PHOTOS")
    if not source:
        raise ValueError(f"set QURE_PHOTOS to the folder of the photographs. {TO_GET}")
    source = Path(source)
    rows = [row for row in read_table(source) if row["label"] not in NO_CLASS]
    manifest = {"name": NAME, "version": VERSION, "seed": seed}
    manifest["images_csv_sha256"] = file_sha256(source / "images.csv")
    if _manifest(root) == manifest:
        return root
    missing = [row["image"] for row in rows if not photograph_path(source, row).is_file()]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(rows)} photographs are missing, the first is "
            f"{missing[0]}; run `python -m data_prep.photos fetch {source}` again"
        )
    with replacing(root) as fresh:
        (fresh / "images").mkdir(parents=True)
        _write(fresh, source, rows, manifest)
    return root


def _manifest(root: Path) -> dict:
    """The manifest of the data set at root; {} if root is missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    try:
        manifest = json.loads((root / "MANIFEST.json").read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("name") != NAME:
        raise ValueError(
            f"{root} holds other files (no MANIFEST.json of {NAME}); name another folder"
        )
    return manifest


def _write(root: Path, source: Path, rows: list[dict[str, str]], manifest: dict) -> None:
    """Write the data set into a folder that holds an empty images/, the manifest last."""
    rng = random.Random(manifest["seed"])
    splits = split_senders([row["sender_id"] for row in rows], rng)
    kinds = {label: (group, noun) for group, k in GROUPS.items() for label, noun in k.items()}
    parts: dict[tuple[str, str], dict[str, Photograph]] = {}
    for row in tqdm(rows, "photographs", unit="image", mininterval=1.0):
        image = keep_small(photograph_path(source, row), root / "images" / f"{row['image']}.jpg")
        group, noun = kinds[row["label"]]
        size = "child" if row["kids"] == "True" else "adult"
        photograph = {"kind": noun, "colour": measure_colour(image), "size": size}
        parts.setdefault((group, splits[row["sender_id"]]), {})[row["image"]] = photograph
    files: dict[str, object] = {}
    for group, split in ((group, split) for group in GROUPS for split in SPLITS):
        part = parts.get((group, split), {})
        triplets, wanted = make_queries(part, rng)
        files[f"image_splits/split.{group}.{split}.json"] = list(part)
        files[f"captions/cap.{group}.{split}.json"] = triplets
        files[f"relevance/rel.{group}.{split}.json"] = wanted
    files["photographs.json"] = {
        "images": {i: p for part in parts.values() for i, p in part.items()}
    }
    files["MANIFEST.json"] = manifest
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(json.dumps(content, indent=1))


def keep_small(path: Path, out: Path) -> Image.Image:
    """Write a photograph upright, its longer side at most SIDE pixels; return what was written."""
    image = read_image(path)
    if max(image.size) <= SIDE:
        shutil.copyfile(path, out)
        return image
    image = ImageOps.exif_transpose(image).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    image.save(out, quality=90)
    return image


# ---------------------------------------------------------------- the model to start from

START = {  # the mini model's Q-Former, reading the tokens of the pretrained encoder
    "encoder": "efficientnet_lite0", "image_size": 224, "patch_size": 32, "vision_width": 1280,
    "qformer_width": 96, "qformer_layers": 4, "qformer_heads": 4, "num_query_tokens": 8,
    "embedding_dim": 64, "max_caption_tokens": 48,
}  # fmt: skip


def write_start(folder: str | Path, root: str | Path, seed: int = 0) -> Path:
    """Write a model with the pretrained encoder and an untrained Q-Former, and its tokenizer.

    Args:
        folder: of the checkpoint.
        root: the data set; the tokenizer's vocabulary is made of its train captions.

    Raises:
        ValueError: the encoder's packages are not installed, or no data set at root.
    """
    set_seed(seed)
    queries = load_fashioniq(root, "train", images=False).values()
    tokenizer = train_tokenizer([t.caption for q in queries for t in q.triplets])
    model = QuReModel(ModelConfig(**START, vocab_size=len(tokenizer)))
    initialise(model)
    save_model(model, folder, tokenizer)
    return Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("fetch", help="download the photographs")
    get.add_argument("root", type=Path, help="folder for images.csv and images/")
    get.add_argument(
        "--home",
        default=HOME,
        help="web address of the folder, if it has moved",
    )
    get.add_argument("--rows", type=int, default=ROWS, help="rows that images.csv must have")
    make = commands.add_parser("prepare", help="make the data set from QURE_PHOTOS")
    make.add_argument("root", type=Path, help="folder to make")
    make.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        if options.command == "fetch":
            fetch(options.root, options.home, options.rows)
            print(f"The photographs are in {options.root}; set QURE_PHOTOS to this folder")
        else:
            prepare(options.root, seed=options.seed)
            write_start(options.root / "start", options.root, options.seed)
            print(f"{NAME} are in {options.root}, the model to start from in {options.root}/start")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    run_command(main)
