"""Objectives: drawn cases, NumPy references, invariances, edges."""

import numpy as np
import pytest
import torch

from qure_lib.method.losses import (
    bradley_terry_loss,
    find_objective,
    info_nce_loss,
    plackett_luce_loss,
    with_auxiliary_positives,
)
from qure_lib.method.scores import paired_scores, relevance_scores


def test_bradley_terry_on_a_drawn_pair():
    # tau = 0.1, margin 0.1: -log sigmoid(1)
    loss = bradley_terry_loss(torch.tensor([0.6]), torch.tensor([0.5]), 0.1)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1)), rel=1e-6)


def test_bradley_terry_is_the_divergence_that_the_release_writes():
    positive, negative = torch.rand(2, 50, dtype=torch.float64)
    log_q = torch.log_softmax(torch.stack([positive, negative], dim=1) / 0.07, dim=1)
    p = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(50, 2)
    kl = torch.nn.functional.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(bradley_terry_loss(positive, negative, 0.07), kl)


def test_several_negatives_are_averaged_as_pairs():
    positive, negatives = torch.rand(8), torch.rand(8, 3)
    pairs = [bradley_terry_loss(positive, negatives[:, k], 0.07) for k in range(3)]
    torch.testing.assert_close(bradley_terry_loss(positive, negatives, 0.07), sum(pairs) / 3)


def test_plackett_luce_against_numpy():
    positive, negatives = torch.rand(8, dtype=torch.float64), torch.rand(8, 5, dtype=torch.float64)
    worth = np.exp(torch.cat([positive[:, None], negatives], dim=1).numpy() / 0.07)
    expected = -np.log(worth[:, 0] / worth.sum(axis=1)).mean()
    assert plackett_luce_loss(positive, negatives, 0.07).item() == pytest.approx(expected)


def test_plackett_luce_of_one_negative_is_bradley_terry():
    positive, negative = torch.rand(2, 8, dtype=torch.float64)
    torch.testing.assert_close(
        plackett_luce_loss(positive, negative, 0.07), bradley_terry_loss(positive, negative, 0.07)
    )


def test_a_common_offset_moves_no_loss():
    positive, negative, scores = torch.rand(8), torch.rand(8), torch.rand(8, 8)
    several = torch.rand(8, 3)
    moved = plackett_luce_loss(positive + 0.3, several + 0.3, 0.07)
    torch.testing.assert_close(moved, plackett_luce_loss(positive, several, 0.07))
    moved = bradley_terry_loss(positive + 0.3, negative + 0.3, 0.07)
    torch.testing.assert_close(moved, bradley_terry_loss(positive, negative, 0.07))
    torch.testing.assert_close(info_nce_loss(scores + 0.3, 0.07), info_nce_loss(scores, 0.07))


@pytest.mark.parametrize("name", ["bradley_terry", "plackett_luce"])
def test_an_auxiliary_positive_weighs_as_much_as_the_target(name):
    objective, tau = find_objective(name), torch.tensor(0.07)
    queries, targets, others = torch.rand(4, 8), torch.rand(4, 2, 8), torch.rand(4, 4, 2, 8)
    both = [objective.function(queries, p, others[:, 1:], tau) for p in (targets, others[:, 0])]
    assert both[0] != both[1]
    loss = with_auxiliary_positives(objective).function(queries, targets, others, tau)
    torch.testing.assert_close(loss, sum(both) / 2)
    others[:, 0] = targets  # the target, where there is no auxiliary positive
    loss = with_auxiliary_positives(objective).function(queries, targets, others, tau)
    torch.testing.assert_close(loss, both[0])


def test_bradley_terry_stays_finite_far_from_zero():
    loss = bradley_terry_loss(torch.tensor([-1.0]), torch.tensor([1.0]), 1e-3)
    assert loss.item() == pytest.approx(2000)


def test_info_nce_against_numpy():
    scores = np.random.default_rng(0).uniform(-1, 1, (6, 6))
    shares = np.exp(scores / 0.07) / np.exp(scores / 0.07).sum(axis=1, keepdims=True)
    expected = -np.log(np.diag(shares)).mean()
    assert info_nce_loss(torch.tensor(scores), 0.07).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_info_nce_in_half_precision_finds_every_positive_of_a_large_batch(dtype):
    scores = torch.eye(2500, dtype=dtype) / 4  # neither type holds every integer below 2,500
    expected = info_nce_loss(scores.double(), 0.07)
    assert info_nce_loss(scores, 0.07).item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("loss", [bradley_terry_loss, plackett_luce_loss])
@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 2, 1), (3, 0), (1,)])
def test_negatives_that_do_not_fit_their_queries_are_refused(loss, shape):
    with pytest.raises(ValueError, match="same B"):
        loss(torch.rand(3), torch.rand(shape), 0.07)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (1, 1), (0, 0)])
def test_in_batch_contrast_needs_a_square_of_at_least_two(shape):
    with pytest.raises(ValueError, match=r"\(B, B\) with B of at least 2"):
        info_nce_loss(torch.rand(shape), 0.07)


def test_the_registered_objectives_are_the_losses_of_a_batch():
    torch.manual_seed(0)
    queries, targets, negatives = torch.rand(4, 8), torch.rand(4, 3, 8), torch.rand(4, 2, 3, 8)
    embedded = queries, targets, negatives, torch.tensor(0.07)
    positive = paired_scores(queries, targets)
    for loss in (bradley_terry_loss, plackett_luce_loss):
        objective = find_objective(loss.__name__.removesuffix("_loss"))
        expected = loss(positive, paired_scores(queries, negatives), 0.07)
        torch.testing.assert_close(objective.function(*embedded), expected)
        assert objective.needs_negatives
    contrast = find_objective("info_nce")
    expected = info_nce_loss(relevance_scores(queries, targets), 0.07)
    torch.testing.assert_close(contrast.function(*embedded), expected)
    assert not contrast.needs_negatives


def test_an_unknown_objective_is_refused_and_the_known_ones_named():
    with pytest.raises(
        ValueError, match=r"'bradley_terry', .*'info_nce', 'plackett_luce'.*'hinge'"
    ):
        find_objective("hinge")
