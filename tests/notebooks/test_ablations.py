"""Notebook 05: intervals, tables, figures and claims of small made-up studies."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import study
from analysis import ablations
from analysis.ablations import Rows
from grids import CORE, NEGATIVES, PARTS
from report.claims import read_claims, save_claim
from report.folder import Reports
from report.names import find_look, plain_name

from qure_lib.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_ci,
    paired_bootstrap,
)
from qure_lib.files import write_json

SEEDS = range(2000, 2005)
QUERIES = [f"{category}/val/{i}" for category in ("dress", "shirt") for i in range(10)]


def grid(values, seeds=SEEDS, **more):
    """A row a (variant, seed): `values` gives each variant's Recall@10, a point more a seed."""
    rows = [
        {"variant": v, "seed": s, "settings": f"{v}-{s}", "val_r10": value + s - 2000} | more
        for v, value in values.items()
        for s in seeds
    ]
    return pd.DataFrame(rows)


def hits_of(rates, seeds=SEEDS):
    """Hits in per cent, of 10 val queries in each of two categories: one row a (variant, seed)."""
    index = pd.MultiIndex.from_product([list(rates), seeds], names=["variant", "seed"])
    hits = [np.tile(np.arange(10) < rates[v] / 10, 2) * 100.0 for v, _ in index]
    return pd.DataFrame(hits, index, QUERIES)


def definitions_of(shares, seeds=SEEDS, relevance=0.5):
    """Three definitions whose sets shrink by 10 images an epoch; shares of false negatives."""
    frames = []
    for variant, share in shares.items():
        frame = grid({variant: 0}, seeds, false_negative_share=share, relevance_inside=relevance)
        frames += [frame.assign(epoch=e, set_size_mean=100 - 10 * e) for e in (2, 4, 6)]
    return pd.concat(frames, ignore_index=True)


def rows_of(rates, **more):
    """A study of negatives in which every variant has all seeds."""
    runs = grid(rates, loss=0.5)
    epochs = pd.concat([runs.assign(epoch=epoch) for epoch in (0, 1)], ignore_index=True)
    manifest = {"mean_relevance": 0.3}
    rows = Rows(NEGATIVES, runs, epochs, definitions_of({"cosine": 0.1}), hits_of(rates), manifest)
    return replace(rows, **more)


# ---------------------------------------------------------------- rows and intervals


def test_rows_are_read_with_a_hit_for_every_target_in_the_top_ten(tmp_path):
    with pytest.raises(ValueError, match="holds no finished runs; `make study`"):
        ablations.load_rows(NEGATIVES, tmp_path)
    for variant, ranks in (("preference", [9, 10]), ("uniform", [0, 99])):
        key = {"variant": variant, "seed": 2000, "settings": "0a1b2c3d"}
        one = pd.DataFrame([key | {"epoch": 11}])
        found = pd.DataFrame([key | dict(zip(QUERIES, ranks, strict=False))])
        study.add(tmp_path, {"epochs": one, "definitions": one, "ranks": found, "runs": one})
    write_json(tmp_path / "manifest.json", {"mean_relevance": None})
    rows = ablations.load_rows(NEGATIVES, tmp_path)
    assert rows.trained == ["uniform", "preference"]  # in the order of the grid
    assert rows.hits.loc["preference", 2000].tolist() == [100, 0]
    assert rows.hits.loc["uniform", 2000].tolist() == [100, 0]
    assert rows.hits.columns.tolist() == QUERIES[:2] and rows.manifest == {"mean_relevance": None}


def test_an_interval_weighs_categories_alike_and_pairs_seeds():
    # variant "a" hits all three dresses and misses the one shirt; "b" misses everything
    columns = ["dress/val/0", "dress/val/1", "dress/val/2", "shirt/val/0"]
    keys = [("a", 1000), ("a", 1001), ("b", 1000), ("b", 1001), ("b", 1002)]
    index = pd.MultiIndex.from_tuples(keys)
    hits = pd.DataFrame([[100.0, 100, 100, 0]] * 2 + [[0.0] * 4] * 3, index, columns)
    assert ablations.measure_interval(hits, "a").estimate == pytest.approx(50)
    difference = ablations.measure_interval(hits, "a", less="b")
    assert difference.estimate == pytest.approx(50) and difference.n == 8


