"""The lines along which a garment of SynthFashion is sewn.

Coordinates: x to the right from the garment's middle, y down from the neck, a unit of about 60
pixels.
"""

import math
from dataclasses import dataclass

import numpy as np

HEM = {  # y of the hem, pixels a unit
    "dress": {"short": (1.5, 64), "medium": (2.0, 54), "long": (2.6, 41.5)},
    "top": {"short": (0.88, 75), "medium": (1.24, 73), "long": (1.64, 61)},
}
SIDE = {  # half width of the garment's body at some y
    ("dress", "fitted"): ((0.46, 0.86, 1.22, 2.60), (0.39, 0.28, 0.40, 0.34)),
    ("dress", "loose"): ((0.46, 0.86, 1.22, 2.60), (0.39, 0.29, 0.53, 0.98)),
    ("top", "fitted"): ((0.46, 0.84, 1.24, 1.70), (0.39, 0.30, 0.39, 0.41)),
    ("top", "loose"): ((0.46, 0.84, 1.24, 1.70), (0.42, 0.44, 0.50, 0.58)),
}
NECK = {"round": (0.17, 0.20), "v": (0.18, 0.50), "square": (0.21, 0.28), "collar": (0.15, 0.13)}
CUFF = {  # middle and half width
    "short": np.array((0.57, 0.49, 0.135)),
    "long": np.array((0.63, 1.16, 0.085)),
}
CAP = np.array((0.555, 0.43, 0.138))  # of the shortest sleeve on a scale
WAIST = 0.86


def curve(*points: tuple[float, float], steps: int = 8) -> np.ndarray:
    """A smooth line through the points (Catmull-Rom), (n, 2)."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        b + ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.vstack([*pieces, p[-1:]])


def mirror(line: np.ndarray) -> np.ndarray:
    """The same line on the other side of the garment, in reverse order."""
    return line[::-1] * (-1, 1)


@dataclass(frozen=True)
class Sleeve:
    """The right sleeve."""

    outline: np.ndarray
    cuff: np.ndarray
    start: np.ndarray  # of its middle line
    along: np.ndarray  # unit vector from the shoulder to the cuff
    length: float
    width: float  # half width at the cuff


@dataclass(frozen=True)
class Cut:
    """The lines along which a garment is sewn; `armhole` and `sleeve` are those on the right."""

    category: str
    collar: bool
    side: tuple[tuple[float, ...], tuple[float, ...]]
    hem: np.ndarray
    neck: np.ndarray
    armhole: np.ndarray
    sleeve: Sleeve | None

    @property
    def body(self) -> np.ndarray:
        ys = np.linspace(0.47, self.hem[0][1], 14)
        right = np.vstack([self.armhole, np.column_stack([np.interp(ys, *self.side), ys])])
        return np.vstack([right, self.hem, mirror(right), self.neck])

    @property
    def edges(self) -> list[np.ndarray]:
        """The open edges of the cloth."""
        arm = self.sleeve.cuff if self.sleeve else self.armhole
        return [self.hem, arm, mirror(arm)] + [self.neck] * (not self.collar)

    @property
    def neck_y(self) -> float:
        return float(self.neck[:, 1].max())

    def half_width(self, y: float) -> float:
        return float(np.interp(y, *self.side))


def cut_garment(category: str, looks: dict[str, str], rng: np.random.Generator) -> Cut:
    """The lines of a garment with these attributes; lengths and widths vary by a few per cent."""
    kind = "dress" if category == "dress" else "top"
    long, wide, deep = 1 + (0.03, 0.04, 0.08) * (2 * rng.random(3) - 1)
    ys, xs = SIDE[kind, looks["fit"]]
    side = (ys, tuple(x * wide for x in xs))
    hem_y = HEM[kind][looks["length"]][0] * long
    hem_x = float(np.interp(hem_y, *side))
    dip = 0.10 if category == "shirt" else 0.05
    hem = curve((hem_x, hem_y), (hem_x / 2, hem_y + dip * 0.85), (0, hem_y + dip))

    neck = looks["neck"] if isinstance(looks["neck"], str) else "round"
    x, y = NECK[neck] * np.array((1, deep))
    if neck != looks["neck"]:
        y = 0.08 + 0.52 * looks["neck"]
    left = {
        "round": curve((-x, 0), (-0.8 * x, 0.62 * y), (-0.4 * x, 0.93 * y), (0, y)),
        "v": np.array([(-x, 0), (-0.6 * x, 0.45 * y), (0, y)]),
        "square": np.array([(-x, 0), (-0.95 * x, y), (0, y)]),
        "collar": curve((-x, 0), (-0.7 * x, 0.7 * y), (0, y)),
    }[neck]
    pit = (float(np.interp(0.47, *side)), 0.47)
    if looks["sleeve"] == "sleeveless":
        armhole = curve((0.31, 0.05), (0.285, 0.22), (0.315, 0.38), pit)
        sleeve = None
    else:
        armhole = curve((0.42, 0.10), (pit[0] + 0.005, 0.28), pit)
        sleeve = _cut_sleeve(looks, pit, 0.04 * (2 * rng.random() - 1))
    lines = np.vstack([hem, mirror(hem)]), np.vstack([left, mirror(left)])
    return Cut(category, looks["neck"] == "collar", side, *lines, armhole, sleeve)


def _cut_sleeve(looks: dict[str, str], pit: tuple[float, float], swing: float) -> Sleeve:
    """Draw the right sleeve from the shoulder to the cuff and back to the armpit."""
    shape = looks["sleeve"]
    x, y, width = CUFF[shape] if isinstance(shape, str) else CAP + shape * (CUFF["long"] - CAP)
    width += 0.025 * (looks["fit"] == "loose")
    shoulder, start = np.array((0.42, 0.10)), np.array((pit[0] - 0.05, 0.25))
    end = np.array((x + pit[0] - 0.39 + swing, y))
    length = math.dist(start, end)
    along = (end - start) / length
    out = np.array((along[1], -along[0]))
    cuff = np.array([end + out * width, end - out * width])
    top = curve(shoulder, shoulder + (0.07, 0.06), (shoulder + cuff[0]) / 2 + out * 0.035, cuff[0])
    under = curve(cuff[1], (cuff[1] + pit) / 2 - out * 0.01, (pit[0], 0.48))
    outline = np.vstack([top, under, [(0.2, 0.4), (0.2, 0.1)]])
    return Sleeve(outline, cuff, start, along, length, width)
