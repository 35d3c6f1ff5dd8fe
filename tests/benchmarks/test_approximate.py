"""Approximate mining: the exact sets when every list is probed, in bounded memory."""

import sys

import pytest
import torch
import torch.nn.functional as F
from approximate import build_index, mine_near_target
from shared import OnDisk

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import rank_corpus

NEAR = MiningConfig(search_window=20)
faiss = pytest.importorskip("faiss", reason="approximate search is the extra [scale]")


@pytest.fixture(scope="module")
def world():
    """24 queries, 400 images of 4 tokens in 16 dimensions that look alike, targets near queries."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(400, 1, 16, generator=generator)
    images = F.normalize(centres + 0.3 * torch.randn(400, 4, 16, generator=generator), dim=-1)
    targets = torch.arange(0, 240, 10)
    noise = 0.3 * torch.randn(24, 16, generator=generator)
    return F.normalize(images[targets].mean(1) + noise, dim=-1), images, targets


def mine(world, config=NEAR, depth=400, nprobe=20, **how):
    queries, images, targets = world
    ranking = build_index(images, **how).rank(queries, depth, nprobe)
    return mine_near_target(ranking, queries, images, targets, config)


@pytest.mark.parametrize("rule", ["release", "largest"])
@pytest.mark.parametrize("encoding", ["Flat", "SQ8"])
def test_with_every_list_probed_the_sets_are_the_exact_ones(world, rule, encoding):
    config = MiningConfig(drop_rule=rule, search_window=20)
    exact, _ = mine_hard_negatives(*world, config)
    found = mine(world, config, encoding=encoding)
    assert found.reached.all()
    assert exact.sizes.max() > 1 and exact.sizes.tolist() == found.negatives.sizes.tolist()
    assert exact.negatives.tolist() == found.negatives.negatives.tolist()
    ((_, ranking),) = rank_corpus(*world[:2])
    first = ranking.ranks_of(world[2]) + 1
    for query, rank in enumerate(first.tolist()):
        assert found.after[query].tolist() == ranking.order[query, rank : rank + 20].tolist()


def test_all_lists_give_the_beginning_of_the_exact_ranking(world):
    queries, images, _ = world
    ((_, exact),) = rank_corpus(queries, images)
    ranking = build_index(images).rank(queries, 50, nprobe=20, memory=12 * 200 * 5)
    assert ranking.order.tolist() == exact.order[:, :50].tolist()
    torch.testing.assert_close(ranking.scores, exact.scores[:, :50])


def test_a_few_lists_find_part_of_it_and_what_is_found_is_scored_exactly(world):
    exact, few = mine(world), mine(world, nprobe=2)
    assert few.reached.any() and (few.negatives.sizes[~few.reached] == 0).all()
    found = few.negatives.sizes > 0
    kept = [set(few.after[q].tolist()) & set(exact.after[q].tolist()) - {-1} for q in range(24)]
    assert found.any() and 0 < sum(map(len, kept)) < exact.after.numel()
    queries, images, _ = world
    scores = (queries[:, None, None] * images).sum(-1).amax(-1)
    for query in found.nonzero()[:, 0].tolist():
        after = few.after[query][few.after[query] >= 0]
        assert (scores[query, after].diff() <= 1e-6).all()


def test_a_target_beyond_the_depth_is_not_reached_and_has_no_set(world):
    found = mine(world, depth=21)
    beyond = ~found.reached
    assert beyond.any() and (found.negatives.sizes[beyond] == 0).all()


def test_blocks_of_a_corpus_on_disk_make_the_same_index(world):
    queries, images, targets = world
    stored, memory = OnDisk(images), 16 * 4 * 4 * 16  # 16 images at a time
    part = build_index(stored, lists=8, memory=memory)
    whole = build_index(images, lists=8, memory=memory)
    assert max(stored.read) == 16 and part.index.ntotal == 1600
    assert part.rank(queries, 50, 3).order.tolist() == whole.rank(queries, 50, 3).order.tolist()
    near = [
        mine_near_target(part.rank(queries, 100, 3), queries, i, targets, NEAR)
        for i in (stored, images)
    ]
    assert near[0].negatives.negatives.tolist() == near[1].negatives.negatives.tolist()


def test_a_seed_decides_the_index(world):
    queries, images, _ = world
    orders = [build_index(images, lists=40, seed=s).rank(queries, 50, 2).order for s in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_ties_go_by_corpus_position_and_a_tie_with_the_target_is_not_below_it():
    scores = torch.tensor([0.9, 0.8, 0.8, 0.8, 0.7, 0.7, 0.5, 0.4, 0.1])
    images = torch.stack([scores, (1 - scores**2).sqrt()], dim=1)[:, None]
    world = torch.tensor([[1.0, 0.0]]), images, torch.tensor([2])
    exact, _ = mine_hard_negatives(*world, NEAR)
    found = mine(world, depth=9, lists=1, nprobe=1)
    assert found.after[0, :6].tolist() == [4, 5, 6, 7, 8, -1]
    assert found.negatives.negatives.tolist() == exact.negatives.tolist() == [6, 7]


def test_what_cannot_be_approximated_is_refused(world):
    sized = MiningConfig(search_window=20, set_size=5)
    for config in (MiningConfig(), MiningConfig("top_k", search_window=20), sized):
        with pytest.raises(ValueError, match="only between_drops with a search_window"):
            mine(world, config)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lists": 0}, r"lists must lie in \[1, 1600\], not 0"),
        ({"nprobe": 21}, r"nprobe must lie in \[1, 20\], not 21"),
        ({"depth": 401}, r"depth must lie in \[1, 400\], not 401"),
        ({"memory": 255}, "one image takes 256 bytes, memory is 255"),
    ],
)
def test_numbers_out_of_range_are_refused(world, how, message):
    with pytest.raises(ValueError, match=message):
        mine(world, **how)


@pytest.mark.parametrize("targets", [[0] * 23, [0] * 23 + [400], [-1] + [0] * 23])
def test_targets_that_fit_no_query_or_no_image_are_refused(world, targets):
    with pytest.raises(ValueError, match="with positions in a corpus of 400 images"):
        mine((*world[:2], torch.tensor(targets)))


def test_a_ranking_of_another_corpus_is_refused(world):
    queries, images, targets = world
    ranking = build_index(images).rank(queries, 400, 20)
    for part in (images[:300], OnDisk(images[:300])):
        with pytest.raises(ValueError, match="with positions in a corpus of 300 images"):
            mine_near_target(ranking, queries, part, targets, NEAR)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused_as_in_exact_mining(world, value):
    queries, images, targets = world
    broken, index = images.clone(), build_index(images)
    broken[399, 3, 15] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        build_index(broken, memory=256 * 16)
    with pytest.raises(ValueError, match="NaN or infinity"):
        index.rank(queries * value, 5, 1)
    ranking = index.rank(queries, 400, 20)
    broken = images.clone()
    broken[targets[0]] = value
    with pytest.raises(ValueError, match="not finite"):
        mine_hard_negatives(queries, broken, targets, NEAR)
    with pytest.raises(ValueError, match="NaN or infinity"):
        mine_near_target(ranking, queries, broken, targets, NEAR)


def test_embeddings_of_another_model_are_refused(world):
    with pytest.raises(ValueError, match="queries have 8 dimensions, the index has 16"):
        build_index(world[1]).rank(world[0][:, :8], 5, 1)


def test_a_missing_faiss_is_named_with_its_remedy(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'qure-lib\[scale\]'"):
        build_index(world[1])
