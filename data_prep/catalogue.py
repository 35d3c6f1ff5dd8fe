"""SynthFashion's worlds: how often attributes occur, garments, and the queries among them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.garments import Garment
from data_prep.wordings import write_captions

CATEGORIES = ("dress", "shirt", "toptee")
TARGET_SHARE = 0.8  # of a split's images are the target of one query
MENTION = 0.8  # probability that a difference is mentioned
SCALES = ("colour", "sleeve", "neck")  # hue (which goes round), length, depth
NOTICE = 0.12  # a difference on a scale that can be seen


@dataclass(frozen=True)
class World:
    """How a world differs from the others."""

    popularity: float = 1.0  # exponent of the weights below; 0: equally frequent values
    variant: float = 0.6  # probability that a garment varies an earlier one
    style: str = "photograph"  # one of garments.STYLES
    scales: bool = False  # colour, sleeve and neck are numbers in [0, 1] instead of words
    store: bool = False  # every category sells all three kinds, a third of each


WORLDS = {  # data_prep/worlds.md says what each is for
    "default": World(),
    "even": World(popularity=0.0),
    "steep": World(popularity=4.0, variant=0.3),
    "drawing": World(style="drawing"),
    "scales": World(scales=True),
    "store": World(store=True),
}

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


def popularity(category: str) -> dict[str, dict[str, float]]:
    """Weight of every value of every attribute in a category."""
    return {**POPULARITY, **OWN_POPULARITY.get(category, {})}


def attribute_values() -> dict[str, list[str]]:
    """All values of each attribute over the categories, in a fixed order."""
    worlds = [popularity(c) for c in CATEGORIES]
    return {a: list(dict.fromkeys(v for w in worlds for v in w[a])) for a in POPULARITY}


def differences(some: Sequence[Garment], others: Sequence[Garment]) -> np.ndarray:
    """How much garments differ in each attribute: (some, others, attributes), in [0, 1].

    Words differ by 0 or 1. Hues lie on a circle: opposite ones differ by 1. Graded relevance is one
    minus the mean difference over the attributes.
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


def sample_garments(
    category: str, n: int, rng: random.Random, world: World = WORLDS["default"]
) -> list[Garment]:
    """Sample n garments; a variant changes one to three attributes of an earlier garment."""
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
    """Sample a value in [0, 1) that differs visibly from `without`."""
    while True:
        value = round(rng.random(), 3)
        if without is None or differences([{attribute: value}], [{attribute: without}]) > NOTICE:
            return value


def sample_queries(
    category: str, garments: dict[str, Garment], rng: random.Random
) -> tuple[list[dict], list[dict]]:
    """Sample triplets with distinct targets, and what each asks for.

    Returns:
        triplets: {"target", "candidate", "captions": [a, b]}, as in FashionIQ.
        wanted: for each triplet {"wanted": {attribute: value}}: the reference's attributes, with
            the mentioned changes.
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


def category_of(image_id: str) -> str:
    """What kind of garment an image shows: the first part of its id."""
    return image_id.split("-")[0]
