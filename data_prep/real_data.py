"""What the scripts of the real data sets share: fetch annotations, check files, unpack archives.

annotations.csv pins every annotation file to a commit, a size and a SHA-256; known_counts.csv holds
the counts that the annotations must give. Images may not be redistributed, so they are checked but
not fetched.
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
from qure_lib.datasets.queries import check_distinct
from qure_lib.files import replacing

HERE = Path(__file__).parent
LARGEST = 32 * 2**20  # bytes of a file whose size is not pinned
CAUSES = """\
Usual causes of missing images: addresses that no longer answer, copies that never had all files, or
a layout that is none of those in qure_lib/datasets/image_files.py (images/{id}.png,
image_data/{category}/{id}.jpg, ...). Empty files and web pages: a download that did not check the
server's answer. Truncated: a download or an unpacking that broke off. With `allow_missing=True` the
loaders drop what is missing, and say how many queries and images they drop."""


class Problem(NamedTuple):
    """A row of check.csv. `image`: its id, "" if no image is concerned; `part`: its split."""

    image: str
    part: str
    file: str
    problem: str


class PinnedFile(NamedTuple):
    """A row of annotations.csv: where a file goes and where it comes from."""

    path: str  # below the data set's root and below home
    source: Source
    about: str  # repository, commit, and its licence as stated there


@dataclass(frozen=True)
class RealData:
    """How one real data set differs from the others.

    Attributes:
        key: the name of its folder.
        counters: each counts some of `known` from the annotations below a root.
        images: (root, split) -> part -> image id -> path, of all images that the annotations name.
        archives: folder below the root into which archives are unpacked.
        validate: raises ValueError unless the files that have no pinned checksum are right.
    """

    script: str
    key: str
    name: str
    about_images: str
    known: dict[str, int]
    counters: tuple[Callable[[Path], dict[str, int]], ...]
    splits: tuple[str, ...]
    images: Callable[[Path, str], dict[str, dict[str, Path]]]
    archives: str = ""
    validate: Callable[[Path], None] | None = None


def read_pins(key: str, home: str | None = None) -> list[PinnedFile]:
    """The annotation files of a data set.

    Args:
        home: web address of a folder with the same files; None for the pinned repositories.

    Raises:
        ValueError: a file is listed twice.
    """
    pins = []
    for row in _read_rows("annotations.csv", key, "path"):
        size = int(row["bytes"]) if row["bytes"] else None
        url = f"{(home or row['home']).rstrip('/')}/{row['path']}"
        source = Source(url, row["sha256"] or None, size, LARGEST)
        pins.append(PinnedFile(row["path"], source, row["about"]))
    return pins


def read_known(key: str) -> dict[str, int]:
    """Quantity -> its known count; ValueError if a quantity is listed twice."""
    rows = _read_rows("known_counts.csv", key, "quantity")
    return {row["quantity"]: int(row["count"]) for row in rows}


def _read_rows(name: str, key: str, distinct: str) -> list[dict[str, str]]:
    """The rows of a data set, whose values in the column `distinct` must differ."""
    with open(HERE / name, encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == key]
    places = (f"{HERE / name}, row {number} of {key}" for number in range(len(rows)))
    check_distinct(zip(places, (row[distinct] for row in rows), strict=True), distinct)
    return rows


# ---------------------------------------------------------------- fetch


def fetch(data: RealData, root: str | Path, home: str | None = None) -> list[str]:
    """Download the annotations below root, except the files that are right already.

    Args:
        home: see `read_pins`.

    Returns:
        Paths of the files that have no pinned checksum; they were loaded and counted instead.

    Raises:
        ValueError, OSError: a file could not be downloaded or is not the pinned one; it is then
            not written.
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
    """Download a file beside copies of the pinned ones and validate it; then put it into place."""
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
    """Compare the annotations with the pinned files and the known counts.

    Args:
        images: decode every image too.
        report: CSV to write, a row a problem; None for check.csv below root.

    Returns:
        The problems, and notes on images that are read all the same (`is_harmless`).

    Raises:
        ValueError: root is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; `fetch` makes it")
    problems = list(_check_pins(data, root))
    problems += _check_counts(data, root, {p.file for p in problems})
    if images:
        problems += _check_images(data, root)
    text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with replacing(report or root / "check.csv") as path, open(path, "w", **text) as stream:
        csv.writer(stream, lineterminator="\n").writerows([Problem._fields, *problems])
    return problems


def _check_pins(data: RealData, root: Path) -> Iterable[Problem]:
    for pin in read_pins(data.key):
        path = root / pin.path
        if not path.is_file():
            yield Problem("", "annotations", str(path), "missing")
        elif pin.source.sha256 and not is_right(pin.source, path):
            yield Problem("", "annotations", str(path), f"differs from the file of {pin.about}")


def _check_counts(data: RealData, root: Path, faulty: set[str]) -> Iterable[Problem]:
    """Counts that differ from the known ones; a file in `faulty` is not named again."""
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
            problems.append(Problem("", split, str(root), f"the images cannot be listed: {error}"))
            continue
        wanted += [(i, part, str(p)) for part, paths in parts.items() for i, p in paths.items()]
    found = look_at_all(list(dict.fromkeys(path for _, _, path in wanted)))
    return problems + [Problem(i, part, p, found[p]) for i, part, p in wanted if p in found]


def summarise(data: RealData, root: Path, problems: list[Problem]) -> str:
    """Count the problems by kind and part, and name the usual causes."""
    lines = []
    for (kind, part), count in Counter((_kind(p), p.part) for p in problems).most_common():
        example = next(p for p in problems if (_kind(p), p.part) == (kind, part))
        lines.append(f"  {count:>6} {part}: {kind} (first: {example.image or example.file})")
    wrong = sum(not is_harmless(p) for p in problems)
    noted = len(problems) - wrong
    notes = f", {noted} note{'s' * (noted != 1)}" if noted else ""
    head = f"{data.name} at {root}: {wrong or 'no'} problem{'s' * (wrong != 1)}{notes}"
    if any(p.image and not is_harmless(p) for p in problems):
        lines += ["", CAUSES, "", data.about_images]
    elif any(p.image for p in problems):
        lines += ["  Images with a note are read all the same, as by the release."]
    return "\n".join([head, *lines])


def _kind(problem: Problem) -> str:
    """The problem without details of one image."""
    return problem.problem.partition(" (")[0] if problem.image else problem.problem


def is_harmless(problem: Problem) -> bool:
    """Whether a problem is a note: the loaders read the image all the same."""
    return bool(problem.image) and problem.problem.startswith(HARMLESS)


# ---------------------------------------------------------------- the command


def main(data: RealData, about: str, arguments: list[str] | None = None) -> None:
    """The command line of a data set's script; `about` is the script's docstring."""
    options = _parser(data, about).parse_args(arguments)
    try:
        if options.command == "fetch":
            loose = fetch(data, options.root, options.home)
            print(f"{data.name}'s annotations are in {options.root}, checked by checksum", end="")
            print(f"; checked by count (no checksum is pinned): {', '.join(loose)}" * bool(loose))
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
    get.add_argument("--home", help="web address of a folder with the files, if they have moved")
    look = commands.add_parser("check", help="compare with pins and known counts; exit 1 on faults")
    look.add_argument("root", type=Path, help="the data set's folder")
    look.add_argument("--images", action="store_true", help="decode every image, on all cores")
    look.add_argument(
        "--report",
        type=Path,
        metavar="CSV",
        help="default: check.csv in root",
    )
    take = commands.add_parser("unpack", help="unpack an archive of images into root")
    take.add_argument("archive", type=Path, help="zip or tar (plain, gz, bz2, xz)")
    take.add_argument("root", type=Path, help="the data set's folder")
    return parser
