"""Models compared by their per-query results: from Python, and from files by the command."""

import json

import numpy as np
import pandas as pd
import pytest

from qure_lib.evaluation.__main__ import main
from qure_lib.evaluation.compare import compare_models
from qure_lib.evaluation.hp_fashioniq import score_hp_fashioniq
from qure_lib.evaluation.protocol import estimate
from qure_lib.evaluation.registry import PROTOCOLS
from qure_lib.evaluation.statistics import LEAST_P, holm, paired_bootstrap

Q = 90
MEASURES = {"fashioniq": 9, "cirr": 8, "circo": 4, "hp-fashioniq": 2}


def draw(name: str, seed: int, best: int = 200) -> pd.DataFrame:
    """Per-query results as the protocol's evaluator returns them, ranks 0 to `best`."""
    generator, shared = np.random.default_rng(seed), np.random.default_rng(0)
    ranks = generator.integers(best, size=Q)
    frame = pd.DataFrame({"query_id": [f"0{k}" for k in range(Q)], "rank": ranks})
    if name == "fashioniq":
        return frame.assign(category=["dress"] * 20 + ["shirt"] * 40 + ["toptee"] * 30)
    if name == "cirr":
        return frame.assign(subset_rank=generator.integers(5, size=Q))
    if name == "circo":
        return frame.assign(**{f"ap{k}": generator.random(Q) for k in (5, 10, 25, 50)})
    judged = pd.DataFrame({"participant": shared.choice(list("abcdefgh"), Q)})
    judged["preferred"] = shared.integers(1, 3, size=Q)
    judged[["category", "reference", "target"]] = "dress", "r", "t"
    return score_hp_fashioniq(judged, generator.random((Q, 2)))


@pytest.fixture
def write(tmp_path):
    """Write frames as files of --per-query, by stem. Returns their paths."""

    def files(name: str, **frames: pd.DataFrame) -> list[str]:
        for stem, frame in frames.items():
            frame.assign(protocol=name).to_csv(tmp_path / f"{stem}.csv", index=False)
        return [str(tmp_path / f"{stem}.csv") for stem in frames]

    return files


