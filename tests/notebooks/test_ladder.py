"""Notebook 06: the rates of scorers, their comparison, and the sentences that sum them up."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis import ladder
from analysis.preference_study import cluster_labels, implied_intervals

from qure_lib.evaluation.metrics import preference_rate
from qure_lib.evaluation.statistics import bootstrap_ci, paired_bootstrap

MODELS = pd.Series({"best": 99.0, "low": 1.0})


@pytest.fixture(scope="module")
def judged():
    """60 rows of 6 participants, each query shown twice; every third target is in a set."""
    generator = np.random.default_rng(0)
    rows = []
    for row in range(60):
        query = {"participant": row % 6, "category": "shirt", "reference": f"R{row // 2}"}
        sets = [tuple(f"{row}-{s}{i}" for i in range(5)) for s in "ab"]
        query |= {"target": f"T{row // 2}", "set_1": sets[0], "set_2": sets[1]}
        rows.append(query | {"preferred": int(generator.integers(1, 3))})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def scored(judged):
    """A random scorer, one that knows every third row (mostly right), and the choices."""
    generator = np.random.default_rng(1)
    right = np.where(judged["preferred"].to_numpy()[:, None] == [1, 2], 1.0, 0.0)
    right[[3, 9, 30, 45]] = right[[3, 9, 30, 45], ::-1]
    sparse = np.where(np.arange(60)[:, None] % 3 == 0, right, np.nan)
    return {
        "random": generator.random((60, 2)),
        "caption overlap": generator.random((60, 2)),
        "holds the target": sparse,
        "mine": generator.random((60, 2)),
        "participants' own": right,
    }


@pytest.fixture(scope="module")
def results(judged, scored):
    return ladder.compare_scorers(judged, scored)


@pytest.fixture(scope="module")
def rates(judged, results):
    return ladder.rate_ladder(judged, results, seed=3)


def test_unknown_rows_are_ties_and_a_scorer_without_a_choice_is_left_out(judged, scored):
    never = np.tile([0.0, 1.0], (60, 1))
    results = ladder.compare_scorers(judged, scored | {"never set 1": never, "tie": 0 * never})
    assert list(results) == list(scored)
    assert results["holds the target"].decides.tolist() == [row % 3 == 0 for row in range(60)]
    expected = preference_rate(*scored["random"].T, judged["preferred"])
    np.testing.assert_array_equal(results["random"].agrees, expected.agrees)


def test_the_ladder_has_four_rates_of_each_scorer_with_the_wider_interval(judged, results, rates):
    assert len(rates) == 4 * len(results)
    of = rates.set_index(["scorer", "rate", "over"])
    mine = results["mine"]
    row = of.loc[("mine", "one-sided", "rows it decides")]
    assert row["estimate"] == pytest.approx(100 * mine.agrees[mine.one_sided].mean())
    row = of.loc[("mine", "two-sided", "all rows")]
    assert row["estimate"] == pytest.approx(100 * mine.agrees.mean())
    widths = []
    for labels in cluster_labels(judged).values():
        interval = bootstrap_ci(100 * mine.agrees, clusters=labels, seed=3)
        widths.append(interval.high - interval.low)
    assert row["high"] - row["low"] == max(widths)
    sparse = of.loc[("holds the target", "two-sided", "rows it decides")]
    assert sparse["n"] == 20 and sparse["estimate"] == pytest.approx(80)
    assert set(rates["group"]) == {
        "sees the query", "sees the answer", "given as set_scores", "own choice",
    }  # fmt: skip


def test_one_sided_rates_leave_out_the_participants_own(rates):
    shown = ladder.one_sided_rates(rates, "all rows")
    assert shown["label"].tolist() == ["random", "caption overlap", "holds the target", "mine"]
    assert set(shown["rate"]) == {"one-sided"} and set(shown["over"]) == {"all rows"}


def test_panels_have_the_same_scorers_and_the_published_rates_below(rates):
    published = implied_intervals(MODELS, 100)
    left, right = ladder.ladder_panels(rates, published).values()
    assert left["label"].tolist()[-2:] == ["best", "low"]
    assert left["group"].tolist()[-1] == "published (interval of its size alone)"
    assert right["label"].str.fullmatch(r"n = \d+").all() and len(right) == len(left) - 2
    alone, _ = ladder.ladder_panels(rates, None).values()
    assert len(alone) == len(right)


def test_the_table_has_a_row_a_scorer_in_the_order_of_the_results(rates, results, scored):
    table = ladder.ladder_table(rates, results, scored, {"caption overlap": 12.5})
    assert table["scorer"].tolist() == list(results)
    assert table["sees"].tolist() == [
        "the query", "the query", "the answer", "given as set_scores", "own choice",
    ]  # fmt: skip
    table = table.set_index("scorer")
    assert table.loc["holds the target", ["rows scored", "rows decided"]].tolist() == [20, 20]
    assert table.loc["caption overlap", "images known (%)"] == 12.5
    assert np.isnan(table.loc["random", "images known (%)"])
    row = rates.set_index(["scorer", "rate", "over"]).loc[("mine", "two-sided", "all rows")]
    assert table.loc["mine", "two-sided, all rows (%)"].startswith(f"{row['estimate']:.1f} [")


def test_a_model_is_reached_by_the_intervals_end_and_never_by_given_scores(rates):
    everywhere = ladder.one_sided_rates(rates, "all rows").set_index("label")
    high = round(everywhere.loc["random", "high"], 2)
    reached = ladder.reached_models(rates, pd.Series({"at": high, "above": 100.5}))
    assert list(reached["random"].index) == ["at"]
    assert "mine" not in reached and "participants' own" not in reached
    assert ladder.reached_models(rates, pd.Series({"above": 100.5})) == {}


def test_the_answer_says_what_was_reached(rates, results):
    none = ladder.describe_reached(rates, pd.Series({"above": 100.5}), 60)
    assert none.startswith("**No scorer that looks at no image matches a published model** over")
    text = ladder.describe_reached(rates, MODELS, 60)
    assert text.startswith(
        "**A scorer that looks at no image matches a published model** over all 60"
    )
    assert "*random* (sees the query) gets" in text and "reaches low (1.0)" in text
    answers = rates[rates["scorer"] == "holds the target"]
    assert ", but sees the answer, matches" in ladder.describe_reached(answers, MODELS, 60)


def test_the_rest_of_the_answer_is_silent_about_models_that_the_study_does_not_have(rates, results):
    everywhere = ladder.one_sided_rates(rates, "all rows").set_index("label")["estimate"]
    best = everywhere[["random", "caption overlap"]].idxmax()
    text = ladder.describe_ladder(rates, results, None, 51.23)
    assert f"*{best}*, gets" in text and "chance is 51.2." in text and "published" not in text
    assert "Exactly one set holds the target in 20 rows" in text
    assert text.endswith(f"n = {results['holds the target'].one_sided.sum()}.")
    text = ladder.describe_ladder(rates, results, MODELS, 51.23)
    assert "matches one too and gets" in text and "of the 2 published rates below it" in text


def test_clusterings_resample_what_they_name(judged, results):
    resampled = ladder.rates_by_clustering(judged, results, seed=3)
    assert len(resampled) == 3 * 4 * 2
    row = resampled.set_index(["scorer", "rate", "clusters"]).loc[("random", "two-sided", "both")]
    both = [*cluster_labels(judged).values()]
    expected = bootstrap_ci(100 * results["random"].agrees, clusters=both, seed=3)
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    effects = ladder.design_effects(resampled)
    assert set(effects.index) == set(ladder.COMPARED) and (effects > 0).all()


def test_design_effects_are_squared_ratios_of_widths():
    drawn = {"scorer": "random", "rate": "one-sided", "low": 0.0}
    rates = [drawn | {"clusters": c, "high": h} for c, h in (("rows", 2.0), ("participants", 3.0))]
    assert ladder.design_effects(pd.DataFrame(rates)).to_dict() == {"random": 2.25}


def test_pairs_are_tested_and_the_p_value_counts_them(judged, results):
    tests = ladder.paired_tests(judged, results, seed=3)
    assert len(tests) == 6 and "participants' own" not in {*tests["scorer"], *tests["against"]}
    row = tests.set_index(["scorer", "against"]).loc[("random", "mine")]
    a, b = results["random"].agrees, results["mine"].agrees
    each = [
        paired_bootstrap(100 * a, 100 * b, clusters=labels, seed=3)
        for labels in cluster_labels(judged).values()
    ]
    wider = max(each, key=lambda interval: interval.high - interval.low)
    assert (row["difference"], row["low"], row["high"]) == (wider.estimate, wider.low, wider.high)
    assert row["discordant (%)"] == 100 * (a != b).mean()
    assert (tests["p, all pairs"] == np.minimum(1, 6 * tests["p_value"])).all()
    noise = tests["p, all pairs"] >= 0.05
    assert (tests.loc[noise, "scorer is"] == "within noise").all()


def test_the_figures_draw_every_row(judged, results, rates):
    figure, axes = plt.subplots(1, 2, sharey=True)
    resampled = ladder.rates_by_clustering(judged, results, seed=3)
    ladder.plot_clusterings(axes, resampled)
    assert "two-sided" in axes[1].get_title() and axes[0].get_ylabel()
    widths = resampled[(resampled.rate == "two-sided") & (resampled.scorer == "random")]
    drawn = {line.get_label(): line.get_ydata() for line in axes[1].get_lines()}
    assert list(drawn) == list(ladder.COMPARED)
    np.testing.assert_array_equal(drawn["random"], widths.high - widths.low)
    figure, axes = plt.subplots(1, 2)
    panels = ladder.ladder_panels(rates, implied_intervals(MODELS, 100))
    ladder.plot_ladder(axes, panels, 51.2, MODELS)
    assert axes[0].get_ylim() == axes[1].get_ylim() and axes[1].get_legend() is None
    assert len(axes[0].patches) == 1
    plt.close("all")
