"""SynthFashion's other worlds: drawing style, popularity, attributes on a scale, and their log."""

import dataclasses
import json
import random

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep import catalogue, synthfashion, worlds
from data_prep.catalogue import CATEGORIES, NOTICE, SCALES, WORLDS, differences
from data_prep.garments import STYLES, draw_garment
from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.datasets.graded_relevance import load_graded_relevance
from qure_lib.train.training_data import TrainingData


@pytest.fixture
def tiny(monkeypatch):
    """A size small enough to draw several times."""
    monkeypatch.setitem(synthfashion.SIZES, "smoke", {"train": 6, "val": 40})
    monkeypatch.setitem(synthfashion.ANNOTATORS, "smoke", 2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_drawing_shows_the_same_garment_in_other_pixels(category):
    garments = catalogue.sample_garments(category, 12, random.Random(0))
    for seed, looks in enumerate(garments):
        photo, drawing = (
            draw_garment(category, looks, np.random.default_rng(seed), style).astype(float)
            for style in STYLES
        )
        assert np.abs(photo - drawing).mean() > 8  # of 255
        ink = np.abs(drawing - (30, 26, 40)).max(axis=2) < 30
        assert ink.any() and drawing[ink].size < drawing.size / 2


@pytest.mark.parametrize("name", ["default", "drawing"])
@pytest.mark.usefixtures("tiny")
def test_style_changes_pictures_and_not_annotations(name, tmp_path):
    manifest = {}
    for style in ("default", "drawing"):
        root = synthfashion.prepare(tmp_path / style, "smoke", workers=1, world=style)
        manifest[style] = json.loads((root / "MANIFEST.json").read_text())
    assert manifest[name]["world"] == name and manifest[name]["style"] in STYLES
    sums = [m["annotations_sha256"] for m in manifest.values()]
    pixels = [m["pixels_sha256"] for m in manifest.values()]
    assert sums[0] == sums[1] and pixels[0] != pixels[1]


@pytest.mark.usefixtures("tiny")
def test_another_world_replaces_the_one_before(tmp_path):
    root = synthfashion.prepare(tmp_path / "world", "smoke", workers=1)
    synthfashion.prepare(root, "smoke", workers=1, world="even")
    assert json.loads((root / "MANIFEST.json").read_text())["world"] == "even"
    with pytest.raises(ValueError, match="choose one of default, even, steep"):
        synthfashion.prepare(tmp_path / "new", "smoke", world="flat")


def test_a_world_of_an_earlier_layout_is_made_again_with_the_same_pixels(tmp_path, tiny):
    root = synthfashion.prepare(tmp_path / "world", "smoke", workers=1)
    made = json.loads((root / "MANIFEST.json").read_text())
    earlier = {key: value for key, value in made.items() if key not in ("layout", "world")}
    (root / "MANIFEST.json").write_text(json.dumps(earlier | {"from": "before the views"}))
    synthfashion.prepare(root, "smoke", workers=1)
    assert json.loads((root / "MANIFEST.json").read_text()) == made


def test_popularity_makes_values_rarer_or_more_common():
    shares = {}
    for name in ("even", "default", "steep"):
        garments = catalogue.sample_garments("dress", 4000, random.Random(0), WORLDS[name])
        shares[name] = np.mean([g["colour"] == "black" for g in garments])
    assert shares["even"] == pytest.approx(0.1, abs=0.02)
    assert shares["even"] < shares["default"] < shares["steep"]


# ---------------------------------------------------------------- on a scale


def test_differences_by_hand():
    a = {"colour": 0.95, "sleeve": 0.2, "fit": "loose"}
    b = {"colour": 0.05, "sleeve": 0.9, "fit": "fitted"}
    expected = [[[0, 0, 0], [0.2, 0.7, 1]], [[0.2, 0.7, 1], [0, 0, 0]]]
    assert differences([a, b], [a, b]) == pytest.approx(np.array(expected))


@pytest.fixture
def scales(tmp_path, tiny):
    return synthfashion.prepare(tmp_path / "scales", "smoke", workers=1, world="scales")


def test_captions_follow_the_scale(scales):
    known = json.loads((scales / "synthfashion.json").read_text())["images"]
    words = {"sleeve": ("shorter", "longer"), "neck": ("higher", "deeper")}
    comparatives = 0
    for queries in load_fashioniq(scales, "val").values():
        for triplet in queries.triplets:
            old, new = known[triplet.reference], known[triplet.target]
            changed = differences([old], [new])[0, 0] > NOTICE
            assert 1 <= changed.sum() <= 3
            text = " and ".join(triplet.phrases)
            for attribute, ways in words.items():
                way = ways[new[attribute] > old[attribute]]
                wrong = ways[new[attribute] < old[attribute]]
                noun = "sleeve" if attribute == "sleeve" else "neckline"
                comparatives += f"{way} {noun}" in text
                assert f"{wrong} {noun}" not in text
    assert comparatives > 5


def test_relevance_is_closeness(scales):
    known = json.loads((scales / "synthfashion.json").read_text())["images"]
    for name, queries in load_fashioniq(scales, "val").items():
        wanted = json.loads((scales / f"relevance/rel.{name}.val.json").read_text())
        relevance = load_graded_relevance(scales, queries, "val")
        images = [known[i] for i in queries.corpus.image_ids]
        slow = 1 - differences([row["wanted"] for row in wanted], images).mean(axis=2)
        np.testing.assert_allclose(relevance, slow, atol=1e-6)
        assert relevance.min() > 0 and relevance.max() <= 1
        assert len(relevance.unique()) > 100  # nine steps in the other worlds


def test_a_longer_sleeve_and_a_deeper_neck_cover_more_and_less():
    looks = {"pattern": "plain", "length": "medium", "fit": "fitted", "detail": "none"}
    looks |= {"trim": "none", "colour": 0.6}

    def blue(**change):
        picture = draw_garment("dress", looks | change, np.random.default_rng(0)).astype(int)
        return (picture[:, :, 2] > picture[:, :, 0] + 40).sum()

    lengths = [blue(sleeve=length, neck=0.2) for length in (0.0, 0.3, 0.6)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[2]
    rows = [draw_garment("dress", looks | {"sleeve": 0.3, "neck": n}, np.random.default_rng(0))
            for n in (0.0, 1.0)]  # fmt: skip
    assert np.abs(rows[0].astype(int) - rows[1]).max() > 40
    assert set(SCALES) == {"colour", "sleeve", "neck"}


# ---------------------------------------------------------------- the log


def test_each_warm_up_starts_from_stage_1_and_is_measured_after_it(monkeypatch, tmp_path):
    class Start:
        def retriever(self, stage):
            return f"{self.objective}, {stage}"

    def train(config, retriever, data, runs, name):
        assert retriever == "stage 1"
        run = Start()
        run.objective = config.objective
        return run

    monkeypatch.setattr(worlds.synthfashion, "prepare", lambda *args, **kwargs: None)
    monkeypatch.setattr(worlds, "load_training_data", lambda root: TrainingData({}, {}, {}))
    monkeypatch.setattr(worlds.Retriever, "open", lambda *args: "stage 1")
    monkeypatch.setattr(worlds, "train", train)
    monkeypatch.setattr(worlds, "graded_figures", lambda data: {})
    monkeypatch.setattr(worlds, "score_figures", lambda retriever, data: {"of": retriever})
    rows = worlds.measure("even", tmp_path, tmp_path, tmp_path)
    assert {row["warm_up"]: row["of"] for row in rows} == {
        "none": "stage 1",
        "published": "bradley_terry, last",
        "contrastive": "info_nce, last",
    }


def test_graded_figures_by_hand(scales):
    queries = load_fashioniq(scales, "val")["dress"]
    n = len(queries.corpus)
    relevance = torch.full((len(queries), n), 0.25)
    relevance.scatter_(1, queries.target_positions[:, None], 1.0)
    data = TrainingData({"dress": queries}, {}, {"dress": relevance})
    figures = worlds.graded_figures(data)
    assert figures["false_negative_percent"] == 0
    p = 1 / n  # one high value over a flat bulk: a Bernoulli's skewness
    assert figures["relevance_skewness"] == pytest.approx((1 - 2 * p) / np.sqrt(p * (1 - p)))


@pytest.mark.parametrize(
    ("skewness", "ratio", "rank", "kind"),
    [(0.3, 2, 0.5, "right"), (-0.3, 0.5, 0.5, "left"), (0.1, 2, 0.5, "neither"),
     (0.3, 2, 1.5, "neither"), (0.3, 0.5, 0.5, "neither")],
)  # fmt: skip
def test_a_world_is_judged_by_all_criteria(skewness, ratio, rank, kind):
    row = pd.Series({"score_skewness": skewness, "gap_top_over_bottom": ratio})
    row["target_rank_percent"], row["false_negative_percent"] = rank, 0.1
    assert worlds.judge(row) == kind


def test_the_log_is_judged_by_the_criteria_it_ships_with():
    log = pd.read_csv(worlds.HERE / "worlds.csv")
    assert log.apply(worlds.judge, axis=1).tolist() == log["kind"].tolist()
    shape = log.apply(worlds.judge, axis=1, columns=worlds.SHAPE)
    assert shape.tolist() == log["shape"].tolist()
    relevance = log.groupby("world")["relevance_skewness"].first()
    assert relevance["store"] > 0.2 and relevance["steep"] < -0.2  # what they are kept for
    for row in log.itertuples():
        settings = dataclasses.asdict(WORLDS[row.world])
        assert {key: getattr(row, key) for key in settings} == settings


def test_a_store_sells_all_kinds_and_its_queries_stay_within_one(tiny):
    files = synthfashion.make_annotations("smoke", 0, WORLDS["store"])
    known = files["synthfashion.json"]["images"]
    assert len(known) == 3 * (6 + 39)  # 40 is no multiple of three
    for category in CATEGORIES:
        listed = files[f"image_splits/split.{category}.val.json"]
        kinds = [known[i]["kind"] for i in listed]
        assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(CATEGORIES, 13)
        wanted = files[f"relevance/rel.{category}.val.json"]
        for triplet, row in zip(files[f"captions/cap.{category}.val.json"], wanted, strict=True):
            pair = {known[triplet[key]]["kind"] for key in ("candidate", "target")}
            assert pair == {row["wanted"]["kind"]} and triplet["candidate"] in listed
