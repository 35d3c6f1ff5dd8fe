"""Notebook 06: the judged rows, and intervals and sample sizes of published rates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from analysis import preference_study
from analysis.preference_study import binomial_interval, queries_to_separate
from report.tables import compare_with_published, summarise_counts


def judge(rows: str) -> pd.DataFrame:
    """One row a line: participant, reference, target, preferred, score_1, score_2, set_2."""
    frames = []
    for row in rows.strip().splitlines():
        participant, reference, target, preferred, first, second, other = row.split()
        query = {"participant": participant, "category": "shirt", "reference": reference}
        query |= {"target": target, "preferred": int(preferred)}
        query |= {"score_1": int(first), "score_2": int(second)}
        frames.append(query | {"set_1": tuple("abcde"), "set_2": tuple(other)})
    return pd.DataFrame(frames)


JUDGED = judge(
    """
    ann R T 1 5 3 fghij
    ann R T 2 5 3 fghij
    bob R U 2 2 2 edcba
    bob R T 1 1 4 abcdf
    cy  Q T 1 2 2 fghij
    """
)


def test_differences_and_contradictions_follow_the_participants_own_scores():
    assert preference_study.score_differences(JUDGED).tolist() == [2, 2, 0, -3, 0]
    assert preference_study.contradictions(JUDGED).tolist() == [False, True, False, True, False]


def test_rows_of_one_reference_and_target_are_one_query():
    labels = preference_study.cluster_labels(JUDGED)
    first, second, third, fourth, fifth = labels["queries"]
    assert first == second == fourth and len({first, third, fifth}) == 3
    assert labels["participants"].tolist() == ["ann", "ann", "bob", "bob", "cy"]
    toptee = JUDGED.assign(category=["shirt", "toptee", "shirt", "shirt", "shirt"])
    assert len(set(preference_study.cluster_labels(toptee)["queries"])) == 4


def test_the_counts_stand_beside_the_published_ones_and_the_others_are_named():
    published = pd.Series({"total_queries": 5, "participants": 4, "valid_queries": 3})
    published = published.rename("published")
    counts = preference_study.count_judged(JUDGED)
    assert counts["shirt_queries"] == 5 and counts["excluded_inconsistent"] == 2
    counts = summarise_counts(counts[["total_queries", "participants"]])
    compared = compare_with_published(counts, published, same_protocol=True)
    table = preference_study.add_uncounted(compared, published).set_index("measure")
    assert table["verdict"].to_dict() == {
        "total_queries": "reproduced",
        "participants": "differs",
        "valid_queries": "not in the file",
    }
    assert table["reproduced"].fillna(-1).tolist() == [5, 3, -1]


def test_the_facts_of_a_drawn_study():
    facts = preference_study.dependence_facts(JUDGED).set_index("fact")["count"]
    assert facts["distinct queries (reference and target)"] == 3
    assert facts["queries shown more than once"] == 1
    assert facts["rows per participant, at most"] == 2
    assert facts["rows with the same five images twice, in any order"] == 1
    assert facts["rows where the participant's own scores tie"] == 2
    assert facts["rows where choice and own scores contradict"] == 2


def test_base_rates_are_shares_of_their_rows():
    base = preference_study.base_rates(JUDGED, seed=0).set_index("rows")
    assert base["set 1 chosen"].tolist() == [3, 1, 2]
    assert base["n"].tolist() == [5, 2, 3]
    expected = [60, 50, 200 / 3]
    assert base["set 1 chosen (%)"].tolist() == pytest.approx(expected)


def test_choices_are_sorted_by_the_difference_of_the_scores():
    choices = preference_study.choices_by_score(JUDGED)
    assert choices["difference"].tolist() == [2, 0, -3]
    assert choices["label"].tolist() == ["+2  (n = 2)", "0  (n = 2)", "\u22123  (n = 1)"]
    assert choices["estimate"].tolist() == [50, 50, 100]
    wilson = binomial_interval(0.5, 2)
    assert choices[["low", "high"]].iloc[0].tolist() == [100 * wilson.low, 100 * wilson.high]


# --- published rates --------------------------------------------------------------------------


MODELS = pd.Series({"best": 75.0, "second": 74.0, "SPRC": 66.0})


def test_published_rates_get_the_interval_of_their_size():
    table = preference_study.implied_intervals(MODELS, 1000.5)
    assert table["label"].tolist() == list(MODELS.index) and set(table["n"]) == {1000}
    interval = binomial_interval(0.74, 1000.5)
    assert table["low"][1] == 100 * interval.low and table["high"][1] == 100 * interval.high
    assert table["holds the best rate"].tolist() == [True, True, False]


def test_the_best_leads_by_newcombes_interval():
    table = preference_study.implied_intervals(MODELS, 1000)
    lead = preference_study.lead_of_the_best(table)
    assert lead.estimate == pytest.approx(1) and lead.low < 0 < lead.high and lead.n == 1000
    far = preference_study.lead_of_the_best(table.drop(index=1))
    assert far.low > 0
    # both proportions from 1,000 queries, by the textbook's formula
    (l1, u1), (l2, u2) = (
        scipy.stats.binomtest(k, 1000).proportion_ci(method="wilson") for k in (750, 660)
    )
    low = 0.09 - np.sqrt((0.75 - l1) ** 2 + (u2 - 0.66) ** 2)
    high = 0.09 + np.sqrt((u1 - 0.75) ** 2 + (0.66 - l2) ** 2)
    assert (far.low, far.high) == pytest.approx((100 * low, 100 * high))


def test_queries_are_counted_for_every_other_model_and_every_discordance():
    needed = preference_study.queries_needed(MODELS).set_index("model")
    assert list(needed.index) == ["second", "SPRC"]
    assert needed["difference"].tolist() == [1, 9]
    assert needed.loc["second", "independent samples"] == queries_to_separate(0.75, 0.74)
    expected = queries_to_separate(0.75, 0.66, discordance=0.2)
    assert needed.loc["SPRC", "20 % discordant"] == expected


def test_a_smaller_difference_needs_more_queries_and_is_drawn():
    curve = preference_study.needed_by_difference(75.0)
    for _, line in curve.groupby("samples"):
        assert line["difference"].is_monotonic_increasing
        assert line["queries"].is_monotonic_decreasing and len(line) == 40
    _, ax = plt.subplots()
    needed = preference_study.queries_needed(MODELS)
    assert preference_study.plot_queries_needed(ax, curve, needed, 1000) is ax
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == list(preference_study.DISCORDANCE)
    grey = [line for line in ax.lines if line.get_color() == "0.8"]
    assert [line.get_xdata()[0] for line in grey] == [1, 9]
    assert [text.get_text() for text in ax.texts] == ["the study", "second", "SPRC"]
    plt.close("all")


# --- binomial_interval ------------------------------------------------------------------------


def test_binomial_interval_agrees_with_scipy():
    for k, n in ((0, 12), (7, 12), (1000, 1357), (50, 50)):
        ours = binomial_interval(k / n, n)
        theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_binomial_interval_mirrors_and_narrows_with_n():
    high, low = binomial_interval(0.8, 100), binomial_interval(0.2, 100)
    assert (high.low, high.high) == pytest.approx((1 - low.high, 1 - low.low))
    quarter = binomial_interval(0.5, 400)
    assert 0.5 - quarter.low == pytest.approx((0.5 - binomial_interval(0.5, 100).low) / 2, rel=0.02)


def test_published_preference_rates_have_a_half_width_above_two_points():
    interval = binomial_interval(0.7455, 3050 / 2)
    assert 100 * (interval.high - interval.low) / 2 == pytest.approx(2.2, abs=0.05)


@pytest.mark.parametrize(("rate", "n"), [(74.55, 1000), (-0.1, 10), (0.5, 0), (float("nan"), 10)])
def test_binomial_interval_refuses_bad_input(rate, n):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        binomial_interval(rate, n)


# --- queries_to_separate ----------------------------------------------------------------------


def test_that_many_queries_find_the_difference_as_often_as_promised():
    generator = np.random.default_rng(0)
    n = queries_to_separate(0.60, 0.72, power=0.8)
    a, b = generator.binomial(n, 0.60, 4000) / n, generator.binomial(n, 0.72, 4000) / n
    z = (b - a) / np.sqrt((a * (1 - a) + b * (1 - b)) / n)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_half_the_difference_needs_about_four_times_the_queries():
    far, near = queries_to_separate(0.45, 0.55), queries_to_separate(0.475, 0.525)
    assert far == queries_to_separate(0.55, 0.45)
    assert near / far == pytest.approx(4, rel=0.02)


def test_the_same_queries_find_the_difference_as_often_as_promised():
    generator = np.random.default_rng(0)
    n = queries_to_separate(0.60, 0.66, power=0.8, discordance=0.16)
    # of 100 queries: a alone is right in 5, b alone in 11, both or neither in 84
    only_a, only_b, _ = generator.multinomial(n, [0.05, 0.11, 0.84], 4000).T
    z = (only_b - only_a) / np.sqrt(only_a + only_b)  # McNemar
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_results_that_go_together_need_fewer_queries():
    needed = [queries_to_separate(0.70, 0.75, discordance=d) for d in (0.05, 0.1, 0.2, 0.3)]
    assert needed == sorted(needed)
    independent = 0.70 * 0.25 + 0.30 * 0.75
    assert queries_to_separate(0.70, 0.75) == queries_to_separate(
        0.75, 0.70, discordance=independent
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.5), "two different rates"),
        ((70, 75), "two different rates"),
        ((0.5, 0.6, 1.0), "two different rates"),
        ((0.5, 0.6, 0.8, 0.05), r"discordance 0.05 must lie in \[0.1, 0.9\]"),
        ((0.5, 0.6, 0.8, 0.95), "discordance 0.95"),
    ],
)
def test_queries_to_separate_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        queries_to_separate(*arguments)


def judgement(participant: str, set_1: str, set_2: str, preferred: int, target: str = "t") -> dict:
    """A row of one query; an image a letter."""
    query = {"category": "shirt", "reference": "r", "target": target, "participant": participant}
    return query | {"set_1": tuple(set_1), "set_2": tuple(set_2), "preferred": preferred}


@pytest.mark.parametrize(
    ("other", "disagrees"),
    [
        (judgement("bob", "abcde", "vwxyz", 2), True),
        (judgement("bob", "abcde", "vwxyz", 1), False),
        (judgement("bob", "vwxyz", "abcde", 2), False),  # the same choice, at the other side
        (judgement("bob", "vwxyz", "abcde", 1), True),
        (judgement("ann", "abcde", "vwxyz", 2), False),  # the same participant
        (judgement("bob", "abcde", "vwxyz", 2, target="u"), False),  # another query
        (judgement("bob", "fghij", "klmno", 2), False),  # sets with nothing in common
        (judgement("bob", "abklm", "vfghi", 2), True),  # left two of those chosen, chose one left
        (
            judgement("bob", "abvwx", "fghij", 1),
            True,
        ),  # chose three of those left, two of those chosen
    ],
)
def test_participants_disagree_if_their_choices_share_less_than_what_they_left(other, disagrees):
    judged = pd.DataFrame([judgement("ann", "abcde", "vwxyz", 1), other], index=[7, 3])
    found = preference_study.disagreements(judged)
    assert found.to_dict() == {7: disagrees, 3: disagrees}


def test_the_rows_of_a_query_are_those_of_its_reference_and_target():
    rows = [
        judgement(p, "abcde", "vwxyz", 1, target) for p, target in zip("abc", "tut", strict=True)
    ]
    assert preference_study.same_query(pd.DataFrame(rows), 2) == [0, 2]
