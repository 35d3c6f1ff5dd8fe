"""Ranks of the images that answer a query, against a search of the sorted ids."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from qure_lib.evaluation import protocol, target_ranks
from qure_lib.evaluation.ranking_files import RankingFile
from qure_lib.evaluation.statistics import Sample
from qure_lib.method.ranking import DEFAULT_MEMORY

FILE = RankingFile(5)


def ranked_ids(scores, triplet, exclude):
    """The ids of (N,) scores, best first, ties in the order of the corpus."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [str(i) for i in order if not exclude or str(i) != triplet.reference]


@pytest.mark.parametrize("memory", [DEFAULT_MEMORY, 2000])
@pytest.mark.parametrize("exclude", [False, True])
def test_every_image_has_the_rank_that_a_search_finds(drawn, exclude, memory):
    queries, embedder, scores = drawn
    wanted = [(t.target, *t.ground_truths[1:], t.reference) for t in queries.triplets]
    ranks = target_ranks.find_ranks(embedder, queries, wanted, memory, exclude)
    listed = target_ranks.rank_images(embedder, queries, 4, memory, exclude)
    for k, triplet in enumerate(queries.triplets):
        ranked = ranked_ids(scores[k], triplet, exclude)
        slow = [ranked.index(i) if i in ranked else -1 for i in wanted[k]]
        assert ranks[k].tolist() == slow + [-1] * (ranks.shape[1] - len(slow))
        assert listed[triplet.query_id] == ranked[:4]
    assert any(len(row.unique()) < row.numel() for row in scores)  # some scores tie


def test_an_excluded_reference_is_never_listed(drawn):
    queries, embedder, _ = drawn
    whole = target_ranks.rank_images(embedder, queries, 99, DEFAULT_MEMORY, True)
    assert {len(ids) for ids in whole.values()} == {len(queries.corpus) - 1}
    assert all(t.reference not in whole[t.query_id] for t in queries.triplets)


def test_a_reference_outside_the_corpus_cannot_be_excluded(drawn):
    queries, embedder, _ = drawn
    abroad = replace(queries.triplets[0], reference="elsewhere")
    queries = replace(queries, triplets=(abroad, *queries.triplets[1:]))
    wanted = [(t.target,) for t in queries.triplets]
    assert target_ranks.find_ranks(embedder, queries, wanted, DEFAULT_MEMORY, False).min() >= 0
    with pytest.raises(ValueError, match="'elsewhere' is not in this corpus of 12"):
        target_ranks.find_ranks(embedder, queries, wanted, DEFAULT_MEMORY, True)


def test_scores_that_are_not_numbers_have_no_ranks(drawn, random_embedder):
    queries = drawn[0]
    wanted = [(t.target,) for t in queries.triplets]
    for value in (torch.nan, torch.inf, -torch.inf):
        embedder = random_embedder(len(queries), len(queries.corpus))
        embedder.embed_corpus(queries.corpus)[7, 1, 3] = value
        with pytest.raises(ValueError, match="NaN|finite|infin"):
            target_ranks.find_ranks(embedder, queries, wanted, DEFAULT_MEMORY, False)


# ---------------------------------------------------------------- from rankings


def test_an_unlisted_target_ranks_at_its_rankings_length(drawn):
    queries, embedder, _ = drawn
    whole = target_ranks.rank_images(embedder, queries, 12, DEFAULT_MEMORY, False)
    ranks = target_ranks.listed_target_ranks(whole, queries, FILE)["rank"]
    lengths = {q: 5 + k % 3 for k, q in enumerate(whole)}
    short = {query: ids[: lengths[query]] for query, ids in whole.items()}
    bounds = target_ranks.listed_target_ranks(short, queries, FILE)["rank"]
    assert bounds.tolist() == [min(r, n) for r, n in zip(ranks.tolist(), lengths.values())]  # noqa: B905
    wanted = [(t.target,) for t in queries.triplets]
    absent = target_ranks.listed_ranks(short, queries, wanted, FILE)[:, 0] == -1
    assert absent.tolist() == (ranks >= torch.tensor([*lengths.values()])).tolist()
    assert absent.any() and not absent.all()


