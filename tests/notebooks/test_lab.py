"""lab: copies to work in, with the last outputs, that never lose what was changed in them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lab
import nbformat
import pytest
from report.folder import Reports

PARAMETERS = """data_root = "../data"  # data
reports_dir = "../reports"  # figures
epochs = 12  # published: 30"""
OUTPUT = nbformat.v4.new_output("stream", text="as it ran\n")
WIDGET = nbformat.v4.new_output("display_data", data={lab.WIDGET: {"model_id": "1"}})


@pytest.fixture
def checkout(tmp_path, write_notebook):
    """Two notebooks and a profile; `01_first` has run at it, and left notes."""
    write_notebook("00_start_here", PARAMETERS, "print(1)")
    path = write_notebook("01_first", PARAMETERS, "print(epochs)", "show()")
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir()
    (profiles / "small.yaml").write_text('01_first: {epochs: 3, data_root: "../data/a \\\\1"}\n')
    (profiles / "mini.yaml").write_text("{}\n")
    ran = nbformat.read(path, as_version=4)
    ran.metadata["qure_lib"] = {"profile": "small"}
    ran.cells[2].update(outputs=[OUTPUT], execution_count=2)
    ran.cells[3].update(outputs=[OUTPUT, WIDGET], execution_count=3)
    (tmp_path / "reports" / "executed").mkdir(parents=True)
    nbformat.write(ran, tmp_path / "reports" / "executed" / "01_first.ipynb")
    Reports(tmp_path / "reports", "01_first").write_note("table", "table1", "A table.")
    return tmp_path


def copies(checkout, profile="small"):
    where = checkout / "lab", profile, checkout / "reports", checkout / "notebooks"
    return lab.make_copies(*where)


def first(checkout):
    return nbformat.read(checkout / "lab" / "01_first.ipynb", as_version=4)


def everything_else(checkout):
    files = [
        p for p in checkout.rglob("*") if p.is_file() and "lab" not in p.relative_to(checkout).parts
    ]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_copy_has_its_profile_the_last_outputs_and_its_own_report_folder(checkout):
    before = everything_else(checkout)
    assert copies(checkout) == []
    cells = first(checkout).cells
    assert cells[1].source == (
        'data_root = "../data/a \\\\1"  # data\nreports_dir = "reports"  # figures\n'
        "epochs = 3  # published: 30"
    )
    assert [len(cell.outputs) for cell in cells[1:]] == [0, 1, 1]  # a dead widget is left out
    assert cells[2].outputs[0].text == "as it ran\n" and cells[2].execution_count == 2
    assert [cell.id for cell in cells[1:]] == ["code-0", "code-1", "code-2"]
    nbformat.validate(first(checkout))
    assert everything_else(checkout) == before


def test_outputs_of_other_code_or_another_profile_are_left_out(checkout, write_notebook):
    copies(checkout, "mini")
    assert [cell.outputs for cell in first(checkout).cells[1:]] == [[], [], []]
    assert "epochs = 12 " in first(checkout).cells[1].source
    write_notebook("01_first", PARAMETERS, "print(epochs)", "show(more)")
    copies(checkout)
    assert [len(cell.outputs) for cell in first(checkout).cells[1:]] == [0, 1, 0]


def test_a_changed_copy_is_kept_and_named_until_it_is_deleted(checkout, write_notebook):
    copies(checkout)
    path = checkout / "lab" / "01_first.ipynb"
    mine = first(checkout)
    mine.cells[2].source = "print('mine')"
    nbformat.write(mine, path)
    write_notebook("00_start_here", PARAMETERS, "print(2)")
    assert copies(checkout) == copies(checkout) == ["01_first.ipynb"]
    assert first(checkout) == mine
    start = nbformat.read(checkout / "lab" / "00_start_here.ipynb", as_version=4)
    assert start.cells[2].source == "print(2)"  # untouched, so it follows
    path.unlink()
    assert copies(checkout) == [] and first(checkout).cells[2].source == "print(epochs)"


def test_a_file_that_lab_did_not_write_is_kept(checkout):
    (checkout / "lab").mkdir()
    (checkout / "lab" / "01_first.ipynb").write_text("mine")
    assert copies(checkout) == ["01_first.ipynb"]
    assert (checkout / "lab" / "01_first.ipynb").read_text() == "mine"


def test_notes_follow_the_last_run_unless_a_copy_ran_later(checkout):
    copies(checkout)
    note = checkout / "lab" / "reports" / "tables" / "table1.json"
    assert json.loads(note.read_text())["caption"] == "A table."
    Reports(checkout / "lab" / "reports", "01_first").write_note("table", "table1", "Of the copy.")
    copies(checkout)
    assert json.loads(note.read_text())["caption"] == "Of the copy."
    Reports(checkout / "reports", "01_first").write_note("table", "table1", "Of a later run.")
    later = note.stat().st_mtime + 10
    os.utime(checkout / "reports" / "tables" / "table1.json", (later, later))
    copies(checkout)
    assert json.loads(note.read_text())["caption"] == "Of a later run."


@pytest.mark.parametrize("value", ["../a", 'a "b" \\1', 3, 1.0e-6, True, None, [1, 2]])
def test_a_parameter_of_any_type_is_set_and_keeps_its_comment(value):
    source = lab.set_parameters(PARAMETERS, {"epochs": value})
    read = {}
    exec(source, read)
    assert read["epochs"] == value and read["data_root"] == "../data"
    assert source.endswith("  # published: 30")


def test_an_unknown_profile_is_refused(checkout):
    with pytest.raises(ValueError, match="no profile 'mni'"):
        copies(checkout, "mni")
    assert not (checkout / "lab").exists()


def test_kernels_find_the_modules_and_jupyter_its_settings(monkeypatch, checkout):
    monkeypatch.setenv("PYTHONPATH", "given")
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    copies(checkout)
    variables = lab.environment(checkout / "lab")
    assert variables["PYTHONPATH"] == os.pathsep.join([str(lab.HERE), "given"])
    folder = Path(variables["JUPYTER_CONFIG_PATH"])
    settings = json.loads((folder / "labconfig" / "page_config.json").read_text())
    assert settings == {"disabledExtensions": {lab.NEWS: True}}


def test_jupyterlab_accepts_the_arguments(checkout):
    """It answers --show-config with them, and they name no address and switch off no token."""
    copies(checkout)
    arguments = lab.arguments_of_lab(checkout / "lab")
    command = [sys.executable, "-m", "jupyterlab", *arguments, "--show-config-json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    assert shown["ServerApp"]["root_dir"] == str(checkout / "lab")
    assert shown["LabApp"]["default_url"] == "/lab/tree/00_start_here.ipynb"
    assert not shown["ServerApp"].keys() & {"ip", "token", "password"}
    assert not shown.get("IdentityProvider")
