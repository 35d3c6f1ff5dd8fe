"""Notebook 08: drawn families of score curves, the points of the map, and the causal test."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import study
import torch
from analysis import ablations, score_families, score_shapes
from analysis.score_families import BOTTOM, DRAWN, FAMILIES, SPREAD, TEMPERATURE, TOP, draw_family
from analysis.score_shapes import TRIED, YOURS
from grids import CORE, OPEN_QUESTIONS
from report.claims import read_claims, save_claim
from report.folder import Reports
from report.names import find_look, plain_name

from qure_lib import hard_negatives
from qure_lib.evaluation.statistics import Interval, bootstrap_ci
from qure_lib.files import write_json

SHIPPED = "reports/shipped/diagnoses"


@pytest.fixture
def figure():
    yield plt.figure(layout="constrained")
    plt.close("all")


# ---------------------------------------------------------------- families


@pytest.mark.parametrize("family", DRAWN)
def test_every_query_of_a_family_has_the_same_mean_and_spread(family):
    scores = draw_family(family, 200, 7)
    assert scores.shape == (7, 200)
    np.testing.assert_allclose(scores.mean(dim=1), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(dim=1, correction=0), SPREAD)
    assert torch.equal(scores, draw_family(family, 200, 7))
    chance = family not in FAMILIES["perfectly smooth"]
    assert torch.equal(scores, draw_family(family, 200, 7, seed=1)) != chance
    assert torch.equal(scores[0], scores[1]) != chance


def test_a_long_end_is_where_the_skewness_points():
    for family in DRAWN:
        scores = draw_family(family, 2000, 20).numpy() / SPREAD
        skewness = (scores**3).mean()
        if family.endswith(("long bottom", "(5, 2)")):
            assert skewness < -0.4
        elif family.endswith(("long top", "(2, 5)")):
            assert skewness > 0.4
        else:
            assert abs(skewness) < 0.3


def test_clusters_lose_their_steps_as_they_blur():
    within = []
    for family in FAMILIES["clusters"]:
        scores = draw_family(family, 600, 20).sort(dim=1).values
        gaps = scores.diff(dim=1)
        steps = gaps.topk(score_families.CLUSTERS - 1, dim=1).values.sum(dim=1)
        within.append((steps / gaps.sum(dim=1)).mean().item())
    assert within[0] > 0.8 and within == sorted(within, reverse=True) and within[-1] < 0.6


def test_an_image_at_a_rank_has_so_many_above():
    scores = draw_family("normal", 50, 6)
    for rank in (0, 3, 49):
        found = score_families.images_at_rank(scores, rank)
        for row, image in zip(scores.tolist(), found.tolist(), strict=True):
            assert sum(score > row[image] for score in row) == rank


def test_gaps_are_means_over_parts_of_the_mean_curve():
    frame = score_families.list_gaps(["normal"], 101, 5)
    mean = np.sort(draw_family("normal", 101, 5).numpy(), axis=1)[:, ::-1].mean(axis=0)
    gaps = [better - worse for better, worse in pairwise(mean)]
    expected = [np.mean(gaps[5 * part : 5 * part + 5]) / np.mean(gaps) for part in range(20)]
    np.testing.assert_allclose(frame.gap, expected)
    assert frame.place.tolist() == [2.5 + 5 * part for part in range(20)]
    assert set(frame.label) == {"normal"}


def test_stretching_moves_the_gaps_to_its_end():
    frame = score_families.list_stretched("normal", 400, 5)
    assert list(dict.fromkeys(frame.label)) == list(score_families.STRETCHES)
    ends = frame.groupby("label").gap.agg(["first", "last"])
    top_over_bottom = ends["first"] / ends["last"]
    order = [BOTTOM, "cosine", "top_stretched_1", TOP]
    assert top_over_bottom[order].tolist() == sorted(top_over_bottom)
    plain = score_families.list_gaps(["normal"], 400, 5)
    np.testing.assert_allclose(frame[frame.label == "cosine"].gap, plain.gap)


def test_the_stretches_are_those_of_the_grid():
    for variant, k in score_families.STRETCHES.items():
        assert dict(OPEN_QUESTIONS.config(variant, 2000).mining.options).get("k", 0.0) == k


def test_gaps_are_drawn_in_the_looks_of_the_variants(figure):
    axes = figure.subplots(1, 2, sharey=True)
    frames = [score_families.list_gaps(["normal"], 100, 2)]
    frames.append(score_families.list_stretched("normal", 100, 2))
    score_families.plot_gaps(axes, frames)
    lines = {line.get_label(): line for line in axes[1].get_lines()}
    assert list(lines) == [plain_name(v) for v in score_families.STRETCHES]
    assert lines[plain_name(TOP)].get_color() == find_look(TOP).colour
    assert [line.get_label() for line in axes[0].get_lines()] == ["normal"]
    assert all(ax.get_yscale() == "log" and ax.get_xlabel() for ax in axes)
    assert axes[0].get_ylabel()


# ---------------------------------------------------------------- stability


def jaccard(one, other):
    """Mean over the queries with a set in either, in per cent, by plain sets."""
    pairs = [(set(a.tolist()), set(b.tolist())) for a, b in zip(one, other, strict=True)]
    return np.array([100 * len(a & b) / len(a | b) for a, b in pairs if a | b])


def test_stability_is_the_overlap_of_the_sets_before_and_after_noise():
    frame = score_families.measure_stability(["normal"], [0.0, 5.0], 100, 30)
    assert frame.label.tolist() == [way for way in score_families.WAYS for _ in range(2)]
    assert frame[frame.noise == 0]["mean"].eq(100).all()
    scores = draw_family("normal", 100, 30)
    targets = score_families.images_at_rank(scores, 1)
    generator = torch.Generator().manual_seed(1)
    moved = scores + 0.05 * SPREAD * torch.randn(30, 100, generator=generator, dtype=torch.float64)
    for way, settings in (
        ("cosine", {}),
        ("preference", {"curve": "preference", "temperature": TEMPERATURE}),
    ):
        sets = [hard_negatives(s, targets, **settings)[0] for s in (scores, moved)]
        shared = jaccard(*sets)
        (row,) = frame[(frame.label == way) & (frame.noise == 5)].to_dict("records")
        found = bootstrap_ci(shared)
        assert [row[name] for name in ("mean", "low", "high")] == pytest.approx(
            [found.estimate, found.low, found.high]
        )


def test_the_way_that_looks_at_no_drop_takes_what_follows_the_target():
    scores = draw_family("normal", 150, 4)
    targets = score_families.images_at_rank(scores, 3)
    config = score_families.WAYS["after_target"]
    mask = score_families.mask_sets(scores, targets, config)
    for row, target, kept in zip(scores.tolist(), targets.tolist(), mask.tolist(), strict=True):
        below = sorted((s for s in row if s < row[target]), reverse=True)[: config.top_k]
        assert [s in below for s in row] == kept


def test_without_any_set_there_is_nothing_to_compare():
    frame = score_families.measure_stability(["smooth Gumbel, long bottom"], [0.0], 100, 3)
    means = frame.set_index("label")["mean"]
    assert np.isnan(means["preference"]) and means["after_target"] == 100


def test_scores_without_structure_are_told_from_the_warmest_to_the_coldest():
    table = pd.DataFrame({"drops in": ["cosine"] + ["preference"] * 3})
    table["temperature"] = [np.nan, 0.01, 0.04, 0.16]
    table["window begins (%)"] = [99.0, 1.1, 1.2, 1.9]
    table["images in a set"] = [200.0, 4.0, 10.0, 460.0]
    said = score_families.state_blind(table)
    assert re.findall(r"[\d.]*\d", said) == ["0.16", "0.01", "1.9", "1.1", "460", "4"]


def test_stability_is_drawn_an_axes_a_family(figure):
    frame = pd.DataFrame({"family": ["a"] * 4 + ["b"] * 4, "noise": [0.1, 1] * 4})
    frame["label"] = (["cosine"] * 2 + ["preference"] * 2) * 2
    score_families.plot_stability(figure.subplots(1, 2), frame.assign(mean=50.0, low=40, high=60))
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    assert all(ax.get_legend() is None and ax.get_xlabel() for ax in figure.axes)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [plain_name("cosine"), plain_name("preference")]


# ---------------------------------------------------------------- points of the map


def first_pair(gaps):
    """(first, second) of the release's rule: the first neighbours by size two ranks apart."""
    for one, other in pairwise(sorted(gaps, key=lambda rank: (-gaps[rank], rank))):
        if abs(one - other) > 1:
            return min(one, other), max(one, other)
    return None


