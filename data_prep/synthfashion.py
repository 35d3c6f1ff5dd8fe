"""SynthFashion: drawn garments in FashionIQ's layout, with exact graded relevance beside them.

    python -m data_prep.synthfashion data/synthfashion-mini --size mini
    python -m data_prep.synthfashion data/synthfashion-drawing --size unseen --world drawing

Every garment has eight known attributes; place, scale, angle, light, shade, folds and background
vary continuously. Popularity is skewed as in a shop, and most garments vary an earlier one, so each
query has a few relevant images over a bulk. A reference and its target differ in one to three
attributes; a difference is mentioned with probability 0.8, so some captions fit several images.
Worlds differ in popularity, in what a corpus mixes or in drawing style: data_prep/worlds.md.
From one seed the annotations and the pixels are the same whatever the number of processes.
The val images also stand in CIRR's and in CIRCO's layout: data_prep/views.py.
"""

import argparse
import hashlib
import json
import random
import textwrap
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data_prep.garments import PIXELS, draw_garment
from qure_lib.files import file_sha256, replacing

VERSION = "1.0"  # of garments, words and pixels, which it seeds
LAYOUT = "1.1"  # of the files: one of another layout is made again, with the same pixels
CATEGORIES = ("dress", "shirt", "toptee")
SIZES = {  # images a category
    "smoke": {"train": 160, "val": 80},
    "mini": {"train": 1200, "val": 600},
    "unseen": {"train": 40, "val": 600},  # for a world that is only ranked
    "tried": {"train": 1200, "val": 40},  # for one that is only measured: data_prep/worlds.py
}
ANNOTATORS = {"smoke": 10, "mini": 61, "unseen": 10, "tried": 10}
TARGET_SHARE = 0.8  # of a split's images are the target of one query
MENTION = 0.8  # probability that a difference is mentioned


@dataclass(frozen=True)
class World:
    """What sets one world apart from another."""

    popularity: float = 1.0  # exponent of the weights below: 0 makes all values as frequent
    variant: float = 0.6  # probability that a garment varies an earlier one
    style: str = "photograph"  # one of garments.STYLES
    scales: bool = False  # colour, sleeve and neck are numbers in [0, 1] instead of words
    store: bool = False  # every category sells all three kinds, a third of each


WORLDS = {  # what each is for, and every one that was tried: data_prep/worlds.md
    "default": World(),
    "even": World(popularity=0.0),
    "steep": World(popularity=4.0, variant=0.3),
    "drawing": World(style="drawing"),
    "scales": World(scales=True),
    "store": World(store=True),
}

Garment = dict[str, str | float]  # attribute -> value
SCALES = ("colour", "sleeve", "neck")  # hue (which goes round), length, depth
NOTICE = 0.12  # a difference on a scale that can be seen

POPULARITY = {  # attribute -> value -> weight
    "colour": {
        "black": 18, "white": 14, "blue": 14, "red": 11, "pink": 10,
        "grey": 9, "green": 8, "purple": 7, "yellow": 5, "orange": 4,
    },
    "pattern": {"plain": 40, "striped": 20, "dotted": 14, "checked": 12, "floral": 14},
    "sleeve": {"short": 42, "sleeveless": 30, "long": 28},
    "neck": {"round": 40, "v": 30, "square": 15, "collar": 15},
    "length": {"medium": 45, "short": 30, "long": 25},
    "fit": {"fitted": 55, "loose": 45},
    "detail": {"none": 50, "belt": 30, "bow": 20},
    "trim": {"none": 65, "contrast": 35},
}  # fmt: skip
OWN_POPULARITY = {  # where a category differs
    "shirt": {
        "pattern": {"plain": 36, "striped": 22, "checked": 24, "dotted": 10, "floral": 8},
        "sleeve": {"long": 50, "short": 40, "sleeveless": 10},
        "neck": {"collar": 60, "v": 20, "round": 20},
        "detail": {"none": 60, "pocket": 40},
    },
    "toptee": {
        "neck": {"round": 45, "v": 35, "square": 20},
        "detail": {"none": 55, "graphic": 30, "bow": 15},
    },
}

