"""Notebook 00 in a real browser, as `make lab` opens it: run all, move a slider, type a caption.

`make screenshots` does the same after `make reproduce`, and renews reports/screenshots/.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lab
import pytest
from analysis.explorer import LEFT, WIDTH
from browser import BROWSER, SILENT, Page, found, running, tab
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PANEL = "[...jupyterapp.shell.widgets('main')][0]"
KERNEL = f"{PANEL}?.sessionContext?.session?.kernel"
EXPLORERS = ("relevance", "retrieval", "preference")  # in the notebook's order
EXPLORER = "document.querySelectorAll('.qure')[{}]"
CURVE = "document.querySelector('.qure .curve')"
RESULTS = "document.querySelector('.qure .results')"
LABELLED = """[...document.querySelectorAll('.qure label')].find(
    label => label.textContent == '{}').parentElement"""
CHOOSE = """{{const select = {}.querySelector('select'); select.selectedIndex = {};
    select.dispatchEvent(new Event('change', {{bubbles: true}}))}}"""
HOVERED_RANK = "[...document.querySelectorAll('.rank')].findIndex(e => e.matches(':hover'))"
# Text that is wider than its box, or an explorer that is wider than the notebook.
CUT = """[...document.querySelectorAll('.qure, .qure label, .qure button, .qure .strip span')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
    .map(e => e.className + ': ' + e.textContent.slice(0, 40))"""


def own_checkout(folder: Path, data: Path, reports: Path, runs: Path) -> Path:
    """A folder laid out as the repository, where the copies' relative paths lead; its lab/."""
    places = {"data": data, "data_prep": ROOT / "data_prep", "reports": reports, "runs": runs}
    for name, place in places.items():
        place.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(place)
    return folder / "lab"


@contextmanager
def opened(folder: Path, copies: Path) -> Iterator[Page]:
    """JupyterLab on the copies, as lab.py opens it; settings and runtime files stay in `folder`."""
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(folder / name.lower()) for name in places} | lab.environment(copies)
    server = [sys.executable, "-m", "jupyterlab", *lab.arguments_of_lab(copies)]
    server += ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    with running(server, env=os.environ | own, **SILENT), tab(folder) as page:
        started = json.loads(found(Path(own["JUPYTER_RUNTIME_DIR"]), "jpserver-*.json"))
        page.resize(1280, 800)
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        page.send("Page.navigate", url=f"{started['url']}?token={started['token']}")
        yield page


