"""qure_lib.submissions: one set of rules for what is read and what is written."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qure_lib import submissions
from qure_lib.data import (
    Corpus,
    QuerySet,
    Triplet,
    load_circo,
    load_cirr,
    load_fashioniq,
    real_annotations,
)
from qure_lib.evaluation import (
    evaluate_circo,
    evaluate_cirr,
    evaluate_fashioniq,
    rank_circo,
    rank_cirr,
    score_circo,
    score_cirr,
    score_fashioniq,
)
from qure_lib.metrics import recall_at_k

IDS = [str(i) for i in range(60)]
FORMATS = ("circo", "recall", "recall_subset", "fashioniq")


@pytest.fixture
def queries():
    """Two queries over sixty images: 0 -> 1 in a group of 0 to 5, and 7 -> 6 in one of 6 to 11."""
    triplets = (
        Triplet("3", "0", "", "1", "c", (""), tuple(IDS[:6]), ("1", "2")),
        Triplet("8", "7", "", "6", "c", (""), tuple(IDS[6:12]), ("6",)),
    )
    return QuerySet("c", triplets, Corpus(tuple(IDS), ()), {})


def good(kind: str) -> dict:
    """A file without fault, whose rankings begin with the target."""
    listed = {
        q: [target, *(i for i in IDS if i not in (target, reference))]
        for q, reference, target in (("3", "0", "1"), ("8", "7", "6"))
    }
    head = {"version": "rc2", "metric": kind}
    return {
        "circo": {q: [int(i) for i in ids[:50]] for q, ids in listed.items()},
        "recall": head | {q: ids[:50] for q, ids in listed.items()},
        "recall_subset": head | {"3": ["1", "4", "5"], "8": ["6", "9", "11"]},
        "fashioniq": {"c": listed},
    }[kind]


def read(kind: str, path: Path, queries: QuerySet) -> dict:
    """Query id -> ranking, whatever the format."""
    if kind == "circo":
        return submissions.read_circo(path, queries)
    if kind == "fashioniq":
        rows = {t.query_id: replace(t, query_id=f"c/val/{t.query_id}") for t in queries.triplets}
        return submissions.read_fashioniq(
            path, {"c": replace(queries, triplets=(*rows.values(),))}
        )["c"]
    metric, rankings = submissions.read_cirr(path, queries)
    assert metric == kind
    return rankings


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(tmp_path, queries, kind):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(good(kind)))
    rankings = read(kind, path, queries)
    before = "c/val/" if kind == "fashioniq" else ""
    assert [rankings[f"{before}{q}"][0] for q in "38"] == ["1", "6"]
    assert all(isinstance(i, str) for ids in rankings.values() for i in ids)


def spoil(kind: str, change) -> dict:
    """A good file after `change`(its rankings)."""
    content = good(kind)
    change(content["c"] if kind == "fashioniq" else content)
    return content


CIRR = ("recall", "recall_subset")
FAULTS = [
    (FORMATS, lambda r: r.pop("8"), r"no ranking of query '(c/val/)?8' \(1 like it\); give one of"),
    (FORMATS, lambda r: r.update({"x": r["3"]}), "a ranking of unknown query '(c/val/)?x'"),
    (FORMATS, lambda r: r["3"].__setitem__(2, r["3"][1]), "query .*3: image '.+' is listed twice"),
    (FORMATS, lambda r: r["8"].__delitem__(slice(1, None)), r"query .*8: 1 images; list \d+"),
    (FORMATS, lambda r: r.update({"3": dict.fromkeys(r["3"])}), "query .*3: write a list"),
    (FORMATS, lambda r: r.update({"3": "1"}), "query .*3: write a list"),
    (FORMATS, lambda r: r["3"].__setitem__(1, None), "query .*3: write a list of"),
    (FORMATS, lambda r: r["3"].__setitem__(1, True), "query .*3: write a list of"),
    (("circo",), lambda r: r["3"].__setitem__(1, "4"), "query 3: write a list of COCO's ids"),
    (("circo",), lambda r: r["3"].__setitem__(1, 99), "query 3: image '99' is not in the corpus"),
    (("circo",), lambda r: r["3"].__setitem__(1, -1), "query 3: -1 to .* are not COCO's ids"),
    (("circo", "recall"), lambda r: r["3"].append(r["3"].pop()) or r["3"].append(r["8"][0]),
     "query 3: 51 images; list 50, best first"),
    (("recall", "fashioniq"), lambda r: r["3"].__setitem__(1, "99"), "'99' is not in the corpus"),
    (("recall_subset",), lambda r: r["3"].__setitem__(1, "8"), "'8' is not in the query's group"),
    (CIRR, lambda r: r["3"].__setitem__(1, "0"), "query 3: '0' is the query's reference; leave it"),
    (CIRR, lambda r: r.update(version="rc1"), "\"version\" must be 'rc2'"),
    (CIRR, lambda r: r.pop("version"), "version None and metric"),
    (CIRR, lambda r: r.update(metric="map"), "metric 'map'.* one of"),
    (CIRR, lambda r: r.update(metric=["recall"]), "metric .*one of"),
    (("fashioniq",), lambda r: r.update({"c/val/3": r["3"]}), "is there by number and by id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "message"), [(k, c, m) for kinds, c, m in FAULTS for k in kinds]
)
def test_a_fault_is_named_with_its_query(tmp_path, queries, kind, change, message):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(spoil(kind, change)))
    with pytest.raises(ValueError, match=rf"file\.json.*{message}"):
        read(kind, path, queries)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a dict, found list"),
        ('{"3": [1, 2', "not valid JSON .*truncated"),
        ('{"3": [], "3": []}', "the key '3' is there twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"3": [' + "9" * 5000 + "]}", "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("", "not valid JSON"),
        (None, "is missing; name a file of rankings"),
    ],
    ids=range(8),
)
def test_what_is_no_such_file_is_refused(tmp_path, queries, kind, text, message):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"file\.json.*{message}"):
        read(kind, path, queries)


def test_an_absurdly_large_file_is_not_read(tmp_path, queries, monkeypatch):
    (tmp_path / "file.json").write_text(json.dumps(good("circo")))
    monkeypatch.setattr(submissions, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match=r"file\.json has \d+ bytes; keep the first 50"):
        submissions.read_circo(tmp_path / "file.json", queries)


@pytest.mark.parametrize("category", ["d", None])
def test_other_categories_are_named(tmp_path, queries, category):
    content = good("fashioniq") | ({category: {}} if category else {"c": []})
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"categories \['c', 'd'\]; write \['c'\]|c: expected \{q"):
        submissions.read_fashioniq(tmp_path / "file.json", {"c": queries})


def test_without_cocos_list_any_of_its_numbers_passes(tmp_path, queries):
    named = replace(queries, corpus=Corpus(("0", "1", "2", "7", "6"), ()))
    assert submissions.knows_corpus(queries) and not submissions.knows_corpus(named)
    path = tmp_path / "file.json"
    path.write_text(json.dumps(spoil("circo", lambda r: r["3"].__setitem__(1, 581_900))))
    assert submissions.read_circo(path, named)["3"][1] == "581900"
    path.write_text(json.dumps(spoil("circo", lambda r: r["3"].__setitem__(1, 10**12))))
    with pytest.raises(ValueError, match=r"query 3: 1 to 10{12} are not COCO's ids"):
        submissions.read_circo(path, named)


@pytest.mark.parametrize("kind", FORMATS[:3])
def test_a_faulty_ranking_is_not_written(tmp_path, queries, kind):
    rankings = {q: list(map(str, ids)) for q, ids in good(kind).items() if q in "38"}
    rankings["8"][1] = rankings["8"][0]
    with pytest.raises(ValueError, match=r"file\.json, query 8: image '6' is listed twice"):
        if kind == "circo":
            submissions.write_circo(tmp_path / "file.json", rankings, queries)
        else:
            submissions.write_cirr(tmp_path / "file.json", kind, rankings, queries)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="metric must be one of"):
        submissions.write_cirr(tmp_path / "file.json", "map", rankings, queries)


def test_a_folder_is_never_replaced_by_a_file(tmp_path, queries):
    rankings = {q: list(map(str, ids)) for q, ids in good("circo").items()}
    (tmp_path / "kept.txt").touch()
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        submissions.write_circo(tmp_path, rankings, queries)
    assert (tmp_path / "kept.txt").is_file()


# ---------------------------------------------------------------- written, read, scored


def random_embedder(n_queries: int, n_images: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(n_queries)
    embedded = [torch.randn(*s, generator=generator) for s in ((n_queries, 8), (n_images, 2, 8))]
    return SimpleNamespace(embed_queries=lambda q: embedded[0], embed_corpus=lambda c: embedded[1])


def test_cirr_files_score_as_the_evaluator_does(smoke_world, tmp_path):
    queries = load_cirr(smoke_world / "cirr_like", images=False)
    embedder = random_embedder(len(queries), len(queries.corpus))
    frame, files = evaluate_cirr(embedder, queries), {}
    rankings = dict(zip(submissions.CIRR_METRICS, rank_cirr(embedder, queries), strict=True))
    for metric, ranked in rankings.items():
        submissions.write_cirr(tmp_path / f"{metric}.json", metric, ranked, queries)
        found, files[metric] = submissions.read_cirr(tmp_path / f"{metric}.json", queries)
        assert (found, files[metric]) == (metric, ranked)
    scored = score_cirr(queries, **files)
    assert scored["query_id"].equals(frame["query_id"])
    assert scored["rank"].equals(frame["rank"].clip(upper=50)) and (frame["rank"] > 50).any()
    assert scored["subset_rank"].equals(frame["subset_rank"].clip(upper=3))
    assert list(score_cirr(queries, recall=files["recall"])) == ["query_id", "rank"]


def test_a_circo_file_scores_as_the_evaluator_does(smoke_world, tmp_path):
    queries = load_circo(smoke_world / "circo_like", images=False)
    embedder = random_embedder(len(queries), len(queries.corpus))
    for exclude in (False, True):
        rankings = rank_circo(embedder, queries, exclude_reference=exclude)
        submissions.write_circo(tmp_path / "circo.json", rankings, queries)
        assert submissions.read_circo(tmp_path / "circo.json", queries) == rankings
        frame = evaluate_circo(embedder, queries, exclude_reference=exclude)
        frame["rank"] = frame["rank"].clip(upper=50)
        assert score_circo(queries, rankings).equals(frame)
    assert all(t.reference not in rankings[t.query_id] for t in queries.triplets)


def test_a_fashioniq_file_scores_as_the_evaluator_does(smoke_world, tmp_path):
    queries = load_fashioniq(smoke_world, "val", "union", images=False)
    embedders = {c: random_embedder(len(q), len(q.corpus)) for c, q in queries.items()}
    frames, content = [], {}
    for category, query_set in queries.items():
        frames.append(evaluate_fashioniq(embedders[category], {category: query_set}))
        embedded = embedders[category].embed_queries(0), embedders[category].embed_corpus(0)
        scores = torch.einsum("qd,ntd->qnt", *embedded).amax(-1).numpy()
        order = np.argsort(-scores, axis=1, kind="stable")[:, :55]
        ids = query_set.corpus.image_ids
        content[category] = {q: [ids[i] for i in row] for q, row in enumerate(order.tolist())}
    (tmp_path / "ranked.json").write_text(json.dumps(content))
    rankings = submissions.read_fashioniq(tmp_path / "ranked.json", queries)
    scored = score_fashioniq(rankings, queries)
    for part, whole in zip(scored.groupby("category"), frames, strict=True):
        assert part[1]["rank"].tolist() == whole["rank"].clip(upper=55).tolist()
        assert part[1]["query_id"].tolist() == whole["query_id"].tolist()


# ---------------------------------------------------------------- the real examples

REAL = real_annotations("circo")
needs_circo = pytest.mark.skipif(REAL is None, reason="QURE_DATA does not hold circo/")


@needs_circo
def test_the_example_for_val_scores_as_counted_by_hand():
    """Every sum of AP@k and Recall@k once more, from the JSON files alone."""
    path = REAL / "submission_examples" / "submission_val.json"
    queries = load_circo(REAL, "val", images=False)
    frame = score_circo(queries, submissions.read_circo(path, queries))
    listed = json.loads(path.read_text())
    entries = json.loads((REAL / "annotations" / "val.json").read_text())
    expected = {
        5: (0.4861, 0.9091),
        10: (0.5178, 0.9091),
        25: (0.5400, 1.3636),
        50: (0.6020, 3.6364),
    }
    for k, (precision, recall) in expected.items():
        slow, found = [], []
        for entry in entries:
            hit = np.isin(listed[str(entry["id"])][:k], entry["gt_img_ids"])
            at = np.cumsum(hit) / np.arange(1, k + 1)
            slow.append((hit * at).sum() / min(k, len(entry["gt_img_ids"])))
            found.append(entry["target_img_id"] in listed[str(entry["id"])][:k])
        np.testing.assert_allclose(frame[f"ap{k}"], slow)
        assert np.array_equal(recall_at_k(frame["rank"], k), found)
        assert round(100 * frame[f"ap{k}"].mean(), 4) == pytest.approx(precision)
        assert round(100 * np.mean(found), 4) == pytest.approx(recall)


@needs_circo
def test_the_example_for_test_is_one_that_the_server_takes(tmp_path):
    path = REAL / "submission_examples" / "submission_test.json"
    queries = load_circo(REAL, "test", images=False)
    rankings = submissions.read_circo(path, queries)
    assert len(rankings) == 800
    submissions.write_circo(tmp_path / "again.json", rankings, queries)
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    with pytest.raises(ValueError, match=r"a ranking of unknown query '220' \(580 like it\)"):
        submissions.read_circo(path, load_circo(REAL, "val", images=False))
