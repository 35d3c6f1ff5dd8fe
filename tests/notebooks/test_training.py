"""Notebook 04: comparisons of models, the best-ranked images, and all images that fit."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from analysis import training
from analysis.training import chance_average_precision, evaluate_all_that_fit
from PIL import Image

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.evaluation.fashioniq import summarise_recall
from qure_lib.evaluation.metrics import average_precision_at_k
from qure_lib.features.retriever import Retriever
from qure_lib.method.config import MiningConfig, TrainConfig

N, Q = 12, 30


@pytest.fixture
def case():
    """Queries q over images 0 to 11, relevance in thirds, and random embeddings."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(N, generator=generator)[:2] for _ in range(Q)]).tolist()
    triplets = [
        Triplet(f"q{k}", str(a), "", str(b), "c", ("", "")) for k, (a, b) in enumerate(pairs)
    ]
    names = tuple(map(str, range(N)))
    paths = tuple(Path(f"{name}.png") for name in names)
    queries = QuerySet("c", tuple(triplets), Corpus(names, paths), {})
    relevance = torch.randint(3, (Q, N), generator=generator) / 3
    embedded = [
        F.normalize(torch.randn(*s, generator=generator), dim=-1) for s in ((Q, 8), (N, 2, 8))
    ]
    return queries, relevance, tuple(embedded)


def retriever_of(of_queries, of_images):
    """A stand-in for a model, with these embeddings."""
    return SimpleNamespace(
        embed_queries=lambda queries: of_queries, embed_corpus=lambda corpus: of_images
    )


# ---------------------------------------------------------------- comparisons


def test_settings_stand_beside_the_published_ones_without_mining():
    recipe = TrainConfig(epochs=12, mining=MiningConfig("top_k"))
    frame = training.compare_settings(recipe, TrainConfig(epochs=50)).set_index("setting")
    assert frame.loc["epochs"].tolist() == ["50", "12"]
    assert "mining" not in frame.index and frame.loc["set_sizes"].isna().all()


def test_one_measure_of_several_models():
    all_found = pd.DataFrame({"category": ["c", "c", "d", "d"], "rank": [0, 9, 3, 5]})
    none_found = all_found.assign(rank=[10, 10, 10, 10])
    ranks = {"good": all_found, "bad": none_found}
    frame = training.measure_interval(ranks, summarise_recall, "avg_r10")
    assert frame.columns.tolist() == ["label", "estimate", "low", "high", "n"]
    assert frame.to_numpy().tolist() == [["good", 100, 100, 100, 4], ["bad", 0, 0, 0, 4]]


