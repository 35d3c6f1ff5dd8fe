"""Photographs: the Clothing data set in FashionIQ's layout, with composed relative captions.

    python -m data_prep.photos fetch data/photos-original       (about 154 MB)
    QURE_PHOTOS=data/photos-original python -m data_prep.photos prepare data/photos

Some 5,000 photographs that people took of their own clothes (CC0), each with its sender, one of 17
classes and a flag for children's sizes. Captions are composed from the class, a colour measured in
the picture, and that flag. Many photographs fit one caption; which do is known as far as class,
measured colour and flag are right. Senders, not photographs, are divided into train and val, so
that no background is seen in both.
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

from data_prep.download import Source, download
from data_prep.pretrain import initialise, train_tokenizer
from data_prep.synthfashion import PHRASES, join_wordings
from qure_lib.data import SPLITS, load_fashioniq
from qure_lib.files import file_sha256, replacing
from qure_lib.images import read_image
from qure_lib.model import ModelConfig, QuReModel
from qure_lib.runs import set_seed

NAME, VERSION = "Photographs", "1.0"
HOME = "https://raw.githubusercontent.com/alexeygrigorev/clothing-dataset/master"
ROWS = 5_403  # of images.csv as published
LARGEST = 16 * 2**20  # bytes of one file
SIDE = 256  # pixels, of the longer side of what is kept
VAL_SHARE = 0.3
TO_GET = "`python -m data_prep.photos fetch data/photos-original` gets them there."

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

    A file is written whole, checked and never fetched twice, so a broken-off download goes on.

    Args:
        root: folder for images.csv and images/.
        home: where the data set lies, https:// or http://.
        rows: of images.csv; None takes any number.

    Returns:
        root.

    Raises:
        ValueError: another table than expected, or files that could not be had; names the first.
    """
    root, table = Path(root), Path(root, "images.csv")
    if not table.is_file():
        download(Source(f"{home}/images.csv", largest=LARGEST), table)
    listed = read_table(root)
    if rows is not None and len(listed) != rows:
        raise ValueError(
            f"{table} has {len(listed)} rows, the published one {rows}: cut short, or a newer "
            "edition; delete it to fetch it again, or accept it with --rows"
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
            "same command again, it goes on where it stopped"
        )
    return root


def _fetch_photograph(home: str, path: Path) -> str | None:
    """Download one photograph and look whether it decodes. Returns what went wrong, if anything."""
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
        ValueError: the table is missing or broken; the message names the line.
    """
    table = Path(root, "images.csv")
    if not table.is_file():
        raise ValueError(f"{table} is missing. {TO_GET}")
    with open(table, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    known, seen = {label for kinds in GROUPS.values() for label in kinds} | {*NO_CLASS}, set()
    for line, row in enumerate(rows, start=2):
        sound = re.fullmatch(r"[\w-]+", row.get("image") or "") and row.get("sender_id")
        if not sound or row.get("label") not in known or row.get("kids") not in ("True", "False"):
            raise ValueError(f"{table}, line {line}: {row}; is this the Clothing data set's file?")
        if row["image"] in seen:
            raise ValueError(f"{table}, line {line}: {row['image']} is listed twice")
        seen.add(row["image"])
    if not rows:
        raise ValueError(f"{table} lists no photograph; get it again")
    return rows


def photograph_path(root: Path, row: dict[str, str]) -> Path:
    """Where a row's photograph lies."""
    return Path(root, "images", f"{row['image']}.jpg")


# ---------------------------------------------------------------- colour

