"""Published weights at tiny sizes: recognised by content, loaded strictly, written once."""

import json
import os
import pickle
import shutil
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from lavis_reference import VOCAB, LavisQuRe, tiny_config
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from qure_lib.features import model_folder, published_weights
from qure_lib.features.model_folder import load_model
from qure_lib.features.published_weights import (
    convert_lavis_checkpoint,
    load_pretrained,
    main,
    parameter_counts,
)
from qure_lib.features.retriever import Retriever
from qure_lib.features.tokenizer import load_tokenizer
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel

PREFIX = "visual_encoder."
CONV, POSITIONS = f"{PREFIX}conv1.weight", f"{PREFIX}positional_embedding"
WORDS = "Qformer.bert.embeddings.word_embeddings.weight"


def lavis_state(encoder: str = "clip") -> dict[str, torch.Tensor]:
    return LavisQuRe(tiny_config(encoder)).randomise(seed=3).state_dict()


def split(state: dict) -> tuple[dict, dict]:
    """(what LAVIS keeps in its checkpoint, what it keeps in the vision tower's own file)."""
    tower = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    return {k: v for k, v in state.items() if not k.startswith(PREFIX)}, tower


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(ours: QuReModel, other: QuReModel) -> bool:
    states = ours.state_dict(), other.state_dict()
    alike = states[0].keys() == states[1].keys() and ours.config == other.config
    return alike and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


