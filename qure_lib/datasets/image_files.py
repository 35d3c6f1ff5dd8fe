"""Find image files, and decode them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")  # of two files of one image, the earlier
FASHIONIQ_FOLDERS = ("images", "image_data", "resized_image")  # each, then the folders in it
SHARED = os.path.join(os.pardir, "images", "")  # of drawn data, whose other layouts use them too
# Suffix -> format. A file in another format is not read; its content decides, not its suffix. AVIF
# is here because web shops send it under .jpg addresses, EPS is not because it is a program.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF",
}  # fmt: skip


@dataclass(frozen=True)
class FoundImages:
    """Where images lie: `paths` by id, and which of them are `missing` (their path is a guess)."""

    paths: dict[str, Path]
    missing: frozenset[str]
    looked_in: str  # for messages

    def error(self, place: str) -> ValueError:
        """What to raise where none may be missing."""
        first = next(path for image_id, path in self.paths.items() if image_id in self.missing)
        return ValueError(
            f"{place}: {len(self.missing)} image files are missing, the first is {first} (looked "
            f"{self.looked_in}). Put them there, draw SynthFashion with `make data`, or leave out "
            "what needs them with allow_missing=True."
        )


def find_by_id(root: str | Path, files: Mapping[str, Path], ids: Iterable[str]) -> FoundImages:
    """Each of `ids` in the `files` that `list_fashioniq_images(root)` found."""
    home = Path(root, "images")
    paths = {i: files[i] if i in files else home / f"{i}.png" for i in ids}
    looked_in = f"for {', '.join(SUFFIXES)} in {', '.join(FASHIONIQ_FOLDERS)}, or a folder there"
    return FoundImages(paths, frozenset(i for i in paths if i not in files), looked_in)


def find_by_name(
    names: Mapping[str, str], root: str | Path, folders: Sequence[str], listed: Path
) -> FoundImages:
    """Each file that the list `listed` names (image id -> path) in the first folder that has it.

    Raises:
        ValueError: a path leads out of root, below which the folders are, and not into SHARED.
    """
    files_in = cache(lambda folder: frozenset(list_folder(folder)[0]))
    paths, missing = {}, set()
    for image_id, name in names.items():
        below = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
        places = [os.path.normpath(os.path.join(root, path)) for path in below if _is_inside(path)]
        if not places:
            raise ValueError(f"{listed}, {image_id!r}: {name!r} is outside {root}; correct it")
        split = ((place, *os.path.split(place)) for place in places)
        found = next((place for place, parent, file in split if file in files_in(parent)), None)
        paths[image_id] = Path(found or places[0])
        if found is None:
            missing.add(image_id)
    looked_in = f"below {', '.join(str(Path(root, folder)) for folder in folders)}"
    return FoundImages(paths, frozenset(missing), looked_in)


def _is_inside(path: str) -> bool:
    """Whether a normalised path leads below the folder that it starts in, or into SHARED."""
    outside = os.path.isabs(path) or path.split(os.sep)[0] == os.pardir
    return "\0" not in path and (not outside or path.startswith(SHARED))


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files and paths of the folders in a folder; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            kinds = [(entry.name, entry.is_file(), entry.is_dir()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error}); give read access to it") from error
    folders = sorted(os.path.join(folder, name) for name, _, is_folder in kinds if is_folder)
    return [name for name, is_file, _ in kinds if is_file], folders


def read_image(path: str | Path) -> Image.Image:
    """Decode an image file whole, in its original mode; ValueError, naming it, if that fails."""
    try:
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise ValueError(f"{path} cannot be decoded ({error}); get the file again") from error
