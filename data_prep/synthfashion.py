"""SynthFashion: drawn garments in FashionIQ's layout, with exact graded relevance.

    python -m data_prep.synthfashion data/synthfashion-mini --size mini
    python -m data_prep.synthfashion data/synthfashion-drawing --size unseen --world drawing

Every garment has eight known attributes; place, scale, angle, light, shade, folds and background
vary continuously. Popularity is skewed as in a shop, and most garments are variants of an earlier
one, so each query has a few relevant images among many irrelevant ones. A reference and its target
differ in one to three attributes; a difference is mentioned with probability 0.8, so some captions
fit several images. Worlds differ in popularity, in what a corpus mixes or in drawing style:
data_prep/worlds.md. The same seed gives the same annotations and pixels, whatever the number of
processes. The val images are also written in CIRR's and in CIRCO's layout: data_prep/views.py.
"""

import argparse
import hashlib
import json
import random
import textwrap
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data_prep.catalogue import (
    CATEGORIES,
    WORLDS,
    World,
    attribute_values,
    category_of,
    sample_garments,
    sample_queries,
)
from data_prep.garments import PIXELS, Garment, draw_garment
from data_prep.preferences import simulate_preferences
from data_prep.views import circo_like, cirr_like
from qure_lib.files import file_sha256, replacing, run_command

VERSION = "1.0"  # of garments, words and pixels; part of their seed
LAYOUT = "1.1"  # of the files; one of another layout is made again, with the same pixels
SIZES = {  # images in each category
    "smoke": {"train": 160, "val": 80},
    "mini": {"train": 1200, "val": 600},
    "unseen": {"train": 40, "val": 600},  # for a world that is ranked and not trained on
    "tried": {"train": 1200, "val": 40},  # for a world that is only measured (worlds.py)
    "large_stage1": {"train": 3000, "val": 300},  # for the large model's stage 1 (pretrain.py)
    "large": {"train": 3000, "val": 750},  # 2,400 and 600 queries a category, for a GPU
}
ANNOTATORS = {"smoke": 10, "mini": 61, "unseen": 10, "tried": 10, "large_stage1": 10, "large": 10}


def make_annotations(size: str, seed: int, world: World = WORLDS["default"]) -> dict[str, object]:
    """The content of every JSON file of the data set, by its path.

    Raises:
        ValueError: two images have the same id.
    """
    files: dict[str, object] = {}
    images: dict[str, Garment] = {}
    queries, corpora = {}, {}
    for category in CATEGORIES:
        for split, n in SIZES[size].items():  # val last: the preferences are about it
            garments, triplets, wanted = {}, [], []
            for kind in CATEGORIES if world.store else (category,):
                part = _sample_part(category, kind, split, n, seed, world)
                twice = part[0].keys() & (images | garments).keys()
                if twice:
                    raise ValueError(f"{category} {split}: image {min(twice)} is there twice")
                garments |= part[0]
                triplets, wanted = triplets + part[1], wanted + part[2]
            files[f"image_splits/split.{category}.{split}.json"] = list(garments)
            files[f"captions/cap.{category}.{split}.json"] = triplets
            files[f"relevance/rel.{category}.{split}.json"] = wanted
            queries[category] = [t | w for t, w in zip(triplets, wanted, strict=True)]
            corpora[category] = garments
            images |= garments
    study = simulate_preferences(queries, corpora, ANNOTATORS[size], seed)
    files["hp_like/hpfiq_simulated.json"] = study
    files |= cirr_like(corpora, seed) | circo_like(queries, corpora)
    about = {"version": VERSION, "seed": seed, "size": size, "attributes": attribute_values()}
    files["synthfashion.json"] = about | {"images": images}
    return files


def _sample_part(
    category: str, kind: str, split: str, n: int, seed: int, world: World
) -> tuple[dict[str, Garment], list[dict], list[dict]]:
    """The garments of one kind in a category's n images, and the queries among them."""
    rng = random.Random(f"{seed} {category} {split}")
    first, count = 0, n
    if world.store:
        rng, count = random.Random(f"{seed} {category} {split} {kind}"), n // len(CATEGORIES)
        first = CATEGORIES.index(category) * count
    ids = [f"{kind}-{split}-{first + i:04d}" for i in range(count)]
    garments = dict(zip(ids, sample_garments(kind, count, rng, world), strict=True))
    triplets, wanted = sample_queries(kind, garments, rng)
    if world.store:  # an image's id names its kind; graded relevance counts it as an attribute
        garments = {i: garment | {"kind": kind} for i, garment in garments.items()}
        wanted = [{"wanted": row["wanted"] | {"kind": kind}} for row in wanted]
    return garments, triplets, wanted


