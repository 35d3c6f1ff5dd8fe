"""The plan of a published-size profile: its counts, its cost model, and what it says is next."""

import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import plan
import pytest
import run
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from data_prep.stand_in import stand_in
from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq, save_set_scores
from qure_lib.datasets.loading import real_annotations
from qure_lib.datasets.queries import Counts
from qure_lib.evaluation.__main__ import parser
from qure_lib.evaluation.fashioniq import FASHIONIQ
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel

PUBLISHED = ModelConfig()


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """Plan a profile over the data in tmp_path; the exit status and what was printed."""
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(run, "HERE", tmp_path / "notebooks")
    monkeypatch.setattr(plan, "read_places", lambda profile: dict(PLACES[profile]))

    def planned(*arguments: str):
        status = plan.main(["--profile", *arguments])
        return status, "".join(capsys.readouterr())

    return planned


PLACES = {profile: plan.read_places(profile) for profile in PROTOCOLS}


def next_command(text: str) -> str:
    return re.search(r"^Next: (.*)$", text, re.MULTILINE)[1]


@pytest.mark.skipif(real_annotations("fashioniq") is None, reason="QURE_DATA has no fashioniq/")
def test_fashioniqs_size_is_that_of_its_annotations():
    root = real_annotations("fashioniq")
    splits = {"train": "targets", "val": "original"}
    sets = {s: load_fashioniq(root, s, corpus=c, images=False).values() for s, c in splits.items()}
    images = {s: len({i for q in found for i in q.images}) for s, found in sets.items()}
    queries = {s: sum(map(len, found)) for s, found in sets.items()}
    counted = Counts(images["train"], images["val"], queries["train"], queries["val"])
    assert counted == PROTOCOLS["fashioniq"].counts


@pytest.mark.skipif(real_annotations("cirr") is None, reason="QURE_DATA has no cirr/")
def test_the_other_sizes_are_those_of_their_annotations():
    cirr = load_cirr(real_annotations("cirr"), "val", images=False)
    counts = {name: protocol.counts for name, protocol in PROTOCOLS.items()}
    assert (len(cirr.corpus), len(cirr)) == (counts["cirr"].images, counts["cirr"].queries)
    assert len(load_circo(real_annotations("circo"), images=False)) == counts["circo"].queries
    judged = load_hp_fashioniq(real_annotations("hpfiq") / "hpfiq.json")
    shown = {i for c in ("set_1", "set_2") for images in judged[c] for i in images}
    known = counts["hp-fashioniq"]
    assert (len(shown | set(judged["reference"])), len(judged)) == (known.images, known.queries)


def test_parameters_are_counted_without_making_them():
    small = replace(PUBLISHED, vision_width=64, vision_layers=2, qformer_width=96, vocab_size=99)
    frozen, trained = plan.count_parameters(small)
    model = QuReModel(small)
    assert trained == sum(p.numel() for p in model.trainable_parameters().values())
    assert frozen == sum(p.numel() for p in model.vision_encoder.parameters())


def test_operations_are_those_that_torch_counts():
    config = replace(
        PUBLISHED, image_size=56, vision_width=64, vision_layers=24, vision_heads=4,
        qformer_width=64, qformer_layers=4, qformer_heads=4, vocab_size=99,
    )  # fmt: skip
    model = QuReModel(config).eval().requires_grad_(False)
    pixels, features = torch.zeros(1, 3, 56, 56), torch.zeros(1, plan.vision_tokens(config), 64)
    ids = torch.ones(1, 16, dtype=torch.int64)
    passes = {
        plan.vision_operations(config): lambda: model.encode_features(pixels),
        plan.qformer_operations(config, 0): lambda: model.encode_image(features),
        plan.qformer_operations(config, 16): lambda: model.encode_query(features, ids, ids),
    }
    for expected, forward in passes.items():
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            forward()
        assert counted.get_total_flops() == pytest.approx(expected, rel=0.1)


def test_the_stores_take_what_their_arrays_take():
    (features, _) = plan.data_costs("fashioniq", PUBLISHED)
    assert "40,551 images x 526 KB = 21.3 GB" in features.state
    assert "(13.2 GB for training)" in features.state
    embeddings = next(iter(plan.data_costs("circo", PUBLISHED)))
    assert "123,403 images x 16 KB x 5 models = 10.1 GB" in embeddings.state


def test_a_longer_run_costs_more():
    fashioniq, cirr = (plan.times(name, PUBLISHED) for name in ("fashioniq", "cirr"))
    assert cirr["training"] / fashioniq["training"] == pytest.approx(50 * 28_225 / (30 * 18_000))
    assert fashioniq["definitions"] < fashioniq["training"] > fashioniq["features"]


def test_a_new_data_set_of_the_registry_is_planned_like_the_others(planned, monkeypatch):
    twin = replace(FASHIONIQ, name="twin", key="twin")
    monkeypatch.setitem(PROTOCOLS, "twin", twin)
    ours, theirs = (list(plan.data_costs(name, PUBLISHED)) for name in ("twin", "fashioniq"))
    assert [line.state for line in ours] == [line.state for line in theirs]
    assert [line.what for line in ours] == ["disk: twin", "time: twin"]
    monkeypatch.setitem(PLACES, "twin", PLACES["fashioniq"] | {"data_root": Path("data/twin")})
    status, text = planned("twin")
    assert status == 0 and "twin: images" in text
    assert next_command(text) == "put the annotations of twin into data/twin"
    monkeypatch.setitem(PROTOCOLS, "twin", replace(twin, counts=Counts()))
    assert [line.what for line in plan.data_costs("twin", PUBLISHED)] == ["time: twin"]


