"""benchmarks/decoding.py: its files, its rows on Pillow alone, and what it finds to differ."""

import sys

import decoding
import numpy as np
import pandas as pd
import pytest

from qure_lib.datasets.image_files import read_image


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    shapes = decoding.SIZES["640x480"]
    return decoding.draw_files(tmp_path_factory.mktemp("decoding") / "files", shapes, 4)


def compare(decode, files):
    return {what: value for what, (value, unit) in decoding.compare(decode, files).items()}


def test_a_reduced_run_on_pillow_alone_has_rows_and_names_what_is_missing(
    tmp_path, monkeypatch, capsys
):
    for name in decoding.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--reduced", "--out", str(tmp_path)])
    decoding.main()
    printed = capsys.readouterr().out
    assert all(f"{name}: not installed" in printed for name in decoding.LIBRARIES)
    rows = pd.read_csv(tmp_path / "decoding.csv")
    assert set(rows.what.str.split(":").str[0]) == {"Pillow", "Pillow draft"}
    assert rows["size"].nunique() == 2 and (rows[rows.unit == "images/s"].value > 0).all()
    assert {"Pillow: decoding", "Pillow: decoding + transform"} < set(rows.what)


def test_the_files_are_of_a_photograph_s_size_and_the_same_in_every_run(files, tmp_path):
    again = decoding.draw_files(tmp_path / "again", decoding.SIZES["640x480"], 4)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    assert all(40_000 < path.stat().st_size < 120_000 for path in files)
    assert {read_image(path).size for path in files} == set(decoding.SIZES["640x480"])


def test_one_changed_pixel_is_found(files):
    def decode(path):
        pixels = np.array(read_image(path))
        if path == files[0]:
            pixels[240, 240] ^= 4
        return pixels

    found = compare(decode, files)
    assert found["images with another pixel"] == 25
    assert found["largest difference, decoded"] == 4
    assert compare(read_image, files) == dict.fromkeys(found, 0)


def test_an_image_of_another_size_differs_and_its_input_is_compared(files):
    found = compare(decoding.decode_by_draft, files)
    assert found["images with another pixel"] == 100
    assert np.isnan(found["largest difference, decoded"])
    assert 0 < found["largest difference, input"] < 64
