"""`qure_lib.hard_negatives`: any model's scores in, positions and a report out."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from shared import embeddings_with

import qure_lib
from qure_lib import own_scores
from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives

RULES = [
    {},
    {"rule": "largest"},
    {"search_window": 30},
    {"consecutive_threshold": 4},
    {"curve": "preference", "temperature": 0.2},
]


def drawn(queries=40, n=100, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random((queries, n)).astype("float32"), generator.integers(0, n, queries)


@pytest.mark.parametrize("settings", RULES, ids=str)
def test_the_sets_are_those_of_mining_itself(settings):
    scores, targets = drawn()
    sets, report = qure_lib.hard_negatives(scores, targets, **settings)
    names = {"drop_rule" if k == "rule" else k: v for k, v in settings.items()}
    expected, its_report = mine_hard_negatives(
        *embeddings_with(torch.tensor(scores).double()),
        torch.tensor(targets),
        MiningConfig(**names),
    )
    assert all(isinstance(s, np.ndarray) for s in sets) and len(sets) == len(scores)
    for query, chosen in enumerate(sets):
        assert chosen.tolist() == expected[query].tolist()
    columns = ["target_rank", "window_start", "set_size"]
    assert report.per_query[columns].equals(its_report.per_query[columns])
    assert report.config == MiningConfig(**names)


def test_torch_in_torch_out_and_a_chunk_at_a_time(monkeypatch, tmp_path):
    scores, targets = drawn()
    expected, whole = qure_lib.hard_negatives(scores, targets)
    monkeypatch.setattr(
        own_scores, "SORTING_CHUNK_BYTES", 7 * 100 * own_scores.SORTING_BYTES_PER_SCORE
    )
    before = scores.copy()
    sets, report = qure_lib.hard_negatives(torch.tensor(scores), torch.tensor(targets))
    assert all(isinstance(s, torch.Tensor) for s in sets)
    assert [s.tolist() for s in sets] == [s.tolist() for s in expected]
    assert report.per_query.equals(whole.per_query)
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    assert [s.tolist() for s in qure_lib.hard_negatives(mapped, targets)[0]] == [
        s.tolist() for s in expected
    ]
    assert (scores == before).all()  # what is given is not changed


def test_minus_infinity_leaves_an_image_out_for_that_query():
    scores, targets = drawn()
    out = (targets + 1) % 100  # a different image for each query
    rows = np.arange(len(scores))
    scores[rows, out] = -np.inf
    sets, report = qure_lib.hard_negatives(scores, targets)
    for query, chosen in enumerate(sets):
        alone = np.delete(scores[query], out[query])
        place = targets[query] - (targets[query] > out[query])
        without, _ = qure_lib.hard_negatives(alone[None], np.array([place]))
        back = without[0] + (without[0] >= out[query])
        assert chosen.tolist() == back.tolist()
    assert np.isfinite(report.mean_scores).all() and report.per_query.score_skewness.notna().all()


def test_whole_numbers_double_precision_and_strided_scores_are_taken():
    scores, targets = drawn()
    expected = [s.tolist() for s in qure_lib.hard_negatives(scores, targets)[0]]
    for same in (scores.astype("float64"), np.asfortranarray(scores), np.flip(np.flip(scores))):
        assert [s.tolist() for s in qure_lib.hard_negatives(same, targets)[0]] == expected
    counts = (scores * 1e6).astype("int64")
    sets, _ = qure_lib.hard_negatives(counts, targets.astype("int32"))
    same, _ = qure_lib.hard_negatives(counts, targets.astype("uint16"))
    assert [s.tolist() for s in same] == [s.tolist() for s in sets]
    learned = torch.tensor(scores, requires_grad=True)
    sets, _ = qure_lib.hard_negatives(learned, torch.tensor(targets))
    assert [s.tolist() for s in sets] == expected
    assert len(sets) == len(scores) and any(len(s) for s in sets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_made_single_and_ties_are_said(dtype):
    scores, targets = (torch.tensor(a) for a in drawn())
    with pytest.warns(UserWarning, match="of 40 queries have equal scores"):
        sets, _ = qure_lib.hard_negatives(scores.to(dtype), targets)
    with pytest.warns() as caught:
        import warnings

        warnings.warn("only this", stacklevel=1)
        expected, _ = qure_lib.hard_negatives(scores.to(dtype).float(), targets)
    assert len(caught) == 1  # single precision is not warned about
    assert [s.tolist() for s in sets] == [s.tolist() for s in expected]


def test_the_temperature_is_recorded_and_the_margin_said_in_its_unit():
    scores, targets = drawn()
    for curve in ("cosine", "preference"):
        _, report = qure_lib.hard_negatives(scores, targets, curve=curve, temperature=0.2)
        row = report.summary()
        assert (row["curve"], row["temperature"]) == (curve, 0.2)
        assert row["margin_over_temperature"] == pytest.approx(row["score_margin"] / 0.2)
    row = qure_lib.hard_negatives(scores, targets)[1].summary()
    assert np.isnan(row["temperature"]) and np.isnan(row["margin_over_temperature"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((0, 4))}, "at least one query"),
        ({"scores": np.zeros(4)}, r"\(Q, N\)"),
        ({"targets": np.zeros((3, 1), int)}, r"targets \(3, 1\)"),
        ({"targets": np.zeros(2, int)}, r"targets \(2,\)"),
        ({"targets": np.array([0.0, 1.0, 2.0])}, "whole numbers"),
        ({"targets": np.array([True, False, True])}, "whole numbers"),
        ({"targets": np.array([0, 5, 1])}, "query 1: its target 5"),
        ({"targets": [0, 1, 2]}, "targets must be an array"),
        ({"scores": [[0.1, 0.2]]}, "scores must be an array"),
        ({"scores": np.zeros((3, 4), complex)}, "real numbers"),
        ({"targets": np.array([0, 1, -1])}, "query 2: its target -1"),
        ({(1, 2): np.nan}, "query 1, image 2: the score is nan"),
        ({(2, 0): np.inf}, "query 2, image 0: the score is inf"),
        ({(0, 0): -np.inf}, "query 0: its target scores -inf"),
        ({"curve": "preference"}, "needs a temperature"),
        ({"curve": "preference", "temperature": 0}, "temperature"),
        ({"curve": "convex"}, "curve"),
        ({"rule": "steepest"}, "release"),
        ({"search_window": 0}, "search_window"),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_name(change, message):
    given = {"scores": np.arange(12.0).reshape(3, 4), "targets": np.zeros(3, int)}
    for name, value in change.items():
        if isinstance(name, tuple):
            given["scores"][name] = value
        else:
            given[name] = value
    with pytest.raises(ValueError, match=message):
        qure_lib.hard_negatives(given.pop("scores"), given.pop("targets"), **given)


def test_importing_the_library_loads_none_of_it():
    code = (
        "import sys, qure_lib; print('torch' in sys.modules); qure_lib.hard_negatives; "
        "print('torch' in sys.modules, 'transformers' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False", "False"]
    with pytest.raises(AttributeError, match="hard_positives"):
        qure_lib.hard_positives  # noqa: B018