@pytest.fixture
def fault(capsys):
    """Run `compare` on bad input. Returns what it said."""

    def run(*words: str) -> str:
        assert main(["compare", *words]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and "Traceback" not in printed.err
        return printed.err

    return run


@pytest.mark.parametrize("name", MEASURES)
def test_differences_are_those_of_the_summaries_and_p_is_corrected_once(name):
    models = {f"m{seed}": draw(name, seed, best=400 // seed) for seed in (1, 2, 3)}
    table = compare_models(models, PROTOCOLS[name])
    estimates = {
        model: estimate(PROTOCOLS[name].measures(frame)).set_index("words")["estimate"]
        for model, frame in models.items()
    }
    assert len(table) == 3 * MEASURES[name] and table.notna().all(axis=None)
    for row in table.itertuples():
        assert row.mean_a == pytest.approx(estimates[row.a][row.measure])
        assert row.mean_b == pytest.approx(estimates[row.b][row.measure])
        assert row.difference == pytest.approx(row.mean_a - row.mean_b)
        assert row.low <= row.difference <= row.high
    assert table["p_holm"].tolist() == holm(table["p_value"])


def test_one_measure_of_two_models_is_the_paired_test():
    a, b = draw("cirr", 1), draw("cirr", 2)
    (row,) = compare_models({"a": a, "b": b}, PROTOCOLS["cirr"], ["r50"]).itertuples()
    expected = paired_bootstrap(100 * (a["rank"] < 50), 100 * (b["rank"] < 50))
    assert (row.measure, row.difference, row.p_value, row.p_holm) == (
        "Recall@50",
        expected.estimate,
        expected.p_value,
        expected.p_value,
    )


def test_people_are_resampled_whole_and_each_scorer_keeps_its_own_one_sided_rows():
    a, b = draw("hp-fashioniq", 1), draw("hp-fashioniq", 2)
    rate, agreement = compare_models({"a": a, "b": b}, PROTOCOLS["hp-fashioniq"]).itertuples()
    values, clusters = (100 * a["agrees"], 100 * b["agrees"]), a["participant"]
    expected = paired_bootstrap(*values, (a["one_sided"], b["one_sided"]), clusters)
    assert (rate.difference, rate.low, rate.high) == (
        expected.estimate,
        expected.low,
        expected.high,
    )
    assert agreement.low == paired_bootstrap(*values, clusters=clusters).low


def test_the_order_of_queries_and_of_models_moves_nothing_but_signs():
    a, b = draw("fashioniq", 1), draw("fashioniq", 2)
    table = compare_models({"a": a, "b": b}, PROTOCOLS["fashioniq"])
    shuffled = compare_models(
        {"a": a, "b": b.sample(frac=1, random_state=0)}, PROTOCOLS["fashioniq"]
    )
    pd.testing.assert_frame_equal(table, shuffled)
    back = compare_models({"b": b, "a": a}, PROTOCOLS["fashioniq"])
    np.testing.assert_allclose(back["difference"], -table["difference"])
    assert back["p_holm"].tolist() == table["p_holm"].tolist()


def test_measures_that_one_model_lacks_are_left_out():
    a, b = draw("cirr", 1), draw("cirr", 2).drop(columns="subset_rank")
    table = compare_models({"a": a, "b": b}, PROTOCOLS["cirr"])
    assert table["measure"].tolist() == [f"Recall@{k}" for k in (1, 5, 10, 50)]
    with pytest.raises(ValueError, match=r"no measure .*rs1.*Recall@50"):
        compare_models({"a": a, "b": b}, PROTOCOLS["cirr"], ["r1", "rs1"])


def test_more_tests_than_the_bootstrap_can_tell_apart_are_refused():
    models = {f"m{seed}": draw("fashioniq", seed) for seed in range(4)}
    with pytest.raises(ValueError, match="54 tests are too many"):
        compare_models(models, PROTOCOLS["fashioniq"])
    assert len(compare_models(models, PROTOCOLS["fashioniq"], ["Avg"])) == 6
    assert 50 * LEAST_P <= 0.05 < 51 * LEAST_P


@pytest.mark.parametrize("name", MEASURES)
def test_files_say_what_the_frames_do(write, capsys, name):
    models = {"x": draw(name, 1), "y": draw(name, 2)}
    files = write(name, **models)
    assert main(["compare", *files]) == 0
    printed = json.loads(capsys.readouterr().out)
    table = compare_models(models, PROTOCOLS[name])
    assert printed["protocol"] == name and printed["n"] == Q
    assert pd.DataFrame(printed["differences"]).round(9).equals(table.round(9))
    metrics = {model: found["metrics"] for model, found in printed["models"].items()}
    for row in table.itertuples():
        assert metrics["x"][row.measure] == pytest.approx(row.mean_a)
    assert main(["compare", *files, "--table"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == list(table) and len(rows) == len(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1:], "y lacks query '00', which x has"),
        (lambda f: pd.concat([f, f[:1].assign(query_id="0x")]), "x lacks query '0x', which y has"),
        (lambda f: pd.concat([f, f[:1]]), "y: query '00' is there twice"),
        (
            lambda f: f.assign(category="shirt"),
            "query '00' has category dress in x, shirt in y",
        ),
        (lambda f: f.assign(images=3), "query '00' has images 7 in x, 3 in y"),
        (lambda f: f.assign(rank="first"), "y: could not convert string to float: 'first'"),
        (lambda f: f.assign(rank=None), "y: could not convert string to float: ''"),
        (lambda f: f.assign(rank=-1), "y: target_ranks must be whole numbers from 0"),
        (lambda f: f.drop(columns="rank"), "y: fashioniq needs the column 'rank'"),
        (lambda f: f.drop(columns="query_id"), "y.csv: no column query_id; write it with"),
        (lambda f: f[:0], "y lacks query '00'"),
    ],
)
def test_a_file_at_fault_is_named(write, fault, change, message):
    frame = draw("fashioniq", 1).assign(images=7)
    assert message in fault(*write("fashioniq", x=frame, y=change(frame)))


def test_results_in_the_wrong_unit_are_named(write, fault):
    frame = draw("circo", 1)
    for wrong in (100 * frame["ap10"], "half"):
        files = write("circo", x=frame, y=frame.assign(ap10=wrong))
        assert "y: " in (said := fault(*files)) and ("mAP@10" in said or "half" in said)


def test_files_that_do_not_belong_together_are_named(write, fault, tmp_path):
    x, y = write("cirr", x=draw("cirr", 1))[0], write("fashioniq", y=draw("fashioniq", 1))[0]
    assert "'cirr' in x, 'fashioniq' in y" in fault(x, y)
    assert "two files are called x" in fault(x, x)
    assert "needs two models or more" in fault(x)
    assert "nowhere.csv" in fault(x, str(tmp_path / "nowhere.csv"))
    draw("cirr", 1).to_csv(tmp_path / "bare.csv", index=False)
    assert "bare.csv: no column protocol" in fault(x, str(tmp_path / "bare.csv"))
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv is no CSV" in fault(x, str(tmp_path / "empty.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    assert "bytes.csv is no CSV" in fault(x, str(tmp_path / "bytes.csv"))
    assert "column protocol: 'cir' in y" in fault(
        *write("cir", x=draw("cirr", 1), y=draw("cirr", 2))
    )
