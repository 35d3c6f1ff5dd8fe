"""The colour of a photographed garment, as one of twelve names."""

import numpy as np
from PIL import Image

ANY = (-np.inf, np.inf)
COLOURS = (  # name, hue (degrees in CIELAB, -95 to 265), lightness, chroma; the first match counts
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
GRID = 40  # pixels a side; a colour needs no more


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
    """The most frequent colour name in the middle of a picture.

    Pixels that look like the edge of the picture count little: photographs show one garment in the
    middle of a background.
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