def test_a_family_s_points_are_what_the_plain_rule_finds(monkeypatch):
    monkeypatch.setattr(score_shapes, "FAMILIES", {"independent draws": {"normal": None}})
    n, queries, share = 80, 25, 5
    points = score_shapes.map_families([n], [share], queries)
    assert points.curve.tolist() == ["cosine", "preference"]
    assert points.target.tolist() == [5, 5] and points.images.tolist() == [n, n]
    opened = {"cosine": [], "preference": []}
    for row in draw_family("normal", n, queries).sort(descending=True).values.tolist():
        target = share * n // 100
        one_less_p = [1 / (1 + math.exp((row[target] - s) / TEMPERATURE)) for s in row]
        for name, curve in (("cosine", row), ("preference", one_less_p)):
            gaps = {r: curve[r] - curve[r + 1] for r in range(target + 1, n - 1)}
            opened[name].append(first_pair(gaps))
    for point in points.to_dict("records"):
        pairs = [pair for pair in opened[point["curve"]] if pair]
        near = [first + 1 < n / 10 for first, _ in pairs]
        assert point["best_tenth"] == pytest.approx(100 * np.mean(near))
        begins = 100 * np.median([first + 1 for first, _ in pairs]) / n
        assert point["begins"] == pytest.approx(begins)
        assert point["set_size"] == pytest.approx(np.mean([b - a for a, b in pairs]))
        assert point["no_pair"] == pytest.approx(100 * (1 - len(pairs) / queries))


