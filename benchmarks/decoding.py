"""Would another JPEG decoder prepare images faster than Pillow, and would it change any pixel?

    OMP_NUM_THREADS=1 python benchmarks/decoding.py            (48 files of each size)
    OMP_NUM_THREADS=1 python benchmarks/decoding.py --reduced  (16)

The files are drawn, with noise that makes them as large as photographs; one in eight is progressive
and one in eight has chroma at full resolution. The transform is the published preprocessing. The
decoders take turns on the same files. The project needs none of them but Pillow; one that is not
installed is named and has no rows.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
from common import parser, write_rows
from PIL import Image

from data_prep.stand_in import draw
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.pixels import CLIP_STD

SIZES = {"500x375": ((500, 375), (375, 500)), "640x480": ((640, 480), (480, 640))}
NOISE = 6  # standard deviation in grey levels; gives about 50 KB at 500x375 and quality 90
INPUT_SIZE = 224  # sides of the model's input
Decoder = Callable[[Path], Image.Image | np.ndarray]


def draw_files(folder: Path, shapes: tuple[tuple[int, int], ...], count: int) -> list[Path]:
    """Write so many noisy drawings as JPEG files of quality 90."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.asarray(draw(f"photo-{number}", shapes))
        noisy = pixels + np.random.default_rng(number).normal(0, NOISE, pixels.shape)
        image = Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
        chroma = "4:4:4" if number % 8 == 1 else "4:2:0"
        image.save(path, quality=90, subsampling=chroma, progressive=number % 8 == 0)
    return paths


def decode_by_draft(path: Path) -> Image.Image:
    """Pillow's decoding at the smallest of 1/1, 1/2, 1/4, 1/8 that covers the model's input."""
    with Image.open(path) as image:
        image.draft(image.mode, (INPUT_SIZE, INPUT_SIZE))
        image.load()
        return image


def decode_by_simplejpeg(path: Path) -> np.ndarray:
    library, data = import_module("simplejpeg"), path.read_bytes()
    grey = library.decode_jpeg_header(data)[2] == "Gray"
    return library.decode_jpeg(data, "GRAY")[:, :, 0] if grey else library.decode_jpeg(data)


def decode_by_pyvips(path: Path) -> np.ndarray:
    read = import_module("pyvips").Image.new_from_buffer
    return read(path.read_bytes(), "", access="sequential").numpy()


LIBRARIES = {  # module -> decoder
    "simplejpeg": decode_by_simplejpeg,
    "pyvips": decode_by_pyvips,
}


def find_decoders() -> dict[str, Decoder]:
    """Pillow's two ways, then each library that can be imported; the others are named."""
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # pyvips's threads
    found = {"Pillow": read_image, "Pillow draft": decode_by_draft}
    for name, decode in LIBRARIES.items():
        try:
            import_module(name)
            found[name] = decode
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            print(f"{name}: not installed ({error.__cause__ or error})")
    return found


def make_prepare(decode: Decoder) -> Callable:
    """Decoding and the published preprocessing, as one call."""
    transform = image_transform(INPUT_SIZE)

    def prepare(path: Path):
        image = decode(path)
        return transform(image if isinstance(image, Image.Image) else Image.fromarray(image))

    return prepare


def race(works: Mapping[str, Callable], files: Sequence[Path], rounds: int) -> pd.DataFrame:
    """Images/s of each work (column) in each round (row), after one round that is not counted."""

    def rate(work: Callable) -> float:
        start = time.perf_counter()
        for path in files:
            work(path)
        return len(files) / (time.perf_counter() - start)

    rates = [{name: rate(work) for name, work in works.items()} for _ in range(rounds + 1)]
    return pd.DataFrame(rates[1:])


def compare(decode: Decoder, files: Sequence[Path]) -> dict[str, tuple[float, str]]:
    """How many images differ from Pillow's, and by how much at most as decoded and as input."""
    prepares, decoded, inputs = (make_prepare(decode), make_prepare(read_image)), [], []
    for path in files:
        own, pillow = (np.asarray(way(path)).astype(int) for way in (decode, read_image))
        decoded.append(abs(own - pillow).max() if own.shape == pillow.shape else np.nan)
        own, pillow = (prepare(path).numpy() for prepare in prepares)
        inputs.append((abs(own - pillow).max((1, 2)) * np.array(CLIP_STD)).max() * 255)
    return {  # NaN, an image of another size, counts as another pixel
        "images with another pixel": (100 * np.count_nonzero(decoded) / len(files), "%"),
        "largest difference, decoded": (np.max(decoded), "grey levels"),
        "largest difference, input": (np.max(inputs), "grey levels"),
    }


def measure(decoders: Mapping[str, Decoder], files: Sequence[Path], rounds: int) -> list[dict]:
    """Rows of each decoder: images/s, and except for Pillow, how it compares with Pillow."""
    decoding = race(decoders, files, rounds)
    both = race({name: make_prepare(way) for name, way in decoders.items()}, files, rounds)
    rows = []
    for name, decode in decoders.items():
        found = {}
        for part, rates in {"decoding": decoding, "decoding + transform": both}.items():
            found[part] = rates[name].median(), "images/s"
            found[f"{part}, times as fast"] = (rates[name] / rates["Pillow"]).median(), "ratio"
        found |= compare(decode, files)
        for what, (value, unit) in found.items():
            if name != "Pillow" or unit == "images/s":
                rows.append({"what": f"{name}: {what}", "value": value, "unit": unit})
    return rows


def main() -> None:
    options = parser(__doc__).parse_args()
    count, rounds = (16, 3) if options.reduced else (48, 11)
    decoders, rows = find_decoders(), []
    with tempfile.TemporaryDirectory() as folder:
        for size, shapes in SIZES.items():
            files = draw_files(Path(folder, size), shapes, count)
            kilobytes = sum(path.stat().st_size for path in files) / count / 1000
            label = f"{count} files of {size}, {kilobytes:.0f} KB"
            rows += [row | {"size": label} for row in measure(decoders, files, rounds)]
    write_rows(rows, options.out, "decoding")


if __name__ == "__main__":
    main()
