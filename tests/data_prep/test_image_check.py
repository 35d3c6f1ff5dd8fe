"""data_prep.image_check: what is wrong with a file, and that one file cannot stop the rest."""

import os

import numpy as np
import pytest
from PIL import Image

from data_prep import image_check
from data_prep.image_check import CHUNK, HARMLESS, look_at, look_at_all
from data_prep.real_data import Problem, is_harmless
from qure_lib.datasets import image_files
from qure_lib.datasets.image_files import read_image

NOISE = os.urandom(3 * 40 * 40)


def put(path, **options):
    Image.frombytes("RGB", (40, 40), NOISE).save(path, **options)
    return path


def look_or_die(path):
    """Stands for a decoder with a fatal fault."""
    if "fatal" in path:
        os._exit(1)
    return look_at(path)


@pytest.mark.parametrize("suffix", [*image_files.FORMATS, ".JPG"])
def test_a_whole_image_is_fine(tmp_path, suffix):
    assert look_at(str(put(tmp_path / f"a{suffix}"))) == ""


def test_one_list_of_formats_says_what_is_read_here_and_in_training():
    assert image_check.FORMATS is image_files.FORMATS


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "MPO", "AVIF", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO"]
)
def test_what_is_fine_here_is_read_in_training_and_nothing_else(tmp_path, kind):
    path = put(tmp_path / "a.jpg", format=kind)
    if look_at(str(path)).startswith("not an image"):
        with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
            read_image(path)
    else:
        assert read_image(path).size == (40, 40)
        assert kind in {"MPO", *image_files.FORMATS.values()}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_mode_is_fine(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.frombytes("RGB", (40, 40), NOISE).convert(mode).save(path)
    assert look_at(str(path)) == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty (0 bytes)"),
        (b"<!DOCTYPE html><html>", "a web page, not an image"),
        (b"\n <html>gone", "a web page, not an image"),
        (b"\xef\xbb\xbf<html>gone", "a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not an image"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff\xe0 then nothing", "truncated or damaged (Truncated File Read)"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, problem):
    (tmp_path / "a.png").write_bytes(content)
    assert look_at(str(tmp_path / "a.png")) == problem


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_image_is_named(tmp_path, suffix, share):
    path = put(tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert look_at(str(path)).startswith(("truncated or damaged (", "not an image"))


def test_missing_folders_and_large_ones_are_named(tmp_path, monkeypatch):
    assert look_at(str(tmp_path / "a.png")) == "missing"
    assert look_at(str(tmp_path)).startswith("truncated or damaged (")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert look_at(str(put(tmp_path / "b.png"))) == "absurdly large"


def test_another_format_than_the_suffix_says_is_named(tmp_path):
    assert look_at(str(put(tmp_path / "a.png", format="JPEG"))) == "is a JPEG by its content"
    assert look_at(str(put(tmp_path / "b", format="PNG"))) == "is a PNG by its content"
    assert look_at(str(put(tmp_path / "c.jpg", format="AVIF"))) == "is an AVIF by its content"


CLIPPED = "clipped to 0-255 (what is above becomes white)"


@pytest.mark.parametrize(
    ("mode", "kind", "suffix", "name"),
    [
        ("I;16", "<u2", "png", "16-bit greyscale"),
        ("I;16", "<u2", "tif", "16-bit greyscale"),
        ("I;16B", ">u2", "tif", "16-bit greyscale"),
        ("I", "<i4", "tif", "32-bit integer"),
        ("F", "<f4", "tif", "32-bit float"),
    ],
)
def test_pixels_that_are_clipped_are_named(tmp_path, mode, kind, suffix, name):
    ramp = np.linspace(0, 65_535, 40).astype(kind).repeat(40).reshape(40, 40)
    for gradient in (ramp, ramp[::-1]):
        path = tmp_path / f"a.{suffix}"
        Image.frombytes(mode, (40, 40), gradient.tobytes()).save(path)
        assert look_at(str(path)) == f"is {name}, {CLIPPED}"
        path.rename(tmp_path / "a.jpg")
        content = {"png": "PNG", "tif": "TIFF"}[suffix]
        assert (
            look_at(str(tmp_path / "a.jpg"))
            == f"is a {content} by its content and {name}, {CLIPPED}"
        )


def test_notes_are_harmless_and_faults_are_not(tmp_path):
    Image.new("I;16", (40, 40)).save(tmp_path / "deep.png")
    put(tmp_path / "named.png", format="JPEG")
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "empty.png").touch()
    found = look_at_all(
        [str(tmp_path / f"{n}.png") for n in ("deep", "named", "page", "empty", "x")]
    )
    harmless = {
        path for path, text in found.items() if is_harmless(Problem("i", "val", path, text))
    }
    assert len(found) == 5
    assert harmless == {str(tmp_path / "deep.png"), str(tmp_path / "named.png")}
    assert all(found[path].startswith(HARMLESS) for path in harmless)


def test_every_file_is_looked_at_whatever_dies(tmp_path):
    paths = [str(put(tmp_path / f"{n}.png")) for n in range(3 * CHUNK)]
    for number in (5, 100):
        os.rename(paths[number], tmp_path / f"fatal{number}.png")
        paths[number] = str(tmp_path / f"fatal{number}.png")
    (tmp_path / "7.png").write_bytes(b"")
    os.remove(paths[-1])
    assert look_at_all(paths, workers=2, look=look_or_die) == {
        paths[5]: "kills the process that decodes it",
        paths[7]: "empty (0 bytes)",
        paths[100]: "kills the process that decodes it",
        paths[-1]: "missing",
    }


def test_nothing_to_look_at_is_fine():
    assert look_at_all([]) == {}