PHRASES = {  # attribute -> new value, "category value" or "old>new" -> wordings
    "colour": {
        "*": ["is {new}", "is {new} colored", "is {new} in color", "is more {new}",
              "has a {new} color", "is {new} instead of {old}"],
    },
    "pattern": {
        "plain": ["is plain", "has no pattern", "is a solid color", "is less patterned"],
        "striped": ["is striped", "has stripes", "is more striped", "has a striped pattern"],
        "dotted": ["has polka dots", "is dotted", "has dots on it", "has a dotted pattern"],
        "checked": ["is checked", "is plaid", "has a checked pattern", "has a plaid pattern"],
        "floral": ["is floral", "has a floral print", "has flowers on it", "is more floral"],
    },
    "sleeve": {
        "sleeveless": ["is sleeveless", "has no sleeves", "is without sleeves"],
        "short": ["has short sleeves", "is short sleeved"],
        "long": ["has long sleeves", "is long sleeved"],
        "long>short": ["has shorter sleeves"],
        "short>long": ["has longer sleeves"],
    },
    "neck": {
        "round": ["has a round neck", "has a crew neck", "has a rounder neckline"],
        "v": ["has a v neck", "is v necked", "has a v shaped neckline"],
        "square": ["has a square neck", "has a square neckline", "is square necked"],
        "collar": ["has a collar", "is collared", "has a pointed collar"],
    },
    "length": {
        "short>medium": ["is slightly longer", "is a bit longer", "is of medium length"],
        "short>long": ["is much longer", "is a lot longer", "is very long"],
        "medium>long": ["is longer", "is long", "has a longer hem"],
        "long>medium": ["is slightly shorter", "is a bit shorter", "is of medium length"],
        "long>short": ["is much shorter", "is a lot shorter", "is very short"],
        "medium>short": ["is shorter", "is short", "has a shorter hem"],
    },
    "fit": {
        "fitted": ["is more fitted", "is tighter", "is slimmer", "has a tighter fit"],
        "loose": ["is looser", "has a looser fit", "is wider", "is more flowy"],
        "dress fitted": ["has a straight skirt", "has a tighter skirt"],
        "dress loose": ["has a flared skirt", "has a wider skirt"],
    },
    "detail": {
        "none": ["has no {old}", "is without a {old}", "does not have a {old}"],
        "*": ["has a {new}", "has a {new} on it", "comes with a {new}"],
    },
    "trim": {
        "none": ["has no trim", "has plain edges", "is without trim"],
        "contrast": ["has contrasting trim", "has contrasting edges", "has trim on the edges"],
    },
}  # fmt: skip
HUES = ("red", "orange", "yellow", "lime", "green", "mint",
        "turquoise", "azure", "blue", "violet", "magenta", "pink")  # fmt: skip
ON_SCALE = {  # attribute -> way -> wordings
    "colour": dict.fromkeys(("more", "less"), ["is {hue}", "is {hue} in color", "is more {hue}"]),
    "sleeve": {
        "more": ["has {much}longer sleeves", "is {much}longer in the sleeves"],
        "less": ["has {much}shorter sleeves", "is {much}shorter in the sleeves"],
    },
    "neck": {
        "more": ["has a {much}deeper neckline", "is cut {much}lower at the neck"],
        "less": ["has a {much}higher neckline", "is cut {much}higher at the neck"],
    },
}
BEFORE = {  # words before the noun of a description
    "fit": {"fitted": ["fitted", "tight", "slim"], "loose": ["loose", "wide", "flowy"]},
    "length": {"short": ["short", "very short"], "medium": ["medium length"], "long": ["long"]},
    "pattern": {
        "plain": ["plain", "solid"], "striped": ["striped"], "dotted": ["dotted", "polka dot"],
        "checked": ["checked", "plaid"], "floral": ["floral"],
    },
}  # fmt: skip
AFTER = {  # what it is "with"
    "sleeve": {"sleeveless": ["no sleeves"], "short": ["short sleeves"], "long": ["long sleeves"]},
    "neck": {
        "round": ["a round neck", "a crew neck"], "v": ["a v neck", "a v neckline"],
        "square": ["a square neck", "a square neckline"], "collar": ["a collar"],
    },
    "trim": {"none": ["plain edges", "no trim"], "contrast": ["contrasting trim"]},
}  # fmt: skip


def popularity(category: str) -> dict[str, dict[str, float]]:
    """Weight of every value of every attribute in a category."""
    return {**POPULARITY, **OWN_POPULARITY.get(category, {})}


def attribute_values() -> dict[str, list[str]]:
    """All values of each attribute over the categories, in a fixed order."""
    worlds = [popularity(c) for c in CATEGORIES]
    return {a: list(dict.fromkeys(v for w in worlds for v in w[a])) for a in POPULARITY}


