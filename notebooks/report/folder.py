"""The report folder: where a notebook's figures, tables and measured claims go.

`figures/`, `tables/` and `explorers/` hold each item with a JSON note beside it (kind, name, title,
caption, notebook). `claims/` holds the notes alone. `executed/` holds the notebooks as they ran.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qure_lib.files import replacing

FORMATS = {"figure": ("pdf", "png", "csv"), "table": ("csv", "md")}  # beside a note
FORMATS |= {"claim": (), "explorer": ("jsonl",)}  # JSON: what all queries share, then one a line
_NOTE_KEYS = {"kind", "name", "title", "caption", "notebook"}
_CLAIM_KEYS = {"verdict", "interval", "n", "on", "seeds"}  # of a claim's note, besides
_FIRST_SENTENCE = re.compile(r".+?(?<!Fig)(?<!Eq)(?<!vs)(?<!e\.g)(?<!i\.e)[.?!](?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Reports:
    """The report folder, as one notebook writes to it.

    Args:
        root: the folder; `figures/`, `tables/` and `claims/` are made in it when needed.
        notebook: name of the notebook that writes ("06_preference_study").

    Raises:
        ValueError: `root` is relative, and the working folder is neither the notebook's nor one
            beside it: the notebook's other paths would lead elsewhere too.
    """

    root: Path
    notebook: str

    def __post_init__(self) -> None:
        file = f"{self.notebook}.ipynb"
        places = Path(file), Path("..", "notebooks", file)
        if not self.root.is_absolute() and not any(place.is_file() for place in places):
            raise ValueError(
                f"the working folder is {Path.cwd()}, but the paths of {file}, such as "
                f"{self.root}, begin in its own folder, notebooks/: set the working folder to it"
            )

    def write_note(self, kind: str, name: str, caption: str, **more: Any) -> Path:
        """Write the note by which the index finds a figure, a table or a claim's measurement.

        Args:
            kind: "figure", "table", "explorer" or "claim".
            name: file name without suffix, of letters, digits, "_" and "-" ("fig7_score_curve",
                "extra_captions": what the paper lacks begins with "extra").
            caption: what it shows; the first sentence is the title.
            more: further keys of the note.

        Returns:
            The path, without suffix, for the item's own files.

        Raises:
            ValueError: an unknown kind, no plain file name, or an empty caption.
        """
        if kind not in FORMATS:
            raise ValueError(f"{name}: unknown kind {kind!r}; write one of {list(FORMATS)}")
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{kind} {name!r}: use letters, digits, '_' and '-' in its name")
        caption = " ".join(caption.split())
        if not caption:
            raise ValueError(f"{kind} {name}: the caption is empty; say what it shows")
        sentence = _FIRST_SENTENCE.match(caption)
        title = (sentence[0] if sentence else caption).removesuffix(".")
        note = {"kind": kind, "name": name, "title": title, "caption": caption, **more}
        note |= {"notebook": self.notebook}
        stem = note_path(self.root, note)
        with replacing(stem.with_suffix(".json")) as path:  # other notebooks read it as they run
            path.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return stem


def save_figure(
    figure: Figure, name: str, data: pd.DataFrame, caption: str, reports: Reports
) -> None:
    """Write a figure as PDF and 300-dpi PNG, its data as CSV, and a JSON note for the index.

    The files hold no time stamps and no versions, so a re-run writes the same bytes.

    Args:
        figure: every axes has both labels, holds an image, or is turned off.
        name, caption: see `Reports.write_note`.
        data: the numbers that the figure draws.

    Raises:
        ValueError: an unlabelled axes, an empty `data`, or a name that is no plain file name.
    """
    for ax in figure.axes:
        _refuse_unlabelled(ax, name)
    if data.empty:
        raise ValueError(f"figure {name}: no data; pass the frame that the figure draws")
    stem = reports.write_note("figure", name, caption)
    figure.savefig(stem.with_suffix(".png"), dpi=300, metadata={"Software": None})
    undated = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    figure.savefig(stem.with_suffix(".pdf"), metadata=undated)
    data.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.6g", lineterminator="\n")


def _refuse_unlabelled(ax: Axes, figure: str) -> None:
    """Refuse axes without a label or ticks that are words, on it or on one that shares its axis."""
    if not (ax.axison and ax.get_visible()) or ax.images:
        return
    for name, shared in (("x", ax.get_shared_x_axes()), ("y", ax.get_shared_y_axes())):
        axes = [getattr(sibling, f"{name}axis") for sibling in shared.get_siblings(ax)]
        ticks = [axis.get_major_formatter() for axis in axes]
        words = any(isinstance(tick, StrCategoryFormatter | FuncFormatter) for tick in ticks)
        if not words and not any(axis.get_label_text().strip() for axis in axes):
            raise ValueError(
                f"figure {figure}: axes {ax.get_title() or ax.get_position().bounds} has no "
                f"{name} label; say what it shows and in which unit with ax.set_{name}label"
            )


def read_notes(root: Path) -> list[dict[str, str]]:
    """Read all notes of a report folder.

    Raises:
        ValueError: a note is not JSON, lacks a key, or describes another item; names the file.
    """
    notes = []
    for kind in FORMATS:
        needed = _NOTE_KEYS | (_CLAIM_KEYS if kind == "claim" else set())
        for path in sorted((root / f"{kind}s").glob("*.json")):
            remedy = "delete it and run its notebook again"
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: not JSON ({error}); {remedy}") from error
            if not isinstance(note, dict) or not note.keys() >= needed:
                raise ValueError(f"{path}: needs the keys {sorted(needed)}; {remedy}")
            if (note["kind"], note["name"]) != (kind, path.stem):
                raise ValueError(f"{path}: describes {note['kind']} {note['name']!r}; {remedy}")
            notes.append(note)
    return notes


def note_path(root: Path, note: dict[str, str]) -> Path:
    """The path, without suffix, of a note and of the files beside it."""
    return root / f"{note['kind']}s" / note["name"]
