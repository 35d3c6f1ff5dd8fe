"""A retriever, and training data of four queries a category."""

from dataclasses import replace

import pytest

from qure_lib.features.retriever import Retriever
from qure_lib.train.training_data import load_training_data


@pytest.fixture(scope="module")
def parts(smoke_world, stage1, tmp_path_factory):
    data = load_training_data(smoke_world)
    few = {c: replace(q, triplets=q.triplets[:4]) for c, q in data.train.items()}
    relevance = {c: r[:4] for c, r in data.relevance.items()}
    data = replace(data, train=few, relevance=relevance)
    return Retriever.open(stage1, data.images, tmp_path_factory.mktemp("cache")), data
