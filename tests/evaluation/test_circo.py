"""qure_lib.evaluation.circo against slow and plain references, and its real examples."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.loading import real_annotations
from qure_lib.datasets.queries import Corpus
from qure_lib.evaluation.circo import (
    CIRCO_FILE,
    evaluate_circo,
    known_corpus,
    rank_circo,
    score_circo,
    summarise_circo,
    summarise_circo_details,
)
from qure_lib.evaluation.metrics import recall_at_k


def ranked_ids(scores, triplet, exclude):
    """The ids of (N,) scores, best first, ties in the order of the corpus."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [str(i) for i in order if not exclude or str(i) != triplet.reference]


@pytest.mark.parametrize("exclude", [False, True])
def test_every_ground_truth_counts(drawn, exclude):
    queries, embedder, scores = drawn
    frame = evaluate_circo(embedder, queries, exclude_reference=exclude)
    for k, t in enumerate(queries.triplets):
        ranked = ranked_ids(scores[k], t, exclude)
        assert frame["rank"][k] == ranked.index(t.target)
        for cut in (5, 10, 25, 50):
            hits, total = 0, 0.0
            for rank, image in enumerate(ranked[:cut]):
                if image in t.ground_truths:
                    hits += 1
                    total += hits / (rank + 1)
            slow = total / min(cut, len(t.ground_truths))
            assert frame[f"ap{cut}"][k] == pytest.approx(slow)
    assert frame["aspects"].tolist() == [("colour", "neck")] * len(queries)
    other = evaluate_circo(embedder, queries, exclude_reference=not exclude)
    assert (frame["ap5"] != other["ap5"]).any()


def test_the_order_of_the_ground_truths_and_the_memory_change_nothing(drawn):
    queries, embedder, _ = drawn
    frame = evaluate_circo(embedder, queries)
    turned = [replace(t, ground_truths=t.ground_truths[::-1]) for t in queries.triplets]
    assert evaluate_circo(embedder, replace(queries, triplets=tuple(turned))).equals(frame)
    assert evaluate_circo(embedder, queries, memory=2000).equals(frame)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("wrong", ["target", "ground_truths", "reference", "twice"])
def test_queries_without_proper_answers_are_refused(drawn, wrong, exclude):
    queries, embedder, _ = drawn
    triplet = queries.triplets[3]
    truths = {
        "target": {"target": ""},
        "ground_truths": {"ground_truths": ()},
        "reference": {"ground_truths": (triplet.target, triplet.reference)},
        "twice": {"ground_truths": (triplet.target, triplet.target)},
    }[wrong]
    bare = replace(queries, triplets=(*queries.triplets[:3], replace(triplet, **truths)))
    with pytest.raises(ValueError, match="query q3: ground_truths .* so evaluate val"):
        evaluate_circo(embedder, bare, exclude)
    with pytest.raises(ValueError, match="query q3: ground_truths .* so evaluate val"):
        score_circo(bare, rank_circo(embedder, queries, exclude))


@pytest.mark.parametrize("exclude", [False, True])
def test_rankings_score_as_their_model_does(drawn, exclude):
    queries, embedder, scores = drawn
    rankings = rank_circo(embedder, queries, exclude)
    for k, t in enumerate(queries.triplets):
        assert rankings[t.query_id] == ranked_ids(scores[k], t, exclude)  # only 12 images
    assert score_circo(queries, rankings).equals(evaluate_circo(embedder, queries, exclude))


def test_a_file_scores_as_the_evaluator_does(smoke_world, tmp_path, random_embedder):
    queries = load_circo(smoke_world / "circo_like", images=False)
    embedder = random_embedder(len(queries), len(queries.corpus))
    for exclude in (False, True):
        rankings = rank_circo(embedder, queries, exclude_reference=exclude)
        CIRCO_FILE.write(tmp_path / "circo.json", rankings, queries)
        assert CIRCO_FILE.read(tmp_path / "circo.json", queries) == rankings
        frame = evaluate_circo(embedder, queries, exclude_reference=exclude)
        assert (frame["rank"] > 50).any()
        frame["rank"] = frame["rank"].clip(upper=50)
        assert score_circo(queries, rankings).equals(frame)
    assert all(t.reference not in rankings[t.query_id] for t in queries.triplets)


