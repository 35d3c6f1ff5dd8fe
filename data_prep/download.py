"""Files from the web: bounded, checked, and under their finished name whole or not at all."""

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from qure_lib.files import file_sha256

BLOCK = 2**16  # bytes
TRIES, PAUSE = 3, 1.0  # seconds before the second try, twice that before the third


@dataclass(frozen=True)
class Source:
    """A file at a web address; `sha256` and `size` (bytes) where they are known beforehand."""

    url: str
    sha256: str | None = None
    size: int | None = None
    largest: int = 16 * 2**20  # bytes; what is accepted where the size is not known

    @property
    def limit(self) -> int:
        return self.largest if self.size is None else self.size


def is_right(source: Source, path: Path) -> bool:
    """Whether a file is there and has the known size and checksum."""
    if not path.is_file() or path.stat().st_size != source.size:
        return False
    return file_sha256(path) == source.sha256


def download(source: Source, path: str | Path) -> None:
    """Write what a web address holds to a file, whole or not at all.

    With a known checksum, what arrived before a connection broke off is kept beside it as
    `name.part` and continued by a Range request, now or by the next call: the checksum tells
    whether the pieces fit. Without one, a broken-off download starts over.

    Raises:
        ValueError: no web address, no such file there, too large a file, or the wrong content.
        OSError: no answer, or a connection that keeps breaking off.
    """
    path = Path(path)
    if not re.match(r"https?://", source.url):
        raise ValueError(f"{source.url!r} is no web address; write https://...")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _receive_patiently(source, part)
        _check(source, part)
    except Exception as error:
        if source.sha256 is None or isinstance(error, ValueError):
            part.unlink(missing_ok=True)
        raise
    os.replace(part, path)


def _receive_patiently(source: Source, part: Path) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            return _receive(source, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing follows what is there, so that is not this file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise ValueError(
                    f"{source.url}: {error.code} {error.reason}. Moved? Say where with --home, or "
                    "put the file there by hand: what has the right checksum is not fetched again"
                ) from error
            failure = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            failure = str(error) or type(error).__name__
        if attempt < TRIES:
            time.sleep(PAUSE * attempt)
    raise OSError(f"{source.url}: {failure}; run the same command again, it goes on from there")


def _receive(source: Source, part: Path) -> None:
    """One request. What arrives is added to the part, or replaces it."""
    start = part.stat().st_size if source.sha256 and part.is_file() else 0
    if start and start == source.size:
        return
    asked = {"Range": f"bytes={start}-"} if start else {}
    with urllib.request.urlopen(urllib.request.Request(source.url, headers=asked), timeout=60) as a:
        if not (
            a.status == 206 and a.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        ):
            start = 0  # the server sends all of it
        announced = None if a.length is None else start + a.length
        _check_size(source, announced)
        with open(part, "ab" if start else "wb") as stream:
            while block := a.read(BLOCK):
                start += len(block)
                if start > source.limit:
                    raise ValueError(f"{source.url}: more than {source.limit} bytes; not this file")
                stream.write(block)
    wanted = announced if source.size is None else source.size
    if wanted is not None and start != wanted:
        raise OSError(f"broke off after {start} of {wanted} bytes")


def _check_size(source: Source, announced: int | None) -> None:
    known = source.size is not None
    if announced is not None and (announced > source.limit or known and announced != source.size):
        raise ValueError(
            f"{source.url}: {announced} bytes announced, {'' if known else 'at most '}"
            f"{source.limit} expected; is this the address of the file?"
        )


def _check(source: Source, part: Path) -> None:
    if source.sha256 and (found := file_sha256(part)) != source.sha256:
        raise ValueError(
            f"{source.url}: SHA-256 {found}, expected {source.sha256}; nothing was kept. Run it "
            "again; if that does not help, what is there is another edition"
        )
