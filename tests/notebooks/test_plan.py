"""The plan of a published-size profile: its counts, its rates, and what it says is next."""

import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import plan
import pytest
import run
import torch
import yaml
from analysis import training
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
from qure_lib.files import replacing
from qure_lib.method.config import ModelConfig, TrainConfig
from qure_lib.method.model import QuReModel

PUBLISHED = ModelConfig()
GB = 1e9
ROWS = {  # of benchmarks/gpu.py: what -> value, unit
    "features: files to store": (100, "images/s"),
    "step: features on the card": (50, "samples/s"),
    "step: features in host memory": (20, "samples/s"),
    "embedding: queries and images": (1000, "items/s"),
    "compilation": (60, "s"),
    "step: compiled": (1, "1 = yes"),
    "a row of another name": ("none", "s"),
}
RATES = plan.Rates({what: float(ROWS[what][0]) for what in plan.BY_HAND}, "a made-up card")


@pytest.fixture(autouse=True)
def published_gpu(monkeypatch):
    """No GPU here, so a plan is for one of 24 GB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def write_rates(tmp_path, monkeypatch):
    """Write ROWS, some of them replaced or (None) left out, as a CSV below tmp_path."""
    monkeypatch.setattr(plan, "ROOT", tmp_path)

    def write(path: Path, device: str, **replaced: object) -> None:
        values = {what: value for what, (value, _) in ROWS.items()} | replaced
        rows = [
            dict(what=what, value=value, unit=ROWS[what][1], size="ViT-L", device=device, threads=2)
            for what, value in values.items()
            if value is not None
        ]
        with replacing(tmp_path / path) as file:
            pd.DataFrame(rows).to_csv(file, index=False)

    return write


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
    features = next(iter(plan.data_costs("fashioniq", PUBLISHED, RATES)))
    assert "40,551 images x 526 KB = 21.3 GB" in features.state
    assert "(13.2 GB for training)" in features.state
    embeddings = next(iter(plan.data_costs("circo", PUBLISHED, RATES)))
    assert "123,403 images x 16 KB x 5 models = 10.1 GB" in embeddings.state


def test_times_are_counts_by_rates(monkeypatch):
    # FashionIQ: 30 epochs, definitions at 5, 10, 15, 20 and 25; its features do not fit 24 GB
    assert plan.times("fashioniq", PUBLISHED, RATES) == pytest.approx(
        {
            "features": 40_551 / 100,
            "training": 4 * (30 * 18_000 / 20 + 60),
            "definitions": 4 * 5 * (18_000 + 18_000) / 1000,  # the pools are the targets
            "val": 4 * 30 * (6_016 + 15_415) / 1000,
        }
    )
    # CIRR: 50 epochs, definitions at 8, 16, 24, 32, 40 and 48; its features fit 32 GB
    monkeypatch.setattr(plan, "gpu_memory", lambda: 32 * GB)
    cirr = plan.times("cirr", PUBLISHED, RATES)
    assert cirr["training"] == pytest.approx(4 * (50 * 28_225 / 50 + 60))
    assert cirr["definitions"] == pytest.approx(4 * 6 * (28_225 + 16_939) / 1000)


def test_a_corpus_without_stored_features_is_encoded_for_each_model():
    circo, judged = (plan.times(name, PUBLISHED, RATES) for name in ("circo", "hp-fashioniq"))
    assert circo == pytest.approx({"ranking": 5 * (123_403 / 100 + (123_403 + 220) / 1000)})
    assert judged == pytest.approx({"ranking": 5_473 / 100 + (5_473 + 3_050) / 1000})


def test_times_are_printed_in_units_that_can_be_read():
    spans = {0: "0 s", 22: "22 s", 119: "119 s", 120: "2.0 min", 7190: "119.8 min", 7200: "2.0 h"}
    assert {seconds: plan.duration(seconds) for seconds in spans} == spans
    lines = {line.what: line.state for line in plan.data_costs("fashioniq", PUBLISHED, RATES)}
    assert lines["time: fashioniq"] == (
        "features 6.8 min, training 30.1 h, definitions 12.0 min, val 42.9 min; together 31.1 h"
    )
    assert lines["rates: fashioniq"] == (
        "features 100 images/s, training 20 samples/s (features in host memory), "
        "a definition 36.0 s, a val 21.4 s, compilation 60 s a run"
    )


def test_features_are_on_the_card_where_they_fit_it_and_training(monkeypatch):
    size = 40_551 * 2 * 257 * 1024 + 16 * GB  # of FashionIQ, with what stays free
    for memory, place in {size: plan.ON_CARD, size - 1: plan.IN_HOST}.items():
        monkeypatch.setattr(plan, "gpu_memory", lambda memory=memory: memory)
        assert plan.place_features("fashioniq", PUBLISHED, RATES)[0] == place
    assert (
        "21.3 GB of them and 16 GB kept free"
        in plan.place_features("fashioniq", PUBLISHED, RATES)[1]
    )


def test_the_gpu_here_decides_and_one_of_24_gb_where_there_is_none(monkeypatch):
    assert plan.gpu_memory() == 24 * GB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    here = SimpleNamespace(total_memory=80 * GB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: here)
    assert plan.gpu_memory() == 80 * GB
    assert plan.place_features("fashioniq", PUBLISHED, RATES)[0] == plan.ON_CARD


def test_the_users_rates_come_first_then_the_shipped_ones_then_those_seen_by_hand(
    planned, write_rates
):
    def rates():
        text = planned("fashioniq")[1]
        return (
            re.search(r"^rates from +(.*)$", text, re.MULTILINE)[1],
            re.search(r"training ([\d,]+) samples/s", text)[1],
        )

    assert rates() == (
        "seen by hand on an NVIDIA H200, not measured with this code; "
        "`make bench` on your card writes your own",
        "1,063",
    )
    write_rates(plan.SHIPPED_CSV, "NVIDIA H100", **{plan.IN_HOST: 30})
    assert rates() == (
        "measured with this code on NVIDIA H100 (reports/shipped/benchmarks/gpu.csv: ViT-L); "
        "`make bench` on your card writes your own",
        "30",
    )
    write_rates(plan.OWN_CSV, "NVIDIA L4")
    source = "measured with this code on NVIDIA L4 (reports/benchmarks/gpu.csv: ViT-L)"
    assert rates() == (source, "20")


def test_a_card_that_cannot_hold_features_has_no_rate_for_it(write_rates, monkeypatch):
    """benchmarks/gpu.py runs FashionIQ's size, and CIRR's smaller features may fit all the same."""
    monkeypatch.setattr(plan, "gpu_memory", lambda: 32 * GB)
    write_rates(plan.OWN_CSV, "NVIDIA L4", **{plan.ON_CARD: None})
    place, why = plan.place_features("cirr", PUBLISHED, plan.find_rates())
    assert place == plan.IN_HOST and "not measured" in why
    assert plan.place_features("cirr", PUBLISHED, RATES)[0] == plan.ON_CARD


@pytest.mark.parametrize("value", [None, "", "fast", "nan", "inf", "0", "-3"])
@pytest.mark.parametrize("what", [plan.FEATURES, plan.IN_HOST, plan.EMBEDDING, plan.COMPILATION])
def test_a_broken_csv_is_refused(what, value, planned, write_rates):
    write_rates(plan.SHIPPED_CSV, "NVIDIA H100")
    write_rates(plan.OWN_CSV, "NVIDIA L4", **{what: value})
    status, text = planned("fashioniq")
    assert status == 2 and text.count("\n") == 1
    assert text.startswith("reports/benchmarks/gpu.csv") and what in text
    assert text.endswith("; delete the file, or run `make bench` on your card\n")


@pytest.mark.parametrize("text", ["", "what,value\n", "\x00\xff", f"{plan.FEATURES},1\n" * 3])
def test_a_file_of_something_else_is_refused(text, write_rates, tmp_path):
    (tmp_path / plan.OWN_CSV).parent.mkdir(parents=True)
    (tmp_path / plan.OWN_CSV).write_text(text)
    with pytest.raises(ValueError, match="gpu.csv has 0 rows 'features: files to store', not one"):
        plan.find_rates()


def test_a_row_that_comes_twice_is_refused(write_rates, tmp_path):
    write_rates(plan.OWN_CSV, "NVIDIA L4")
    with (tmp_path / plan.OWN_CSV).open("a") as file:
        file.write("compilation,61,s,ViT-L,NVIDIA L4,2\n")
    with pytest.raises(ValueError, match="gpu.csv has 2 rows 'compilation', not one"):
        plan.find_rates()


def test_a_new_data_set_of_the_registry_is_planned_like_the_others(planned, monkeypatch):
    twin = replace(FASHIONIQ, name="twin", key="twin")
    monkeypatch.setitem(PROTOCOLS, "twin", twin)
    ours, theirs = (list(plan.data_costs(name, PUBLISHED, RATES)) for name in ("twin", "fashioniq"))
    assert [line.state for line in ours] == [line.state for line in theirs]
    parts = ["disk: twin", "GPU: twin", "time: twin", "rates: twin"]
    assert [line.what for line in ours] == parts
    monkeypatch.setitem(PLACES, "twin", PLACES["fashioniq"] | {"data_root": Path("data/twin")})
    status, text = planned("twin")
    assert status == 0 and "twin: images" in text
    assert next_command(text) == "put the annotations of twin into data/twin"
    monkeypatch.setitem(PROTOCOLS, "twin", replace(twin, counts=Counts()))
    assert [line.what for line in plan.data_costs("twin", PUBLISHED, RATES)] == parts[2:]


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
    assert "configs = training.vary_negatives(recipe)" in code
    runs = list(training.vary_negatives(TrainConfig()))
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
