"""analysis.explorer: what the controls show is what ranking and mining say."""

import re
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from analysis import method_figures
from analysis.explorer import ExplorerData, RelevanceExplorer
from analysis.explorer_parts import image_html, ranking_strip
from drawn_queries import DrawnEmbedder, draw_explorer
from markup import assert_harmless
from PIL import Image

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.train.training_data import TrainingData

TEMPERATURES = {"before warm-up": 0.07, "epoch 5": 0.5, "epoch 9": 0.03}


@pytest.fixture(autouse=True)
def learned(monkeypatch):
    """Give each drawn model a temperature of its own."""

    def model(embedder):
        return SimpleNamespace(temperature=torch.tensor(TEMPERATURES[embedder.stage]))

    monkeypatch.setattr(DrawnEmbedder, "model", property(model), raising=False)


@pytest.fixture
def explorer(tmp_path):
    explorer = draw_explorer(tmp_path, 60)
    explorer.definition.value = "before warm-up"
    return explorer


def mined(explorer, config=MiningConfig(), stage="before warm-up"):  # noqa: B008 (frozen)
    """What mining says of all dress queries, by the model of a definition."""
    embedder, data = DrawnEmbedder(stage), explorer.worlds["here"].data
    queries, relevance = data.train["dress"], data.relevance["dress"]
    embedded = embedder.embed_queries(queries), embedder.embed_corpus(queries.corpus)
    _, report = mine_hard_negatives(*embedded, queries.target_positions, config, relevance)
    return report.per_query


def shown_ranks(explorer, zone: str) -> list[int]:
    (row,) = re.findall(rf"{zone} the window.*?(?=<b |$)", explorer.zones.value)
    return [int(rank) for rank in re.findall(r"rank (\d+)", row)]


@pytest.mark.parametrize(("rule", "search_window"), [("release", None), ("largest", 20)])
def test_the_images_are_those_of_the_mined_window(explorer, rule, search_window):
    explorer.rule.value, explorer.search_window.value = rule, search_window or 0
    expected = mined(explorer, MiningConfig(drop_rule=rule, search_window=search_window))
    assert_windows_are_shown(explorer, expected)


@pytest.mark.parametrize("stage", ["before warm-up", "epoch 5"])
def test_the_preference_curve_has_the_temperature_of_the_shown_definition(explorer, stage):
    explorer.curve.value, explorer.definition.value = "preference", stage
    config = MiningConfig(curve="preference", temperature=TEMPERATURES[stage])
    expected = mined(explorer, config, stage)
    released = mined(explorer, MiningConfig(), stage)
    assert not expected.window_start.equals(released.window_start)
    assert_windows_are_shown(explorer, expected)


def assert_windows_are_shown(explorer, expected):
    """The zones hold, of each dress query, the images of its mined window."""
    for q, row in enumerate(expected.itertuples()):
        explorer.query.value = ("here", "train", "dress", q)
        assert f"rank {row.target_rank}<" in explorer.triplet.value
        if row.set_size:
            inside, below = shown_ranks(explorer, "inside"), shown_ranks(explorer, "below")
            assert (inside[0], inside[-1]) == (row.window_start, row.window_end)
            assert not below or below[0] == row.window_end + 1
            assert f"mean relevance {row.relevance_inside:.2f}" in explorer.zones.value
        else:
            assert explorer.zones.value == ""


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("curve", "preference"),
        ("rule", "largest"),
        ("search_window", 5),
        ("threshold", 20),
        ("definition", "epoch 5"),
        ("overlay", "epoch 5"),
        ("zoom", (0, 9)),
        ("category", "shirt"),
        ("world", "abroad"),
    ],
)
def test_every_control_changes_the_picture(explorer, control, value):
    explorer.query.value = ("here", "train", "dress", 2)
    before = bytes(explorer.picture.value)
    assert before.startswith(b"\x89PNG")
    getattr(explorer, control).value = value
    assert bytes(explorer.picture.value) != before


