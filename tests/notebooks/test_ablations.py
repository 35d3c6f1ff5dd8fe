"""Notebook 05: intervals, tables and claims of small made-up grids."""

import numpy as np
import pandas as pd
import pytest
import study
from analysis import ablations

SEEDS = range(1000, 1005)


def grid(values, seeds=SEEDS, **more):
    """A row a (variant, seed): `values` gives each variant's Recall@10, a point more a seed."""
    rows = [
        {"variant": v, "seed": s, "settings": f"{v}-{s}", "val_r10": value + s - 1000} | more
        for v, value in values.items()
        for s in seeds
    ]
    return pd.DataFrame(rows)


def all_variants(value=20.0, **others):
    return dict.fromkeys(study.VARIANTS, value) | others


def hits_of(rates):
    """Hits in per cent, of 10 val queries in each of two categories: one row a (variant, seed)."""
    columns = [f"{category}/val/{i}" for category in ("dress", "shirt") for i in range(10)]
    index = [(v, s) for v in rates for s in SEEDS]
    rows = [np.tile(np.arange(10) < rates[v] / 10, 2) * 100.0 for v, _ in index]
    return pd.DataFrame(rows, pd.MultiIndex.from_tuples(index), columns)


def test_an_interval_weighs_categories_alike_and_pairs_seeds():
    # variant "a" hits all three dresses and misses the one shirt; "b" misses everything
    columns = ["dress/val/0", "dress/val/1", "dress/val/2", "shirt/val/0"]
    keys = [("a", 1000), ("a", 1001), ("b", 1000), ("b", 1001), ("b", 1002)]
    index = pd.MultiIndex.from_tuples(keys)
    hits = pd.DataFrame([[100.0, 100, 100, 0]] * 2 + [[0.0] * 4] * 3, index, columns)
    assert ablations.measure_interval(hits, "a").estimate == pytest.approx(50)
    difference = ablations.measure_interval(hits, "a", less="b")
    assert difference.estimate == pytest.approx(50) and difference.n == 8


def test_the_grid_names_each_variant_once_with_its_baseline():
    frame = ablations.describe_grid(grid({"between_drops": 20, "n_def_3": 20}))
    assert frame.variant.tolist() == list(study.VARIANTS)
    frame = frame.set_index("variant")
    assert frame.loc["n_def_3"].tolist()[1:] == ["n_def = 3", "between_drops", 5]
    changed = frame["differs from the published recipe in"]
    assert changed["between_drops"] == "" and changed["window_100"] == "search_window = 100"
    assert changed["info_nce"] == "objective = info_nce, strategy = all_corpus"
    assert frame.loc["fixed_32", "compared with"] == "fixed_32"
    assert frame.loc["top_k", ["compared with", "seeds"]].tolist() == ["all_corpus", 0]


def test_variants_are_measured_and_compared_with_their_question_s_baseline():
    hits = hits_of(all_variants(50, all_corpus=80, n_def_3=70))
    recall = ablations.measure_variants(hits).set_index("label")
    assert recall.index.tolist() == list(study.VARIANTS)
    assert recall.estimate["all_corpus"] == pytest.approx(80)
    frame = ablations.compare_variants(hits).set_index("label")
    assert frame.loc["between_drops", "baseline"] == "all_corpus"
    assert frame.estimate["between_drops"] == pytest.approx(-30)
    assert frame.verdict["between_drops"] == "worse" and frame.verdict["n_def_3"] == "better"
    assert frame.estimate["pairs_3"] == 0 and frame.verdict["pairs_3"] == "within noise"
    assert "all_corpus" not in frame.index and set(frame.seeds) == {5}


def test_bands_span_the_seeds_of_each_epoch():
    epochs = pd.concat([grid({"b": 10, "a": 30}).assign(epoch=e) for e in (0, 1)])
    bands = ablations.find_bands(epochs, "val_r10")
    assert bands.to_numpy().tolist() == [
        ["a", 0, 32, 30, 34],
        ["a", 1, 32, 30, 34],
        ["b", 0, 12, 10, 14],
        ["b", 1, 12, 10, 14],
    ]
    chosen = ablations.choose(bands, ["b", "missing"])
    assert chosen.label.tolist() == ["b", "b"] and chosen.epoch.tolist() == [0, 1]
    assert ablations.choose(bands, ["b", "a"]).label.tolist() == ["b", "b", "a", "a"]


def test_speed_is_the_mean_over_epochs_paired_by_seed():
    quick = grid({"quick": 10}).assign(epoch=0), grid({"quick": 40}).assign(epoch=1)
    slow = grid({"slow": 0}).assign(epoch=0), grid({"slow": 40}).assign(epoch=1)
    pairs = [("quick", "slow"), ("slow", "quick"), ("slow", "slow")]
    frame = ablations.compare_speed(pd.concat([*quick, *slow]), pairs)
    assert frame.estimate.tolist() == [5, -5, 0]
    assert frame.learns.tolist() == ["faster", "slower", "alike"]
    assert frame.seeds.tolist() == [5, 5, 5]