# --- LAVIS's files -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_the_architecture_is_read_from_the_shapes(encoder, tmp_path):
    model = load_pretrained(write(tmp_path / "a.pth", {"model": lavis_state(encoder)}))
    assert model.config == tiny_config(encoder)
    assert model.temperature.item() == pytest.approx(0.3)
    assert not any(p.requires_grad for p in model.vision_encoder.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
        lambda state: state,
        lambda state: {"epoch": 3, "Blip2QformerCir": state},
        lambda state: {"run": {"best": {"state": {"model": state}}, "seed": 1}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"a": {"b": {"c": {"d": state}}}},
        lambda state: {"checkpoints": [{"epoch": 1}, ({"model": state}, 3)]},
        lambda state: {"model": state, "config": {"query_tokens": 32, "model": "query_tokens"}},
        lambda state: {n: v.half() if n.startswith(PREFIX) else v for n, v in state.items()},
    ],
    ids=["LAVIS", "bare", "nested", "deep", "prefixed", "four", "list", "config", "half"],
)
def test_content_decides_not_the_name(wrap, tmp_path):
    expected = load_pretrained(write(tmp_path / "a.pth", {"model": lavis_state()}))
    loaded = load_pretrained(write(tmp_path / "model.safetensors", wrap(lavis_state())))
    if "half" in os.environ["PYTEST_CURRENT_TEST"]:
        expected.vision_encoder.half().float()
    assert same(loaded, expected)


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_the_tower_may_be_a_file_of_its_own(encoder, tmp_path):
    state = lavis_state(encoder)
    trained, tower = split(state)
    paths = write(tmp_path / "a.pth", {"model": trained}), write(tmp_path / "tower.pth", tower)
    whole = write(tmp_path / "whole.pth", state)
    assert same(load_pretrained(*paths), load_pretrained(whole))
    with pytest.raises(ValueError, match=r"a\.pth comes without .* vision tower.*`vision`"):
        load_pretrained(paths[0])
    with pytest.raises(ValueError, match=r"whole\.pth holds its own.*leave .*tower\.pth out"):
        load_pretrained(whole, paths[1])
    with pytest.raises(ValueError, match="is not a BLIP-2 checkpoint"):
        load_pretrained(paths[1])
    with pytest.raises(ValueError, match="is not a vision tower"):
        load_pretrained(paths[0], write(tmp_path / "b.pth", trained))


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_the_last_block_of_a_whole_tower_is_left_out(encoder, tmp_path, monkeypatch):
    trained, tower = split(lavis_state(encoder))
    width = tiny_config(encoder).vision_width
    extra = {"ln_post.weight": torch.ones(width)} if encoder == "clip" else {}
    paths = write(tmp_path / "a.pth", trained), write(tmp_path / "tower.pth", tower | extra)
    monkeypatch.setattr(published_weights, "PUBLISHED_BLOCKS", {(encoder, width): 2})
    with pytest.warns(UserWarning, match=rf"left out: .*{'ln_post' if extra else 'blocks.2'}"):
        model = load_pretrained(*paths)
    assert model.config.vision_layers == 2
    shorter = {n: v for n, v in tower.items() if "blocks.2." not in n}
    assert same(model, load_pretrained(paths[0], write(tmp_path / "shorter.pth", shorter)))
    with pytest.raises(ValueError, match="3 vision blocks of width"):  # not within a checkpoint
        load_pretrained(write(tmp_path / "b.pth", lavis_state(encoder)))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [(21, "21 vision .*BLIP-2 has 23: .*PyPI's salesforce-lavis 1.0.2"), (24, "BLIP-2 has 23:")],
)
def test_a_vit_l_of_another_depth_is_refused(blocks, message, tmp_path):
    state, _ = split(lavis_state())
    state["ln_vision.weight"] = torch.ones(1024)
    state[CONV] = torch.zeros(1024, 3, 14, 14)
    state[POSITIONS] = torch.zeros(257, 1024)
    for block in range(blocks):
        state[f"{PREFIX}transformer.resblocks.{block}.ln_1.weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=message):
        load_pretrained(write(tmp_path / "a.pth", state))


def test_the_other_tower_is_refused(tmp_path):
    trained, _ = split(lavis_state("clip"))
    _, tower = split(lavis_state("eva"))
    paths = write(tmp_path / "a.pth", trained), write(tmp_path / "eva_vit_g.pth", tower)
    with pytest.raises(ValueError, match=r"width 128, the vision tower gives 176.*eva_vit_g"):
        load_pretrained(*paths)


TEXT = "Qformer.bert.encoder.layer.1.output.dense.weight"
IN_PROJ = f"{PREFIX}transformer.resblocks.0.attn.in_proj_bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(TEXT), "Missing .*qformer.encoder.layer.1.output.dense.weight"),
        (lambda s: s.pop("temp"), "Missing .*temperature"),
        (lambda s: s.pop("ln_vision.weight"), "ln_vision.weight is missing or not shaped"),
        (lambda s: s.pop(f"{PREFIX}ln_pre.bias"), "Missing .*pre_layrnorm.bias"),
        (
            lambda s: s.update({f"{PREFIX}transformer.resblocks.3.ln_1.bias": torch.ones(128)}),
            r"Missing .*layers\.3\.self_attn\.v_proj\.weight",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "Unexpected .*extra"),
        (lambda s: s.update(temp=torch.ones(2)), r"size mismatch for temperature: .*\[2\]"),
        (lambda s: s.update(temperature=torch.tensor(0.3)), "holds temperature twice"),
        (lambda s: s.update(itm_head=torch.ones(1)), "Unexpected .*itm_head"),
        (lambda s: s.update(temp=torch.tensor(float("nan"))), "not finite .*: temperature"),
        (lambda s: s.update(temp=torch.tensor(1)), "not finite .*: temperature"),
        (lambda s: s.update(temp=torch.zeros(2).to_sparse()), "not dense tensors: temp"),
        (lambda s: s.update(epoch=3), "not dense tensors: epoch"),
        (lambda s: s.update(query_tokens=torch.zeros(1, 0, 128)), "query_tokens"),
        (lambda s: s.update({"a.query_tokens": torch.ones(1)}), "weights under .*choose one"),
        (lambda s: s.update(ema=dict(s)), "weights under .*choose one"),
        (lambda s: s.update(Qformer={"bert": {"x": 1}}, **{"Qformer.bert.x": 2}), "x twice"),
        (lambda s: s.update(query_tokens=torch.ones(1).expand(1, 10**9, 128)), "more bytes"),
        (lambda s: s.update({CONV: torch.tensor(1.0)}), "patch_embedding"),
        (lambda s: s.update({IN_PROJ: torch.tensor(1.0)}), "misshapen tensor in the tower"),
        (lambda s: s.update({POSITIONS: torch.zeros(6, 128)}), "6 positions are not a square"),
        (lambda s: s.update({WORDS: torch.ones(9, 100)}), "width 100 is no multiple"),
    ],
)
def test_loading_is_strict_and_names_the_key(change, message, tmp_path):
    state = lavis_state()
    change(state)
    with pytest.raises(ValueError, match=rf"a\.pth.*{message}"):
        load_pretrained(write(tmp_path / "a.pth", state))


