"""Notebook 09: simulated choices, pairs, positives and claims of small made-up studies."""

from dataclasses import replace
from math import erf, sqrt
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from analysis import auxiliary_positives as auxiliary
from analysis.ablations import Rows, measure_interval
from drawn_queries import draw_query_set
from grids import OPEN_QUESTIONS
from matplotlib.collections import PathCollection
from report.claims import read_claims, save_claim
from report.folder import Reports
from report.names import find_look, plain_name

from data_prep import preferences
from qure_lib.evaluation.statistics import Interval
from qure_lib.train.training_data import TrainingData

SEEDS = (2000, 2001)
# Three dresses to one shirt: categories must weigh the same.
QUERIES = [f"dress/val/{i}" for i in range(30)] + [f"shirt/val/{i}" for i in range(10)]
TARGETS = {"relevance": 0.95, "fitting": 2.0, "corpus": 960.0}


def values_of(rates, seeds=SEEDS, noise=0.0):
    """A row a (variant, seed), a column a val query: the variant's rate, with noise."""
    generator = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([list(rates), seeds], names=["variant", "seed"])
    drawn = [np.full(40, rates[v]) + noise * generator.normal(size=40) for v, _ in index]
    return pd.DataFrame(drawn, index, QUERIES)


def rows_of(recall, relevance, seeds=SEEDS):
    """Rows whose variants have these hits (%) and this relevance of the five best images."""
    hits, top5 = values_of(recall, seeds, noise=1.0), values_of(relevance, seeds, noise=0.001)
    runs = pd.DataFrame([{"variant": v, "seed": s, "settings": "0a"} for v, s in hits.index])
    runs["val_r10"] = [recall[v] for v in runs.variant]
    runs["val_ndcg10"] = runs.val_r10 / 100 + (runs.seed - 2000) / 1000
    runs["val_false_negatives10"] = runs.val_r10 / 50
    epochs = pd.concat([runs.assign(epoch=epoch) for epoch in (0, 1)])
    mined = runs[~runs.variant.isin(["uniform", "in_batch"])]
    mined = pd.concat([mined.assign(epoch=epoch) for epoch in (2, 4)], ignore_index=True)
    mined = mined.assign(corpus_size=960, target_rank_median=20.0 + mined.seed - 2000)
    near = mined.variant.str.startswith("preference")
    mined["window_start_median"] = np.where(near, 31.0, 950.0)
    mined["relevance_above"], mined["relevance_inside"] = np.where(near, 0.5, 0.4), 0.3
    manifest = {"mean_relevance": 0.35}
    return Rows(OPEN_QUESTIONS, runs, epochs, mined, hits, manifest, top5)


RECALL = {"uniform": 40, "cosine": 30, "preference": 50, "in_batch": 55}
RECALL |= {"cosine_auxiliary": 20, "preference_auxiliary": 53}
RELEVANCE = {"uniform": 0.7, "cosine": 0.6, "preference": 0.7, "in_batch": 0.7}
RELEVANCE |= {"cosine_auxiliary": 0.65, "preference_auxiliary": 0.68}


@pytest.fixture
def rows():
    return rows_of(RECALL, RELEVANCE)


@pytest.fixture
def figure():
    yield plt.figure(layout="constrained")
    plt.close("all")


# ---------------------------------------------------------------- simulated choices


def test_a_choice_is_the_normal_distribution_of_the_difference_of_two_likings():
    first, second = np.array([0.7, 0.8, 0.5, 0.62]), np.array([0.7, 0.6, 0.9, 0.61])
    found = auxiliary.choose_simulated(first, second)
    for one, other, share in zip(first, second, found, strict=True):
        sigmas = 7 * (one - other) / (0.85 * sqrt(2))
        assert share == pytest.approx(50 * (1 + erf(sigmas / sqrt(2))))
    assert found[0] == 50 and found[1] > 50 > found[2]
    np.testing.assert_allclose(found + auxiliary.choose_simulated(second, first), 100)