def test_stability_has_the_spread_and_the_first_epoch_with_the_goal():
    # all_corpus ends at 22 on average; top_k passes it at epoch 1 with every seed, others never
    last = all_variants(10.0, all_corpus=20, top_k=30)
    runs = grid(last, loss=0.5)
    start = grid(all_variants(0.0)).assign(epoch=0)
    frame = ablations.summarise_stability(runs, pd.concat([start, grid(last).assign(epoch=1)]))
    frame = frame.set_index("variant")
    assert frame["Recall@10"]["top_k"] == pytest.approx(32)
    assert frame["SD over seeds"].tolist() == pytest.approx([np.std(range(5), ddof=1)] * len(frame))
    assert frame["epochs to all_corpus"]["top_k"] == 1
    assert np.isnan(frame["epochs to all_corpus"]["between_drops"])
    assert np.isnan(frame["epochs to all_corpus"]["all_corpus"])  # two seeds stay below the mean
    assert frame["final loss"].eq(0.5).all()


def test_beyond_recall_leaves_out_what_the_data_does_not_know():
    runs = grid(all_variants(), val_r50=60.0)
    definitions = grid(all_variants()).assign(epoch=2, share_bottom_half=0.5)
    frame = ablations.summarise_beyond_recall(runs, definitions)
    assert frame.columns.tolist() == ["variant", "val_r10", "val_r50", "share_bottom_half"]
    graded = ablations.summarise_beyond_recall(
        runs.assign(val_ndcg10=0.5), definitions.assign(relevance_inside=0.25)
    )
    assert graded.val_ndcg10.eq(0.5).all() and graded.relevance_inside.eq(0.25).all()


def test_worlds_stand_side_by_side_in_the_order_of_the_grid():
    worlds = {"first": grid({"top_k": 20, "between_drops": 10}), "second": grid({"top_k": 0})}
    frame = ablations.compare_worlds(worlds)
    assert frame.to_numpy().tolist() == [
        ["between_drops", "12.0 ± 1.6", "-"],
        ["top_k", "22.0 ± 1.6", "2.0 ± 1.6"],
    ]


@pytest.mark.parametrize(
    ("recall", "settings", "verdict"),
    [
        (21.05, "a-1001", "same"),
        (22.5, "a-1001", "within the seeds"),
        (24.5, "a-1001", "differs"),
        (21.0, "b", "other settings"),
    ],
)
def test_a_live_run_is_judged_by_the_shipped_one_of_its_seed_and_settings(
    recall, settings, verdict
):
    live = pd.DataFrame([{"variant": "a", "seed": 1001, "settings": settings, "val_r10": recall}])
    shipped = grid({"a": 20.0, "c": 90.0})
    (row,) = ablations.compare_live(live, shipped).to_dict("records")
    assert row["verdict"] == verdict
    assert (row["lowest seed"], row["highest seed"]) == (20, 24)
    assert np.isnan(row["shipped"]) if verdict == "other settings" else row["shipped"] == 21


def test_claims_are_above_zero_where_they_hold():
    hits = hits_of(all_variants(50, between_drops=70))
    epochs = (2, 4, 6)
    definitions = pd.concat(
        [
            grid({"between_drops": 0, "top_k": 0}).assign(
                epoch=epoch,
                set_size_mean=100 - 10 * epoch,
                relevance_inside=0.5,
                false_negative_share=[0.1] * 5 + [0.3] * 5,
            )
            for epoch in epochs
        ]
    )
    measured = ablations.measure_claims(hits, definitions, corpus_relevance=0.3)
    estimates = {claim: interval.estimate for claim, (_, interval) in measured.items()}
    for claim in ("fig4_all_corpus", "fig4_top_k", "fig4_after_target", "table2_contrast"):
        assert estimates[claim] == pytest.approx(20)
    assert estimates["fig5_shrinking_sets"] == pytest.approx(40)
    assert estimates["eq7_hard"] == pytest.approx(20)
    assert estimates["eq7_false_negatives"] == pytest.approx(20)
    unknown = ablations.measure_claims(hits, definitions, corpus_relevance=None)
    assert set(measured) - set(unknown) == {"eq7_hard", "eq7_false_negatives"}

    table = ablations.tabulate_claims(measured, dict.fromkeys(measured, "holds"))
    assert table.claim.tolist() == list(measured) and set(table.verdict) == {"holds"}
    columns = ["claim", "measured", "estimate", "low", "high", "n", "verdict"]
    assert table.columns.tolist() == columns
