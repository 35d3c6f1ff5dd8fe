"""A data set of one's own: its record and a line of the registry, and every command knows it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from data_prep.stand_in import SHAPES, stand_in
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.evaluation.__main__ import main
from qure_lib.evaluation.cirr import CIRR
from qure_lib.evaluation.fashioniq import FASHIONIQ
from qure_lib.evaluation.registry import PROTOCOLS, find_protocol
from qure_lib.train.training_data import load_training_data

TWIN = replace(  # FashionIQ's twin: its layout, in a folder that a file of its own marks
    FASHIONIQ,
    name="fashion-twin",
    key="twin",
    command=replace(FASHIONIQ.command, title=lambda split, args: f"FashionIQ's twin, {split}"),
    training=replace(FASHIONIQ.training, is_at=lambda root: (root / "twin.txt").is_file()),
)


@pytest.fixture
def twin(monkeypatch, smoke_world, tmp_path):
    """A folder of the twin's annotations and drawn images, and the twin in the registry."""
    monkeypatch.setitem(PROTOCOLS, TWIN.name, TWIN)
    root = stand_in("twin", smoke_world, tmp_path / "twin", 64)
    (root / "twin.txt").touch()
    return root


def test_a_stand_in_is_made_in_the_twins_layout(twin, smoke_world):
    assert json.loads((twin / "STAND_IN.json").read_text())["stand_in_for"] == "twin"
    assert set(SHAPES) >= {protocol.layout for protocol in PROTOCOLS.values()}
    whole = load_fashioniq(smoke_world, "val")
    for category, queries in load_fashioniq(twin, "val").items():
        assert queries.triplets == whole[category].triplets[:64]


def test_training_recognises_the_twin_and_nothing_else(twin, smoke_world):
    assert load_training_data(twin).protocol == "fashion-twin"
    assert load_training_data(twin).training is TWIN.training
    assert load_training_data(smoke_world).protocol == "fashioniq"
    assert find_protocol(twin) is TWIN and find_protocol(twin / "nowhere") is FASHIONIQ


def test_the_evaluation_command_has_the_twin_as_a_subcommand(twin, capsys, tmp_path):
    queries = load_fashioniq(twin, "val", images=False)
    rankings = {
        category: {
            row: list(dict.fromkeys([t.target, *q.corpus.image_ids]))[:50]
            for row, t in enumerate(q.triplets)
        }
        for category, q in queries.items()
    }
    path = tmp_path / "rankings.json"
    path.write_text(json.dumps(rankings))
    words = ["--submission", str(path), "--annotations", str(twin)]
    assert main(["fashion-twin", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["protocol"] == "FashionIQ's twin, val" and printed["n"] == 64 * len(queries)
    assert set(printed["metrics"].values()) == {100}
    assert main(["fashioniq", *words]) == 0  # the same layout
    assert json.loads(capsys.readouterr().out)["metrics"] == printed["metrics"]


def test_the_evaluation_command_ranks_the_twin_with_a_model(twin, stage1, capsys, tmp_path):
    words = ["--checkpoint", stage1, "--root", twin, "--cache", tmp_path / "cache"]
    assert main(["fashion-twin", *map(str, words)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == sum(found["queries"][f"Recall@10 {c}"] for c in found["images"])
    assert all(0 <= value <= 100 for value in found["metrics"].values())


def test_without_its_line_the_twin_is_unknown(root, smoke_world, tmp_path):
    with pytest.raises(SystemExit):
        main(["fashion-twin", "--help"])
    with pytest.raises(ValueError, match="name must be one of fashioniq, cirr, circo, hpfiq, not"):
        stand_in("twin", smoke_world, tmp_path / "twin", 2)
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.stand_in", "twin", str(tmp_path), "--annotations", "x"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "invalid choice: 'twin'" in done.stderr


def test_names_and_keys_are_distinct_and_lead_to_their_records():
    assert all(PROTOCOLS[name].name == name for name in PROTOCOLS)
    assert len({protocol.key for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_a_folder_in_cirrs_layout_is_cirrs(tmp_path):
    assert find_protocol(tmp_path) is FASHIONIQ
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/cap.rc2.train.json").touch()
    assert find_protocol(tmp_path) is CIRR