ANY = (-np.inf, np.inf)
COLOURS = (  # name, hue (degrees in CIELAB, -95 to 265), lightness, chroma: the first that holds
    ("black", ANY, (0, 14), ANY),
    ("black", ANY, (0, 33), (0, 10)),
    ("white", ANY, (70, 101), (0, 11)),
    ("grey", ANY, ANY, (0, 10)),
    ("blue", (-95, -48), (0, 35), ANY),
    ("blue", (-95, -58), ANY, ANY),
    ("purple", (-58, -25), ANY, ANY),
    ("pink", (-25, 10), (45, 101), ANY),
    ("pink", (-25, 45), (62, 101), ANY),
    ("red", (-25, 20), ANY, ANY),
    ("red", (20, 45), ANY, (32, 200)),
    ("pink", (20, 45), (55, 101), ANY),
    ("brown", (20, 45), ANY, ANY),
    ("orange", (45, 68), (45, 101), (50, 200)),
    ("yellow", (68, 110), (55, 101), (38, 200)),
    ("white", (45, 105), (82, 101), (0, 18)),
    ("beige", (45, 100), (60, 101), ANY),
    ("brown", (45, 90), ANY, ANY),
    ("green", (90, 195), ANY, ANY),
    ("blue", (195, 265), ANY, ANY),
)
GRID = 40  # pixels a side, enough for a colour


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> CIELAB (D65), (..., 3)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = linear @ np.array(matrix).T / (0.9505, 1, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def name_colours(lab: np.ndarray) -> np.ndarray:
    """(..., 3) CIELAB -> (...) names of COLOURS."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    hue = (np.degrees(np.arctan2(b, a)) + 95) % 360 - 95
    values = hue, lightness, np.hypot(a, b)
    holds = [
        np.all([(low <= v) & (v < high) for v, (low, high) in zip(values, box, strict=True)], 0)
        for _, *box in COLOURS
    ]
    return np.select(holds, [name for name, *_ in COLOURS], "grey")


def measure_colour(image: Image.Image) -> str:
    """The name that most of the middle of the picture has, what looks like its edge left aside.

    Simple on purpose: photographs show one garment in the middle of something else.
    """
    small = image.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX)
    lab = to_lab(np.asarray(small, float) / 255)
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) / GRID * 2 - 1
    distance = np.hypot(x / 0.75, y / 0.8)
    weight = np.exp(-(distance**2)) * (distance < 1)
    alike = (lab * (0.6, 1, 1)).astype(np.float32)  # shadows change lightness more than colour
    edge = alike[np.maximum(abs(x), abs(y)) > 0.86][::5]
    apart = ((alike[:, :, None] - edge) ** 2).sum(axis=-1)
    weight *= np.clip(1 - (apart < 9**2).mean(axis=-1) / 0.15, 0.03, 1)
    names, inverse = np.unique(name_colours(lab), return_inverse=True)
    return str(names[np.bincount(inverse.ravel(), weight.ravel()).argmax()])


# ---------------------------------------------------------------- queries


def split_senders(senders: list[str], rng: random.Random) -> dict[str, str]:
    """Sender -> "train" or "val", so that about VAL_SHARE of the photographs are val."""
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
    """A query for every photograph as target, and what each asks for, in step.

    The reference differs in one or two of WORDINGS' attributes, and the captions say all of it: so
    what is wanted is what the target has, and every photograph that has it fits.

    Returns:
        triplets: {"target", "candidate", "captions": [a, b]}, as in FashionIQ.
        wanted: {"wanted": {attribute: value}}.
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

    It is made in a folder beside root and takes root's place when complete.

    Args:
        root: a new or empty folder, or an earlier one of these.
        source: folder with images.csv and images/; None for the one that QURE_PHOTOS names.
        seed: of the split and the queries.

    Returns:
        root.

    Raises:
        ValueError: no source, a broken or incomplete one, or a root that holds something else.
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
    """The MANIFEST of the data set at root; {} where root is missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    try:
        manifest = json.loads((root / "MANIFEST.json").read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("name") != NAME:
        raise ValueError(
            f"{root} holds something else (no MANIFEST.json of {NAME}); name another folder"
        )
    return manifest


def _write(root: Path, source: Path, rows: list[dict[str, str]], manifest: dict) -> None:
    """Write the data set into a folder that holds an empty images/, its MANIFEST last."""
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
    """Write a photograph with a longer side of at most SIDE, upright. Returns what was written."""
    image = read_image(path)
    if max(image.size) <= SIDE:
        shutil.copyfile(path, out)
        return image
    image = ImageOps.exif_transpose(image).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    image.save(out, quality=90)
    return image


# ---------------------------------------------------------------- the model to start from

START = {  # the mini model's Q-Former over the pretrained encoder's tokens
    "encoder": "efficientnet_lite0", "image_size": 224, "patch_size": 32, "vision_width": 1280,
    "qformer_width": 96, "qformer_layers": 4, "qformer_heads": 4, "num_query_tokens": 8,
    "embedding_dim": 64, "max_caption_tokens": 48,
}  # fmt: skip


def write_start(folder: str | Path, root: str | Path, seed: int = 0) -> Path:
    """Write a model with the pretrained encoder and an untrained Q-Former, and its tokenizer.

    Args:
        folder: of the checkpoint.
        root: the data set, whose train captions make the vocabulary.

    Raises:
        ValueError: the encoder's packages are not installed, or no data set at root.
    """
    set_seed(seed)
    queries = load_fashioniq(root, "train", images=False).values()
    tokenizer = train_tokenizer([t.caption for q in queries for t in q.triplets])
    model = QuReModel(ModelConfig(**START, vocab_size=len(tokenizer)))
    initialise(model)
    with replacing(folder) as scratch:
        model.save(scratch)
        tokenizer.save_pretrained(scratch)
    return Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("fetch", help="download the photographs")
    get.add_argument("root", type=Path, help="folder for images.csv and images/")
    get.add_argument("--home", default=HOME, help="where they are, if they have moved")
    get.add_argument("--rows", type=int, default=ROWS, help="that images.csv must have")
    make = commands.add_parser("prepare", help="make the data set from QURE_PHOTOS")
    make.add_argument("root", type=Path, help="folder to make")
    make.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        if options.command == "fetch":
            fetch(options.root, options.home, options.rows)
            print(f"The photographs are in {options.root}; set QURE_PHOTOS to it")
        else:
            prepare(options.root, seed=options.seed)
            write_start(options.root / "start", options.root, options.seed)
            print(f"{NAME} are in {options.root}, the model to start from in {options.root}/start")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
