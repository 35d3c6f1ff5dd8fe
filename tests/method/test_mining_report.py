"""The mining report: its numbers against a plain loop, its sentences and its warnings."""

import numpy as np
import pandas as pd
import pytest
import torch
from shared import embeddings_with

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.ranking import SORTING_BYTES_PER_SCORE

# One query; position 2 is the target, at rank 1. Ranking: 4 2 5 0 | 1 6 | 3
DRAWN = [[0.79, 0.40, 0.85, 0.10, 0.90, 0.80, 0.39]]
TARGET = torch.tensor([2])


def test_the_report_against_a_plain_loop():
    torch.manual_seed(1)
    scores, relevance = (
        torch.rand(25, 20, dtype=torch.float64),
        torch.rand(25, 20).round(decimals=1),
    )
    targets = torch.randint(0, 20, (25,))
    chosen, report = mine_hard_negatives(
        *embeddings_with(scores),
        targets,
        MiningConfig(),
        relevance=relevance,
        memory=2 * 20 * SORTING_BYTES_PER_SCORE * 3,
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
        *embeddings_with([smooth_then_cliffs.tolist()]), torch.tensor([0]), MiningConfig()
    )
    assert any("bottom half" in w and "search_window" in w for w in report.warnings())
    assert "WARNING" in str(report)
    near = MiningConfig(search_window=10)
    _, report = mine_hard_negatives(
        *embeddings_with([smooth_then_cliffs.tolist()]), torch.tensor([0]), near
    )
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
        *embeddings_with(DRAWN), torch.tensor([target]), MiningConfig(strategy), relevance
    )
    assert said in str(report) and "nan" not in str(report)


def test_reports_on_shares_of_the_queries_join_to_the_whole():
    torch.manual_seed(3)
    queries, images = embeddings_with(torch.rand(9, 20))
    targets = torch.randint(0, 20, (9,))
    shares = [slice(0, 2), slice(2, 9)]
    reports = [
        mine_hard_negatives(queries[s], images, targets[s], MiningConfig())[1] for s in shares
    ]
    _, whole = mine_hard_negatives(queries, images, targets, MiningConfig())
    joined = MiningReport.concatenate(reports)
    pd.testing.assert_frame_equal(joined.per_query, whole.per_query)
    np.testing.assert_allclose(joined.mean_scores, whole.mean_scores)
    np.testing.assert_allclose(joined.std_scores, whole.std_scores)
    assert MiningReport.concatenate([whole]) is whole
