"""Embeddings of any model, read from a file."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import safe_open
from torch import Tensor

from qure_lib.datasets.queries import Corpus, QuerySet

from .corpus_on_disk import StoredImages
from .store import FeatureStore

LARGEST_NPZ = 2**32  # bytes: a zip is read whole
ARRAYS = ("queries", "images")
OPTIONAL = {"captions"}
IDS = ("query_ids", "image_ids")
KINDS = (("queries", "query_ids", 2), ("images", "image_ids", 3), ("captions", "query_ids", 2))


@dataclass(frozen=True)
class SavedEmbeddings:
    """Query and image embeddings of any model, matched with a protocol by name.

    Scores are their inner products: normalise them first if the model's score is a cosine. A corpus
    may be a part of the file's images; every query must be one of the protocol's.

    path: of the file.
    queries, images: (., D) and (., T, D) by name. captions: as queries, of the captions alone.
    """

    path: Path
    queries: FeatureStore
    images: FeatureStore
    captions: FeatureStore | None = None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a file of queries (Q, D), images (N, T, D) or (N, D), query_ids and image_ids.

        It may also hold captions (Q, D): embeddings of the relative captions alone.

        Args:
            path: .safetensors, whose images stay on disk and whose metadata hold the two lists of
                ids as JSON; or .npz, read whole, with the ids as arrays of strings. One file for
                all categories of FashionIQ.

        Raises:
            ValueError: the file is missing, broken or too large, or lacks an array; arrays and ids
                do not fit one another; an id twice; a query or caption that is not finite.
        """
        path = Path(path)
        arrays = (_read_npz if path.suffix == ".npz" else _read_safetensors)(path)
        if arrays["images"].ndim == 2:
            arrays["images"] = arrays["images"][:, None]
        stores = [_store(path, arrays, *k) for k in KINDS if k[0] in arrays]
        return cls(path, *stores)

    def check_queries(self, query_ids: list[str]) -> None:
        """Raise a ValueError unless the file's queries are the protocol's `query_ids`."""
        missing = [i for i in query_ids if i not in self.queries.rows]
        others = sorted(self.queries.rows.keys() - set(query_ids))
        if missing or others:
            raise ValueError(
                f"{self.path} misses {len(missing)} of the {len(query_ids)} queries and holds "
                f"{len(others)} others ({', '.join(map(repr, missing[:1] + others[:1]))}); "
                f"query_ids must be those of the protocol, like {query_ids[0]!r}"
            )

    def embed_queries(self, queries: QuerySet) -> Tensor:
        """(Q, D) float32 query embeddings."""
        return self.queries.get([t.query_id for t in queries.triplets])

    def embed_captions(self, queries: QuerySet) -> Tensor:
        """(Q, D) float32 embeddings of the relative captions alone."""
        if self.captions is None:
            raise ValueError(f"{self.path} lacks captions (Q, D), of the captions alone; add them")
        return self.captions.get([t.query_id for t in queries.triplets])

    def embed_corpus(self, corpus: Corpus) -> StoredImages:
        """(N, T, D) image embeddings on disk; a ValueError names an image that the file lacks."""
        if missing := [i for i in corpus.image_ids if i not in self.images.rows]:
            raise ValueError(
                f"{self.path} misses {len(missing)} of the {len(corpus)} images of the corpus, the "
                f"first is {missing[0]!r}; embed the whole corpus of the protocol"
            )
        return StoredImages(self.images, corpus.image_ids)


def _store(path: Path, arrays: dict[str, Any], name: str, ids: str, ndim: int) -> FeatureStore:
    """The rows of one array by their ids."""
    array, names = arrays[name], arrays[ids]
    rows = {row_id: row for row, row_id in enumerate(names)}
    floats = array.dtype in (np.float16, np.float32, np.float64)
    if not floats or array.ndim != ndim or len(array) != len(names) or not array.size:
        raise ValueError(
            f"{path}: {name} is {array.dtype} {array.shape} with {len(names)} {ids}; write float16 "
            f"or float32 of {ndim} dimensions with one row an id"
        )
    if len(rows) < len(names):
        twice = next(row_id for row, row_id in enumerate(names) if rows[row_id] != row)
        raise ValueError(f"{path}: {ids} hold {twice!r} twice; keep one")
    store = FeatureStore((array,), rows, key="")
    if ndim == 2 and not store.get(names).isfinite().all():  # images are checked when read
        raise ValueError(f"{path}: {name} hold NaN or infinity; compute them again")
    return store


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:  # its tensors are memory-mapped
            names = [*ARRAYS, *(OPTIONAL & {*file.keys()})]
            tensors = {name: file.get_tensor(name).numpy() for name in names}
            metadata = file.metadata() or {}
        ids = {name: json.loads(metadata[name]) for name in IDS}
        if any(type(i) is not list or any(type(s) is not str for s in i) for i in ids.values()):
            raise TypeError("ids must be lists of strings")
    except KeyError as error:
        raise ValueError(f"{path}: no metadata {error}; write {IDS} as JSON lists") from error
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise _unreadable(path, error) from error
    return tensors | ids


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_NPZ:
            raise ValueError(f"{size} bytes, too large to read whole; save it as .safetensors")
        with np.load(path, allow_pickle=False) as file:
            names = [*ARRAYS, *IDS, *(OPTIONAL & {*file.files})]
            if twice := [name for name in names if file.files.count(name) > 1]:
                raise ValueError(f"{twice[0]} twice")
            arrays = {name: file[name] for name in names}
        if any(arrays[name].dtype.kind != "U" or arrays[name].ndim != 1 for name in IDS):
            raise TypeError("ids must be one-dimensional arrays of strings")
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise _unreadable(path, error) from error
    return arrays | {name: arrays[name].tolist() for name in IDS}


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} holds no embeddings ({error}); write {', '.join(ARRAYS + IDS)}")