def differences(some: Sequence[Garment], others: Sequence[Garment]) -> np.ndarray:
    """How far apart garments are in each attribute, (some, others, attributes), in [0, 1].

    Words differ by 0 or 1; a colour on the scale, a hue, differs by 1 from the opposite one.
    Graded relevance is one less the mean of this over the attributes.
    """
    parts = []
    for attribute in some[0]:
        a, b = (np.array([g[attribute] for g in garments]) for garments in (some, others))
        if a.dtype.kind == "f":
            apart = abs(a[:, None] - b)
            parts.append(2 * np.minimum(apart, 1 - apart) if attribute == "colour" else apart)
        else:
            parts.append((a[:, None] != b).astype(float))
    return np.stack(parts, axis=-1)


# ---------------------------------------------------------------- garments, words and queries


def sample_garments(
    category: str, n: int, rng: random.Random, world: World = WORLDS["default"]
) -> list[Garment]:
    """n garments; with the world's probability of a variant, one to three changes to one before."""
    weights = popularity(category)

    def draw(attribute: str, without: str | float | None = None) -> str | float:
        if world.scales and attribute in SCALES:
            return draw_number(attribute, without, rng)
        options = {v: w**world.popularity for v, w in weights[attribute].items() if v != without}
        return rng.choices(list(options), list(options.values()))[0]

    garments: list[Garment] = []
    for _ in range(n):
        if garments and rng.random() < world.variant:
            garment = dict(rng.choice(garments))
            for attribute in rng.sample(list(weights), rng.choice((1, 2, 3))):
                garment[attribute] = draw(attribute, without=garment[attribute])
        else:
            garment = {attribute: draw(attribute) for attribute in weights}
        garments.append(garment)
    return garments


def draw_number(attribute: str, without: float | None, rng: random.Random) -> float:
    """A value on a scale, visibly other than `without`."""
    while True:
        value = round(rng.random(), 3)
        if without is None or differences([{attribute: value}], [{attribute: without}]) > NOTICE:
            return value


def phrase_options(category: str, attribute: str, old: str | float, new: str | float) -> list[str]:
    """Every wording of one change. Comparatives appear only where they leave one value open."""
    if not isinstance(new, str):
        much = "slightly " if abs(new - old) < 0.3 else "much " if abs(new - old) > 0.6 else ""
        way = "more" if new > old else "less"
        hue = HUES[round(new * len(HUES)) % len(HUES)]
        return [words.format(much=much, hue=hue) for words in ON_SCALE[attribute][way]]
    table = PHRASES[attribute]
    options = table.get(new, table.get("*", []))
    options = options + table.get(f"{category} {new}", []) + table.get(f"{old}>{new}", [])
    return [option.format(old=old, new=new) for option in options]


def write_captions(
    category: str, old: Garment, new: Garment, mentioned: list[str], rng: random.Random
) -> list[str]:
    """Two phrases that together mention these changes."""
    options = {a: phrase_options(category, a, old[a], new[a]) for a in mentioned}
    return join_wordings(options, rng)


def join_wordings(options: dict[str, list[str]], rng: random.Random) -> list[str]:
    """Two phrases of one wording of each change, some of them twice in other words.

    Args:
        options: changed attribute -> its wordings, at least two.
    """
    mentioned = list(options)
    sides = {a: rng.choices(((0,), (1,), (0, 1)), (35, 35, 30))[0] for a in mentioned}
    if len(set().union(*sides.values())) == 1:  # one phrase would be empty
        sides[rng.choice(mentioned)] = (0, 1)
    parts: tuple[list[str], list[str]] = ([], [])
    for attribute in rng.sample(mentioned, len(mentioned)):
        wordings = rng.sample(options[attribute], 2)
        for side, wording in zip(sides[attribute], wordings, strict=False):
            parts[side].append(wording)
    return [" and ".join(part) for part in parts]


def describe(garment: Garment, category: str, rng: random.Random) -> str:
    """All of a garment in a sentence, for pretraining: "a loose red striped dress with ..."."""
    before = [rng.choice(BEFORE[a][garment[a]]) for a in BEFORE] + [garment["colour"]]
    after = [rng.choice(AFTER[a][garment[a]]) for a in AFTER]
    if garment["detail"] != "none":
        after.append(f"a {garment['detail']}")
    rng.shuffle(before)
    rng.shuffle(after)
    noun = "top" if category == "toptee" else category
    start = rng.choice(["a", "this is a", "the"])
    return f"{start} {' '.join(before)} {noun} with {', '.join(after[:-1])} and {after[-1]}"