def test_either_definition_is_drawn_in_the_preference_by_its_own_temperature(explorer, monkeypatch):
    drawn = []
    plain = method_figures.plot_relevance_curve

    def plot(ax, *args, **options):
        drawn.append(ax)
        return plain(ax, *args, **options)

    monkeypatch.setattr(method_figures, "plot_relevance_curve", plot)
    explorer.overlay.value = "epoch 5"
    explorer.curve.value = "preference"
    cosines, ax = drawn
    assert cosines.get_ylabel() == "Score (cosine)"
    assert ax.get_ylabel() == "1 - P"
    curves = [line.get_ydata() for line in ax.get_lines() if len(line.get_ydata()) == 60]
    queries, (bottom, top) = explorer.queries, ax.get_ylim()
    for curve, stage in zip(curves, ("epoch 5", "before warm-up"), strict=True):
        model = DrawnEmbedder(stage)
        scores = model.embed_queries(queries)[:1] @ model.embed_corpus(queries.corpus).mT
        scores = scores.amax(dim=-1).flatten().double()
        expected = torch.sigmoid((scores - scores[0]) / TEMPERATURES[stage])  # image 0: the target
        np.testing.assert_allclose(curve, expected.sort(descending=True).values, atol=1e-5)
        assert bottom < curve.min() <= curve.max() < top


def test_the_threshold_is_for_the_release_rule_alone(explorer):
    explorer.rule.value = "largest"
    assert explorer.threshold.disabled
    explorer.rule.value = "release"
    assert not explorer.threshold.disabled


def test_captions_are_searched_and_shown_as_text(explorer):
    explorer.search.value = "DOTS red"
    assert [value[-1] for _, value in explorer.query.options] == [2, 5, 8, 11]
    before = explorer.picture.value
    explorer.search.value = "no such word"
    assert explorer.query.options == () and explorer.random.disabled
    explorer.rule.value = "largest"
    assert explorer.picture.value == before
    explorer.search.value = "wide"
    assert explorer.query.value == ("here", "train", "dress", 0) and not explorer.random.disabled
    assert "red &amp; &lt;wide&gt;" in explorer.triplet.value


def test_the_buttons_find_queries_among_those_searched_for(explorer):
    report = mined(explorer)
    explorer.search.value = "red"
    report = report.loc[[0, 2, 3, 5, 6, 8, 9, 11]]
    explorer.smoothest.click()
    assert explorer.query.value[-1] == report.largest_gap.idxmin()
    explorer.lowest.click()
    assert explorer.query.value[-1] == report.window_start.idxmax()
    seen = set()
    for _ in range(20):
        explorer.random.click()
        seen.add(explorer.query.value[-1])
    assert len(seen) > 3 and seen <= set(report.index)


def test_the_mouse_finds_every_rank_with_its_score(explorer):
    explorer.zoom.value = (10, 19)
    cards = re.findall(r"rank (\d+)<br>score (-?[\d.]+)<br>relevance", explorer.hover.value)
    embedder, queries = DrawnEmbedder("before warm-up"), explorer.queries
    scores = embedder.embed_queries(queries)[:1] @ embedder.embed_corpus(queries.corpus).mT
    ranked = scores.amax(dim=-1).flatten().sort(descending=True).values
    assert [int(rank) for rank, _ in cards] == list(range(10, 20))
    np.testing.assert_allclose([float(s) for _, s in cards], ranked[10:20], atol=6e-4)


def test_relevance_is_shown_only_where_it_is_known(explorer):
    for category, split, known in (
        ("dress", "train", 1),
        ("dress", "val", 0),
        ("shirt", "train", 0),
    ):
        explorer.category.value, explorer.split.value = category, split
        assert ("relevance" in explorer.zones.value + explorer.triplet.value) == known


def test_a_definition_is_embedded_once(explorer):
    for overlay in ("epoch 5", "none", "epoch 5"):
        explorer.overlay.value = overlay
        explorer.query.index = 3
    explorer.search_window.value = 50
    models = explorer.worlds["here"].definitions
    assert [models[stage].embedded for stage in models] == [["dress0"], ["dress0"]]