def diagnosis(ratio=0.5, target=2.0, cosine=0.1, preference=0.9):
    """What qure_lib.diagnose says, as far as the map reads it; a share of None: no such curve."""

    def curve(share):
        row = {"share_best_tenth": share, "share_no_pair": 0.25, "set_size": {"mean": 30.0}}
        return None if share is None else row | {"window_start": {"percent": 40.0}}

    shape = {"skewness": -1.0, "gap_ratio_top_to_bottom": ratio}
    shape |= {"target_percent": {"median": target}}
    corpora = [{"images": 100, "queries": 10}, {"images": 300, "queries": 20}]
    curves = {"cosine": curve(cosine), "preference": curve(preference)}
    return {"shape": shape, "curves": curves, "corpora": corpora}


def test_a_diagnosis_is_a_point_for_each_curve_that_it_has(tmp_path):
    names = "mine/diagnosis.json", "others.json"
    for name, preference in zip(names, (0.9, None), strict=True):
        write_json(tmp_path / name, diagnosis(preference=preference))
    points = score_shapes.map_diagnoses([tmp_path / name for name in names])
    assert points.source.tolist() == ["mine", "mine", "others"]
    assert points.curve.tolist() == ["cosine", "preference", "cosine"]
    assert points.best_tenth.tolist() == pytest.approx([10, 90, 10])
    assert (
        set(points.kind) == {YOURS} and points.images.eq(200).all() and points.queries.eq(30).all()
    )
    columns = ["skewness", "gap_ratio", "target", "begins", "set_size", "no_pair"]
    assert points[columns].iloc[0].tolist() == [-1, 0.5, 2, 40, 30, 25]
    table = score_shapes.tabulate_diagnoses(points)
    assert table["scores of"].tolist() == ["mine", "others"]
    assert table["cosine (%)"].tolist() == pytest.approx([10, 10])
    assert table["preference (%)"][0] == pytest.approx(90) and np.isnan(table["preference (%)"][1])
    assert score_shapes.map_diagnoses([]).empty


def test_no_windows_at_all_have_no_place():
    none = diagnosis(ratio=None)
    none["curves"]["cosine"] |= {"share_best_tenth": None, "share_no_pair": 1.0}
    first, _ = score_shapes.read_points(none, {})
    assert np.isnan(first["best_tenth"]) and first["no_pair"] == 100 and first["gap_ratio"] is None


@pytest.mark.parametrize("content", [{}, {"corpora": [], "shape": {}}, {"corpora": 3}])
def test_what_is_no_diagnosis_is_named(tmp_path, content):
    write_json(tmp_path / "other.json", content)
    with pytest.raises(ValueError, match="other.json is no diagnosis .*run python -m qure"):
        score_shapes.map_diagnoses([tmp_path / "other.json"])
    with pytest.raises(ValueError, match="missing.json"):
        score_shapes.map_diagnoses([tmp_path / "missing.json"])


