"""Files written whole or not at all, and text that is read and printed in any encoding."""

import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block succeeds.

    The block writes a file or a folder at the temporary path. If it raises, `path` is as it was
    before and the temporary path is deleted. What is renamed is on the disk by then, so that a
    power cut leaves the old or the new. A folder takes two renames: see `restore`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = scratch / path.name
        yield new
        _flush(*new.rglob("*"), new)
        if path.is_dir():
            os.replace(path, scratch / f"{path.name}.old")  # restore makes the second rename
        else:
            os.replace(new, path)
    finally:
        restore(path)
        shutil.rmtree(scratch, ignore_errors=True)
    _flush(path.parent)


def restore(path: str | Path) -> None:
    """Put a folder in place where a process was killed between the two renames of `replacing`."""
    path = Path(path)
    if path.exists():
        return
    for old in path.parent.glob(f".{glob.escape(path.name)}.*/{glob.escape(path.name)}.old"):
        with suppress(FileNotFoundError):  # another process has put it in place
            os.replace(old.with_name(path.name), path)
            shutil.rmtree(old.parent, ignore_errors=True)


def _flush(*paths: Path) -> None:
    """Wait until the disk holds these files, and the entries of these folders."""
    with ThreadPoolExecutor(16) as threads:  # a disk flushes many at a time
        list(threads.map(_flush_one, paths))


def _flush_one(path: Path) -> None:
    is_folder = path.is_dir()
    if path.is_symlink() and not is_folder:
        return
    with suppress(*[OSError] if is_folder else []):  # some file systems cannot flush a folder
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_name(name: str, what: str) -> str:
    """A name that becomes a file's or a folder's.

    Raises:
        ValueError: it is empty, hidden, or leads to another folder.
    """
    if not re.fullmatch(r"(?!\.)[^/\\\0]+", name):
        raise ValueError(
            f"{what} {name!r} becomes part of a path: leave out '/', '\\\\' and a '.' at its start"
        )
    return name


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size < 2**22:  # half the time of `file_digest`
            return hashlib.sha256(stream.read()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: str | Path, kind: type = list) -> Any:
    """Parse a JSON file, in UTF-8 or with a byte-order mark, whose top level is of type `kind`.

    Raises:
        ValueError: missing, truncated, in another encoding, half a character (a lone surrogate),
            nested too deep, an object that has a key twice, or another type at the top level.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; check the folder (`make data` draws SynthFashion)")
    try:
        raw = path.read_bytes()
        text = raw.decode(json.detect_encoding(raw))
        content = json.loads(text, object_pairs_hook=_distinct_keys)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half a character would fail where it is used
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): truncated? Get it again.") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a {kind.__name__}, found {type(content).__name__}")
    return content


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is there twice")
    return content


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON whole or not at all; dataclasses become objects."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2, default=to_plain) + "\n")


def to_plain(value: Any) -> Any:
    """Turn what `json` cannot write into what it can: dataclasses, NumPy scalars, then text."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def run_command(main: Callable[..., int | None], *arguments: Any) -> NoReturn:
    """Call a command's `main` and exit with the status that it returns.

    Characters that stdout's encoding lacks are printed as escapes, as they are on stderr.
    """
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(*arguments))
