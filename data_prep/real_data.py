"""What the scripts of the real data sets share: fetch annotations, check files, unpack archives.

annotations.csv pins every annotation file to a commit, a size and a SHA-256; known_counts.csv says
what must hold of them. Images are nobody's to hand on, so they are checked but not fetched.
"""

import argparse
import csv
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_prep.archives import unpack
from data_prep.download import Source, download, is_right
from data_prep.image_check import HARMLESS, look_at_all
from qure_lib.files import replacing

HERE = Path(__file__).parent
LARGEST = 32 * 2**20  # bytes of a file whose size is not pinned
CAUSES = """\
Usual causes of missing images: addresses that no longer answer, copies that never had all files,
and a folder or a layout that is none of those in qure_lib/layouts.py (images/{id}.png against
image_data/{category}/{id}.jpg). Empty files and web pages: a download that did not look at the
server's answer. Truncated: a download or an unpacking that broke off. `allow_missing=True` lets the
loaders leave out what is missing, and says by how much that changes the protocol."""


class Problem(NamedTuple):
    """A row of check.csv. `image` is an id, "" where it is about none; `part` its split."""

    image: str
    part: str
    file: str
    problem: str


class PinnedFile(NamedTuple):
    """A row of annotations.csv: where a file goes and where it is from."""

    path: str  # below the data set's root and below home
    source: Source
    about: str  # repository, commit, and its licence as stated there


@dataclass(frozen=True)
class RealData:
    """What is particular about one real data set.

    counters: each counts some of `known` from the annotations below a root.
    images: (root, split) -> part -> image id -> path, of all images that the annotations name.
    archives: folder below the root that archives are unpacked into.
    validate: raises ValueError unless the files that have no pinned checksum are right.
    """

    script: str
    key: str  # the name of its folder
    name: str
    about_images: str
    known: dict[str, int]
    counters: tuple[Callable[[Path], dict[str, int]], ...]
    splits: tuple[str, ...]
    images: Callable[[Path, str], dict[str, dict[str, Path]]]
    archives: str = ""
    validate: Callable[[Path], None] | None = None


def read_pins(key: str, home: str | None = None) -> list[PinnedFile]:
    """The annotation files of a data set; home replaces the repository's address."""
    pins = []
    for row in _read_rows("annotations.csv", key):
        size = int(row["bytes"]) if row["bytes"] else None
        url = f"{(home or row['home']).rstrip('/')}/{row['path']}"
        source = Source(url, row["sha256"] or None, size, LARGEST)
        pins.append(PinnedFile(row["path"], source, row["about"]))
    return pins


def read_known(key: str) -> dict[str, int]:
    """Quantity -> count, as its source in known_counts.csv has it."""
    return {row["quantity"]: int(row["count"]) for row in _read_rows("known_counts.csv", key)}


def _read_rows(name: str, key: str) -> list[dict[str, str]]:
    with open(HERE / name, encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["set"] == key]


# ---------------------------------------------------------------- fetch


def fetch(data: RealData, root: str | Path, home: str | None = None) -> list[str]:
    """Download the annotations below root; what is right already is left alone.

    Args:
        home: web address of a folder with the same files, in place of the pinned repositories.

    Returns:
        Paths of the files that have no pinned checksum: validated by loading and counting alone.

    Raises:
        ValueError, OSError: a file that could not be had or is not the pinned one; nothing stands
            under its name then.
    """
    root, pins = Path(root), read_pins(data.key, home)
    pinned = [pin for pin in pins if pin.source.sha256]
    for pin in tqdm(pinned, data.name, unit="file", mininterval=1.0):
        if not is_right(pin.source, root / pin.path):
            download(pin.source, root / pin.path)
    loose = [pin for pin in pins if not pin.source.sha256]
    for pin in loose:
        _fetch_unpinned(data, root, pin, pinned)
    return [pin.path for pin in loose]


def _fetch_unpinned(data: RealData, root: Path, pin: PinnedFile, pinned: list[PinnedFile]) -> None:
    """Validate the file beside copies of the pinned ones before it gets its name."""
    with tempfile.TemporaryDirectory(prefix=".fetching.", dir=root) as scratch:
        for other in pinned:
            Path(scratch, other.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / other.path, Path(scratch, other.path))
        fresh, path = Path(scratch, pin.path), root / pin.path
        if path.is_file():
            shutil.copyfile(path, fresh)
            try:
                return data.validate(Path(scratch))
            except ValueError:
                pass
        download(pin.source, fresh)
        data.validate(Path(scratch))
        os.replace(fresh, path)


# ---------------------------------------------------------------- check


