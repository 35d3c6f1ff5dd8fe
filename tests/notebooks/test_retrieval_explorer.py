"""analysis.retrieval_explorer: it shows what ranking and mining say of any caption and image."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from analysis.method_figures import ZONE_COLOURS
from analysis.retrieval_explorer import SHOWN, RetrievalExplorer
from drawn_queries import QUERIES, DrawnEmbedder, draw_query_set
from markup import assert_harmless, parse

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.train.training_data import TrainingData

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
TEMPERATURE = 0.2


@pytest.fixture(autouse=True)
def temperature(monkeypatch):
    model = SimpleNamespace(temperature=torch.tensor(TEMPERATURE))
    monkeypatch.setattr(DrawnEmbedder, "model", model)


@pytest.fixture
def explorer(tmp_path):
    """Of two categories; graded relevance is known of the first one's val queries alone."""
    queries = {name: draw_query_set(tmp_path, name, 60) for name in ("dress", "shirt")}
    data = TrainingData(queries, queries, {}, {"dress": torch.rand(QUERIES, 60)})
    return RetrievalExplorer(
        data, {stage: DrawnEmbedder(stage) for stage in ("one", "two", "three")}
    )


def columns(explorer):
    """Of either model: title and text, and the (id, frame colour) of each image."""
    found = []
    for column in explorer.results.value.split("<h4>")[1:]:
        parsed = parse(column)
        images = [a for tag, a in parsed.elements if tag == "img"]
        frames = [(a["alt"], a["style"].removeprefix("border-color: ")) for a in images]
        found.append((parsed.text, frames))
    return found


def expected(queries, triplet, stage):
    """(ids, scores) of the best images for a query, by one matrix product."""
    one, model = replace(queries, triplets=(triplet,)), DrawnEmbedder(stage)
    scores = model.embed_corpus(queries.corpus) @ model.embed_queries(one)[0]
    best = scores.amax(dim=1).sort(descending=True)
    return [queries.corpus.image_ids[i] for i in best.indices], best.values.tolist()


def assert_best_are_shown(explorer, triplet, stages):
    for (text, frames), stage in zip(columns(explorer), stages, strict=True):
        ids, scores = expected(explorer.queries, triplet, stage)
        assert text.startswith(stage) and [i for i, _ in frames] == ids[:SHOWN]
        assert re.findall(r"score (-?[\d.]+)", text) == [f"{s:.3f}"[:6] for s in scores[:SHOWN]]


def test_it_starts_with_a_query_of_val_and_the_last_two_models(explorer):
    triplet = explorer.queries.triplets[0]
    assert (explorer.reference.value, explorer.caption.value) == ("dress0", triplet.caption)
    assert explorer.split.value == "val"
    assert_best_are_shown(explorer, triplet, ("two", "three"))


def test_a_typed_caption_is_ranked_over_any_image(explorer):
    explorer.left.value = "one"
    explorer.caption.value = "is green"
    explorer.reference.value = "dress17"
    triplet = replace(
        explorer.queries.triplets[0],
        query_id="dress17 is green",
        reference="dress17",
        caption="is green",
    )
    assert_best_are_shown(explorer, triplet, ("one", "three"))
    assert "relevance" not in explorer.results.value and "nobody knows" in explorer.asked.value
    frames = {colour for _, images in columns(explorer) for _, colour in images}
    assert frames == {ZONE_COLOURS["reference"]}


@pytest.mark.parametrize("curve", ["cosine", "preference"])
def test_the_frames_of_a_known_query_are_the_zones_of_its_window(explorer, curve):
    explorer.curve.value = curve
    model, seen = DrawnEmbedder("two"), set()
    config = MiningConfig(curve=curve, temperature=TEMPERATURE)
    embedded = model.embed_queries(explorer.queries), model.embed_corpus(explorer.queries.corpus)
    _, report = mine_hard_negatives(*embedded, explorer.queries.target_positions, config)
    zone_of = {colour: zone for zone, colour in ZONE_COLOURS.items()}
    for q, row in enumerate(report.per_query.itertuples()):
        explorer.query.value = q
        (text, frames), _ = columns(explorer)
        assert f"target at rank {row.target_rank};" in text
        for rank, (image_id, colour) in enumerate(frames):
            zone = "reference"
            if row.set_size > 0:
                late = rank > row.window_end
                zone = "above" if rank < row.window_start else "below" if late else "inside"
            zone = "target" if rank == row.target_rank else zone
            assert zone_of[colour] == zone
            assert (zone == "target") == (image_id == f"dress{q}")
            seen.add(zone)
    assert {"target", "above"} <= seen and (curve == "cosine" or "inside" in seen)


def test_relevance_is_shown_where_it_is_known(explorer):
    (text, frames), _ = columns(explorer)
    known = explorer.data.val_relevance["dress"][0]
    ids = [int(i.removeprefix("dress")) for i, _ in frames]
    assert re.findall(r"relevance ([\d.]+)", text) == [f"{known[i]:.2f}" for i in ids]
    explorer.category.value = "shirt"
    assert columns(explorer) and "relevance" not in explorer.results.value


def test_a_split_and_a_category_bring_their_own_queries(explorer):
    explorer.query.value = 3
    explorer.category.value = "shirt"
    assert explorer.query.value == 0 and explorer.reference.value == "shirt0"
    explorer.split.value = "train"
    assert_best_are_shown(explorer, explorer.queries.triplets[0], ("two", "three"))


def test_a_corpus_is_embedded_once_a_model(explorer):
    for caption in ("is green", "is blue", "is dotted"):
        explorer.caption.value = caption
    assert [explorer.models[stage].embedded for stage in ("one", "two")] == [[], ["dress0"]]


def test_the_button_takes_another_image_and_keeps_the_caption(explorer):
    caption, seen = explorer.caption.value, set()
    for _ in range(20):
        explorer.random.click()
        seen.add(explorer.reference.value)
    assert explorer.caption.value == caption and len(seen) > 5


@pytest.mark.parametrize(("reference", "caption"), [("no such image", "is red"), ("dress0", "  ")])
def test_what_is_missing_is_asked_for(explorer, reference, caption):
    explorer.caption.value, explorer.reference.value = caption, reference
    assert explorer.results.value == "" and "type a caption" in explorer.asked.value


def test_captions_ids_and_names_stay_text(tmp_path):
    """The caption and ids of a data set, what is typed, and the name of a model."""
    queries = draw_query_set(tmp_path, HOSTILE, 12)
    hostile = replace(queries.triplets[0], caption=HOSTILE)
    queries = replace(queries, triplets=(hostile,))
    data = TrainingData({"dress": queries}, {"dress": queries}, {})
    explorer = RetrievalExplorer(data, {HOSTILE: DrawnEmbedder("one")})
    assert_harmless(explorer.asked.value, HOSTILE)
    assert_harmless(explorer.results.value, HOSTILE)
    explorer.reference.value = HOSTILE
    assert_harmless(explorer.asked.value, repr(HOSTILE))
