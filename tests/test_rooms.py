"""The house: rooms in one direction, who may load what, and how large it may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import ROOT

LIBRARY = ROOT / "qure_lib"
# A room -> the rooms before it. method and datasets know neither each other nor a later room.
BEFORE = {
    "method": set(),
    "datasets": set(),
    "features": {"method", "datasets"},
    "evaluation": {"method", "datasets", "features"},
    "train": {"method", "datasets", "features", "evaluation"},
    "reporting": {"method", "datasets", "features", "evaluation", "train"},
}
# Root modules, which import no room.
SHARED = {
    "arrays",
    "files",
    "processes",
    "manifest",
    "pixels",
    "device",
    "code_in_use",
}
# The front doors, which use any room and which no room knows.
FRONT = {"__init__", "own_scores", "diagnose"}
FILES = sorted(LIBRARY.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also within functions and TYPE_CHECKING."""
    package = name_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """The room, or root module, of a full name: qure_lib.method.drops.find -> method."""
    return module.split(".")[1] if module.startswith("qure_lib.") else ""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_those_before_it(path):
    here = room_of(name_of(path)) if path.parent != LIBRARY else path.stem
    allowed = BEFORE.get(here, set()) | {here} | SHARED
    if here in FRONT:
        allowed |= BEFORE.keys() | FRONT
    assert {room_of(m) for m in imports(path)} - {""} <= allowed


def test_every_folder_is_a_room():
    folders = {p.name for p in LIBRARY.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == BEFORE.keys()
    assert {p.stem for p in LIBRARY.glob("*.py")} == SHARED | FRONT


def test_no_circle_of_modules():
    known = {name_of(path) for path in FILES}
    arrows = {
        name_of(path): {
            known_name
            for module in imports(path)
            for known_name in (module, module.rpartition(".")[0])
            if known_name in known
        }
        for path in FILES
    }
    left = dict(arrows)
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import one another: {sorted(left)}"


@pytest.mark.parametrize("path", sorted((LIBRARY / "method").glob("*.py")), ids=name_of)
def test_in_method_only_model_and_encoders_import_transformers(path):
    heavy = {"transformers", "tokenizers", "safetensors"}
    found = {module.partition(".")[0] for module in imports(path)} & heavy
    assert not found or path.stem in {"model", "encoders"}


@pytest.mark.parametrize("path", sorted((LIBRARY / "method").glob("*.py")), ids=name_of)
def test_method_touches_no_files(path):
    found = {module.partition(".")[0] for module in imports(path)}
    assert not found & {"os", "pathlib", "shutil", "tempfile", "json"}


def test_mining_loads_no_transformers():
    code = "import sys, qure_lib.method.mining; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_library_keeps_its_size():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    method = sum(n for path, n in lines.items() if room_of(name_of(path)) == "method")
    assert max(lines.values()) <= 400
    assert method <= 1_500 and sum(lines.values()) <= 8_500
