"""A real browser without a window, driven by the DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket  # comes with JupyterLab's server

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Page:
    """A browser's tab, by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.sent, self.events = 0, []  # events: of the domains that were enabled

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while (reply := json.loads(self.socket.recv())).get("id") != self.sent:
            self.events.append(reply)
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

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def type(self, element: str, text: str) -> None:
        """Put text in the place of an input's own, and press Enter."""
        self.run(f"{element}.scrollIntoView({{block: 'center'}}); {element}.select()")
        self.send("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self.send("Input.dispatchKeyEvent", type=kind, **key)

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
def tab(folder: Path) -> Iterator[Page]:
    """A new browser's one tab; its profile stays in `folder`."""
    profile = folder / "profile"
    with running([BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"], **SILENT):
        port = found(profile, "DevToolsActivePort").split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
            tabs = [tab for tab in json.load(reply) if tab["type"] == "page"]
        yield Page(tabs[0]["webSocketDebuggerUrl"])
