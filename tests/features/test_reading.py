"""Features on their way to a GPU: the same values as plain reads, from wherever they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qure_lib.features import reading
from qure_lib.features.reading import CardFeatures, place_features, read_ahead
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import FeatureStore
from qure_lib.train.training_data import load_training_data

CUDA = torch.device("cuda")
HERE = CUDA if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def store():
    """Nine images in three shards of unequal length."""
    values = np.random.default_rng(0).standard_normal((9, 3, 4)).astype(np.float16)
    return FeatureStore(
        (values[:4], values[4:5], values[5:]), {i: n for n, i in enumerate("abcdefghi")}, "k"
    )


@pytest.mark.parametrize("batches", [[], ["a"], ["abc", "i", "hgf", "bb", "", "eda", "c", "ihg"]])
def test_reading_ahead_equals_plain_reads(store, batches):
    batches = [list(batch) for batch in batches]
    read = [features.cpu() for features in read_ahead(store, batches, HERE)]
    assert len(read) == len(batches) and all(f.dtype == torch.float32 for f in read)
    assert all(torch.equal(f, store.get(b)) for f, b in zip(read, batches, strict=True))


def test_a_batch_that_was_given_is_not_overwritten(store):
    batches = [[i] for i in "abcdefghi" * 3]
    kept = list(read_ahead(store, batches, HERE))
    assert all(torch.equal(f.cpu(), store.get(b)) for f, b in zip(kept, batches, strict=True))


def test_an_unknown_image_is_named_by_its_reader(store):
    with pytest.raises(ValueError, match="'z' has no features"):
        list(read_ahead(store, [["a"], ["z"]], HERE))


def test_features_on_the_card_equal_the_stores(store):
    card = CardFeatures(store, HERE)
    assert card.key == "k" and card.features.dtype == torch.float16
    assert torch.equal(card.get(["i", "e", "a", "a"]).cpu(), store.get(["i", "e", "a", "a"]))
    assert card.get([]).shape == (0, 3, 4)
    with pytest.raises(ValueError, match="'z' has no features"):
        card.get(["z"])


@pytest.fixture
def free(monkeypatch, store):
    """A GPU that has so many bytes free beside what training needs."""
    monkeypatch.setattr(reading, "CardFeatures", lambda *parts: parts)

    def give(beyond):
        known = (reading.RESERVED + beyond, 80e9)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: known)

    return give


def test_what_fits_goes_onto_the_card(store, free):
    size = 9 * 3 * 4 * 2
    for beyond, there in ((size, True), (size - 1, False)):
        free(beyond)
        placed, said = place_features(store, CUDA)
        assert (placed == (store, CUDA)) == there
        assert ("on the GPU" if there else "in host memory, read ahead") in said
    assert place_features(store, CUDA, "card")[0] == (store, CUDA)  # decided: there is just room
    free(size)
    assert place_features(store, CUDA, "host")[0] is store
    assert place_features(store, torch.device("cpu"), "card")[0] is store
    free(-reading.RESERVED)
    with pytest.raises(ValueError, match="do not fit; use --features host"):
        place_features(store, CUDA, "card")
    with pytest.raises(ValueError, match=r"one of \('auto', 'card', 'host'\), not 'disk'"):
        place_features(store, CUDA, "disk")


def test_embeddings_do_not_depend_on_where_features_are(smoke_world, stage1, tmp_path):
    data = load_training_data(smoke_world)
    plain = Retriever.open(stage1, data.images, tmp_path)
    card = CardFeatures(plain.features, plain.device)
    queries, found = data.val["dress"], []
    for retriever in (plain, replace(plain, features=card)):
        found.append((retriever.embed_queries(queries), retriever.embed_corpus(queries.corpus)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
