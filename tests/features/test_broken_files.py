"""A corpus in which one file in twenty is broken: all of them named, and nothing hangs."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from shared import ROOT, TINY
from torch import nn

from data_prep.image_check import HARMLESS, look_at_all
from qure_lib.features import encoding, store
from qure_lib.features.encoding import encode_files
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import extract_features
from qure_lib.train.__main__ import main

SECONDS = 300  # much more than any takes, so that only a hang is one


@pytest.fixture(autouse=True)
def must_end():
    """A test that hangs fails."""

    def stop(*_):
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bomb(path):
    """A PNG of some hundred bytes that announces 60,000 x 60,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(
            ">I", zlib.crc32(kind + content)
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def cmyk_junk(path):
    """A CMYK JPEG whose second half is noise and which has no end."""
    Image.new("CMYK", (64, 64), (10, 200, 30, 4)).save(path, "JPEG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd8\xff\x00" * 20)


def replaced(path, make):
    path.unlink()
    make(path)


BROKEN = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "web page": lambda path: path.write_text("<html>Sorry</html>"),
    "bomb": bomb,
    "CMYK": cmyk_junk,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "thin": lambda path: Image.new("L", (60_000, 1)).save(path),  # gigabytes once it is padded
    "vanished": lambda path: path.unlink(),
    "folder": partial(replaced, make=lambda path: path.mkdir()),
    "dangling link": partial(replaced, make=lambda path: path.symlink_to(path.parent / "gone")),
    "pipe": partial(replaced, make=os.mkfifo),
}
UNREADABLE = {"vanished", "folder", "dangling link", "pipe"}


