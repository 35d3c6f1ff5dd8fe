"""One name, one colour and one marker for every way to train, in all figures and tables."""

from dataclasses import dataclass, replace

from qure_lib.reporting.style import BLUE, BROWN, GREEN, GREY, ORANGE, PINK, RED, SKY, YELLOW

SOLID, DASHED, DOTTED, DASH_DOT = "-", "--", ":", "-."


@dataclass(frozen=True)
class Look:
    """How a thing is called and drawn: name in words, colour, marker, line."""

    name: str
    colour: str
    marker: str = "o"
    line: str = SOLID


# Code -> look. The codes are those of the study (notebooks/grids.py), of runs and of categories.
LOOKS: dict[str, Look] = {
    "uniform": Look("uniform negatives", GREY, "D", DASHED),
    "cosine": Look("drops in the cosine (released)", RED, "v"),
    "preference": Look("drops in the preference", BLUE, "o"),
    "same_sizes": Look("same sizes, after the target", SKY, "s", DASHED),
    "moved": Look("another query's window", PINK, "P", DASHED),
    "in_batch": Look("in-batch contrast", GREEN, "^"),
    "in_batch_one": Look("one in-batch negative", GREEN, "<", DOTTED),
    "window_100": Look("drops within 100 ranks", ORANGE, "X"),
    "window_30": Look("drops within 30 ranks", ORANGE, "x", DASHED),
    "window_by_rank": Look("drops within 32 + 4 x rank", ORANGE, "d", DOTTED),
    "after_target": Look("100 after the target", BROWN, "s"),
    "top_k": Look("best 100", BROWN, "*", DASHED),
    "cosine_largest": Look("two largest drops, cosine (Eq. 6)", RED, "1", DOTTED),
    "preference_largest": Look("two largest drops, preference", BLUE, "2", DOTTED),
    "significant_gaps": Look("first significant gaps", YELLOW, "p"),
    "mid_zone": Look("middle zone", YELLOW, "h", DASHED),
    "positive_margin": Look("at most 95 % of the target's score", YELLOW, "H", DOTTED),
    "preference_3": Look("preference, 3 negatives", BLUE, "3", DASHED),
    "preference_5": Look("preference, 5 negatives", BLUE, "4", DASH_DOT),
    "frozen_temperature": Look("preference, temperature frozen", BLUE, "+", DASH_DOT),
    "temperature_x0.5": Look("preference, temperature x 0.5", BLUE, "<", DASH_DOT),
    "temperature_x2": Look("preference, temperature x 2", BLUE, ">", DASH_DOT),
    "temperature_x4": Look("preference, temperature x 4", BLUE, "D", DASH_DOT),
    "bottom_stretched_2": Look("cosine, bottom stretched (k = -2)", RED, "v", DOTTED),
    "top_stretched_1": Look("cosine, top stretched (k = 1)", ORANGE, "2", DOTTED),
    "top_stretched_2": Look("cosine, top stretched (k = 2)", ORANGE, "^", DASHED),
    "top_stretched_4": Look("cosine, top stretched (k = 4)", ORANGE, "P", DASH_DOT),
    "preference_bottom_stretched_2": Look("preference, bottom stretched (k = -2)", BLUE, "v"),
    "preference_top_stretched_2": Look("preference, top stretched (k = 2)", BLUE, "^", DASHED),
    "cosine_auxiliary": Look("cosine, auxiliary positives", RED, "*", DASHED),
    "preference_auxiliary": Look("preference, auxiliary positives", BLUE, "*", DASHED),
    "n_def_3": Look("3 definitions", RED, "o"),
    "n_def_10": Look("10 definitions", RED, "o"),
    "pairs_3": Look("3 negatives, as pairs", RED, "s"),
    "pairs_5": Look("5 negatives, as pairs", RED, "s"),
    "plackett_luce_3": Look("3 negatives, Plackett-Luce", RED, "^"),
    "plackett_luce_5": Look("5 negatives, Plackett-Luce", RED, "^"),
    "no_warm_up": Look("no warm-up", RED, "x", DOTTED),
    "contrastive_warm_up": Look("contrastive warm-up", RED, "P", DASHED),
    "contrastive_window_100": Look("within 100 ranks, contrastive warm-up", ORANGE, "P", DASHED),
    "plackett_luce_5_window_100": Look("within 100 ranks, 5 negatives", ORANGE, "^", DASH_DOT),
    "fixed_32": Look("32 after the target", BROWN, "o", DOTTED),
    "shrinking_100_10": Look("after the target, 100 shrinking to 10", GREEN, "v", DASHED),
    "growing_10_100": Look("after the target, 10 growing to 100", PINK, "^", DASH_DOT),
    "drops_fixed_32": Look("32 from the first drop, cosine", RED, "v", DASHED),
    "stage 1 alone": Look("stage 1 alone", PINK, "*", DOTTED),
    "before warm-up": Look("before warm-up", GREY, "D", DOTTED),
    "after warm-up": Look("after warm-up", "black", "s", DASHED),
    "frozen encoder": Look("frozen encoder", "black", "x", DOTTED),
    "dress": Look("dress", RED, "o"),
    "shirt": Look("shirt", SKY, "s", DASHED),
    "toptee": Look("toptee", PINK, "^", DASH_DOT),
    "tops": Look("tops", RED, "o"),
    "bottoms": Look("bottoms", SKY, "s", DASHED),
    "outdoor": Look("outdoor", PINK, "^", DASH_DOT),
}
VERSIONS = {  # code's beginning -> what it adds to the name, and the line
    "strong_": (", strong start", DASH_DOT),
    "slow_": (", lower learning rate", DOTTED),
}


def find_look(code: str) -> Look | None:
    """The look of a code; None where it has none. A version looks like what it is a version of."""
    for beginning, (words, line) in VERSIONS.items():
        if code.startswith(beginning) and (look := LOOKS.get(code.removeprefix(beginning))):
            return replace(look, name=look.name + words, line=line)
    return LOOKS.get(code)


def plain_name(code: object) -> str:
    """A code in words, as figures and tables print it; what has no name is printed as it is."""
    look = find_look(str(code))
    return look.name if look else str(code)
