"""Run the notebooks headless through papermill, two at a time where there is no GPU.

    python notebooks/run.py --profile mini
    python notebooks/run.py --profile smoke --only 03 06 --reports elsewhere/reports

Notebooks start in the order of their numbers; one whose metadata say `"after": ["02"]` waits for
02. Every notebook runs in a kernel of the interpreter that runs this script. Profile and parameters
are checked before anything runs. A failure names the cell; no more notebooks are then started, and
the failed one's figures and tables of an earlier run stay. At the end `index.html` in the report
folder shows every figure and table.
"""

import argparse
import ast
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nbformat
import torch
import yaml
from execution import execute, refuse_missing_kernel
from outputs import replacing_outputs
from report.page import build_index
from tqdm import tqdm

from qure_lib.device import usable_cores
from qure_lib.files import run_command
from qure_lib.manifest import git_commit

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """One notebook, the parameters that replace its own, and the numbers that it waits for."""

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
        if options.workers < 1:
            raise ValueError(f"--workers must be at least 1, not {options.workers}")
        given = {"reports_dir": options.reports, "runs_dir": options.runs}
        given |= {"allow_missing": True} if options.allow_missing else {}
        jobs = plan(folder, options.profile, options.only, given)
        refuse_missing_kernel()
        start = time.perf_counter()
        finished = run_all(jobs, options.profile, options.reports, options.workers)
        page = build_index(options.reports)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for name, (seconds, memory) in sorted(finished.items()):
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
    """Decide which notebooks run, with which parameters.

    Args:
        folder: holds the notebooks and `profiles/`.
        profile: name of a profile (see `load_profile`).
        only: numbers of the notebooks to run; empty for all but those with `run: false`.
        given: parameters of the command, for the notebooks that declare them; all declare
            `reports_dir`. Paths are made relative to `folder`, where the notebooks run.

    Raises:
        ValueError: an unknown profile, notebook or parameter, two notebooks of one number, a value
            of another type than the notebook's own, or a notebook without exactly one
            `parameters` cell.
    """
    notebooks = find_notebooks(folder)
    known = sorted(path.stem for path in (folder / "profiles").glob("*.yaml"))
    if profile not in known:
        raise ValueError(f"no profile {profile!r}; there are {known}")
    chosen = load_profile(folder / "profiles" / f"{profile}.yaml")
    unknown = sorted(chosen.keys() - {path.stem for path in notebooks.values()} - {"all"})
    unknown += [number for number in only if number not in notebooks]
    if unknown:
        known = [path.stem for path in notebooks.values()]
        raise ValueError(f"profile {profile}: no notebook {unknown[0]}; there are {known}")
    given = {
        name: Path(os.path.relpath(value, folder)).as_posix() if isinstance(value, Path) else value
        for name, value in given.items()
    }
    jobs = []
    for number, path in notebooks.items():
        declared = declared_parameters(path)
        wanted = chosen.get("all", {}) | chosen.get(path.stem, {})
        runs_here = wanted.pop("run", True)
        wanted |= {k: v for k, v in given.items() if k in declared or k == "reports_dir"}
        for parameter, value in wanted.items():
            _refuse_parameter(path.stem, parameter, value, declared)
        if number in only or (runs_here and not only):
            after = nbformat.read(path, as_version=4).metadata.get("after", ())
            jobs.append(Job(path, wanted, tuple(after)))
    return jobs


def find_notebooks(folder: Path) -> dict[str, Path]:
    """The notebooks of a folder by number, "01" -> 01_name.ipynb, in the order of the numbers.

    Raises:
        ValueError: two notebooks have the same number.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    twice = _first_twice(path.stem[:2] for path in paths)
    if twice:
        raise ValueError(f"{folder}: two notebooks have the number {twice}; renumber one of them")
    return {path.stem[:2]: path for path in paths}


def _first_twice(names: Iterable[str]) -> str | None:
    """The first name that comes twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def load_profile(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a profile: the parameters that replace the notebooks' own.

    Args:
        path: YAML, {notebook: {parameter: value}}; "all" stands for every notebook. A notebook
            with `run: false` is left out.

    Raises:
        ValueError: not YAML, a key twice, or not of that shape.
    """
    path = Path(path)
    try:
        profile = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(profile, dict):
        raise ValueError(f"{path}: write {{notebook: {{parameter: value}}}}, not {profile!r}")
    for notebook, parameters in profile.items():
        if not isinstance(parameters, dict) or not all(isinstance(k, str) for k in parameters):
            raise ValueError(f"{path}: {notebook} needs parameter: value lines, not {parameters!r}")
    return profile


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that comes twice in a mapping, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        twice = _first_twice(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice:
            problem = f"the key {twice!r} is there twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


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
    """Run the jobs, each after those that it waits for. Returns seconds and GiB by notebook.

    Raises:
        RuntimeError: a cell failed; names notebook, cell and error. Notebooks that were running
            then have finished.
    """
    by_number = {job.number: job for job in jobs}
    provenance = {"profile": profile, "commit": git_commit()}
    (reports / "executed").mkdir(parents=True, exist_ok=True)
    order = TopologicalSorter({n: by_number.keys() & set(j.after) for n, j in by_number.items()})
    order.prepare()
    ready: list[str] = []
    running: dict[Future, tuple[str, ExitStack]] = {}
    finished, failures = {}, []
    with _open_pool(workers) as pool, tqdm(jobs, f"notebooks ({profile})", unit="notebook") as bar:
        while running or (order.is_active() and not failures):
            ready = sorted([*ready, *order.get_ready()])
            while ready and len(running) < workers and not failures:
                job, outputs = by_number[ready.pop(0)], ExitStack()
                outputs.enter_context(replacing_outputs(reports, job.path.stem))
                future = pool.submit(_run_in_worker, job, reports / "executed", provenance)
                running[future] = job.number, outputs
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, outputs = running.pop(future)
                try:
                    with outputs:  # brings the previous outputs back if the notebook failed
                        finished[by_number[number].path.stem] = future.result()
                    order.done(number)
                    bar.update()
                except RuntimeError as error:
                    failures.append(str(error))
                    tqdm.write(f"{failures[-1]}\n", file=sys.stderr)
    if failures:
        raise RuntimeError("\n\n".join(failures))
    return finished


def _open_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that each run one notebook at a time, with their share of the threads."""
    context = multiprocessing.get_context("spawn")
    positions = context.SimpleQueue()  # lines of the terminal, one a process
    for position in range(1, workers + 1):
        positions.put(position)
    arguments = positions, context.RLock(), str(max(allowed_threads() // workers, 1))
    return ProcessPoolExecutor(workers, context, _start_worker, arguments)


def allowed_threads() -> int:
    """The first number of OMP_NUM_THREADS, which may list one for each level of nesting.

    Without one, the cores: OpenMP itself warns of another value and ignores it.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else usable_cores()


def _start_worker(positions: Any, lock: Any, threads: str) -> None:
    global _position
    _position = positions.get()
    exit_with_parent()
    tqdm.set_lock(lock)
    os.environ["OMP_NUM_THREADS"] = threads  # of the kernels


def _run_in_worker(job: Job, folder: Path, provenance: dict[str, Any]) -> tuple[float, float]:
    return execute(job.path, job.parameters, folder, provenance, _position)


def exit_with_parent() -> None:
    """End this process, whatever it is doing, when its parent process ends or is killed."""

    def wait_for_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


if __name__ == "__main__":
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")  # for the kernels' bars
    run_command(main)