def test_a_vocabulary_without_dec_is_refused(tmp_path):
    state = lavis_state()
    state[WORDS] = torch.zeros(30_522, 128)
    with pytest.raises(ValueError, match=r"30,522 word embeddings.*\[DEC\].*get blip2-itm-vit-g"):
        load_pretrained(write(tmp_path / "a.pth", state))


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def write_both_ways(path: Path, content: object) -> list[Path]:
    """A checkpoint in torch's present format, and in the one before 1.6."""
    old = path.with_suffix(".old.pth")
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return [write(path, content), old]


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    plain, code = tmp_path / "plain.pth", Code(tmp_path / "made")
    plain.write_bytes(pickle.dumps({"model": code}, protocol=2))
    beside = write_both_ways(tmp_path / "beside.pth", {"model": lavis_state(), "args": code})
    within = Namespace(lr=1.0, hook=code)
    within = write_both_ways(tmp_path / "within.pth", {"model": lavis_state(), "args": within})
    listed = np.array([code], dtype=object)
    listed = write_both_ways(tmp_path / "listed.pth", {"model": lavis_state(), "args": listed})
    for path in (plain, *beside, *within, *listed):
        reason = r"it holds [\w.]*(mkdir|ObjectDType), which only code .* never run; write the"
        with pytest.raises(ValueError, match=rf"{path.name} is not a checkpoint.*{reason}"):
            load_pretrained(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("other", [Path("folder"), defaultdict(int), np.array([{}], dtype=object)])
def test_what_is_no_plain_data_is_named_and_not_called_truncated(other, tmp_path):
    kind = "ObjectDType" if isinstance(other, np.ndarray) else type(other).__name__
    for path in write_both_ways(tmp_path / "a.pth", {"model": lavis_state(), "other": other}):
        with pytest.raises(ValueError, match=rf"it holds [\w.]+\.{kind}, which only code"):
            load_pretrained(path)


@pytest.mark.parametrize(
    "beside",
    [
        Namespace(lr=1e-5, run=Namespace(name="x", sizes=[1, 2])),
        np.float64(0.5),
        {"best": np.float32(3), "seen": np.int64(9), "done": np.bool_(True), "n": np.str_("x")},
        np.random.RandomState(0).get_state(),
        [np.zeros((2, 3)), np.dtype("float16")],
    ],
)
def test_plain_data_beside_the_weights_are_read_over(beside, tmp_path):
    expected = load_pretrained(write(tmp_path / "plain.pth", lavis_state()))
    for path in write_both_ways(tmp_path / "a.pth", {"model": lavis_state(), "beside": beside}):
        assert same(load_pretrained(path), expected)


def test_numpys_older_names_are_known_too(tmp_path):
    path = write_both_ways(tmp_path / "a.pth", {"model": lavis_state(), "best": np.float64(3)})[1]
    content, new = path.read_bytes(), b"numpy._core.multiarray"
    assert new in content
    path.write_bytes(content.replace(new, b"numpy.core.multiarray"))
    assert load_pretrained(path).temperature.item() == pytest.approx(0.3)


class TestSeveralStates:
    def warm(self):
        return {name: value + 1 for name, value in lavis_state().items()}

    @pytest.mark.parametrize(
        ("wrap", "names"),
        [
            (lambda one, other: {"model": one, "model_ema": other}, ["model", "model_ema"]),
            (lambda one, other: {"model": one, "ema": {"module": other}}, ["model", "ema"]),
            (lambda one, other: one | {"ema": other}, ["", "ema"]),
            (lambda one, other: {"model": one | {"ema": other}}, [None, "model.ema"]),
            (lambda one, other: {"states": [one, other]}, ["states.0", "states.1"]),
        ],
    )
    def test_are_named_and_one_can_be_chosen(self, wrap, names, tmp_path):
        path = write(tmp_path / "a.pth", wrap(lavis_state(), self.warm()))
        listed = "', '".join(name for name in names if name)
        with pytest.raises(
            ValueError, match=rf"a\.pth holds weights under .*{listed[-5:]}.*--state"
        ):
            load_pretrained(path)
        for name, temperature in zip(names, (0.3, 1.3), strict=True):
            if name is not None:
                chosen = load_pretrained(path, state=name)
                assert chosen.temperature.item() == pytest.approx(temperature)
        with pytest.raises(ValueError, match=r"holds weights under .*; choose one"):
            load_pretrained(path, state="mode")

    def test_a_wrong_choice_is_refused_where_there_is_one_too(self, stage1, tmp_path):
        path = write(tmp_path / "a.pth", {"model": lavis_state()})
        with pytest.raises(ValueError, match=r"holds weights under 'model'; choose one"):
            load_pretrained(path, state="model_ema")
        with pytest.raises(ValueError, match=r"is a folder, .*leave 'model' out"):
            load_pretrained(stage1, state="model")

    def test_of_towers_are_named(self, tmp_path):
        trained, tower = split(lavis_state())
        path = write(tmp_path / "a.pth", trained)
        vision = write(tmp_path / "tower.pth", {"visual": tower, "ema": tower})
        with pytest.raises(
            ValueError, match=r"tower\.pth holds .*'visual', 'ema'; .*saving it alone"
        ):
            load_pretrained(path, vision)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_lavis_names_in_safetensors(name, prefix, tmp_path):
    expected = load_pretrained(write(tmp_path / "plain.pth", lavis_state()))
    state = {f"{prefix}{n}": v.clone() for n, v in lavis_state().items()}
    save_file(state, tmp_path / name)
    assert same(load_pretrained(tmp_path / name), expected)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        load_pretrained(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 10, 1000, 200_000, -1])