def test_it_starts_after_warm_up(tmp_path):
    explorer = draw_explorer(tmp_path, 60)
    assert explorer.definition.value == "epoch 5"
    assert explorer.worlds["here"].definitions["before warm-up"].embedded == []


def marks(strip: str) -> dict[str, tuple[float, float]]:
    """Left end and width of each mark of a bar, in per cent."""
    found = re.findall(r'class="(\w+)" style="left: ([\d.]+)%; width: ([\d.]+)%', strip)
    return {zone: (float(left), float(width)) for zone, left, width in found}


def test_the_strips_show_the_windows_of_both_curves_in_the_whole_ranking(explorer):
    explorer.query.value = ("here", "train", "dress", 2)
    temperature = TEMPERATURES["before warm-up"]
    strips = explorer.strips.value.split('<div class="strip">')[1:]
    for strip, curve in zip(strips, ("cosine", "preference"), strict=True):
        row = mined(explorer, MiningConfig(curve=curve, temperature=temperature)).iloc[2]
        start, end = int(row.window_start), int(row.window_end)
        assert f"{curve}<" in strip and f"ranks {start} to {end}: " in strip
        shown = {"inside": (start, end - start + 1), "target": (row.target_rank, 1)}
        for zone, (first, count) in shown.items():
            np.testing.assert_allclose(marks(strip)[zone], (first / 0.6, count / 0.6), atol=0.01)
    before = explorer.strips.value
    explorer.zoom.value = (0, 9)
    assert explorer.strips.value == before


def test_a_strip_without_a_pair_of_drops_has_the_target_alone():
    strip = ranking_strip("cosine", 200, 50, (-1, -1))
    assert marks(strip) == {"target": (25, 0.5)} and "no pair of drops" in strip


def test_a_world_brings_its_own_categories_and_definitions(explorer):
    explorer.world.value = "abroad"
    assert (explorer.category.options, explorer.definition.options) == (("hat",), ("epoch 9",))
    assert explorer.query.value == ("abroad", "train", "hat", 0)
    assert explorer.worlds["abroad"].definitions["epoch 9"].embedded == ["hat0"]
    explorer.world.value = "here"
    assert explorer.query.value == ("here", "train", "dress", 0)
    assert explorer.worlds["here"].definitions["before warm-up"].embedded == ["dress0"]


def test_graded_relevance_of_val_queries_is_shown(explorer):
    data = explorer.worlds["here"].data
    data.val_relevance["dress"] = torch.full((12, 60), 0.25)
    explorer.split.value = "val"
    assert "relevance 0.25" in explorer.triplet.value


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"broken\.png"):
        method_figures.plot_image(ax, tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"broken\.png"):
        image_html(tmp_path / "broken.png")


def test_an_image_of_a_page_is_small_and_has_the_colour_of_its_zone(tmp_path):
    Image.new("RGB", (400, 600), "red").save(tmp_path / "image.png")
    page = image_html(tmp_path / "image.png", "0.61", "inside")
    assert page.startswith('<figure><img src="data:image/jpeg;base64,')
    assert method_figures.ZONE_COLOURS["inside"] in page and page.endswith("0.61</figure>")
    assert len(page) < 3000


def test_captions_and_names_stay_text(explorer, tmp_path):
    name = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    Image.new("RGB", (4, 4), "red").save(tmp_path / "image.png")
    for path in (tmp_path / "image.png", None):
        assert_harmless(image_html(path, name=name), name)
    queries = explorer.queries
    queries = replace(queries, triplets=(replace(queries.triplets[0], caption=name),))
    data = TrainingData({"dress": queries}, {}, {})
    explorer = RelevanceExplorer({name: ExplorerData(data, {name: DrawnEmbedder("epoch 9")})})
    assert_harmless(explorer.triplet.value, name)