def test_the_annotators_of_the_drawn_data_choose_as_often():
    # the better set is shown first as often as second, so the bias to the first cancels
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(40)]
    predicted, observed = [], []
    for _ in range(6000):
        relevance = rng.random(40) ** 2
        (one, two), preferred = preferences._judge("none", ids, relevance, 0.0, rng)
        places = {preferences._path(i): number for number, i in enumerate(ids)}
        means = [relevance[[places[p] for p in s["img_path"]]].mean() for s in (one, two)]
        better = int(means[1] > means[0])
        predicted.append(auxiliary.choose_simulated(means[better], means[1 - better]))
        observed.append(100 * (preferred == str(better + 1)))
    predicted, observed = np.array(predicted), np.array(observed)
    for group in np.array_split(predicted.argsort(), 3):  # near ties to clear differences
        assert observed[group].mean() == pytest.approx(predicted[group].mean(), abs=2.5)
    assert predicted.max() - predicted.min() > 10


def test_choices_are_those_of_the_seeds_that_both_have_query_by_query():
    more = values_of({"cosine_auxiliary": 0.9, "cosine": 0.1}, [2002])
    top5 = values_of({"cosine_auxiliary": 0.7, "cosine": 0.6}, noise=0.1)
    expected = pd.DataFrame(
        {
            query: [
                auxiliary.choose_simulated(top5.loc[("cosine_auxiliary", s), query], other).item()
                for s in SEEDS
                for other in [top5.loc[("cosine", s), query]]
            ]
            for query in QUERIES
        }
    )
    top5 = pd.concat([more.loc[["cosine_auxiliary"]], top5])  # a third seed of one of them
    found = auxiliary.simulate_choices(top5, "cosine_auxiliary", "cosine")
    assert found.index.tolist() == [("cosine_auxiliary", s) for s in SEEDS]
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy())
    other_way = auxiliary.simulate_choices(top5, "cosine", "cosine_auxiliary")
    np.testing.assert_allclose(found.to_numpy() + other_way.to_numpy(), 100)
    assert (auxiliary.simulate_choices(top5, "cosine", "cosine") == 50).all(axis=None)


# ---------------------------------------------------------------- pairs and verdicts


def test_a_pair_is_a_curve_of_the_grid_with_and_without_auxiliary_positives():
    for variant, less in auxiliary.PAIRS.items():
        config, without = (OPEN_QUESTIONS.config(name, 2000) for name in (variant, less))
        assert config == replace(without, auxiliary_positives=True)
        (question,) = [q for q, known in OPEN_QUESTIONS.questions.items() if variant in known]
        assert OPEN_QUESTIONS.baseline(question) == less
        assert find_look(variant) and find_look(less)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 2, "helps"), (-2, -0.1, "harms"), (-1, 1, "within noise"), (0, 1, "within noise")],
)
def test_auxiliary_positives_help_or_harm_only_if_the_interval_leaves_out_zero(low, high, verdict):
    assert auxiliary.judge_auxiliary(Interval((low + high) / 2, low, high, 80, 2)) == verdict
    preferred = {"helps": "with", "harms": "without"}.get(verdict, "neither")
    shifted = Interval(50 + (low + high) / 2, 50 + low, 50 + high, 80, 2)
    assert auxiliary.judge_choices(shifted) == preferred


def test_pairs_are_compared_in_every_world_where_both_are_trained(rows):
    half = {name: RECALL[name] for name in ("cosine", "preference", "preference_auxiliary")}
    other = rows_of(half, {name: RELEVANCE[name] for name in half}, SEEDS[:1])
    none = rows_of({"cosine": 30, "preference": 50}, {"cosine": 0.6, "preference": 0.7})
    frame = auxiliary.compare_pairs({"a": rows, "b": other, "c": none})
    assert frame.world.tolist() == ["a", "a", "b"]
    assert frame.label.tolist() == [*auxiliary.PAIRS, "preference_auxiliary"]
    assert frame.less.tolist() == ["cosine", "preference", "preference"]
    assert frame.seeds.tolist() == [2, 2, 1]
    assert frame.recall.tolist() == pytest.approx([-10, 3, 3], abs=0.8)
    assert frame.verdict.tolist() == ["harms", "helps", "helps"]
    shares = [50 * (1 + erf(7 * apart / 0.85 / 2)) for apart in (0.05, -0.02, -0.02)]
    assert frame.chosen.tolist() == pytest.approx(shares, abs=0.3)
    assert frame.preferred.tolist() == ["with", "without", "without"]
    assert frame.val_ndcg10[0] == "-0.100 (-0.100, -0.100)"
    assert frame.val_ndcg10[2] == "+0.030 (one seed)"
    assert frame.val_false_negatives10[2] == "+0.060 (one seed)"


