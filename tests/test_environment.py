"""One set of versions in pyproject.toml, requirements.lock, environment.yml and .venv."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest
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


def test_torch_is_exact_and_torchvision_stays_out(direct, lock):
    assert str(direct["torch"].specifier) == f"=={lock['torch']}"
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


def test_what_is_installed_is_what_is_locked(direct, lock):
    for name, pinned in lock.items():
        try:
            assert version(name).split("+")[0] == pinned, name
        except PackageNotFoundError:
            assert name not in direct, f"{name} is not installed; run `make setup`"
