"""The package as it is shipped: its wheel, beside its core dependencies and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from shared import project_files

pytestmark = pytest.mark.slow

IMPORTS = """
import importlib, pkgutil, sys
import qure_lib
for module in pkgutil.walk_packages(qure_lib.__path__, "qure_lib."):
    importlib.import_module(module.name)
print(qure_lib.__file__)
import numpy as np
scores = np.array([[0.57, 0.95, 0.90, 0.20, 0.89, 0.60, 0.58]])
sets, _ = qure_lib.hard_negatives(scores, np.array([1]))
print(sets[0].tolist())
"""
HELP = """
import runpy, sys
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        print(module, end.code)
"""
COMMANDS = ["train", "evaluation", "diagnose", "features.published_weights"]


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy of the project's files: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("project")
    for path in project_files():
        if path.parts[0] in ("qure_lib", "pyproject.toml", "README.md", "LICENSE"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, folder / path)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", folder / "out", folder], check=True)
    (path,) = (folder / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def needed(requirements: list[str]) -> set[str]:
    """The distributions that these requirements install, without extras."""
    found, left = set(), list(requirements)
    while left:
        requirement = Requirement(left.pop())
        name, marker = canonical(requirement.name), requirement.marker
        if name not in found and (marker is None or marker.evaluate({"extra": ""})):
            found.add(name)
            left += distribution(name).requires or []
    return found


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory) -> Path:
    """A folder of packages as in a new environment: the wheel, and links to what it needs."""
    folder = tmp_path_factory.mktemp("clean")
    wheel.extractall(folder)
    for name in needed(metadata(wheel).get_all("Requires-Dist")):
        for file in distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(file.locate().parents[len(file.parts) - 1] / top)
    return folder


def run(clean: Path, source: str, *arguments: str) -> list[str]:
    """Lines that a script prints in that environment: -S leaves out the one that runs the tests."""
    environment = os.environ | {"PYTHONPATH": str(clean)}
    command = [sys.executable, "-S", "-c", source, *arguments]
    done = subprocess.run(command, cwd=clean, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_the_wheel_holds_the_library_whole_and_nothing_else(wheel):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tracked = {path.as_posix() for path in project_files() if path.parts[0] == "qure_lib"}
    assert shipped == tracked
    assert {"qure_lib/py.typed", "qure_lib/__init__.pyi"} <= shipped


def test_extras_are_those_of_the_documentation(wheel):
    extras = set(metadata(wheel).get_all("Provides-Extra"))
    assert extras == {"notebooks", "photos", "words", "scale", "dev"}


def test_everything_is_imported_without_jupyter_or_tools(clean):
    held = {canonical(path.name.split("-")[0]) for path in clean.glob("*.dist-info")}
    assert "torch" in held and not held & {"jupyterlab", "ipykernel", "nbformat", "pytest", "scipy"}
    file, negatives = run(clean, IMPORTS)
    assert Path(file).parent == clean / "qure_lib" and negatives == "[5, 6, 0]"


def test_the_commands_print_their_help(clean):
    modules = [f"qure_lib.{name}" for name in COMMANDS]
    printed = run(clean, HELP, *modules)
    assert {line for line in printed if line.startswith("qure_lib.")} >= {f"{m} 0" for m in modules}