def test_shipped_diagnoses_have_their_kind_and_hold_no_words_of_a_data_set(root, tmp_path):
    write_json(tmp_path / "words_dress.json", diagnosis())
    write_json(tmp_path / "photographs.json", diagnosis())
    kinds = score_shapes.map_shipped(tmp_path).kind.tolist()
    assert kinds == ["FashionIQ's words"] * 2 + ["photographs"] * 2
    paths = sorted((root / SHIPPED).glob("*.json"))
    assert len(score_shapes.map_shipped(root / SHIPPED).source.unique()) == len(paths) > 0
    for path in paths:
        text = path.read_text()
        assert not re.search(r"\bB0[0-9A-Z]{8}\b", text)  # an id of FashionIQ's
        assert json.loads(text).keys() == {
            *("arguments", "temperature", "corpora", "shape", "curves", "verdict", "in_words")
        }


# ---------------------------------------------------------------- rows of the study

SEEDS = (2000, 2001)
QUERIES = [f"{category}/val/{i}" for category in ("dress", "shirt") for i in range(10)]


def rows_of(rates, seeds=SEEDS, share=0.5):
    """Runs of variants that hit so many per cent of 20 val queries, a point more a seed."""
    keys = [{"variant": v, "seed": s, "settings": "0"} for v in rates for s in seeds]
    runs = pd.DataFrame([k | {"val_r10": rates[k["variant"]] + k["seed"] - 2000} for k in keys])
    mined = {"corpus_size": 200.0, "queries": 50, "score_skewness": -0.5, "gap_top_tenth": 0.1}
    mined |= {"gap_bottom_tenth": 0.4, "target_rank_median": 8.0, "window_start_fraction": 0.3}
    mined |= {"set_size_mean": 12.0, "share_no_pair": 0.1}
    definitions = pd.DataFrame(
        k | mined | {"epoch": epoch, "share_best_tenth": share + (k["seed"] - 2000) / 10}
        for k in keys
        for epoch in (2, 4)
    )
    index = pd.MultiIndex.from_frame(runs[["variant", "seed"]])
    hits = [np.tile(np.arange(10) < rates[v] / 10, 2) * 100.0 for v, _ in index]
    hits = pd.DataFrame(hits, index, QUERIES)
    epochs = pd.concat([runs.assign(epoch=epoch) for epoch in (0, 1)], ignore_index=True)
    return ablations.Rows(OPEN_QUESTIONS, runs, epochs, definitions, hits, {"world": "w"})


def test_a_definition_is_a_point_over_its_seeds():
    rows = rows_of({"cosine": 20, TOP: 50, "uniform": 30})
    points = score_shapes.map_definitions({"mini": rows, "scales": rows})
    assert points.source.tolist() == [
        f"{world}, epoch {epoch}" for world in ("mini", "scales") for epoch in (2, 4)
    ]
    assert set(points.curve) == {"cosine"}  # others see other scores, or none
    row = points.iloc[0]
    assert row[["skewness", "gap_ratio", "target", "begins"]].tolist() == [-0.5, 0.25, 4, 30]
    assert row[["set_size", "no_pair", "images"]].tolist() == [12, 10, 200]
    assert row.best_tenth == pytest.approx(55)
    assert score_shapes.map_definitions({}).empty


def test_worlds_are_read_by_their_names(tmp_path):
    assert score_shapes.load_worlds(tmp_path) == {}
    one = pd.DataFrame([{"variant": "cosine", "seed": 2000, "settings": "0a1b2c3d", "epoch": 1}])
    tables = {"epochs": one, "definitions": one, "runs": one, "ranks": one.drop(columns="epoch")}
    study.add(tmp_path / "synthfashion-scales-11", tables)
    write_json(tmp_path / "synthfashion-scales-11" / "manifest.json", {})
    worlds = score_shapes.load_worlds(tmp_path)
    assert list(worlds) == ["scales-11"] and worlds["scales-11"].trained == ["cosine"]


# ---------------------------------------------------------------- the map


def point(kind, ratio, target, curve, best_tenth, **more):
    row = {"kind": kind, "source": "s", "images": 1000, "curve": curve, "gap_ratio": ratio}
    return row | {"target": target, "best_tenth": best_tenth, "set_size": 4.0} | more