def test_of_several_seeds_both_seeds_and_queries_are_resampled_and_of_one_queries_alone():
    generator = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([["a", "b"], SEEDS], names=["variant", "seed"])
    hits = pd.DataFrame(100.0 * generator.integers(0, 2, (10, 20)), index, QUERIES)
    values = hits.loc["a"].to_numpy().ravel()
    seeds, queries = np.repeat(SEEDS, 20), np.tile(np.arange(20), 5)
    assert ablations.measure_interval(hits, "a") == bootstrap_ci(
        values, np.full(100, 0.1), [seeds, queries]
    )
    one = hits.loc[[("a", 2003), ("b", 2003)]]
    a, b = one.to_numpy()
    weights = np.full(20, 0.1)
    expected = paired_bootstrap(a, b, (weights, weights))
    assert ablations.measure_interval(one, "a", less="b") == expected


def test_variants_are_measured_as_they_are_named():
    recall = ablations.measure_variants(hits_of({"uniform": 80, "cosine": 50}), ["cosine"])
    assert recall.label.tolist() == ["cosine"] and recall.estimate[0] == pytest.approx(50)
    assert recall.low[0] <= 50 <= recall.high[0]


def test_variants_are_compared_with_their_question_s_baseline_where_both_were_trained():
    hits = hits_of({"uniform": 50, "cosine": 20, "in_batch": 80, "preference": 60})
    hits = pd.concat([hits, hits_of({"top_k": 30, "moved": 60}, SEEDS[1:3])])
    rows = rows_of(dict.fromkeys(hits.index.levels[0], 0), hits=hits)
    questions = ["where negatives come from", "controls", "rivals"]
    frame = ablations.compare_variants(rows, questions).set_index("label")
    assert frame.index.tolist() == ["cosine", "preference", "in_batch", "moved", "top_k"]
    assert frame.question.tolist() == [questions[0]] * 3 + questions[1:]
    assert frame.baseline.tolist() == ["uniform"] * 3 + ["preference"] * 2
    assert frame.estimate.tolist() == pytest.approx([-30, 10, 30, 0, -30])
    verdicts = ["worse", "better", "better", "within noise", "worse"]
    assert frame.verdict.tolist()[::2] == verdicts[::2] and frame.verdict["moved"] == verdicts[3]
    assert frame.seeds.tolist() == [5, 5, 5, 2, 2] and frame.n.tolist() == [100] * 3 + [40] * 2
    assert ablations.compare_variants(rows, ["a lower learning rate"]).empty


def test_the_grid_names_each_variant_once_with_what_it_changes():
    runs = pd.concat([grid({"cosine": 20}), grid({"moved": 20}, [2000])])
    frame = ablations.describe_grid(rows_of({"cosine": 20}, runs=runs))
    assert frame.code.tolist() == list(NEGATIVES.variants)
    assert frame.variant.tolist() == [plain_name(variant) for variant in NEGATIVES.variants]
    frame = frame.set_index("code")
    assert frame.seeds[frame.seeds > 0].to_dict() == {"cosine": 5, "moved": 1}
    changed = frame["changes in the published recipe"]
    assert changed["cosine"] == "" and changed["window_100"] == "search_window = 100"
    assert changed["in_batch"] == "objective = info_nce, strategy = all_corpus"
    assert changed["temperature_x2"] == "strategy = preference_scaled, factor = 2.0"
    assert frame.loc["slow_cosine", "compared with"] == "slow_uniform"
    assert frame.loc["top_k", ["question", "compared with"]].tolist() == ["rivals", "preference"]
    parts = ablations.describe_grid(rows_of({"cosine": 20}, grid=PARTS)).set_index("code")
    assert parts["changes in the published recipe"]["n_def_3"] == "n_def = 3"


# ---------------------------------------------------------------- what is tested


def test_the_drop_rule_is_compared_with_each_of_four_by_holm(monkeypatch):
    rates = {"preference": 50, "cosine": 20, "uniform": 50, "same_sizes": 40, "in_batch": 60}
    p_values = {"cosine": 2 / 2001, "uniform": 1.0, "same_sizes": 0.03, "in_batch": 0.04}
    asked = []

    def measured(hits, variant, less):
        asked.append((variant, less))
        apart = rates[variant] - rates[less]
        low, high = (apart - 5, apart + 5) if apart else (-1, 1)
        return PairedDifference(apart, low, high, 100, 5, p_values[less])

    monkeypatch.setattr(ablations, "measure_interval", measured)
    frame = ablations.compare_primary(rows_of(rates)).set_index("code")
    assert asked == [("preference", other) for other in ablations.PRIMARY]
    assert frame.index.tolist() == ["cosine", "uniform", "same_sizes", "in_batch"]
    assert frame.against.tolist() == [plain_name(code) for code in frame.index]
    # 4 x 2 / 2001, the floor; 3 x 0.03; 2 x 0.04, not below it; 1
    assert frame["p (Holm)"].tolist() == ["< 0.004", "1.000", "0.090", "0.090"]
    # same sizes and in-batch contrast: intervals without zero, yet not certain enough for four
    assert frame.verdict.tolist() == ["better", "within noise", "within noise", "within noise"]
    assert frame.estimate.tolist() == [30, 0, 10, -10] and frame.low.tolist() == [25, -1, 5, -15]