def test_a_truncated_checkpoint_is_named(keep, tmp_path):
    path = write(tmp_path / "a.pth", lavis_state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.pth is not a checkpoint.*get the file again"):
        load_pretrained(path)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "page.pth").write_text("<html>404</html>")
    write(tmp_path / "list.pth", [1, 2])
    (tmp_path / "empty").mkdir()
    problems = {"page.pth": "not a checkpoint", "list.pth": "no tensors named query_tokens"}
    for name, message in (problems | {"absent.pth": "missing", "empty": "config.json"}).items():
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_pretrained(tmp_path / name)


# --- hub snapshots and our own -------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub():
    """A tiny blip2-itm-vit-g; every weight drawn, since `transformers` leaves the tower near 0."""
    vision = {"hidden_size": 176, "intermediate_size": 768, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    qformer = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    qformer |= {"num_attention_heads": 2, "encoder_hidden_size": 176, "vocab_size": VOCAB}
    qformer |= {"use_qformer_text_input": True}
    sizes = {"num_query_tokens": 4, "image_text_hidden_size": 16}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, **sizes)
    model = Blip2ForImageTextRetrieval(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


@pytest.fixture
def snapshot(hub, tmp_path):
    hub.save_pretrained(tmp_path / "snapshot", max_shard_size="500KB")
    assert len(list((tmp_path / "snapshot").glob("*.safetensors"))) > 2
    return tmp_path / "snapshot"


@pytest.mark.filterwarnings("ignore:.*no temperature")
def test_a_snapshot_embeds_as_the_hubs_own_class_does(hub, snapshot):
    model = load_pretrained(snapshot).eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids, mask = torch.tensor([[2, 7, 9], [2, 8, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = hub(pixels, ids, mask, use_image_text_matching_head=False)
    features = model.encode_features(pixels)
    assert (features - expected.vision_model_output.last_hidden_state).abs().max() > 0.1
    norm = hub.vision_model.post_layernorm
    torch.testing.assert_close(norm(features), expected.vision_model_output.last_hidden_state)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}  # ln_vision's eps is LAVIS's 1e-5, the hub's 1e-6
    torch.testing.assert_close(model.encode_image(features), expected.image_embeds, **tolerance)
    torch.testing.assert_close(model.encode_text(ids, mask), expected.text_embeds, **tolerance)


def test_a_snapshot_starts_from_the_stated_temperature(hub, snapshot, tmp_path):
    with pytest.warns(UserWarning, match="snapshot has no temperature.*0.07"):
        model = load_pretrained(snapshot)
    assert model.temperature.item() == pytest.approx(0.07)
    hub.save_pretrained(tmp_path / "in one file")
    with pytest.warns(UserWarning):
        assert same(load_pretrained(tmp_path / "in one file"), model)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


INDEX = "model.safetensors.index.json"


def copy_tensor(folder: Path) -> None:
    """Put a tensor of the first shard into the last as well."""
    first, *_, last = sorted(folder.glob("*.safetensors"))
    name, value = next(iter(load_file(first).items()))
    save_file(load_file(last) | {name: value + 1}, last)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f / "config.json", model_type="clip"), "config.json is of a 'clip' model"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (
            lambda f: edit(f / "config.json", vision_config={"num_attention_heads": 4}),
            "vision_config.num_attention_heads is not BLIP-2's 2",
        ),
        (lambda f: next(f.glob("*00002-of*.safetensors")).unlink(), "00002-of.*cannot be read"),
        (lambda f: next(f.glob("*00002-of*")).write_bytes(b"short"), "00002-of.*cannot be read"),
        (lambda f: edit(f / INDEX, weight_map=[]), "weight_map must map"),
        (lambda f: edit(f / INDEX, weight_map={"a": "../a.safetensors"}), "a file beside it"),
        (lambda f: edit(f / INDEX, weight_map={"a": 3}), "a file beside it"),
        (
            lambda f: edit(f / INDEX, weight_map={"a": next(f.glob("*00001-of*")).name}),
            r"names tensors that model-00001.* lacks: a",
        ),
        (lambda f: edit(f / INDEX, weight_map={}), "missing or not shaped"),
        (lambda f: copy_tensor(f), "snapshot holds .* twice"),
        (lambda f: (f / INDEX).unlink(), "model.safetensors cannot be read"),
    ],
)
def test_a_damaged_snapshot_is_refused(damage, message, snapshot):
    damage(snapshot)
    with pytest.raises(ValueError, match=message):
        load_pretrained(snapshot)


