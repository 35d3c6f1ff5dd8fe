"""A model with its tokenizer and features: saved, opened and copied."""

import json
import shutil

import pytest
import torch

from qure_lib.datasets.cirr import load_cirr
from qure_lib.features.retriever import Retriever


@pytest.fixture(scope="module")
def cirr(smoke_world):
    return load_cirr(smoke_world / "cirr_like")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def retriever(cirr, stage1, cache):
    return Retriever.open(stage1, cirr.images, cache)


@pytest.fixture
def run(retriever, tmp_path):
    """A run's folder with its best model, whose trained weights differ from the start's."""
    with torch.no_grad():
        retriever.model.query_tokens.neg_()
    retriever.save(tmp_path / "run" / "best", tmp_path / "run" / "vision_encoder.safetensors")
    return tmp_path / "run"


def test_a_runs_best_is_a_checkpoint(run, retriever, cirr, cache):
    opened = Retriever.open(run / "best", cirr.images, cache)
    assert opened.features.key == retriever.features.key
    assert torch.equal(opened.embed_queries(cirr), retriever.embed_queries(cirr))
    assert torch.equal(opened.embed_corpus(cirr.corpus), retriever.embed_corpus(cirr.corpus))
    assert not any("vision" in path.name for path in (run / "best").iterdir())


def test_a_runs_best_copied_alone_is_refused_and_saved_whole_is_not(run, cirr, cache, tmp_path):
    Retriever.open(run / "best", cirr.images, cache).save(tmp_path / "whole")
    shutil.copytree(run / "best", tmp_path / "alone")
    shutil.rmtree(run)
    with pytest.raises(ValueError, match="alone holds trained weights only, and its frozen vision"):
        Retriever.open(tmp_path / "alone", cirr.images, cache)
    assert Retriever.open(tmp_path / "whole", cirr.images, cache).features.rows


def test_a_copy_trains_alone_and_shares_what_is_frozen(retriever, cirr):
    before = retriever.embed_queries(cirr)
    copy = retriever.copy()
    assert copy.model is not retriever.model and copy.features is retriever.features
    assert copy.model.vision_encoder is retriever.model.vision_encoder
    trained = copy.model.trainable_parameters()
    for name, parameter in retriever.model.trainable_parameters().items():
        assert trained[name] is not parameter and torch.equal(trained[name], parameter)
        assert trained[name].requires_grad
    assert torch.equal(copy.embed_queries(cirr), before)
    with torch.no_grad():
        copy.model.query_tokens.neg_()
    assert torch.equal(retriever.embed_queries(cirr), before)
    assert not torch.equal(copy.embed_queries(cirr), before)


def test_a_tokenizer_of_another_model_is_refused(retriever, cirr, cache, tmp_path):
    retriever.save(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["another"] = len(tokenizer["model"]["vocab"])
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="json has 283 tokens, the model embeds 282"):
        Retriever.open(tmp_path / "model", cirr.images, cache)
