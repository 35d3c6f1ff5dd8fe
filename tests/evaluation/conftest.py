"""What the evaluators' tests share: drawn queries with groups and ground truths, and a model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet

N, Q = 12, 30


@pytest.fixture
def drawn():
    """Queries q0, ... over images 0 to 11, with groups of six and ground truths; an embedder; and
    (Q, N) scores, some of them equal."""
    generator = torch.Generator().manual_seed(0)
    embedded = [
        F.normalize(torch.randn(*s, generator=generator), dim=-1).round()  # so that scores tie
        for s in ((Q, 8), (N, 2, 8))
    ]
    triplets = []
    for k in range(Q):
        reference, target, *others = map(str, torch.randperm(N, generator=generator).tolist())
        triplet = Triplet(f"q{k}", reference, "", target, "c", ("", ""))
        more = others[: int(torch.randint(7, (1,), generator=generator))]
        triplet = replace(triplet, group=(others[0], reference, *others[1:4], target))
        triplet = replace(triplet, ground_truths=(target, *more), aspects=("colour", "neck"))
        triplets.append(triplet)
    embedder = SimpleNamespace(
        embed_queries=lambda queries: embedded[0], embed_corpus=lambda corpus: embedded[1]
    )
    queries = QuerySet("c", tuple(triplets), Corpus(tuple(map(str, range(N))), ()), {})
    return queries, embedder, torch.einsum("qd,ntd->qnt", *embedded).amax(-1)


@pytest.fixture
def random_embedder():
    """A model of random embeddings of given numbers of queries and images."""

    def embedder(n_queries: int, n_images: int) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(n_queries)
        shapes = (n_queries, 8), (n_images, 2, 8)
        queries, images = (torch.randn(*shape, generator=generator) for shape in shapes)
        return SimpleNamespace(embed_queries=lambda q: queries, embed_corpus=lambda c: images)

    return embedder