def test_our_own_folder_is_recognised(stage1, tmp_path):
    assert same(load_pretrained(stage1), load_model(stage1))
    with pytest.raises(ValueError, match=r"own vision tower; leave .*tower\.pth out"):
        load_pretrained(stage1, tmp_path / "tower.pth")


# --- conversion ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint with BERT's vocabulary and a tower in a file of its own."""
    state = lavis_state()
    words = torch.randn(30_523, 128, generator=torch.Generator().manual_seed(0))
    state[WORDS] = words
    trained, tower = split(state)
    folder = tmp_path_factory.mktemp("published")
    return write(folder / "a.pth", {"model": trained}), write(folder / "tower.pth", tower)


def test_a_converted_checkpoint_retrieves(published, bert_vocabulary, tmp_path):
    source, vision = published
    model = convert_lavis_checkpoint(source, tmp_path / "out", bert_vocabulary, vision)
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    images = {}
    for name, shade in (("dark", 20), ("light", 220)):
        images[name] = tmp_path / f"{name}.png"
        Image.fromarray(np.full((20, 16, 3), shade, dtype=np.uint8)).save(images[name])
    retriever = Retriever.open(tmp_path / "out", images, tmp_path / "cache")
    assert same(retriever.model.cpu(), model)
    assert len(retriever.tokenizer) == 30_523
    assert retriever.read_features(["dark", "light"]).shape == (2, 5, 128)