def test_intervals_are_those_of_the_study_over_seeds_and_queries(rows):
    pair = auxiliary.compare_pairs({"a": rows}).iloc[0]
    expected = measure_interval(rows.hits, "cosine_auxiliary", less="cosine")
    assert (pair.recall_low, pair.recall_high) == (expected.low, expected.high)
    choices = auxiliary.simulate_choices(rows.top5, "cosine_auxiliary", "cosine")
    dresses, shirts = choices.iloc[:, :30].mean(axis=None), choices.iloc[:, 30:].mean(axis=None)
    assert pair.chosen == pytest.approx((dresses + shirts) / 2)
    assert pair.chosen_low < pair.chosen < pair.chosen_high


def test_a_pair_without_a_seed_in_common_is_left_out(rows):
    runs = rows.runs[(rows.runs.variant != "cosine_auxiliary") | (rows.runs.seed == 2001)]
    runs = runs[(runs.variant != "cosine") | (runs.seed == 2000)]
    assert auxiliary.trained_pairs(replace(rows, runs=runs)) == {
        "preference_auxiliary": "preference"
    }


def test_the_answer_has_a_sentence_a_pair_and_names_opposite_directions(rows):
    frame = auxiliary.compare_pairs({"here": rows, "there": rows})
    _, cosine, preference, opposed = auxiliary.state_answer(frame, "here")
    assert cosine.startswith(f"{plain_name('cosine')}: harms, Recall@10 by -")
    assert preference.startswith(f"{plain_name('preference')}: helps, Recall@10 by ")
    assert "simulated preference" in cosine
    both = f"{plain_name('cosine')} and {plain_name('preference')}."
    assert opposed.endswith(both)
    agreed = frame.assign(preferred=["without", "neither"] * 2)
    assert auxiliary.state_answer(agreed, "here")[-1].endswith(": nowhere.")


def test_the_answer_names_another_world_only_where_its_verdict_differs(rows):
    pairs = auxiliary.compare_pairs({"synthfashion-mini": rows})
    same = pairs.assign(world="synthfashion-b")
    other = pairs.assign(world="synthfashion-c", seeds=1, verdict=["helps", "helps"])
    lines = auxiliary.state_answer(pd.concat([pairs, same, other]), "synthfashion-mini")
    assert lines[:-1] == auxiliary.state_answer(pairs, "synthfashion-mini")
    expected = f"Not so in world c (one seed): {plain_name('cosine')}: helps, Recall@10 by -"
    assert lines[-1].startswith(expected)


def test_nothing_trained_yet_is_said_and_does_not_fail(rows):
    few = {"cosine": 30, "preference": 50, "uniform": 40}
    few = rows_of(few, {name: RELEVANCE[name] for name in few})
    frame = auxiliary.compare_pairs({"here": few})
    assert len(frame) == 0 and len(auxiliary.tabulate_pairs(frame)) == 0
    (line,) = auxiliary.state_answer(frame, "here")
    assert line.startswith("here: no run")
    elsewhere = auxiliary.compare_pairs({"there": rows})
    assert auxiliary.state_answer(elsewhere, "here") == [line]
    assert auxiliary.state_claims(few, "here", "") == {}
    assert len(auxiliary.state_positives(few, TARGETS)) == 1
    assert auxiliary.summarise_variants(few).variant.tolist() == ["uniform", "cosine", "preference"]


def test_the_caveat_counts_the_seeds_and_says_where_targets_rank(rows):
    text = auxiliary.state_caveat(rows)
    assert "2 seeds" in text and f"{100 * 20.5 / 960:.1f} %" in text and "simulated" in text


# ---------------------------------------------------------------- tables


def test_a_table_of_pairs_has_seven_columns_and_short_names(rows):
    frame = auxiliary.compare_pairs({"synthfashion-mini": rows})
    table = auxiliary.tabulate_pairs(frame)
    assert table.shape == (2, 7) and table.world.tolist() == ["mini", "mini"]
    assert table.variant.tolist() == [*auxiliary.PAIRS]
    pair = frame.iloc[0]
    text = f"{pair.recall:.1f} [{pair.recall_low:.1f}, {pair.recall_high:.1f}]"
    assert table["Recall@10 (points)"][0] == text


