"""Settings: the published schedule, and what is refused before any training."""

import math
from itertools import product

import numpy as np
import pytest

from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES, Objective
from qure_lib.train.loop import set_seed


@pytest.mark.parametrize(
    "setting",
    [{"drop_rule": "steepest"}, {"search_window": 0}, {"top_k": 0}, {"consecutive_threshold": -1}],
)
def test_a_bad_setting_is_refused_before_any_training(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MiningConfig(**setting)


def test_definitions_follow_the_published_schedule():
    assert TrainConfig(epochs=30).definition_epochs == (5, 10, 15, 20, 25)
    assert TrainConfig(epochs=50).definition_epochs == (8, 16, 24, 32, 40, 48)
    assert TrainConfig(epochs=6, n_def=6).definition_epochs == (1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="take n_def from 2"):
        TrainConfig(epochs=6, n_def=1)
    uniform = MiningConfig("all_corpus")
    assert TrainConfig(epochs=6, n_def=1, mining=uniform).definition_epochs == ()
    with pytest.raises(ValueError, match="n_def"):
        TrainConfig(epochs=5, n_def=6)
    assert TrainConfig(epochs=6, n_def=3, warm_up=False).definition_epochs == (0, 2, 4)
    with pytest.raises(ValueError, match="set_size"):
        MiningConfig(set_size=0)


def test_sets_shrink_or_grow_by_rule_between_two_sizes():
    config = TrainConfig(epochs=30, set_sizes=(100, 10))
    sizes = [config.mining_at(epoch).set_size for epoch in config.definition_epochs]
    assert sizes == [100, 56, 32, 18, 10]
    grows = TrainConfig(epochs=30, set_sizes=(10, 100))
    assert [grows.mining_at(e).set_size for e in grows.definition_epochs] == sizes[::-1]
    assert TrainConfig().mining_at(5) == MiningConfig()
    assert TrainConfig(n_def=2, set_sizes=(7, 1)).mining_at(15).set_size == 7
    for sizes in ((0, 10), (100, 0), (-1, 5), (10, 0.5), (math.nan, 5), ("9", 5)):
        with pytest.raises(ValueError, match="set_sizes must be a whole number, at least 1, not"):
            TrainConfig(set_sizes=sizes)
    for sizes in ((), (5,), (9, 5, 1)):
        with pytest.raises(ValueError, match="set_sizes must be two numbers"):
            TrainConfig(set_sizes=sizes)


@pytest.mark.parametrize(
    "setting",
    [{"mining": MiningConfig("top_k")}, {"objective": "info_nce"}, {"n_def": 1, "epochs": 3}],
)
def test_auxiliary_positives_need_two_drops(setting):
    with pytest.raises(ValueError, match="auxiliary_positives|take n_def"):
        TrainConfig(auxiliary_positives=True, **setting)
    assert TrainConfig(auxiliary_positives=True, negatives=3).auxiliary_positives


CONTRAST = [
    {"objective": "info_nce"},
    {"warm_up_objective": "info_nce"},
    {"objective": "info_nce", "warm_up_objective": "bradley_terry"},
    {"objective": "info_nce", "warm_up": False},
    {"objective": "info_nce", "mining": MiningConfig("all_corpus"), "n_def": 1},
]


@pytest.mark.parametrize("setting", CONTRAST)
def test_contrast_within_batches_of_one_is_refused(setting):
    with pytest.raises(ValueError, match="info_nce contrasts .* batch_size is 1"):
        TrainConfig(batch_size=1, **setting)
    assert TrainConfig(batch_size=2, **setting).batch_size == 2


@pytest.mark.parametrize("setting", ["objective", "warm_up_objective"])
def test_an_objective_of_ones_own_that_needs_no_negatives_is_refused_likewise(monkeypatch, setting):
    monkeypatch.setitem(OBJECTIVES, "mine", Objective(lambda *embedded: 0, needs_negatives=False))
    with pytest.raises(ValueError, match="mine contrasts"):
        TrainConfig(batch_size=1, **{setting: "mine"})
    monkeypatch.setitem(OBJECTIVES, "mine", Objective(lambda *embedded: 0))
    assert TrainConfig(batch_size=1, **{setting: "mine"}).objective_at(0) == "mine"


def test_a_warm_up_objective_that_no_definition_ends_is_refused():
    uniform = MiningConfig("all_corpus")
    with pytest.raises(ValueError, match="take n_def from 2"):
        TrainConfig(epochs=6, n_def=1, mining=uniform, warm_up_objective="info_nce")
    config = TrainConfig(epochs=6, n_def=2, mining=uniform, warm_up_objective="info_nce")
    objectives = [config.objective_at(epoch) for epoch in range(6)]
    assert objectives == ["info_nce"] * 3 + ["bradley_terry"] * 3


COUNTS = ["epochs", "batch_size", "n_def", "negatives", "memory"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, math.nan, 2.5, "2"])
def test_a_count_that_is_none_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1, not"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("name", ["top_k", "set_size", "search_window"])
def test_so_is_one_of_mining(name):
    for value in (0, 2.5, "2"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1, not"):
            MiningConfig(**{name: value})
    assert getattr(MiningConfig(**{name: np.int64(3)}), name) == 3


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("learning_rate", [0, -1e-5, math.nan, math.inf], [1e-9, 0.5]),
        ("min_learning_rate_ratio", [-0.1, 1.1, math.nan], [0, 1]),
        ("weight_decay", [-0.1, math.nan, math.inf], [0, 0.3]),
        ("seed", [2**40 + 1, -(2**41), 1.5], [0, -1, 2**40, np.int64(7)]),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(name, wrong, right):
    for value in wrong:
        with pytest.raises(ValueError, match=f"{name} must be a (whole )?number, at least "):
            TrainConfig(**{name: value})
    for value in right:
        assert getattr(TrainConfig(**{name: value}), name) == value


def test_the_largest_seed_fits_torchs_64_bits():
    for seed in (2**40, -(2**40)):
        set_seed(TrainConfig(seed=seed).seed * 1_000_003 + 10**6, rank=7)


@pytest.mark.parametrize("setting", [{"epochs": 1}, {"epochs": 1, "n_def": 1}])
def test_one_message_says_what_works_for_one_epoch(setting):
    with pytest.raises(ValueError) as error:
        TrainConfig(**setting)
    for remedy in ("n_def from 2 to epochs, --epochs 2 or more", "--no-warm-up", "all_corpus"):
        assert remedy in str(error.value)
    assert TrainConfig(epochs=2, n_def=2).definition_epochs == (1,)
    assert TrainConfig(epochs=1, n_def=1, warm_up=False).definition_epochs == (0,)
    uniform = MiningConfig("all_corpus")
    assert TrainConfig(epochs=1, n_def=1, mining=uniform).definition_epochs == ()


@pytest.mark.parametrize("strategy", ["between_drops", "all_corpus"])
def test_a_schedule_is_taken_where_what_is_asked_for_can_happen(strategy):
    mining = MiningConfig(strategy)
    for epochs, n_def, warm_up in product(range(1, 8), range(1, 9), (True, False)):
        every = epochs // n_def  # the published rule, written out
        first = every if warm_up else 0
        possible = every and (strategy == "all_corpus" or first < epochs)
        settings = {"epochs": epochs, "n_def": n_def, "warm_up": warm_up, "mining": mining}
        if possible:
            expected = tuple(e for e in range(first, epochs) if e % every == 0)
            assert TrainConfig(**settings).definition_epochs == expected
        else:
            with pytest.raises(ValueError, match=f"n_def is {n_def} and epochs {epochs}, but"):
                TrainConfig(**settings)


@pytest.mark.parametrize("setting", ["objective", "warm_up_objective"])
def test_an_unknown_objective_is_refused(setting):
    with pytest.raises(ValueError, match="objective must be one of .*'hinge'"):
        TrainConfig(**{setting: "hinge"})
