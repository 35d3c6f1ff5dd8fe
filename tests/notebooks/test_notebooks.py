"""Every notebook, executed once at profile smoke by the runner, into a folder of its own.

The page that comes of it is opened in a real browser too, with the network off.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import BROWSER, Page, tab
from report.folder import FORMATS

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
    kinds = {"00_start_here": {"table"}, "03_hard_negatives": {"figure", "table", "explorer"}}
    left = {note["kind"] for note in mine} - {"claim"}
    assert left == kinds.get(notebook, {"figure", "table"})
    page = (reports / "index.html").read_text()
    for note in mine:
        explorer = note["kind"] == "explorer"  # of which the page has one
        shown = 'id="explorer"' if explorer else f'id="{note["kind"]}-{note["name"]}"'
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


OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
DRAWN = "[...document.querySelectorAll('#explorer svg')].map(e => e.outerHTML).join()"
SLIDE = """{const slider = document.querySelector('#explorer .window'); slider.value = 1;
    slider.dispatchEvent(new Event('input', {bubbles: true}))}"""
# What sticks out of the window at the right, but for what scrolls in a box of its own.
OUT = """[...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg'))
    .map(e => e.tagName + ': ' + e.textContent.slice(0, 40))"""


def open_offline(page: Page, path: Path, width: int) -> None:
    page.resize(width, 800)
    page.send("Page.navigate", url=path.as_uri())
    page.wait("document.readyState == 'complete' && document.querySelector('h1')")
    page.wait(f"innerWidth == {width}")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome to open the page in")
@pytest.mark.skipif("QURE_BROWSER" not in os.environ, reason="opens a browser if QURE_BROWSER=1")
def test_the_page_answers_in_a_browser_without_a_network(reports, tmp_path):
    with tab(tmp_path) as page:
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.send(f"{domain}.enable")
        page.send("Network.emulateNetworkConditions", **OFFLINE)
        for width in (1280, 390):
            open_offline(page, reports / "index.html", width)
            assert page.run(OUT) == []
            assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("[...document.images].filter(i => !i.alt).length") == 0
        before = page.run(DRAWN)
        page.run(SLIDE)
        assert before and page.run(DRAWN) != before
        asked = [
            event["params"]["request"]["url"]
            for event in page.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        assert all(url.startswith(("file:", "data:")) for url in asked)
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        assert [event for event in page.events if event.get("method") in wrong] == []
