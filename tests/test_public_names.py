"""The names that help(qure_lib) lists: importable from qure_lib itself, when they are asked for."""

import ast
import importlib
import re
import subprocess
import sys

import pytest

import qure_lib

LISTED = {
    name: f"qure_lib.{module}"
    for module, names in re.findall(r"^(\w+\.\w+)  *(\w.*)$", qure_lib.__doc__, re.MULTILINE)
    for name in names.split(", ")
}
PLOTTING = {"matplotlib", "seaborn"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a statement loads, in a process of its own."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_name_is_that_of_its_room(name):
    assert getattr(qure_lib, name) is getattr(importlib.import_module(LISTED[name]), name)


def test_the_list_and_the_stub_have_the_same_names(root):
    """Type checkers go by the stub, and so does the loader."""
    public = set(LISTED) | {"hard_negatives"}
    tree = ast.parse((root / "qure_lib" / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == public
    (exported,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert set(ast.literal_eval(exported)) == set(qure_lib.__all__) == set(dir(qure_lib)) == public


def test_no_name_hides_a_room():
    rooms = {"method", "datasets", "features", "evaluation", "train", "reporting"}
    assert not rooms & set(qure_lib.__all__)


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import qure_lib; qure_lib.__doc__, dir(qure_lib)")
    assert not loaded & {"torch", "numpy", "pandas", "transformers", *PLOTTING}


def test_no_name_loads_plotting():
    loaded = loaded_by("from qure_lib import *")
    assert "torch" in loaded and not loaded & PLOTTING


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        qure_lib.no_such_name  # noqa: B018