POINTS = pd.DataFrame(
    [
        point("independent draws", 0.2, 1.0, "cosine", 0.0),
        point("independent draws", 0.2, 1.0, "preference", 95.0),
        point("independent draws", 5.0, 0.1, "cosine", 80.0, images=6000),
        point("independent draws", 5.0, 0.1, "cosine", 60.0),
        point("independent draws", 5.0, 3.0, "cosine", 0.0),  # its target ranks too low to count
        point("perfectly smooth", 1.0, 1.0, "cosine", 100.0),
        point("drawn garments", 0.9, 8.0, "cosine", 12.0),
        point("drawn garments", 0.9, 8.0, "preference", 51.0),
        point("drawn garments", 0.7, 8.0, "cosine", 10.0),
    ]
)


def test_points_are_summed_up_by_kind_and_by_where_the_gaps_are_wide():
    table = score_shapes.tabulate_map(POINTS)
    assert table[["kind", "gaps", "points"]].to_numpy().tolist() == [
        ["independent draws", "wider at the bottom", 1],
        ["independent draws", "wider at the top", 2],
        ["drawn garments", "wider at the bottom", 1],
        ["drawn garments", "alike", 1],
        ["perfectly smooth", "alike", 1],
    ]
    assert table["cosine (%)"].tolist() == [0, 70, 10, 12, 100]
    np.testing.assert_array_equal(table["preference (%)"], [95, np.nan, np.nan, 51, np.nan])
    assert table["images, cosine"].eq(4).all()


def test_the_answer_is_written_from_the_points():
    top = point("independent draws", 5.0, 0.1, "preference", 97.0)
    said = score_shapes.state_map(pd.concat([POINTS, pd.DataFrame([top])]))
    shares = re.findall(r"for (\d+) %", said)
    assert shares == ["70", "0", "97", "95"] and "target within 1 %" in said


def test_the_caveat_counts_the_seeds_of_the_causal_test():
    assert "causal" not in score_shapes.state_caveat(None)
    assert score_shapes.state_caveat(rows_of({"cosine": 20})).endswith("a small model, 2 seeds.")


def test_the_map_has_a_place_and_a_colour_for_every_point(figure):
    axes = figure.subplots(1, 2, sharey=True)
    none = point("independent draws", np.nan, 1.0, "cosine", 50.0)
    far = point("FashionIQ's words", 1.0, 0.0, "cosine", 50.0)  # ranks first: half an image
    points = pd.concat([POINTS, pd.DataFrame([none, far])])
    score_shapes.plot_map(axes, points)
    drawn = [
        (*place, *colour[:3])
        for collection in axes[0].collections
        for place, colour in zip(
            collection.get_offsets().tolist(), collection.get_facecolors().tolist(), strict=True
        )
    ]
    classes = [plt.matplotlib.colors.to_rgb(colour) for colour in score_shapes.CLASSES.values()]
    expected = [(0.2, 1.0, 0), (5.0, 0.1, 2), (5.0, 0.1, 2), (5.0, 3.0, 0)]
    expected += [(0.9, 8.0, 1), (0.7, 8.0, 0), (1.0, 0.05, 1)]
    expected = [(x, y, *classes[number]) for x, y, number in expected]
    np.testing.assert_allclose(sorted(drawn), sorted(expected))
    assert len(axes[1].collections) == 2
    low, high = axes[0].get_ylim()
    assert low > high  # the best rank is on top
    sizes = axes[0].collections[0].get_sizes()
    assert sizes.max() == 2 * sizes.min()  # 6,000 images and 1,000


def test_the_legends_name_the_kinds_that_are_there_and_every_colour(figure):
    score_shapes.legend_of_map(figure, POINTS)
    kinds, colours = ([text.get_text() for text in found.get_texts()] for found in figure.legends)
    assert kinds == ["independent draws", "drawn garments"]
    assert colours == ["0-10 %", "10-50 %", "50-90 %", "90-100 %"]


# ---------------------------------------------------------------- the causal test


def around(low, high):
    return Interval((low + high) / 2, low, high, 100, 2)


@pytest.mark.parametrize(
    ("top", "bottom", "decides"),
    [
        ((1, 3), (-3, -1), True),
        ((1, 3), (-1, 1), True),
        ((1, 3), (0, 2), True),  # zero is no number above zero
        ((1, 3), (1, 3), False),
        ((-1, 3), (-3, -1), False),
        ((0, 3), (-1, 1), False),
        ((-3, -1), (-3, -1), False),
    ],
)
def test_the_shape_decides_only_if_the_top_helps_and_the_bottom_does_not(top, bottom, decides):
    said = score_shapes.judge_shape({TOP: around(*top), BOTTOM: around(*bottom)})
    assert said.startswith("The shape of the curve decides:") == decides
    assert ("is not said" in said) != decides
    assert f"[{top[0]:.1f}, {top[1]:.1f}]" in said and f"[{bottom[0]:.1f}, {bottom[1]:.1f}]" in said


