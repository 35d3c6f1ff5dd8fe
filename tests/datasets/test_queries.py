"""Corpus and QuerySet: positions, what is needed, and ids that may come only once."""

from pathlib import Path

import pytest

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet, check_distinct

IDS = ("a", "b", "c", "d")


def triplet(query_id: str, reference: str, target: str) -> Triplet:
    return Triplet(query_id, reference, "x", target, "shirt", ("x",))


@pytest.fixture
def queries() -> QuerySet:
    """c -> b, and an image outside the corpus -> d."""
    triplets = (triplet("0", "c", "b"), triplet("1", "outside", "d"))
    corpus = Corpus(IDS, tuple(Path(f"{i}.png") for i in IDS))
    references = {"c": Path("c.png"), "outside": Path("outside.png")}
    return QuerySet("shirt", triplets, corpus, references)


def test_positions_are_those_of_the_corpus(queries):
    assert queries.target_positions.tolist() == [1, 3]
    assert queries.reference_positions.tolist() == [2, -1]
    assert queries.corpus.positions(("d", "a", "d")).tolist() == [3, 0, 3]
    assert queries.corpus.positions(()).shape == (0,)
    with pytest.raises(ValueError, match="image 'elsewhere' is not in this corpus of 4"):
        queries.corpus.positions(["elsewhere"])


def test_all_images_are_the_corpus_then_references_outside_it(queries):
    assert list(queries.images) == ["a", "b", "c", "d", "outside"]
    assert queries.images["outside"] == Path("outside.png")


def test_only_targets_keeps_the_corpuss_order(queries):
    fewer = queries.only_targets()
    assert fewer.corpus == Corpus(("b", "d"), (Path("b.png"), Path("d.png")))
    assert fewer.triplets == queries.triplets and fewer.target_positions.tolist() == [0, 1]


@pytest.mark.parametrize("ids", [("a", "b", "a"), ("a", "a"), ("c", "a", "b", "d", "b")])
def test_a_corpus_refuses_an_image_twice(ids):
    second = max(i for i in range(len(ids)) if ids[i] in ids[:i])
    first = ids.index(ids[second])
    message = f"{second}: corpus image '{ids[second]}' is already at {first}"
    with pytest.raises(ValueError, match=message):
        Corpus(ids, ())


def test_a_query_set_refuses_a_query_id_twice(queries):
    again = (*queries.triplets, triplet("0", "a", "d"))
    with pytest.raises(ValueError, match="2: shirt: query '0' is already at 0"):
        QuerySet("shirt", again, queries.corpus, {})


def test_distinct_values_pass_and_both_places_of_another_are_named():
    check_distinct([], "id")
    check_distinct([("file, entry 0", 1), ("file, entry 1", "1")], "id")
    with pytest.raises(ValueError, match=r"^file, entry 7: 'id' 1 is already at file, entry 0; "):
        check_distinct([("file, entry 0", 1), ("file, entry 5", 2), ("file, entry 7", 1)], "'id'")
