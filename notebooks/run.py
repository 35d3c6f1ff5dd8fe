"""Run the notebooks headless through papermill, two at a time where there is no GPU.

    python notebooks/run.py --profile mini
    python notebooks/run.py --profile smoke --only 03 06 --reports elsewhere/reports

They start in the order of their numbers; one whose metadata say `"after": ["02"]` waits for 02.
Everything is checked before anything runs. After a failure, which names the cell, no more are
started, and what an earlier run of that notebook wrote stays as it was. At the end `index.html` in
the report folder shows every figure and table.
"""

import argparse
import ast
import multiprocessing
import os
import re
import resource
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nbconvert
import nbformat
import papermill
import torch
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from qure_lib.config import load_profile
from qure_lib.files import replacing
from qure_lib.processes import exit_with_parent
from qure_lib.reports import build_index, replacing_outputs
from qure_lib.runs import run_manifest

HERE = Path(__file__).resolve().parent
# The exported page must open without a network: none of the scripts that nbconvert would load.
OFFLINE_PAGE = """{% extends "index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}"""


BAR = re.compile(r"%\||\x1b\[A")  # a line of tqdm's


@dataclass(frozen=True)
class Job:
    """One notebook, the parameters that replace its own, and the numbers of those before it."""

    path: Path
    parameters: dict[str, Any]
    after: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.path.stem[:2]


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    """Run a profile's notebooks and build the index; the exit status is 1 if one fails."""
    options = parser().parse_args(arguments)
    try:
        given = {"reports_dir": options.reports, "runs_dir": options.runs}
        given |= {"allow_missing": True} if options.allow_missing else {}
        jobs = plan(folder, options.profile, options.only, given)
        start = time.perf_counter()
        taken = run_all(jobs, options.profile, options.reports, options.workers)
        page = build_index(options.reports)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for name, (seconds, memory) in sorted(taken.items()):
        print(f"{seconds:7.1f} s, {memory:.1f} GiB  {name}")
    print(f"{time.perf_counter() - start:7.1f} s in all, {options.workers} notebooks at a time")
    print(f"Look at {os.path.relpath(page)}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = HERE.parent
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--profile", default="mini", help="a file of notebooks/profiles")
    result.add_argument("--only", nargs="+", default=[], metavar="NN", help="these notebooks alone")
    result.add_argument("--reports", type=Path, default=root / "reports", help="figures and tables")
    result.add_argument("--runs", type=Path, default=root / "runs", help="checkpoints and logs")
    result.add_argument(
        "--workers",
        type=int,
        default=1 if torch.cuda.is_available() else min(2, os.cpu_count()),
        help="notebooks at a time; they share the threads that OMP_NUM_THREADS allows",
    )
    result.add_argument(
        "--allow-missing",
        action="store_true",
        help="leave out triplets and images whose files are missing; results are then judged by "
        "no published number",
    )
    return result


def plan(folder: Path, profile: str, only: list[str], given: dict[str, Any]) -> list[Job]:
    """Say what runs with which parameters, or refuse.

    Args:
        folder: holds the notebooks and `profiles/`.
        profile: name of a profile: {notebook: {parameter: value}}; "all" stands for every notebook.
        only: numbers of the notebooks to run; empty for all but those with `run: false`.
        given: parameters of the command, for the notebooks that declare them; all declare
            `reports_dir`. Folders become paths as the notebooks see them.

    Raises:
        ValueError: an unknown profile, notebook or parameter, a value of another type than the
            notebook's own, or a notebook without exactly one `parameters` cell.
    """
    notebooks = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    chosen = load_profile(folder / "profiles" / f"{profile}.yaml")
    unknown = sorted(chosen.keys() - notebooks.keys() - {"all"})
    unknown += [number for number in only if number not in {name[:2] for name in notebooks}]
    if unknown:
        raise ValueError(
            f"profile {profile}: no notebook {unknown[0]}; there are {list(notebooks)}"
        )
    given = {
        name: Path(os.path.relpath(value, folder)).as_posix() if isinstance(value, Path) else value
        for name, value in given.items()
    }
    jobs = []
    for name, path in notebooks.items():
        declared = declared_parameters(path)
        wanted = chosen.get("all", {}) | chosen.get(name, {})
        runs_here = wanted.pop("run", True)
        wanted |= {k: v for k, v in given.items() if k in declared or k == "reports_dir"}
        for parameter, value in wanted.items():
            _refuse_parameter(name, parameter, value, declared)
        if name[:2] in only or (runs_here and not only):
            after = nbformat.read(path, as_version=4).metadata.get("after", ())
            jobs.append(Job(path, wanted, tuple(after)))
    return jobs


def declared_parameters(path: Path) -> dict[str, Any]:
    """Name and default of each assignment in the notebook's one `parameters` cell."""
    cells = [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ValueError(
            f"{path.name}: {len(cells)} cells are tagged `parameters`; tag exactly one"
        )
    try:
        assignments = [node for node in ast.parse(cells[0].source).body]
        return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path.name}: its parameters cell holds more than `name = literal` lines: {error}"
        ) from error


def _refuse_parameter(notebook: str, name: str, value: Any, declared: dict[str, Any]) -> None:
    if name not in declared:
        raise ValueError(f"{notebook}: no parameter {name!r}; it declares {sorted(declared)}")
    kinds = {type(value), type(declared[name])}
    if len(kinds) > 1 and type(None) not in kinds and kinds != {int, float}:
        raise ValueError(
            f"{notebook}: {name} = {value!r} is of type {type(value).__name__}, "
            f"its default {declared[name]!r} of type {type(declared[name]).__name__} "
            "(YAML reads 5e-6 as text; write 5.0e-6)"
        )


