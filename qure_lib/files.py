"""Files written whole or not at all, and text that is read and printed in any encoding."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block succeeds.

    The block writes a file or a folder at the temporary path. If it raises, `path` is as it was
    before and the temporary path is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new = scratch / path.name
        yield new
        if path.is_dir() and new.exists():
            os.replace(path, scratch / "old")
        os.replace(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size < 2**22:  # half the time of `file_digest`
            return hashlib.sha256(stream.read()).hexdigest()
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, kind: type = list) -> Any:
    """Parse a JSON file, in UTF-8 or with a byte-order mark, whose top level is of type `kind`.

    Raises:
        ValueError: missing, truncated, in another encoding, nested too deep, an object that has a
            key twice, or another type at the top level.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; check the folder (`make data` draws SynthFashion)")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_distinct_keys)
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
    if is_dataclass(value):
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
