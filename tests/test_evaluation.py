"""qure_lib.evaluation: CIRR, CIRCO and all that fits, against slow and plain references."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from qure_lib.data import Corpus, QuerySet, Triplet
from qure_lib.evaluation import (
    evaluate_all_that_fit,
    evaluate_circo,
    evaluate_cirr,
    evaluate_fashioniq,
    evaluate_hp_fashioniq,
    hp_query_set,
    rank_circo,
    rank_cirr,
    score_circo,
    score_cirr,
    score_fashioniq,
)
from qure_lib.metrics import chance_average_precision

N, Q = 12, 30


@pytest.fixture
def case():
    """Queries q over images 0 to 11, random embeddings, and relevance in thirds."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(N, generator=generator)[:2] for _ in range(Q)]).tolist()
    triplets = [
        Triplet(f"q{k}", str(a), "", str(b), "c", ("", "")) for k, (a, b) in enumerate(pairs)
    ]
    queries = QuerySet("c", tuple(triplets), Corpus(tuple(map(str, range(N))), ()), {})
    relevance = torch.randint(3, (Q, N), generator=generator) / 3
    embedded = [
        F.normalize(torch.randn(*s, generator=generator), dim=-1) for s in ((Q, 8), (N, 2, 8))
    ]
    return queries, relevance, tuple(embedded)


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


# ---------------------------------------------------------------- CIRR and CIRCO


@pytest.fixture
def protocols(case):
    """The same queries with groups of six and with ground truths, the embeddings' retriever, and
    (Q, N) scores, some of them equal."""
    queries, _, embedded = case
    embedded = tuple(torch.round(e, decimals=0) for e in embedded)  # so that many scores tie
    generator = torch.Generator().manual_seed(1)
    triplets = []
    for t in queries.triplets:
        others = [str(int(i)) for i in torch.randperm(N, generator=generator)]
        others = [i for i in others if i not in (t.reference, t.target)]
        group = (others[0], t.reference, *others[1:4], t.target)
        more = others[: torch.randint(7, (1,), generator=generator)]
        truths = dict(ground_truths=(t.target, *more), aspects=("colour", "neck"))
        triplets.append(replace(t, group=group, **truths))
    retriever = SimpleNamespace(
        embed_queries=lambda q: embedded[0], embed_corpus=lambda c: embedded[1]
    )
    scores = torch.einsum("qd,ntd->qnt", *embedded).amax(-1)
    return replace(queries, triplets=tuple(triplets)), retriever, scores


def test_cirr_ranks_without_the_reference_and_within_the_group(protocols):
    queries, retriever, scores = protocols
    frame = evaluate_cirr(retriever, queries)
    ties = 0
    for k, t in enumerate(queries.triplets):
        ranked = sorted(range(N), key=lambda i: (-scores[k, i], i))
        ranked = [str(i) for i in ranked if str(i) != t.reference]
        assert frame["rank"][k] == ranked.index(t.target)
        assert frame["subset_rank"][k] == [i for i in ranked if i in t.group].index(t.target)
        ties += len(scores[k].unique()) < N
    assert frame["query_id"].tolist() == [t.query_id for t in queries.triplets] and ties > 0
    assert set(frame["subset_rank"]) == set(range(5))


@pytest.mark.parametrize("exclude", [False, True])
def test_circo_counts_every_ground_truth(protocols, exclude):
    queries, retriever, scores = protocols
    frame = evaluate_circo(retriever, queries, exclude_reference=exclude)
    for k, t in enumerate(queries.triplets):
        ranked = [str(i) for i in sorted(range(N), key=lambda i: (-scores[k, i], i))]
        ranked = [i for i in ranked if not exclude or i != t.reference]
        assert frame["rank"][k] == ranked.index(t.target)
        for cut in (5, 10, 25, 50):
            hits, total = 0, 0.0
            for rank, image in enumerate(ranked[:cut]):
                if image in t.ground_truths:
                    hits += 1
                    total += hits / (rank + 1)
            slow = total / min(cut, len(t.ground_truths))
            assert frame[f"ap{cut}"][k] == pytest.approx(slow)
    assert frame["aspects"].tolist() == [("colour", "neck")] * Q
    other = evaluate_circo(retriever, queries, exclude_reference=not exclude)
    assert (frame["ap5"] != other["ap5"]).any()


def test_memory_changes_neither(protocols):
    queries, retriever, _ = protocols
    for evaluate in (evaluate_cirr, evaluate_circo):
        assert evaluate(retriever, queries, memory=2000).equals(evaluate(retriever, queries))


