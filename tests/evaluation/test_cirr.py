"""qure_lib.evaluation.cirr against slow and plain references."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from qure_lib.datasets.cirr import load_cirr
from qure_lib.evaluation.cirr import (
    CIRR_FILES,
    evaluate_cirr,
    rank_cirr,
    read_cirr,
    score_cirr,
    summarise_cirr,
)


def ranked_ids(scores, triplet):
    """The ids of (N,) scores but the reference, best first, ties in the order of the corpus."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [str(i) for i in order if str(i) != triplet.reference]


def test_ranks_are_without_the_reference_and_within_the_group(drawn):
    queries, embedder, scores = drawn
    frame = evaluate_cirr(embedder, queries)
    for k, t in enumerate(queries.triplets):
        ranked = ranked_ids(scores[k], t)
        assert frame["rank"][k] == ranked.index(t.target)
        assert frame["subset_rank"][k] == [i for i in ranked if i in t.group].index(t.target)
    assert frame["query_id"].tolist() == [t.query_id for t in queries.triplets]
    assert set(frame["subset_rank"]) == set(range(5))


def test_the_order_of_a_group_and_the_memory_change_nothing(drawn):
    queries, embedder, _ = drawn
    frame = evaluate_cirr(embedder, queries)
    turned = [replace(t, group=t.group[::-1]) for t in queries.triplets]
    assert evaluate_cirr(embedder, replace(queries, triplets=tuple(turned))).equals(frame)
    assert evaluate_cirr(embedder, queries, memory=2000).equals(frame)


@pytest.mark.parametrize("without", [{"target": ""}, {"group": ()}])
def test_queries_without_answers_are_refused(drawn, without):
    queries, embedder, _ = drawn
    bare = replace(queries.triplets[3], **without)
    bare = replace(queries, triplets=(*queries.triplets[:3], bare))
    for evaluate in (lambda q: evaluate_cirr(embedder, q), lambda q: score_cirr(q, {})):
        with pytest.raises(ValueError, match="query q3: group .* so evaluate val"):
            evaluate(bare)


def test_the_servers_files_list_what_the_evaluator_ranks(drawn):
    queries, embedder, scores = drawn
    recall, subset = rank_cirr(embedder, queries)
    for k, t in enumerate(queries.triplets):
        ranked = ranked_ids(scores[k], t)
        assert recall[t.query_id] == ranked  # only 12 images
        assert subset[t.query_id] == [i for i in ranked if i in t.group][:3]
    scored, frame = score_cirr(queries, recall, subset), evaluate_cirr(embedder, queries)
    assert scored["rank"].equals(frame["rank"])
    assert scored["subset_rank"].equals(frame["subset_rank"].clip(upper=3))


def test_files_score_as_the_evaluator_does(smoke_world, tmp_path, random_embedder):
    queries = load_cirr(smoke_world / "cirr_like", images=False)
    embedder = random_embedder(len(queries), len(queries.corpus))
    frame, files = evaluate_cirr(embedder, queries), {}
    for (metric, file), ranked in zip(
        CIRR_FILES.items(), rank_cirr(embedder, queries), strict=True
    ):
        file.write(tmp_path / "file.json", ranked, queries)
        found, files[metric] = read_cirr(tmp_path / "file.json", queries)
        assert (found, files[metric]) == (metric, ranked)
    scored = score_cirr(queries, **files)
    assert scored["query_id"].equals(frame["query_id"])
    assert scored["rank"].equals(frame["rank"].clip(upper=50)) and (frame["rank"] > 50).any()
    assert scored["subset_rank"].equals(frame["subset_rank"].clip(upper=3))
    assert list(score_cirr(queries, recall=files["recall"])) == ["query_id", "rank"]


@pytest.mark.parametrize(
    "change", [{"version": "rc1"}, {"version": None}, {"metric": "map"}, {"metric": ["recall"]}]
)
def test_another_version_or_metric_is_refused(drawn, tmp_path, change):
    queries, embedder, _ = drawn
    content = {"version": "rc2", "metric": "recall"} | rank_cirr(embedder, queries)[0] | change
    content = {key: value for key, value in content.items() if value is not None}
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"file\.json begins with .*; write one of .*'rc2'"):
        read_cirr(tmp_path / "file.json", queries)


# ---------------------------------------------------------------- summaries


@pytest.fixture
def ranked():
    return pd.DataFrame({"rank": [0, 4, 7, 60], "subset_rank": [0, 1, 0, 3]})


def test_the_summary_is_table_3(ranked, root):
    found = summarise_cirr(ranked).set_index("measure")
    expected = {"r1": 25, "r5": 50, "r10": 75, "r50": 75, "rs1": 50, "rs2": 75, "rs3": 75}
    assert found["estimate"].to_dict() == pytest.approx(expected | {"avg_r5_rs1": 50})
    published = pd.read_csv(root / "reports/published/table3_cirr_test.csv")
    assert ["method", *found.index] == list(published)
    assert found.loc["rs2", "words"] == "Recall_subset@2"


def test_the_average_is_taken_query_by_query(ranked):
    found = summarise_cirr(ranked).set_index("measure").loc["avg_r5_rs1"]
    assert found["n"] == 4 and found["words"] == "(R@5+Rs@1)/2"
    each = np.array([1, 0.5, 0.5, 0])  # in Recall@5, and first of its group
    assert found["estimate"] == 100 * each.mean()


def test_half_of_the_measures_where_half_was_ranked(ranked):
    whole = summarise_cirr(ranked)
    for column, measures in (("rank", slice(0, 4)), ("subset_rank", slice(4, 7))):
        part = summarise_cirr(ranked[[column]])
        pd.testing.assert_frame_equal(part, whole[measures].reset_index(drop=True))
