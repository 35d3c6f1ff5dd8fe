"""Query and image embeddings of whole sets: from frozen features, from image files, from a file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from . import processes
from .data import Corpus, QuerySet, Triplet
from .features import FeatureStore, extract_features
from .files import replacing
from .model import QuReModel, load_tokenizer, tokenize
from .ranking import ImagesOnDisk

LARGEST_NPZ = 2**32  # bytes: a zip is read whole


class Embedder(Protocol):
    """What the evaluators ask of a model, however it comes by its embeddings."""

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
    def open(
        cls, checkpoint: str | Path, images: Mapping[str, Path], cache: str | Path
    ) -> Retriever:
        """Load a saved model and its tokenizer, and encode `images` once (or find them encoded).

        Of several processes each encodes its share.

        Args:
            checkpoint: folder with config.json, model.safetensors and tokenizer.json.
            images: image id -> file.
            cache: folder of feature stores.

        Raises:
            ValueError: a broken checkpoint or image; the message names it.
        """
        model = QuReModel.load(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_tokenizer(checkpoint)
        asked = model.vision_encoder, images, model.config, cache
        rank, count = processes.rank_and_count()
        if count > 1:
            extract_features(*asked, share=(rank, count))
            processes.wait_for_all()
        features = extract_features(*asked)
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
        """(len(items), ...): each process embeds its share, and all hold the whole."""
        self.model.eval()
        mine = items[processes.share(len(items))]
        batches = [mine[s : s + self.batch_size] for s in range(0, len(mine), self.batch_size)]
        return processes.gather_rows(torch.cat([encode(b) for b in batches]), len(items))

    @torch.no_grad()
    def pool_features(self, image_ids: tuple[str, ...]) -> Tensor:
        """(images, C) unit means of the frozen tokens: the encoder's own view of each image."""
        parts = [
            image_ids[s : s + self.batch_size] for s in range(0, len(image_ids), self.batch_size)
        ]
        return torch.cat([F.normalize(self.read_features(p).mean(dim=1), dim=-1) for p in parts])


@dataclass(frozen=True)
class StoredImages:
    """(N, T, D) image embeddings of a store, in the order of `image_ids`; a slice is read."""

    store: FeatureStore
    image_ids: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.image_ids), *self.store.row_shape)

    def __getitem__(self, block: slice) -> Tensor:
        embedded = self.store.get(self.image_ids[block])
        if not (finite := embedded.flatten(1).sum(dim=1).isfinite()).all():
            image_id = self.image_ids[block][int(finite.int().argmin())]
            raise ValueError(f"the embedding of image {image_id!r} is not finite; make it again")
        return embedded


class _ImageEmbedder(nn.Module):
    """(B, 3, H, W) pixels -> (B, T, D): frozen features, rounded as a store rounds them, and on."""

    def __init__(self, model: QuReModel) -> None:
        super().__init__()
        self.model = model

    def extra_repr(self) -> str:
        return str(self.model.config)  # weights alone do not tell, say, the number of heads

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(self.model.encode_features(pixels).half().float())