@pytest.fixture
def images(tmp_path):
    """Id -> file of 240 whole images, each of another colour."""
    folder = tmp_path / "images"
    folder.mkdir()
    files = {f"{n:03d}": folder / f"{n:03d}.png" for n in range(240)}
    for n, path in enumerate(files.values()):
        Image.new("RGB", (20, 20), (n, 255 - n, n // 2)).save(path)
    return files


def break_some(images, kinds):
    """Break the 20th file, the 40th, ... in turn in each way; the broken ones by kind."""
    chosen = dict(zip(kinds, list(images.values())[19::20], strict=False))
    for kind, path in chosen.items():
        BROKEN[kind](path)
    return chosen


class Mean(nn.Module):
    """A frozen encoder that runs anywhere."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        return pixels.mean(dim=(2, 3))[:, None] * self.scale


def test_all_that_cannot_be_opened_is_named_and_nothing_is_stored(images, tmp_path):
    broken = break_some(images, sorted(UNREADABLE))
    with pytest.raises(ValueError) as caught:
        extract_features(Mean(), images, TINY, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(broken)
    assert all(any(str(path) in line for line in lines) for path in broken.values())
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_all_that_cannot_be_decoded_is_named_and_whole_shards_are_kept(
    images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(store, "SHARD_IMAGES", 16)
    broken = break_some(images, sorted(BROKEN.keys() - UNREADABLE))
    with pytest.raises(ValueError) as caught:
        extract_features(Mean(), images, TINY, tmp_path / "cache", batch_size=16)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(broken)
    assert all(any(str(path) in line for line in lines) for path in broken.values())
    assert "decoding the rest" in capsys.readouterr().out
    for path in broken.values():
        Image.new("RGB", (20, 20), "red").save(path)
    assert len(extract_features(Mean(), images, TINY, tmp_path / "cache").rows) == len(images)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_named(images, tmp_path):
    path = images["007"]
    path.chmod(0)
    with pytest.raises(ValueError, match=f"{path}: Permission denied"):
        extract_features(Mean(), images, TINY, tmp_path / "cache")


def test_a_file_that_vanishes_between_hash_and_decoding_is_named(images, tmp_path, monkeypatch):
    read, gone = encoding.read_image, [images["100"], images["200"]]

    def read_late(path):
        [p.unlink(missing_ok=True) for p in gone]
        return read(path)

    monkeypatch.setattr(encoding, "read_image", read_late)
    with pytest.raises(ValueError) as caught:
        extract_features(Mean(), images, TINY, tmp_path / "cache")
    assert all(f"{path} cannot be decoded" in str(caught.value) for path in gone)


def decode(images, workers):
    paths = list(images.values())
    chunks = [range(start, start + 4) for start in range(0, len(paths), 4)]
    return list(encoding._decode(encoding._Pixels(paths, 32, torch.float16), chunks, workers))


def test_decoding_processes_name_every_broken_file_and_end(images):
    broken = break_some(images, sorted(BROKEN.keys() - UNREADABLE | {"vanished"}))
    with pytest.raises(ValueError) as caught:
        decode(images, workers=2)
    assert len(str(caught.value).splitlines()) == len(broken)
    assert all(str(path) in str(caught.value) for path in broken.values())


KILLED = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from shared import ROOT, TINY
from test_broken_files import Mean
from qure_lib.features import encoding
from qure_lib.features.store import extract_features

def read_or_die(path):
    if path.stem == "100":
        os.kill(os.getpid(), signal.SIGKILL)
    return Image.new("RGB", (20, 20))

decode, encoding.read_image = encoding._decode, read_or_die
encoding._decode = lambda images, chunks, workers: decode(images, chunks, 2)  # as on a GPU
extract_features(Mean(), {p.stem: p for p in Path("images").iterdir()}, TINY, "cache")
"""


@pytest.mark.slow
def test_an_image_that_kills_its_process_is_an_error_and_no_hang(images, tmp_path):
    places = [Path(__file__).parent, ROOT / "tests" / "helpers", ROOT]
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1, done.stderr
    assert "DataLoader worker" in done.stderr or "Connection" in done.stderr
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_image_check_names_each_broken_file_and_no_whole_one(images):
    broken = break_some(images, BROKEN.keys())
    found = look_at_all([str(path) for path in images.values()])
    faults = {path for path, text in found.items() if not text.startswith(HARMLESS)}
    thin = {str(broken["thin"])}  # it decodes
    assert faults | thin == {str(path) for path in broken.values()}


@pytest.fixture
def world(smoke_world, tmp_path):
    return shutil.copytree(smoke_world, tmp_path / "world")


def run(world, stage1, tmp_path, *more):
    arguments = [str(world), "--checkpoint", str(stage1), "--runs", str(tmp_path / "runs")]
    return main([*arguments, "--epochs=2", "--n-def=2", *more])


@pytest.mark.parametrize("kinds", [BROKEN.keys() - UNREADABLE, UNREADABLE])
def test_training_names_every_broken_image_and_starts_no_run(
    kinds, world, stage1, tmp_path, capsys
):
    files = {p.stem: p for p in sorted((world / "images").rglob("*.png"))}
    broken = break_some(files, sorted(kinds))
    assert run(world, stage1, tmp_path) == 2
    said = capsys.readouterr().err
    named = [path for path in broken.values() if path.stem in said]
    assert "Traceback" not in said
    assert named == list(broken.values()) or f"{len(broken)} image files are missing" in said
    assert not list((tmp_path / "runs").glob("*-*"))


@pytest.mark.parametrize("content", [b"", b"[", b"<html>", b"[]", b"{}", b"\xff\xfe", b"[null]"])
@pytest.mark.parametrize(
    "file", ["captions/cap.dress.train.json", "image_splits/split.dress.val.json"]
)
def test_training_names_a_broken_annotation(file, content, world, stage1, tmp_path, capsys):
    (world / file).write_bytes(content)
    assert run(world, stage1, tmp_path) == 2
    said = capsys.readouterr().err
    assert file.split("/")[1].split(".json")[0] in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_an_open_retriever_names_every_broken_image(world, stage1, tmp_path):
    files = {p.stem: p for p in sorted((world / "images").rglob("*.png"))[:40]}
    broken = break_some(files, ["truncated", "empty"])
    with pytest.raises(ValueError) as caught:
        Retriever.open(stage1, files, tmp_path / "cache")
    assert all(str(path) in str(caught.value) for path in broken.values())


def test_encoding_goes_on_in_order_where_nothing_is_broken(images):
    class Bar:
        update = staticmethod(lambda count: None)

    paths = list(images.values())
    parts = list(encode_files(Mean(), paths, 32, 16, 16, Bar()))
    red = torch.cat(parts)[:, 0, 0]
    assert len(red) == len(paths) and (red.diff() >= 0).all()
