"""What the study keeps for notebook 09: the graded relevance of the five best images."""

import numpy as np
import pytest
import torch
from analysis.auxiliary import mean_relevance_of_five
from drawn_queries import QUERIES, DrawnEmbedder, draw_query_set

IMAGES = 30


@pytest.fixture
def world(tmp_path):
    """Two categories of queries, and the graded relevance of every image to each of them."""
    generator = torch.Generator().manual_seed(0)
    queries = {name: draw_query_set(tmp_path, name, IMAGES) for name in ("dress", "shirt")}
    graded = {name: torch.rand(QUERIES, IMAGES, generator=generator) for name in queries}
    return queries, graded


def test_the_five_best_are_those_of_a_plain_ranking_without_the_reference(world):
    queries, graded = world
    model = DrawnEmbedder("trained")
    found = mean_relevance_of_five(model, queries, graded)
    assert len(found) == 1 and found.shape[1] == 2 * QUERIES
    left_out = 0
    for name, known in queries.items():
        asked, images = model.embed_queries(known), model.embed_corpus(known.corpus)
        for number, triplet in enumerate(known.triplets):
            scores = [max((asked[number] @ token).item() for token in image) for image in images]
            ranked = sorted(range(IMAGES), key=lambda image: -scores[image])  # noqa: B023
            reference = known.corpus.image_ids.index(triplet.reference)
            left_out += reference in ranked[:5]
            best = [image for image in ranked if image != reference][:5]
            expected = np.mean([graded[name][number, image].item() for image in best])
            assert found[triplet.query_id][0] == pytest.approx(expected, abs=1e-6)
    assert left_out > 0


def test_there_is_no_row_where_relevance_is_not_known(world):
    queries, graded = world
    model = DrawnEmbedder("trained")
    assert mean_relevance_of_five(model, queries, {}).empty
    assert mean_relevance_of_five(model, queries, graded | {"shirt": None}).empty
