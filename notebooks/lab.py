"""Open the notebooks in JupyterLab: copies of your own in lab/, with the outputs of the last run.

    python notebooks/lab.py
    python notebooks/lab.py --profile smoke --no-browser

A copy that you ran or changed stays as you left it; delete it to get a fresh one. What the copies
write goes to lab/reports, so that neither tracked files nor reports/ change; training runs are
shared, in runs/. Options that are not this script's are JupyterLab's.
"""

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyterlab.labapp import LabApp
from report.folder import note_path, read_notes
from run import HERE, Job, plan

from qure_lib.files import file_sha256, read_json, replacing, run_command, write_json

START = "00_start_here.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
NEWS = "@jupyterlab/apputils-extension:announcements"  # asks whether to fetch some


def main(arguments: list[str] | None = None) -> None:
    """Make or refresh the copies, and open the first."""
    root = HERE.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="a file of notebooks/profiles")
    options, others = parser.parse_known_args(arguments)
    try:
        kept = make_copies(root / "lab", options.profile, root / "reports")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    for name in kept:
        print(f"kept lab/{name} as you left it; delete it and start again for a fresh copy")
    os.environ |= environment(root / "lab")
    LabApp.launch_instance(arguments_of_lab(root / "lab") + others)


def arguments_of_lab(lab: Path) -> list[str]:
    """JupyterLab's arguments: it shows the copies alone, and opens the first.

    Its defaults stay: it listens to this machine alone and asks for a token.
    """
    return [f"--ServerApp.root_dir={lab}", f"--LabApp.default_url=/lab/tree/{START}"]


def environment(lab: Path) -> dict[str, str]:
    """Variables for JupyterLab: where kernels find the copies' modules, and its settings."""
    first = {"PYTHONPATH": HERE, "JUPYTER_CONFIG_PATH": lab / ".jupyter"}
    given = {name: os.environ.get(name) for name in first}
    return {n: os.pathsep.join(filter(None, [str(p), given[n]])) for n, p in first.items()}


def make_copies(lab: Path, profile: str, reports: Path, notebooks: Path = HERE) -> list[str]:
    """Copy a profile's notebooks and the notes of the last run, and turn off JupyterLab's news.

    Args:
        lab: folder of the copies; it lies beside `notebooks`, whose relative paths stay true.
        reports: of the last run: its outputs come into the copies, if it was of this profile.

    Returns:
        Names of the copies that were left alone because they have changed since they were made.

    Raises:
        ValueError: no such profile, or a broken notebook, note or record of the copies.
    """
    record, kept = lab / ".copies.json", []
    made: dict[str, str] = read_json(record, dict) if record.is_file() else {}
    for job in plan(notebooks, profile, [], {}):
        path = lab / job.path.name
        if path.is_file() and file_sha256(path) != made.get(path.name):
            kept.append(path.name)
            continue
        with replacing(path) as scratch:
            nbformat.write(_copy_of(job, profile, reports), scratch)
        made[path.name] = file_sha256(path)
    write_json(record, made)
    _copy_notes(reports, lab / "reports")
    settings = lab / ".jupyter" / "labconfig" / "page_config.json"
    write_json(settings, {"disabledExtensions": {NEWS: True}})
    return kept


def _copy_of(job: Job, profile: str, reports: Path) -> nbformat.NotebookNode:
    """A notebook with its profile's parameters, its own report folder and the last outputs."""
    notebook = nbformat.read(job.path, as_version=4)
    last = _last_run(reports / "executed" / job.path.name, profile)
    for cell in notebook.cells:
        executed = last.get(cell.id)
        if executed is not None and executed.source == cell.source:
            outputs = [o for o in executed.outputs if WIDGET not in o.get("data", {})]
            cell.update(outputs=outputs, execution_count=executed.execution_count)
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = set_parameters(cell.source, job.parameters | {"reports_dir": "reports"})
    return notebook


def _last_run(path: Path, profile: str) -> dict[str, nbformat.NotebookNode]:
    """Code cells by id of a notebook as it ran; none if it never ran, or at another profile."""
    if not path.is_file():
        return {}
    notebook = nbformat.read(path, as_version=4)
    ran = notebook.metadata.get("qure_lib", {}).get("profile") == profile
    return {c.id: c for c in notebook.cells if ran and c.cell_type == "code"}


def set_parameters(source: str, values: dict[str, Any]) -> str:
    """Put values into lines `name = value  # comment`; the comments stay.

    Example:
        >>> set_parameters('root = "a"  # a folder', {"root": "b"})
        'root = "b"  # a folder'
    """
    for name, value in values.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
        line = re.compile(rf"^{name} = .*?(?=  #|$)", re.MULTILINE)
        source = line.sub(lambda _, new=f"{name} = {text}": new, source)
    return source


def _copy_notes(reports: Path, own: Path) -> None:
    """Copy the notes that 00 reads its verdicts from, unless a copy's own run left newer ones."""
    for note in read_notes(reports):
        source, copy = (note_path(root, note).with_suffix(".json") for root in (reports, own))
        if not copy.is_file() or copy.stat().st_mtime < source.stat().st_mtime:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


if __name__ == "__main__":
    run_command(main)