def test_a_contrast_that_is_certain_has_its_direction_and_shows_every_seed():
    rates = {"preference": 50, "cosine": 20, "uniform": 50, "same_sizes": 50, "in_batch": 100}
    hits = hits_of(rates)
    hits.loc[("cosine", 2003), "dress/val/9"] = 100.0  # one of ten dresses, of two categories
    frame = ablations.compare_primary(rows_of(rates, hits=hits)).set_index("code")
    assert frame.verdict.tolist() == ["better", "within noise", "within noise", "worse"]
    assert frame["each seed"]["cosine"] == "+30.0, +30.0, +30.0, +25.0, +30.0"
    assert frame.estimate["cosine"] == pytest.approx(29) and set(frame.n) == {100}


def test_the_drop_rule_is_tested_against_all_other_core_variants():
    assert sorted([*ablations.PRIMARY, "preference"]) == sorted(CORE)


@pytest.mark.parametrize(
    ("cosine", "same_sizes", "moved", "answer"),
    [
        ("better", "better", (1, 3), "The drops of the preference curve repair it"),
        ("better", "better", (-1, 3), "Nearness to the target repairs it"),
        ("better", "within noise", (1, 3), "Nearness to the target repairs it"),
        ("better", "worse", (-3, -1), "Nearness to the target repairs it"),
        ("within noise", "better", (1, 3), "The preference curve does not repair the rule"),
        ("worse", "better", (1, 3), "The preference curve does not repair the rule"),
    ],
)
def test_the_drops_repair_the_rule_only_if_they_beat_it_and_both_controls(
    cosine, same_sizes, moved, answer
):
    primary = pd.DataFrame({"code": ["cosine", "same_sizes"], "verdict": [cosine, same_sizes]})
    found = ablations.judge_repair(primary, Interval(sum(moved) / 2, *moved, 100, 5))
    assert found.startswith(answer)


# ---------------------------------------------------------------- tables


def test_bands_span_the_seeds_of_each_epoch_in_the_order_asked():
    epochs = pd.concat([grid({"b": 10, "a": 30, "c": 90}).assign(epoch=e) for e in (0, 1)])
    bands = ablations.find_bands(epochs, "val_r10", ["b", "missing", "a"])
    assert bands.columns.tolist() == ["label", "epoch", "mean", "low", "high"]
    assert bands.to_numpy().tolist() == [
        ["b", 0, 12, 10, 14],
        ["b", 1, 12, 10, 14],
        ["a", 0, 32, 30, 34],
        ["a", 1, 32, 30, 34],
    ]


def test_speed_is_the_mean_over_epochs_paired_by_seed():
    quick = grid({"quick": 10}).assign(epoch=0), grid({"quick": 40}).assign(epoch=1)
    slow = grid({"slow": 0}).assign(epoch=0), grid({"slow": 40}).assign(epoch=1)
    pairs = [("quick", "slow"), ("slow", "quick"), ("slow", "slow")]
    frame = ablations.compare_speed(pd.concat([*quick, *slow]), pairs)
    assert frame.estimate.tolist() == [5, -5, 0]
    assert frame.learns.tolist() == ["faster", "slower", "alike"]
    assert frame.seeds.tolist() == [5, 5, 5]


