"""Models in the hub's way: folders and the cache first, whole or not at all, and what is pushed."""

import shutil
import socket

import pytest
import torch
from huggingface_hub import hub_mixin
from PIL import Image

from qure_lib.features import hub, model_folder
from qure_lib.features.hub import QuReModel
from qure_lib.features.model_folder import load_model, save_model
from qure_lib.features.retriever import Retriever
from qure_lib.features.tokenizer import load_tokenizer

WHOLE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
CARD = "---\nlibrary_name: qure-lib\n---\n\n# Drawn garments\n"


def names(folder):
    return {path.name for path in folder.iterdir()}


def same(one, other):
    states = one.state_dict(), other.state_dict()
    alike = one.config == other.config and states[0].keys() == states[1].keys()
    return alike and all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture
def best(stage1, tmp_path):
    """A run's best/, whose frozen tower is beside it, with a card."""
    folder = tmp_path / "run" / "best"
    tower = tmp_path / "run" / "vision_encoder.safetensors"
    save_model(load_model(stage1), folder, load_tokenizer(stage1), tower)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something was looked up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_runs_model_is_saved_whole_with_its_tokenizer_and_card(best, stage1, tmp_path):
    model = QuReModel.from_pretrained(best)
    assert not model.training and not model.vision_encoder.training
    assert model.save_pretrained(tmp_path / "saved") is None
    shutil.rmtree(tmp_path / "run")
    assert names(tmp_path / "saved") == WHOLE
    assert same(load_model(tmp_path / "saved"), load_model(stage1))
    assert (tmp_path / "saved" / "README.md").read_text() == CARD
    again = QuReModel.from_pretrained(tmp_path / "saved")
    assert same(again, model) and again.card == CARD
    assert again.tokenizer.get_vocab() == load_tokenizer(stage1).get_vocab()
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    opened = Retriever.open(tmp_path / "saved", {"a": tmp_path / "a.png"}, tmp_path / "cache")
    assert same(opened.model, model) and len(opened.tokenizer) == model.config.vocab_size


def test_a_model_made_here_is_saved_with_a_form_for_a_card(stage1, tmp_path):
    QuReModel(load_model(stage1).config).save_pretrained(tmp_path / "new")
    assert names(tmp_path / "new") == {"config.json", "model.safetensors", "README.md"}
    opened = QuReModel.from_pretrained(tmp_path / "new")
    assert opened.tokenizer is None
    assert "library_name: qure-lib" in opened.card and "licence" in opened.card


def test_a_tokenizer_of_another_model_is_refused(best, stage1):
    tokenizer = load_tokenizer(stage1)
    tokenizer.add_tokens(["[new]"])
    tokenizer.save_pretrained(best)
    with pytest.raises(ValueError, match="json has 283 tokens, the model embeds 282"):
        QuReModel.from_pretrained(best)


@pytest.mark.parametrize("name", ["user/model", "runs/no/such/folder", "model"])
def test_nothing_is_downloaded_unless_asked(name, no_network, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} is no folder.*pass local_files_only=False$"):
        QuReModel.from_pretrained(name, cache_dir=tmp_path)


def test_a_model_of_the_cache_is_opened_without_network(best, no_network, tmp_path):
    """The cache is laid out as `huggingface_hub` does: a branch's commit, and its files."""
    repository = tmp_path / "cache" / "models--user--model"
    QuReModel.from_pretrained(best).save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    opened = QuReModel.from_pretrained("user/model", cache_dir=tmp_path / "cache")
    assert same(opened, load_model(best)) and opened.card == CARD


def test_asked_to_it_downloads_settings_weights_and_card_only(best, monkeypatch):
    asked = {}

    def download(name, **settings):
        asked.update(settings, name=name)
        return str(best)

    monkeypatch.setattr(hub, "snapshot_download", download)
    QuReModel.from_pretrained("user/model", local_files_only=False, revision="v1", token="t")
    assert asked == {
        "name": "user/model", "local_files_only": False, "revision": "v1", "token": "t",
        "allow_patterns": ["*.json", "model.safetensors", "README.md"],
    }  # fmt: skip


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch, tmp_path):
    """HF_HUB_OFFLINE is set for all tests: to download is refused as on a machine without a net."""
    with pytest.raises(
        ValueError, match="user/model is no folder, and no model that the hub gives"
    ):
        QuReModel.from_pretrained("user/model", local_files_only=False, cache_dir=tmp_path)


def test_what_is_pushed_is_a_whole_model_under_its_name(best, monkeypatch):
    pushed = []

    class Api:
        def __init__(self, token):
            pushed.append(token)

        def create_repo(self, repo_id, private, exist_ok):
            pushed.append((repo_id, private))
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **_):
            pushed.append((repo_id, names(folder_path)))
            assert same(load_model(folder_path), load_model(best))
            assert (folder_path / "README.md").read_text() == CARD
            return "the commit"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model = QuReModel.from_pretrained(best)
    assert model.push_to_hub("user/model", token="t", private=True) == "the commit"
    assert pushed == ["t", ("user/model", True), ("user/model", WHOLE)]
    saved = best.parents[1] / "mine"
    assert model.save_pretrained(saved, push_to_hub=True, token="t") == "the commit"
    assert pushed[-1] == ("mine", WHOLE) and names(saved) == WHOLE


def test_a_folder_of_other_files_is_left_as_it_is(best, tmp_path):
    model = QuReModel.from_pretrained(best)
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mine holds \.git, too; name a new folder"):
        model.save_pretrained(tmp_path / "mine")
    assert names(tmp_path / "mine") == {".git", "config.json"}
    assert (tmp_path / "mine" / "config.json").read_text() == "{}"


def test_a_save_that_fails_leaves_the_model_that_was_there(best, tmp_path, monkeypatch):
    model = QuReModel.from_pretrained(best)
    model.save_pretrained(tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    monkeypatch.setattr(model_folder, "save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(tmp_path / "saved")
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before
    monkeypatch.undo()
    model.card = "---\nlibrary_name: qure-lib\n---\n\nanother\n"
    model.save_pretrained(tmp_path / "saved")  # a model is replaced, card and all
    assert (tmp_path / "saved" / "README.md").read_text() == model.card


def test_saving_where_it_was_opened_makes_a_runs_model_whole(best):
    model = QuReModel.from_pretrained(best)
    model.save_pretrained(best)
    assert names(best) == WHOLE and same(load_model(best), model)
