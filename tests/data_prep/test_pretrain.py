"""Stage 1: the shipped checkpoint is the mini recipe's, and the large model trains as well."""

import json
import re
import shlex
from dataclasses import replace

import pytest
import torch

from data_prep import pretrain, synthfashion
from data_prep.pretrain import LARGE, MINI, MODELS
from qure_lib.features.model_folder import load_model
from qure_lib.features.tokenizer import load_tokenizer
from qure_lib.method.config import ModelConfig
from qure_lib.method.model import QuReModel


@pytest.fixture
def tiny(monkeypatch):
    """18 train images, in batches of 8."""
    monkeypatch.setitem(synthfashion.SIZES, "smoke", {"train": 6, "val": 40})
    monkeypatch.setitem(synthfashion.ANNOTATORS, "smoke", 2)
    for name, recipe in MODELS.items():
        settings = recipe.settings | {"batch_size": 8}
        monkeypatch.setitem(MODELS, name, replace(recipe, settings=settings))


def test_the_shipped_checkpoint_is_the_mini_recipes(stage1):
    manifest = json.loads((stage1 / "manifest.json").read_text())
    assert MINI.folder == stage1
    assert manifest["settings"] == MINI.settings
    assert manifest["model"].items() >= MINI.shape.items()
    assert (manifest["world_size"], manifest["world_seed"]) == (MINI.size, pretrain.WORLD_SEED)


def test_every_recipe_has_a_world_and_a_folder_of_its_own():
    for recipe in MODELS.values():
        assert synthfashion.SIZES[recipe.size]["train"] * 3 >= recipe.settings["batch_size"]
        assert recipe.size in synthfashion.ANNOTATORS
    for part in ("world", "folder", "size"):
        assert len({getattr(recipe, part) for recipe in MODELS.values()}) == len(MODELS)


def test_the_large_model_has_ten_million_parameters():
    with torch.device("meta"):
        model = QuReModel(ModelConfig(**LARGE.shape, vocab_size=300))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(10e6, rel=0.01)


def test_the_large_model_is_trained_and_written(tiny, tmp_path, capsys):
    folder, world = tmp_path / "large", tmp_path / "world"
    options = ["--model", "large", "--world", str(world), "--size", "smoke", "--epochs", "2"]
    pretrain.main([str(folder), *options])
    assert str(folder) in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"] == LARGE.settings | {"epochs": 2, "batch_size": 8}
    assert manifest["world_size"] == "smoke" and manifest["val_images"] == 120
    assert manifest["loss_last_epoch"] > 0
    config = load_model(folder).config
    assert config == ModelConfig(**LARGE.shape, vocab_size=len(load_tokenizer(folder)))


def test_a_number_of_epochs_below_one_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        pretrain.main([str(tmp_path / "new"), "--epochs", "0"])
    assert "--epochs must be at least 1, not 0" in capsys.readouterr().err


def test_the_mini_model_s_bits_do_not_depend_on_a_gpu(tiny, tmp_path, monkeypatch, stage1):
    monkeypatch.setattr(pretrain, "train_tokenizer", lambda captions: load_tokenizer(stage1))
    settings = MODELS["mini"].settings | {"epochs": 1}
    recipe = replace(MINI, settings=settings, size="smoke", world=tmp_path / "world")
    weights = []
    for there_is_one in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=there_is_one: answer)
        model, _, record = pretrain.pretrain(recipe)
        assert record["trained_on"] == "cpu"
        weights.append(model.state_dict())
    without, beside = weights
    assert all(torch.equal(value, beside[name]) for name, value in without.items())


def test_the_commands_of_the_study_s_page_are_understood(root):
    page = (root / "docs" / "study.md").read_text()
    commands = re.findall(r"python -m data_prep\.pretrain([^\n#`]*)", page)
    assert commands
    for arguments in commands:
        options = pretrain.parser().parse_args(shlex.split(arguments))
        assert f"--checkpoint {MODELS[options.model].folder} " in page