def test_a_summary_has_the_spread_and_the_epochs_until_the_goal():
    # uniform ends at 22 on average; in_batch has that after two epochs with every seed, cosine
    # never, and preference with its best seed alone
    last = {"uniform": 20, "cosine": 10, "in_batch": 30, "preference": 18}
    start = grid(dict.fromkeys(last, 0)).assign(epoch=0)
    epochs = pd.concat([start, grid(last).assign(epoch=1)], ignore_index=True)
    rows = rows_of(last, epochs=epochs, definitions=definitions_of({"cosine": 0.1}))
    frame = ablations.summarise_runs(rows, ["cosine", "in_batch", "uniform", "preference"])
    assert frame.code.tolist() == ["cosine", "in_batch", "uniform", "preference"]
    assert frame.variant.tolist() == [plain_name(code) for code in frame.code]
    frame = frame.set_index("code")
    assert frame["Recall@10 (%)"].tolist() == [12, 32, 22, 20]
    assert frame.SD.tolist() == pytest.approx([np.std(range(5), ddof=1)] * 4)
    goal = frame["epochs to uniform's last"]
    assert goal["in_batch"] == 2 and goal[["cosine", "uniform", "preference"]].isna().all()
    assert frame.seeds.eq(5).all() and frame.loss.eq(0.5).all()
    assert frame["images in a set"]["cosine"] == pytest.approx(60)
    assert frame["false negatives (%)"]["cosine"] == pytest.approx(10)
    assert frame["relevance inside"]["cosine"] == 0.5
    assert frame["images in a set"][["uniform", "in_batch"]].isna().all()


def test_a_summary_leaves_empty_what_the_data_does_not_know():
    definitions = definitions_of({"cosine": 0.1})
    known = ["false_negative_share", "relevance_inside"]
    unknown = rows_of({"uniform": 20, "cosine": 10}, definitions=definitions.drop(columns=known))
    frame = ablations.summarise_runs(unknown, ["cosine"])
    assert frame[["nDCG@10", "relevance inside", "false negatives (%)"]].isna().all(axis=None)
    graded = replace(unknown, runs=unknown.runs.assign(val_ndcg10=0.5))
    assert ablations.summarise_runs(graded, ["cosine"])["nDCG@10"].tolist() == [0.5]


def test_worlds_stand_side_by_side_in_the_order_of_the_grid():
    first = rows_of({"preference": 20, "uniform": 10, "top_k": 0})
    second = rows_of({"preference": 0, "uniform": 5})
    second = replace(second, runs=second.runs[second.runs.seed == 2000])
    table = ablations.compare_worlds({"first": first, "second": second})
    assert table.columns.tolist() == ["variant", "first", "second"]
    assert table.to_numpy().tolist() == [
        [plain_name("uniform"), "12.0 ± 1.6", "5.0"],  # one seed
        [plain_name("preference"), "22.0 ± 1.6", "0.0"],
    ]
    third = rows_of({"uniform": 7, "top_k": 8})
    table = ablations.compare_worlds({"first": first, "second": second, "third": third})
    assert table.iloc[-1].tolist() == [plain_name("top_k"), "2.0 ± 1.6", "-", "10.0 ± 1.6"]
    assert len(ablations.compare_worlds({"first": first})) == 3


@pytest.mark.parametrize(
    ("recall", "settings", "verdict"),
    [
        (21.05, "uniform-2001", "same"),
        (22.5, "uniform-2001", "same but for rounding"),
        (16.5, "uniform-2001", "same but for rounding"),  # 4.5 below; 3 SD are 4.74
        (25.8, "uniform-2001", "differs"),
        (21.0, "b", "other settings"),
    ],
)
def test_a_live_run_agrees_within_three_deviations_of_the_shipped_seeds(recall, settings, verdict):
    live = grid({"uniform": 0}, [2001]).assign(settings=settings, val_r10=recall)
    shipped = grid({"uniform": 20.0, "cosine": 90.0})
    (row,) = ablations.compare_live(live, shipped).to_dict("records")
    assert (row["verdict"], row["code"], row["seed"]) == (verdict, "uniform", 2001)
    assert row["variant"] == plain_name("uniform") and row["live"] == recall
    assert row["tolerance"] == pytest.approx(3 * np.std(range(5), ddof=1))
    assert np.isnan(row["shipped"]) if verdict == "other settings" else row["shipped"] == 21


@pytest.mark.parametrize("shipped", [[20.0], [20.0, 20.2]])
def test_a_live_run_may_always_be_a_point_off(shipped):
    known = grid({"uniform": 0}, SEEDS[: len(shipped)]).assign(val_r10=shipped)
    for recall, verdict in ((20.9, "same but for rounding"), (18.9, "differs")):
        live = grid({"uniform": 0}, [2000]).assign(val_r10=recall)
        (row,) = ablations.compare_live(live, known).to_dict("records")
        assert (row["tolerance"], row["verdict"]) == (1, verdict)


# ---------------------------------------------------------------- figures


@pytest.fixture
def figure():
    yield plt.figure(layout="constrained")
    plt.close("all")


