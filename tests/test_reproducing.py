"""docs/reproduce.md, "Reproducing the paper", followed word for word on stand-ins.

The real annotations are cut down to a few queries, the images are drawn under the right names, and
the weights are random, of reduced width, in LAVIS's own files. Two things differ from the page:
`fetch` is replaced by making the stand-in (tests/test_real_data.py fetches from a server on the
loopback address), and `check` may find fault with the counts, since a stand-in is not whole.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from lavis_reference import LavisQuRe
from shared import project_files

from data_prep.stand_in import stand_in
from qure_lib.datasets.loading import real_annotations
from qure_lib.method.config import ModelConfig

SETS = ("fashioniq", "cirr", "circo", "hpfiq")
QUERIES = {"hpfiq": 160}  # of three participants; 32 of the others
TOWER = "visual_encoder."


def commands(root: Path) -> list[str]:
    """The shell lines of the page that act on data/."""
    page = (root / "docs" / "reproduce.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", ".venv/"))]


def copy_project(root: Path, to: Path) -> None:
    """The project's files, with an environment that is this one's under another name."""
    for path in project_files():
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, to / path)
    (to / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != "installed":
            (to / ".venv" / part.name).symlink_to(part)
    (to / ".venv" / "installed").touch()


def write_weights(to: Path) -> None:
    """A random model of the published structure and reduced width, in LAVIS's two files."""
    config = replace(
        ModelConfig(), vision_width=64, vision_layers=2, vision_heads=1,
        qformer_width=64, qformer_layers=2, qformer_heads=1, embedding_dim=32,
    )  # fmt: skip
    state = LavisQuRe(config).randomise(seed=3).state_dict()
    tower = {k.removeprefix(TOWER): v for k, v in state.items() if k.startswith(TOWER)}
    rest = {k: v for k, v in state.items() if not k.startswith(TOWER)}
    torch.save({"model": rest}, to / "blip2_pretrained_vitL.pth")
    torch.save(tower, to / "clip_vit_L.pth")


def fetch_stand_in(name: str, folder: Path) -> None:
    key = "hpfiq" if name == "hp_fashioniq" else name
    stand_in(key, real_annotations(key), folder, QUERIES.get(key, 32))
    if key == "hpfiq":  # its images are FashionIQ's
        shutil.copytree(folder / "image_data", folder.parent / "fashioniq" / "image_data")


@pytest.fixture(scope="module")
def followed(root, bert_vocabulary, tmp_path_factory):
    """(folder, command -> its output): every command of the section, in order."""
    folder = tmp_path_factory.mktemp("reproducing") / "kit"
    copy_project(root, folder)
    write_weights(folder)
    shutil.copytree(bert_vocabulary, folder / "bert-base-uncased")
    environment = {k: v for k, v in os.environ.items() if k != "QURE_DATA"}
    said = {}
    for command in commands(root):
        words = shlex.split(command)
        if "fetch" in words:
            fetch_stand_in(words[2].removeprefix("data_prep."), folder / words[-1])
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
        )
        said[command] = done.stdout
        allowed = (0, 1) if "check" in words else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return folder, said


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(real_annotations(name) is None for name in SETS),
        reason="QURE_DATA does not hold the annotations of all four data sets",
    ),
]


def test_every_profile_is_reproduced(followed):
    _, said = followed
    profiles = re.findall(r"make reproduce PROFILE=(\S+)", "\n".join(said))
    assert profiles == ["fashioniq", "hp-fashioniq", "cirr", "circo"]
    for command, output in said.items():
        if command.startswith("make reproduce"):
            assert "Look at reports/index.html" in output


def test_the_plan_names_the_first_command(followed, root):
    _, said = followed
    fetch = next(command for command in commands(root) if " fetch " in command)
    assert f"Next: {fetch}" in said["make plan PROFILE=fashioniq"]


def test_the_checks_find_every_image_whole(followed):
    folder, _ = followed
    for name in ("fashioniq", "cirr", "circo"):
        problems = pd.read_csv(folder / "data" / name / "check.csv")
        assert len(problems) and set(problems["part"]) == {"annotations"}, name


def test_the_tables_of_the_paper_are_there(followed):
    folder, _ = followed
    tables = folder / "reports" / "tables"
    table5 = pd.read_csv(tables / "table5_circo.csv")
    assert {"cosine", "preference", "stage 1 alone", "QuRe, published"} <= set(table5["method"])
    table4 = "".join(path.read_text() for path in tables.glob("*.csv"))
    assert "set_scores" in table4  # the model's own rate, beside the published ones
    claims = {path.stem for path in (folder / "reports" / "claims").glob("*.json")}
    assert "table5_contrast" in claims
    page = (folder / "reports" / "index.html").read_text()
    assert "QuRe reaches 63.04" in page


def test_the_servers_files_are_whole(followed):
    folder, _ = followed
    for name, metric, length in (("recall", "recall", 50), ("recall_subset", "recall_subset", 3)):
        path = folder / "runs" / "cirr_test1" / f"cirr_test1_{name}.json"
        content = json.loads(path.read_text())
        assert (content.pop("version"), content.pop("metric")) == ("rc2", metric)
        assert len(content) == 32 and {len(set(v)) for v in content.values()} <= {length}
    circo = json.loads((folder / "runs" / "circo_test" / "circo_test.json").read_text())
    assert len(circo) == 32 and {len(set(v)) for v in circo.values()} == {50}
