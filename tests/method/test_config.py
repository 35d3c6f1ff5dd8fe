"""Settings: the published schedule, and what is refused before any training."""

import pytest

from qure_lib.method.config import MiningConfig, TrainConfig
from qure_lib.method.losses import OBJECTIVES, Objective


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
    with pytest.raises(ValueError, match="never define"):
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
    for sizes in ((0, 10), (100, 0)):
        with pytest.raises(ValueError, match="set_sizes must be at least 1"):
            TrainConfig(set_sizes=sizes)


@pytest.mark.parametrize(
    "setting",
    [{"mining": MiningConfig("top_k")}, {"objective": "info_nce"}, {"n_def": 1, "epochs": 3}],
)
def test_auxiliary_positives_need_two_drops(setting):
    with pytest.raises(ValueError, match="auxiliary_positives|never define"):
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
    with pytest.raises(ValueError, match="never define"):
        TrainConfig(epochs=6, n_def=1, mining=uniform, warm_up_objective="info_nce")
    config = TrainConfig(epochs=6, n_def=2, mining=uniform, warm_up_objective="info_nce")
    objectives = [config.objective_at(epoch) for epoch in range(6)]
    assert objectives == ["info_nce"] * 3 + ["bradley_terry"] * 3


@pytest.mark.parametrize("name", ["epochs", "batch_size", "n_def", "learning_rate", "memory"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_number_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("setting", ["objective", "warm_up_objective"])
def test_an_unknown_objective_is_refused(setting):
    with pytest.raises(ValueError, match="objective must be one of .*'hinge'"):
        TrainConfig(**{setting: "hinge"})
