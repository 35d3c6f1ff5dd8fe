"""Draw one garment of SynthFashion as a small product photograph, or as a flat drawing.

Outlines (garment_cut.py) are filled with Pillow at FINE times the size; cloth, folds and light are
smooth NumPy functions of garment coordinates. Sines and roots are computed in float64 and stored as
float32, so that last-bit differences between machines do not change the 8-bit pixels.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.garment_cut import HEM, WAIST, Cut, Sleeve, curve, cut_garment, mirror

Garment = dict[str, str | float]  # attribute -> value
PIXELS, FINE = 128, 4
RGB = {
    "black": (50, 50, 56), "white": (246, 245, 241), "grey": (146, 149, 154),
    "red": (198, 30, 44), "pink": (245, 152, 188), "orange": (242, 126, 32),
    "yellow": (248, 210, 62), "green": (42, 132, 72), "blue": (38, 84, 190),
    "purple": (118, 60, 160),
}  # fmt: skip
DRAWN = {  # paints of the flat drawing
    "black": (24, 24, 30), "white": (255, 255, 255), "grey": (168, 172, 178),
    "red": (226, 62, 72), "pink": (255, 178, 208), "orange": (255, 156, 40),
    "yellow": (255, 226, 98), "green": (84, 184, 128), "blue": (72, 142, 240),
    "purple": (158, 84, 222),
}  # fmt: skip
PAPERS = ((255, 244, 222), (222, 240, 246), (232, 246, 226), (246, 230, 242))
INK = (30, 26, 40)
STYLES = ("photograph", "drawing")
PALE = ("white", "pink", "yellow")  # their second colour is dark
LIGHT, DARK, GOLD, LEATHER = (246, 242, 232), (38, 40, 60), (236, 190, 70), (118, 70, 36)
BLOOMS = ((206, 48, 60), (70, 90, 190), (150, 60, 150))  # flowers on pale cloth
PRINTS = ((216, 52, 52), (240, 178, 44), (38, 128, 150))


def draw_garment(
    category: str, looks: dict[str, str], rng: np.random.Generator, style: str = "photograph"
) -> np.ndarray:
    """Draw one garment before a plain background.

    Args:
        category: "dress", "shirt" or "toptee".
        looks: colour, pattern, sleeve, neck, length, fit, detail and trim. Colour, sleeve and neck
            may be numbers in [0, 1] instead: hue, length of the sleeves, depth of the neckline.
        rng: draws what is no attribute: place, scale, angle, light, shade, folds, background.
        style: one of STYLES; a "drawing" has other paints, outlines, and neither light nor folds.

    Returns:
        (128, 128, 3) uint8, sRGB.
    """
    cut = cut_garment(category, looks, rng)
    view = _view(cut, looks, rng)
    paints = RGB if style == "photograph" else DRAWN
    base = _dye(_paint(looks["colour"], paints), rng)
    second = _dye(DARK if looks["colour"] in PALE else LIGHT, rng)
    cloth = _cloth(cut, view, looks, (base, second), rng)
    if style == "drawing":
        cloth.shade[:] = 1
    trim = second if looks["trim"] == "contrast" else None
    if trim is not None:
        cloth.lay(view.line(0.13, *cut.edges) * cloth.mask, trim)
    _sew(cut, cloth, second)
    if cut.collar:
        _add_collar(cloth, trim)
    _add_detail(looks["detail"], cut, cloth, (base, second), rng)
    finish = _photograph if style == "photograph" else _illustrate
    return finish(cut, cloth, base, rng)


# ---------------------------------------------------------------- lines


def _star(x: float, y: float, radius: float, points: int = 5, inner: float = 0.45) -> np.ndarray:
    turn = np.arange(2 * points) * math.pi / points - math.pi / 2
    r = radius * np.where(np.arange(2 * points) % 2, inner, 1)
    return np.column_stack([x + r * np.cos(turn), y + r * np.sin(turn)])


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    return _star(x, y, radius, 10, 1)


@dataclass(frozen=True)
class _View:
    """Where and how large the garment lies in the picture, and where the light comes from."""

    scale: float  # pixels a unit
    angle: float  # radians
    middle: tuple[float, float]  # garment point at the centre of the picture
    light: float  # -1 from the left ... 1 from the right

    def _turn(self, x: np.ndarray, y: np.ndarray, way: int) -> tuple[np.ndarray, np.ndarray]:
        c, s = math.cos(self.angle), way * math.sin(self.angle)
        return c * x - s * y, s * x + c * y

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Garment coordinates of every pixel, two (H, W) arrays."""
        y, x = (np.mgrid[:PIXELS, :PIXELS] + 0.5 - PIXELS / 2) / self.scale
        x, y = self._turn(x, y, -1)
        return x + self.middle[0], y + self.middle[1]

    def _pixels(self, line: np.ndarray) -> list[tuple[float, float]]:
        x, y = self._turn(*((line - self.middle) * self.scale).T, 1)
        return list(((np.column_stack([x, y]) + PIXELS / 2) * FINE).ravel().tolist())

    def _mask(self, draw: Callable[[ImageDraw.ImageDraw], object]) -> np.ndarray:
        sheet = Image.new("L", (PIXELS * FINE, PIXELS * FINE))
        draw(ImageDraw.Draw(sheet))
        return np.asarray(sheet.reduce(FINE), np.float32) / 255

    def fill(self, *polygons: np.ndarray) -> np.ndarray:
        """Coverage of the polygons, (H, W) in [0, 1]."""
        return self._mask(lambda sheet: [sheet.polygon(self._pixels(p), 255) for p in polygons])

    def line(self, width: float, *lines: np.ndarray) -> np.ndarray:
        """Coverage of lines of this width (garment units), (H, W) in [0, 1]."""
        w = max(2, round(width * self.scale * FINE))
        return self._mask(
            lambda sheet: [sheet.line(self._pixels(p), 255, w, "curve") for p in lines]
        )


