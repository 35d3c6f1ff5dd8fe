"""Corpora whose embeddings stay on disk: close to the exact ones, and never another model's."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from qure_lib.datasets.circo import load_circo
from qure_lib.datasets.cirr import load_cirr
from qure_lib.datasets.queries import Corpus
from qure_lib.evaluation.circo import evaluate_circo
from qure_lib.evaluation.cirr import evaluate_cirr
from qure_lib.features import encoding
from qure_lib.features import store as store_module
from qure_lib.features.corpus_on_disk import CorpusOnDisk, StoredImages
from qure_lib.features.retriever import Retriever
from qure_lib.features.store import FeatureStore
from qure_lib.method.ranking import score_corpus


@pytest.fixture(scope="module")
def cirr(smoke_world):
    return load_cirr(smoke_world / "cirr_like")


@pytest.fixture(scope="module")
def retriever(cirr, stage1, tmp_path_factory):
    """With the frozen features of every image: the way that stores keep, the other is held to."""
    return Retriever.open(stage1, cirr.images, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def on_disk(cirr, retriever, tmp_path_factory):
    return CorpusOnDisk(retriever, tmp_path_factory.mktemp("embedded"))


def test_scores_are_those_of_the_feature_store(cirr, retriever, on_disk):
    """Tolerance: 5e-4, what float16 does to the cosine of two unit vectors."""
    queries = retriever.embed_queries(cirr)
    whole, stored = retriever.embed_corpus(cirr.corpus), on_disk.embed_corpus(cirr.corpus)
    assert stored.shape == tuple(whole.shape)
    (_, expected), (_, found) = (next(score_corpus(queries, i)) for i in (whole, stored))
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("evaluate", [evaluate_cirr, evaluate_circo])
def test_protocols_hardly_move(smoke_world, cirr, retriever, on_disk, evaluate):
    """Stated: no rank moves by more than two places, nine in ten by none."""
    queries = cirr if evaluate is evaluate_cirr else load_circo(smoke_world / "circo_like")
    if evaluate is evaluate_circo:  # the same images under other names
        opened = Retriever(retriever.model, retriever.tokenizer, retriever.features)
        rows = {i: opened.features.rows[p.stem] for i, p in queries.images.items()}
        opened = replace(opened, features=replace(opened.features, rows=rows))
        retriever, on_disk = opened, CorpusOnDisk(opened, on_disk.cache)
    one, other = evaluate(retriever, queries), evaluate(on_disk, queries)
    moved = (one["rank"] - other["rank"]).abs()
    assert moved.max() <= 2 and (moved == 0).mean() > 0.9


def test_each_image_is_embedded_once_and_found_again(cirr, on_disk, monkeypatch):
    first = on_disk.embed_corpus(cirr.corpus)
    monkeypatch.setattr(store_module, "encode_files", None)  # would fail
    moved = Corpus(cirr.corpus.image_ids[::-1], cirr.corpus.paths[::-1])
    again = on_disk.embed_corpus(moved)
    assert torch.equal(again[0:3], first[len(moved) - 3 :].flip(0))
    assert all(shard.dtype == np.float16 for shard in again.store.shards)


@pytest.mark.parametrize("change", ["weights", "heads", "code", "images"])
def test_another_model_or_corpus_is_another_store(cirr, retriever, on_disk, monkeypatch, change):
    corpus, model = cirr.corpus, copy.deepcopy(retriever.model)
    key = on_disk.embed_corpus(corpus).store.key
    if change == "weights":
        model.query_tokens.data += 1
    elif change == "heads":  # the same weights, read another way
        model.config = replace(model.config, qformer_heads=2)
    elif change == "code":
        encode = type(model).encode_image
        monkeypatch.setattr(type(model), "encode_image", lambda self, f: -encode(self, f))
    else:
        corpus = Corpus(corpus.image_ids[1:], corpus.paths[1:])
    other = CorpusOnDisk(replace(retriever, model=model), on_disk.cache).embed_corpus(corpus)
    assert other.store.key != key


def test_an_interrupted_embedding_leaves_nothing_half_done(cirr, retriever, tmp_path, monkeypatch):
    disk, batches = CorpusOnDisk(retriever, tmp_path), []
    encode = encoding._encode

    def interrupt(*arguments):
        if batches:
            raise KeyboardInterrupt
        batches.append(arguments)
        return encode(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(encoding, "_encode", interrupt)
        disk.embed_corpus(cirr.corpus)
    assert [p.name for p in tmp_path.glob("*/*")] == [".0-of-1.lock"]
    assert disk.embed_corpus(cirr.corpus).shape[0] == len(cirr.corpus)


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]])
def test_an_embedding_that_is_not_finite_is_named_when_it_is_read(values):
    array = np.ones((3, 2, 4), np.float16)
    array[1, 1, : len(values)] = values
    images = StoredImages(FeatureStore((array,), {"a": 0, "b": 1, "c": 2}, ""), ("c", "b", "a"))
    assert images[0:1].shape == (1, 2, 4) and images[0:0].shape == (0, 2, 4)
    with pytest.raises(ValueError, match="image 'b' is not finite"):
        images[0:3]
