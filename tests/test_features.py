"""Frozen features: computed once, found again, rebuilt where damaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qure_lib.features import extract_features
from qure_lib.images import image_transform, read_image
from qure_lib.model import ModelConfig

SMALL = ModelConfig(image_size=16)


class Patches(nn.Module):
    """An encoder that counts what it encodes: 4 tokens of 3 x 8 x 8 pixels."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.seen = 0

    def forward(self, pixels):
        self.seen += len(pixels)
        return self.scale * pixels.unfold(2, 8, 8).unfold(3, 8, 8).reshape(len(pixels), 4, -1)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = {}
    for name in "abcde":
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 255, (20, 16, 3), dtype=np.uint8)).save(paths[name])
    return paths


def test_features_are_the_encoders_own(images, tmp_path):
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, tmp_path / "cache", batch_size=2)
    pixels = torch.stack([image_transform(16)(read_image(images[i])) for i in "dab"])
    torch.testing.assert_close(store.get(["d", "a", "b"]), encoder(pixels), atol=2e-3, rtol=1e-3)


def test_each_image_is_encoded_once_and_found_again(images, tmp_path):
    encoder = Patches()
    extract_features(encoder, images, SMALL, tmp_path / "cache")
    extract_features(encoder, dict(reversed(images.items())), SMALL, tmp_path / "cache")
    assert encoder.seen == 5


@pytest.mark.parametrize("change", ["image", "weights", "size", "heads"])
def test_another_image_encoder_or_size_is_another_store(images, tmp_path, change):
    encoder, config = Patches(), SMALL
    first = extract_features(encoder, images, config, tmp_path / "cache")
    if change == "image":
        Image.new("RGB", (16, 16), "red").save(images["c"])
    elif change == "weights":
        encoder.scale.data += 1
    elif change == "heads":  # the same weights, read another way
        config = replace(SMALL, vision_heads=2)
        encoder.forward = lambda p: -p.reshape(len(p), 4, -1)
    else:
        config = replace(SMALL, image_size=24)
        encoder.forward = lambda p: p.reshape(len(p), 4, -1)
    second = extract_features(encoder, images, config, tmp_path / "cache")
    assert first.key != second.key
    assert not np.array_equal(first.features, second.features)


@pytest.mark.parametrize("file", ["features.npy", "images.json"])
@pytest.mark.parametrize("damage", [lambda b: b[:10], lambda b: b"", lambda b: b[:-9] + bytes(9)])
def test_a_damaged_store_is_made_again(images, tmp_path, file, damage):
    encoder = Patches()
    store = extract_features(encoder, images, SMALL, tmp_path / "cache")
    kept = np.array(store.features)
    damaged = tmp_path / "cache" / store.key / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    again = extract_features(encoder, images, SMALL, tmp_path / "cache")
    assert np.array_equal(again.features, kept)
    assert encoder.seen == 10


def test_an_undecodable_image_leaves_nothing_behind(images, tmp_path):
    images["c"].write_text("not an image")
    with pytest.raises(ValueError, match=r"c\.png"):
        extract_features(Patches(), images, SMALL, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unknown_images_are_refused(images, tmp_path):
    store = extract_features(Patches(), images, SMALL, tmp_path / "cache")
    with pytest.raises(ValueError, match="'z'"):
        store.get(["a", "z"])
    with pytest.raises(ValueError, match="no images"):
        extract_features(Patches(), {}, SMALL, tmp_path / "cache")
