"""Unpack untrusted archives: bounded in size, inside one folder, whole or not at all."""

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from data_prep.download import answered_instead

BLOCK = 2**20  # bytes read at a time; a longer header is refused
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # by first bytes
OTHERS = {  # by first bytes
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
SPANNED = b"PK\7\x08"  # how the first of several zip files begins
PART = r"\.(z?\d{2,3}|part\d*|a[a-z])$"  # names of parts: .z01, .001, .part2, .aa
DAMAGE = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
DAMAGE += (
    RuntimeError,
    NotImplementedError,
)  # of zipfile: passwords, unknown methods


@dataclass(frozen=True)
class Bounds:
    """The most that an archive may hold. COCO's largest has 123,403 files in 19 GB."""

    files: int = 250_000
    file_bytes: int = 256 * 2**20
    all_bytes: int = 64 * 2**30
    ratio: int = 100  # unpacked bytes to the archive's own; images hardly compress


def unpack(archive: str | Path, folder: str | Path, bounds: Bounds | None = None) -> list[Path]:
    """Unpack a zip or tar file (plain, gz, bz2, xz) into a folder.

    The permissions that the archive states are ignored.

    Returns:
        The archive's top files and folders, as they now lie in the folder.

    Raises:
        ValueError: the archive is missing, damaged, of another kind, one part of a split archive,
            protected by a password or beyond the bounds; it holds a link, a device, a path that
            leaves the folder, or a name twice; or the folder already has one of its names. Nothing
            is then left in the folder.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise ValueError(f"{archive} is missing; name a zip or tar file")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking.", dir=folder) as scratch:
        try:
            is_zip = zipfile.is_zipfile(archive)
            members = _zip_members(archive) if is_zip else _tar_members(archive)
            _write(members, archive, Path(scratch), bounds or Bounds())
        except DAMAGE as error:
            raise ValueError(f"{archive} {_explain(archive, error)}") from error
        return _move(Path(scratch), folder, archive)


def _explain(archive: Path, error: Exception) -> str:
    """What a file is that cannot be unpacked, and what to do."""
    with open(archive, "rb") as stream:
        start = stream.read(8)
    if not start:
        return "is empty; get it again"
    if instead := answered_instead(archive):
        return f"is {instead}, not an archive; get the file itself"
    if kind := next((kind for magic, kind in OTHERS.items() if start.startswith(magic)), ""):
        return f"is {kind}; unpack it with a program for that kind (zip and tar are unpacked here)"
    if re.search(PART, archive.name.lower()) or start.startswith(SPANNED) or _has_disks(archive):
        return (
            "is one part of a split archive; join all parts by `zip -s 0`, or `cat`, and try that"
        )
    if start.startswith(b"PK") and not zipfile.is_zipfile(archive):
        return "is a zip file without its end; get it again, or join it with its other parts"
    return f"cannot be unpacked ({error}); get it again"


def _has_disks(archive: Path) -> bool:
    """Whether a zip file's last record says that it is the last of several files."""
    with open(archive, "rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 2**16 - 22))  # a comment may follow the record
        _, mark, record = stream.read().rpartition(b"PK\5\6")
    return bool(mark) and record[:2] not in (b"\0\0", b"\xff\xff")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of each member, None for a folder's."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{archive}: {info.filename!r} is a link or a device; refused")
            if info.is_dir():
                yield info.filename, None
            else:
                with opened.open(info) as content:
                    yield info.filename, content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with open(archive, "rb") as stream:
        start = stream.read(8)
    opener = next((o for magic, o in OPENERS.items() if start.startswith(magic)), open)
    with opener(archive, "rb") as plain:
        bounded = _BoundedStream(plain)
        with tarfile.open(fileobj=bounded, mode="r:") as opened:
            for member in opened:
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive}: {member.name!r} is a link or a device; refused")
                yield member.name, opened.extractfile(member)
        if not bounded.last:
            raise EOFError("cut short between two files")
        plain.read(BLOCK)  # to the end, where gzip and xz keep their checksums


class _BoundedStream:
    """A stream that refuses to read more than BLOCK bytes: tarfile reads a header at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.seek, self.tell, self.last = stream, stream.seek, stream.tell, b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= BLOCK:
            raise ValueError(f"{self.stream.name}: a header of {size} bytes; refused")
        self.last = self.stream.read(size)
        return self.last


def _write(
    members: Iterator[tuple[str, IO[bytes] | None]], archive: Path, scratch: Path, bounds: Bounds
) -> None:
    """Write every member below scratch; count the bytes written, not those that it announces."""
    most = min(bounds.all_bytes, max(bounds.ratio * archive.stat().st_size, BLOCK))
    total = 0
    for number, (name, content) in enumerate(members, start=1):
        if number > bounds.files:
            raise ValueError(f"{archive} holds more than {bounds.files} files; refused")
        path = scratch / _safe(name, archive)
        (path.parent if content else path).mkdir(parents=True, exist_ok=True)
        if content is None:
            continue
        written = 0
        with open(path, "xb") as stream:
            while block := content.read(BLOCK):
                written, total = written + len(block), total + len(block)
                if written > bounds.file_bytes or total > most:
                    raise ValueError(
                        f"{archive}: with {name!r} it exceeds {bounds.file_bytes} bytes a file, or "
                        f"{most} bytes in all ({bounds.ratio} times its size); refused"
                    )
                stream.write(block)


def _safe(name: str, archive: Path) -> PurePosixPath:
    """A member's path; ValueError if it could leave the folder on some system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\x00]", name):
        raise ValueError(f"{archive}: the path {name!r} could leave the folder; refused")
    return path


def _move(scratch: Path, folder: Path, archive: Path) -> list[Path]:
    tops = sorted(scratch.iterdir())
    taken = [top.name for top in tops if os.path.lexists(folder / top.name)]
    if taken:
        raise ValueError(
            f"{archive}: {folder} already has {', '.join(taken[:3])}; move it away, or name "
            "another folder"
        )
    for top in tops:
        os.rename(top, folder / top.name)
    return [folder / top.name for top in tops]
