"""Look at image files on all cores: missing, empty, truncated, undecodable, or no image at all.

`qure_lib.datasets.image_files.FORMATS` says which formats are decoded, here and in training.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data_prep.download import answered_instead
from qure_lib.datasets.image_files import FORMATS

HARMLESS = "is "  # how a note begins: the image is read as the release reads it
# Pillow's modes whose pixels the published preprocessing clips to 0-255.
CLIPPED = {f"I;16{order}": "16-bit greyscale" for order in ("", "B", "L", "N")}
CLIPPED |= {"I": "32-bit integer", "F": "32-bit float"}
CHUNK = 64  # files a worker takes at once
Look = Callable[[str], str]


def look_at(path: str) -> str:
    """What is wrong with an image file, "" for nothing. Decodes all of it.

    Another format than the suffix says, and pixels that are clipped, are notes (`HARMLESS`).
    """
    try:
        if os.stat(path).st_size == 0:
            return "empty (0 bytes)"
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            image.load()
            found = {"MPO": "JPEG"}.get(image.format, image.format)
    except FileNotFoundError:
        return "missing"
    except UnidentifiedImageError:
        instead = answered_instead(path)
        return f"{instead}, not an image" if instead else "not an image"
    except Image.DecompressionBombError:
        return "absurdly large"
    except Exception as error:  # decoders raise errors of any type on damaged files
        return f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})"
    notes = []
    if FORMATS.get(os.path.splitext(path)[1].lower()) != found:
        notes.append(f"{'an' if found == 'AVIF' else 'a'} {found} by its content")
    if image.mode in CLIPPED:
        notes.append(f"{CLIPPED[image.mode]}, clipped to 0-255 (what is above becomes white)")
    return f"{HARMLESS}{' and '.join(notes)}" if notes else ""


def look_at_all(
    paths: Sequence[str], workers: int | None = None, look: Look = look_at
) -> dict[str, str]:
    """Look at many files at once.

    A file that kills the worker that decodes it is named, and all others are looked at.

    Args:
        workers: processes; None for one a core.

    Returns:
        Path -> what is wrong with the file, where something is.
    """
    problems: dict[str, str] = {}
    workers = min(workers or os.cpu_count() or 1, max(1, len(paths) // CHUNK))
    waiting = deque(paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
    with tqdm(total=len(paths), desc="images", unit="file", mininterval=1.0) as bar:

        def finish(chunk: Sequence[str], found: list[str]) -> None:
            problems.update({path: text for path, text in zip(chunk, found, strict=True) if text})
            bar.update(len(chunk))

        while waiting:
            suspects = _work(waiting, workers, look, finish)
            singly = deque([path] for chunk in suspects for path in chunk)
            while singly:
                for chunk in _work(singly, 1, look, finish):
                    finish(chunk, ["kills the process that decodes it"])
    return problems


def _work(
    waiting: deque[Sequence[str]],
    workers: int,
    look: Look,
    finish: Callable[[Sequence[str], list[str]], None],
) -> list[Sequence[str]]:
    """Look until nothing waits or a worker dies; return the chunks that were under way then."""
    under_way: dict[Future, Sequence[str]] = {}
    ahead = workers * 2 if workers > 1 else 1
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < ahead:
                    under_way[pool.submit(_look_at_each, look, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    finish(under_way[future], future.result())
                    del under_way[future]
        except BrokenProcessPool:
            pass
    return list(under_way.values())


def _look_at_each(look: Look, paths: Sequence[str]) -> list[str]:
    return [look(path) for path in paths]
