"""The preference curve: against exact arithmetic, its invariances, and both limits of tau."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import _log_preference_drops, find_steepest_drops


def drawn(queries=60, n=200, seed=0, dtype=torch.float32):
    """Ranked scores of independent images, spread 0.1, and targets among the best twenty."""
    generator = torch.Generator().manual_seed(seed)
    scores = 0.1 * torch.randn(queries, n, generator=generator, dtype=dtype)
    targets = torch.randint(0, 20, (queries,), generator=generator)
    return scores.sort(dim=1, descending=True).values, targets


def pairs(scores, targets, **settings):
    found = find_steepest_drops(scores, targets, **settings)
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_a_drop_is_the_difference_of_two_probabilities():
    scores, targets = drawn(dtype=torch.float64)
    target = scores.gather(1, targets[:, None])
    worse = torch.sigmoid((scores - target) / 0.05)  # 1 - P, in no danger at these margins
    torch.testing.assert_close(
        _log_preference_drops(scores, target, 0.05).exp(), worse[:, :-1] - worse[:, 1:]
    )


@pytest.mark.parametrize("margin", [0.5, 30.0, 800.0])
def test_drops_stay_exact_where_the_probability_is_1(margin):
    # 1 - P = 1 / (1 + e^m): at m = 30 it is below double precision's step beside 1, at 800 it is 0.
    scores = torch.tensor([[0.0, -margin, -margin - 0.25]], dtype=torch.float64)
    drop = _log_preference_drops(scores, scores[:, :1], 1.0)[0, 1].item()
    if margin == 800.0:
        assert drop == pytest.approx(-margin + math.log(-math.expm1(-0.25)), rel=1e-12)
    else:
        with_exact = [Fraction(math.exp(m)) for m in (margin, margin + 0.25)]
        exact = 1 / (1 + with_exact[0]) - 1 / (1 + with_exact[1])
        assert drop == pytest.approx(math.log(exact), rel=1e-12)


def test_ties_below_the_target_are_drops_of_0_and_ties_with_it_none():
    # rank             target tie   2    tie  4    5    6
    scores = torch.tensor([[0.9, 0.9, 0.5, 0.5, 0.3, 0.2, 0.1]])
    log_drops = _log_preference_drops(scores, scores[:, :1], 0.1)[0]
    assert log_drops[2] == torch.finfo(torch.float64).min and log_drops.isfinite().all()
    # Drops below the target: 0 after rank 2, then .017, .00157, .00057 after ranks 3, 4, 5.
    assert pairs(scores, torch.tensor([0]), curve="preference", temperature=0.1) == [(2, 5)]
    assert pairs(scores, torch.tensor([1]), curve="preference", temperature=0.1) == [(2, 5)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.07, 0.5]), st.floats(-2, 2))
def test_an_offset_changes_nothing_nor_does_one_unit_for_scores_and_temperature(
    seed, temperature, offset
):
    scores, targets = drawn(8, 60, seed, torch.float64)
    expected = pairs(scores, targets, curve="preference", temperature=temperature)
    scaled = {"curve": "preference", "temperature": 8 * temperature}
    assert pairs(8 * scores, targets, **scaled) == expected
    shifted = pairs(scores + offset, targets, curve="preference", temperature=temperature)
    assert sum(a != b for a, b in zip(shifted, expected, strict=True)) <= 1  # by rounding


def test_a_large_temperature_gives_the_released_windows():
    scores, targets = drawn(400, 300, dtype=torch.float64)
    released = pairs(scores, targets)
    for temperature, least in ((1.0, 0.95), (10.0, 0.99), (1e6, 0.99)):
        found = pairs(scores, targets, curve="preference", temperature=temperature)
        same = sum(a == b for a, b in zip(found, released, strict=True)) / len(released)
        assert same >= least, temperature


def test_a_small_temperature_puts_the_largest_drop_first_and_may_leave_no_pair():
    even = torch.linspace(1, 0, 101, dtype=torch.float64)[None]  # drops fall with the rank
    at_0 = torch.tensor([0])
    found = pairs(even, at_0, curve="preference", temperature=1e-3)
    assert found == [(-1, -1)]  # the largest are neighbours, one rank apart, all the way down
    largest = pairs(even, at_0, curve="preference", temperature=1e-3, rule="largest")
    assert largest == [(1, 2)]
    assert pairs(even, at_0, curve="preference", temperature=1e-6) == [(-1, -1)]


def test_half_of_an_even_curve_s_gaps_would_tie_in_single_precision():
    even = torch.linspace(1, 0, 101)[None]
    single = torch.sigmoid((even - even[:, :1]) / 0.01).diff(dim=1)[0, 1:]
    exact = _log_preference_drops(even, even[:, :1], 0.01)[0, 1:]
    assert len(single.unique()) < 0.9 * len(single) and len(exact.unique()) == len(exact)


def test_windows_lie_near_the_target_on_scores_without_any_structure():
    scores, targets = drawn(200, 960)
    released = find_steepest_drops(scores, targets).first - targets
    near = (
        find_steepest_drops(scores, targets, curve="preference", temperature=0.02).first - targets
    )
    assert near.double().mean() < 20 < 0.5 * 960 < released.double().mean()


def test_images_left_out_bound_no_drop():
    kept = torch.tensor([[0.95, 0.90, 0.89, 0.60, 0.58, 0.57, 0.20]])
    out = torch.cat([kept, torch.full((1, 3), -torch.inf)], dim=1)
    for how in ({}, {"curve": "preference", "temperature": 0.1}, {"rule": "largest"}):
        assert pairs(out, torch.tensor([0]), **how) == pairs(kept, torch.tensor([0]), **how)


def test_the_settings_refuse_an_unknown_curve_and_a_temperature_of_0():
    assert MiningConfig().curve == "cosine" and MiningConfig(curve="preference").temperature is None
    with pytest.raises(ValueError, match="curve"):
        MiningConfig(curve="sigmoid")
    for temperature in (0.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            MiningConfig(temperature=temperature)
