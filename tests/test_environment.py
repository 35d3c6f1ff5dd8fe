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

PIN = re.compile(
    r"([a-z0-9._-]+)==([a-z0-9.]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
)


def read_lock(path) -> dict[str, str]:
    """{package: version} of a lock file, which holds nothing but exact versions with hashes."""
    text = path.read_text()
    pins = list(PIN.finditer(text))
    assert "\n".join(pin[0] for pin in pins) == text.rstrip("\n"), path
    versions = {canonical(pin[1]): pin[2] for pin in pins}
    assert len(versions) == len(pins), path
    return versions


@pytest.fixture(scope="module")
def lock(root):
    """What every machine needs."""
    return read_lock(root / "requirements.lock")


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


def test_conda_gets_the_same_versions(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert pip["pip"] == [f"--requirement requirements{n}.lock" for n in ("", "/cuda")]


def test_each_package_is_locked_in_one_file(root, lock):
    locks = [lock, *(read_lock(path) for path in (root / "requirements").glob("*.lock"))]
    assert len(locks) == 4 and len(set().union(*locks)) == sum(map(len, locks))
    cuda = read_lock(root / "requirements" / "cuda.lock")
    assert "cuda-toolkit" in cuda and not {"cuda", "nvidia", "triton"} & {
        name.split("-")[0] for name in lock
    }
    lines = (root / "requirements" / "cuda.lock").read_text().splitlines()
    assert all("sys_platform == 'linux'" in line for line in lines if "==" in line)


def test_torch_is_locked_in_its_cpu_build_and_in_those_of_every_platform(root):
    assert len(hashes_of_torch(root)) > 20


def hashes_of_torch(root) -> list[str]:
    pins = PIN.finditer((root / "requirements.lock").read_text())
    return re.findall(r"sha256:\w+", next(pin[3] for pin in pins if pin[1] == "torch"))


def test_lavis_is_pinned_once_and_told_to_conda_users(root):
    pins = read_lock(root / "requirements" / "lavis.lock")
    assert pins.keys() == {"salesforce-lavis", "omegaconf"}
    told = "pip install --no-deps --require-hashes --requirement requirements/lavis.lock\n"
    assert told in (root / "environment.yml").read_text()
    for name, pinned in pins.items():
        assert version(name) == pinned


def test_the_encoders_packages_are_pinned_alike_and_stay_optional(root):
    pins = read_lock(root / "requirements" / "photos.lock")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    photos = project["optional-dependencies"]["photos"]
    assert photos == [f"{name}=={pinned}" for name, pinned in pins.items()]


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
    assert {line.split("==")[0] for line in left_out if "==" in line} == (
        {"torch"} if kept else set()
    )
    assert not kept or all(any(h in line for line in left_out) for h in hashes_of_torch(root))


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
