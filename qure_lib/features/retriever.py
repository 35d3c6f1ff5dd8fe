"""A model with its tokenizer and frozen features: embeddings of queries and corpora."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qure_lib import processes
from qure_lib.datasets.queries import Corpus, QuerySet, Triplet
from qure_lib.method.model import QuReModel
from qure_lib.method.ranking import ImagesOnDisk

from .model_folder import load_model, save_model
from .store import FeatureStore, extract_features
from .tokenizer import load_tokenizer, tokenize


class Embedder(Protocol):
    """What the evaluators need of a model: its embeddings, from whatever source."""

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings."""

    def embed_corpus(self, corpus: Corpus) -> Tensor | ImagesOnDisk:
        """(N, T, D) image embeddings."""


@dataclass(frozen=True)
class Retriever:
    """A model with the tokenizer and the frozen features that it reads."""

    model: QuReModel
    tokenizer: PreTrainedTokenizerFast
    features: FeatureStore
    batch_size: int = 256

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
        model = load_model(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_tokenizer(checkpoint)
        if len(tokenizer) != model.config.vocab_size:
            sizes = f"{len(tokenizer):,} tokens, the model embeds {model.config.vocab_size:,}"
            raise ValueError(f"{checkpoint}: tokenizer.json has {sizes}; get the model's own")
        needed = model.vision_encoder, images, model.config, cache
        rank, count = processes.rank_and_count()
        if count > 1:
            extract_features(*needed, share=(rank, count))
            processes.wait_for_all()
        return cls(model, tokenizer, extract_features(*needed))

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
        batch = tokenize(self.tokenizer, captions, self.model.config.max_caption_tokens)
        return tuple(t.to(self.device) for t in batch)

    def read_features(self, image_ids: list[str]) -> Tensor:
        """Image ids -> (B, P, C) frozen features on the model's device."""
        return self.features.get(image_ids).to(self.device)

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings, dropout off, outside autocast."""

        def encode(batch: Sequence[Triplet]) -> Tensor:
            features = self.read_features([t.reference for t in batch])
            return self.model.encode_query(features, *self.tokenize([t.caption for t in batch]))

        return self._embed(queries.triplets, encode)

    def embed_corpus(self, corpus: Corpus) -> Tensor:
        """(N, T, D) image embeddings, dropout off, outside autocast."""
        return self._embed(
            corpus.image_ids, lambda ids: self.model.encode_image(self.read_features(ids))
        )

    @torch.no_grad()
    def _embed(self, items: Sequence[Any], encode: Callable[[Sequence[Any]], Tensor]) -> Tensor:
        """(len(items), ...): each process embeds its share, and all get the whole."""
        self.model.eval()
        mine = items[processes.share(len(items))]
        batches = [mine[s : s + self.batch_size] for s in range(0, len(mine), self.batch_size)]
        return processes.gather_rows(torch.cat([encode(b) for b in batches]), len(items))
