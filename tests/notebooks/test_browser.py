"""Notebook 03 in a real browser: open, run all, move a slider, see the picture change.

`python tests/notebooks/test_browser.py` does the same and renews reports/screenshots/.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
import websocket  # comes with JupyterLab's server
import yaml
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "03_hard_negatives"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
PANEL = "[...jupyterapp.shell.widgets('main')][0]"
CURVE = "document.querySelector('.qure .curve')"
LABELLED = """[...document.querySelectorAll('.qure label')].find(
    label => label.textContent == '{}').parentElement"""
OVERLAY = f"""const select = {LABELLED.format("overlay")}.querySelector('select');
select.selectedIndex = 2; select.dispatchEvent(new Event('change', {{bubbles: true}}))"""


class Page:
    """A browser's tab, by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.sent = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while (reply := json.loads(self.socket.recv())).get("id") != self.sent:
            pass
        return reply["result"]

    def run(self, script: str) -> Any:
        reply = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        return reply["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        ends = time.monotonic() + seconds
        while not self.run(f"!!({script})"):
            assert time.monotonic() < ends, f"after {seconds} s still not: {script}"
            time.sleep(0.05)

    def box(self, element: str) -> dict[str, float]:
        return self.run(f"{element}.getBoundingClientRect().toJSON()")

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click(self, box: dict[str, float]) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def picture(self, element: str) -> bytes:
        clip = {key: self.box(element)[key] for key in ("x", "y", "width", "height")} | {"scale": 1}
        return base64.b64decode(self.send("Page.captureScreenshot", clip=clip)["data"])


@contextmanager
def running(command: list[Any], **options: Any) -> Iterator[None]:
    process = subprocess.Popen(list(map(str, command)), **options)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def found(folder: Path, pattern: str) -> str:
    """The content of a file, once it is there."""
    ends = time.monotonic() + 60
    while not (files := list(folder.glob(pattern))) or not files[0].read_text().strip():
        assert time.monotonic() < ends, f"{folder} never held {pattern}"
        time.sleep(0.1)
    return files[0].read_text()


@contextmanager
def opened(folder: Path, notebook: Path) -> Iterator[Page]:
    """The notebook in JupyterLab, whose settings and runtime files stay in `folder`."""
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(folder / name.lower()) for name in places}
    own["PYTHONPATH"] = str(ROOT / "notebooks")  # where the copied notebook finds its modules
    quiet = folder / "jupyter_config_dir" / "labconfig" / "page_config.json"
    quiet.parent.mkdir(parents=True)
    news = "@jupyterlab/apputils-extension:announcements"  # would ask whether to fetch some
    quiet.write_text(json.dumps({"disabledExtensions": {news: True}}))
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    lab += ["--expose-app-in-browser", f"--ServerApp.root_dir={notebook.parent}"]
    profile = folder / "profile"
    browser = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with running(lab, env=os.environ | own, **silent), running(browser, **silent):
        port = found(profile, "DevToolsActivePort").split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
            tabs = [tab for tab in json.load(reply) if tab["type"] == "page"]
        page = Page(tabs[0]["webSocketDebuggerUrl"])
        server = json.loads(found(Path(own["JUPYTER_RUNTIME_DIR"]), "jpserver-*.json"))
        size = {"width": 1400, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
        page.send("Emulation.setDeviceMetricsOverride", **size)
        address = f"{server['url']}lab/tree/{notebook.name}?token={server['token']}"
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        page.send("Page.navigate", url=address)
        yield page


def smoke_notebook(folder: Path, world: Path) -> Path:
    """Notebook 03 with the parameters of profile smoke, writing below `folder`."""
    places = {"data_root": world, "checkpoint": ROOT / "data_prep" / "mini_stage1"}
    places |= {"runs_dir": folder / "runs", "reports_dir": folder / "reports", "unseen_root": ""}
    smoke = ROOT / "notebooks" / "profiles" / "smoke.yaml"
    profile = yaml.safe_load(smoke.read_text(encoding="utf-8"))
    parameters = profile[NOTEBOOK] | {name: str(place) for name, place in places.items()}
    notebook = load_notebook_node(str(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb"))
    path = folder / "notebooks" / f"{NOTEBOOK}.ipynb"
    path.parent.mkdir()
    nbformat.write(parameterize_notebook(notebook, parameters), path)
    return path


def explore(page: Page, screenshot: Path) -> float:
    """Run all, drag a slider, point at the curve; seconds from the drag to the new picture."""
    page.wait(f"window.jupyterapp && {PANEL}?.sessionContext.session?.kernel")
    page.click(page.box(f"{PANEL}.content.widgets[0].node"))
    page.wait("jupyterapp.shell.currentWidget")
    page.run("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait("document.querySelector('.qure .curve img')?.complete", 400)
    page.wait(f"{PANEL}.sessionContext.session.kernel.status == 'idle'")
    cells = json.loads(page.run(f"JSON.stringify({PANEL}.content.model.toJSON().cells)"))
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    page.run("document.querySelector('.qure').scrollIntoView()")
    page.wait("document.querySelector('.qure .curve').getBoundingClientRect().top > 0")
    before = page.picture(CURVE)
    taken = redrawn(page, lambda: drag_search_window(page))
    assert page.picture(CURVE) != before
    redrawn(page, lambda: page.run(OVERLAY))
    box = page.box(CURVE)
    page.mouse("mouseMoved", box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait("getComputedStyle(document.querySelector('.rank:hover figure')).display == 'block'")
    with Image.open(io.BytesIO(page.picture("document.querySelector('.qure')"))) as image:
        image.quantize().save(screenshot, optimize=True)
    return taken


def redrawn(page: Page, act: Callable[[], object]) -> float:
    """Seconds from an act to the new picture."""
    source = json.dumps(page.run(f"{CURVE}.querySelector('img').src"))
    started = time.perf_counter()
    act()
    page.wait(f"{CURVE}.querySelector('img').src != {source}")
    page.wait(f"{CURVE}.querySelector('img').complete")
    return time.perf_counter() - started


def drag_search_window(page: Page) -> None:
    """Drag its handle to a fifth of the track, as a hand would."""
    slider = LABELLED.format("search_window")
    handle, track = (page.box(f"{slider}.querySelector('.noUi-{p}')") for p in ("handle", "base"))
    x, y = (handle[a] + handle[length] / 2 for a, length in (("x", "width"), ("y", "height")))
    page.mouse("mousePressed", x, y)
    for kind in ("mouseMoved", "mouseReleased"):  # one move: one new picture
        page.mouse(kind, track["x"] + 0.2 * track["width"], y)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome to open JupyterLab in")
@pytest.mark.skipif("QURE_BROWSER" not in os.environ, reason="opens a browser if QURE_BROWSER=1")
def test_a_slider_changes_the_picture_in_a_browser(tmp_path, smoke_world):
    with opened(tmp_path, smoke_notebook(tmp_path, smoke_world)) as page:
        explore(page, tmp_path / "relevance_explorer.png")
    assert (tmp_path / "relevance_explorer.png").stat().st_size > 20_000


if __name__ == "__main__":
    from data_prep import synthfashion

    target = ROOT / "reports" / "screenshots" / "relevance_explorer.png"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        world = synthfashion.prepare(Path(name, "smoke"), size="smoke")
        with opened(Path(name), smoke_notebook(Path(name), world)) as tab:
            print(f"{1000 * explore(tab, target):.0f} ms from the drag to the new picture")
