"""The published preprocessing in torchvision itself, run once, on drawn images of every mode.

    python tests/helpers/torchvision_reference.py > tests/data/torchvision_0.29.1.json

wrote what tests/datasets/test_preprocessing.py compares with, from torch 2.14.1, torchvision 0.29.1
and Pillow 13.0.0 in an environment of their own: the project's has no torchvision. The images need
no file and no random generator, so both sides decode the same bytes.
"""

import hashlib
import io
import json
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

SIZE = 224
LOSSLESS = {"WEBP": {"lossless": True}}
PROBES = ((0, 0), (17, 200), (112, 112), (223, 5))  # (row, column) of the pixels kept in the clear


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    """(height, width, channels) uint8 that looks random; bicubic overshoots on it everywhere."""
    n = np.arange(width * height * channels, dtype=np.uint64)
    values = (n * 2654435761 + n * n * 40503) >> 11
    return (values % 256).astype(np.uint8).reshape(height, width, channels)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(width, height))


def palette(width: int, height: int) -> Image.Image:
    """Indices of 256 colours; the first is not black, so a wrong padding shows."""
    image = Image.fromarray(noise(width, height, 1)[..., 0]).convert("P")
    image.putpalette(bytes(noise(256, 1).reshape(-1)))
    return image


def grey16(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(width, height, 2).copy().view("<u2")[..., 0])


def raw(mode: str, width: int, height: int) -> bytes:
    content = noise(width, height, len(Image.new(mode, (1, 1)).tobytes())).tobytes()
    return encode(Image.frombytes(mode, (width, height), content), "TIFF")


def turned(width: int, height: int, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(rgb(width, height), kind, exif=exif, **LOSSLESS.get(kind, {}))


# Square; the ratio just below, at and above 1.25; thin; sides of one pixel.
SIZES = (
    *((224, 224), (225, 223), (448, 448), (1, 1), (7, 5), (999, 1000)),
    *((100, 124), (100, 125), (100, 126), (125, 100), (800, 641), (800, 640), (800, 639)),
    *((333, 77), (77, 333), (3, 400), (400, 3), (1, 2), (2, 1), (1, 50), (50, 1), (5, 1000)),
)
SHAPES = ((61, 47), (53, 61), (33, 90), (90, 32), (300, 290))
MODES: dict[str, Callable[[int, int], bytes]] = {
    "L": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[..., 0])),
    "LA": lambda w, h: encode(Image.fromarray(noise(w, h, 2))),
    "RGBA": lambda w, h: encode(Image.fromarray(noise(w, h, 4))),
    "P": lambda w, h: encode(palette(w, h)),
    "P-one-clear": lambda w, h: encode(palette(w, h), transparency=3),
    "P-many-clear": lambda w, h: encode(palette(w, h), transparency=bytes(range(256))),
    "RGB-one-clear": lambda w, h: encode(rgb(w, h), transparency=(0, 0, 0)),
    "1": lambda w, h: encode(rgb(w, h).convert("1")),
    "I;16": lambda w, h: encode(grey16(w, h)),
    "CMYK": lambda w, h: raw("CMYK", w, h),
    "I": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[..., 0]).convert("I"), "TIFF"),
    "F": lambda w, h: encode(Image.fromarray(noise(w, h, 1)[..., 0]).convert("F"), "TIFF"),
    "I;16B": lambda w, h: raw("I;16B", w, h),
    "LAB": lambda w, h: raw("LAB", w, h),
    "YCbCr": lambda w, h: raw("YCbCr", w, h),
    "turned-3-PNG": lambda w, h: turned(w, h, 3, "PNG"),
    "turned-6-TIFF": lambda w, h: turned(w, h, 6, "TIFF"),
    "turned-5-WEBP": lambda w, h: turned(w, h, 5, "WEBP"),
}


def cases() -> dict[str, bytes]:
    """Name -> an image file's bytes."""
    drawn = {f"RGB {w}x{h}": encode(rgb(w, h)) for w, h in SIZES}
    return drawn | {f"{m} {w}x{h}": make(w, h) for m, make in MODES.items() for w, h in SHAPES}


def as_recorded(pixels: np.ndarray) -> dict[str, object]:
    """(3, SIZE, SIZE) float32 -> what is kept of it."""
    exact = np.ascontiguousarray(pixels, dtype="<f4")
    probes = [[float(v) for v in exact[:, row, column]] for row, column in PROBES]
    return {"sha256": hashlib.sha256(exact.tobytes()).hexdigest(), "probes": probes}


def main() -> None:
    import torchvision
    from torchvision.transforms import CenterCrop, InterpolationMode, Normalize, Resize, ToTensor
    from torchvision.transforms.functional import pad

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def transform(image: Image.Image) -> np.ndarray:
        width, height = image.size
        if max(width, height) / min(width, height) >= 1.25:
            scaled = max(width, height) / 1.25
            left, top = (max(int((scaled - side) / 2), 0) for side in image.size)
            image = pad(image, [left, top, left, top], 0, "constant")
        image = Resize(SIZE, InterpolationMode.BICUBIC, antialias=True)(image)
        image = CenterCrop(SIZE)(image).convert("RGB")
        return Normalize(mean, std)(ToTensor()(image)).numpy()

    results = {}
    for name, content in cases().items():
        try:
            results[name] = as_recorded(transform(Image.open(io.BytesIO(content))))
        except Exception as error:  # what it cannot take is a result too
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    versions = {"torchvision": torchvision.__version__, "pillow": Image.__version__}
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(r)}" for n, r in results.items())
    sys.stdout.write(f'{{"versions": {json.dumps(versions)}, "cases": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
