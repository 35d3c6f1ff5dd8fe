"""qure_lib.evaluation.fashioniq against slow and plain references."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from qure_lib.datasets.fashioniq import load_fashioniq
from qure_lib.evaluation.fashioniq import (
    evaluate_fashioniq,
    read_fashioniq,
    score_fashioniq,
    summarise_recall,
)
from qure_lib.evaluation.metrics import ndcg_at_k


def test_the_reference_is_ranked_like_any_image(drawn):
    queries, embedder, scores = drawn
    frame = evaluate_fashioniq(embedder, {"c": queries, "d": queries})
    assert list(frame) == ["query_id", "category", "rank"]
    assert frame["category"].tolist() == ["c"] * len(queries) + ["d"] * len(queries)
    for k, t in enumerate(queries.triplets):
        order = sorted(range(len(queries.corpus)), key=lambda i: (-scores[k, i], i))
        assert frame["rank"][k] == order.index(int(t.target))
    assert evaluate_fashioniq(embedder, {"c": queries}, memory=2000).equals(frame[: len(queries)])


def test_graded_measures_are_those_of_the_ranking(drawn):
    queries, embedder, scores = drawn
    generator = torch.Generator().manual_seed(1)
    relevance = torch.randint(4, scores.shape, generator=generator) / 3
    frame = evaluate_fashioniq(embedder, {"c": queries}, relevance={"c": relevance})
    assert (frame["false_negatives10"] > 0).any()
    for k, t in enumerate(queries.triplets):
        order = sorted(range(len(queries.corpus)), key=lambda i: (-scores[k, i], i))
        target, ranked = int(t.target), relevance[k][order]
        as_good = [i for i in order[:10] if relevance[k, i] >= relevance[k, target]]
        assert frame["false_negatives10"][k] == len(set(as_good) - {target})
        assert frame["ndcg10"][k] == pytest.approx(ndcg_at_k(ranked[None], 10)[0])
    plain = evaluate_fashioniq(embedder, {"c": queries}, relevance={"c": None})
    assert plain.equals(frame[["query_id", "category", "rank"]])


def test_rankings_score_as_their_model_does(drawn):
    queries, embedder, scores = drawn
    order = scores.argsort(dim=1, descending=True, stable=True).tolist()
    ids = queries.corpus.image_ids
    rankings = {
        t.query_id: [ids[i] for i in row] for t, row in zip(queries.triplets, order, strict=True)
    }
    frame = evaluate_fashioniq(embedder, {"c": queries})
    assert score_fashioniq({"c": rankings}, {"c": queries}).equals(frame)


def test_a_file_scores_as_the_evaluator_does(smoke_world, tmp_path, random_embedder):
    queries = load_fashioniq(smoke_world, "val", "union", images=False)
    frames, content = [], {}
    for category, query_set in queries.items():
        embedder = random_embedder(len(query_set), len(query_set.corpus))
        frames.append(evaluate_fashioniq(embedder, {category: query_set}))
        embedded = embedder.embed_queries(0), embedder.embed_corpus(0)
        scores = torch.einsum("qd,ntd->qnt", *embedded).amax(-1).numpy()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :55]
        ids = query_set.corpus.image_ids
        content[category] = {q: [ids[i] for i in row] for q, row in enumerate(order.tolist())}
    (tmp_path / "ranked.json").write_text(json.dumps(content))
    rankings = read_fashioniq(tmp_path / "ranked.json", queries)
    scored = score_fashioniq(rankings, queries)
    for part, whole in zip(scored.groupby("category"), frames, strict=True):
        assert part[1]["rank"].tolist() == whole["rank"].clip(upper=55).tolist()
        assert part[1]["query_id"].tolist() == whole["query_id"].tolist()


@pytest.mark.parametrize("both", [("3", "c/val/3"), ("c/val/3", "3")])
def test_a_query_is_ranked_under_one_name(drawn, tmp_path, both):
    queries = drawn[0]
    triplets = tuple(replace(t, query_id=f"c/val/{k}") for k, t in enumerate(queries.triplets))
    queries = replace(queries, triplets=triplets)
    ids = list(queries.corpus.image_ids)
    content = {str(k): ids for k in range(len(queries)) if k != 3} | dict.fromkeys(both, ids)
    (tmp_path / "file.json").write_text(json.dumps({"c": content}))
    with pytest.raises(ValueError, match="a query is there by number and by id; keep one"):
        read_fashioniq(tmp_path / "file.json", {"c": queries})


@pytest.mark.parametrize("name", ["03", " 3", "3.0", "d/val/3", "c/val/c/val/3", "c/train/3"])
def test_a_name_that_only_looks_like_a_querys_is_unknown(drawn, tmp_path, name):
    queries = drawn[0]
    triplets = tuple(replace(t, query_id=f"c/val/{k}") for k, t in enumerate(queries.triplets))
    queries = replace(queries, triplets=triplets)
    content = {str(k): list(queries.corpus.image_ids) for k in range(len(queries))}
    (tmp_path / "file.json").write_text(json.dumps({"c": content | {name: []}}))
    with pytest.raises(ValueError, match="a ranking of unknown query"):
        read_fashioniq(tmp_path / "file.json", {"c": queries})


@pytest.mark.parametrize("content", [{}, {"c": [], "d": {}}, {"c": {}}, {"c": {}, "e": {}}])
def test_other_categories_are_refused(drawn, tmp_path, content):
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"file\.json: write .* for each of \['c', 'd'\]"):
        read_fashioniq(tmp_path / "file.json", {"c": drawn[0], "d": drawn[0]})


# ---------------------------------------------------------------- the summary


@pytest.mark.parametrize("name", ["avg", "average"])
def test_a_category_does_not_hide_the_mean(name):
    ranks = pd.DataFrame({"category": ["dress", "dress", name, name], "rank": [0, 90, 0, 0]})
    with pytest.raises(ValueError, match="a category is called avg or average"):
        summarise_recall(ranks)


def test_every_category_counts_the_same_in_the_averages():
    """Recall@10 of dress 1/2, shirt 3/4; Recall@50 of dress 2/2, shirt 3/4."""
    category, rank = ["dress"] * 2 + ["shirt"] * 4, [9, 10, 0, 0, 5, 50]
    found = summarise_recall(pd.DataFrame({"category": category, "rank": rank}))
    result = found.set_index("measure")
    expected = {"dress_r10": 50.0, "dress_r50": 100.0, "shirt_r10": 75.0, "shirt_r50": 75.0}
    expected |= {"avg_r10": 62.5, "avg_r50": 87.5, "avg": 75.0}
    assert result["estimate"].to_dict() == pytest.approx(expected)
    assert list(result.index) == list(expected)
    assert found["words"].tolist()[-4:] == [
        "Recall@50 shirt",
        "Recall@10 average",
        "Recall@50 average",
        "Avg",
    ]
    assert result["n"].to_dict()["avg"] == 6
    assert (result["low"] <= result["estimate"]).all()
    assert (result["estimate"] <= result["high"]).all()
