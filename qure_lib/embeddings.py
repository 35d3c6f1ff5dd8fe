"""Query and image embeddings of whole sets, from frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .data import Corpus, QuerySet
from .features import FeatureStore, extract_features
from .files import replacing
from .model import QuReModel, load_tokenizer, tokenize


@dataclass(frozen=True)
class Retriever:
    """A model with the tokenizer and the frozen features that it reads."""

    model: QuReModel
    tokenizer: PreTrainedTokenizerFast
    features: FeatureStore
    batch_size: int = 256

    @classmethod
    def open(
        cls, checkpoint: str | Path, images: Mapping[str, Path], cache: str | Path
    ) -> Retriever:
        """Load a saved model and its tokenizer, and encode `images` once (or find them encoded).

        Args:
            checkpoint: folder with config.json, model.safetensors and tokenizer.json.
            images: image id -> file.
            cache: folder of feature stores.

        Raises:
            ValueError: a broken checkpoint or image; the message names it.
        """
        model = QuReModel.load(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_tokenizer(checkpoint)
        features = extract_features(model.vision_encoder, images, model.config, cache)
        return cls(model, tokenizer, features)

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer, all or nothing, so that `open` finds both."""
        with replacing(folder) as scratch:
            self.model.save(scratch)
            self.tokenizer.save_pretrained(scratch)

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

    @torch.no_grad()
    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings, dropout off, outside autocast."""
        self.model.eval()
        embedded = []
        for start in range(0, len(queries), self.batch_size):
            batch = queries.triplets[start : start + self.batch_size]
            features = self.read_features([t.reference for t in batch])
            tokens = self.tokenize([t.caption for t in batch])
            embedded.append(self.model.encode_query(features, *tokens))
        return torch.cat(embedded)

    @torch.no_grad()
    def embed_corpus(self, corpus: Corpus) -> Tensor:
        """(N, T, D) image embeddings, dropout off, outside autocast."""
        self.model.eval()
        ids = corpus.image_ids
        batches = [ids[s : s + self.batch_size] for s in range(0, len(ids), self.batch_size)]
        return torch.cat([self.model.encode_image(self.read_features(b)) for b in batches])

    @torch.no_grad()
    def pool_features(self, image_ids: tuple[str, ...]) -> Tensor:
        """(images, C) unit means of the frozen tokens: the encoder's own view of each image."""
        parts = [
            image_ids[s : s + self.batch_size] for s in range(0, len(image_ids), self.batch_size)
        ]
        return torch.cat([F.normalize(self.read_features(p).mean(dim=1), dim=-1) for p in parts])
