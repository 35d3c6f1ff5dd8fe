"""The words of SynthFashion: relative captions of changed attributes, and descriptions."""

import random

from data_prep.garments import Garment

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
AFTER = {  # words after "with" in a description
    "sleeve": {"sleeveless": ["no sleeves"], "short": ["short sleeves"], "long": ["long sleeves"]},
    "neck": {
        "round": ["a round neck", "a crew neck"], "v": ["a v neck", "a v neckline"],
        "square": ["a square neck", "a square neckline"], "collar": ["a collar"],
    },
    "trim": {"none": ["plain edges", "no trim"], "contrast": ["contrasting trim"]},
}  # fmt: skip


def phrase_options(category: str, attribute: str, old: str | float, new: str | float) -> list[str]:
    """Every wording of one change. A comparative is used only if a single value can be meant."""
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
    """Write two phrases that together mention the changed attributes `mentioned`."""
    options = {a: phrase_options(category, a, old[a], new[a]) for a in mentioned}
    return join_wordings(options, rng)


def join_wordings(options: dict[str, list[str]], rng: random.Random) -> list[str]:
    """Write two phrases that hold one wording of each change; some changes are in both phrases.

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
    """Describe a whole garment, for pretraining: "a loose red striped dress with ..."."""
    before = [rng.choice(BEFORE[a][garment[a]]) for a in BEFORE] + [garment["colour"]]
    after = [rng.choice(AFTER[a][garment[a]]) for a in AFTER]
    if garment["detail"] != "none":
        after.append(f"a {garment['detail']}")
    rng.shuffle(before)
    rng.shuffle(after)
    noun = "top" if category == "toptee" else category
    start = rng.choice(["a", "this is a", "the"])
    return f"{start} {' '.join(before)} {noun} with {', '.join(after[:-1])} and {after[-1]}"