def test_runs_weigh_categories_alike_and_keep_the_order_asked(rows):
    top5 = rows.top5.copy()
    top5.iloc[:, 30:] = 0.0  # all shirts
    found = auxiliary.measure_runs(replace(rows, top5=top5), ["preference", "absent", "cosine"])
    assert found.label.tolist() == ["preference"] * 2 + ["cosine"] * 2
    assert found.seed.tolist() == [*SEEDS, *SEEDS]
    assert found.relevance5.tolist() == pytest.approx([0.35, 0.35, 0.3, 0.3], abs=1e-3)
    assert found.val_r10.tolist() == [50, 50, 30, 30]


def test_variants_are_summarised_over_their_seeds_beside_the_rule_as_released(rows):
    table = auxiliary.summarise_variants(rows).set_index("variant")
    assert table.index.tolist() == list(auxiliary.SHOWN) and (table.seeds == 2).all()
    assert table["Recall@10 (%)"].to_dict() == RECALL
    assert table["nDCG@10"]["cosine"] == pytest.approx(0.3005)
    chosen = table["Chosen over released (%)"]
    assert chosen["cosine"] == pytest.approx(50) and chosen["cosine_auxiliary"] > 60
    expected = 50 * (1 + erf(7 * 0.1 / 0.85 / 2))
    assert chosen["uniform"] == pytest.approx(expected, abs=0.3)


# ---------------------------------------------------------------- the positives


def test_auxiliary_positives_lie_between_the_target_and_the_window(rows):
    found = auxiliary.describe_positives(rows).set_index(["variant", "seed", "epoch"]).auxiliary
    # ranks 21 to 949 of seed 2000, 22 to 949 of seed 2001; 21 to 30 and 22 to 30
    assert found["cosine_auxiliary"].tolist() == [929, 928] * 2
    assert found["preference"].tolist() == [10, 9] * 2
    assert set(found.index.get_level_values("variant")) == {
        *auxiliary.PAIRS,
        "cosine",
        "preference",
    }


def test_targets_are_described_as_a_plain_loop_counts_them(tmp_path):
    train = {name: draw_query_set(tmp_path, name, size) for name, size in (("a", 20), ("b", 40))}
    generator = torch.Generator().manual_seed(0)
    graded = {  # eighths, so that images tie with the target
        name: torch.randint(9, (len(known), len(known.corpus)), generator=generator) / 8
        for name, known in train.items()
    }
    data = TrainingData(train, {}, graded)
    relevance, fitting, sizes = [], [], []
    for category, queries in data.train.items():
        graded, own = data.relevance[category].tolist(), []
        for row, triplet in zip(graded, queries.triplets, strict=True):
            target = queries.corpus.image_ids.index(triplet.target)
            others = [value for place, value in enumerate(row) if place != target]
            own.append((row[target], sum(value >= row[target] for value in others)))
        relevance.append(np.mean([value for value, _ in own]))
        fitting.append(np.mean([count for _, count in own]))
        sizes.append(len(queries.corpus))
    found = auxiliary.describe_targets(data)
    assert found["relevance"] == pytest.approx(np.mean(relevance))
    assert found["fitting"] == pytest.approx(np.mean(fitting))
    assert found["corpus"] == np.mean(sizes)


def test_categories_weigh_the_same_among_targets():
    def category(graded, targets):
        known = SimpleNamespace(
            target_positions=torch.tensor(targets), corpus=range(len(graded[0]))
        )
        return known, torch.tensor(graded)

    one = category([[1.0, 1.0, 0.5]], [0])  # one image fits as well
    two = category([[0.5, 0.25, 0.0]] * 3, [0] * 3)  # none does
    data = SimpleNamespace(train={"a": one[0], "b": two[0]}, relevance={"a": one[1], "b": two[1]})
    assert auxiliary.describe_targets(data) == {"relevance": 0.75, "fitting": 0.5, "corpus": 3}


def test_positives_are_stated_beside_what_they_could_be(rows):
    best, cosine, preference = auxiliary.state_positives(rows, TARGETS)
    assert "2.0 images that fit as well, of 960" in best and "targets 0.95, corpus 0.35" in best
    assert "about 928 images" in cosine and "relevance 0.40; hard negatives 0.30" in cosine
    assert "about 10 images" in preference and "relevance 0.50;" in preference


# ---------------------------------------------------------------- figures


