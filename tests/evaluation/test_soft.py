"""Rankings scored against all images that are labelled as fitting."""

import json
import math
import random

import numpy as np
import pytest
from drawn_queries import draw_query_set

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.loading import real_annotations
from qure_lib.datasets.soft import load_soft_labels
from qure_lib.evaluation.soft import score_soft

NEEDED = [real_annotations(name) for name in ("fashioniq", "soft")]


@pytest.fixture
def queries(tmp_path):
    return draw_query_set(tmp_path, "dress", images=30)


def test_other_fitting_images_count_beside_the_target(queries):
    triplet, (a, b, c, d, e) = queries.triplets[0], [f"x{n}" for n in range(5)]
    labels = {triplet.query_id: frozenset({triplet.target, a, b, e})}
    ranked = {triplet.query_id: [a, c, triplet.target, b, d]}
    row = score_soft(ranked, labels, queries, k=3).iloc[0]
    assert (row["rank"], row.fitting, row.others) == (2, 4, 1)
    assert row.ap == pytest.approx((1 / 1 + 2 / 3) / 3)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert row.ndcg == pytest.approx((1 + 1 / math.log2(4)) / ideal)


def test_an_unlisted_target_has_its_lists_length_for_a_rank(queries):
    triplet = queries.triplets[0]
    labels = {triplet.query_id: frozenset({triplet.target})}
    row = score_soft({triplet.query_id: ["a", "b"]}, labels, queries, k=2).iloc[0]
    assert (row["rank"], row.others, row.ap, row.ndcg) == (2, 0, 0, 0)


def test_against_a_plain_count(queries):
    drawn, images = random.Random(0), queries.corpus.image_ids
    labels, rankings = {}, {}
    for t in queries.triplets:
        labels[t.query_id] = frozenset(drawn.sample(images, 4)) | {t.target}
        rankings[t.query_id] = drawn.sample(images, 12)
    for row, t in zip(
        score_soft(rankings, labels, queries, k=5).itertuples(), queries.triplets, strict=True
    ):
        fits, ranked = labels[t.query_id], rankings[t.query_id]
        precision = gain = 0.0
        for place, image in enumerate(ranked[:5]):
            if image in fits:
                precision += sum(i in fits for i in ranked[: place + 1]) / (place + 1)
                gain += 1 / math.log2(place + 2)
        most = min(5, len(fits))
        assert row.ap == pytest.approx(precision / most)
        assert row.ndcg == pytest.approx(gain / sum(1 / math.log2(n + 2) for n in range(most)))
        assert row.others == sum(i in fits and i != t.target for i in ranked[:5])


def test_only_labelled_queries_are_scored_and_each_needs_a_ranking(queries):
    first, second = queries.triplets[:2]
    labels = {second.query_id: frozenset({second.target})}
    found = score_soft({second.query_id: ["a", second.target]}, labels, queries, k=2)
    assert found.query_id.tolist() == [second.query_id]
    for ranking in ({}, {second.query_id: ["a"]}, {second.query_id: ["a", "a"]}):
        with pytest.raises(ValueError, match=rf"query {second.query_id}: .*rank 2 or more"):
            score_soft(ranking, labels, queries, k=2)
    assert first.query_id not in labels


@pytest.mark.skipif(None in NEEDED, reason="QURE_DATA does not hold fashioniq/ and soft/")
def test_the_released_rankings_of_the_caption_alone_have_the_recall_that_was_counted():
    for category, recall in {"dress": 14.72, "shirt": 20.41, "toptee": 21.37}.items():
        queries = load_fashioniq(NEEDED[0], "val", images=False)[category]
        file = NEEDED[1] / f"mt_candidates_{category}_by_joined_query_20.json"
        listed = {
            (e["ref_image_name"], e["target_image_name"]): e["top_k_names"]
            for e in json.loads(file.read_text())
        }
        rankings = {t.query_id: listed[t.reference, t.target] for t in queries.triplets}
        everyone = {t.query_id: frozenset({t.target}) for t in queries.triplets}
        alone = score_soft(rankings, everyone, queries)
        assert 100 * np.mean(alone["rank"] < 10) == pytest.approx(recall, abs=0.005)
        labels = load_soft_labels(NEEDED[1], queries)
        assert score_soft(rankings, labels, queries).others.mean() > 2
