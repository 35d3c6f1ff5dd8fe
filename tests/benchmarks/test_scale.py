"""What benchmarks/scale.py measures: made-up corpora, and rows of exact and approximate mining."""

import shutil
import sys
from collections import namedtuple

import pandas as pd
import pytest
import scale
import torch
from approximate import NearTarget

from qure_lib.method.negatives import HardNegativeSet
from qure_lib.method.ranking import rank_corpus

SMALL = scale.Setting(tokens=4, width=32, queries=30, windows=(20,), probes=(2, 99))


def test_a_made_up_corpus_is_read_in_slices_and_then_gone(tmp_path):
    with scale.made_up(300, SMALL, tmp_path) as images:
        assert images.shape == (300, 4, 32) and images.path.stat().st_size == SMALL.bytes_of(300)
        whole = images[:]
        assert torch.equal(images[290:400], whole[290:]) and whole.dtype == torch.float32
        torch.testing.assert_close(whole.norm(dim=-1), torch.ones(300, 4), atol=2e-3, rtol=0)
        with scale.made_up(300, SMALL, tmp_path) as again:
            assert torch.equal(again[:], whole)
    assert not list(tmp_path.iterdir())


def near_target(*sets, after, reached=True):
    """What was found around targets, by query: its hard negatives and the images after."""
    offsets = torch.tensor([0, *map(len, sets)]).cumsum(0)
    negatives = torch.tensor([image for negatives in sets for image in negatives])
    targets = torch.full((len(sets),), 9)
    mined = HardNegativeSet(offsets, negatives, targets, corpus_size=10)
    return NearTarget(mined, torch.tensor(after), torch.tensor([reached] * len(sets)))


def test_the_comparison_says_how_much_of_the_exact_sets_was_found():
    exact = near_target([0, 1], [2, 3], [4], [], after=[[0, 1], [2, 3], [4, 5], [6, -1]])
    some = near_target([1, 0], [3, 7], [], [], after=[[1, 0], [3, -1], [6, 7], [-1, -1]])
    rows = scale.compare_near_target(some, exact)
    assert rows.found.tolist() == [1, 0.5, 0, 0]
    assert rows.jaccard.tolist() == pytest.approx([1, 1 / 3, 0, 1])
    assert rows.identical.tolist() == [True, False, False, True]
    same = scale.compare_near_target(exact, exact)
    assert same[["reached", "identical"]].all(axis=None)
    assert (same[["found", "jaccard"]] == 1).all(axis=None)


def test_the_comparison_keeps_which_windows_were_reached():
    exact = near_target([0], after=[[0, 1]])
    rows = scale.compare_near_target(near_target([], after=[[0, -1]], reached=False), exact)
    assert rows.iloc[0].tolist() == [False, 0.5, 0.0, False]


def test_targets_rank_near_the_top_and_not_always_first(tmp_path):
    with scale.made_up(3000, SMALL, tmp_path) as images:
        queries, targets = scale.make_queries(images, SMALL)
        ((_, ranking),) = rank_corpus(queries, images, memory=2**30)
    shares = ranking.ranks_of(targets) / 3000
    assert 0 < shares.median() < 0.01 and shares.max() > 0


def test_a_corpus_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        pytest.raises(ValueError, match="300 images take .* name another folder"),
        scale.made_up(300, SMALL, tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--threads", "0"], ["--sizes", "100", "-5"]])
def test_a_number_below_one_is_refused_by_name(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        scale.main([*option, "--out", str(tmp_path / "out")])
    assert f"{option[0]} must be at least 1, not {option[-1]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_faiss_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="qure-lib"):
        scale.measure(300, SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_size_gives_rows_of_both_methods_that_agree_where_all_is_probed(tmp_path):
    pytest.importorskip("faiss", reason="approximate search is the extra [scale]")
    rows = scale.measure(400, SMALL, tmp_path)
    assert rows.method.tolist() == ["exact"] * 2 + ["approximate"] * 2
    assert rows.window.isna().tolist() == [True, False, False, False]
    few, every = (row for _, row in rows[rows.method == "approximate"].iterrows())
    assert (few.nprobe, every.nprobe) == (2, 20) and every.in_depth > 0.5
    assert every[["found", "jaccard", "identical"]].tolist() == [1, 1, 1] and few.found < 1
    assert (rows[["mine_s", "memory_gib"]] > 0).all(axis=None) and not list(tmp_path.iterdir())


def test_the_shipped_rows_are_what_the_notebook_asks_for(root):
    rows = pd.read_csv(root / "reports" / "shipped" / "scale" / "scale.csv")
    assert {1000, 10_000, 100_000} <= set(rows.images)
    for _, part in rows.groupby("images"):
        assert part.window.isna().any() and (part.window == 100).any() and part.nprobe.notna().any()