def test_pairs_are_drawn_by_world_against_no_difference(figure, rows):
    figure.subplots(1, 2, sharey=True)
    one = rows_of(RECALL, RELEVANCE, SEEDS[:1])
    frame = auxiliary.compare_pairs({"synthfashion-mini": rows, "synthfashion-scales-11": one})
    auxiliary.plot_pairs(figure, frame)
    left, right = figure.axes
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["no difference", "mini", "scales-11 (one seed)"]
    lines = [list(ax.get_lines()[0].get_xdata()) for ax in (left, right)]
    assert lines == [[0, 0], [50, 50]]
    for ax, column in ((left, "recall"), (right, "chosen")):
        marks = [c.get_offsets()[0][0] for c in ax.collections if isinstance(c, PathCollection)]
        assert sorted(marks) == pytest.approx(sorted(frame[column]))
        assert ax.get_xlabel() and ax.get_legend() is None
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names == [plain_name(label) for label in frame.label]


def test_an_arrow_leads_from_each_run_to_that_of_its_seed_with_auxiliary_positives(figure, rows):
    figure.subplots(1, 3)
    runs = auxiliary.measure_runs(rows)
    auxiliary.plot_trade_off(figure, runs[(runs.label != "preference") | (runs.seed == 2000)])
    for ax, measure in zip(figure.axes, [*auxiliary.MEASURES][1:], strict=True):
        arrows = [(tuple(text.xyann), tuple(text.xy)) for text in ax.texts]
        found = runs.set_index(["label", "seed"])[["val_r10", measure]]
        pairs = [("cosine", s) for s in SEEDS] + [("preference", 2000)]
        expected = [
            tuple(tuple(found.loc[(name, seed)]) for name in (less, f"{less}_auxiliary"))
            for less, seed in pairs
        ]
        assert arrows == expected
        assert ax.get_ylabel() == auxiliary.MEASURES[measure]
        assert len(ax.get_lines()) == len(auxiliary.SHOWN)


def test_positives_are_drawn_beside_target_and_corpus(figure, rows):
    figure.subplots(1, 3)
    drawn = auxiliary.plot_positives(figure, rows, TARGETS)
    count, above, inside = figure.axes
    variants = ["cosine", "cosine_auxiliary", "preference", "preference_auxiliary"]
    bands = [list(line.get_ydata()) for line in count.get_lines()]
    assert bands == [[928.5] * 2] * 2 + [[9.5] * 2] * 2 + [[2.0, 2.0]]
    for ax, levels in ((above, [0.4, 0.4, 0.5, 0.5]), (inside, [0.3] * 4)):
        values = [line.get_ydata()[0] for line in ax.get_lines()]
        assert values == pytest.approx([*levels, TARGETS["relevance"], 0.35])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*map(plain_name, variants), "as good as the target", "corpus mean"]
    assert drawn.groupby("panel").size().to_dict() == dict.fromkeys(auxiliary.POSITIVES, 8)
    assert all(ax.get_ylabel() and ax.get_xlabel() for ax in figure.axes)


# ---------------------------------------------------------------- claims


def test_every_claim_of_notebook_09_can_be_judged_and_is_saved(rows, tmp_path):
    measured = auxiliary.state_claims(rows, "synthfashion-mini", "Drawn.")
    known = {n for n, c in read_claims().items() if c["notebook"] == "09_auxiliary_positives"}
    assert {claim.name for claim in measured} == known
    reports = Reports(tmp_path, "09_auxiliary_positives")
    verdicts = {c.name: save_claim(c, found, reports) for c, found in measured.items()}
    assert verdicts == {
        "auxiliary_cosine": "contradicted on drawn data",
        "auxiliary_preference": "supported on drawn data",
        "auxiliary_simulated": "contradicted on drawn data",
    }
    assert all(claim.seeds == 2 and claim.caveat == "Drawn." for claim in measured)
    assert {found.n for found in measured.values()} == {2 * len(QUERIES)}


def test_the_simulated_claim_is_measured_from_one_half(rows):
    claims = {c.name: found for c, found in auxiliary.state_claims(rows, "w", "").items()}
    pair = auxiliary.compare_pairs({"w": rows}).set_index("label").loc["preference_auxiliary"]
    found = claims["auxiliary_simulated"]
    ends = (found.estimate, found.low, found.high)
    expected = (pair.chosen - 50, pair.chosen_low - 50, pair.chosen_high - 50)
    assert ends == pytest.approx(expected)


def test_claims_of_variants_that_are_not_trained_are_left_out(rows):
    runs = rows.runs[rows.runs.variant != "preference_auxiliary"]
    (claim,) = auxiliary.state_claims(replace(rows, runs=runs), "w", "")
    assert claim.name == "auxiliary_cosine"