def test_variants_are_drawn_over_the_epochs_and_at_the_last_one(figure):
    figure.subplots(1, 2)
    rates = {"uniform": 20, "cosine": 50}
    rows = rows_of(rates)
    drawn = ablations.plot_variants(figure, rows, ["cosine", "uniform"])
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.get_lines()] == [[52, 52], [22, 22]]
    names = [plain_name("cosine"), plain_name("uniform")]
    assert [tick.get_text() for tick in right.get_yticklabels()] == names
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert left.get_legend() is None and left.get_ylabel() and right.get_xlabel()
    assert drawn["mean"].dropna().tolist() == [52, 52, 22, 22]
    assert drawn.estimate.dropna().tolist() == pytest.approx([50, 20])


def test_differences_are_grouped_by_question_and_say_how_many_seeds(figure):
    ax = figure.subplots()
    compared = pd.DataFrame(
        {
            "question": ["controls", "rivals", "rivals"],
            "label": ["moved", "top_k", "window_100"],
            "baseline": "preference",
            "seeds": [5, 2, 1],
        }
    ).assign(estimate=[1.0, 2, 3], low=0.0, high=4.0)
    assert ablations.plot_differences(ax, compared) is ax
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert ticks == ["another query's window (5)", "best 100 (2)", "drops within 100 ranks (1)"]
    base = plain_name("preference")
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["no difference", f"controls, less {base}", f"rivals, less {base}"]
    assert compared.label.tolist() == ["moved", "top_k", "window_100"]  # untouched