def test_nothing_is_overwritten_or_left_half_written(
    published, bert_vocabulary, tmp_path, monkeypatch
):
    source, vision = published
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(model_folder, "save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_lavis_checkpoint(source, tmp_path / "out", bert_vocabulary, vision)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not any((tmp_path / "out").iterdir())
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="out exists"):
        convert_lavis_checkpoint(source, tmp_path / "out", bert_vocabulary, vision)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_another_vocabulary_than_the_models_is_refused(bert_vocabulary, tmp_path):
    source = write(tmp_path / "a.pth", lavis_state())
    with pytest.raises(ValueError, match=r"a\.pth embeds 50 tokens, .* has 30,523"):
        convert_lavis_checkpoint(source, tmp_path / "out", bert_vocabulary)
    with pytest.raises(ValueError, match=r"vocab\.txt"):
        convert_lavis_checkpoint(source, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def run_command(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["published_weights", *map(str, arguments)])
    main()


def test_the_command(published, bert_vocabulary, tmp_path, monkeypatch, capsys):
    source, vision = published
    options = "--vocabulary", bert_vocabulary, "--vision", vision
    run_command(monkeypatch, source, tmp_path / "out", *options)
    printed = capsys.readouterr().out
    model = load_pretrained(tmp_path / "out")
    assert json.loads(printed.splitlines()[0]) == vars(model.config)
    assert load_tokenizer(tmp_path / "out").bos_token == "[DEC]"
    for part, count in parameter_counts(model).items():
        assert f"{count:,}  {part}" in printed
    both = write(tmp_path / "both.pth", {"ema": torch.load(source)["model"], "empty": {}})
    run_command(monkeypatch, both, tmp_path / "chosen", *options, "--state", "ema")
    assert same(load_pretrained(tmp_path / "chosen"), model)
    with pytest.raises(SystemExit, match="1"):
        run_command(monkeypatch, source, tmp_path / "other", *options[:2])
    assert "vision tower" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        run_command(monkeypatch, "--help")
    assert "--vocabulary" in capsys.readouterr().out


def test_a_copy_of_a_converted_folder_is_the_same_model(published, bert_vocabulary, tmp_path):
    source, vision = published
    convert_lavis_checkpoint(source, tmp_path / "out", bert_vocabulary, vision)
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    again = convert_lavis_checkpoint(tmp_path / "copy", tmp_path / "again", bert_vocabulary)
    assert same(again, load_pretrained(source, vision))


# --- the published sizes -------------------------------------------------------------------------


def vit_l_parameters(layers: int = 23, c: int = 1024) -> int:
    """CLIP ViT-L/14 at 224 pixels: its patches, 257 positions, and blocks of 12 C^2 + 13 C."""
    attention, mlp, norms = 4 * (c * c + c), 8 * c * c + 5 * c, 4 * c
    before = 3 * 14 * 14 * c + c + 257 * c + 2 * c  # patches, [CLS], positions, ln_pre
    return before + layers * (attention + mlp + norms)


def qformer_parameters(c: int, w: int = 768, layers: int = 12, vocabulary: int = 30_523) -> int:
    """BERT-base with a second feed-forward for queries, cross-attention in every other layer."""
    embeddings = vocabulary * w + 512 * w + 2 * w + 32 * w  # words, positions, norm, queries
    attention = 4 * (w * w + w) + 2 * w
    feed_forward = 8 * w * w + 5 * w + 2 * w
    crossing = 2 * (w * w + w) + 2 * (c * w + w) + 2 * w
    return embeddings + layers * (attention + 2 * feed_forward) + layers // 2 * crossing


@pytest.mark.slow
@pytest.mark.full_size
def test_the_published_vit_l_model_at_full_size():
    """ViT-L's 23 blocks hold 290.6 M parameters, the Q-Former 182.1 M (185.7 M with ViT-g).

    Both are the formulas', at sizes of CLIP's ViT-L/14 and BERT-base. BLIP-2 (arXiv:2301.12597,
    section 3.1) states 188 M for the Q-Former with its queries; its captioning head, left out here,
    adds 0.6 M, the two projections 0.4 M.
    """
    torch.manual_seed(0)
    model = QuReModel(ModelConfig()).train()
    counts = parameter_counts(model)
    unused_norm = 2 * 1024  # `CLIPVisionModel`'s post_layernorm
    assert counts["vision encoder"] - unused_norm == vit_l_parameters() == 290_581_504
    assert counts["Q-Former"] == qformer_parameters(1024) == 182_145_792
    features = model.encode_features(torch.randn(2, 3, 224, 224))
    images = model.encode_image(features)
    ids, mask = torch.randint(999, 30_522, (2, 32)), torch.ones(2, 32, dtype=torch.int64)
    queries = model.encode_query(features, ids, mask)
    shapes = features.shape, images.shape, queries.shape
    assert shapes == ((2, 257, 1024), (2, 32, 256), (2, 256))
    torch.einsum("bd,btd->bt", queries, images).amax(dim=1).sum().backward()
    for name, parameter in model.trainable_parameters().items():
        if name != "temperature":
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(p.grad is None for p in model.vision_encoder.parameters())


@pytest.mark.parametrize("encoder", ["clip", "eva"])
def test_the_formulas_count_the_tiny_models_too(encoder):
    counts = parameter_counts(QuReModel(tiny_config(encoder)))
    config = tiny_config(encoder)
    expected = qformer_parameters(config.vision_width, 128, 4, VOCAB) - (32 - 4) * 128
    assert counts["Q-Former"] == expected
    if encoder == "clip":
        sizes = 3 * 8 * 8 - 3 * 14 * 14 + 5 - 257
        assert counts["vision encoder"] == vit_l_parameters(3, 128) + (sizes + 2) * 128