def test_without_its_runs_nothing_is_judged():
    rows = rows_of({"cosine": 20, TOP: 50})
    assert score_shapes.measure_stretch(rows) == {}
    assert "not known" in score_shapes.judge_shape({})
    rows = rows_of({"cosine": 20, TOP: 50, BOTTOM: 10})
    apart = rows.hits.drop(index=[("cosine", 2000), (TOP, 2001), (BOTTOM, 2001)])
    assert score_shapes.measure_stretch(replace(rows, hits=apart)) == {}


def test_a_stretch_is_measured_against_the_rule_as_released():
    measured = score_shapes.measure_stretch(rows_of({"cosine": 20, TOP: 50, BOTTOM: 10}))
    assert measured[TOP].estimate == pytest.approx(30)
    assert measured[BOTTOM].estimate == pytest.approx(-10)
    assert measured[TOP].n == 2 * len(QUERIES)
    assert score_shapes.judge_shape(measured).startswith("The shape of the curve decides")


def test_variants_are_tabulated_with_their_difference_and_their_place():
    rates = {"preference": 60, "cosine": 20, TOP: 50, "uniform": 40}
    table = score_shapes.tabulate_variants(rows_of(rates), TRIED)
    assert table.code.tolist() == ["cosine", TOP, "preference"]
    assert table.variant.tolist() == [plain_name(code) for code in table.code]
    assert table["Recall@10 (%)"].str.split().str[0].tolist() == ["20.0", "50.0", "60.0"]
    apart = table["less the curve as it is"].str.split().str[0].tolist()
    assert apart == ["-", "30.0", "-"]
    assert table.seeds.eq(2).all() and table["begins (%)"].eq(30).all()
    assert table["in best tenth (%)"].tolist() == pytest.approx([55] * 3)
    alone = score_shapes.tabulate_variants(rows_of({"cosine": 20}), TRIED)
    assert alone["less the curve as it is"].tolist() == ["-"]


def test_the_causal_test_tries_both_curves_each_as_it_is_first():
    assert TRIED[0] == "cosine" and {TOP, BOTTOM} < set(TRIED)
    preference = TRIED[TRIED.index("preference") :]
    assert len(preference) == 3 and all(v.startswith("preference") for v in preference)


def test_worlds_are_compared_on_what_both_have_and_a_run_counts_once():
    first, again = rows_of({"cosine": 20, "uniform": 30}), rows_of({"cosine": 20, TOP: 50}, [2000])
    other = rows_of({TOP: 5, "cosine": 10, "in_batch": 60}, [2000])
    other = replace(other, definitions=other.definitions[other.definitions.variant == "cosine"])
    table = score_shapes.compare_attributes({"one": [first, again], "two": [other]})
    assert table.code.tolist() == ["cosine", TOP]  # in the order of the grids
    assert table["Recall@10, one"].tolist() == [20.5, 50] and table["Recall@10, two"].tolist() == [
        10,
        5,
    ]
    assert table["begins (%), one"].tolist() == [30, 30]
    np.testing.assert_array_equal(table["begins (%), two"], [30, np.nan])
    several = {"one": [rows_of(dict.fromkeys([*TRIED, *CORE, "cosine_auxiliary"], 20))]}
    table = score_shapes.compare_attributes(several)
    assert table.code.tolist() == [*CORE, *(v for v in TRIED if v not in CORE)]


def test_the_claim_is_judged_by_the_stretched_top(tmp_path):
    rows = rows_of({"cosine": 20, TOP: 50, BOTTOM: 10})
    measured = score_shapes.measure_stretch(rows)
    claim = score_shapes.state_claim(measured, rows)
    assert read_claims()[claim.name]["notebook"] == "08_smooth_scores"
    assert (claim.on, claim.seeds) == ("w", 2) and "-10.0 [" in claim.caveat
    verdict = save_claim(claim, measured[TOP], Reports(tmp_path, "08_smooth_scores"))
    assert verdict == "supported on drawn data"