def sample_queries(
    category: str, garments: dict[str, Garment], rng: random.Random
) -> tuple[list[dict], list[dict]]:
    """Triplets with distinct targets, and what each asks for, in step.

    Returns:
        triplets: {"target", "candidate", "captions": [a, b]}, as in FashionIQ.
        wanted: {"wanted": {attribute: value}}: the reference with the mentioned changes made.
    """
    ids, known = list(garments), list(garments.values())
    differ = differences(known, known) > NOTICE
    triplets, wanted = [], []
    for target in rng.sample(range(len(ids)), len(ids)):
        distances = differ[target].sum(axis=1)
        near = [np.flatnonzero(distances == d).tolist() for d in (1, 2, 3)]
        if not any(near) or len(triplets) == round(TARGET_SHARE * len(ids)):
            continue
        weights = [weight * bool(n) for weight, n in zip((3, 4, 3), near, strict=True)]
        reference = rng.choice(rng.choices(near, weights)[0])
        old, new = garments[ids[reference]], garments[ids[target]]
        changed = [a for a, seen in zip(old, differ[target, reference], strict=True) if seen]
        mentioned = [a for a in changed if rng.random() < MENTION] or [rng.choice(changed)]
        captions = write_captions(category, old, new, mentioned, rng)
        triplets.append({"target": ids[target], "candidate": ids[reference], "captions": captions})
        wanted.append({"wanted": old | {a: new[a] for a in mentioned}})
    return triplets, wanted


# ---------------------------------------------------------------- simulated preferences


def simulate_preferences(
    queries: dict[str, list[dict]],
    corpora: dict[str, dict[str, Garment]],
    annotators: int,
    seed: int,
) -> dict:
    """Judged pairs of top-5 sets in the structure of HP-FashionIQ's hpfiq.json. No human took part.

    Two scorers see the graded relevance through noise of standard deviation 0.10 and 0.17; each
    gives its five best images, the reference left out. An annotator likes a set by its mean graded
    relevance plus noise and a bias of their own, rounds that to a score of 1 to 5, and prefers the
    set liked better, with a slight lean to the first.

    Args:
        queries: category -> triplets, each with what is "wanted".
        corpora: category -> image id -> garment.
        annotators: how many; each answers two sets of 25 questions in one category, shirt or
            toptee, in HP-FashionIQ's proportion of 36 to 25.
        seed: of all noise.
    """
    rng = np.random.default_rng(seed)
    ids = {c: list(corpora[c]) for c in corpora}
    relevance = {
        c: 1 - differences([q["wanted"] for q in queries[c]], list(corpora[c].values())).mean(2)
        for c in corpora
    }
    study: dict[str, dict] = {}
    for user in range(annotators):
        c = "shirt" if user < round(annotators * 36 / 61) else "toptee"
        bias = 0.3 * rng.normal()
        study[f"user_{user + 1}"] = {
            f"question_set_{n}": _question_set(queries[c], ids[c], relevance[c], bias, rng)
            for n in (1, 2)
        }
    return study


def _question_set(
    queries: list[dict],
    ids: list[str],
    relevance: np.ndarray,
    bias: float,
    rng: np.random.Generator,
) -> dict:
    """25 questions to one annotator with the answers, as parallel lists."""
    rows = rng.choice(len(queries), 25, replace=False)
    chosen = [queries[row] for row in rows]
    judged = [_judge(queries[r]["candidate"], ids, relevance[r], bias, rng) for r in rows]
    return {
        "ref_img_paths": [_path(query["candidate"]) for query in chosen],
        "targ_img_paths": [_path(query["target"]) for query in chosen],
        "sentences": ["  and ".join(query["captions"]) for query in chosen],
        "retrieved_set1": [sets[0] for sets, _ in judged],
        "retrieved_set2": [sets[1] for sets, _ in judged],
        "preferred set": [preferred for _, preferred in judged],
    }


def _judge(
    reference: str, ids: list[str], relevance: np.ndarray, bias: float, rng: np.random.Generator
) -> tuple[list[dict], str]:
    """The two retrieved sets of a question, in random order, and which was preferred."""
    sets, likings = [], []
    for noise in rng.permutation((0.10, 0.17)):
        order = np.argsort(-(relevance + noise * rng.normal(size=len(ids))), kind="stable")
        top = [i for i in order[:6] if ids[i] != reference][:5]
        liking = 3.6 + bias + 7 * (relevance[top].mean() - 0.73) + 0.85 * rng.normal()
        score = int(np.clip(np.rint(liking), 1, 5))
        sets.append({"img_path": [_path(ids[i]) for i in top], "user_score": str(score)})
        likings.append(liking)
    return sets, "2" if likings[1] - likings[0] > 0.1 + 0.1 * rng.normal() else "1"


