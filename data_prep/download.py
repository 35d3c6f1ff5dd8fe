"""Download files: bounded in size, checked, and written whole or not at all."""

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qure_lib.files import file_sha256

BLOCK = 2**16  # bytes
THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
TRIES, PAUSE = 3, 1.0  # seconds before the second try, twice that before the third


@dataclass(frozen=True)
class Source:
    """A file at a web address; `sha256` and `size` (bytes) are None if they are not known."""

    url: str
    sha256: str | None = None
    size: int | None = None
    largest: int = 16 * 2**20  # bytes that are accepted if the size is not known

    @property
    def limit(self) -> int:
        return self.largest if self.size is None else self.size


def answered_instead(path: str | Path) -> str:
    """What a server sent in the place of a file: "a web page", "a Git LFS pointer", or "" if not.

    A pointer is what a repository's page gives for a file that Git LFS keeps elsewhere.
    """
    with open(path, "rb") as stream:
        start = stream.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page"
    return "a Git LFS pointer" if start.startswith(b"version https://git-lfs") else ""


def is_right(source: Source, path: Path) -> bool:
    """Whether a file exists and has the known size and checksum."""
    if not path.is_file() or path.stat().st_size != source.size:
        return False
    return file_sha256(path) == source.sha256


def download(source: Source, path: str | Path) -> None:
    """Download a file, whole or not at all.

    If the checksum is known, a download that broke off is kept as `name.part`, and this call or the
    next one resumes it by a Range request; the checksum then shows whether the parts fit. If it is
    not known, the download starts over.

    Raises:
        ValueError: not a web address, one that anybody on the way could answer (see
            `_refuse_unsafe`), no such file there, too large a file, or the wrong content.
        OSError: the server does not answer, or the connection broke off at every attempt.
    """
    path = Path(path)
    _refuse_unsafe(source.url, source.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _receive_with_retries(source, part)
        _check(source, part)
    except Exception as error:
        if source.sha256 is None or isinstance(error, ValueError):
            part.unlink(missing_ok=True)
        raise
    os.replace(part, path)


def _refuse_unsafe(url: str, sha256: str | None) -> None:
    """Raise ValueError unless the address is https, or http where nobody can change the content.

    Nobody can where the checksum is known, or where the server is this machine.
    """
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"{url!r} is not a web address; write https://...")
    if url.startswith("http:") and not sha256 and urlsplit(url).hostname not in THIS_MACHINE:
        raise ValueError(f"{url} is not encrypted and its checksum is unknown; write https://...")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where `_refuse_unsafe` lets it, and never from https to http."""

    def __init__(self, sha256: str | None) -> None:
        self.sha256 = sha256

    def redirect_request(
        self, request: urllib.request.Request, *answer: Any
    ) -> urllib.request.Request | None:
        url = answer[-1]
        _refuse_unsafe(url, self.sha256)
        if request.type == "https" and url.startswith("http:"):
            raise ValueError(f"{request.full_url} leads to {url}, which is not encrypted; refused")
        return super().redirect_request(request, *answer)


def _receive_with_retries(source: Source, part: Path) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            return _receive(source, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is too long: of another file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise ValueError(
                    f"{source.url}: {error.code} {error.reason}; if the file has moved, name its "
                    "new folder with --home, or put it into place by hand"
                ) from error
            failure = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            failure = str(error) or type(error).__name__
        if attempt < TRIES:
            time.sleep(PAUSE * attempt)
    raise OSError(f"{source.url}: {failure}; run the same command again to resume")


def _receive(source: Source, part: Path) -> None:
    """Send one request; append the answer to the part, or replace the part by it."""
    start = part.stat().st_size if source.sha256 and part.is_file() else 0
    if start and start == source.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(source.url, headers=headers)
    opener = urllib.request.build_opener(_SafeRedirects(source.sha256))
    with opener.open(request, timeout=60) as answer:
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not (answer.status == 206 and resumed):
            start = 0  # the server sends the whole file
        announced = None if answer.length is None else start + answer.length
        _check_size(source, announced)
        with open(part, "ab" if start else "wb") as stream:
            while block := answer.read(BLOCK):
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
            f"{source.limit} expected; is this the right address?"
        )


def _check(source: Source, part: Path) -> None:
    if source.sha256 and (found := file_sha256(part)) != source.sha256:
        raise ValueError(
            f"{source.url}: SHA-256 {found}, expected {source.sha256}; the download was deleted; "
            "run the command again. If that does not help, the server has another edition"
        )
