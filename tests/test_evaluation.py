"""qure_lib.evaluation: all that fits, against a slow and plain reference."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qure_lib.data import Corpus, QuerySet, Triplet
from qure_lib.evaluation import evaluate_all_that_fit
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
    parts = evaluate_all_that_fit({"c": embedded}, {"c": queries}, {"c": relevance}, memory=500)
    assert whole.equals(parts)
