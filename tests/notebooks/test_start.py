"""analysis.start: verdicts from notes, models from finished runs; nothing is trained."""

import json
from dataclasses import replace

import pytest
import torch
from analysis import start
from report.folder import Reports

from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.train.loop import train
from qure_lib.train.training_data import load_training_data

CLAIM = {"interval": "1 [0, 2]", "n": "3", "on": "drawn", "seeds": 1}


def test_the_notebooks_of_the_kit_are_listed(root):
    listed = start.list_notebooks(root / "notebooks")
    files = sorted(path.name for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert ["00_start_here.ipynb", *listed.file] == files
    assert not listed.isna().any(axis=None)
    row = listed.set_index("file").loc["03_hard_negatives.ipynb"]
    assert row.notebook.startswith("03 ") and "Figures 5" in row.reproduces


def test_verdicts_are_those_of_the_notes(tmp_path):
    for name, verdict in (("a", "supported"), ("b", "within noise"), ("c", "supported")):
        Reports(tmp_path, "05_x").write_note("claim", name, "It.", verdict=verdict, **CLAIM)
    Reports(tmp_path, "01_x").write_note("table", "d", "It.")
    verdicts = start.last_verdicts(["01_x.ipynb", "02_x.ipynb", "05_x.ipynb"], tmp_path)
    ran = "it has run; it judges no claim"
    assert verdicts == [ran, "not run yet", "claims: 2 supported, 1 within noise"]
    assert start.last_verdicts(["01_x.ipynb"], tmp_path / "none") == ["not run yet"]


def test_links_open_the_notebooks(root):
    listed = start.list_notebooks(root / "notebooks").assign(verdict="not run yet")
    lines = start.as_links(listed).splitlines()
    assert len(lines) == 2 + len(listed)
    for line, file in zip(lines[2:], listed.file, strict=True):
        assert f"]({file}) |" in line and line.endswith("| not run yet |")
        assert line.count("|") == 4


@pytest.fixture(scope="module")
def started(smoke_world, stage1, tmp_path_factory):
    """A folder in which `cosine` and `in_batch` have run for two epochs; model, data and runs."""
    runs = tmp_path_factory.mktemp("runs")
    data = load_training_data(smoke_world)
    small = {
        split: {"dress": replace(queries["dress"], triplets=queries["dress"].triplets[:32])}
        for split, queries in (("train", data.train), ("val", data.val))
    }
    data = replace(data, **small, relevance={}, val_relevance={})
    retriever = Retriever.open(stage1, data.images, runs / "features")
    recipe = TrainConfig(epochs=2, n_def=2, learning_rate=1e-3)
    contrast = replace(recipe, objective="info_nce", mining=MiningConfig(strategy="all_corpus"))
    trained = {"cosine": recipe, "in_batch": contrast}
    trained = {name: train(c, retriever, data, runs, name) for name, c in trained.items()}
    return runs, retriever, data, trained


def same(a, b):
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.slow
def test_saved_models_have_the_weights_of_their_stage(started):
    runs, retriever, data, trained = started
    models = start.saved_models(runs, retriever, data)
    names = ["in-batch contrast", "drops in the cosine (released)"]
    assert list(models) == ["before warm-up", "after warm-up", *names]
    assert models["before warm-up"] is retriever
    assert same(models["after warm-up"], trained["cosine"].retriever(1))
    assert same(models[names[0]], trained["in_batch"].retriever("last"))
    assert same(models[names[1]], trained["cosine"].retriever("last"))
    assert not same(models["after warm-up"], models[names[1]])
    assert "in-batch contrast" in start.describe_models(models, runs)


@pytest.mark.slow
def test_runs_on_other_data_and_unfinished_runs_are_left_out(started, tmp_path):
    runs, retriever, data, trained = started
    other = replace(data, train={"dress": replace(data.train["dress"], triplets=())})
    assert list(start.saved_models(runs, retriever, other)) == ["before warm-up"]
    (tmp_path / "cosine-0").mkdir()
    (tmp_path / "cosine_auxiliary-0").symlink_to(trained["cosine"].folder)
    models = start.saved_models(tmp_path, retriever, data)
    assert list(models) == ["before warm-up"]
    assert "make reproduce" in start.describe_models(models, tmp_path)
    assert "No model" in start.describe_models({}, tmp_path)


def test_the_simulated_study_is_opened_and_the_real_one_before_it(
    smoke_world, tmp_path, monkeypatch
):
    monkeypatch.delenv("QURE_DATA", raising=False)
    judged, images, study = start.open_study(smoke_world)
    assert len(judged) == 500 and study.startswith("Simulated")
    assert set(judged.reference) <= images.keys()
    assert start.open_study(tmp_path) is None
    simulated = smoke_world / "hp_like" / "hpfiq_simulated.json"
    questions = json.loads(simulated.read_text())
    (tmp_path / "hpfiq").mkdir()
    first = dict(list(questions.items())[:1])
    (tmp_path / "hpfiq" / "hpfiq.json").write_text(json.dumps(first))
    monkeypatch.setenv("QURE_DATA", str(tmp_path))
    judged, images, study = start.open_study(tmp_path)
    assert study == "HP-FashionIQ" and judged.participant.nunique() == 1 and images == {}
