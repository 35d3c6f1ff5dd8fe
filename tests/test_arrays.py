"""Arrays in the place of tensors, in each public function that takes scores or embeddings."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.random import default_rng

from qure_lib.arrays import as_positions, as_scores, as_tensor
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import find_steepest_drops
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.method.ranking import rank_scores


def read_only(values):
    values.flags.writeable = False
    return values


FORMS = {
    "as it is": lambda values: values,
    "reversed": lambda values: np.ascontiguousarray(values[::-1])[::-1],
    "columns": np.asfortranarray,
    "other bytes": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "read only": lambda values: read_only(values.copy()),
    "list": lambda values: values.tolist(),
    "frame": lambda values: pd.DataFrame(values) if values.ndim == 2 else pd.Series(values),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "u1", "?"])
def test_any_layout_holds_the_same_numbers_and_no_warning(form, dtype):
    values = (default_rng(0).random((4, 3)) * 50).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = as_scores(FORMS[form](values))
    assert scores.is_floating_point() and np.array_equal(scores.numpy(), values.astype(float))


def test_a_tensor_and_a_plain_arrays_memory_are_left_as_they_are():
    tensor, array = torch.zeros(2), np.zeros(2)
    assert as_tensor(tensor) is tensor
    assert as_tensor(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("dtype", ["i1", "i4", "u1", "u2", "u4", "u8", ">i4"])
def test_positions_are_64_bits_wide(dtype):
    positions = as_positions(np.array([3, 0, 7], dtype))
    assert positions.dtype == torch.int64 and positions.tolist() == [3, 0, 7]


@pytest.mark.parametrize("wrong", [[0.0, 1.0], [True, False], torch.zeros(2), np.zeros(2, "f2")])
def test_positions_that_are_no_whole_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be whole numbers, not torch"):
        as_positions(wrong)


@pytest.mark.parametrize("wrong", [["a"], [None], np.zeros(2, complex), np.zeros(2, "M8[s]")])
def test_what_is_no_number_is_refused(wrong):
    for convert in (as_scores, as_positions):
        with pytest.raises(ValueError, match="real numbers are needed, not an array of"):
            convert(wrong)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("curve", ["cosine", "preference"])
def test_the_drops_of_an_array_are_those_of_a_tensor(form, curve):
    scores = -np.sort(-default_rng(1).random((6, 40)), axis=1)
    ranks = np.arange(6, dtype=np.int32)
    how = {"curve": curve, "temperature": 0.1}
    ours = find_steepest_drops(FORMS[form](scores), FORMS[form](ranks), **how)
    theirs = find_steepest_drops(torch.tensor(scores), torch.tensor(ranks).long(), **how)
    assert torch.equal(ours.first, theirs.first) and torch.equal(ours.second, theirs.second)
    assert (ours.first >= 0).any()


def test_scores_sorted_by_numpy_go_straight_in():
    scores = np.sort(np.array([[0.57, 0.95, 0.90, 0.20, 0.89, 0.60, 0.58]]))[:, ::-1]
    assert find_steepest_drops(scores, [0]).hard_negative_ranks(0) == [3, 4, 5]
    assert find_steepest_drops((scores * 100).astype(int), [0]).hard_negative_ranks(0) == [3, 4, 5]


@pytest.mark.parametrize(
    ("scores", "ranks", "message"),
    [
        ([0.2, 0.1], [0], r"must be \(Q, N\)"),
        ([[0.2, 0.1]], 0, r"\(Q,\)"),
        ([[0.2, np.nan]], [0], "NaN"),
        ([[0.2, 0.1]], [0.0], "whole numbers"),
        ([["a", "b"]], [0], "real numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(scores, ranks, message):
    with pytest.raises(ValueError, match=message):
        find_steepest_drops(np.array(scores), np.array(ranks))


@pytest.mark.parametrize("form", ["as it is", "reversed", "other bytes", "read only", "list"])
def test_a_ranking_of_an_array_is_that_of_a_tensor(form):
    scores = default_rng(2).integers(0, 5, (5, 30)) / 4  # with ties
    ours, theirs = rank_scores(FORMS[form](scores)), rank_scores(torch.tensor(scores))
    assert torch.equal(ours.order, theirs.order) and torch.equal(ours.scores, theirs.scores)


def test_mining_takes_arrays_and_leaves_them_as_they_are():
    draw = default_rng(3)
    queries, images = draw.normal(size=(5, 8)), draw.normal(size=(30, 2, 8))
    given = queries, images, np.arange(5), np.arange(5, 10), draw.random((5, 30))
    given = [read_only(g.astype("f4") if g.dtype == float else g) for g in given]
    tensors = [torch.tensor(g) for g in given]
    mined = []
    for queries, images, targets, references, relevance in (given, tensors):
        config = MiningConfig("top_k", top_k=4)
        mined.append(
            mine_hard_negatives(
                queries, images, targets, config, relevance=relevance, references=references
            )
        )
    (ours, our_report), (theirs, their_report) = mined
    assert torch.equal(ours.negatives, theirs.negatives) and len(ours.negatives)
    pd.testing.assert_frame_equal(our_report.per_query, their_report.per_query)
