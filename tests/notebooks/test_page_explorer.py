"""analysis.page_explorer: what the page's explorer is told is what ranking and mining say."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run
import torch
from analysis import page_explorer
from analysis.page_explorer import CURVES, GROUPS, WINDOWS, ZONES
from drawn_queries import QUERIES, DrawnEmbedder, draw_query_set
from PIL import Image
from report.folder import Reports, read_notes

from qure_lib.method.config import MiningConfig
from qure_lib.method.mining import mine_hard_negatives
from qure_lib.train.training_data import TrainingData

CONFIG = MiningConfig(temperature=0.07)


@pytest.fixture
def drawn(tmp_path):
    """Two categories of 60 images, relevance of one known, and what mining says of them."""
    queries = {name: draw_query_set(tmp_path, name, 60) for name in ("dress", "shirt")}
    generator = torch.Generator().manual_seed(1)
    relevance = {"dress": torch.rand(QUERIES, 60, generator=generator), "shirt": None}
    data, model = TrainingData(queries, queries, relevance), DrawnEmbedder("here")
    return data, model, {name: mine(model, data, name, CONFIG) for name in queries}


def mine(model, data, name, config):
    queries = data.train[name]
    embedded = model.embed_queries(queries), model.embed_corpus(queries.corpus)
    return mine_hard_negatives(*embedded, queries.target_positions, config)[1]


def saved(drawn, tmp_path, share_images=True):
    data, model, mined = drawn
    reports = Reports(tmp_path / "reports", "03_hard_negatives")
    page_explorer.save_page_explorer(model, mined, data, share_images, reports)
    (note,) = read_notes(reports.root)
    assert note["kind"] == "explorer" and note["notebook"] == "03_hard_negatives"
    text = (reports.root / "explorers" / f"{note['name']}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def numbers(lines, data):
    """Which of its category's queries each line is: the target of drawn query q is image q."""
    corpora = {name: queries.corpus.image_ids for name, queries in data.train.items()}
    return [corpora[line["category"]].index(line["target"]) for line in lines]


def test_each_window_is_the_one_that_mining_finds(drawn, tmp_path):
    data, model, _ = drawn
    _, *lines = saved(drawn, tmp_path)
    for curve in CURVES:
        for place, window in enumerate(WINDOWS):
            config = replace(CONFIG, curve=curve, search_window=window)
            found = {name: mine(model, data, name, config).per_query for name in data.train}
            for line, number in zip(lines, numbers(lines, data), strict=True):
                row, (first, second) = (
                    found[line["category"]].iloc[number],
                    line["windows"][curve][place],
                )
                assert line["target_rank"] == row.target_rank
                if row.set_size:
                    assert (first + 1, second) == (row.window_start, row.window_end)
                else:
                    assert (first, second) == (-1, -1)


def test_scores_and_images_are_the_ranking_s(drawn, tmp_path):
    data, model, _ = drawn
    _, *lines = saved(drawn, tmp_path)
    for line, number in zip(lines, numbers(lines, data), strict=True):
        queries = data.train[line["category"]]
        embedded = model.embed_queries(queries)[number]
        scores = (model.embed_corpus(queries.corpus) @ embedded).amax(1).numpy()
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_allclose(line["scores"], scores[order], atol=1e-4)
        graded = data.relevance[line["category"]]
        for rank, (image_id, score, relevance) in line["images"].items():
            assert image_id == queries.corpus.image_ids[order[int(rank)]]
            assert score == pytest.approx(scores[order[int(rank)]], abs=1e-3)
            known = None if graded is None else graded[number, order[int(rank)]].item()
            assert relevance == (None if known is None else pytest.approx(known, abs=0.006))


def test_strips_lie_above_inside_and_below_and_their_images_are_known(drawn, tmp_path):
    about, *lines = saved(drawn, tmp_path)
    windows = 0
    for line in lines:
        pairs = {tuple(pair) for found in line["windows"].values() for pair in found}
        for first, second in pairs - {(-1, -1)}:
            strip, windows = line["strips"][f"{first}-{second}"], windows + 1
            above, inside, below = (strip[zone] for zone in ZONES)
            assert max(above) <= first < min(inside) <= max(inside) <= second
            assert not below or second < min(below) <= max(below) == line["size"] - 1
            shown = [line["images"][str(rank)][0] for rank in (*above, *inside, *below)]
            assert {*shown, line["reference"], line["target"]} <= {*about["thumbnails"]}
    assert windows > len(lines)


def test_images_are_small_copies_and_only_where_asked_for(drawn, tmp_path):
    about, *_ = saved(drawn, tmp_path)
    uri = about["thumbnails"]["dress0"]
    with Image.open(
        io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))
    ) as image:
        assert image.size == (48, 48)
        np.testing.assert_allclose(image.convert("RGB").getpixel((20, 20)), (255, 0, 0), atol=12)
    about, *lines = saved(drawn, tmp_path, share_images=False)
    assert about["thumbnails"] == {} and "data:" not in json.dumps(lines)


def test_only_profiles_of_drawn_garments_share_images():
    folder = Path(run.__file__).parent
    notebook = run.find_notebooks(folder)["03"]
    assert run.declared_parameters(notebook)["share_images"] is False
    for path in (folder / "profiles").glob("*.yaml"):
        profile = run.load_profile(path)
        shared = any(about.get("share_images") for about in profile.values())
        assert shared == (path.stem in ("mini", "smoke")), path.stem


def test_the_same_queries_give_the_same_bytes(drawn, tmp_path):
    path = tmp_path / "reports" / "explorers" / "relevance_explorer.jsonl"
    saved(drawn, tmp_path)
    first = path.read_bytes()
    saved(drawn, tmp_path)
    assert path.read_bytes() == first


def test_queries_are_chosen_by_their_rules_and_none_twice():
    ranks, gaps = np.arange(100)[::-1], np.roll(np.arange(100), 40)
    per_query = pd.DataFrame({"target_rank": ranks, "largest_gap": gaps})
    chosen = page_explorer.choose_queries(per_query)
    assert {group: len(numbers) for group, numbers in chosen.items()} == {
        group: count for group, (count, _) in GROUPS.items()
    }
    assert {*ranks[chosen["typical"]]} == {*range(46, 55)}
    assert [*ranks[chosen["best"]]] == [*range(6)] and [*ranks[chosen["worst"]]] == [
        *range(99, 93, -1)
    ]
    taken = {number for group in ("typical", "best", "worst") for number in chosen[group]}
    assert chosen["smooth"] == [n for n in np.argsort(gaps) if n not in taken][:9]
    assert len({number for numbers in chosen.values() for number in numbers}) == 30


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_categories_share_thirty_queries(parts):
    per_query = pd.DataFrame({"target_rank": range(50), "largest_gap": range(50)})
    chosen = [page_explorer.choose_queries(per_query, part, parts) for part in range(parts)]
    assert sum(len(n) for groups in chosen for n in groups.values()) == 30
    few = page_explorer.choose_queries(per_query[:5])
    assert sorted(n for numbers in few.values() for n in numbers) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 60, 960, 1500, 20_000])
def test_a_long_curve_keeps_its_top_and_both_ends(size):
    kept = page_explorer.kept_ranks(size)
    assert (np.diff(kept) > 0).all() and (kept[0], kept[-1]) == (0, size - 1)
    assert [*kept[: min(size, 500)]] == [*range(min(size, 500))]
    assert len(kept) == size if size <= 1500 else len(kept) < 2000
