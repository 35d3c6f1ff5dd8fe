"""Mining: each query's window of the ranking, and what is never in a set."""

import numpy as np
import pandas as pd
import pytest
import torch
from shared import OnDisk, embeddings_with

from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import SORTING_BYTES_PER_SCORE, rank_scores

# One query; position 2 is the target, at rank 1. Ranking: 4 2 5 0 | 1 6 | 3
DRAWN = [[0.79, 0.40, 0.85, 0.10, 0.90, 0.80, 0.39]]
TARGET = torch.tensor([2])

OWN = ("between_drops", "all_corpus", "top_k", "after_target_top_k")  # the study registers more


def test_sets_are_the_window_of_each_query_and_never_hold_the_target():
    torch.manual_seed(0)
    scores = torch.rand(40, 30, dtype=torch.float64)
    targets = torch.randint(0, 30, (40,))
    ranking = rank_scores(scores)
    drops = find_steepest_drops(ranking.scores, ranking.ranks_of(targets))
    for strategy in OWN:
        chosen, report = mine_hard_negatives(
            *embeddings_with(scores),
            targets,
            MiningConfig(strategy, top_k=5),
            memory=2 * 30 * SORTING_BYTES_PER_SCORE * 7,
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
    memory = 2 * 50 * SORTING_BYTES_PER_SCORE  # sorting one query, and the scores of ten
    found, report = mine_hard_negatives(queries, stored, targets, MiningConfig(), memory=memory)
    assert torch.equal(found.offsets, expected.offsets) and len(expected.negatives) > 100
    assert torch.equal(found.negatives, expected.negatives)
    pd.testing.assert_frame_equal(report.per_query, known.per_query, rtol=1e-4, atol=1e-6)
    assert sum(stored.read) == 3 * 50


def test_a_query_without_a_pair_draws_uniformly_and_is_counted():
    scores = DRAWN + [[0.1, 0.2, 0.0, 0.3, 0.4, 0.5, 0.6]]  # the second query's target is last
    chosen, report = mine_hard_negatives(
        *embeddings_with(scores), torch.tensor([2, 2]), MiningConfig()
    )
    assert chosen.sizes.tolist() == [2, 0]
    assert report.summary()["share_no_pair"] == 0.5
    generator = torch.Generator().manual_seed(0)
    first, second = torch.cat([chosen.sample(generator) for _ in range(3000)], dim=1)
    counts = torch.bincount(second, minlength=7)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4, 5, 6]].min() > 400  # 500 expected
    assert set(first.tolist()) == {1, 6}


@pytest.mark.parametrize("strategy", OWN)
def test_an_excluded_reference_is_in_no_set_and_makes_no_drop(strategy):
    torch.manual_seed(1)
    scores = torch.rand(40, 30, dtype=torch.float64)
    targets = torch.randint(0, 29, (40,))
    references = torch.where(torch.arange(40) % 4 == 0, -1, 29)  # a quarter: not in the corpus
    config = MiningConfig(strategy, top_k=8)
    chosen, report = mine_hard_negatives(
        *embeddings_with(scores), targets, config, references=references
    )
    without = scores[:, :29]  # the last column taken out: no set may differ
    alone, expected = mine_hard_negatives(*embeddings_with(without), targets, config)
    whole, _ = mine_hard_negatives(*embeddings_with(scores), targets, config)
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


@pytest.mark.parametrize("strategy", OWN)
def test_a_reference_that_is_the_target_or_is_not_in_the_corpus_changes_nothing(strategy):
    torch.manual_seed(2)
    scores, targets = torch.rand(40, 30, dtype=torch.float64), torch.randint(0, 30, (40,))
    references = torch.where(torch.arange(40) % 2 == 0, targets, -1)
    config = MiningConfig(strategy, top_k=8)
    plain, expected = mine_hard_negatives(*embeddings_with(scores), targets, config)
    chosen, report = mine_hard_negatives(
        *embeddings_with(scores), targets, config, references=references
    )
    assert torch.equal(chosen.offsets, plain.offsets)
    assert torch.equal(chosen.negatives, plain.negatives)
    pd.testing.assert_frame_equal(report.per_query, expected.per_query)


@pytest.mark.parametrize("strategy", OWN)
@pytest.mark.parametrize("reference", [1, 0, -1, None])
def test_a_corpus_of_two_holds_a_negative_only_if_the_other_image_is_not_excluded(
    strategy, reference
):
    embedded, target = embeddings_with([[0.9, 0.1]]), torch.tensor([0])
    references = None if reference is None else torch.tensor([reference])
    how = {"config": MiningConfig(strategy), "references": references}
    if reference == 1:
        with pytest.raises(ValueError, match="corpus of 2 images holds no negative: 2 of them"):
            mine_hard_negatives(*embedded, target, **how)
    else:
        chosen, _ = mine_hard_negatives(*embedded, target, **how)
        assert chosen.sample(torch.Generator(), count=5).tolist() == [[1] * 5]


EMBEDDED = embeddings_with(torch.rand(3, 5, generator=torch.Generator().manual_seed(0)))
TARGETS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": MiningConfig("hardest")}, "strategy must be one of .*'hardest'"),
        ({"config": MiningConfig(options={"width": 3})}, "no option 'width'; it has"),
        ({"targets": torch.tensor([0, 1, 5])}, "targets lie outside the corpus of 5"),
        ({"targets": torch.tensor([0, 1, -1])}, "targets lie outside the corpus of 5"),
        ({"targets": torch.tensor([0, 1])}, "2 targets do not fit 3 queries"),
        ({"references": torch.tensor([0, 1, 5])}, "references lie outside the corpus of 5"),
        ({"references": torch.tensor([0, 1, -2])}, "references lie outside the corpus of 5"),
        ({"references": torch.tensor([4])}, "references do not fit 3 targets"),
        ({"relevance": torch.zeros(3, 4)}, r"relevance must be \(Q, N\) = \(3, 5\)"),
        ({"relevance": torch.zeros(4, 5)}, r"relevance must be \(Q, N\) = \(3, 5\)"),
        ({"relevance": torch.full((3, 5), torch.nan)}, "without NaN"),
        ({"relevance": torch.eye(3, 5) / torch.zeros(1)}, "without NaN"),
        ({"relevance": torch.zeros(3, 5).fill_diagonal_(-torch.inf)}, "without NaN or infinity"),
    ],
)
def test_bad_input_is_refused(change, message):
    how = {"targets": TARGETS, "config": MiningConfig()} | change
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(*EMBEDDED, **how)
