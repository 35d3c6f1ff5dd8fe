"""Notebook 11: what the ledger names exists, and its effects are those of the shipped rows."""

import argparse
import ast
import inspect
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis import ledger
from analysis.ablations import Rows
from grids import GRIDS, NEGATIVES
from PIL import Image
from report.claims import read_claims
from report.folder import Reports
from report.names import plain_name

from qure_lib.datasets.preprocessing import image_transform
from qure_lib.evaluation import __main__ as evaluation
from qure_lib.evaluation.statistics import paired_bootstrap
from qure_lib.train import __main__ as training

QUERIES = [f"{category}/val/{i}" for category in ("dress", "shirt") for i in range(10)]
SEEDS = (2000, 2001, 2002)


def options(parser):
    return {flag for action in parser._actions for flag in action.option_strings}


def known_settings():
    """Every setting that a ledger may name, as "command --option" or "function parameter"."""
    (protocols,) = (
        action.choices
        for action in evaluation.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    known = {f"train {flag}" for flag in options(training.parser())}
    known |= {f"evaluation {name} {flag}" for name, p in protocols.items() for flag in options(p)}
    return known | {
        f"image_transform {name}" for name in inspect.signature(image_transform).parameters
    }


def rows_of(rates, curves=None):
    """A study of three seeds: hits in per cent at the last epoch, and each variant's recall."""
    index = pd.MultiIndex.from_product([list(rates), SEEDS], names=["variant", "seed"])
    hits = [np.tile(np.arange(10) < rates[v] / 10, 2) * 100.0 for v, _ in index]
    runs = pd.DataFrame([{"variant": v, "seed": s} for v, s in index])
    epochs = pd.DataFrame(
        {"variant": v, "seed": s, "epoch": epoch, "val_r10": value + s - 2000}
        for v, values in (curves or {}).items()
        for s in SEEDS
        for epoch, value in enumerate(values)
    )
    return Rows(NEGATIVES, runs, epochs, pd.DataFrame(), pd.DataFrame(hits, index, QUERIES), {})


def points(*pairs, **columns):
    """A ledger of the grid "negatives": a row a (variant, against); a word alone is a reason."""
    rows = []
    for number, pair in enumerate(pairs):
        row = dict.fromkeys(("paper", "release", "kit", "setting", "part", "where"), "-")
        row |= {"topic": f"point {number}", "kind": "kit adds", "reason": ""}
        row |= dict.fromkeys(("grid", "variant", "against"), "")
        if isinstance(pair, str):
            row["reason"] = pair
        else:
            row |= {"grid": "negatives", "variant": pair[0], "against": pair[1]}
        rows.append(row | columns)
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- what the ledger names


@pytest.fixture(scope="module")
def shipped():
    return ledger.read_ledger()


def test_every_setting_exists(shipped):
    named = set(shipped.setting) - {""}
    assert len(named) > 15 and named <= known_settings()


def test_every_variant_exists_and_differs_from_what_it_is_less(shipped):
    pairs = shipped[shipped.variant != ""]
    assert len(pairs) > 10
    for row in pairs.itertuples():
        variants = GRIDS[row.grid].variants
        assert row.against in variants
        assert row.variant in variants or row.variant == ledger.BEST_EPOCH
        assert variants.get(row.variant) != variants[row.against]


def test_every_test_and_page_behind_a_point_exists(shipped, root):
    for where in shipped["where"]:
        path, _, name = where.partition("::")
        assert (root / path).is_file(), where
        if name:
            tree = ast.parse((root / path).read_text(encoding="utf-8"))
            names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert name in names, where


def test_a_notebook_that_a_reason_names_exists(shipped, root):
    named = [r.split()[-1] for r in shipped.reason if r.startswith("notebook ")]
    assert named and all(list((root / "notebooks").glob(f"{n}_*.ipynb")) for n in named)


def test_a_point_fits_on_a_screen_s_line(shipped):
    cells = shipped[["topic", "paper", "release", "kit", "setting", "reason"]]
    assert cells.map(len).max(axis=None) <= 40
    assert cells[["topic", "paper", "release", "kit"]].map(len).min(axis=None) > 0
    assert set(shipped.kind) == set(ledger.KINDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "unclear"}, "'point 0': kind must be one of"),
        ({"topic": "point 1"}, "'point 1' is there twice"),
        ({"reason": "same result"}, "'point 0': give grid, variant and against, or a reason"),
        ({"against": ""}, "'point 0': give grid, variant and against, or a reason"),
        ({"grid": ""}, "'point 0': give grid, variant and against, or a reason"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, message):
    frame = points(("preference", "cosine"), "same result")
    path = tmp_path / "ledger.csv"
    frame.to_csv(path, index=False)
    assert len(ledger.read_ledger(path)) == 2
    for column, value in change.items():
        frame.loc[0, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        ledger.read_ledger(path)


# ---------------------------------------------------------------- effects


def test_an_effect_is_the_mean_difference_of_the_two_variants_on_their_common_seeds():
    rows = rows_of({"cosine": 20, "preference": 70, "moved": 20})
    rows = replace(rows, hits=rows.hits.drop(index=[("preference", 2002)]))
    found = ledger.measure_effects(
        points(("preference", "cosine"), ("moved", "cosine"), "same result"), {"negatives": rows}
    )
    hits = rows.hits
    plain = [
        np.mean([hits.loc[("preference", s), q] - hits.loc[("cosine", s), q] for q in QUERIES])
        for s in (2000, 2001)
    ]
    assert found.estimate[0] == pytest.approx(np.mean(plain)) == pytest.approx(50)
    assert found.low[0] <= 50 <= found.high[0] and found.n[0] == 40
    assert found.estimate[1] == 0 and np.isnan(found.estimate[2])
    assert found.seeds.tolist() == [2, 3, 0]
    assert found.verdict.tolist() == ["better", "within noise", "same result"]


def test_swapping_a_pair_turns_the_sign():
    rows = {"negatives": rows_of({"cosine": 20, "preference": 70})}
    found = ledger.measure_effects(points(("preference", "cosine"), ("cosine", "preference")), rows)
    assert found.estimate[0] == -found.estimate[1]
    assert found.low[0] == pytest.approx(-found.high[1], abs=1e-9)
    assert found.verdict.tolist() == ["better", "worse"]


def test_what_has_no_rows_yet_is_not_trained():
    frame = points(("top_k", "cosine"), ("cosine", "uniform"), (ledger.BEST_EPOCH, "uniform"))
    frame.loc[3] = dict(frame.loc[0]) | {"topic": "point 3", "grid": "open_questions"}
    found = ledger.measure_effects(frame, {"negatives": rows_of({"cosine": 20})})
    assert found.verdict.tolist() == [ledger.NOT_TRAINED] * 4
    assert found.estimate.isna().all() and not found.seeds.any()


def test_the_best_epoch_is_compared_with_the_last_seed_by_seed():
    curves = {"cosine": [10, 40, 30], "preference": [10, 20, 50]}
    rows = rows_of({"cosine": 20, "preference": 20}, curves)
    rows = replace(rows, epochs=rows.epochs[::-1].copy())
    rows.epochs.loc[(rows.epochs.seed == 2001) & (rows.epochs.epoch == 1), "val_r10"] -= 4
    found = ledger.compare_best_epoch(rows, "cosine")
    assert found == paired_bootstrap([40, 37, 42], [30, 31, 32])
    assert ledger.compare_best_epoch(rows, "preference").estimate == 0
    effects = ledger.measure_effects(points((ledger.BEST_EPOCH, "cosine")), {"negatives": rows})
    assert effects.estimate[0] == pytest.approx(26 / 3) and effects.seeds[0] == 3


def test_grids_without_rows_on_the_world_are_left_out(tmp_path, root):
    assert ledger.load_grids(tmp_path, "world") == {}
    found = ledger.load_grids(root / "reports/shipped/study", "synthfashion-mini")
    assert {"negatives", "parts"} <= set(found) and found["parts"].grid is GRIDS["parts"]


def test_images_of_another_mode_or_turned_change_by_the_order_of_the_steps(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    plain = Image.fromarray(noise)
    plain.save(tmp_path / "a.png")
    assert ledger.count_changed_images(tmp_path, 9) == (0, 1)
    (tmp_path / "more").mkdir()
    plain.quantize(16).save(tmp_path / "more" / "b.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    plain.save(tmp_path / "more" / "c.JPG", exif=turned)
    (tmp_path / "more" / "d.txt").write_text("no image")
    assert ledger.count_changed_images(tmp_path, 9) == (2, 3)
    assert ledger.count_changed_images(tmp_path, 2) == (1, 2)
    with pytest.raises(ValueError, match="holds no images; `make data`"):
        ledger.count_changed_images(tmp_path / "none", 9)


# ---------------------------------------------------------------- what is shown


@pytest.fixture
def measured():
    rows = rows_of({"cosine": 20, "preference": 70, "moved": 0, "top_k": 20})
    frame = points(("preference", "cosine"), ("moved", "cosine"), ("top_k", "preference"))
    frame.loc[3] = dict(points(("top_k", "cosine")).loc[0]) | {"topic": "point 3"}
    frame.loc[4] = dict(points("same result").loc[0]) | {"topic": "point 4"}
    frame.loc[5] = dict(points("same, rounded").loc[0]) | {"topic": "point 5"}
    frame["setting"] = ["train --curve"] + [""] * 5
    frame.loc[0, "kind"], frame.loc[3, "kind"] = "paper silent", "paper and release differ"
    return ledger.measure_effects(frame, {"negatives": rows})


def test_the_answer_counts_and_orders_what_moves_the_recall(measured):
    counts, decided, added = ledger.describe_effects(measured).splitlines()
    assert "at 6 points; 2 give the same result, 4 have an effect measured" in counts
    assert counts.endswith("3 of them beyond noise.")
    name, cosine = plain_name("top_k"), plain_name("preference")
    assert decided.startswith("Where paper and release differ or the paper is silent: ")
    assert f"{plain_name('preference')} +50.0 [" in decided
    assert decided.endswith(f"; within noise: {name}.")
    first, second = added.removeprefix("What the kit adds: ").split("; ")
    assert first.startswith(f"{name}, less {cosine} -50.0 [")
    assert second.startswith(f"{plain_name('moved')} -20.0 [")


def test_the_shown_table_has_the_effects_in_words(measured):
    shown = ledger.tabulate(measured)
    assert shown.index.tolist() == measured.topic.tolist()
    assert shown.shape == (6, 6) and shown.columns[-2:].tolist() == ["Recall@10", "verdict"]
    row = measured.loc[0]
    text = f"{row.estimate:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
    assert shown["Recall@10"].iloc[0] == text and shown["Recall@10"].iloc[4] == "-"
    assert shown["to change it"].tolist() == ["train --curve"] + ["-"] * 5
    assert shown.verdict.iloc[5] == "same, rounded"


def test_measured_points_alone_are_drawn_by_kind(measured):
    _, ax = plt.subplots()
    assert ledger.plot_effects(ax, measured) is ax
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels[0] == f"{plain_name('top_k')} (3)"  # paper and release differ come first
    assert labels[1] == f"{plain_name('preference')} (3)" and len(labels) == 4
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["no difference", "paper and release differ", "paper silent", "kit adds"]
    plt.close("all")


def test_the_rule_s_claim_is_above_zero_where_the_release_beats_the_paper(tmp_path):
    assert ledger.RULE_CLAIM in read_claims()
    reports = Reports(tmp_path, "11_paper_release_kit")
    for rate, verdict in ((0, "supported"), (80, "contradicted"), (50, "within noise")):
        rows = rows_of({"cosine": 50, "cosine_largest": rate})
        assert ledger.save_rule_claim(rows, "world", reports).startswith(verdict)
    alone = rows_of({"cosine": 50})
    assert ledger.save_rule_claim(alone, "world", reports) == ledger.NOT_TRAINED
