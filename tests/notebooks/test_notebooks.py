"""Every notebook, executed once at profile smoke by the runner, into a folder of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qure_lib.reporting.reports import FORMATS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# What makes a browser fetch something: a tag's source, a style's url, a script's import.
LOADS = re.compile(
    r"""<(?:script|img|link|iframe|source|embed|object)\b[^>]*?(?:src|href|data)=["']?(?:https?:)?//"""
    r"""|@import|url\(["']?(?:https?:)?//|import\(?\s*["']https?:"""
)

pytestmark = pytest.mark.slow


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-4000:]
    return done.stdout.decode()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The report folder after a smoke run."""
    out = tmp_path_factory.mktemp("smoke")
    for name, world in (("smoke", "default"), ("smoke-drawing", "drawing")):
        root = f"data/synthfashion-{name}"
        run("-m", "data_prep.synthfashion", root, "--size", "smoke", "--world", world)
    folders = ("--reports", out / "reports", "--runs", out / "runs")
    printed = run("notebooks/run.py", "--profile", "smoke", *folders)
    assert "index.html" in printed.splitlines()[-1]
    return out / "reports"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_leaves_figures_and_tables_with_their_data(reports, notebook):
    notes = [json.loads(path.read_text()) for path in reports.glob("*/*.json")]
    mine = [note for note in notes if note["notebook"] == notebook]
    kinds = {"figure", "table"} if notebook != "00_start_here" else {"table"}  # it shows widgets
    assert {note["kind"] for note in mine} - {"claim"} == kinds
    page = (reports / "index.html").read_text()
    for note in mine:
        shown = f'id="{note["kind"]}-{note["name"]}"'
        assert (note["verdict"] if note["kind"] == "claim" else shown) in page
        for suffix in FORMATS[note["kind"]]:
            path = reports / f"{note['kind']}s" / f"{note['name']}.{suffix}"
            assert path.stat().st_size > 0, path


def test_the_pages_open_without_a_network(reports):
    pages = [reports / "index.html", *(reports / "executed").glob("*.html")]
    assert len(pages) == 1 + len(NOTEBOOKS)
    for page in pages:
        found = LOADS.search(page.read_text())
        assert found is None, f"{page.name} loads {found[0]}"


def test_every_link_of_the_index_leads_to_a_file(reports):
    links = re.findall(r'href="([^#"][^"]*)"', (reports / "index.html").read_text())
    missing = [link for link in links if ":" not in link and not (reports / link).is_file()]
    assert links and not missing


def test_the_executed_notebooks_hold_no_error(reports):
    for notebook in NOTEBOOKS:
        document = json.loads((reports / "executed" / f"{notebook}.ipynb").read_text())
        code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in code for output in cell["outputs"]]
        assert outputs and all(output["output_type"] != "error" for output in outputs)
        assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
