"""Reports: where a notebook's figures and tables go, and the one page that shows them all.

A report folder holds `figures/` and `tables/`, each item with a JSON note beside it (kind, name,
title, caption, notebook), `claims/`, where the note is all there is, and `executed/`, the notebooks
as they ran. The page needs no network.
"""

import base64
import csv
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from qure_lib.files import replacing

FORMATS = {"figure": ("pdf", "png", "csv"), "table": ("csv", "md"), "claim": ()}  # beside a note
_FOLDERS = {"figure": "figures", "table": "tables", "claim": "claims"}
_PIXELS_PER_INCH = 125  # of a figure on the page: 8 pt print reads like 10 pt text
_NOTE_KEYS = {"kind", "name", "title", "caption", "notebook"}
_CLAIM_KEYS = {"verdict", "interval", "n", "on", "seeds"}  # of a claim's note, besides
_FIRST_SENTENCE = re.compile(r".+?(?<!Fig)(?<!Eq)(?<!vs)(?<!e\.g)(?<!i\.e)[.?!](?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Reports:
    """The report folder, as one notebook writes to it.

    Args:
        root: the folder; `figures/`, `tables/` and `claims/` are made under it.
        notebook: name of the notebook that writes ("06_preference_study").
    """

    root: Path
    notebook: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        for folder in _FOLDERS.values():
            Path(self.root, folder).mkdir(parents=True, exist_ok=True)

    @property
    def figures(self) -> Path:
        return self.root / _FOLDERS["figure"]

    @property
    def tables(self) -> Path:
        return self.root / _FOLDERS["table"]

    def write_note(self, kind: str, name: str, caption: str, **more: Any) -> Path:
        """Write the note by which the index finds a figure, a table or a claim's measurement.

        Args:
            kind: "figure", "table" or "claim".
            name: file name without suffix: letters, digits, "_" and "-".
            caption: what it shows; the first sentence is the title.
            more: what else the note says.

        Returns:
            The path, without suffix, where the item's own files belong.

        Raises:
            ValueError: an unknown kind, no plain file name, or an empty caption.
        """
        if kind not in _FOLDERS:
            raise ValueError(f"{name}: unknown kind {kind!r}; write one of {list(_FOLDERS)}")
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{kind} {name!r}: use letters, digits, '_' and '-' in its name")
        caption = " ".join(caption.split())
        if not caption:
            raise ValueError(f"{kind} {name}: the caption is empty; say what it shows")
        sentence = _FIRST_SENTENCE.match(caption)
        title = (sentence[0] if sentence else caption).removesuffix(".")
        note = {"kind": kind, "name": name, "title": title, "caption": caption} | more
        stem = self.root / _FOLDERS[kind] / name
        text = json.dumps(note | {"notebook": self.notebook}, indent=2, ensure_ascii=False)
        with replacing(stem.with_suffix(".json")) as path:  # other notebooks' runs read it
            path.write_text(text + "\n", encoding="utf-8")
        return stem


@contextmanager
def replacing_outputs(root: str | Path, notebook: str) -> Iterator[None]:
    """Set a notebook's earlier figures and tables aside; bring them back if the block fails.

    So nothing stale outlives a successful run, and a failed or interrupted one leaves what the
    run before it wrote. What a killed run had set aside comes back at the next one.

    Args:
        root: the report folder.
        notebook: whose figures and tables, by their notes; all others stay in place.
    """
    root = Path(root)
    aside = root / f".previous-{notebook}"
    if aside.exists():
        _restore(root, notebook, aside)
    _move(_outputs(root, notebook), root, aside)
    try:
        yield
    except BaseException:
        _restore(root, notebook, aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _restore(root: Path, notebook: str, aside: Path) -> None:
    for path in _outputs(root, notebook):
        path.unlink()
    _move([path for path in aside.rglob("*") if path.is_file()], aside, root)
    shutil.rmtree(aside, ignore_errors=True)


def _move(paths: list[Path], source: Path, destination: Path) -> None:
    for path in paths:
        new = destination / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        path.replace(new)


def _outputs(root: Path, notebook: str) -> list[Path]:
    """Every file of the notebook's figures and tables, the notes last."""
    stems = [_path(root, n) for n in _read_notes(root) if n["notebook"] == notebook]
    files = [path for stem in stems for path in stem.parent.glob(f"{stem.name}.*")]
    return sorted(files, key=lambda path: (path.suffix == ".json", path))


def build_index(root: str | Path) -> Path:
    """Write `index.html`: every figure and table, by notebook, in one page without a network.

    Pictures and style are inlined; links lead to the files beside the page. The same reports give
    the same bytes.

    Args:
        root: the report folder.

    Returns:
        The path of the page.

    Raises:
        ValueError: no figure or table, a broken note, or a file missing beside one.
    """
    root = Path(root)
    notes = sorted(_read_notes(root), key=lambda note: note["notebook"])
    measured = {note["name"]: note for note in notes if note["kind"] == "claim"}
    notes = [note for note in notes if note["kind"] != "claim"]
    if not notes:
        raise ValueError(f"{root}: no figures or tables; run `make reproduce` first")
    for note in notes:
        _refuse_missing_files(_path(root, note), note)
    groups = groupby(notes, key=lambda note: note["notebook"])
    sections = [_section(root, notebook, list(items)) for notebook, items in groups]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        Path(__file__).with_name("reports.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(sections=sections, runs=_runs(sections), claims=_claims(measured))
    with replacing(root / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return root / "index.html"


def _path(root: Path, note: dict[str, str]) -> Path:
    return root / _FOLDERS[note["kind"]] / note["name"]


def _read_notes(root: Path) -> list[dict[str, str]]:
    """All notes of a report folder; a broken one is refused by name."""
    notes = []
    for kind, folder in _FOLDERS.items():
        for path in sorted((root / folder).glob("*.json")):
            remedy = "delete it and run its notebook again"
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: not JSON ({error}); {remedy}") from error
            needed = _NOTE_KEYS | (_CLAIM_KEYS if kind == "claim" else set())
            if not isinstance(note, dict) or not note.keys() >= needed:
                raise ValueError(f"{path}: needs the keys {sorted(needed)}; {remedy}")
            if (note["kind"], note["name"]) != (kind, path.stem):
                raise ValueError(f"{path}: describes {note['kind']} {note['name']!r}; {remedy}")
            notes.append(note)
    return notes


def _refuse_missing_files(stem: Path, note: dict[str, str]) -> None:
    for suffix in FORMATS[note["kind"]]:
        if not stem.with_suffix(f".{suffix}").is_file():
            raise ValueError(
                f"{stem}.{suffix} is missing beside its note; run {note['notebook']} again, "
                f"or delete {stem.name}.json"
            )


def read_claims() -> dict[str, dict[str, str]]:
    """The paper's claims by name: source, says, notebook (that measures it, or none), needs."""
    with open(Path(__file__).with_name("claims.csv"), encoding="utf-8", newline="") as stream:
        return {row["claim"]: row for row in csv.DictReader(stream)}


def _claims(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a claim of the paper: what it says, and what was measured or would be needed."""
    rows = []
    for name, claim in read_claims().items():
        verdict = "not run yet" if claim["notebook"] else "not testable here"
        needs = f"Run notebook {claim['notebook']}. " * bool(claim["notebook"]) + claim["needs"]
        blank = {"caption": needs.strip(), "verdict": verdict} | dict.fromkeys(
            ("on", "n", "seeds"), "-"
        )
        rows.append(claim | blank | {"interval": "-"} | measured.get(name, {}))
    return rows


def _section(root: Path, notebook: str, notes: list[dict[str, str]]) -> dict[str, Any]:
    """What the page says of one notebook: title, opening words, links, and its items in order."""
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
    """One figure or table as the page shows it."""
    stem = _path(root, note)
    paths = {suffix: stem.with_suffix(f".{suffix}") for suffix in FORMATS[note["kind"]]}
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
    runs: dict[str, dict[str, Any]] = {}
    for section in sections:
        if section["run"]:
            key = json.dumps(section["run"], sort_keys=True)
            run = runs.setdefault(key, section["run"] | {"notebooks": []})
            run["notebooks"].append(section["notebook"])
    return list(runs.values())