def test_why_leaves_out_variants_without_windows_on_the_left_alone(figure):
    figure.subplots(1, 3)
    rows = rows_of({"uniform": 20, "cosine": 50})
    frames = [definitions_of({"cosine": 0.1}).assign(window_start_fraction=0.99)]
    frames += [definitions_of({"uniform": 0.1}).assign(window_start_fraction=np.nan)]
    rows = replace(
        rows, definitions=pd.concat(frames), epochs=rows.epochs.assign(loss=2.0, gradient_norm=3.0)
    )
    drawn = ablations.plot_why(figure, rows, ["cosine", "uniform"])
    lines = [[line.get_ydata().tolist() for line in ax.get_lines()] for ax in figure.axes]
    assert lines == [[[0.99] * 3], [[2, 2]] * 2, [[3, 3]] * 2]
    assert figure.axes[0].get_lines()[0].get_color() == find_look("cosine").colour
    assert all(ax.get_yscale() == "log" and ax.get_ylabel() for ax in figure.axes)
    names = [plain_name("cosine"), plain_name("uniform")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    counts = drawn.groupby("panel").size().to_dict()
    assert counts == {"window_start_fraction": 3, "loss": 4, "gradient_norm": 4}


# ---------------------------------------------------------------- claims


def claimed(**more):
    """A study in which `preference` hits 90 %, `cosine` 70 %, all that they are to beat 50 %."""
    others = {other: 50 for _, other in ablations.CONTRASTS.values()}
    rates = others | {"cosine": 70, "preference": 90}
    shares = {"cosine": 0.1, "preference": 0.2, "top_k": 0.3}
    return rows_of(rates, definitions=definitions_of(shares), **more)


def test_every_claim_that_the_study_can_judge_is_one_of_notebook_05():
    known = {n for n, claim in read_claims().items() if claim["notebook"] == "05_ablations"}
    assert set(ablations.measure_claims(claimed())) == known


def test_claims_are_above_zero_where_they_hold():
    measured = ablations.measure_claims(claimed())
    estimates = {claim: interval.estimate for claim, (_, interval, _) in measured.items()}
    for claim in ("fig4_all_corpus", "fig4_top_k", "fig4_after_target", "table2_contrast"):
        assert estimates[claim] == pytest.approx(20)
    for claim in ("ours_uniform", "ours_same_sizes", "ours_moved", "ours_in_batch"):
        assert estimates[claim] == pytest.approx(40)
    assert estimates["ours_released"] == pytest.approx(20)
    for claim in ("fig5_shrinking_sets", "ours_shrinking_sets"):
        assert estimates[claim] == pytest.approx(40)  # images
    for claim in ("eq7_hard", "ours_hard"):
        assert estimates[claim] == pytest.approx(20)
    assert estimates["eq7_false_negatives"] == pytest.approx(20)
    assert estimates["ours_false_negatives"] == pytest.approx(10)


def test_a_claim_counts_what_it_was_measured_on():
    measured = ablations.measure_claims(claimed())
    counts = {claim: (interval.n, unit) for claim, (_, interval, unit) in measured.items()}
    assert counts["ours_released"] == (5 * 20, "pairs of seed and val query")
    assert counts["fig5_shrinking_sets"] == (5, "seeds")
    assert counts["ours_hard"] == counts["eq7_false_negatives"] == (15, "definitions")
    words = {claim: text for claim, (text, *_) in measured.items()}
    names = plain_name("preference"), plain_name("cosine")
    assert words["ours_released"] == "Recall@10 (points): {}, less {}.".format(*names)
    assert words["fig5_shrinking_sets"].endswith(f": {names[1]}.")


def test_claims_on_relevance_are_left_out_where_it_is_not_known():
    rows = claimed()
    unknown = ablations.measure_claims(replace(rows, manifest={"mean_relevance": None}))
    left_out = {"eq7_hard", "eq7_false_negatives", "ours_hard", "ours_false_negatives"}
    assert set(ablations.measure_claims(rows)) - set(unknown) == left_out


def without(rows, variant):
    """The same study before a variant was trained."""
    kept = {n: getattr(rows, n) for n in ("runs", "epochs", "definitions")}
    kept = {name: frame[frame.variant != variant] for name, frame in kept.items()}
    return replace(rows, **kept, hits=rows.hits.drop(index=variant, level="variant"))


def test_claims_on_a_variant_that_was_not_trained_are_left_out():
    rows = claimed()
    top_k = ablations.measure_claims(without(rows, "top_k"))
    false_negatives = {"eq7_false_negatives", "ours_false_negatives"}
    assert set(ablations.measure_claims(rows)) - set(top_k) == {"fig4_top_k"} | false_negatives
    released = ablations.measure_claims(without(rows, "preference"))
    assert {name for name in released if name.startswith("ours")} == set()
    assert len(released) == 7


def test_a_claim_covers_the_seeds_that_all_its_variants_have():
    rows = claimed()
    fewer = {("top_k", seed) for seed in SEEDS[2:]} | {("preference", 2004)}
    kept = {n: getattr(rows, n) for n in ("runs", "epochs", "definitions")}
    for name, frame in kept.items():
        keys = list(zip(frame.variant, frame.seed, strict=True))
        kept[name] = frame[[key not in fewer for key in keys]]
    rows = replace(rows, **kept, hits=rows.hits.drop(index=list(fewer)))
    stated = ablations.state_claims(rows, "drawn garments", "A small model.")
    seeds = {claim.name: claim.seeds for claim in stated}
    assert (seeds["fig4_all_corpus"], seeds["fig4_top_k"], seeds["ours_uniform"]) == (5, 2, 4)
    assert (seeds["fig5_shrinking_sets"], seeds["ours_hard"]) == (5, 4)
    assert seeds["eq7_false_negatives"] == seeds["ours_false_negatives"] == 2
    assert {(claim.on, claim.caveat) for claim in stated} == {("drawn garments", "A small model.")}


def test_claims_are_tabulated_with_their_verdicts(tmp_path):
    stated = ablations.state_claims(claimed(), "drawn garments", "")
    reports = Reports(tmp_path, "05_ablations")
    verdicts = {claim.name: save_claim(claim, found, reports) for claim, found in stated.items()}
    table = ablations.tabulate_claims(stated, verdicts)
    assert table.claim.tolist() == [claim.name for claim in stated]
    assert set(table.verdict) == {"supported on drawn data"}
    row = table.set_index("claim").loc["fig4_top_k"]
    assert row[["estimate", "seeds", "n"]].tolist() == [pytest.approx(20), 5, 100]
    assert row["n counts"] == "pairs of seed and val query"
    assert row.measured == next(claim.measure for claim in stated if claim.name == "fig4_top_k")


def test_recall_runs_from_the_lowest_seed_to_the_highest():
    rows = [
        (variant, seed, epoch, 10 * epoch + seed)
        for variant in ("first", "other", "second")
        for seed in (1, 2, 6)
        for epoch in (0, 1)
    ]
    epochs = pd.DataFrame(rows, columns=["variant", "seed", "epoch", "val_r10"])
    asked = ["second", "not trained", "first"]
    recall = ablations.find_bands(epochs.sample(frac=1, random_state=0), "val_r10", asked)
    assert recall["label"].tolist() == ["second", "second", "first", "first"]
    assert recall["mean"].tolist() == [3, 13, 3, 13]
    assert recall["low"].tolist() == [1, 11, 1, 11] and recall["high"].tolist() == [6, 16, 6, 16]