def run_all(
    jobs: list[Job], profile: str, reports: Path, workers: int
) -> dict[str, tuple[float, float]]:
    """Run the jobs, each after those it waits for; notebook -> seconds, GiB.

    Raises:
        RuntimeError: a cell failed; names notebook, cell and error. What runs then is let finish.
    """
    about, by_number = provenance(profile), {job.number: job for job in jobs}
    (reports / "executed").mkdir(parents=True, exist_ok=True)
    order = TopologicalSorter({n: by_number.keys() & set(j.after) for n, j in by_number.items()})
    order.prepare()
    ready: list[str] = []
    running: dict[Future, tuple[str, ExitStack]] = {}
    taken, failures = {}, []
    with _open_pool(workers) as pool, tqdm(jobs, f"notebooks ({profile})", unit="notebook") as bar:
        while running or (order.is_active() and not failures):
            ready = sorted([*ready, *order.get_ready()])
            while ready and len(running) < workers and not failures:
                job, outputs = by_number[ready.pop(0)], ExitStack()
                outputs.enter_context(replacing_outputs(reports, job.path.stem))
                future = pool.submit(execute, job, reports / "executed", about)
                running[future] = job.number, outputs
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, outputs = running.pop(future)
                try:
                    with outputs:  # brings back what was there before, if it failed
                        taken[by_number[number].path.stem] = future.result()
                    order.done(number)
                    bar.update()
                except RuntimeError as error:
                    failures.append(str(error))
                    tqdm.write(f"{failures[-1]}\n", file=sys.stderr)
    if failures:
        raise RuntimeError("\n\n".join(failures))
    return taken


def _open_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that each run a notebook, with a share of the threads and a terminal line."""
    context = multiprocessing.get_context("spawn")
    lines = context.SimpleQueue()
    for line in range(1, workers + 1):
        lines.put(line)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()) // workers
    settings = lines, context.RLock(), str(max(threads, 1))
    return ProcessPoolExecutor(workers, context, _start_worker, settings)


def _start_worker(lines: Any, lock: Any, threads: str) -> None:
    global _line
    _line = lines.get()
    exit_with_parent()
    tqdm.set_lock(lock)
    os.environ["OMP_NUM_THREADS"] = threads  # of the kernels


class LastWords:
    """A stream for what a kernel says on stderr: its last line goes to the terminal's own line."""

    def __init__(self, name: str, line: int) -> None:
        every = 0.5 if sys.stderr.isatty() else 30  # seconds
        form = "{desc}"
        self.name = name
        self.bar = tqdm(desc=name, bar_format=form, position=line, mininterval=every, leave=False)

    def write(self, text: str) -> None:
        said = [piece for piece in re.split(r"[\r\n]|\x1b\[A", text) if piece.strip()]
        if said:
            self.bar.set_description_str(f"{self.name}  {said[-1].strip()}"[:100], refresh=False)
            self.bar.update(0)

    def flush(self) -> None:
        pass


def execute(job: Job, executed: Path, about: dict[str, Any]) -> tuple[float, float]:
    """Run one notebook; write it as it ran, as notebook and as page, to `executed`.

    Returns:
        Seconds, and the most memory in GiB that a kernel of this process has taken so far.

    Raises:
        RuntimeError: a cell failed; names notebook, cell and error.
    """
    start = time.perf_counter()
    output = executed / f"{job.path.stem}.failed.ipynb"  # until it has not
    words = LastWords(job.path.stem, _line)
    try:
        notebook = papermill.execute_notebook(
            job.path,
            output,
            job.parameters,
            kernel_name="python3",
            language="python",
            cwd=job.path.parent,
            progress_bar=False,
            stderr_file=words,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # or it warns
        )
    except PapermillExecutionError as error:
        raise RuntimeError(failure(job.path, error, output)) from None
    except DeadKernelError as error:
        raise RuntimeError(f"{job.path.name}: {error}; out of memory?") from None
    finally:
        words.bar.close()
    notebook.metadata["qure_lib"] = about
    drop_progress_bars(notebook)
    exporter = nbconvert.HTMLExporter(raw_template=OFFLINE_PAGE, embed_images=True)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": job.path.stem}})
    with replacing(executed / job.path.name) as path:
        nbformat.write(notebook, path)
    with replacing(executed / f"{job.path.stem}.html") as path:
        path.write_text(page, encoding="utf-8")
    output.unlink()
    return time.perf_counter() - start, peak_memory()


def drop_progress_bars(notebook: nbformat.NotebookNode) -> None:
    """Take the lines of progress bars out of what the cells wrote to stderr; warnings stay."""
    for cell in notebook.cells:
        streams = [o for o in cell.get("outputs", ()) if o.get("name") == "stderr"]
        for stream in streams:
            lines = re.split(r"(?<=[\r\n])", stream.text)
            stream.text = "".join(line for line in lines if not BAR.search(line))
            if not stream.text.strip():
                cell.outputs.remove(stream)


def failure(path: Path, error: PapermillExecutionError, output: Path) -> str:
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


def provenance(profile: str) -> dict[str, Any]:
    """What the index page says of a run: profile, git commit where there is one, versions."""
    manifest = run_manifest()
    versions = {"Python": manifest["python"], **manifest["versions"]}
    return {"profile": profile, "commit": manifest["git_commit"], "versions": versions}


def peak_memory() -> float:
    """Largest memory of any kernel of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")  # for the kernels' bars
    sys.exit(main())
