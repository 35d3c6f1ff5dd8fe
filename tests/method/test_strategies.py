"""Mining strategies: the published ones on a drawn ranking, and one that a reader adds."""

import pytest
import torch
from shared import embeddings_with

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.strategies import STRATEGIES, check_strategy, first_rank_below_target, strategy

# One query; position 2 is the target, at rank 1. Ranking: 4 2 5 0 | 1 6 | 3
DRAWN = [[0.79, 0.40, 0.85, 0.10, 0.90, 0.80, 0.39]]
TARGET = torch.tensor([2])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all_corpus", []),
        ("top_k", [4, 5]),  # the three best less the target
        ("after_target_top_k", [5, 0, 1]),
        ("between_drops", [1, 6]),
        ("before_first_drop", [5, 0]),
    ],
)
def test_each_strategy_on_a_drawn_ranking(strategy, expected):
    chosen, _ = mine_hard_negatives(
        *embeddings_with(DRAWN), TARGET, MiningConfig(strategy, top_k=3)
    )
    assert chosen[0].tolist() == expected


@pytest.mark.parametrize(
    ("strategy", "size", "expected"),
    [
        ("between_drops", 1, [1]),  # the window's start stays, whatever its own size
        ("between_drops", 9, [1, 6, 3]),  # to the end of the ranking
        ("top_k", 2, [4]),  # the target is never in it
        ("all_corpus", 2, []),
    ],
)
def test_a_fixed_set_size_starts_where_the_window_does(strategy, size, expected):
    config = MiningConfig(strategy, top_k=3, set_size=size)
    chosen, _ = mine_hard_negatives(*embeddings_with(DRAWN), TARGET, config)
    assert chosen[0].tolist() == expected


@pytest.fixture
def share_below(monkeypatch):
    """A strategy with a parameter of its own, registered for one test."""
    for name in STRATEGIES:  # what the test registers is gone after it
        monkeypatch.setitem(STRATEGIES, name, STRATEGIES[name])
    monkeypatch.setitem(STRATEGIES, "share_below", None)

    @strategy("share_below")
    def share_below(ranking, target_ranks, config, *, share=0.5):
        start = first_rank_below_target(ranking, target_ranks)
        return start, start + (share * (ranking.scores.shape[1] - start)).long()

    return share_below


def test_a_strategy_of_ones_own_is_known_by_name_with_its_parameters(share_below):
    assert STRATEGIES["share_below"] is share_below
    for options, expected in (({}, [5, 0]), ({"share": 0.8}, [5, 0, 1, 6])):
        config = MiningConfig("share_below", options=options)
        chosen, report = mine_hard_negatives(*embeddings_with(DRAWN), TARGET, config)
        assert chosen[0].tolist() == expected and report.config.strategy == "share_below"


def test_options_are_compared_by_value_whatever_their_order():
    one, other = MiningConfig(options={"a": 1, "b": 2}), MiningConfig(options={"b": 2, "a": 1})
    assert one == other and hash(one) == hash(other)
    assert one != MiningConfig(options={"a": 1, "b": 3})


def test_options_that_are_not_the_strategys_own_are_refused(share_below):
    check_strategy(MiningConfig("share_below", options={"share": 0.1}))
    with pytest.raises(ValueError, match=r"no option 'width'; it has \['share'\]"):
        check_strategy(MiningConfig("share_below", options={"width": 0.1}))
    with pytest.raises(ValueError, match=r"no option 'share'; it has \[\]"):
        check_strategy(MiningConfig("top_k", options={"share": 0.1}))
    with pytest.raises(ValueError, match="'share_below', .*'top_k'.*'hardest'"):
        check_strategy(MiningConfig("hardest"))
