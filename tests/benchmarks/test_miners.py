"""What benchmarks/miners.py compares: the same embeddings, and each miner's sets."""

import pytest
import torch

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers[train]")
pytest.importorskip("datasets", reason="needs sentence-transformers[train]")

import miners

IMAGES = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])


def test_theirs_takes_the_best_but_the_target(monkeypatch):
    monkeypatch.setattr(miners, "COUNT", 2)
    found = miners.mine_theirs(IMAGES[:2], IMAGES)
    assert [sorted(chosen.tolist()) for chosen in found] == [[1, 2], [0, 2]]
    far = miners.mine_theirs(IMAGES[:2], IMAGES, relative_margin=0.1)  # cosines of at most 0.9
    assert [sorted(chosen.tolist()) for chosen in far] == [[1, 2], [0, 3]]


def test_what_was_chosen_is_counted():
    ranks = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])  # targets at rank 0 and 3
    found = miners.describe([torch.tensor([1, 2, 4]), torch.tensor([3])], ranks)
    values = {what: row["value"] for what, row in found.items()}
    assert values == {
        "queries without a negative": 0,
        "negatives a query": 2,
        "rank less the target's, median": 1,  # of 1, 2, 4 and -2, the lower middle
        "negatives ranked above the target": 25,
    }
    nothing = miners.describe([torch.tensor([1, 2, 4]), torch.tensor([], dtype=torch.int64)], ranks)
    assert nothing["queries without a negative"]["value"] == 50


def test_a_small_comparison_has_a_row_for_each_miner_and_ratio():
    rows = {row["what"]: row["value"] for row in miners.compare(60, rounds=1)}
    for name in miners.MINERS:
        assert rows[f"{name}: time"] > 0
        assert 0 < rows[f"{name}: negatives a query"] <= miners.COUNT
    for name in miners.THEIRS:
        ratio = rows[f"{name}: time"] / rows["ours: time"]
        assert rows[f"{name} / ours, time"] == pytest.approx(ratio)
        assert 0 <= rows[f"{name}: negatives that ours has too"] <= 100
    assert rows["ours: negatives ranked above the target"] == 0
