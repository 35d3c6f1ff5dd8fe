"""`index.html`: one page, without a network, that shows every figure, table and claim."""

import base64
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from qure_lib.files import replacing

from .claims import read_claims
from .reports import FORMATS, note_path, read_notes

_PIXELS_PER_INCH = 125  # of a figure on the page: 8 pt print reads like 10 pt text


def build_index(root: str | Path) -> Path:
    """Write a report folder's `index.html`: its figures and tables, by notebook; return its path.

    Pictures and style are inlined, so it needs no network; links lead to the files beside it. The
    same reports give the same bytes.

    Raises:
        ValueError: no figure or table, a broken note, or a file missing beside one.
    """
    root = Path(root)
    notes = sorted(read_notes(root), key=lambda note: note["notebook"])
    measured = {note["name"]: note for note in notes if note["kind"] == "claim"}
    notes = [note for note in notes if note["kind"] != "claim"]
    if not notes:
        raise ValueError(f"{root}: no figures or tables; run `make reproduce` first")
    groups = groupby(notes, key=lambda note: note["notebook"])
    sections = [_section(root, notebook, list(items)) for notebook, items in groups]
    source = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    template = jinja2.Template(source, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = template.render(sections=sections, runs=_runs(sections), claims=_claims(measured))
    with replacing(root / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return root / "index.html"


def _claims(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a claim of the paper: what it says, and what was measured or what it needs."""
    rows = []
    for name, claim in read_claims().items():
        blank = dict.fromkeys(("interval", "on", "n", "seeds"), "-")
        blank["verdict"] = "not run yet" if claim["notebook"] else "not testable here"
        run = f"Run notebook {claim['notebook']}. " if claim["notebook"] else ""
        blank["caption"] = (run + claim["needs"]).strip()
        rows.append(claim | blank | measured.get(name, {}))
    return rows


def _section(root: Path, notebook: str, notes: list[dict[str, str]]) -> dict[str, Any]:
    """What the page shows of one notebook: title, first paragraph, links, and items in order."""
    executed = root / "executed" / f"{notebook}.ipynb"
    document = json.loads(executed.read_text(encoding="utf-8")) if executed.is_file() else {}
    sources: dict[str, list[str]] = {"markdown": [f"# {notebook}"], "code": [], "raw": []}
    for cell in document.get("cells", []):
        sources[cell["cell_type"]].append("".join(cell["source"]))
    title, lead = _opening(sources["markdown"][:2][-1])
    code = "\n".join(sources["code"])
    place = {note["name"]: code.find(f'"{note["name"]}"') % (len(code) + 1) for note in notes}
    notes = sorted(notes, key=lambda note: (place[note["name"]], note["name"]))
    copies = [f"executed/{notebook}.{suffix}" for suffix in ("html", "ipynb")]
    return {
        "notebook": notebook,
        "title": title,
        "lead": lead,
        "executed": [copy for copy in copies if (root / copy).is_file()],
        "run": document.get("metadata", {}).get("qure_lib", {}),
        "items": [_item(root, note) for note in notes],
    }


def _opening(markdown: str) -> tuple[str, str]:
    """Title and first paragraph of a notebook's opening cell, without Markdown's marks."""
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)|[`*]", r"\1", markdown)
    title, *paragraphs = [block.strip() for block in plain.split("\n\n")]
    lead = next((text for text in paragraphs if text and text[0] not in "|#-"), "")
    return title.lstrip("# "), " ".join(lead.split())


def _item(root: Path, note: dict[str, str]) -> dict[str, Any]:
    """One figure or table as the page shows it; ValueError if one of its files is missing."""
    stem = note_path(root, note)
    paths = {suffix: stem.with_suffix(f".{suffix}") for suffix in FORMATS[note["kind"]]}
    for path in paths.values():
        if not path.is_file():
            raise ValueError(f"{path} is missing; run {note['notebook']} again, or delete its note")
    links = {suffix: path.relative_to(root).as_posix() for suffix, path in paths.items()}
    item = note | {"rest": note["caption"].removeprefix(note["title"]).lstrip(". "), "links": links}
    if note["kind"] == "figure":
        with Image.open(paths["png"]) as image:
            width = round(image.width / image.info.get("dpi", (300,))[0] * _PIXELS_PER_INCH)
        return item | {"png": base64.b64encode(paths["png"].read_bytes()).decode(), "width": width}
    header, rule, *rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in paths["md"].read_text(encoding="utf-8").splitlines()
    ]
    return item | {"header": header, "right": [c.endswith(":") for c in rule], "rows": rows}


def _runs(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct runs behind the page, each with the notebooks that it covers."""
    runs = [section["run"] for section in sections if section["run"]]
    runs = [run for place, run in enumerate(runs) if run not in runs[:place]]
    return [r | {"notebooks": [s["notebook"] for s in sections if s["run"] == r]} for r in runs]
