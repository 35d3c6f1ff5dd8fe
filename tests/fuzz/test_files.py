"""Damaged arrays, embeddings, models, checkpoints and archives: whole, or named and not used."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import damaged_bytes, damaged_json, inputs, named_or_valid
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_arrays
from shared import TINY

from data_prep.archives import unpack
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.features.model_folder import load_model, save_model
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.features.tokenizer import load_tokenizer, tokenize
from qure_lib.method.model import QuReModel
from qure_lib.own_scores import hard_negatives, open_array
from qure_lib.train.checkpoints import load_checkpoint, save_checkpoint, set_damaged_aside

FILES = {"images/a.txt": b"first " * 40, "images/deep/b.txt": b"second " * 40, "list.json": b"[]"}
RNG = np.random.default_rng(0)
ARRAYS = {"queries": RNG.random((2, 4)), "images": RNG.random((3, 2, 4))}
ARRAYS = {name: array.astype(np.float32) for name, array in ARRAYS.items()}
NAMES = {"query_ids": ["q0", "q1"], "image_ids": ["a", "b", "c"]}
QUERIES = QuerySet(
    "c",
    tuple(Triplet(q, "a", "", "b", "c", ()) for q in NAMES["query_ids"]),
    Corpus(tuple(NAMES["image_ids"]), ()),
    {},
)
STATE = {
    "epoch": 3,
    "model": {"weight": torch.arange(600.0), "temperature": torch.tensor(0.07)},
    "history": [{"epoch": 0, "loss": 0.5}],
    "seconds": {"mining": 1.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def embeddings(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind.startswith("npz"):
        save = np.savez_compressed if kind == "npz" else np.savez
        save(stream, **ARRAYS, **{n: np.array(ids) for n, ids in NAMES.items()})
        return stream.getvalue()
    metadata = {name: json.dumps(ids) for name, ids in NAMES.items()}
    return safetensors(ARRAYS, metadata)


def safetensors(arrays: dict, metadata: dict) -> bytes:

    return save_arrays(arrays, metadata)


EMBEDDINGS = {kind: embeddings(kind) for kind in ("npz", "npz, stored", "safetensors")}


@pytest.mark.parametrize("kind", EMBEDDINGS)
@inputs(2)
@given(data=st.data())
def test_saved_embeddings(kind, data, folder):
    path = folder / f"saved.{kind.partition(',')[0]}"
    path.write_bytes(data.draw(damaged_bytes(EMBEDDINGS[kind])))
    with named_or_valid(path):
        saved = SavedEmbeddings.open(path)
        saved.check_queries(NAMES["query_ids"])
        assert saved.embed_queries(QUERIES).isfinite().all()
        images = saved.embed_corpus(QUERIES.corpus)
    if "images" in locals() and images.shape[2] == 4:
        try:
            assert images[0:3].isfinite().all()
        except ValueError as error:
            assert "embedding of image" in str(error)


@inputs(2)
@given(data=st.data())
def test_arrays_of_scores(data, folder):
    stream = io.BytesIO()
    np.save(stream, ARRAYS["queries"])
    path = folder / "scores.npy"
    path.write_bytes(data.draw(damaged_bytes(stream.getvalue())))
    with named_or_valid(path):
        array = open_array(path)
        assert array.ndim and array.dtype.kind in "fiu"
    if "array" in locals():
        try:
            hard_negatives(array, np.zeros(len(array), dtype=np.int64))
        except ValueError as error:
            assert "score" in str(error) or "queries" in str(error)


@inputs(3)
@given(data=st.data())
def test_checkpoints(data, folder):
    path = folder / "checkpoint.pt"
    save_checkpoint(path, STATE)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    with named_or_valid(path):
        state = load_checkpoint(path)
        assert repr(state) == repr(STATE) and torch.equal(
            state["model"]["weight"], STATE["model"]["weight"]
        )


@inputs()
@given(data=st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(data, folder):
    path = folder / "two" / "checkpoint.pt"
    save_checkpoint(path, STATE | {"epoch": 2})
    save_checkpoint(path, STATE)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    set_damaged_aside(path)
    assert load_checkpoint(path)["epoch"] in (2, 3)
    shutil.rmtree(path.parent)


def archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind.startswith("zip"):
        method = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(stream, "w", method) as opened:
            for name, content in FILES.items():
                opened.writestr(name, content)
    else:
        modes = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
        with tarfile.open(fileobj=stream, mode=modes[kind]) as opened:
            for name, content in FILES.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVES = {
    kind: archive(kind) for kind in ("zip", "zip, stored", "tar", "tar.gz", "tar.bz2", "tar.xz")
}


@pytest.mark.parametrize("kind", ARCHIVES)
@inputs()
@given(data=st.data())
def test_archives(kind, data, folder):
    home = folder / f"unpacking {kind}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    path, target = home / "images.archive", home / "target"
    path.write_bytes(data.draw(damaged_bytes(ARCHIVES[kind])))
    made = []
    with named_or_valid(path):
        made = unpack(path, target)
    found = [p for p in target.rglob("*") if p.is_file()]
    assert sorted(home.iterdir()) == [path, target]
    assert all(any(p.is_relative_to(top) for top in made) for p in found)
    if kind != "tar":  # which keeps no checksum of its content
        assert all(p.read_bytes() in FILES.values() for p in found)


@pytest.fixture(scope="module")
def model(tmp_path_factory, stage1) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "whole"
    save_model(QuReModel(TINY), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stage1 / name, folder)
    return folder


def check_model(loaded: QuReModel, whole: Path) -> None:
    expected = load_model(whole).state_dict()
    for name, value in loaded.state_dict().items():
        assert value.shape == expected[name].shape and value.isfinite().all()


@inputs()
@given(data=st.data())
def test_weights_of_a_model(data, model, folder):
    damaged = shutil.copytree(model, folder / "weights", dirs_exist_ok=True)
    file = damaged / "model.safetensors"
    content = file.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.sampled_from([0, head, len(content) - 64]))  # header and numbers alike
    part = data.draw(damaged_bytes(content[at : at + head]))
    file.write_bytes(content[:at] + part + content[at + head :])
    with named_or_valid(damaged):
        check_model(load_model(damaged), model)


@inputs()
@given(data=st.data())
def test_configuration_of_a_model(data, model, folder):
    damaged = shutil.copytree(model, folder / "config", dirs_exist_ok=True)
    config = json.loads((model / "config.json").read_text())
    text = json.dumps(data.draw(damaged_json(config)))
    (damaged / "config.json").write_text(text)
    with named_or_valid(damaged):
        check_model(load_model(damaged), model)


@inputs()
@given(data=st.data())
def test_tokenizer_of_a_model(data, model, folder):
    damaged = shutil.copytree(model, folder / "tokens", dirs_exist_ok=True)
    file = damaged / data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    content = (model / file.name).read_bytes()
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(damaged_bytes(content)))
    else:
        file.write_text(json.dumps(data.draw(damaged_json(json.loads(content)))))
    with named_or_valid(damaged):
        ids, mask = tokenize(load_tokenizer(damaged), ["is red and has dots", "is blue"], 12)
        assert ids.shape == mask.shape and len(ids) == 2
