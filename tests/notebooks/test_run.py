"""The notebook runner, on tiny notebooks: what it refuses, how it stops, what it leaves."""

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version

import nbformat
import psutil
import pytest
import run

PARAMETERS = (
    'reports_dir = "../reports"  # where figures go\nepochs = 2  # passes\nrate = 0.1  # lr'
)
SAVE = """from pathlib import Path
import pandas as pd
from report.folder import Reports
from report.tables import save_table
reports = Reports(Path(reports_dir), "01_first")
save_table(pd.DataFrame({"epochs": [epochs]}), "table1", "Epochs. As given.", reports)"""


@pytest.fixture
def start(tmp_path, capsys, root, monkeypatch):
    """Run with a profile; returns the exit status and what was printed."""
    monkeypatch.setenv("PYTHONPATH", f"{root / 'notebooks'}")  # kernels import `report` from there

    def start(*arguments: str, profile: str = "{}"):
        profiles = tmp_path / "notebooks" / "profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        (profiles / "tiny.yaml").write_text(profile)
        common = ["--profile", "tiny", "--reports", str(tmp_path / "reports")]
        status = run.main([*common, *arguments], folder=tmp_path / "notebooks")
        return status, "".join(capsys.readouterr())

    return start


def test_a_profile_runs_to_an_index(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("02_second", PARAMETERS, "import os; assert os.path.exists('01_first.ipynb')")
    status, printed = start(profile="all: {rate: 1}\n01_first: {epochs: 7}\n")
    assert status == 0, printed
    assert "01_first" in printed and "02_second" in printed and "index.html" in printed
    reports = tmp_path / "reports"
    assert (reports / "tables" / "table1.csv").read_text() == "epochs\n7\n"
    assert "Epochs" in (reports / "index.html").read_text()
    executed = nbformat.read(reports / "executed" / "01_first.ipynb", as_version=4)
    assert executed.metadata["qure_lib"]["profile"] == "tiny"
    page = (reports / "executed" / "01_first.html").read_text()
    assert "A question?" in page and "<script src" not in page and "import(" not in page


def test_a_folder_that_cannot_be_written_is_named(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    (tmp_path / "reports").write_text("a file, not a folder")
    status, printed = start()
    assert status == 1 and "reports" in printed.splitlines()[-1] and "Traceback" not in printed


def test_a_finished_notebook_keeps_warnings_and_no_progress_bars(write_notebook, start, tmp_path):
    bars = (
        "import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(3)):\n"
        "    [None for _ in tqdm(range(2), leave=False)]\nprint('mind the gap', file=sys.stderr)"
    )
    write_notebook("01_first", PARAMETERS, SAVE, bars)
    status, printed = start()
    assert status == 0, printed
    for page in (tmp_path / "reports" / "executed").glob("01_first.*"):
        text = page.read_text()
        assert "mind the gap" in text and "%|" not in text and "3/3" not in text


def test_only_the_notebooks_asked_for_run(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("02_second", PARAMETERS, "1 / 0")
    status, printed = start("--only", "01")
    assert status == 0, printed
    assert not (tmp_path / "reports" / "executed" / "02_second.ipynb").exists()


def test_the_first_failure_stops_and_names_the_cell(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("03_third", PARAMETERS, "print('reached')")
    assert start()[0] == 0
    executed = tmp_path / "reports" / "executed"
    kept = [tmp_path / "reports" / "index.html", *executed.glob("01_first.*")]
    before = [path.read_bytes() for path in kept]
    write_notebook("01_first", PARAMETERS, SAVE.replace("table1", "table9"), "\nbad = 1 / 0\nx = 1")
    (tmp_path / "reports" / "executed" / "03_third.ipynb").unlink()
    status, printed = start("--workers", "1")
    assert status == 1
    assert "01_first.ipynb failed in cell 4 (id code-2): bad = 1 / 0" in printed
    assert "ZeroDivisionError: division by zero" in printed
    assert not (tmp_path / "reports" / "executed" / "03_third.ipynb").exists()
    assert len(kept) == 3 and [path.read_bytes() for path in kept] == before
    assert "01_first.failed.ipynb" in printed and (executed / "01_first.failed.ipynb").exists()
    tables = sorted(path.name for path in (tmp_path / "reports" / "tables").iterdir())
    assert tables == ["table1.csv", "table1.json", "table1.md"]


def test_the_kernel_is_that_of_the_runner_whatever_is_installed(
    write_notebook, start, tmp_path, monkeypatch
):
    kernelspec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernelspec.parent.mkdir(parents=True)
    other = {"argv": ["/bin/false", "{connection_file}"], "display_name": "O", "language": "python"}
    kernelspec.write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    tell = "import sys\nopen(reports_dir + '/interpreter', 'w').write(sys.executable)"
    write_notebook("01_first", PARAMETERS, tell, SAVE)
    status, printed = start()
    assert status == 0, printed
    assert (tmp_path / "reports" / "interpreter").read_text() == sys.executable


def test_the_versions_are_those_of_the_kernel(write_notebook, start, tmp_path):
    another = "import platform\nplatform.python_version = lambda: '9.8.7'"
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("02_second", PARAMETERS, another)
    assert start()[0] == 0
    folder = tmp_path / "reports" / "executed"
    first, second = (
        nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in ("01_first", "02_second")
    )
    versions = first.metadata["qure_lib"]["versions"]
    assert versions["Python"] == platform.python_version()
    assert versions["torch"] == version("torch")
    assert second.metadata["qure_lib"]["versions"] == versions | {"Python": "9.8.7"}
    assert [cell.source for cell in first.cells[1:]] == [PARAMETERS, first.cells[2].source, SAVE]


def test_an_interpreter_without_ipykernel_is_named(write_notebook, start, tmp_path, monkeypatch):
    write_notebook("01_first", PARAMETERS, SAVE)
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    status, printed = start()
    assert status == 1 and f"{sys.executable} -m pip install ipykernel" in printed
    assert not (tmp_path / "reports").exists()


def test_a_kernel_that_dies_is_named(write_notebook, start):
    write_notebook("01_first", PARAMETERS, "import os; os._exit(1)")
    status, printed = start()
    assert status == 1 and "01_first.ipynb: " in printed and sys.executable in printed


WAIT = """import os, time
open(os.path.join(reports_dir, MINE), "w").close()
started = time.monotonic()
while not os.path.exists(os.path.join(reports_dir, THEIRS)):
    assert time.monotonic() - started < 60, "the other notebook does not run"
    time.sleep(0.05)"""


def test_two_notebooks_run_at_a_time_and_share_the_threads(
    write_notebook, start, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "6,1")
    threads = "assert os.environ['OMP_NUM_THREADS'] == '3', os.environ['OMP_NUM_THREADS']"
    for name, mine, theirs in (("01_first", "a", "b"), ("02_second", "b", "a")):
        met = WAIT.replace("MINE", repr(mine)).replace("THEIRS", repr(theirs))
        save = SAVE.replace("01_first", name).replace("table1", f"extra_{name}")
        write_notebook(name, PARAMETERS, met, threads, save)
    status, printed = start("--workers", "2")
    assert status == 0, printed
    assert (tmp_path / "reports" / "tables" / "extra_02_second.csv").exists()


@pytest.mark.parametrize("given", ["5", "5,1", " 5 , 2", "5,,"])
def test_the_first_of_several_numbers_of_threads_counts(given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert run.allowed_threads() == 5


@pytest.mark.parametrize("given", ["", "0", "-2", "x", "2.5", "²"])
def test_what_openmp_ignores_is_ignored(given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(run, "usable_cores", lambda: 3)
    assert run.allowed_threads() == 3


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_a_number_of_workers_below_one_is_refused(write_notebook, start, tmp_path, workers):
    write_notebook("01_first", PARAMETERS, SAVE)
    status, printed = start("--workers", workers)
    assert status == 1 and f"--workers must be at least 1, not {workers}" in printed
    assert not (tmp_path / "reports").exists()


def test_a_notebook_waits_for_those_its_metadata_name(write_notebook, start, tmp_path):
    done = "import os\nopen(reports_dir + '/done', 'w').close()"
    write_notebook("01_first", PARAMETERS, "import time; time.sleep(1)", done, SAVE)
    write_notebook("02_second", PARAMETERS, "open(reports_dir + '/done')")
    path = tmp_path / "notebooks" / "02_second.ipynb"
    document = nbformat.read(path, as_version=4)
    document.metadata["after"] = ["01", "07"]  # 07 does not run here
    nbformat.write(document, path)
    status, printed = start("--workers", "2")
    assert status == 0, printed


def test_a_failure_lets_what_runs_finish_and_starts_no_more(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, "1 / 0")
    slow = SAVE.replace("01_first", "02_second")
    write_notebook("02_second", PARAMETERS, "import time; time.sleep(4)", slow)
    write_notebook("03_third", PARAMETERS, "print('reached')")
    status, printed = start("--workers", "2")
    executed = tmp_path / "reports" / "executed"
    assert status == 1 and "ZeroDivisionError" in printed
    assert (executed / "02_second.ipynb").exists() and not (executed / "03_third.ipynb").exists()
    assert (tmp_path / "reports" / "tables" / "table1.csv").exists()


def test_a_killed_run_leaves_no_kernel_behind(write_notebook, tmp_path):
    tell = "import os, time\nopen(os.path.join(reports_dir, 'pid'), 'w').write(str(os.getpid()))"
    write_notebook("01_first", PARAMETERS, tell, "time.sleep(120)")
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir()
    (profiles / "tiny.yaml").write_text("{}")
    arguments = ["--profile", "tiny", "--reports", str(tmp_path / "reports")]
    start = f"import run; run.main({arguments}, run.Path({str(tmp_path / 'notebooks')!r}))"
    source = f"if __name__ == '__main__':\n    import sys; sys.path[:0] = {sys.path}; {start}\n"
    (tmp_path / "start.py").write_text(source)
    runner = subprocess.Popen([sys.executable, tmp_path / "start.py"], stderr=subprocess.DEVNULL)
    pid = tmp_path / "reports" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    runner.kill()
    runner.wait()
    kernel = int(pid.read_text())
    wait_until(lambda: not psutil.pid_exists(kernel))


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("profile", "arguments", "message"),
    [
        ("{}", ["--profile", "huge"], "no profile 'huge'; there are ['tiny']"),
        ("{}", ["--profile", "../profiles/tiny"], "no profile '../profiles/tiny'; there are ['ti"),
        ("{}", ["--profile", ""], "no profile ''; there are ['tiny']"),
        ("05_other: {epochs: 1}", [], "no notebook 05_other; there are ['01_first']"),
        ("{}", ["--only", "09"], "no notebook 09"),
        ("01_first: {epoch: 1}", [], "01_first: no parameter 'epoch'; it declares ['epochs'"),
        ("all: {seed: 1}", [], "01_first: no parameter 'seed'"),
        ("01_first: {rate: 5e-6}", [], "write 5.0e-6"),
        ("01_first: {epochs: true}", [], "is of type bool"),
        ("01_first: 3", [], "needs parameter: value lines"),
        ("[1]", [], "write {notebook"),
        ("a: [", [], "is not YAML"),
        ("all: {rate: 1}\nall: {epochs: 1}", [], "the key 'all' is there twice"),
        ("all: {rate: 1, rate: 2}", [], "the key 'rate' is there twice"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_runs(
    write_notebook, start, tmp_path, profile, arguments, message
):
    write_notebook("01_first", PARAMETERS, SAVE)
    status, printed = start(*arguments, profile=profile)
    assert status == 1 and message in printed
    assert not (tmp_path / "reports").exists()


def test_two_notebooks_of_one_number_are_refused(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("01_other", PARAMETERS, SAVE)
    status, printed = start()
    assert status == 1 and "two notebooks have the number 01" in printed
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("sources", "tags", "message"),
    [
        ([PARAMETERS], (), "0 cells are tagged `parameters`"),
        ([PARAMETERS, "a = 1"], (("parameters",), ("parameters",)), "2 cells are tagged"),
        (["epochs = 1"], (("parameters",),), "no parameter 'reports_dir'"),
        (["reports_dir = '..' + 'x'"], (("parameters",),), "more than `name = literal` lines"),
        (["import os"], (("parameters",),), "more than `name = literal` lines"),
    ],
)
def test_a_notebook_without_one_parameters_cell_is_refused(
    write_notebook, start, tmp_path, sources, tags, message
):
    write_notebook("01_first", PARAMETERS, SAVE)
    write_notebook("02_second", *sources, tags=tags)
    status, printed = start()
    assert status == 1 and "02_second" in printed and message in printed
    assert not (tmp_path / "reports").exists()


def test_the_runs_folder_goes_to_the_notebooks_that_declare_it(write_notebook, start, tmp_path):
    write_notebook("01_first", PARAMETERS, SAVE)
    source = 'reports_dir = "../reports"  # a\nruns_dir = "../runs"  # b'
    write_notebook("04_training", source, "open(reports_dir + '/runs.txt', 'w').write(runs_dir)")
    assert start("--runs", str(tmp_path / "my_runs"))[0] == 0
    assert (tmp_path / "reports" / "runs.txt").read_text() == "../my_runs"


def test_every_notebook_of_the_kit_can_run_with_every_profile(root, tmp_path):
    profiles = sorted(path.stem for path in (root / "notebooks" / "profiles").glob("*.yaml"))
    assert {"smoke", "mini"} <= set(profiles)
    for profile in profiles:
        jobs = run.plan(
            root / "notebooks", profile, [], {"reports_dir": tmp_path, "runs_dir": tmp_path}
        )
        assert [job.path.stem[:2] for job in jobs] == sorted({job.path.stem[:2] for job in jobs})
        assert json.dumps([job.parameters for job in jobs])