@dataclass(frozen=True)
class CorpusOnDisk:
    """A model whose corpora are only ranked: it keeps embeddings of theirs, no frozen features.

    CIRCO's 123,403 images are 65 GB of ViT-L features and 2 GB of embeddings in float16. Rounding
    to it moved scores on SynthFashion by at most 2e-4, the ranks of 181 of 4,329 targets by one or
    two places, and no Recall@10 or @50. Each image goes once from its file through the frozen
    encoder and the Q-Former; the result is a store of `extract_features`, so other weights or
    another transform make another one, and one that is interrupted is gone on with.

    retriever: with the frozen features of the queries' reference images.
    cache: folder of the stores.
    """

    retriever: Retriever
    cache: Path

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) query embeddings."""
        return self.retriever.embed_queries(queries)

    def embed_corpus(self, corpus: Corpus) -> StoredImages:
        """(N, T, D) image embeddings on disk.

        Raises:
            ValueError: an image cannot be decoded; the message names it.
        """
        model = self.retriever.model
        images = dict(zip(corpus.image_ids, corpus.paths, strict=True))
        store = extract_features(_ImageEmbedder(model), images, model.config, self.cache)
        return StoredImages(store, corpus.image_ids)


@dataclass(frozen=True)
class SavedEmbeddings:
    """Query and image embeddings of any model, matched with a protocol by name.

    Scores are their inner products as they are: normalise them first where a model's score is a
    cosine. A corpus may be part of the images of the file; every query must be one of the
    protocol's.

    path: of the file.
    queries, images: (., D) and (., T, D) by name.
    """

    path: Path
    queries: FeatureStore
    images: FeatureStore

    @classmethod
    def open(cls, path: str | Path) -> SavedEmbeddings:
        """Read a file of queries (Q, D), images (N, T, D) or (N, D), query_ids and image_ids.

        Args:
            path: .safetensors, whose images stay on disk and whose metadata hold the two lists of
                ids as JSON; or .npz, read whole, with the ids as arrays of strings. One file for
                all categories of FashionIQ.

        Raises:
            ValueError: the file is missing, broken or too large, or lacks an array; arrays and ids
                do not fit one another; an id twice; a query that is not finite.
        """
        read = _read_npz if Path(path).suffix == ".npz" else _read_safetensors
        arrays = read(Path(path))
        images = arrays["images"]
        arrays["images"] = images[:, None] if images.ndim == 2 else images
        stores = {}
        for name, ids, ndim in (("queries", "query_ids", 2), ("images", "image_ids", 3)):
            rows = {image_id: row for row, image_id in enumerate(arrays[ids])}
            array, n = arrays[name], len(arrays[ids])
            floats = array.dtype in (np.float16, np.float32, np.float64)
            if not floats or array.ndim != ndim or len(array) != n or not array.size:
                raise ValueError(
                    f"{path}: {name} is {array.dtype} {array.shape} with {n} {ids}; write float16 "
                    f"or float32 of {ndim} dimensions with one row an id"
                )
            if len(rows) < n:
                twice = next(i for row, i in enumerate(arrays[ids]) if rows[i] != row)
                raise ValueError(f"{path}: {ids} hold {twice!r} twice; keep one")
            stores[name] = FeatureStore((array,), rows, key="")
        if not np.isfinite(arrays["queries"]).all():
            raise ValueError(f"{path}: queries hold NaN or infinity; make them again")
        return cls(Path(path), **stores)

    def check_queries(self, query_ids: list[str]) -> None:
        """Raise a ValueError that names a query of the protocol or of the file without the other.

        Args:
            query_ids: all of the protocol's.
        """
        wanted, known = dict.fromkeys(query_ids), self.queries.rows
        for problem, ids in {
            "misses": [i for i in wanted if i not in known],
            "holds unknown": [i for i in known if i not in wanted],
        }.items():
            if ids:
                raise ValueError(
                    f"{self.path} {problem} {len(ids)} of the {len(wanted)} queries, the first is "
                    f"{ids[0]!r}; query_ids must be those of the protocol, like {query_ids[0]!r}"
                )

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) float32 query embeddings."""
        return self.queries.get([t.query_id for t in queries.triplets])

    def embed_corpus(self, corpus: Corpus) -> StoredImages:
        """(N, T, D) image embeddings on disk.

        Raises:
            ValueError: an image of the corpus is not in the file; the message names it.
        """
        missing = [i for i in corpus.image_ids if i not in self.images.rows]
        if missing:
            raise ValueError(
                f"{self.path} misses {len(missing)} of the {len(corpus)} images of the corpus, the "
                f"first is {missing[0]!r}; embed the whole corpus of the protocol"
            )
        return StoredImages(self.images, corpus.image_ids)


_ARRAYS = ("queries", "images")
_IDS = ("query_ids", "image_ids")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:  # its tensors are memory-mapped
            tensors = {name: file.get_tensor(name).numpy() for name in _ARRAYS}
            known = file.metadata() or {}
        ids = {name: json.loads(known[name]) for name in _IDS}
        if any(type(i) is not list or any(type(s) is not str for s in i) for i in ids.values()):
            raise TypeError("ids must be lists of strings")
    except KeyError as error:
        raise ValueError(f"{path}: no metadata {error}; write {_IDS} as JSON lists") from error
    except (OSError, SafetensorError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(_unreadable(path, error)) from error
    return tensors | ids


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_NPZ:
            raise ValueError(f"{size} bytes, too large to read whole; save it as .safetensors")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, *_IDS)}
        if any(arrays[name].dtype.kind != "U" or arrays[name].ndim != 1 for name in _IDS):
            raise TypeError("ids must be one-dimensional arrays of strings")
    except (OSError, KeyError, TypeError, ValueError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(path, error)) from error
    return arrays | {name: arrays[name].tolist() for name in _IDS}


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} holds no embeddings ({error}); write {', '.join(_ARRAYS + _IDS)} to it"
