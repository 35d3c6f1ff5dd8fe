import numpy as np
import pytest
import scipy.stats
import torch

from qure_lib.evaluation.statistics import bootstrap_ci, holm, paired_bootstrap


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# --- bootstrap_ci -----------------------------------------------------------------------------


def test_interval_of_a_drawn_case():
    interval = bootstrap_ci([1, 1, 0, 1], clusters=["ann", "ann", "bob", "cy"])
    assert interval.estimate == 0.75
    assert (interval.n, interval.n_clusters) == (4, 3)
    assert 0 <= interval.low < 0.75 < interval.high <= 1


def test_queries_without_weight_do_not_count():
    interval = bootstrap_ci([1, 0, 5, 5], weights=[1, 1, 0, 0])
    assert interval.estimate == 0.5
    assert (interval.n, interval.n_clusters) == (2, 2)
    assert interval.high <= 1


def test_plain_interval_agrees_with_scipy(generator):
    values = generator.exponential(size=200)
    ours = bootstrap_ci(values, n_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], theirs, rtol=0.01)


def test_rate_among_those_that_count_agrees_with_scipy(generator):
    values, weights = generator.integers(0, 2, size=(2, 300))
    ours = bootstrap_ci(values, weights, n_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values, weights),
        lambda v, w: (v * w).sum() / w.sum(),
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.01)


def test_one_way_clusters_agree_with_resampling_them_one_by_one(generator):
    values, labels = generator.normal(size=120), generator.integers(0, 15, size=120)
    groups = [values[labels == label] for label in np.unique(labels)]
    slow = [
        np.concatenate(
            [groups[i] for i in generator.integers(len(groups), size=len(groups))]
        ).mean()
        for _ in range(8000)
    ]
    ours = bootstrap_ci(values, clusters=labels, n_resamples=8000)
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(slow, [0.025, 0.975]), atol=0.02)


def test_two_way_clusters_agree_with_the_pigeonhole_written_out(generator):
    values = generator.normal(size=60)
    rows, columns = generator.integers(0, 6, size=60), generator.integers(0, 9, size=60)
    slow = []
    for _ in range(8000):
        row_draws = np.bincount(generator.integers(6, size=6), minlength=6)
        column_draws = np.bincount(generator.integers(9, size=9), minlength=9)
        times = [row_draws[r] * column_draws[c] for r, c in zip(rows, columns, strict=True)]
        slow.append(np.average(values, weights=times))
    ours = bootstrap_ci(values, clusters=[rows, columns], n_resamples=8000)
    assert ours.n_clusters == 6
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(slow, [0.025, 0.975]), atol=0.04)


def test_clusters_of_one_are_the_plain_bootstrap(generator):
    values = generator.normal(size=50)
    assert bootstrap_ci(values) == bootstrap_ci(values, clusters=np.arange(50))


def test_copies_in_a_cluster_add_no_information(generator):
    values = generator.normal(size=50)
    once = bootstrap_ci(values)
    copied = bootstrap_ci(np.repeat(values, 4), clusters=np.repeat(np.arange(50), 4))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert copied.n == 200 and copied.n_clusters == 50


def test_interval_moves_with_the_values_and_not_with_the_weights_scale(generator):
    values, weights = generator.normal(size=80), generator.random(80)
    plain = bootstrap_ci(values, weights)
    moved = bootstrap_ci(2 * values + 3, 10 * weights)
    expected = [2 * edge + 3 for edge in (plain.estimate, plain.low, plain.high)]
    assert [moved.estimate, moved.low, moved.high] == pytest.approx(expected)