def test_lengths_are_said_only_where_a_ranking_ends_too_early(drawn):
    queries, embedder, _ = drawn
    whole = target_ranks.rank_images(embedder, queries, 12, DEFAULT_MEMORY, False)
    for length, count in ((12, 50), (11, 50), (5, 5), (9, 5)):  # of 11 the last place is known
        rankings = {query: ids[:length] for query, ids in whole.items()}
        found = target_ranks.listed_target_ranks(rankings, queries, RankingFile(count))
        assert list(found) == ["rank"]
        places = [min(length, whole[t.query_id].index(t.target)) for t in queries.triplets]
        assert found["rank"].tolist() == places
    lengths = [1 + k % 12 for k in range(len(queries))]
    rankings = {q: ids[:n] for n, (q, ids) in zip(lengths, whole.items(), strict=True)}
    found = target_ranks.listed_target_ranks(rankings, queries, FILE)
    assert found["listed"].tolist() == lengths


def test_recall_is_unknown_beyond_a_rankings_end():
    frame = pd.DataFrame({"rank": [0, 3, 2], "listed": [4, 3, 50], "subset_rank": [2, 0, 1]})
    known = {k: protocol.recall(frame, k).tolist() for k in (3, 4, 5)}
    assert known[3] == [100, 0, 100]
    np.testing.assert_equal(known[4], [100, np.nan, 100])
    np.testing.assert_equal(known[5], [np.nan, np.nan, 100])  # though a target is listed
    assert protocol.recall(frame, 1, "subset_rank").tolist() == [0, 100, 0]
    assert protocol.recall(frame.drop(columns="listed"), 50).tolist() == [100] * 3
    samples = {("a", "A"): Sample([1, np.nan, 0]), ("b", "B"): Sample([1, 0, 0], [1, 1, 2])}
    unknown, found = protocol.estimate(samples).itertuples(index=False)
    assert unknown.n == 3 and np.isnan([unknown.estimate, unknown.low, unknown.high]).all()
    assert (found.measure, found.words, found.estimate, found.n) == ("b", "B", 0.25, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("q3"), "no ranking of query 'q3'"),
        (lambda r: r.update(q99=r["q3"]), "a ranking of unknown query 'q99'"),
        (lambda r: r["q3"].__setitem__(0, r["q3"][4]), "query q3: image '.*' is listed twice"),
        (lambda r: r["q3"].__setitem__(0, "99"), "query q3: image '99' is not in the corpus"),
    ],
)
def test_rankings_from_anywhere_are_checked(drawn, change, message):
    queries, embedder, _ = drawn
    rankings = target_ranks.rank_images(embedder, queries, 12, DEFAULT_MEMORY, False)
    change(rankings)
    with pytest.raises(ValueError, match=message):
        target_ranks.listed_target_ranks(rankings, queries, FILE)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answers", "change"),
    [
        ("group", {"target": ""}),
        ("group", {"group": ()}),
        ("group", {"group": ("0", "1", "2", "3", "4", "5"), "target": "9", "reference": "0"}),
        ("group", {"group": ("0", "1", "2", "3", "4", "5"), "target": "0", "reference": "9"}),
        ("group", {"group": ("0", "1", "1", "3", "4", "5"), "target": "0", "reference": "5"}),
        ("group", {"group": ("0", "1", "2", "3", "4", "5"), "target": "0", "reference": "0"}),
        ("ground_truths", {"target": ""}),
        ("ground_truths", {"ground_truths": ()}),
        ("ground_truths", {"ground_truths": ("1", "2"), "target": "3", "reference": "0"}),
        ("ground_truths", {"ground_truths": ("1", "2", "2"), "target": "1", "reference": "0"}),
        ("ground_truths", {"ground_truths": ("1", "0"), "target": "1", "reference": "0"}),
        ("ground_truths", {"ground_truths": ("0", "1"), "target": "0", "reference": "0"}),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(drawn, answers, change):
    queries = drawn[0]
    target_ranks.check_answers(queries, answers, with_reference=answers == "group")
    wrong = replace(queries.triplets[3], **change)
    queries = replace(queries, triplets=(*queries.triplets[:3], wrong))
    with pytest.raises(ValueError, match=f"c, query q3: {answers} .* must be distinct images"):
        target_ranks.check_answers(queries, answers, with_reference=answers == "group")