def _view(cut: Cut, looks: dict[str, str], rng: np.random.Generator) -> _View:
    """Place the garment near the middle of the picture."""
    scale = HEM["dress" if cut.category == "dress" else "top"][looks["length"]][1]
    bottom = float(cut.hem[:, 1].max())
    if cut.sleeve and cut.sleeve.length > 0.6 and cut.category != "dress":
        scale, bottom = scale * 0.92, max(bottom, 1.2)
    size, angle, x, y, light = 2 * rng.random(5) - 1
    middle = (0.06 * x, bottom / 2 + 0.05 * y)
    return _View(scale * (1 + 0.06 * size), 0.05 * angle, middle, 0.9 * light)


# ---------------------------------------------------------------- cloth


@dataclass
class _Cloth:
    """The picture of a garment while it is drawn."""

    view: _View
    mask: np.ndarray  # (H, W)
    colour: np.ndarray  # (H, W, 3), before light
    shade: np.ndarray  # (H, W)

    def lay(self, mask: np.ndarray, rgb: np.ndarray, shadow: float = 0.0) -> None:
        """Lay a piece of one colour on the cloth; `shadow` is the depth of the shadow around it."""
        if shadow:
            self.shade *= 1 - shadow * _blur(mask, 1.5) * (1 - mask)
        on = mask > 0
        self.colour[on] += mask[on][:, None] * (np.asarray(rgb, np.float32) - self.colour[on])