@pytest.mark.parametrize("without", ["target", "group", "ground_truths"])
def test_queries_without_answers_are_refused(protocols, without):
    queries, retriever, _ = protocols
    bare = replace(queries.triplets[3], **{without: type(getattr(queries.triplets[3], without))()})
    queries = replace(queries, triplets=(*queries.triplets[:3], bare))
    for evaluate in (evaluate_cirr, evaluate_circo):
        if without == "target" or (without == "group") == (evaluate is evaluate_cirr):
            with pytest.raises(ValueError, match="query q3: no target or no .* evaluate val"):
                evaluate(retriever, queries)
        else:
            assert len(evaluate(retriever, queries.__class__(**vars(queries)))) == 4


def test_the_files_for_a_server_list_what_the_evaluators_rank(protocols):
    queries, retriever, scores = protocols
    recall, subset = rank_cirr(retriever, queries)
    circo = rank_circo(retriever, queries, exclude_reference=True)
    for k, t in enumerate(queries.triplets):
        ranked = [str(i) for i in sorted(range(N), key=lambda i: (-scores[k, i], i))]
        others = [i for i in ranked if i != t.reference]
        assert recall[t.query_id] == circo[t.query_id] == [*others, t.reference]  # only 12 images
        assert subset[t.query_id] == [i for i in others if i in t.group][:3]
        assert rank_circo(retriever, queries)[t.query_id] == ranked


def test_a_ranking_that_stops_before_the_target_counts_as_its_length(protocols):
    queries, retriever, _ = protocols
    full = rank_circo(retriever, queries)
    whole, short = score_circo(queries, full), {q: ids[:5] for q, ids in full.items()}
    assert whole.equals(evaluate_circo(retriever, queries))
    cut = score_circo(queries, short)
    assert cut["rank"].equals(whole["rank"].clip(upper=5)) and (whole["rank"] > 5).any()
    assert cut["ap5"].equals(whole["ap5"]) and (cut["ap50"] <= whole["ap50"]).all()
    assert score_fashioniq({"c": full}, {"c": queries}).equals(
        evaluate_fashioniq(retriever, {"c": queries})
    )
    recall, subset = rank_cirr(retriever, queries)
    scored = score_cirr(queries, recall, subset)
    frame = evaluate_cirr(retriever, queries)
    assert scored["rank"].equals(frame["rank"])
    assert scored["subset_rank"].equals(frame["subset_rank"].clip(upper=3))


# ---------------------------------------------------------------- HP-FashionIQ


@pytest.fixture
def judged():
    """Six judged queries of three participants; the last shows the same five images twice."""
    rng, rows = np.random.default_rng(0), []
    for row in range(6):
        first, second = (tuple(map(str, rng.permutation(N)[:5])) for _ in range(2))
        about = {"participant": f"user_{row % 3}", "category": "shirt", "reference": str(row)}
        about |= {"caption": "is red", "target": "11", "preferred": 1 + row % 2}
        rows.append(about | {"set_1": first, "set_2": second if row < 5 else first[::-1]})
    return pd.DataFrame(rows)


def test_a_set_scores_the_mean_of_its_five_images(judged):
    generator = torch.Generator().manual_seed(0)
    embedded = [torch.randn(*s, generator=generator) for s in ((6, 8), (N, 2, 8))]
    corpus = hp_query_set(judged, None).corpus
    retriever = SimpleNamespace(
        embed_queries=lambda q: embedded[0], embed_corpus=lambda c: embedded[1]
    )
    frame = evaluate_hp_fashioniq(retriever, judged)
    for k, row in enumerate(judged.itertuples()):
        for name, shown in (("set_score_1", row.set_1), ("set_score_2", row.set_2)):
            images = [embedded[1][corpus.image_ids.index(i)].numpy() for i in shown]
            slow = np.mean([max(embedded[0][k].numpy() @ token for token in i) for i in images])
            assert frame[name][k] == pytest.approx(slow, rel=1e-5)
        better = 1 if frame["set_score_1"][k] > frame["set_score_2"][k] else 2
        if k < 5:
            assert frame["agrees"][k] == (better == row.preferred)
            assert frame["one_sided"][k] == (better == 1)
    assert frame["agrees"][5] == 0.5  # the same images in another order are a tie, exactly
    pd.testing.assert_frame_equal(evaluate_hp_fashioniq(retriever, judged, memory=5000), frame)


def test_judged_queries_are_queries_by_row_and_need_their_files(judged):
    queries = hp_query_set(judged, None)
    assert [t.query_id for t in queries.triplets] == list("012345")
    assert set(queries.corpus.image_ids) == {i for s in judged["set_1"] for i in s} | {
        i for s in judged["set_2"] for i in s
    }
    files = {str(i): f"images/{i}.png" for i in range(N)}
    assert hp_query_set(judged, files).reference_paths["3"] == "images/3.png"
    with pytest.raises(ValueError, match="image '3' has no file; name the folder of FashionIQ"):
        hp_query_set(judged, {i: path for i, path in files.items() if i != "3"})