def run_all(page: Page, seconds: float) -> float:
    """Run all cells of the notebook that is open; seconds until its explorers are there."""
    page.wait(f"window.jupyterapp && {KERNEL}", 120)
    page.wait(f"{KERNEL}.status == 'idle'", 120)
    page.click(page.box(f"{PANEL}.content.widgets[0].node"))
    page.wait("jupyterapp.shell.currentWidget")
    started = time.monotonic()
    page.run("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait("document.querySelectorAll('.qure').length == 3", seconds)
    page.wait(f"{CURVE}.querySelector('img').complete")
    taken = time.monotonic() - started
    page.wait(f"{KERNEL}.status == 'idle'")
    cells = json.loads(page.run(f"JSON.stringify({PANEL}.content.model.toJSON().cells)"))
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    return taken


def show(page: Page, number: int) -> None:
    """Scroll to an explorer."""
    explorer = EXPLORER.format(number)
    page.run(f"{explorer}.scrollIntoView()")
    page.wait(f"{explorer}.getBoundingClientRect().top < innerHeight / 2")


def drag_search_window(page: Page, share: float = 0.2) -> None:
    """Drag its handle to a share of the track, as a hand would."""
    slider = LABELLED.format("search_window")
    handle, track = (page.box(f"{slider}.querySelector('.noUi-{p}')") for p in ("handle", "base"))
    x, y = (handle[a] + handle[length] / 2 for a, length in (("x", "width"), ("y", "height")))
    page.mouse("mousePressed", x, y)
    for kind in ("mouseMoved", "mouseReleased"):  # one move: one new picture
        page.mouse(kind, track["x"] + share * track["width"], y)


def changed(page: Page, content: str, act: Callable[[], object]) -> float:
    """Seconds from an act until what a script reads has changed."""
    before = json.dumps(page.run(content))
    started = time.perf_counter()
    act()
    page.wait(f"{content} && {content} != {before}")
    return time.perf_counter() - started


def explore(page: Page) -> float:
    """Use all three explorers; seconds from a slider's drag to the new curve."""
    show(page, 0)
    before = page.picture(CURVE)
    taken = changed(page, f"{CURVE}.querySelector('img').src", lambda: drag_search_window(page))
    page.wait(f"{CURVE}.querySelector('img').complete")
    assert page.picture(CURVE) != before
    box = page.box(CURVE)
    page.mouse("mouseMoved", box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait("getComputedStyle(document.querySelector('.rank:hover figure')).display == 'block'")
    place = page.box("document.querySelector('.rank:hover')")
    assert abs(place["x"] + place["width"] / 2 - 0.55 * box["width"] - box["x"]) < 10
    share = page.run(HOVERED_RANK) / page.run(f"{CURVE}.querySelectorAll('.rank').length")
    assert abs(share - (0.55 - LEFT) / WIDTH) < 0.03
    show(page, 1)
    field = f"{LABELLED.format('relative caption')}.querySelector('input')"
    caption = "is <b>red</b> with long sleeves"
    changed(page, f"{RESULTS}?.innerHTML", lambda: page.type(field, caption))
    assert page.run(f"{RESULTS}.querySelectorAll('figure').length") == 20
    assert page.run(f"{EXPLORER.format(1)}.querySelector('.widget-html b')") is None
    show(page, 2)
    choose = CHOOSE.format(LABELLED.format("show"), 2)
    row = f"{EXPLORER.format(2)}.querySelector('.note').textContent"
    changed(page, row, lambda: page.run(choose))
    assert "choice against own scores" in page.run(row)
    return taken


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome to open JupyterLab in")
@pytest.mark.skipif("QURE_BROWSER" not in os.environ, reason="opens a browser if QURE_BROWSER=1")
def test_the_explorers_answer_in_jupyterlab(tmp_path, smoke_world):
    data = tmp_path / "worlds"
    data.mkdir()
    (data / "synthfashion-smoke").symlink_to(smoke_world)
    places = data, tmp_path / "last_reports", tmp_path / "own_runs"
    copies = own_checkout(tmp_path, *places)
    assert lab.make_copies(copies, "smoke", tmp_path / "reports") == []
    with opened(tmp_path, copies) as page:
        run_all(page, 300)
        assert page.run("document.title").startswith("00_start")
        assert not page.run("!!document.querySelector('.jp-Dialog, .Toastify__toast')")  # no news
        explore(page)
        for width in (1280, 1040):  # the second leaves the notebook some 700 pixels
            page.resize(width, 900)
            page.wait(f"innerWidth == {width}")
            page.wait(f"!{CUT}.length", 10)
    assert (copies / "reports" / "tables" / "extra_notebooks.csv").is_file()
    assert not list((tmp_path / "reports").iterdir())


def take_screenshots(page: Page, folder: Path) -> None:
    """Save the opened notebook and each explorer, of at most 256 colours."""
    page.resize(1280, 1700)
    show(page, 0)
    changed(page, f"{CURVE}.querySelector('img').src", lambda: drag_search_window(page, 1))
    page.run("document.activeElement.blur()")
    page.run(CHOOSE.format(LABELLED.format("query of the data set"), 1))  # its target is known
    for number, name in enumerate(EXPLORERS):
        show(page, number)
        time.sleep(1)  # until the notebook has settled at its new place
        save_png(page.picture(EXPLORER.format(number)), folder / f"{name}_explorer.png")
    page.resize(1280, 800)
    page.run(f"void {PANEL}.content.scrollToItem(3, 'start')")
    time.sleep(1)
    save_png(page.picture("document.querySelector('#main')"), folder / "lab.png")


def save_png(picture: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="of the last `make reproduce`")
    given, target = parser.parse_args(), ROOT / "reports" / "screenshots"
    with tempfile.TemporaryDirectory() as name:
        copies = own_checkout(Path(name), *(ROOT / n for n in ("data", "reports", "runs")))
        lab.make_copies(copies, given.profile, ROOT / "reports")
        with opened(Path(name), copies) as page:
            print(f"{run_all(page, 300):.0f} s until the explorers are there")
            print(f"{1000 * explore(page):.0f} ms from a drag to the new curve")
            take_screenshots(page, target)
