"""Hard negatives: strategies, ragged sets, sampling, and the report."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_ranking import OnDisk

from qure_lib.config import MiningConfig, TrainConfig
from qure_lib.drops import find_steepest_drops
from qure_lib.mining import STRATEGIES, HardNegativeSet, mine_hard_negatives, zone_ranks
from qure_lib.ranking import SORTING, rank_scores


def world(scores):
    """Embeddings whose relevance scores are the given (Q, N) numbers."""
    scores = torch.tensor(scores, dtype=torch.float64)
    return scores, torch.eye(scores.shape[1], dtype=torch.float64)[:, None, :]


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
    ],
)
def test_each_strategy_on_a_drawn_ranking(strategy, expected):
    chosen, _ = mine_hard_negatives(*world(DRAWN), TARGET, MiningConfig(strategy, top_k=3))
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
    chosen, _ = mine_hard_negatives(*world(DRAWN), TARGET, config)
    assert chosen[0].tolist() == expected


def test_sets_are_the_window_of_each_query_and_never_hold_the_target():
    torch.manual_seed(0)
    scores = torch.rand(40, 30, dtype=torch.float64)
    targets = torch.randint(0, 30, (40,))
    ranking = rank_scores(scores)
    drops = find_steepest_drops(ranking.scores, ranking.ranks_of(targets))
    for strategy in STRATEGIES:
        chosen, report = mine_hard_negatives(
            *world(scores.tolist()),
            targets,
            MiningConfig(strategy, top_k=5),
            memory=2 * 30 * SORTING * 7,
        )
        assert all(target not in chosen[q] for q, target in enumerate(targets))
        assert report.per_query.set_size.tolist() == chosen.sizes.tolist()
        if strategy == "between_drops":
            for q in range(40):
                ranks = drops.hard_negative_ranks(q)
                assert chosen[q].tolist() == ranking.order[q, ranks].tolist()


def test_a_corpus_on_disk_gives_the_same_sets_from_few_slices():
    torch.manual_seed(0)
    queries, images = torch.rand(30, 8), torch.rand(50, 3, 8)
    targets, stored = torch.randint(0, 50, (30,)), OnDisk(images)
    expected, known = mine_hard_negatives(queries, images, targets, MiningConfig())
    memory = 2 * 50 * SORTING  # sorting one query, and the scores of ten
    found, report = mine_hard_negatives(queries, stored, targets, MiningConfig(), memory=memory)
    assert torch.equal(found.offsets, expected.offsets) and len(expected.negatives) > 100
    assert torch.equal(found.negatives, expected.negatives)
    pd.testing.assert_frame_equal(report.per_query, known.per_query, rtol=1e-4, atol=1e-6)
    assert sum(stored.read) == 3 * 50


def test_a_query_without_a_pair_draws_uniformly_and_is_counted():
    scores = DRAWN + [[0.1, 0.2, 0.0, 0.3, 0.4, 0.5, 0.6]]  # the second query's target is last
    chosen, report = mine_hard_negatives(*world(scores), torch.tensor([2, 2]), MiningConfig())
    assert chosen.sizes.tolist() == [2, 0]
    assert report.summary()["share_no_pair"] == 0.5
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([chosen.sample(generator) for _ in range(3000)])
    counts = torch.bincount(drawn[:, 1], minlength=7)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4, 5, 6]].min() > 400  # 500 expected
    assert set(drawn[:, 0].tolist()) == {1, 6}


def test_without_replacement_exhausts_every_set_before_repeating():
    sets = HardNegativeSet(
        torch.tensor([0, 3, 7]), torch.tensor([1, 2, 3, 4, 5, 6, 7]), torch.tensor([0, 0]), 9
    )
    shuffled = sets.shuffled(torch.Generator().manual_seed(1))
    assert sorted(shuffled[0].tolist()) == [1, 2, 3] and sorted(shuffled[1].tolist()) == [
        4,
        5,
        6,
        7,
    ]
    generator = torch.Generator().manual_seed(2)
    drawn = torch.stack([shuffled.sample(generator, draw) for draw in range(4)])
    assert sorted(drawn[:3, 0].tolist()) == [1, 2, 3]
    assert sorted(drawn[:, 1].tolist()) == [4, 5, 6, 7]


def test_the_report_against_a_plain_loop():
    torch.manual_seed(1)
    scores, relevance = (
        torch.rand(25, 20, dtype=torch.float64),
        torch.rand(25, 20).round(decimals=1),
    )
    targets = torch.randint(0, 20, (25,))
    chosen, report = mine_hard_negatives(
        *world(scores.tolist()),
        targets,
        MiningConfig(),
        relevance=relevance,
        memory=2 * 20 * SORTING * 3,
    )
    for q, row in enumerate(report.per_query.itertuples()):
        order = np.argsort(-scores[q].numpy(), kind="stable")
        assert row.largest_gap == pytest.approx(-np.diff(scores[q].numpy()[order]).min())
        target_rank = list(order).index(targets[q])
        members = chosen[q].tolist()
        assert row.target_rank == target_rank and row.set_size == len(members)
        if members:
            ranks = [list(order).index(m) for m in members]
            assert (row.window_start, row.window_end) == (min(ranks), max(ranks))
            margin = scores[q, targets[q]] - scores[q, members].mean()
            assert row.score_margin == pytest.approx(margin.item())
            assert row.relevance_inside == pytest.approx(relevance[q, members].mean().item())
            above = order[target_rank + 1 : min(ranks)]
            if len(above):
                assert row.relevance_above == pytest.approx(relevance[q, above].mean().item())
            fit = relevance[q, members] >= relevance[q, targets[q]]
            assert row.false_negatives == fit.sum().item()
        fit = [
            i for i in order[:10] if i != targets[q] and relevance[q, i] >= relevance[q, targets[q]]
        ]
        assert row.false_negatives_top10 == len(fit)
    expected = scores.sort(dim=1, descending=True).values.mean(dim=0)
    np.testing.assert_allclose(report.mean_scores, expected)
    gaps = -np.diff(report.mean_scores)
    assert report.gap_by_rank(1)[0] == pytest.approx(gaps.mean())


def test_a_collapse_to_the_bottom_is_said_in_plain_words():
    smooth_then_cliffs = np.concatenate([np.linspace(0.9, 0.5, 40), [0.3, 0.29, 0.28, 0.05]])
    _, report = mine_hard_negatives(
        *world([smooth_then_cliffs.tolist()]), torch.tensor([0]), MiningConfig()
    )
    assert any("bottom half" in w and "search_window" in w for w in report.warnings())
    assert "WARNING" in str(report)
    near = MiningConfig(search_window=10)
    _, report = mine_hard_negatives(*world([smooth_then_cliffs.tolist()]), torch.tensor([0]), near)
    assert report.warnings() == []


@pytest.mark.parametrize(
    ("strategy", "target", "said"),
    [
        ("between_drops", 2, "sets of 2 images (median; mean 2.0), ranks 4-5 of 7"),
        ("between_drops", 3, "every negative is drawn uniformly from 7 images, target at rank 6"),
        ("all_corpus", 2, "every negative is drawn uniformly from 7 images, target at rank 1"),
    ],
)
def test_a_report_reads_as_a_sentence(strategy, target, said):
    relevance = torch.rand(1, 7)
    _, report = mine_hard_negatives(
        *world(DRAWN), torch.tensor([target]), MiningConfig(strategy), relevance
    )
    assert said in str(report) and "nan" not in str(report)


def test_zones_are_spread_over_the_ranking():
    # rank:  target 2 | above 3-9 | window 10-13 | below 14-29
    zones = zone_ranks(2, (10, 13), 30, count=4)
    assert zones == {"above": [3, 5, 7, 9], "inside": [10, 11, 12, 13], "below": [14, 19, 24, 29]}
    assert zone_ranks(2, (3, 3), 4, count=4) == {"above": [], "inside": [3], "below": []}


@pytest.mark.parametrize(
    "setting",
    [{"drop_rule": "steepest"}, {"search_window": 0}, {"top_k": 0}, {"consecutive_threshold": -1}],
)
def test_a_bad_setting_is_refused_before_any_training(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MiningConfig(**setting)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="strategy"):
        mine_hard_negatives(*world(DRAWN), TARGET, MiningConfig("hardest"))
    with pytest.raises(ValueError, match="targets"):
        mine_hard_negatives(*world(DRAWN), torch.tensor([7]), MiningConfig())
    with pytest.raises(ValueError, match="no negative"):
        HardNegativeSet.uniform(torch.tensor([0]), 1)


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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_excluded_reference_is_in_no_set_and_makes_no_drop(strategy):
    torch.manual_seed(1)
    scores = torch.rand(40, 30, dtype=torch.float64)
    targets = torch.randint(0, 29, (40,))
    references = torch.where(torch.arange(40) % 4 == 0, -1, 29)  # a quarter: not in the corpus
    config = MiningConfig(strategy, top_k=8)
    chosen, report = mine_hard_negatives(
        *world(scores.tolist()), targets, config, references=references
    )
    without = scores[:, :29]  # the last column taken out: no set may differ
    alone, expected = mine_hard_negatives(*world(without.tolist()), targets, config)
    whole, _ = mine_hard_negatives(*world(scores.tolist()), targets, config)
    after = 28 - expected.per_query.target_rank  # images: too few, and the tie completes a pair
    for query in range(40):
        other = whole if references[query] < 0 else alone
        assert references[query] not in chosen[query]
        assert after[query] < 4 or chosen[query].tolist() == other[query].tolist(), query
    there = (references >= 0).numpy() & (after >= 4).to_numpy()
    assert there.sum() > 20
    columns = ["target_rank", "window_start", "set_size"]
    left, right = (r.per_query.loc[there, columns] for r in (report, expected))
    np.testing.assert_array_equal(left, right)


def test_uniform_draws_leave_target_and_reference_out_and_reach_all_others():
    targets, references = torch.tensor([0, 3, 2, 4]), torch.tensor([3, 0, -1, 1])
    uniform = HardNegativeSet.uniform(targets, 5, references)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([uniform.sample(generator) for _ in range(4000)], dim=1)
    for row, left_out in zip(drawn, ({0, 3}, {3, 0}, {2}, {4, 1}), strict=True):
        counts = torch.bincount(row, minlength=5)
        assert set(counts.nonzero().flatten().tolist()) == set(range(5)) - left_out
        expected = 4000 / (5 - len(left_out))
        assert (counts[counts > 0] - expected).abs().max() < 5 * expected**0.5
    with pytest.raises(ValueError, match="holds no negative"):
        HardNegativeSet.uniform(targets, 2, references)