def _blur(mask: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _paint(colour: str | float, paints: dict) -> tuple[float, float, float]:
    """The colour that `paints` names, or the colour of a hue in [0, 1)."""
    if isinstance(colour, str):
        return paints[colour]
    return tuple(255 * c for c in colorsys.hsv_to_rgb(colour, 0.75, 0.84))


def _dye(rgb: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A colour in [0, 1] with a little variation of shade."""
    dye = np.array(rgb) / 255 * (1 + 0.10 * (rng.random() - 0.5)) + 0.04 * (rng.random(3) - 0.5)
    return np.clip(dye, 0, 1).astype(np.float32)


def _cloth(
    cut: Cut, view: _View, looks: dict[str, str], dyes: tuple, rng: np.random.Generator
) -> _Cloth:
    """Draw the body over the sleeves, with pattern and shade, without seams."""
    x, y = view.grid
    body = mask = view.fill(cut.body)
    if cut.sleeve:
        mask = np.maximum(body, view.fill(cut.sleeve.outline, cut.sleeve.outline * (-1, 1)))
    on, on_body = mask > 0, body > 0.5 * (cut.sleeve is not None)
    across, down, shade = np.zeros((3, *mask.shape))
    values = _body_cloth(cut, view, looks, (x[on_body], y[on_body]), rng)
    across[on_body], down[on_body], shade[on_body] = values
    if cut.sleeve:
        rest = on & ~on_body
        across[rest], down[rest], light = _sleeve_cloth(cut.sleeve, view, (x[rest], y[rest]), rng)
        shade[rest] = light * (1 - 0.3 * _blur(body, 2.5)[rest])
    shade[on] *= 1 + 0.05 * (rng.random() - 0.5) + 0.03 * (rng.random(on.sum()) - 0.5)

    base, second = dyes
    if looks["pattern"] == "floral" and looks["colour"] in PALE:
        second = _dye(BLOOMS[rng.integers(3)], rng)
    colour = np.tile(base, (*mask.shape, 1))
    pattern = _pattern(looks["pattern"], across[on], down[on], view.scale, rng)
    for cover, dye in zip(pattern, (second, np.array(GOLD) / 255), strict=False):
        colour[on] += cover[:, None] * (dye - colour[on])
    return _Cloth(view, mask, colour, shade.astype(np.float32))


def _body_cloth(
    cut: Cut, view: _View, looks: dict[str, str], at: tuple, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cloth coordinates (across, down) and shade of the body at some pixels, each (pixels,)."""
    x, y = at
    half = np.maximum(np.interp(y, *cut.side), 0.1)
    s = np.clip(x / half, -1, 1)  # -1 and 1 at the side seams
    shade = 0.74 + 0.30 * np.sqrt(1 - 0.88 * s**2) + 0.13 * view.light * s
    shade += _folds(cut, looks, s, y, rng)
    return half * np.arcsin(0.95 * s) * 0.85, y - 0.045 * s**2, shade


def _sleeve_cloth(
    sleeve: Sleeve, view: _View, at: tuple, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cloth coordinates (across, along) and shade of both sleeves, as `_body_cloth`."""
    x, y = at
    dx, dy = abs(x) - sleeve.start[0], y - sleeve.start[1]
    along = dx * sleeve.along[0] + dy * sleeve.along[1]
    across = dx * sleeve.along[1] - dy * sleeve.along[0]
    s = np.clip(across / np.interp(along, (0, sleeve.length), (0.19, sleeve.width)), -1, 1)
    shade = 0.70 + 0.29 * np.sqrt(1 - 0.85 * s**2) + 0.12 * view.light * np.sign(x) * s
    f = rng.random(3)
    shade += 0.07 * np.clip(2 * along, 0, 1) * np.sin((9 + 5 * f[0]) * along + 3 * s + 6 * f[1])
    return across * np.sign(x), along + 0.02 * f[2], shade


def _folds(
    cut: Cut, looks: dict[str, str], s: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Shade of the folds: vertical ones in a loose garment, horizontal ones in a fitted one."""
    f = rng.random(6)
    if looks["fit"] == "loose":
        start, depth = (WAIST, 0.20) if cut.category == "dress" else (0.30, 0.10)
        turn = (8 + 5 * f[0]) * s + 1.5 * np.sin(2 * s + 6 * f[1]) + 6 * f[2]
        return depth * np.clip(1.2 * (y - start), 0, 1) * np.sin(turn + 0.6 * np.sin(turn))
    near = 1 / (1 + ((y - WAIST) / 0.25) ** 2)
    drag = 0.07 * near * np.sin(13 * y + 4 * abs(s) + 1.5 * s + 6 * f[3])
    return drag + 0.05 * np.sin(4 * s + (2 + 2 * f[4]) * y + 6 * f[5])


def _pattern(
    kind: str, x: np.ndarray, y: np.ndarray, scale: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Coverage in [0, 1] of the second and third colour at cloth coordinates, each (pixels,)."""
    if kind == "plain":
        return []
    size, duty, dx, dy = rng.random(4)
    period = {"striped": 0.17, "checked": 0.22, "dotted": 0.19, "floral": 0.31}[kind]
    period *= 0.9 + 0.25 * size
    u, v = (x + dx) / period, (y + dy) / period

    def soft(inside: np.ndarray) -> np.ndarray:  # an edge one pixel wide
        return np.clip(inside * period * scale + 0.5, 0, 1)

    if kind == "striped":
        return [soft(0.2 + 0.05 * duty - abs(v % 1 - 0.5))]
    if kind == "checked":
        return [0.4 * (soft(0.22 - abs(u % 1 - 0.5)) + soft(0.22 - abs(v % 1 - 0.5)))]
    u = u + 0.5 * (np.floor(v) % 2)
    a, b = u % 1 - 0.5, v % 1 - 0.5
    if kind == "dotted":
        return [soft(0.27 + 0.03 * duty - np.sqrt(a * a + b * b))]
    cell = np.floor(u).astype(int) % 32, np.floor(v).astype(int) % 32
    shift = rng.random((3, 32, 32)) - 0.5
    a, b = a + 0.2 * shift[0][cell], b + 0.2 * shift[1][cell]
    r, turn = np.sqrt(a * a + b * b), np.arctan2(b, a) + 6 * shift[2][cell]
    return [soft(0.31 + 0.10 * np.cos(5 * turn) - r), soft(0.13 - r)]


# ---------------------------------------------------------------- what is sewn on


def _sew(cut: Cut, cloth: _Cloth, second: np.ndarray) -> None:
    """Draw seams, waist, placket and buttons."""
    view, bottom = cloth.view, float(cut.hem[:, 1].max())
    lines = [cut.hem - (0, 0.055)]
    if cut.sleeve:
        cuff = cut.sleeve.cuff - 0.05 * cut.sleeve.along
        lines += [cut.armhole, mirror(cut.armhole), cuff, mirror(cuff)]
    if cut.category == "dress":
        w = cut.half_width(WAIST)
        lines += [curve((-w, WAIST - 0.01), (0, WAIST + 0.02), (w, WAIST - 0.01))]
    if cut.category == "shirt":
        lines += [np.array([(x, cut.neck_y - 0.02), (x, bottom)]) for x in (-0.05, 0.05)]
    cloth.shade *= 1 - 0.33 * view.line(0.016, *lines)
    if cut.category == "shirt" or cut.collar:
        last = bottom - 0.08 if cut.category == "shirt" else 0.62
        ys = np.arange(cut.neck_y + 0.09, last, 0.17)
        cloth.lay(view.fill(*[_disc(0, y, 0.028) for y in ys]), second, 0.6)


def _add_collar(cloth: _Cloth, trim: np.ndarray | None) -> None:
    """A pointed collar, in the colour of the trim if there is one."""
    flap = np.array([(0.0, 0.13), (0.15, -0.06), (0.22, 0.03), (0.205, 0.27)])
    piece = cloth.view.fill(flap, flap * (-1, 1))
    if trim is not None:
        cloth.lay(piece, trim)
    cloth.shade += piece * (0.98 - cloth.shade)
    cloth.shade *= 1 - 0.8 * _blur(piece, 1.5) * (1 - piece)
    cloth.shade *= 1 - 0.4 * cloth.view.line(0.016, flap[2:], mirror(flap[2:]))
    cloth.mask = np.maximum(cloth.mask, piece)


def _add_detail(
    detail: str, cut: Cut, cloth: _Cloth, dyes: tuple, rng: np.random.Generator
) -> None:
    """A belt, a bow, a pocket or a graphic."""
    view, (base, second) = cloth.view, dyes
    if detail == "belt":
        w = cut.half_width(WAIST) + 0.01
        upper = curve((-w, WAIST - 0.06), (0, WAIST - 0.03), (w, WAIST - 0.06))
        band = view.fill(np.vstack([upper, upper[::-1] + (0, 0.11)]))
        frame = np.array(
            [(-0.07, -0.05), (0.07, -0.05), (0.07, 0.10), (-0.07, 0.10), (-0.07, -0.05)]
        )
        leather = DARK if base[0] > 1.5 * base[2] else LEATHER  # on red, orange and yellow
        cloth.lay(band, _dye(leather, rng), 0.8)
        cloth.lay(view.line(0.03, frame + (0, WAIST)), np.array(GOLD) / 255, 0.4)
        cloth.mask = np.maximum(cloth.mask, band)
    if detail == "bow":
        middle = np.array((0, WAIST + 0.02 if cut.category == "dress" else cut.neck_y + 0.10))
        wing = curve((0, 0), (0.14, -0.11), (0.22, -0.09), (0.20, 0.08), (0.12, 0.08), (0, 0))
        tail = np.array([(0.0, 0.0), (0.06, 0.30), (0.12, 0.25), (0.17, 0.27)])
        for piece, shade in ((tail, 0.85), (wing, 1.0)):
            cloth.lay(view.fill(piece + middle, piece * (-1, 1) + middle), second * shade, 0.7)
        cloth.lay(view.fill(_disc(*middle, 0.05)), second * 0.8, 0.8)
    if detail == "pocket":
        box = np.array([(0.09, 0.42), (0.31, 0.42), (0.31, 0.62), (0.20, 0.69), (0.09, 0.62)])
        cloth.lay(view.fill(box), base * 0.72 if base.mean() > 0.3 else base + 0.2, 0.9)
        cloth.lay(view.line(0.045, box[:2] + (0, 0.02)), second, 0.3)
    if detail == "graphic":
        y, r = max(0.56, cut.neck_y + 0.2), 0.21 + 0.03 * rng.random()
        white, ink = base.mean() < 0.75, np.array(PRINTS[rng.integers(3)]) / 255
        art = [_star(0, y, r * 0.9), _disc(0, y, r * 0.55), _star(0, y, r * 0.9, 8, 0.6)][
            rng.integers(3)
        ]
        cloth.lay(view.fill(_disc(0, y, r * 1.25)), base)
        cloth.lay(view.fill(_disc(0, y, r * 1.1)), np.array(LIGHT if white else DARK) / 255)
        cloth.lay(view.fill(art), ink)


def _photograph(cut: Cut, cloth: _Cloth, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay the garment, with the inside of its back, on a background with a soft shadow."""
    view, mask = cloth.view, cloth.mask
    x, y = view.grid
    back = curve((-cut.neck[0][0], 0), (0, 0.05), (cut.neck[0][0], 0))
    inside = view.fill(np.vstack([cut.neck, back]))
    rim = np.clip(2 * _blur(mask, 3) - 0.75, 0, 1)  # edges turn away from the light
    shade = cloth.shade * (0.66 + 0.36 * rim) * mask
    lining = base + 0.4 if base.mean() < 0.3 else base  # black is lined with grey
    inner = (0.46 + 0.8 * np.clip(y, 0, 0.35)) * (1 - mask)
    piece = cloth.colour * shade[..., None] + lining * inner.astype(np.float32)[..., None]
    silhouette = np.minimum(mask + inside, 1)  # they share an edge

    tint = 0.85 + 0.08 * rng.random() + 0.035 * (rng.random(3) - 0.5)
    ramp = 1.04 - 0.02 * (y - view.middle[1]) ** 2 - 0.04 * x**2 + 0.03 * view.light * x
    drop = np.zeros_like(mask)
    drop[4:] = np.roll(_blur(silhouette, 5), round(-5 * view.light), axis=1)[:-4]
    ground = (ramp * (1 - 0.34 * drop)).astype(np.float32)[..., None] * tint.astype(np.float32)
    ground += silhouette[..., None] * (piece - ground)
    return np.rint(np.clip(ground, 0, 1) * 255).astype(np.uint8)


def _illustrate(cut: Cut, cloth: _Cloth, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay the flat garment, with dark seams, on coloured paper and draw its edges in ink."""
    view, mask = cloth.view, cloth.mask[..., None]
    back = curve((-cut.neck[0][0], 0), (0, 0.05), (cut.neck[0][0], 0))
    inside = view.fill(np.vstack([cut.neck, back]))[..., None] * (1 - mask)
    paper = np.array(PAPERS[rng.integers(len(PAPERS))]) / 255 - 0.04 * rng.random(3)
    picture = np.tile(paper.astype(np.float32), (*cloth.mask.shape, 1))
    picture += inside * (0.6 * base - picture)
    seams = np.clip(cloth.shade, 0.45, 1)[..., None]
    picture += mask * (cloth.colour * seams - picture)
    closed = np.vstack([cut.body, cut.body[:1]])
    lines = [closed, back]
    if cut.sleeve:
        arm = cut.sleeve.outline[:-2]
        lines += [arm, arm * (-1, 1)]
    ink = view.line(0.028 + 0.008 * rng.random(), *lines)[..., None]
    picture += ink * (np.array(INK) / 255 - picture)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
