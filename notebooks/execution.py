"""One notebook in a kernel of this interpreter: executed, and written as notebook and as page."""

import json
import os
import re
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbconvert
import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError
from report.folder import read_notes
from tqdm import tqdm
from traitlets.config import Config

from qure_lib.files import replacing
from qure_lib.manifest import PACKAGES

# The page of an executed notebook: opens without a network, code and logs folded.
PAGE = Path(__file__).with_name("executed.html.j2")

# The last cell while a notebook runs; it is removed from what is written.
VERSIONS = f"""# The versions in this kernel, for the report.
import importlib.metadata, json, platform
print(json.dumps({{"Python": platform.python_version()}}
    | {{name: importlib.metadata.version(name) for name in {PACKAGES}}}))"""

PROGRESS_BAR = re.compile(r"%\||\x1b\[A")  # in a line that tqdm wrote


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels of this interpreter, whatever kernelspecs are installed on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        from ipykernel.kernelspec import get_kernel_dict  # missing: see refuse_missing_kernel

        return KernelSpec(**get_kernel_dict())


def refuse_missing_kernel() -> None:
    """Raise ValueError if this interpreter has no ipykernel."""
    if find_spec("ipykernel") is None:
        raise ValueError(
            f"{sys.executable} has no ipykernel, so it cannot run notebooks; install it with "
            f"`{sys.executable} -m pip install ipykernel`, or use the interpreter of `make setup`"
        )


class StderrLine:
    """A text stream that shows the last line written to it on one line of the terminal."""

    def __init__(self, name: str, position: int) -> None:
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds
        self.name = name
        self.bar = tqdm(
            desc=name, bar_format="{desc}", position=position, mininterval=interval, leave=False
        )

    def write(self, text: str) -> None:
        lines = [line.strip() for line in re.split(r"[\r\n]|\x1b\[A", text) if line.strip()]
        if lines:
            self.bar.set_description_str(f"{self.name}  {lines[-1]}"[:100], refresh=False)
            self.bar.update(0)

    def flush(self) -> None:
        pass


def execute(
    path: Path, parameters: dict[str, Any], folder: Path, provenance: dict[str, Any], position: int
) -> tuple[float, float]:
    """Run one notebook in its own folder; write it as it ran, as notebook and as page.

    Args:
        path: the notebook.
        parameters: values that replace those of its `parameters` cell.
        folder: where `{name}.ipynb` and `{name}.html` go; after a failure, `{name}.failed.ipynb`.
        provenance: what the notebook's metadata say of the run, beside the kernel's versions.
        position: line of the terminal that shows what the kernel writes to stderr.

    Returns:
        Seconds, and the most memory in GiB that a kernel of this process has taken so far.

    Raises:
        RuntimeError: a cell failed (names notebook, cell and error), or the kernel died.
    """
    start = time.perf_counter()
    output = folder / f"{path.stem}.failed.ipynb"  # renamed on success
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(VERSIONS))
    nbformat.write(notebook, output)
    stderr = StderrLine(path.stem, position)
    try:
        notebook = _run(output, parameters, path.parent, stderr)
    except PapermillExecutionError as error:
        raise RuntimeError(describe_failure(path, error, output)) from None
    except RuntimeError as error:
        reason = f"{error}; out of memory? (kernel of {sys.executable})"
        raise RuntimeError(f"{path.name}: {reason}") from None
    finally:
        stderr.bar.close()
    versions = json.loads(notebook.cells.pop().outputs[0].text)
    notebook.metadata["qure_lib"] = provenance | {"versions": versions}
    notebook.metadata["papermill"]["input_path"] = str(path)
    drop_progress_bars(notebook)
    relink(notebook, path.parent, folder)
    caption_pictures(notebook, path.stem, folder.parent)
    write_executed(notebook, folder / path.stem)
    output.unlink()
    return time.perf_counter() - start, peak_memory()


def _run(
    path: Path, parameters: dict[str, Any], cwd: Path, stderr: StderrLine
) -> nbformat.NotebookNode:
    """Run the notebook at `path` in place, in a kernel of this interpreter."""
    return papermill.execute_notebook(
        path,
        path,
        parameters,
        kernel_name="python3",  # of OwnKernelManager
        language="python",
        cwd=cwd,
        progress_bar=False,
        stderr_file=stderr,
        coalesce_streams=True,
        kernel_manager_class=OwnKernelManager,
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # or it warns
    )


def write_executed(notebook: nbformat.NotebookNode, stem: Path) -> None:
    """Write `{stem}.ipynb` and `{stem}.html`."""
    exporter = nbconvert.HTMLExporter(
        raw_template=PAGE.read_text(encoding="utf-8"), embed_images=True
    )
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": stem.name}})
    with replacing(stem.with_suffix(".ipynb")) as path:
        nbformat.write(notebook, path)
    with replacing(stem.with_suffix(".html")) as path:
        path.write_text(page, encoding="utf-8")


def relink(notebook: nbformat.NotebookNode, source: Path, folder: Path) -> None:
    """Make links to files beside and above the notebook lead there from another folder too."""
    way = Path(os.path.relpath(source.resolve(), folder.resolve())).as_posix()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((?=\.\./)", f"]({way}/", cell.source)


def caption_pictures(notebook: nbformat.NotebookNode, name: str, reports: Path) -> None:
    """Give pictures the captions of their figures' notes, where a cell's code names as many.

    Args:
        notebook, name: an executed notebook, and its name in the notes.
        reports: the report folder.
    """
    notes = [n for n in read_notes(reports) if n["kind"] == "figure" and n["notebook"] == name]
    for cell in notebook.cells:
        named = re.findall(r'"([\w-]+)("|\{)', cell.source)  # "{": the rest of a name is computed
        captions = [
            note["caption"]
            for note in notes
            if any(
                note["name"] == text or (end == "{" and note["name"].startswith(text))
                for text, end in named
            )
        ]
        pictures = [o for o in cell.get("outputs", ()) if "image/png" in o.get("data", ())]
        if len(captions) == len(pictures):
            for picture, caption in zip(pictures, captions, strict=True):
                picture.metadata["caption"] = caption


def drop_progress_bars(notebook: nbformat.NotebookNode) -> None:
    """Remove progress bars from what the cells wrote to stderr; warnings stay."""
    for cell in notebook.cells:
        streams = [o for o in cell.get("outputs", ()) if o.get("name") == "stderr"]
        for stream in streams:
            lines = re.split(r"(?<=[\r\n])", stream.text)
            stream.text = "".join(line for line in lines if not PROGRESS_BAR.search(line))
            if not stream.text.strip():
                cell.outputs.remove(stream)


def describe_failure(path: Path, error: PapermillExecutionError, output: Path) -> str:
    """Name the cell that failed: its number among all cells, its id, its first line, the error."""
    cells = nbformat.read(path, as_version=4).cells
    where = "the injected parameters"
    for number, cell in enumerate(cells, start=1):
        if cell.cell_type == "code" and cell.source == error.source:
            where = f"cell {number} (id {cell.get('id')})"
            break
    first_line = next(iter(error.source.strip().splitlines()), "")
    return (
        f"{path.name} failed in {where}: {first_line}\n"
        f"{error.ename}: {error.evalue}\n"
        f"The notebook up to there: {os.path.relpath(output)}"
    )


def peak_memory() -> float:
    """Largest memory of any kernel of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
