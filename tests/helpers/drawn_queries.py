"""Query sets, embeddings and an explorer over them, drawn at random: no data set and no model."""

from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import torch
from analysis.explorer import ExplorerData, RelevanceExplorer
from PIL import Image

from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.train.training_data import TrainingData

CAPTIONS = ("Is red & <wide> and has sleeves", "Is blue and has dots", "Is red and has dots")
QUERIES = 12  # a category


class DrawnEmbedder:
    """Stands in for a Retriever: embeddings depend on the stage and the query set alone."""

    device = torch.device("cpu")
    model = SimpleNamespace(temperature=torch.tensor(0.07))

    def __init__(self, stage: str, tokens: int = 4, width: int = 16) -> None:
        self.stage, self.tokens, self.width, self.embedded = stage, tokens, width, []

    def embed_queries(self, queries: QuerySet) -> torch.Tensor:
        """(Q, D): of each query by its id."""
        return torch.cat([self._draw(t.query_id, 1, self.width) for t in queries.triplets])

    def embed_corpus(self, corpus: Corpus) -> torch.Tensor:
        """(N, T, D); its calls are counted in `embedded`."""
        self.embedded.append(corpus.image_ids[0])
        return self._draw(corpus.image_ids[0], len(corpus), self.tokens, self.width)

    def _draw(self, name: str, *shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(crc32(f"{self.stage}{name}".encode()))
        drawn = torch.randn(shape, generator=generator)
        return torch.nn.functional.normalize(drawn, dim=-1)


def draw_query_set(folder: Path, name: str, images: int) -> QuerySet:
    """QUERIES queries over a corpus of images of three colours; query q's target is image q."""
    files = [folder / f"{colour}.png" for colour in ("red", "green", "blue")]
    for file in files:
        Image.new("RGB", (64, 64), file.stem).save(file)
    ids = tuple(f"{name}{i}" for i in range(images))
    corpus = Corpus(ids, tuple(files[i % 3] for i in range(images)))
    triplets = [
        Triplet(f"{name}/{q}", ids[0], CAPTIONS[q % 3], ids[q], name, ()) for q in range(QUERIES)
    ]
    return QuerySet(name, tuple(triplets), corpus, {ids[0]: files[0]})


def draw_explorer(folder: Path, images: int, **embedder: int) -> RelevanceExplorer:
    """An explorer of two worlds: two categories and two definitions, and one of each."""

    def world(stages: tuple[str, ...], *categories: str) -> ExplorerData:
        queries = {name: draw_query_set(folder, name, images) for name in categories}
        data = TrainingData(queries, queries, {"dress": torch.rand(QUERIES, images)})
        return ExplorerData(data, {stage: DrawnEmbedder(stage, **embedder) for stage in stages})

    here = world(("before warm-up", "epoch 5"), "dress", "shirt")
    return RelevanceExplorer({"here": here, "abroad": world(("epoch 9",), "hat")})
