"""qure_lib.evaluation.hp_fashioniq against slow and plain references."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from qure_lib.evaluation.hp_fashioniq import (
    evaluate_hp_fashioniq,
    hp_query_set,
    score_hp_fashioniq,
    summarise_preference,
)
from qure_lib.evaluation.statistics import bootstrap_ci

N = 12  # images


@pytest.fixture
def judged():
    """Six judged queries of three participants; the last shows the same five images twice."""
    rng, rows = np.random.default_rng(0), []
    for row in range(6):
        first, second = (tuple(map(str, rng.permutation(N)[:5])) for _ in range(2))
        about = {"participant": f"user_{row % 3}", "category": "shirt", "reference": str(row)}
        about |= {"caption": "is red", "target": "11", "preferred": 1 + row % 2}
        rows.append(about | {"set_1": first, "set_2": second if row < 5 else first[::-1]})
    return pd.DataFrame(rows)


def test_a_set_scores_the_mean_of_its_five_images(judged):
    generator = torch.Generator().manual_seed(0)
    embedded = [torch.randn(*s, generator=generator) for s in ((6, 8), (N, 2, 8))]
    corpus = hp_query_set(judged, None).corpus
    retriever = SimpleNamespace(
        embed_queries=lambda q: embedded[0], embed_corpus=lambda c: embedded[1]
    )
    frame = evaluate_hp_fashioniq(retriever, judged)
    for k, row in enumerate(judged.itertuples()):
        for name, shown in (("set_score_1", row.set_1), ("set_score_2", row.set_2)):
            images = [embedded[1][corpus.image_ids.index(i)].numpy() for i in shown]
            slow = np.mean([max(embedded[0][k].numpy() @ token for token in i) for i in images])
            assert frame[name][k] == pytest.approx(slow, rel=1e-5)
        better = 1 if frame["set_score_1"][k] > frame["set_score_2"][k] else 2
        if k < 5:
            assert frame["agrees"][k] == (better == row.preferred)
            assert frame["one_sided"][k] == (better == 1)
    assert frame["agrees"][5] == 0.5  # the same images in another order are a tie, exactly
    pd.testing.assert_frame_equal(evaluate_hp_fashioniq(retriever, judged, memory=5000), frame)


def test_judged_queries_are_queries_by_row_and_need_their_files(judged):
    queries = hp_query_set(judged, None)
    assert [t.query_id for t in queries.triplets] == list("012345")
    assert set(queries.corpus.image_ids) == {i for s in judged["set_1"] for i in s} | {
        i for s in judged["set_2"] for i in s
    }
    files = {str(i): f"images/{i}.png" for i in range(N)}
    assert hp_query_set(judged, files).reference_paths["3"] == "images/3.png"
    with pytest.raises(ValueError, match="image '3' has no file; name the folder of FashionIQ"):
        hp_query_set(judged, {i: path for i, path in files.items() if i != "3"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(judged, value):
    scores = np.zeros((6, 2))
    scores[4, 1] = value
    with pytest.raises(ValueError, match="score_2.*finite"):
        score_hp_fashioniq(judged, scores)


# ---------------------------------------------------------------- the summary


def test_preference_rates_resample_participants():
    agrees = np.array([1, 0, 1, 0.5, 1, 0])
    one_sided = [True, False, True, False, False, True]
    per_query = pd.DataFrame({"agrees": agrees, "one_sided": one_sided})
    per_query["preferred"] = [1, 1, 1, 2, 2, 2]
    per_query["participant"] = list("aabbcc")
    found = summarise_preference(per_query).set_index("measure")
    expected = {"preference_rate": 200 / 3, "agreement": 350 / 6, "base_rate": 50}
    assert found["estimate"].to_dict() == pytest.approx(expected)
    assert found["n"].tolist() == [3, 6, 6]
    clustered = bootstrap_ci(100 * agrees, clusters=list("aabbcc"))
    assert found.loc["agreement", ["low", "high"]].tolist() == [clustered.low, clustered.high]
    with pytest.raises(ValueError, match="no set 1 scores higher"):
        summarise_preference(per_query.assign(one_sided=False))


def test_a_rate_that_rests_on_one_participant_has_no_interval():
    per_query = pd.DataFrame({"agrees": [1.0, 0, 1, 0], "one_sided": [True, True, False, False]})
    per_query = per_query.assign(preferred=1, participant=list("aabb"))
    summary = summarise_preference(per_query).set_index("measure")
    assert summary["estimate"].tolist() == [50, 50, 100]
    assert summary["low"].isna().tolist() == [True, False, False]  # a alone is one-sided
