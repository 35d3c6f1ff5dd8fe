"""Notebook 00: the notebooks with their last verdicts, and the models that earlier runs left."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import pandas as pd
from report.folder import read_notes
from report.names import plain_name

from qure_lib.datasets.fashioniq import list_fashioniq_images
from qure_lib.datasets.hp_fashioniq import load_hp_fashioniq
from qure_lib.datasets.loading import real_annotations
from qure_lib.features.retriever import Retriever
from qure_lib.files import read_json
from qure_lib.train.run_folder import Run
from qure_lib.train.training_data import TrainingData

SHOWN_RUNS = ("in_batch", "cosine", "preference")  # the last two are what the kit compares
NOT_READ = pd.DataFrame()  # the figures of a run, of which only the weights are opened
ROW = re.compile(r"^\| (Reproduces|Takes) \| (.+) \|$", re.MULTILINE)


def list_notebooks(folder: str | Path) -> pd.DataFrame:
    """All notebooks of a folder but 00: file, notebook (its title), reproduces, takes."""
    rows = []
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        if path.name.startswith("00"):
            continue
        opening = nbformat.read(path, as_version=4).cells[0].source
        about = {name.lower(): text for name, text in ROW.findall(opening)}
        title = opening.splitlines()[0].removeprefix("# ")
        rows.append({"file": path.name, "notebook": title} | about)
    return pd.DataFrame(rows)


def last_verdicts(notebooks: Iterable[str], reports: str | Path) -> list[str]:
    """What each notebook's last run judged, by the notes of a report folder; "not run yet".

    Args:
        notebooks: file names.
    """
    notes, verdicts = read_notes(Path(reports)), []
    for file in notebooks:
        mine = [note for note in notes if note["notebook"] == Path(file).stem]
        counts = Counter(note["verdict"] for note in mine if note["kind"] == "claim")
        judged = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        ran = "it has run; it judges no claim" if mine else "not run yet"
        verdicts.append(f"claims: {judged}" if judged else ran)
    return verdicts


def as_links(notebooks: pd.DataFrame) -> str:
    """`list_notebooks` with a column `verdict`, as a Markdown table that opens them."""
    lines = ["| notebook | takes | last verdict |", "|---|---|---|"]
    for row in notebooks.itertuples():
        lines.append(f"| [{row.notebook}]({row.file}) | {row.takes} | {row.verdict} |")
    return "\n".join(lines)


def saved_models(
    runs_dir: str | Path, start: Retriever, data: TrainingData
) -> dict[str, Retriever]:
    """Models to explore: before warm-up, and what finished runs on these data left. Trains nothing.

    Of each of SHOWN_RUNS the newest run counts that began with this model on these data, whatever
    its settings. "after warm-up" is what the first definition of the rule as released was made by.

    Returns:
        name -> model: "before warm-up" first, then "after warm-up", then one a run.
    """
    models, warm = {}, {}
    hashes = data.hashes(start)
    for name in SHOWN_RUNS:
        manifests = sorted(Path(runs_dir).glob(f"{name}-*/run.json"), key=os.path.getmtime)
        fitting = [path for path in manifests if read_json(path, dict).get("data") == hashes]
        if fitting:
            run = Run(fitting[-1].parent, history=NOT_READ, mining=NOT_READ, start=start)
            models[plain_name(name)] = run.retriever("last")
            for path in sorted(run.folder.glob("definitions/epoch_*.safetensors"))[:1]:
                warm["after warm-up"] = run.retriever(int(path.stem.removeprefix("epoch_")))
    return {"before warm-up": start} | warm | models


def describe_models(models: Mapping[str, Retriever], runs_dir: str | Path) -> str:
    """Which models there are to explore, and what to run where there are few."""
    if not models:
        return "No model is opened at this profile, so there are no rankings to look at."
    if len(models) == 1:
        return (
            f"No finished run on these data in {runs_dir}: the model is shown as it is before "
            "training. `make reproduce`, or notebooks 03 and 04, train what is compared here."
        )
    return f"Models, all from {runs_dir}: {', '.join(models)}."


def open_study(data_root: str | Path) -> tuple[pd.DataFrame, dict[str, Path], str] | None:
    """The judged rows, the image files that are there, and the study's name; None without rows.

    The real HP-FashionIQ where QURE_DATA holds it, else the data set's simulated study.
    """
    real, fashioniq = real_annotations("hpfiq"), real_annotations("fashioniq")
    path = real / "hpfiq.json" if real else Path(data_root, "hp_like", "hpfiq_simulated.json")
    if not path.is_file():
        return None
    images = list_fashioniq_images(fashioniq if real and fashioniq else data_root)
    study = "HP-FashionIQ" if real else "Simulated preferences on SynthFashion"
    return load_hp_fashioniq(path), images, study