def test_same_seed_same_interval_and_another_seed_another(generator):
    values = generator.normal(size=40)
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(torch.tensor(values), seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        shared = generator.normal(size=40)  # queries of one cluster share a part
        labels = np.repeat(np.arange(40), 5)
        interval = bootstrap_ci(
            shared[labels] + generator.normal(size=200),
            clusters=labels,
            n_resamples=400,
            seed=trial,
        )
        hits += interval.low <= 0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([], {}, "no query counts"),
        ([1, np.nan], {}, "finite"),
        ([1, 2], {"weights": [1]}, "must both be"),
        ([1, 2], {"weights": [0, 0]}, "no query counts"),
        ([1, 2], {"weights": [2, -1]}, "no query counts"),
        ([1, np.inf], {}, "finite"),
        ([1, 2], {"clusters": ["a", "b", "c"]}, "one label for each"),
        ([1, 2], {"clusters": [[0, 1]] * 3}, "one or two label arrays"),
    ],
)
def test_bootstrap_refuses_bad_input(values, arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_ci(values, **arguments)


@pytest.mark.parametrize(
    ("values", "arguments", "estimate", "n"),
    [
        ([1], {}, 1, 1),
        ([1, 2], {"clusters": ["a", "a"]}, 1.5, 2),
        ([1, 5], {"weights": [1, 0]}, 1, 1),
        ([1, 0, 5], {"weights": [1, 1, 0], "clusters": ["a", "a", "b"]}, 0.5, 2),
        ([1, 0], {"clusters": [["a", "b"], ["x", "x"]]}, 0.5, 2),  # of two kinds, the scarcer
    ],
)
def test_a_single_cluster_gives_an_estimate_without_an_interval(values, arguments, estimate, n):
    found = bootstrap_ci(values, **arguments)
    assert (found.estimate, found.n, found.n_clusters) == (estimate, n, 1)
    assert np.isnan([found.low, found.high]).all()


# --- paired_bootstrap -------------------------------------------------------------------------


def test_pairing_cancels_what_the_queries_share():
    generator = np.random.default_rng(0)
    difficulty = 10 * generator.normal(size=100)
    better = difficulty + 0.5 + 0.1 * generator.normal(size=100)
    paired = paired_bootstrap(better, difficulty)
    assert paired.estimate == pytest.approx(0.5, abs=0.05)
    assert 0.4 < paired.low < paired.high < 0.6
    assert paired.p_value < 0.01


def test_paired_means_are_the_bootstrap_of_the_differences(generator):
    a, b, labels = generator.normal(size=90), generator.normal(size=90), np.arange(90) // 3
    paired, single = paired_bootstrap(a, b, clusters=labels), bootstrap_ci(a - b, clusters=labels)
    assert (paired.low, paired.high) == pytest.approx((single.low, single.high))
    assert paired.n_clusters == single.n_clusters == 30


def test_paired_difference_with_weights_of_each_agrees_with_a_plain_loop(generator):
    a, b = generator.integers(0, 2, size=(2, 200)).astype(float)
    counts_a, counts_b = generator.integers(0, 2, size=(2, 200))
    slow = []
    for _ in range(4000):
        drawn = generator.integers(200, size=200)
        rate_a = a[drawn][counts_a[drawn] == 1].mean()
        slow.append(rate_a - b[drawn][counts_b[drawn] == 1].mean())
    ours = paired_bootstrap(a, b, weights=(counts_a, counts_b))
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(slow, [0.025, 0.975]), atol=0.015)


def test_swapping_the_methods_turns_the_sign(generator):
    a, b = generator.normal(size=(2, 60))
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (back.estimate, back.low, back.high) == pytest.approx(
        (-forth.estimate, -forth.high, -forth.low)
    )
    assert back.p_value == forth.p_value


def test_a_method_does_not_differ_from_itself(generator):
    values = generator.normal(size=30)
    paired = paired_bootstrap(values, values)
    assert (paired.estimate, paired.low, paired.high, paired.p_value) == (0, 0, 0, 1)


def test_p_values_are_uniform_when_nothing_differs():
    generator = np.random.default_rng(2)
    p_values = [
        paired_bootstrap(*generator.normal(size=(2, 80)), seed=trial).p_value
        for trial in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10


def test_paired_test_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="same queries"):
        paired_bootstrap([1, 2], [1, 2, 3])


@pytest.mark.parametrize("weights", [([1, 1, 0], [1, 1, 1]), ([1, 1, 1], [0, 0, 1])])
def test_a_difference_of_a_mean_that_rests_on_one_cluster_has_no_interval(weights):
    a, b, clusters = [1, 0, 1], [0, 0, 1], ["a", "a", "b"]
    found = paired_bootstrap(a, b, weights, clusters)
    assert found.estimate == np.average(a, weights=weights[0]) - np.average(b, weights=weights[1])
    assert np.isnan([found.low, found.high, found.p_value]).all() and found.n_clusters == 1


def test_one_query_has_a_difference_and_no_p_value():
    found = paired_bootstrap([3.0], [1.0])
    assert (found.estimate, found.n, found.n_clusters) == (2, 1, 1)
    assert np.isnan([found.low, found.high, found.p_value]).all()


# --- holm -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # x 4, x 3, x 2, x 1
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),  # in the order given
        ([0.02, 0.02, 0.5], [0.06, 0.06, 0.5]),  # equal ones stay equal
        ([0.4, 0.9, 0.3], [0.9, 0.9, 0.9]),  # 0.3 x 3 is above 0.4 x 2
        ([0.6, 0.7], [1.0, 1.0]),  # 1.2, at most 1
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.04, np.nan, 0.01], [0.04, np.nan, 0.02]),  # a test that could not be made
        ([np.nan], [np.nan]),
    ],
)
def test_holm_on_cases_worked_by_hand(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected, abs=1e-12, nan_ok=True)


def test_holm_rejects_what_the_step_down_procedure_rejects(generator):
    for _ in range(200):
        p_values = generator.beta(0.3, 2, size=5)
        rejected = set()
        for step, place in enumerate(np.argsort(p_values)):  # stops at the first that is kept
            if p_values[place] > 0.05 / (5 - step):
                break
            rejected.add(int(place))
        assert {place for place, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


def test_holm_does_not_depend_on_the_order_and_lowers_nothing(generator):
    p_values = generator.random(7) / 4
    order = generator.permutation(7)
    corrected = np.array(holm(p_values))
    assert holm(p_values[order]) == corrected[order].tolist()
    assert (corrected >= p_values).all() and corrected.max() <= 1
    assert (np.diff(corrected[np.argsort(p_values)]) >= 0).all()
