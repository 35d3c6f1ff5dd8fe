"""What holds for every file: notebooks, style, sizes, words, tests, and commands of the pages."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import run
from shared import project_files

import qure_lib

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKPOINT = Path("data_prep/mini_stage1")  # the one thing that may be large
PLACES = re.compile(
    r"(?<![\w.:/])/(?:work|tmp|root|home|opt|Users)/\w"  # somebody's own folder
    r"|py[p]i\.org|python[h]osted|npm[j]s|hugging[f]ace\.co|anaconda\.[o]rg|download\.py[t]orch"
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_has_ids_and_no_outputs(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        ids = [cell["id"] for cell in notebook.cells]
        assert len(set(ids)) == len(ids)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert not cell.outputs and cell.execution_count is None, cell.id

    def test_opens_as_an_essay(self, path):
        opening = nbformat.read(path, as_version=4).cells[0]
        assert opening.cell_type == "markdown"
        assert opening.source.startswith(f"# {path.stem[:2]} ")
        for row in ("Reproduces", "Needs", "Writes", "Takes", "Expect"):
            assert row in opening.source

    def test_explains_each_parameter(self, path):
        declared = run.declared_parameters(path)
        assert "reports_dir" in declared
        cells = nbformat.read(path, as_version=4).cells
        (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        lines = cell.source.splitlines()
        assert len(lines) == len(declared)
        assert all(re.search(r"\S\s+# \S", line) for line in lines)

    def test_cells_are_short_and_define_nothing(self, path):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                lines = len(cell.source.splitlines())  # the parameters take a line each
                assert lines <= 15 or "parameters" in cell.metadata.get("tags", []), cell.id
                assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), cell.id
                kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
                nodes = ast.walk(ast.parse(cell.source))
                assert not any(isinstance(node, kinds) for node in nodes), cell.id

    def test_the_working_folder_is_checked_before_anything_else_runs(self, path):
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        statements = [node for cell in cells for node in ast.parse(cell.source).body]
        calls = (s for s in statements if not isinstance(s, ast.Import | ast.ImportFrom))
        calls = (ast.unparse(s) for s in calls if any(isinstance(n, ast.Call) for n in ast.walk(s)))
        assert next(calls) == "figures.use_house_style()"
        assert f"Reports(Path(reports_dir), '{path.stem}')" in next(calls)


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_finds_nothing(command):
    ruff = [sys.executable, "-m", "ruff", *command.split(), "--no-cache"]
    done = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_file_is_large():
    large = [
        path
        for path in project_files()
        if not path.is_relative_to(CHECKPOINT) and (ROOT / path).stat().st_size > 2**20
    ]
    assert not large


def test_no_file_names_somebodys_folder_or_a_registry():
    found = []
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            text = content.decode()
            found += [f"{path}: {match[0]}" for match in PLACES.finditer(text)]
    assert not found


def checks_something(function: ast.FunctionDef, helpers: set[str]) -> bool:
    """Whether it asserts, or calls a helper that does (`pytest.raises`, `assert_close`, ...)."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in helpers or name.startswith("assert_"):
                return True
    return False


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda p: p.stem)
def test_every_test_checks_something(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    helpers = {"raises", "warns"}
    helpers |= {f.name for f in functions if checks_something(f, helpers)}
    tests = [function for function in functions if function.name.startswith("test_")]
    assert [test.name for test in tests if not checks_something(test, helpers)] == []


def test_the_package_lists_names_that_exist():
    listed = re.findall(r"^(\w+\.\w+)  +(\w.*)$", qure_lib.__doc__, re.MULTILINE)
    assert len(listed) > 10
    for module, names in listed:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(f"qure_lib.{module}"), name), (module, name)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page):
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = re.findall(r"(?:`|^\s*)make(?: ([a-z]+))?\b", text, re.MULTILINE)
    assert set(named) - {""} <= targets
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for arguments in re.findall(r"python notebooks/run\.py([^`\n#]*)", text):
        run.parser().parse_args(shlex.split(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_two_commands_open_the_readme():
    text = PAGES[0].read_text()
    assert re.findall(r"^make (\w+) ", text, re.MULTILINE)[:2] == ["reproduce", "test"]
