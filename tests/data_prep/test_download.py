"""data_prep.download: whole files or none, continued where the pieces can be checked."""

import hashlib
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from data_prep import download as module
from data_prep.download import Source, download, is_right
from data_prep.photos import HOME

CONTENT = bytes(range(256)) * 1500  # several blocks


class Handler(BaseHTTPRequestHandler):
    """Serves `content` at /file, in the way that the server's `manner` says."""

    def do_GET(self):
        server = self.server
        requested = self.headers.get("Range")
        server.requested.append(requested)
        if server.manner.startswith("leads to "):
            address, server.manner = server.manner.removeprefix("leads to "), ""
            self.send_response(302)
            self.send_header("Location", address)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if self.path != "/file":
            return self.send_error(404)
        if server.manner == "busy" and len(server.requested) < 3:
            return self.send_error(503)
        start = int(re.match(r"bytes=(\d+)-", requested)[1]) if requested and server.ranges else 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            whole = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if server.manner != "silent":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100_000] if server.manner == "truncating" else body)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.manner, server.ranges, server.requested = CONTENT, "", True, []
    server.address = f"http://127.0.0.1:{server.server_port}/file"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def pinned(server, content=CONTENT):
    return Source(server.address, hashlib.sha256(content).hexdigest(), len(content))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole(server, tmp_path):
    download(pinned(server), tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert left(tmp_path / "deep") == ["file"] and server.requested == [None]
    assert is_right(pinned(server), tmp_path / "deep" / "file")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_continued_or_replaced(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "file.part").write_bytes(CONTENT[:70_000])
    download(pinned(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT and left(tmp_path) == ["file"]
    assert server.requested == ["bytes=70000-"]


def test_broken_connections_are_continued(server, tmp_path):
    server.manner = "truncating"  # 100,000 of 384,000 bytes a request, three a call
    with pytest.raises(OSError, match="broke off after 300000 of 384000 bytes; run the same"):
        download(pinned(server), tmp_path / "file")
    assert left(tmp_path) == ["file.part"]
    download(pinned(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requested == [None, *(f"bytes={n}00000-" for n in (1, 2, 3))]


def test_without_a_checksum_a_broken_download_starts_over(server, tmp_path):
    server.manner = "truncating"
    with pytest.raises(OSError, match="broke off after 100000"):
        download(Source(server.address), tmp_path / "file")
    assert server.requested == [None] * 3 and left(tmp_path) == []


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(pinned(server), tmp_path / "file")
    assert server.requested == [] and left(tmp_path) == ["file"]


def test_a_part_of_another_file_is_thrown_away(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 70_000)
    with pytest.raises(ValueError, match="SHA-256 .*, expected .*was deleted"):
        download(pinned(server), tmp_path / "file")
    assert left(tmp_path) == []
    (tmp_path / "file.part").write_bytes(b"x" * 500_000)  # longer than the file: 416
    download(pinned(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_wrong_content_never_gets_the_name(server, tmp_path):
    (tmp_path / "file").write_bytes(b"what stood there")
    wanted, server.content = pinned(server), CONTENT[::-1]
    with pytest.raises(ValueError, match=f"{server.address}: SHA-256"):
        download(wanted, tmp_path / "file")
    assert left(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"what stood there"


@pytest.mark.parametrize(
    ("manner", "message"), [("", "384000 bytes announced"), ("silent", "more")]
)
@pytest.mark.parametrize("known", [True, False])
def test_a_body_too_large_is_refused(server, tmp_path, manner, message, known):
    server.manner = manner
    source = pinned(server, b"x" * 99_999) if known else Source(server.address, largest=99_999)
    with pytest.raises(ValueError, match=f"{message}.*99999"):
        download(source, tmp_path / "file")
    assert left(tmp_path) == []


def test_a_shorter_file_than_pinned_is_refused_at_once(server, tmp_path):
    with pytest.raises(ValueError, match="384000 bytes announced, 384001 expected"):
        download(pinned(server, CONTENT + b"x"), tmp_path / "file")
    assert server.requested == [None] and left(tmp_path) == []


def test_a_missing_file_names_its_address_and_the_remedy(server, tmp_path):
    with pytest.raises(ValueError, match="/gone: 404 .*--home.*by hand"):
        download(Source(server.address.replace("/file", "/gone")), tmp_path / "file")
    assert server.requested == [None] and left(tmp_path) == []


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.manner = "busy"
    download(pinned(server), tmp_path / "file")
    assert len(server.requested) == 3


def test_no_answer_is_an_error(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="refused.*run the same command again"):
        download(pinned(server), tmp_path / "file")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "images.csv", ""])
def test_only_web_addresses_are_fetched(tmp_path, url):
    with pytest.raises(ValueError, match="is not a web address"):
        download(Source(url), tmp_path / "file")
    assert left(tmp_path) == []


@pytest.mark.parametrize("url", ["http://x/y", "http://127.0.0.1.x/y", "http://localhost@x/y"])
def test_what_anybody_on_the_way_could_change_is_not_fetched(tmp_path, url):
    with pytest.raises(ValueError, match="not encrypted and its checksum is unknown"):
        download(Source(url), tmp_path / "file")
    assert left(tmp_path) == []


def test_a_redirect_on_this_machine_is_followed(server, tmp_path):
    server.manner = f"leads to {server.address}"
    download(Source(server.address), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT and len(server.requested) == 2


@pytest.mark.parametrize(
    ("url", "known"),
    [("file:///etc/hostname", True), ("ftp://127.0.0.1/x", True), ("data:,x", True)]
    + [("http://x/", False)],
)
def test_a_redirect_to_another_kind_of_address_is_refused(server, tmp_path, url, known):
    server.manner = f"leads to {url}"
    with pytest.raises(ValueError, match="is not (a web address|encrypted|allowed)"):
        download(pinned(server) if known else Source(server.address), tmp_path / "file")
    assert len(server.requested) == 1 and left(tmp_path) == []


def test_a_redirect_from_https_to_http_is_refused_even_if_the_checksum_is_known():
    request = urllib.request.Request("https://x/file")
    handler = module._SafeRedirects("0" * 64)
    with pytest.raises(ValueError, match="https://x/file leads to http://y/file, which is not enc"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://y/file")
    followed = handler.redirect_request(request, None, 302, "Found", {}, "https://y/file")
    assert followed.full_url == "https://y/file"


def test_every_address_of_the_kit_is_encrypted_and_pinned_where_it_can_be(root):
    rows = pd.read_csv(root / "data_prep" / "annotations.csv", keep_default_na=False)
    assert rows.home.str.startswith("https://").all() and HOME.startswith("https://")
    pinned = rows[rows.sha256 != ""]
    assert pinned.sha256.str.fullmatch("[0-9a-f]{64}").all() and len(pinned) > len(rows) / 2