def test_differences_of_recall_are_paired_by_query():
    ranks = np.arange(40)
    per_query = {
        "base": pd.DataFrame({"rank": ranks}),  # 10 of 40 in the first ten
        "better": pd.DataFrame({"rank": ranks // 2}),  # 20 of 40
        "alike": pd.DataFrame({"rank": ranks}),
    }
    frame = training.recall_differences(per_query, ["better", "alike"], "base")
    assert frame.model.tolist() == ["better", "better", "alike", "alike"]
    assert frame.measure.tolist() == ["Recall@10 (%)", "Recall@50 (%)"] * 2
    assert frame.estimate.tolist() == [25, 0, 0, 0]
    verdicts = frame["against uniform negatives"].tolist()
    assert verdicts == ["better", "within noise", "within noise", "within noise"]
    apart = training.recall_difference(per_query["base"], per_query["better"], k=10)
    assert apart.estimate == pytest.approx(-25) and apart.high < 0 and apart.n == 40
    precise = pd.DataFrame({"ap5": [0.5, 1.0]})
    apart = training.precision_difference(precise, precise.assign(ap5=[0.25, 0.75]), k=5)
    assert apart.estimate == pytest.approx(25) and apart.n == 2


def test_published_rows_follow_in_the_published_measures():
    ours = pd.DataFrame({"method": ["a"], "r1": ["1.0"], "map10_cats": ["9.9"], "queries": [7]})
    theirs = pd.DataFrame({"method": ["QuRe"], "r1": ["52.22"], "avg": ["66.4"]})
    frame = training.append_published(ours, theirs)
    assert frame.columns.tolist() == ["method", "r1", "queries", "avg"]
    assert frame.to_numpy().tolist() == [
        ["a", "1.0", "7", "-"],
        ["QuRe, published", "52.22", "-", "66.4"],
    ]


# ---------------------------------------------------------------- the best-ranked images


def test_the_best_ranked_images_are_named_by_what_they_are_to_the_query():
    # best first: image 2 (fits as well as the target), 0 (the target), 1 (fits less)
    queries = QuerySet(
        "c", (Triplet("q", "3", "", "0", "c", ()),), Corpus(tuple("0123"), (Path("x"),) * 4), {}
    )
    of_images = torch.tensor([0.8, 0.5, 0.9, 0.1])[:, None, None]
    retriever = retriever_of(torch.ones(1, 1), of_images)
    relevance = torch.tensor([[0.5, 0.4, 0.5, 0.0]])
    about = retriever, {"c": queries}
    frame = training.find_top_results(*about, {"c": relevance}, {"c": [0]}, count=3)
    assert frame.image.tolist() == ["2", "0", "1"] and frame["rank"].tolist() == [0, 1, 2]
    assert frame.zone.tolist() == ["false negative", "target", "below"]
    assert frame.score.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert set(frame.target_rank) == {1} and set(frame["query"]) == {0}
    unknown = training.find_top_results(*about, {"c": None}, {"c": [0]}, count=3)
    assert unknown.zone.tolist() == ["below", "target", "below"]
    assert unknown.relevance.isna().all()


def test_chosen_queries_are_the_first_found_and_the_first_missed():
    ranks = pd.DataFrame({"category": list("aaabb"), "rank": [9, 4, 0, 7, 5]})
    assert training.found_and_missed(ranks) == {"a": [1, 0], "b": [0]}
    assert training.found_and_missed(ranks, within=6) == {"a": [1, 0], "b": [1, 0]}


def test_results_are_drawn_after_their_query_with_score_and_relevance(tmp_path):
    paths = tuple(tmp_path / f"{name}.png" for name in "abc")
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    queries = QuerySet(
        "c", (Triplet("q", "a", "is red", "b", "c", ()),), Corpus(tuple("abc"), paths), {}
    )
    top = pd.DataFrame(
        {"rank": [0, 1], "position": [1, 2], "score": [0.5, 0.25], "relevance": [1.0, np.nan]}
    ).assign(zone=["target", "below"], query=0, target_rank=0)
    figure, axes = plt.subplots(1, 5)
    assert training.plot_top_results(axes, queries, top) is axes
    labels = [ax.get_xlabel() for ax in axes]
    assert labels[3:] == ["rank 0, 0.50\nrelevance 1.00", "rank 1, 0.25"]
    assert labels[0] == "reference" and labels[2] == "target\nat rank 0"
    assert axes[0].get_ylabel() == "c" and axes[1].texts[0].get_text() == "is red"
    plt.close(figure)


# ---------------------------------------------------------------- all images that fit


def test_average_precision_counts_all_that_fit_without_the_reference(case):
    queries, relevance, (of_queries, of_images) = case
    frame = evaluate_all_that_fit({"c": (of_queries, of_images)}, {"c": queries}, {"c": relevance})
    scores = torch.einsum("qd,ntd->qnt", of_queries, of_images).amax(-1)
    for k, triplet in enumerate(queries.triplets):
        others = [i for i in range(N) if i != int(triplet.reference)]
        fits = {i for i in others if relevance[k, i] >= relevance[k, int(triplet.target)]}
        ranked = sorted(others, key=lambda i: -scores[k, i])
        hits = [rank for rank, i in enumerate(ranked) if i in fits]
        slow = np.mean([(found + 1) / (rank + 1) for found, rank in enumerate(hits)])
        assert frame.average_precision[k] == pytest.approx(slow)
        assert frame.fitting[k] == len(fits)
        found = [rank for rank in hits if rank < 5]
        slow = sum((n + 1) / (rank + 1) for n, rank in enumerate(found)) / min(5, len(fits))
        assert frame.ap5[k] == pytest.approx(slow)
        assert frame.chance[k] == pytest.approx(chance_average_precision([len(fits)], N - 1)[0])


def test_a_scorer_that_knows_the_relevance_gets_everything(case):
    queries, relevance, _ = case
    images = torch.eye(N)[:, None]
    frame = evaluate_all_that_fit({"c": (relevance, images)}, {"c": queries}, {"c": relevance})
    assert frame.average_precision.to_numpy() == pytest.approx(1)


def test_memory_changes_nothing(case):
    queries, relevance, embedded = case
    whole = evaluate_all_that_fit({"c": embedded}, {"c": queries}, {"c": relevance})
    parts = evaluate_all_that_fit({"c": embedded}, {"c": queries}, {"c": relevance}, memory=2000)
    assert whole.equals(parts)


def test_a_reference_outside_the_corpus_is_refused(case):
    queries, relevance, embedded = case
    first = replace(queries.triplets[0], reference="elsewhere")
    queries = replace(queries, triplets=(first, *queries.triplets[1:]))
    with pytest.raises(ValueError, match="elsewhere"):
        evaluate_all_that_fit({"c": embedded}, {"c": queries}, {"c": relevance})


@pytest.mark.parametrize(("relevant", "n"), [(1, 1), (1, 20), (3, 20), (19, 20), (20, 20)])
def test_chance_is_the_mean_over_random_rankings(relevant, n):
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(n)[:relevant] for _ in range(4000)])
    drawn = average_precision_at_k(ranks, [relevant] * len(ranks), k=n).mean()
    assert chance_average_precision([relevant], n)[0] == pytest.approx(drawn, abs=0.012)


