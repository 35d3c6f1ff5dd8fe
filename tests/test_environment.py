"""One set of versions in pyproject.toml, requirements.lock, environment.yml and .venv."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical


@pytest.fixture(scope="module")
def lock(root):
    """{package: version} of requirements.lock, which holds nothing but exact versions."""
    lines = (root / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    return {canonical(name): pinned for name, pinned in (line.split("==") for line in pins)}


@pytest.fixture(scope="module")
def direct(root):
    """The requirements of pyproject.toml, extras included."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.keys() == {"notebooks", "scale", "dev", "photos", "words"}
    locked = [extras[name] for name in ("notebooks", "scale", "dev")]
    lines = [*project["dependencies"], *sum(locked, [])]
    return {canonical(r.name): r for r in map(Requirement, lines)}


def test_the_lock_satisfies_the_project(direct, lock):
    for name, requirement in direct.items():
        assert lock[name] in requirement.specifier, f"{requirement} but {lock[name]} is locked"


def test_torch_is_locked_to_one_version_and_torchvision_stays_out(root, lock):
    pin = re.search(r"^TORCH := torch==(.+)$", (root / "Makefile").read_text(), re.MULTILINE)[1]
    assert pin == lock["torch"]
    assert not {"torchvision", "torchaudio"} & lock.keys()
    assert find_spec("torchvision") is None, "uninstall torchvision: transformers breaks on it"


def test_conda_gets_the_same_versions(root, direct, lock):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    constraint, *lines = pip["pip"]
    assert constraint == "--constraint requirements.lock"
    pins = {canonical(name): pinned for name, pinned in (line.split("==") for line in lines)}
    assert pins == {name: lock[name] for name in direct}


def test_lavis_is_pinned_once_and_told_to_conda_users(root):
    pins = re.search(r"^LAVIS := (.+)$", (root / "Makefile").read_text(), re.MULTILINE)[1]
    assert f"pip install --no-deps {pins}\n" in (root / "environment.yml").read_text()
    assert "salesforce-lavis" not in (root / "requirements.lock").read_text()
    for name, pinned in (pin.split("==") for pin in pins.split()):
        assert version(name) == pinned


def test_the_encoders_packages_are_pinned_alike_and_stay_optional(root, lock):
    pins = re.search(r"^ENCODER := (.+)$", (root / "Makefile").read_text(), re.MULTILINE)[1].split()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["photos"] == pins
    assert not {pin.split("==")[0] for pin in pins} & lock.keys()


@pytest.mark.parametrize(
    ("stand_in", "kept"),
    [("", False), ("cuda = hip = None", False), ("cuda, hip = '13.0', None", True)],
)
def test_setup_keeps_a_torch_for_gpus(root, tmp_path, stand_in, kept):
    """The recipe's own lines, with a stand-in for .venv's Python and the torch in it."""
    makefile = (root / "Makefile").read_text()
    (recipe,) = re.findall(r"^\tif (.+?requirements\.txt)$", makefile, re.DOTALL | re.MULTILINE)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    shutil.copy(root / "requirements.lock", tmp_path)
    if stand_in:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").write_text("from . import version")
        (tmp_path / "torch" / "version.py").write_text(stand_in)
    command = f"if {recipe}".replace("\\\n\t", "").replace("$(BIN)/python", ".venv/bin/python -S")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    asked = (tmp_path / ".venv" / "requirements.txt").read_text().splitlines()
    left_out = set((root / "requirements.lock").read_text().splitlines()) - set(asked)
    assert {line.split("==")[0] for line in left_out} == ({"torch"} if kept else set())


def test_what_is_installed_is_what_is_locked(direct, lock):
    for_gpus = torch.version.cuda or torch.version.hip  # `make setup` keeps it
    assert version("torch").split("+")[0] in direct["torch"].specifier
    for name, pinned in lock.items():
        if name == "torch" and for_gpus:
            continue
        try:
            assert version(name).split("+")[0] == pinned, name
        except PackageNotFoundError:
            assert name not in direct, f"{name} is not installed; run `make setup`"
