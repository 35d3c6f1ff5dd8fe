"""The README's examples, run as they are written there."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image
from test_model import TINY

import qure_lib.mining
import qure_lib.model
from qure_lib.config import MiningConfig
from qure_lib.data import load_fashioniq
from qure_lib.runs import write_json


@pytest.fixture
def example(root):
    """Source of the one Python block under a README heading."""

    def find(heading: str) -> str:
        section = (root / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
        (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        return block

    return find


def test_the_strategy_mines(example, monkeypatch):
    monkeypatch.setattr(qure_lib.mining, "STRATEGIES", dict(qure_lib.mining.STRATEGIES))
    exec(example("Add a mining strategy"), vars(qure_lib.mining) | vars(torch))
    scores = torch.linspace(0.9, 0.1, 10)[None]
    chosen, report = qure_lib.mining.mine_hard_negatives(
        scores, torch.eye(10)[:, None], torch.tensor([0]), MiningConfig("middle_third")
    )
    assert chosen[0].tolist() == [4, 5, 6]  # of the nine below the target
    assert report.strategy == "middle_third"


def test_the_data_set_is_read(example, tmp_path):
    names = {"root": tmp_path, "write_json": write_json, "Image": Image}
    exec(example("Add a data set"), names | {"load_fashioniq": load_fashioniq})
    shirts = load_fashioniq(tmp_path, "val")["shirt"]
    assert shirts.triplets[0].caption == "Is red and has a bow"


def test_the_encoder_encodes(example, monkeypatch):
    monkeypatch.setattr(qure_lib.model, "ENCODERS", dict(qure_lib.model.ENCODERS))
    exec(example("Add an encoder"), dict(vars(qure_lib.model)))
    model = qure_lib.model.QuReModel(replace(TINY, encoder="patches"))
    features = model.encode_features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 4, 32) and not features.requires_grad
    assert model.encode_image(features).shape == (2, 3, 16)


def test_the_rates_found_are_those_of_the_shipped_grid(root):
    runs = pd.read_csv(root / "reports" / "shipped" / "study" / "synthfashion-mini" / "runs.csv")
    found = runs.groupby("variant").val_r10.mean()
    assert runs.groupby("variant").seed.nunique().min() == 5
    readme = " ".join((root / "README.md").read_text().split())
    said = re.search(
        r"uniform negatives reach ([\d.]+) %, the published rule ([\d.]+) %, the same rule kept to "
        r"the 100 ranks after the target ([\d.]+) %, in-batch contrast ([\d.]+) %",
        readme,
    )
    variants = "all_corpus", "between_drops", "window_100", "info_nce"
    assert list(said.groups()) == [f"{found[v]:.1f}" for v in variants]


def test_the_speeds_said_are_those_of_the_shipped_benchmarks(root):
    said = re.findall(
        r"^\| (.+?) \| ([\d.]+) .*\| `(\w+)\.py` \|$",
        (root / "README.md").read_text(),
        re.MULTILINE,
    )
    assert {name for _, _, name in said} == {"features", "mining", "step"}
    for what, number, name in said:
        found = pd.read_csv(root / "reports" / "shipped" / "benchmarks" / f"{name}.csv")
        known = [f"{value:.3g}" for value in found[found.what == what].value]
        assert number in known, f"{what}: {number} said, {known} measured"
