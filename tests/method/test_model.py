"""The model: shapes, what is frozen, and where the frozen features end."""

from dataclasses import replace

import pytest
import torch
from shared import TINY
from torch import nn

from qure_lib.method.config import ModelConfig
from qure_lib.method.encoders import EvaEncoder
from qure_lib.method.model import QuReModel


@pytest.fixture
def model():
    torch.manual_seed(0)
    return QuReModel(TINY).eval()


def inputs(batch=2, length=5):
    return torch.randint(6, 40, (batch, length)), torch.ones(batch, length, dtype=torch.int64)


def test_shapes_and_unit_length(model):
    features = model.encode_features(torch.randn(2, 3, 32, 32))
    queries, images = model.encode_query(features, *inputs()), model.encode_image(features)
    texts = model.encode_text(*inputs())
    assert features.shape == (2, 5, 32)  # 2 x 2 patches and [CLS]
    assert (queries.shape, images.shape, texts.shape) == ((2, 16), (2, 3, 16), (2, 16))
    for embedded in (queries, images, texts):
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(embedded.shape[:-1]))


def test_only_the_vision_encoder_is_frozen(model):
    trained = model.trainable_parameters()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters()} - set(trained)
    assert {"query_tokens", "temperature", "ln_vision.weight", "text_proj.bias"} <= set(trained)
    assert not model.encode_features(torch.randn(1, 3, 32, 32)).requires_grad


def test_frozen_features_come_before_ln_vision(model):
    features = model.encode_features(torch.randn(2, 3, 32, 32))
    plain = model.encode_image(features)
    with torch.no_grad():
        model.ln_vision.weight.mul_(torch.linspace(0.1, 3, 32))
    assert (model.encode_image(features) - plain).abs().max() > 1e-3


def test_eva_stops_before_the_layer_norm_that_transformers_ends_with():
    torch.manual_seed(0)
    encoder = EvaEncoder(replace(TINY, encoder="eva")).eval()
    images = torch.randn(2, 3, 32, 32)
    before = encoder(images)
    assert before.shape == (2, 5, 32)
    assert (before[0] - before[1]).abs().max() > 1e-3  # images differ: weights are not all but zero
    encoder.tower.post_layernorm = nn.LayerNorm(32)
    nn.init.constant_(encoder.tower.post_layernorm.weight, 2.0)
    torch.testing.assert_close(encoder(images), 2 * nn.functional.layer_norm(before, (32,)))


def test_evas_mlp_is_a_little_wider_than_four_times_its_width():
    encoder = EvaEncoder(replace(TINY, encoder="eva", vision_width=88, vision_heads=1))
    (mlp,) = (m for name, m in encoder.named_modules() if name.endswith("layers.0.mlp"))
    assert mlp.fc1.out_features == 384  # 88 * 4.3637 = 384.006


def test_batching_changes_nothing(model):
    features, (ids, mask) = torch.randn(3, 5, 32), inputs(batch=3)
    together = model.encode_query(features, ids, mask)
    alone = torch.cat([model.encode_query(features[[b]], ids[[b]], mask[[b]]) for b in range(3)])
    torch.testing.assert_close(together, alone)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="encoder"):
        QuReModel(ModelConfig(encoder="resnet"))