def check(
    data: RealData, root: str | Path, images: bool = False, report: str | Path | None = None
) -> list[Problem]:
    """Compare the annotations with what is known of them; with `images`, decode every image.

    Args:
        report: CSV to write, a row a problem; None for check.csv below root.

    Returns:
        The problems; those of `HARMLESS` kind (a JPEG named .png) are no faults.

    Raises:
        ValueError: root is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; `fetch` makes it")
    problems = list(_check_pins(data, root))
    problems += _check_counts(data, root, {p.file for p in problems})
    if images:
        problems += _check_images(data, root)
    with replacing(report or root / "check.csv") as path, open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([Problem._fields, *problems])
    return problems


def _check_pins(data: RealData, root: Path) -> Iterable[Problem]:
    for pin in read_pins(data.key):
        path = root / pin.path
        if not path.is_file():
            yield Problem("", "annotations", str(path), "missing")
        elif pin.source.sha256 and not is_right(pin.source, path):
            yield Problem("", "annotations", str(path), f"another file than that of {pin.about}")


def _check_counts(data: RealData, root: Path, faulty: set[str]) -> Iterable[Problem]:
    """What is not as known. A file that is faulty already is not complained of again."""
    for counter in data.counters:
        try:
            counts = counter(root)
        except ValueError as error:
            if not any(file in str(error) for file in faulty):
                yield Problem("", "annotations", str(root), str(error))
            continue
        for name, count in counts.items():
            if name in data.known and count != data.known[name]:
                text = f"{name} is {count}, known as {data.known[name]}"
                yield Problem("", "annotations", str(root), text)


def _check_images(data: RealData, root: Path) -> list[Problem]:
    problems, wanted = [], []
    for split in data.splits:
        try:
            parts = data.images(root, split)
        except ValueError as error:
            problems.append(Problem("", split, str(root), f"its images are not known: {error}"))
            continue
        wanted += [(i, part, str(p)) for part, paths in parts.items() for i, p in paths.items()]
    found = look_at_all(list(dict.fromkeys(path for _, _, path in wanted)))
    return problems + [Problem(i, part, p, found[p]) for i, part, p in wanted if p in found]


def summarise(data: RealData, root: Path, problems: list[Problem]) -> str:
    """The problems by kind and part, in a few lines, with the usual causes."""
    lines = []
    for (kind, part), count in Counter((_kind(p), p.part) for p in problems).most_common():
        example = next(p for p in problems if (_kind(p), p.part) == (kind, part))
        lines.append(f"  {count:>6} {part}: {kind} (first: {example.image or example.file})")
    wrong = sum(not is_harmless(p) for p in problems)
    notes = f", and {len(problems) - wrong} notes" if wrong < len(problems) else ""
    head = f"{data.name} at {root}: {wrong or 'no'} problem{'s' * (wrong != 1)}{notes}"
    if any(p.image and not is_harmless(p) for p in problems):
        lines += ["", CAUSES, "", data.about_images]
    elif any(p.image for p in problems):
        lines += ["  Images named after another format are read all the same."]
    return "\n".join([head, *lines])


def _kind(problem: Problem) -> str:
    """The problem without the particulars of one image."""
    return problem.problem.partition(" (")[0] if problem.image else problem.problem


def is_harmless(problem: Problem) -> bool:
    """Whether loaders read the image all the same."""
    return bool(problem.image) and problem.problem.startswith(HARMLESS)


# ---------------------------------------------------------------- the command


def main(data: RealData, about: str, arguments: list[str] | None = None) -> None:
    """The command line of a data set's script; `about` is the script's docstring."""
    options = _parser(data, about).parse_args(arguments)
    try:
        if options.command == "fetch":
            loose = fetch(data, options.root, options.home)
            print(f"{data.name}'s annotations are in {options.root}, by checksum", end="")
            print(f"; by count alone, for want of one: {', '.join(loose)}" if loose else "")
            print(data.about_images)
        elif options.command == "unpack":
            made = unpack(options.archive, options.root / data.archives)
            print("\n".join(f"unpacked {path}" for path in made))
        else:
            problems = check(data, options.root, options.images, options.report)
            print(summarise(data, options.root, problems))
            print(f"Every row: {options.report or options.root / 'check.csv'}")
            if not all(map(is_harmless, problems)):
                raise SystemExit(1)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None


def _parser(data: RealData, about: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=f"python -m data_prep.{data.script}",
        description=about,
        epilog=data.about_images,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("fetch", help="download the annotations, by pinned checksums")
    get.add_argument("root", type=Path, help=f"folder for them, such as data/{data.key}")
    get.add_argument("--home", help="address of a folder that has the files, if they have moved")
    look = commands.add_parser("check", help="compare with what is known; exit 1 if any is wrong")
    look.add_argument("root", type=Path, help="the data set's folder")
    look.add_argument("--images", action="store_true", help="decode every image, on all cores")
    look.add_argument("--report", type=Path, metavar="CSV", help="instead of check.csv in root")
    take = commands.add_parser("unpack", help="unpack an archive of images into root, safely")
    take.add_argument("archive", type=Path, help="zip or tar (plain, gz, bz2, xz)")
    take.add_argument("root", type=Path, help="the data set's folder")
    return parser