@pytest.mark.parametrize("relevant", [0, 5])
def test_chance_refuses_none_and_more_than_there_are(relevant):
    with pytest.raises(ValueError, match=r"in \[1, 4\]"):
        chance_average_precision([2, relevant], 4)


def test_pooled_features_are_unit_means_in_the_order_asked_whatever_the_batch(case):
    queries, _, _ = case
    stored = torch.randn(N, 3, 4, generator=torch.Generator().manual_seed(0))

    def read(image_ids):
        return stored[[int(i) for i in image_ids]]

    for batch_size in (1, 5, 100):
        retriever = SimpleNamespace(batch_size=batch_size, read_features=read)
        pooled = training.pool_features(retriever, ["7", "0", "3", "7", "1", "2"])
        mean = stored[[7, 0, 3, 7, 1, 2]].numpy().mean(axis=1)
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-5)
    of_queries, of_images = training.embed_frozen(retriever, {"c": queries})["c"]
    assert of_queries.shape == (Q, 4) and of_images.shape == (N, 1, 4)
    references = queries.corpus.positions([t.reference for t in queries.triplets])
    torch.testing.assert_close(of_queries, of_images[references, 0])


def test_the_table_weighs_categories_alike_and_compares_with_the_base():
    # the base finds half of what the model finds, for each of 30 + 10 queries
    category = ["c"] * 30 + ["d"] * 10
    found = np.where(np.array(category) == "c", 0.8, 0.4)
    base = pd.DataFrame({"category": category, "average_precision": found / 2})
    base = base.assign(chance=0.1, fitting=[2] * 21 + [5] * 19)
    precision = {"frozen encoder": base, "model": base.assign(average_precision=found)}
    frame = training.average_precision_table(precision, "frozen encoder").set_index("label")
    assert frame.estimate.tolist() == pytest.approx([30, 60])
    assert frame.loc["model", ["c", "d"]].tolist() == pytest.approx([80, 40])
    assert frame.chance.tolist() == pytest.approx([10, 10])
    assert frame["fitting images, median"].tolist() == [2, 2]
    assert frame["against the frozen encoder"].tolist() == ["-", "better"]
    assert "n_clusters" not in frame


# ---------------------------------------------------------------- other layouts


def test_models_are_evaluated_on_other_images_with_features_of_their_own(
    smoke_world, stage1, tmp_path
):
    groups = load_cirr(smoke_world / "cirr_like")
    unseen = load_circo(smoke_world / "circo_like", "val", True)
    model = Retriever.open(stage1, groups.images, tmp_path)
    frames = training.evaluate_on_cirr({"a": model}, groups)
    assert list(frames) == ["a"] and len(frames["a"]) == len(groups)
    found = training.evaluate_on_circo({"a": model, "b": model}, unseen, tmp_path, on_disk=False)
    pd.testing.assert_frame_equal(found["a"], found["b"])
    stored = training.evaluate_on_circo({"a": model}, unseen, tmp_path, on_disk=True)
    assert stored["a"].ap5.to_numpy() == pytest.approx(found["a"].ap5.to_numpy(), abs=0.05)
