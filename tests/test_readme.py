"""The examples of README and docs/, run as they are written there, and the numbers said."""

import json
import re
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch
from analysis import ablations
from grids import NEGATIVES
from report.tables import read_published
from shared import TINY

from qure_lib.features.model_folder import load_model
from qure_lib.method import encoders, losses, strategies
from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.model import QuReModel


def run(source: str, **names) -> dict:
    """The names that a block defines; nothing is there beforehand but `names`."""
    exec(source, names)
    return names


@pytest.fixture
def example(root):
    """Source of the one Python block under a heading of README or of a page of docs/."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]

    def find(heading: str) -> str:
        (page,) = (p.read_text() for p in pages if f"\n## {heading}\n" in p.read_text())
        section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        return block

    return find


def test_the_strategy_mines(example, monkeypatch):
    monkeypatch.setitem(strategies.STRATEGIES, "part_below", None)  # gone again afterwards
    names = run(example("Add a mining strategy"))
    scores = torch.linspace(0.9, 0.1, 10)[None]
    mined = {
        parts: mine_hard_negatives(
            scores, torch.eye(10)[:, None], torch.tensor([0]), MiningConfig("part_below", options=o)
        )
        for parts, o in {3: {}, 4: {"parts": 4}}.items()
    }
    assert mined[3][0][0].tolist() == [4, 5, 6]  # of the nine below the target
    assert mined[4][0][0].tolist() == [3, 4] and names["config"].options == (("parts", 4),)
    assert mined[3][1].config.strategy == "part_below"


def test_the_objective_is_a_loss(example, monkeypatch):
    monkeypatch.setitem(losses.OBJECTIVES, "hinge", None)
    run(example("Add an objective"))
    queries, images = torch.eye(2), torch.eye(2)[:, None]
    apart = losses.find_objective("hinge").function(queries, images, images.flip(0)[:, None], 2.0)
    same = losses.find_objective("hinge").function(queries, images, images[:, None], 2.0)
    assert (apart.item(), same.item()) == (0.5, 1.0)
    assert TrainConfig(objective="hinge").objective_at(0) == "hinge"


def test_the_data_set_is_read_and_a_model_of_ones_own_evaluated(
    example, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names = run(example("Add a data set"))
    captions = [triplet.caption for triplet in names["queries"]["mug"].triplets]
    assert all(re.fullmatch(r"Is \w+ and is (plain|striped)", caption) for caption in captions)
    found = run(example("Evaluate a model of your own"), queries=names["queries"])["per_query"]
    assert len(found) == 200 and found["rank"].between(0, 199).all()
    assert "avg_r10" in capsys.readouterr().out


def test_the_model_is_saved_to_be_shared(example, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_prep").symlink_to(root / "data_prep")
    model = run(example("Share a model"))["model"]
    saved = load_model(tmp_path / "my-model").state_dict()
    assert saved.keys() == model.state_dict().keys()
    assert {"README.md", "tokenizer.json"} <= {p.name for p in (tmp_path / "my-model").iterdir()}


@pytest.mark.slow
def test_the_recipe_teaches_a_data_set_of_ones_own(root, example, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run(example("Add a data set"))
    (tmp_path / "data_prep").symlink_to(root / "data_prep")
    page = (root / "docs" / "own_data.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    recall = []
    for line in block.splitlines():
        line = line.replace('"$(ls -td runs/mine-*/last | head -n 1)"', "LAST")
        program, flag, module, *arguments = shlex.split(line)
        assert (program, flag) == (".venv/bin/python", "-m")
        last = [str(folder) for folder in Path("runs").glob("mine-*/last")]
        arguments = [last[0] if argument == "LAST" else argument for argument in arguments]
        capfd.readouterr()
        assert import_module(f"{module}.__main__").main(arguments) == 0
        if module == "qure_lib.evaluation":
            recall.append(json.loads(capfd.readouterr().out)["metrics"]["Recall@10 average"])
    before, after = recall
    assert f"goes from {before:.1f} % to" in page and after > before + 20


def test_the_miner_teaches_in_a_loop_of_plain_pytorch(example, capsys):
    names = run(example("With plain PyTorch"))
    queries, images = names["embed_query"](names["queries"]), names["embed_image"](names["images"])
    scores = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(images).T
    better = (scores > scores.gather(1, names["targets"][:, None])).sum(dim=1)
    assert (better < 10).float().mean() > 0.9
    assert mined_at(capsys.readouterr().out) == 4


@pytest.mark.slow
def test_the_miner_teaches_in_a_sentence_transformers_trainer(
    example, tmp_path, monkeypatch, capsys
):
    for package in ("sentence_transformers", "datasets"):
        pytest.importorskip(package, reason="needs sentence-transformers[train]")
    monkeypatch.chdir(tmp_path)
    names = run(example("With a sentence-transformers trainer"))
    queries, titles = (names["model"].encode(names[name]) for name in ("queries", "titles"))
    best = names["model"].similarity(queries, titles).argmax(dim=1)
    assert (best == names["targets"]).float().mean() > 0.9
    assert mined_at(capsys.readouterr().out) == 3
    assert not list(tmp_path.glob("**/checkpoint-*"))


def mined_at(printed: str) -> int:
    """How often sets were defined; each time with another report."""
    reports = [line for line in printed.splitlines() if line.startswith("between_drops: sets of")]
    assert len(set(reports)) == len(reports)
    return len(reports)


def test_the_encoder_encodes(example, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "patches", None)
    run(example("Add an encoder"))
    model = QuReModel(replace(TINY, encoder="patches"))
    features = model.encode_features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 4, 32) and not features.requires_grad
    assert model.encode_image(features).shape == (2, 3, 16)


def test_the_finding_is_that_of_the_shipped_study(root):
    folder = root / "reports" / "shipped" / "study" / "negatives" / "synthfashion-mini"
    rows = ablations.load_rows(NEGATIVES, folder)
    found = rows.runs.groupby("variant").val_r10.mean()
    readme = " ".join((root / "README.md").read_text().split())
    said = re.search(
        r"Recall@10 ends at ([\d.]+) %, below uniform negatives' ([\d.]+) %.* and recall ends at "
        r"([\d.]+) %; but as many images right after the target do as well \(([\d.]+) %\), so "
        r"\*\*it is nearness .* \(in-batch contrast: ([\d.]+) %\)",
        readme,
    )
    variants = ["cosine", "uniform", "preference", "same_sizes", "in_batch"]
    assert list(said.groups()) == [f"{found[v]:.1f}" for v in variants]
    assert rows.runs[rows.runs.variant.isin(variants)].groupby("variant").seed.nunique().eq(5).all()
    moved = ablations.measure_interval(rows.hits, "preference", less="moved")
    answer = ablations.judge_repair(ablations.compare_primary(rows), moved)
    assert answer.startswith("Nearness to the target repairs it")
    mined = rows.definitions[rows.definitions.variant == "cosine"]
    assert mined.window_start_fraction.min() > 0.98  # "at the very end of the ranking"
    first = mined[mined.epoch == mined.epoch.min()]
    rank = 100 * (first.target_rank_median / first.corpus_size).mean()
    assert f"median target ranks at {rank:.1f} % of its corpus" in readme


def test_the_rule_is_applied_to_scores_of_ones_own(example, capsys):
    names = run(example("What would the rule choose on your scores?"))
    assert len(names["sets"]) == 100 and len(names["sets"][0])
    assert "between_drops: sets of" in capsys.readouterr().out


def test_the_speeds_said_are_those_of_the_shipped_benchmarks(root):
    said = re.findall(
        r"^\| .+? \| ([\d.]+) .*\| (.+?): `(\w+)\.py` \|$",
        (root / "docs" / "speed.md").read_text(),
        re.MULTILINE,
    )
    assert {name for *_, name in said} == {"features", "mining", "miners", "step"}
    for number, what, name in said:
        found = pd.read_csv(root / "reports" / "shipped" / "benchmarks" / f"{name}.csv")
        known = [f"{value:.3g}" for value in found[found.what == what].value]
        assert number in known, f"{what}: {number} said, {known} measured"


def test_what_two_miners_chose_is_said_as_measured(root):
    path = root / "reports" / "shipped" / "benchmarks" / "miners.csv"
    measured = pd.read_csv(path).set_index("what").value
    page = (root / "docs" / "speed.md").read_text()
    said = re.findall(r"^\| .+ \| (\d+) %.* \| (\d+) %.* \| (-?\d+) \|$", page, re.MULTILINE)
    whats = (
        "queries without a negative",
        "negatives ranked above the target",
        "rank less the target's, median",
    )
    names = ("ours", "theirs, the best", "theirs, 5 % margin")
    assert said == [tuple(f"{measured[f'{n}: {w}']:.0f}" for w in whats) for n in names]


PUBLISHED = {  # number on the page -> file, method, measure
    "63.04": ("table2_fashioniq_val", "avg"),
    "52.22": ("table3_cirr_test", "r1"),
    "74.55": ("table4_hpfiq_preference", "preference_rate"),
    "23.22": ("table5_circo_zero_shot", "map5"),
}


def test_the_numbers_expected_are_the_papers(root):
    page = (root / "docs" / "reproduce.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| Table")]
    for (number, (file, measure)), row in zip(
        PUBLISHED.items(), [*rows[1:4], rows[4]], strict=True
    ):
        found = read_published(root / "reports" / "published" / f"{file}.csv", "QuRe")
        assert number in row and f"{found[measure]:.2f}" == number
    counts = read_published(root / "reports" / "published" / "table1_hpfiq_counts.csv")
    for name in ("total_queries", "participants", "excluded_inconsistent", "excluded_irrelevant"):
        assert f"{counts[name]:,.0f} " in rows[0], name


def test_the_steps_without_make_are_those_of_the_makefile(root):
    makefile = (root / "Makefile").read_text()
    page = (root / "README.md").read_text().split("\n## Without make")[1]
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    locked = re.search(r"^LOCKED := (.*)$", makefile, re.MULTILINE)[1]
    recipe = makefile.replace("\\\n\t", "").replace("$(LOCKED)", locked)
    recipe = re.sub(r"\|\| |; \}", "\n\t", recipe)
    recipe = recipe.replace(".venv/requirements.txt", "requirements.lock")
    recipe = recipe.replace("$(BIN)", ".venv/bin").replace("$(PROFILE)", "mini")
    recipe = recipe.replace("$(if $(filter mini,mini),unseen,smoke)", "unseen")
    recipe = recipe.replace(" $(if $(ALLOW_MISSING),--allow-missing)", "")
    steps = [" ".join(line.split()) for line in recipe.splitlines() if line.startswith("\t")]
    block = block.replace("  # if torch is a CUDA build", "")
    first, *rest = block.strip().splitlines()
    assert first == "python3 -m venv .venv" and len(rest) == 6
    for line in rest:
        options = sorted(line.split())
        assert any(sorted(step.split()) == options for step in steps), line


def test_every_page_of_docs_is_linked_and_short(root):
    readme = (root / "README.md").read_text()
    for page in (root / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, page.name
        if page.stem not in ("method", "study"):  # the two long ones
            assert len(page.read_text().splitlines()) <= 80, page.name
    assert len(readme.splitlines()) <= 75
