"""Preprocessing on drawn images; the published sizes by hand, and to the bit torchvision's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision_reference
from PIL import Image, ImageOps

from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform, pad_to_ratio
from qure_lib.pixels import CLIP_MEAN, CLIP_STD


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((100, 100), (100, 100)),
        ((100, 124), (100, 124)),  # ratio 1.24: as it is
        ((100, 200), (160, 200)),  # 200 / 1.25 = 160: 30 on each side
        ((333, 77), (333, 265)),  # 266.4 - 77 = 189.4, half of it truncated: 94 on each side
    ],
)
def test_padding_on_hand_worked_sizes(size, padded):
    image = pad_to_ratio(Image.new("RGB", size, "white"))
    assert image.size == padded
    pixels = np.asarray(image)
    assert (pixels == 255).all(axis=2).sum() == size[0] * size[1]
    assert ((pixels == 0).all(axis=2) | (pixels == 255).all(axis=2)).all()


def test_a_flat_image_becomes_its_normalised_colour():
    out = image_transform(32)(Image.new("RGB", (50, 60), (255, 0, 51)))
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(out, expected[:, None, None].expand(3, 32, 32))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
@pytest.mark.parametrize("size", [(64, 64), (20, 90), (90, 20), (1, 3)])
def test_any_mode_and_shape_gives_the_same_tensor_shape(mode, size):
    out = image_transform(32)(Image.new("RGB", size, (10, 200, 30)).convert(mode))
    assert out.shape == (3, 32, 32) and out.dtype == torch.float32 and torch.isfinite(out).all()


def test_mirroring_commutes_with_the_transform():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8))
    transform = image_transform(32)
    mirrored = transform(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    torch.testing.assert_close(mirrored, transform(image).flip(2), atol=0.05, rtol=0)


RECORDED = json.loads(
    (Path(__file__).parents[1] / "data").joinpath("torchvision_0.29.1.json").read_text()
)["cases"]


@pytest.fixture(scope="module")
def drawn():
    return torchvision_reference.cases()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("case", RECORDED)
def test_the_bits_are_those_of_torchvision(case, drawn, tmp_path):
    (tmp_path / "image").write_bytes(drawn[case])
    pixels = image_transform(224)(read_image(tmp_path / "image")).numpy()
    expected = RECORDED[case]
    got = torchvision_reference.as_recorded(pixels)
    assert got["probes"] == expected["probes"]
    assert got["sha256"] == expected["sha256"]


def test_every_drawn_image_is_recorded(drawn):
    assert set(drawn) == set(RECORDED)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "P-many-clear", "CMYK", "1", "turned-5-WEBP"])
def test_converting_first_is_the_same_steps_on_an_upright_rgb_image(mode, drawn, tmp_path):
    (tmp_path / "image").write_bytes(drawn[f"{mode} 33x90"])
    image = read_image(tmp_path / "image")
    upright = ImageOps.exif_transpose(image).convert("RGB")
    converted = image_transform(224, convert_first=True)(image)
    assert torch.equal(converted, image_transform(224)(upright))
    assert torch.equal(converted, image_transform(224)(image)) == (mode == "L")


def test_converting_first_turns_a_photograph_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    image = Image.new("RGB", (60, 60), "black")
    image.paste("white", (0, 0, 60, 20))  # the top: on the right, once upright
    image.save(tmp_path / "turned.png", exif=exif)
    stored = read_image(tmp_path / "turned.png")
    upright = image_transform(32, convert_first=True)(stored)
    assert upright[0, 16, 28] > 1 and upright[0, 16, 4] < 0
    assert image_transform(32)(stored)[0, 16, 28] < 0


def test_an_image_too_thin_to_pad_is_named(tmp_path):
    Image.new("L", (1, 40_000)).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match=r"thin\.png.*31999, 40000"):
        image_transform(32)(read_image(tmp_path / "thin.png"))


def deep(values: np.ndarray, mode: str) -> Image.Image:
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    return Image.frombytes(mode, values.shape[::-1], values.astype(kinds[mode]).tobytes())


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_pixels_above_255_become_white_as_in_the_release(mode, tmp_path):
    ramp = np.linspace(256, 65_535, 64).astype(np.uint16).repeat(64).reshape(64, 64)
    white = image_transform(32)(Image.new("RGB", (64, 64), "white"))
    for gradient in (ramp, ramp[::-1]):
        deep(gradient, mode).save(tmp_path / "deep.tif")
        assert torch.equal(image_transform(32)(read_image(tmp_path / "deep.tif")), white)
    first, second = (image_transform(32)(deep(g // 257, mode)) for g in (ramp, ramp[::-1]))
    assert not torch.equal(first, second)  # what is within 0 to 255 is read as it is
