"""What a run leaves of the figures and tables of the run before it."""

import pytest
from outputs import replacing_outputs
from report.folder import Reports


def add_table(reports, name, content="a|<b>,1.5\n"):
    stem = reports.write_note("table", name, "Recall. With intervals.")
    stem.with_suffix(".csv").write_text(content)
    stem.with_suffix(".md").write_text(content)


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path / "reports", "03_hard_negatives")


def contents(reports):
    return {p.name: p.read_text() for p in reports.root.rglob("*") if p.is_file()}


def test_success_leaves_nothing_stale(reports):
    add_table(reports, "table1_old")
    add_table(Reports(reports.root, "04_training"), "table_of_another")
    with replacing_outputs(reports.root, reports.notebook):
        add_table(reports, "table2_new")
    names = ("table2_new", "table_of_another")
    assert set(contents(reports)) == {f"{n}.{s}" for n in names for s in ("csv", "json", "md")}


def test_failure_brings_back_what_was_there(reports):
    add_table(reports, "table1"), add_table(reports, "table2")
    before = contents(reports)
    with pytest.raises(KeyboardInterrupt), replacing_outputs(reports.root, reports.notebook):
        add_table(reports, "table1", "half a run")
        add_table(reports, "table_half")
        raise KeyboardInterrupt
    assert contents(reports) == before


def test_what_a_killed_run_had_set_aside_comes_back(reports):
    add_table(reports, "table1")
    before = contents(reports)
    killed = replacing_outputs(reports.root, reports.notebook)
    killed.__enter__()  # and never left
    add_table(reports, "table_half")
    with pytest.raises(RuntimeError), replacing_outputs(reports.root, reports.notebook):
        raise RuntimeError
    assert contents(reports) == before
