"""Weights, tokenizers, arrays, profiles and parameters that would run a command if they could."""

import ast
import json
import os
import shutil

import lab
import numpy as np
import papermill
import pytest
import run
import torch
from nbformat.v4 import new_code_cell, new_notebook

from qure_lib.features.model_folder import load_model
from qure_lib.features.saved_embeddings import SavedEmbeddings
from qure_lib.features.tokenizer import bert_tokenizer, load_tokenizer
from qure_lib.own_scores import open_array
from qure_lib.train.checkpoints import load_checkpoint

CODE = "__import__('os').mkdir('made')"
KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3"}
TEXTS = [
    CODE,
    f'"; {CODE}; "',
    f'"""\n{CODE}\n"""',
    f"'''\n{CODE}\n'''",
    f"\\\n{CODE}  # \\",
    f'\\"\n{CODE}',
    f"{{{CODE}}}",
    f"a\r\n{CODE}\x0b\x0c\x85\u2028{CODE}",
]


class Command:
    """Unpickled, it would make the folder "made"."""

    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("made"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_runs_nothing(tmp_path, zipped):
    path = tmp_path / "checkpoint.pt"
    state = {"epoch": 1, "model": {"weight": torch.zeros(2)}, "hook": Command()}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("read", [SavedEmbeddings.open, open_array])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_of_objects_runs_nothing(tmp_path, read, suffix):
    path, array = tmp_path / f"scores.{suffix}", np.array([[Command()]], dtype=object)
    np.save(path, array) if suffix == "npy" else np.savez(path, images=array)
    with pytest.raises(ValueError, match=r"scores\.np"):
        read(path)


def write_module(folder):
    """A module that a configuration could name, and the keys by which hub models do that."""
    (folder / "evil.py").write_text(f"{CODE}\nclass Evil: pass\n")
    names = dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "evil.Evil")
    return {"auto_map": names, "tokenizer_class": "Evil", "trust_remote_code": True}


def test_a_tokenizer_brings_no_code(stage1, bert_vocabulary, tmp_path):
    own = shutil.copytree(stage1, tmp_path / "own")
    bert = shutil.copytree(bert_vocabulary, tmp_path / "bert")
    for folder in (own, bert):
        settings, path = write_module(folder), folder / "tokenizer_config.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | settings))
    caption = "is red and has dots"
    assert load_tokenizer(own)(caption).input_ids == load_tokenizer(stage1)(caption).input_ids
    assert len(bert_tokenizer(bert)) == 30_523


def test_a_model_folder_brings_no_code(stage1, tmp_path):
    folder = shutil.copytree(stage1, tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | write_module(folder)))
    with pytest.raises(
        ValueError, match=r"config\.json: .*auto_map, tokenizer_class, trust_remote"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    "line",
    [
        "!!python/object/apply:os.mkdir [made]",
        "!!python/object/new:os.mkdir [[made]]",
        "!!python/name:os.mkdir ''",
        "!!python/module:antigravity ''",
    ],
)
def test_a_profile_makes_no_object(tmp_path, line):
    path = tmp_path / "tiny.yaml"
    path.write_text(f"all: {{epochs: {line}}}\n")
    with pytest.raises(ValueError, match=r"tiny\.yaml is not YAML: could not determine"):
        run.load_profile(path)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "wrap", [str, lambda t: [t], lambda t: {t: t}], ids=["text", "list", "key"]
)
def test_a_parameter_is_a_value_and_never_code(text, wrap):
    """As `run.py` hands it to papermill, and as `lab.py` writes it into a copy."""
    cell = new_code_cell('data_root = "a"  # folder', metadata={"tags": ["parameters"]})
    notebook = papermill.parameterize.parameterize_notebook(
        new_notebook(cells=[cell], metadata={"kernelspec": KERNEL, "papermill": {}}),
        {"data_root": wrap(text)},
    )
    for source in (
        notebook.cells[1].source,
        lab.set_parameters(cell.source, {"data_root": wrap(text)}),
    ):
        (assignment,) = ast.parse(source).body
        assert isinstance(assignment, ast.Assign)
        assert ast.literal_eval(assignment.value) == wrap(text)


def test_text_for_a_number_is_refused_before_anything_runs(write_notebook, tmp_path):
    write_notebook("01_first", 'reports_dir = "../reports"  # a\nepochs = 2  # b')
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir()
    (profiles / "tiny.yaml").write_text(f'01_first: {{epochs: "{CODE}"}}\n')
    with pytest.raises(ValueError, match="is of type str, its default 2 of type int"):
        run.plan(tmp_path / "notebooks", "tiny", [], {})