@pytest.mark.parametrize("profile", PROTOCOLS)
def test_nothing_is_there_at_first(profile, planned, monkeypatch, tmp_path):
    monkeypatch.delenv("QURE_DATA", raising=False)
    status, text = planned(profile)
    assert status == 0 and "missing" in text and str(tmp_path) not in text
    program, option, module, verb, root = shlex.split(next_command(text).split(";")[0])
    assert (program, option, verb) == (".venv/bin/python", "-m", "fetch")
    assert module.startswith("data_prep.") and root.startswith("data/")
    assert planned(profile, "--check")[0] == 1


def test_the_next_command_leads_on(planned, monkeypatch, tmp_path, smoke_world):
    """From nothing over images and weights to the run, on SynthFashion in FashionIQ's place."""
    root = tmp_path / PLACES["fashioniq"]["data_root"]
    stand_in("fashioniq", smoke_world, root, queries=4)
    weights = tmp_path / PLACES["fashioniq"]["checkpoint"]
    status, text = planned("fashioniq")
    arguments = shlex.split(next_command(text))
    assert arguments[1:3] == ["-m", "qure_lib.features.published_weights"]
    assert tmp_path / arguments[4] == weights
    weights.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (weights / name).touch()
    assert next_command(planned("fashioniq")[1]) == "make reproduce PROFILE=fashioniq"
    assert planned("fashioniq", "--check") == (0, "")
    load_fashioniq(root, "val")["dress"].corpus.paths[0].unlink()
    status, text = planned("fashioniq", "--check")
    assert status == 1 and "data_prep.fashioniq check data/fashioniq --images" in text
    assert planned("fashioniq", "--check", "--allow-missing") == (0, "")


@pytest.mark.parametrize("profile", PROTOCOLS)
def test_the_plan_names_every_run_that_it_counts(profile, planned):
    named = re.findall(r"^trained +(\d+) runs: (.*)$", planned(profile)[1], re.MULTILINE)
    assert len(named) == ("checkpoint" in PLACES[profile])
    assert all(int(count) == plan.RUNS == len(runs.split(", ")) for count, runs in named)


def test_notebook_04_compares_as_many_runs_as_the_plan_counts(root):
    notebook = nbformat.read(root / "notebooks" / "04_training.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    (configs,) = re.findall(r"^configs = \{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL)
    runs = re.findall(r'^    "(\w+)":', configs, re.MULTILINE)
    assert runs == ["cosine", "preference", "uniform", "in_batch"] and len(runs) == plan.RUNS


def test_scores_come_from_the_newest_run_of_the_released_rule(
    planned, monkeypatch, tmp_path, smoke_world
):
    monkeypatch.setenv("QURE_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "hpfiq").mkdir(parents=True)
    simulated = smoke_world / "hp_like" / "hpfiq_simulated.json"
    judged = load_hp_fashioniq(shutil.copy(simulated, tmp_path / "data" / "hpfiq" / "hpfiq.json"))
    assert next_command(planned("hp-fashioniq")[1]) == "make reproduce PROFILE=fashioniq"
    runs = {"cosine-87654321": 2, "cosine-12345678": 3, "cosine-00000000": 1}
    runs |= {"preference-12345678": 4, "cosine_largest-12345678": 5}  # not the released rule's
    for name, time in runs.items():
        (tmp_path / "runs" / name / "last").mkdir(parents=True)
        os.utime(tmp_path / "runs" / name / "last", (time, time))
    command = shlex.split(next_command(planned("hp-fashioniq")[1]))
    args = parser().parse_args(command[3:])
    assert str(args.checkpoint) == "runs/cosine-12345678/last"
    save_set_scores(tmp_path / args.set_scores, np.zeros((len(judged), 2)))
    assert next_command(planned("hp-fashioniq")[1]) == "make reproduce PROFILE=hp-fashioniq"


@pytest.mark.parametrize(("profile", "epochs"), [("fashioniq", 30), ("cirr", 50), ("circo", 50)])
def test_the_profiles_hold_the_published_values(profile, epochs, root):
    published = TrainConfig()
    path = root / "notebooks" / "profiles" / f"{profile}.yaml"
    jobs = run.plan(root / "notebooks", profile, [], {"reports_dir": root / "reports"})
    trained = [job.parameters for job in jobs if "epochs" in job.parameters]
    rate = {30: published.learning_rate, 50: 1e-5}[epochs]
    for parameters in trained:
        assert (parameters["epochs"], parameters["learning_rate"]) == (epochs, rate)
        for name in ("n_def", "batch_size", "seed"):
            assert parameters[name] == getattr(published, name)
    assert trained
    known = {"epochs", "n_def", "batch_size", "learning_rate", "seed", "drop_rule", "circo_prompt"}
    for line in path.read_text().splitlines():  # each value with its source
        name = line.strip().partition(":")[0]
        assert name not in known or re.search(r"  # .*(release|published)", line), line
    assert yaml.safe_load(path.read_text())
