"""A model with its tokenizer and frozen features: embeddings of queries and corpora."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qure_lib import processes
from qure_lib.datasets.queries import Corpus, QuerySet
from qure_lib.device import autocast, find_device
from qure_lib.method.model import QuReModel
from qure_lib.method.ranking import ImagesOnDisk

from .model_folder import load_model, save_model
from .reading import CardFeatures, read_ahead
from .store import FeatureStore, extract_features
from .tokenizer import load_tokenizer, tokenize

T = TypeVar("T")


class Embedder(Protocol):
    """What the evaluators need of a model: its embeddings, from whatever source."""

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings."""

    def embed_corpus(self, corpus: Corpus) -> Tensor | ImagesOnDisk:
        """(N, T, D) image embeddings."""


@dataclass(frozen=True)
class Retriever:
    """A model with the tokenizer and the frozen features that it reads.

    batch_size: of embedding. precision: of embedding on a GPU; embeddings are float32 in any case.
    """

    model: QuReModel
    tokenizer: PreTrainedTokenizerFast
    features: FeatureStore | CardFeatures
    batch_size: int = 256
    precision: torch.dtype = torch.float32

    @classmethod
    def open(cls, checkpoint: str | Path, images: Mapping[str, Path], cache: str | Path) -> Self:
        """Load a saved model, and encode the images that no earlier call has encoded.

        Args:
            checkpoint: folder of `save`, such as a run's best/.
            images: image id -> file. Of several processes each encodes its share.
            cache: folder of feature stores.

        Raises:
            ValueError: a broken checkpoint or image, or a tokenizer of another model, by name.
        """
        model = load_model(checkpoint).to(find_device())
        tokenizer = load_tokenizer(checkpoint, model.config.vocab_size)
        features = extract_features(model.vision_encoder, images, model.config, cache)
        return cls(model, tokenizer, features)

    def copy(self) -> Self:
        """A copy with trained weights of its own; it shares the frozen tower and the features."""
        tower = self.model.vision_encoder
        return replace(self, model=deepcopy(self.model, {id(tower): tower}))

    def save(self, folder: str | Path, tower: str | Path | None = None) -> None:
        """Write model and tokenizer for `open`, whole or not at all; see `save_model`."""
        save_model(self.model, folder, self.tokenizer, tower)

    @property
    def device(self) -> torch.device:
        return self.model.temperature.device

    def tokenize(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Relative captions -> (input_ids, attention_mask), each (B, L), on the model's device."""
        ids, mask = tokenize(self.tokenizer, captions, self.model.config.max_caption_tokens)
        return ids.to(self.device), mask.to(self.device)

    def read_features(self, image_ids: Sequence[str]) -> Tensor:
        """Image ids -> (B, P, C) frozen features on the model's device."""
        return self.features.get(image_ids).to(self.device)

    def stream_features(self, batches: Sequence[Sequence[str]]) -> Iterator[Tensor]:
        """`read_features` of each batch; for a GPU a thread reads ahead from the host's memory."""
        if self.device.type == "cuda" and isinstance(self.features, FeatureStore):
            return read_ahead(self.features, batches, self.device)
        return map(self.read_features, batches)

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings, dropout off, in float32 unless `precision` is another."""
        batches = self._batches(queries.triplets)
        captions = (self.tokenize([t.caption for t in batch]) for batch in batches)
        references = self.stream_features([[t.reference for t in batch] for batch in batches])
        given = zip(references, captions, strict=True)
        embedded = (self.model.encode_query(images, *tokens) for images, tokens in given)
        return self._embed(embedded, len(queries.triplets))

    def embed_captions(self, queries: QuerySet) -> Tensor:
        """(Q, D) embeddings of the relative captions alone: see `QuReModel.encode_text`."""
        captions = ([t.caption for t in batch] for batch in self._batches(queries.triplets))
        embedded = (self.model.encode_text(*self.tokenize(batch)) for batch in captions)
        return self._embed(embedded, len(queries.triplets))

    def embed_corpus(self, corpus: Corpus) -> Tensor:
        """(N, T, D) image embeddings, dropout off, in float32 unless `precision` is another."""
        features = self.stream_features(self._batches(corpus.image_ids))
        return self._embed(map(self.model.encode_image, features), len(corpus.image_ids))

    def _batches(self, items: Sequence[T]) -> list[Sequence[T]]:
        """This process's share of the items, in batches."""
        mine = items[processes.share(len(items))]
        return [mine[s : s + self.batch_size] for s in range(0, len(mine), self.batch_size)]

    @torch.no_grad()
    def _embed(self, batches: Iterable[Tensor], count: int) -> Tensor:
        """(count, ...): this process embeds its share, and all get the whole."""
        self.model.eval()
        with autocast(self.device, self.precision):
            embedded = torch.cat([batch.float() for batch in batches])
        return processes.gather_rows(embedded, count)