def _draw_file(task: tuple[str, Garment], seed: int, style: str, folder: Path) -> str:
    """Draw one image into folder, with a generator of its own; return the hash of its pixels."""
    image_id, garment = task
    name = hashlib.sha256(f"{VERSION} {seed} {image_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(name[:8], "big"))
    pixels = draw_garment(category_of(image_id), garment, rng, style)
    Image.fromarray(pixels).save(folder / f"{image_id}.png", compress_level=1)
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _draw_files(
    images: dict[str, Garment], seed: int, style: str, folder: Path, workers: int
) -> str:
    """Draw every image; return one hash over all pixels."""
    draw = partial(_draw_file, seed=seed, style=style, folder=folder)
    bar = partial(tqdm, total=len(images), desc="SynthFashion", unit="image", mininterval=0.5)
    if workers == 1:
        hashes = list(bar(map(draw, images.items())))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            hashes = list(bar(pool.map(draw, images.items(), chunksize=30)))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _write(root: Path, size: str, seed: int, workers: int, world: str) -> None:
    """Write the data set into a new folder; the manifest is written last."""
    files, sums = make_annotations(size, seed, WORLDS[world]), {}
    for name, content in files.items():
        data = json.dumps(content, indent=1).encode()
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    (root / "images").mkdir()
    images, style = files["synthfashion.json"]["images"], WORLDS[world].style
    pixels = _draw_files(images, seed, style, root / "images", workers)
    manifest = {"name": "SynthFashion", "version": VERSION, "layout": LAYOUT}
    manifest |= {"seed": seed, "size": size, "world": world} | asdict(WORLDS[world])
    manifest |= {"pixels_sha256": pixels, "annotations_sha256": sums}
    manifest["files_sha256"] = _files_sum(root)
    (root / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))


def _files_sum(root: Path) -> str:
    """One hash over the name and content of every file but the manifest."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "MANIFEST.json"):
        digest.update(f"{path.relative_to(root)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _manifest(root: Path) -> dict:
    """The manifest of the SynthFashion at root; {} if root is missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    try:
        manifest = json.loads((root / "MANIFEST.json").read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("name") != "SynthFashion":
        raise ValueError(
            f"{root} holds other files (no MANIFEST.json of SynthFashion); name another folder"
        )
    return manifest


def prepare(
    root: str | Path, size: str = "mini", seed: int = 0, workers: int = 2, world: str = "default"
) -> Path:
    """Make SynthFashion at root, unless it is there already and undamaged.

    It is made in a folder beside root, which replaces root when it is complete. A damaged
    SynthFashion at root, or one of another layout, size, seed or world, is replaced.

    Args:
        root: a new or empty folder, or an earlier SynthFashion.
        size: of SIZES: "smoke" (160 train and 80 val images a category), "mini" (1,200 and 600)...
        seed: of everything drawn and written, >= 0.
        workers: processes that draw, >= 1; the files do not depend on it.
        world: of WORLDS.

    Returns:
        root.

    Raises:
        ValueError: an unknown size or world, a seed or number of workers too low, or other files
            at root.
    """
    root = Path(root)
    for kind, number, lowest in (("seed", seed, 0), ("workers", workers, 1)):
        if number < lowest:
            raise ValueError(f"{kind} must be at least {lowest}, not {number}")
    for kind, name, known in (("size", size, SIZES), ("world", world, WORLDS)):
        if name not in known:
            raise ValueError(f"{kind} {name!r} is unknown; choose one of {', '.join(known)}")
    wanted = {"version": VERSION, "layout": LAYOUT, "size": size, "seed": seed, "world": world}
    made = _manifest(root)
    same = {key: made.get(key) for key in wanted} == wanted
    if same and made.get("files_sha256") == _files_sum(root):
        return root
    with replacing(root) as fresh:
        fresh.mkdir()
        _write(fresh, size, seed, workers, world)
    return root


# ---------------------------------------------------------------- to look at


def contact_sheet(root: str | Path, path: str | Path, split: str = "val", rows: int = 8) -> Path:
    """Write an image of (reference, captions, target) strips, one column a category."""
    root, text, gap = Path(root), 190, 6
    width, height, font = 2 * PIXELS + text, PIXELS + gap, ImageFont.load_default(11)
    sheet = Image.new("RGB", (len(CATEGORIES) * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, category in enumerate(CATEGORIES):
        triplets = json.loads((root / f"captions/cap.{category}.{split}.json").read_text())
        for row, triplet in enumerate(triplets[:rows]):
            x, y = column * width, row * height
            for key, shift in (("candidate", 0), ("target", PIXELS + text - 2 * gap)):
                sheet.paste(Image.open(root / f"images/{triplet[key]}.png"), (x + shift, y))
            lines = [line for c in triplet["captions"] for line in [*textwrap.wrap(c, 28), ""]]
            draw.text((x + PIXELS + gap, y + 20), "\n".join(lines), "black", font)
    sheet.save(path)
    return Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw SynthFashion.")
    parser.add_argument("root", type=Path, help="folder to make")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=WORLDS, default="default")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="PNG", help="picture of sample queries"
    )
    args = parser.parse_args()
    try:
        prepare(args.root, args.size, args.seed, world=args.world)
        if args.contact_sheet:
            contact_sheet(args.root, args.contact_sheet)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"SynthFashion ({args.world}, {args.size}, seed {args.seed}) is in {args.root}")


if __name__ == "__main__":
    run_command(main)