def _path(image_id: str) -> str:
    return f"/-/image_data/{_category(image_id)}/{image_id}.jpg"  # as hpfiq.json spells it


def _category(image_id: str) -> str:
    return image_id.split("-")[0]


# ---------------------------------------------------------------- on disk


def make_annotations(size: str, seed: int, world: World = WORLDS["default"]) -> dict[str, object]:
    """The content of every JSON file of the data set, by its path."""
    from data_prep.views import circo_like, cirr_like  # which are made of this module's parts

    files: dict[str, object] = {}
    images: dict[str, Garment] = {}
    queries, corpora = {}, {}
    for category in CATEGORIES:
        for split, n in SIZES[size].items():  # val comes last: the preferences are about it
            garments, triplets, wanted = {}, [], []
            for kind in CATEGORIES if world.store else (category,):
                made, *asked = _sample_part(category, kind, split, n, seed, world)
                garments |= made
                triplets, wanted = triplets + asked[0], wanted + asked[1]
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
    if world.store:  # what the drawing has from its id, relevance must know
        garments = {i: garment | {"kind": kind} for i, garment in garments.items()}
        wanted = [{"wanted": row["wanted"] | {"kind": kind}} for row in wanted]
    return garments, triplets, wanted


def _draw_file(task: tuple[str, Garment], seed: int, style: str, folder: Path) -> str:
    """Draw one image into folder, from a generator of its own; returns the hash of its pixels."""
    image_id, garment = task
    name = hashlib.sha256(f"{VERSION} {seed} {image_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(name[:8], "big"))
    pixels = draw_garment(_category(image_id), garment, rng, style)
    Image.fromarray(pixels).save(folder / f"{image_id}.png", compress_level=1)
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _draw_files(
    images: dict[str, Garment], seed: int, style: str, folder: Path, workers: int
) -> str:
    """Draw every image; returns one hash over their pixels."""
    draw = partial(_draw_file, seed=seed, style=style, folder=folder)
    bar = partial(tqdm, total=len(images), desc="SynthFashion", unit="image", mininterval=0.5)
    if workers == 1:
        hashes = list(bar(map(draw, images.items())))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            hashes = list(bar(pool.map(draw, images.items(), chunksize=30)))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _write(root: Path, size: str, seed: int, workers: int, world: str) -> None:
    """Write the data set into a new folder, its MANIFEST last."""
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
    """One hash over the name and content of every file but the MANIFEST."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "MANIFEST.json"):
        digest.update(f"{path.relative_to(root)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _manifest(root: Path) -> dict:
    """The MANIFEST of the SynthFashion at root; {} where root is missing or empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return {}
    try:
        manifest = json.loads((root / "MANIFEST.json").read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("name") != "SynthFashion":
        raise ValueError(
            f"{root} holds something else (no SynthFashion MANIFEST.json); "
            "name another folder, or empty this one"
        )
    return manifest


def prepare(
    root: str | Path, size: str = "mini", seed: int = 0, workers: int = 2, world: str = "default"
) -> Path:
    """Make SynthFashion at root, unless it is there already, whole.

    It is made in a folder beside root and takes root's place when complete. A damaged SynthFashion
    at root, or one of another layout, size, seed or world, is replaced.

    Args:
        root: a new or empty folder, or an earlier SynthFashion.
        size: of SIZES: "smoke" (160 train and 80 val images a category), "mini" (1,200 and 600)...
        seed: of everything drawn and written, >= 0.
        workers: processes that draw, >= 1; nothing on disk depends on it.
        world: of WORLDS.

    Returns:
        root.

    Raises:
        ValueError: an unknown size or world, or a root that holds something else.
    """
    root = Path(root)
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
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="show samples of it")
    args = parser.parse_args()
    prepare(args.root, args.size, args.seed, world=args.world)
    if args.contact_sheet:
        contact_sheet(args.root, args.contact_sheet)
    print(f"SynthFashion ({args.world}, {args.size}, seed {args.seed}) is in {args.root}")


if __name__ == "__main__":
    main()
