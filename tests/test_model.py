"""The model: shapes, what is frozen, saving and strict loading."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from qure_lib.data import clean_caption
from qure_lib.model import (
    EvaEncoder,
    ModelConfig,
    QuReModel,
    bert_tokenizer,
    load_tokenizer,
    tokenize,
)

TINY = ModelConfig(
    image_size=32,
    patch_size=16,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    qformer_width=24,
    qformer_layers=2,
    qformer_heads=2,
    num_query_tokens=3,
    embedding_dim=16,
    vocab_size=40,
    dropout=0.0,
)


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


def test_eva_saves_what_it_loads_and_its_mlp_is_a_little_wider(tmp_path):
    model = QuReModel(replace(TINY, encoder="eva", vision_width=88, vision_heads=1))
    model.save(tmp_path / "model")
    loaded = QuReModel.load(tmp_path / "model")
    (mlp,) = (m for n, m in loaded.named_modules() if n.endswith("layers.0.mlp"))
    assert mlp.fc1.out_features == 384  # 88 * 4.3637 = 384.006
    assert not any("post_layernorm" in name for name in loaded.state_dict())


def test_batching_changes_nothing(model):
    features, (ids, mask) = torch.randn(3, 5, 32), inputs(batch=3)
    together = model.encode_query(features, ids, mask)
    alone = torch.cat([model.encode_query(features[[b]], ids[[b]], mask[[b]]) for b in range(3)])
    torch.testing.assert_close(together, alone)


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = QuReModel.load(tmp_path / "model")
    assert loaded.config == TINY
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", lambda p: p.unlink(), "missing"),
        ("config.json", lambda p: p.write_text(p.read_text()[:40]), "config.json"),
        ("config.json", lambda p: p.write_text('{"layers": 3}'), "layers"),
        ("config.json", lambda p: p.write_text('{"image_size": "64"}'), "config.json.*image_size"),
        ("config.json", lambda p: p.write_bytes(bytes([255, 254, 0])), "config.json"),
        ("config.json", lambda p: p.write_text('{"qformer_heads": 7}'), "config.json"),
        ("model.safetensors", lambda p: p.unlink(), "cannot be read"),
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:500]), "cannot be read"),
        ("model.safetensors", lambda p: p.write_bytes(b"\x80\x04pickle"), "cannot be read"),
    ],
)
def test_damaged_checkpoints_are_refused_by_name(model, tmp_path, file, damage, message):
    model.save(tmp_path / "model")
    damage(tmp_path / "model" / file)
    with pytest.raises(ValueError, match=message):
        QuReModel.load(tmp_path / "model")


def test_weights_of_another_shape_are_refused_by_key(model, tmp_path):
    model.save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_query_tokens": 4}))
    with pytest.raises(ValueError, match="query_tokens"):
        QuReModel.load(tmp_path / "model")


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="encoder"):
        QuReModel(ModelConfig(encoder="resnet"))


def test_saving_replaces_a_whole_checkpoint_or_nothing(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("qure_lib.model.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_captions_are_cleaned_padded_and_cut(stage1):
    tokenizer = load_tokenizer(stage1)
    ids, mask = tokenize(tokenizer, ["Is RED.", "is red and is much longer and has a v neck"], 8)
    assert ids.shape == mask.shape == (2, 8)
    assert mask.sum(dim=1).tolist() == [4, 8]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == clean_caption("Is RED.")
    assert tokenizer.unk_token_id not in ids


def test_a_missing_or_empty_vocabulary_is_refused(stage1, tmp_path):
    with pytest.raises(ValueError, match="missing"):
        load_tokenizer(tmp_path)
    tokenizer = json.loads((stage1 / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"[UNK]": 1}
    tokenizer |= {"added_tokens": [], "post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="is not a vocabulary"):
        load_tokenizer(tmp_path)
    for damaged in ("{}", (stage1 / "tokenizer.json").read_text()[:500]):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
            load_tokenizer(tmp_path)


# --- BERT-uncased's tokenizer --------------------------------------------------------------------


def pack(vocabulary, folder):
    """The same tokens as tokenizer.json with [DEC], as `transformers` saves them."""
    bert_tokenizer(vocabulary).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_captions_get_the_ids_of_the_real_bert(packed, bert_vocabulary, bert_captions, tmp_path):
    folder = pack(bert_vocabulary, tmp_path) if packed else bert_vocabulary
    tokenizer = bert_tokenizer(folder)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id) == (30_523, 30_522, 0)
    for caption, ids in bert_captions["captions"].items():
        assert tokenize(tokenizer, [caption], 32)[0].tolist() == [ids], caption
    ids, mask = tokenize(tokenizer, list(bert_captions["captions"]), 32)
    assert mask.sum(dim=1).tolist() == [len(i) for i in bert_captions["captions"].values()]
    assert (ids[mask == 0] == 0).all()


def test_settings_saved_beside_a_vocabulary_change_nothing(bert_vocabulary, tmp_path):
    folder = pack(bert_vocabulary, tmp_path)
    saved = json.loads((folder / "tokenizer.json").read_text())
    cut = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    saved["truncation"] = cut
    saved["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    captions = ["Is shiny and SILVER with shorter sleeves"]
    expected = tokenize(bert_tokenizer(bert_vocabulary), captions, 32)[0]
    assert tokenize(bert_tokenizer(folder), captions, 32)[0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tokens: None, "neither vocab.txt nor tokenizer.json"),
        (lambda tokens: [], "holds 1 tokens"),
        (lambda tokens: tokens[:-1], r"holds 30,521 tokens.*bert-base-uncased"),
        (lambda tokens: tokens + ["[more]"], "holds 30,523 tokens"),
        (lambda tokens: tokens[:-1] + ["[PAD]"], "holds 30,521 tokens"),
        (lambda tokens: tokens + ["[PAD]"], "a token twice"),
        (lambda tokens: ["[DEC]"] + tokens[1:], "holds 30,521 tokens"),
        (lambda tokens: tokens[1:] + tokens[:1], r"not BERT-uncased's: \{'\[PAD\]': 30521"),
    ],
)
def test_another_vocabulary_is_refused(damage, message, bert_vocabulary, tmp_path):
    tokens = (bert_vocabulary / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if (damaged := damage(tokens)) is not None:
        (tmp_path / "vocab.txt").write_text("\n".join(damaged), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        bert_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_a_file_that_is_no_vocabulary_is_named(file, tmp_path):
    (tmp_path / file).write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=f"{file} is not a vocabulary"):
        bert_tokenizer(tmp_path)