def test_the_corpus_is_known_where_there_is_a_list_of_it(drawn):
    first = replace(drawn[0], triplets=drawn[0].triplets[:1])
    assert known_corpus(first) == first.corpus.image_ids
    t = first.triplets[0]
    named = Corpus(tuple(dict.fromkeys((t.reference, *t.ground_truths))), ())
    assert known_corpus(replace(first, corpus=named)) is None
    kept = replace(first, corpus=named, dropped_images=5)  # a list, most of its files missing
    assert known_corpus(kept) == named.image_ids


# ---------------------------------------------------------------- summaries


def test_the_summary_is_table_5(root):
    precision = pd.DataFrame({f"ap{k}": [k / 100, 0.0] for k in (5, 10, 25, 50)})
    precision["aspects"] = [("colour",), ()]
    found = summarise_circo(precision)
    assert found["estimate"].tolist() == [2.5, 5, 12.5, 25]
    assert found["words"].tolist() == ["mAP@5", "mAP@10", "mAP@25", "mAP@50"]
    published = pd.read_csv(root / "reports/published/table5_circo_zero_shot.csv")
    assert ["method", *found["measure"]] == list(published)


def test_the_details_are_recall_of_the_target_and_map_by_aspect():
    per_query = pd.DataFrame({"rank": [0, 7, 60], "ap5": [1.0, 0, 0], "ap10": [1.0, 0.5, 0]})
    per_query["aspects"] = [("colour", "neck"), ("colour",), ()]
    found = summarise_circo_details(per_query).set_index("measure")
    expected = {"r5": 100 / 3, "r10": 200 / 3, "map10_colour": 75, "map10_neck": 100}
    assert found["estimate"].to_dict() == pytest.approx(expected)
    assert found["n"].tolist() == [3, 3, 2, 1]
    assert found["low"].isna().tolist() == [False, False, False, True]  # one query: no interval


# ---------------------------------------------------------------- the real examples

REAL = real_annotations("circo")
needs_circo = pytest.mark.skipif(REAL is None, reason="QURE_DATA does not hold circo/")


@needs_circo
def test_the_example_for_val_scores_as_counted_by_hand():
    """Every sum of AP@k and Recall@k once more, from the JSON files alone."""
    path = REAL / "submission_examples" / "submission_val.json"
    queries = load_circo(REAL, "val", images=False)
    frame = score_circo(queries, CIRCO_FILE.read(path, queries))
    listed = json.loads(path.read_text())
    entries = json.loads((REAL / "annotations" / "val.json").read_text())
    expected = {
        5: (0.4861, 0.9091),
        10: (0.5178, 0.9091),
        25: (0.5400, 1.3636),
        50: (0.6020, 3.6364),
    }
    for k, (precision, recall) in expected.items():
        slow, found = [], []
        for entry in entries:
            hit = np.isin(listed[str(entry["id"])][:k], entry["gt_img_ids"])
            at = np.cumsum(hit) / np.arange(1, k + 1)
            slow.append((hit * at).sum() / min(k, len(entry["gt_img_ids"])))
            found.append(entry["target_img_id"] in listed[str(entry["id"])][:k])
        np.testing.assert_allclose(frame[f"ap{k}"], slow)
        assert np.array_equal(recall_at_k(frame["rank"], k), found)
        assert round(100 * frame[f"ap{k}"].mean(), 4) == pytest.approx(precision)
        assert round(100 * np.mean(found), 4) == pytest.approx(recall)


@needs_circo
def test_the_example_for_test_is_one_that_the_server_takes(tmp_path):
    path = REAL / "submission_examples" / "submission_test.json"
    queries = load_circo(REAL, "test", images=False)
    rankings = CIRCO_FILE.read(path, queries)
    assert len(rankings) == 800
    CIRCO_FILE.write(tmp_path / "again.json", rankings, queries)
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    with pytest.raises(ValueError, match=r"a ranking of unknown query '220' \(580 like it\)"):
        CIRCO_FILE.read(path, load_circo(REAL, "val", images=False))
