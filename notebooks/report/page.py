"""`index.html`: one page, without a network, that shows every figure, table and claim."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from qure_lib.files import replacing

from .claims import read_claims
from .folder import FORMATS, note_path, read_notes
from .tables import SHOWN_COLUMNS, in_words

HERE = Path(__file__).parent
_notebook_of = itemgetter("notebook")
_PIXELS_PER_INCH = 125  # of a figure on the page: 8 pt print reads like 10 pt text
_SHARPNESS = 1.6  # pixels of an embedded figure in one of these


def build_index(root: str | Path) -> Path:
    """Write a report folder's `index.html`: claims, explorer, notebooks; return its path.

    Pictures, style and scripts are inlined, so it needs no network; links lead to the files beside
    it. The same reports give the same bytes. The browser runs its one script and no other, whatever
    a caption or a file name holds: its Content-Security-Policy names that script by hash.

    Raises:
        ValueError: no figure or table, a broken note, or a file missing beside one.
    """
    root = Path(root)
    items = sorted((_item(root, note) for note in read_notes(root)), key=_notebook_of)
    shown = [item for item in items if item["kind"] in ("figure", "table")]
    if not shown:
        raise ValueError(f"{root}: no figures or tables; run `make reproduce` first")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    loader = jinja2.FileSystemLoader(HERE)
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    page = templates.get_template("page.html.j2").render(
        sections=[_section(root, *group) for group in groupby(shown, _notebook_of)],
        claims=read_claims(),
        measured={item["name"]: item for item in items if item["kind"] == "claim"},
        verdicts=pd.read_csv(HERE / "verdicts.csv", index_col=0).to_dict("index"),
        explorers=[item for item in items if item["kind"] == "explorer"],
        shown_columns=SHOWN_COLUMNS,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with replacing(root / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return root / "index.html"


def _section(root: Path, notebook: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows of one notebook: title, first paragraph, links, and items in order."""
    executed = root / "executed" / f"{notebook}.ipynb"
    document = json.loads(executed.read_text(encoding="utf-8")) if executed.is_file() else {}
    sources: dict[str, list[str]] = {"markdown": [f"# {notebook}"], "code": [], "raw": []}
    for cell in document.get("cells", []):
        sources[cell["cell_type"]].append("".join(cell["source"]))
    title, lead = _opening(sources["markdown"][:2][-1])
    code = "\n".join(sources["code"])
    copies = [f"executed/{notebook}.{suffix}" for suffix in ("html", "ipynb")]
    return {
        "notebook": notebook,
        "title": title,
        "lead": lead,
        "executed": [copy for copy in copies if (root / copy).is_file()],
        "run": document.get("metadata", {}).get("qure_lib", {}),
        "shown": sorted(
            items, key=lambda i: (code.find(f'"{i["name"]}"') % (len(code) + 1), i["name"])
        ),
    }


def _opening(markdown: str) -> tuple[str, str]:
    """Title and first paragraph of a notebook's opening cell, without Markdown's marks."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)|[`*]", r"\1", markdown)
    title, *paragraphs = [block.strip() for block in plain.split("\n\n")]
    lead = next((text for text in paragraphs if text and text[0] not in "|#-"), "")
    return title.lstrip("# "), " ".join(lead.split())


def _item(root: Path, note: dict[str, Any]) -> dict[str, Any]:
    """A note with what the page shows of it; ValueError if one of its files is missing."""
    stem = note_path(root, note)
    paths = {suffix: stem.with_suffix(f".{suffix}") for suffix in FORMATS[note["kind"]]}
    for path in paths.values():
        if not path.is_file():
            raise ValueError(f"{path} is missing; run {note['notebook']} again, or delete its note")
    links = {suffix: path.relative_to(root).as_posix() for suffix, path in paths.items()}
    item = note | {"links": links}
    if note["kind"] == "figure":
        item |= _picture(paths["png"])
    elif note["kind"] == "table":
        item["table"] = in_words(pd.read_csv(paths["csv"], keep_default_na=False, na_values=[""]))
    elif note["kind"] == "explorer":
        item["data"] = [*map(json.loads, paths["jsonl"].read_text(encoding="utf-8").splitlines())]
    return item


def _picture(path: Path) -> dict[str, Any]:
    """A figure's picture for the page: `uri`, smaller than its file, and its size in CSS pixels."""
    with Image.open(path) as image:
        shrink = _PIXELS_PER_INCH / image.info.get("dpi", (300,))[0]
        width, height = (round(side * shrink) for side in image.size)
        page_size = round(width * _SHARPNESS), round(height * _SHARPNESS)
        small = image.convert("RGB").resize(page_size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80)
    uri = f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"uri": uri, "width": width, "height": height}
