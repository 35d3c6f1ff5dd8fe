"""analysis.preference_curve: windows on scores without structure, and calibration."""

import math
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from analysis import preference_curve
from analysis.preference_curve import windows_without_structure
from report.names import find_look

# ---------------------------------------------------------------- scores without structure


def first_pair(gaps):
    """(first, second) of the release's rule: the first neighbours by size two ranks apart."""
    for one, other in pairwise(sorted(gaps, key=lambda rank: (-gaps[rank], rank))):
        if abs(one - other) > 1:
            return min(one, other), max(one, other)
    return None


def test_each_row_is_what_the_plain_rule_finds_on_the_drawn_scores():
    n, queries, tau = 60, 40, 0.02
    generator = torch.Generator().manual_seed(0)  # as the function draws
    scores = 0.085 * torch.randn(queries, n, generator=generator)
    targets = torch.randint(20, (queries,), generator=generator).tolist()
    found = {"cosine": [], "preference": []}
    for row, target in zip(scores.sort(descending=True).values.tolist(), targets, strict=True):
        curves = {"cosine": row}
        curves["preference"] = [1 / (1 + math.exp((row[target] - s) / tau)) for s in row]
        for name, curve in curves.items():
            gaps = {r: curve[r] - curve[r + 1] for r in range(target + 1, n - 1)}
            found[name].append(first_pair(gaps))
    table = windows_without_structure([tau], n, queries)
    assert table["drops in"].tolist() == ["cosine", "preference"]
    np.testing.assert_array_equal(table["temperature"], [np.nan, tau])
    for (_, row), pairs in zip(table.iterrows(), found.values(), strict=True):
        windows = [pair for pair in pairs if pair]
        begins = 100 * np.median([first + 1 for first, _ in windows]) / n
        assert row["window begins (%)"] == pytest.approx(begins)
        sizes = [second - first for first, second in windows]
        assert row["images in a set"] == pytest.approx(np.mean(sizes))
        assert row["no pair (%)"] == pytest.approx(100 * (1 - len(windows) / queries))


def test_windows_begin_lower_the_higher_the_temperature_and_lowest_in_the_cosine():
    table = windows_without_structure([0.01, 0.04, 0.16], n=300, queries=200)
    cosine, *by_temperature = table["window begins (%)"]
    assert by_temperature == sorted(by_temperature) and by_temperature[-1] < cosine
    assert by_temperature[0] < 10 and cosine > 50


def test_only_the_ratio_of_spread_and_temperature_matters():
    one = windows_without_structure([0.02, 0.08], n=200, queries=50, spread=0.1)
    twice = windows_without_structure([0.04, 0.16], n=200, queries=50, spread=0.2)
    measures = ["window begins (%)", "images in a set", "no pair (%)"]
    pd.testing.assert_frame_equal(one[measures], twice[measures])


# ---------------------------------------------------------------- calibration


class DrawnModel:
    """Stands in for a Retriever: its score of query q and image i is scores[q, i]."""

    def __init__(self, scores, temperature):
        self.scores = torch.as_tensor(scores, dtype=torch.float32)
        self.model = SimpleNamespace(temperature=torch.tensor(temperature))

    def embed_queries(self, queries):
        return self.scores

    def embed_corpus(self, corpus):
        return torch.eye(self.scores.shape[1])[:, None]


class Queries(list):
    """Stands in for a QuerySet of which only the length counts."""

    corpus = None


def calibrate(models, relevance, pairs=200):
    graded = torch.as_tensor(relevance, dtype=torch.float32)
    queries = {"c": Queries(range(len(graded)))}
    return preference_curve.calibration(models, queries, {"c": graded}, pairs)


def test_the_prediction_is_the_sigmoid_of_the_margin_over_the_temperature():
    # images score 0 and tau log 3: the second is preferred with probability 3 / 4
    model = DrawnModel([[0.0, 0.1 * math.log(3)]] * 50, 0.1)
    for relevance, observed in (([0.2, 0.6], 100), ([0.6, 0.2], 0), ([0.5, 0.5], 50)):
        same, apart = calibrate({"a": model}, [relevance] * 50).to_dict("records")
        assert (same["predicted"], same["observed"]) == (50, 50)  # the same image twice
        assert apart["predicted"] == pytest.approx(75, abs=1e-3)
        assert apart["observed"] == observed
        assert same["pairs"] + apart["pairs"] == 50 * 200
        assert 0.4 < apart["pairs"] / (50 * 200) < 0.6


def test_choices_by_bradley_terry_lie_on_the_diagonal_and_only_at_their_temperature():
    # utilities with Gumbel noise: the more relevant of two is i with probability sigmoid(margin)
    generator = np.random.default_rng(0)
    scores = 0.1 * generator.normal(size=(300, 60))
    relevance = scores / 0.1 + generator.gumbel(size=scores.shape)
    models = {name: DrawnModel(scores, tau) for name, tau in (("true", 0.1), ("sharp", 0.03))}
    found = calibrate(models, relevance)
    apart = (found.observed - found.predicted).abs().groupby(found.label).max()
    assert apart["true"] < 3 < 10 < apart["sharp"]
    assert found.groupby("label").pairs.sum().eq(300 * 200).all()


def test_groups_are_tenths_of_the_prediction_in_order_model_by_model():
    scores = np.random.default_rng(0).normal(size=(100, 40))
    models = {name: DrawnModel(scores, 1.0) for name in ("z", "a")}
    found = calibrate(models, scores)
    assert found.label.tolist() == ["z"] * 10 + ["a"] * 10
    for _, rows in found.groupby("label"):
        tenths = np.ceil((rows.predicted - 50) / 5)
        assert tenths.tolist() == list(range(1, 11))
        assert rows.observed.iloc[1:].eq(100).all()  # the first also holds pairs of one image
    assert found[found.label == "z"].drop(columns="label").to_numpy().tolist() == (
        found[found.label == "a"].drop(columns="label").to_numpy().tolist()
    )


def test_categories_are_pooled():
    model, other = DrawnModel([[0.0, 1.0]] * 10, 0.5), DrawnModel([[0.0, 1.0]] * 30, 0.5)
    queries = {"c": Queries(range(10)), "d": Queries(range(30))}
    both = SimpleNamespace(
        model=model.model,
        embed_queries=lambda q: (model if len(q) == 10 else other).scores,
        embed_corpus=model.embed_corpus,
    )
    relevance = {"c": torch.tensor([[0.0, 1.0]] * 10), "d": torch.tensor([[1.0, 0.0]] * 30)}
    found = preference_curve.calibration({"a": both}, queries, relevance, pairs=100)
    assert found.pairs.sum() == 40 * 100
    assert 15 < found.observed.iloc[-1] < 35  # a quarter of the queries has it right


def test_calibration_is_drawn_beside_the_diagonal_in_the_models_looks():
    frame = pd.DataFrame({"label": ["after warm-up"] * 2 + ["cosine"] * 2, "pairs": 9})
    frame = frame.assign(predicted=[55.0, 95, 52, 98], observed=[50.0, 80, 51, 97])
    _, ax = plt.subplots()
    assert preference_curve.plot_calibration(ax, frame) is ax
    diagonal, first, second = ax.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [50, 100]
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([55, 95], [50, 80])
    assert second.get_color() == find_look("cosine").colour
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["after warm-up", "drops in the cosine (released)"]
    plt.close("all")
