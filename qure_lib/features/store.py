"""Frozen features, computed once for each distinct image and kept on disk, memory-mapped."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from qure_lib.code_in_use import describe_code
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.files import file_sha256, replacing
from qure_lib.method.config import ModelConfig
from qure_lib.method.scores import all_finite

SHARD_IMAGES = 512  # at most: 270 MB of ViT-L's features, and all that a killed extraction loses
# Packages whose functions are not hashed: a store outlives their updates and Python's. An encoder
# of this library that comes to compute something else gets another name.
OWN_CODE = ("torch", "transformers", "qure_lib")
THREADS = 8  # that hash and decode files
# Settings that frozen features do not depend on.
TRAINED_PART = {"qformer_width", "qformer_layers", "qformer_heads", "num_query_tokens", "dropout"}
TRAINED_PART |= {"embedding_dim", "vocab_size", "max_caption_tokens"}


@dataclass(frozen=True)
class FeatureStore:
    """(P, C) frozen features of named images, before `ln_vision`.

    shards: (rows, P, C) arrays.
    rows: image id -> row, counted through all shards; ids of the same content share one.
    key: a hash of the images' content, the encoder and the transform.
    """

    shards: tuple[np.ndarray, ...]
    rows: Mapping[str, int]
    key: str

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(P, C)."""
        return self.shards[0].shape[1:]

    def get(self, image_ids: list[str] | tuple[str, ...]) -> Tensor:
        """Ids -> (len(image_ids), P, C) float32, a shard at a time.

        Raises:
            ValueError: an image has no features here.
        """
        if unknown := [i for i in image_ids if i not in self.rows]:
            raise ValueError(f"image {unknown[0]!r} has no features; pass it to extract_features")
        rows = np.array([self.rows[i] for i in image_ids], dtype=np.int64)
        ends = np.cumsum([len(shard) for shard in self.shards])
        holders = np.searchsorted(ends, rows, side="right")
        features = np.empty((len(rows), *self.row_shape), self.shards[0].dtype)
        for number in np.unique(holders):
            shard, here = self.shards[number], holders == number
            features[here] = shard[rows[here] - ends[number] + len(shard)]
        return torch.from_numpy(features).float()


def extract_features(
    encoder: nn.Module,
    images: Mapping[str, Path],
    config: ModelConfig,
    cache: str | Path,
    batch_size: int = 128,
    share: tuple[int, int] = (0, 1),
) -> FeatureStore:
    """Encode each distinct image once, and open the memory-mapped float16 features of all.

    Each encoder and transform has a store, to which further images are added. An interrupted call
    resumes; corrupt shards are encoded again; of several processes one at a time encodes a shard.

    Args:
        encoder: (B, 3, H, W) -> (B, P, C), frozen. The store's key covers its parameters, buffers,
            repr and, for an encoder of your own, its code.
        images: image id -> file; files of equal content are encoded once.
        config: the model's; all but the trained part is in the key.
        cache: folder of the stores.
        share: (rank, world) encodes and opens every `world`-th image only. Each rank calls this
            with its own, waits for the others, and calls it again without.

    Raises:
        ValueError: no images, a rank outside the world, an image that cannot be read or decoded, or
            one whose features are not finite in float16 (at most 65,504).
    """
    rank, world = share
    if not images or not 0 <= rank < world:
        raise ValueError(f"no images to encode, or no rank 0 to world - 1 in share {share}")
    contents = _hash_images(images)
    first = {content: i for i, content in reversed(contents.items())}
    mine = sorted(first, key=first.__getitem__)[rank::world]
    paths = {content: images[first[content]] for content in mine}
    digest = _hash_encoder(encoder.eval(), config)
    folder = _Folder(Path(cache) / digest.hexdigest()[:16], f"{rank}-of-{world}")
    if not paths.keys() <= folder.rows.keys():
        _encode_missing(encoder, paths, config.image_size, batch_size, folder)
    opened = {i: content for i, content in contents.items() if content in paths}
    digest.update(json.dumps(opened).encode())
    return folder.open(opened, digest.hexdigest()[:16])


def _hash_images(images: Mapping[str, Path]) -> dict[str, str]:
    """Image id -> hash of its file, by id."""
    ids = sorted(images)
    try:
        hashes = _in_threads(file_sha256, [images[i] for i in ids], "hashing")
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; get the file again") from error
    return dict(zip(ids, hashes, strict=True))


def _hash_encoder(encoder: nn.Module, config: ModelConfig) -> Any:
    """A hash of all that features depend on, the images apart."""
    vision = {k: v for k, v in asdict(config).items() if k not in TRAINED_PART}
    kinds = {kind for module in encoder.modules() for kind in type(module).__mro__}
    code = sorted(
        (function.__qualname__, describe_code(function))
        for function in (f for kind in kinds for f in vars(kind).values())
        if isinstance(function, FunctionType)
        and str(function.__module__).split(".")[0] not in OWN_CODE
    )
    digest = hashlib.sha256(json.dumps([vision, repr(encoder), code]).encode())
    gradient = Image.fromarray((np.arange(768) % 251).astype(np.uint8).reshape(8, 32, 3))
    transform = image_transform(config.image_size)
    tensors = {f"pixels of {m}": transform(gradient.convert(m)) for m in ("RGB", "P")}
    tensors |= dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest


def _in_threads(function: Callable, items: list, what: str) -> list:
    """`function` of each item, in order; a bar shows when that takes more than two seconds."""
    bar = {"unit": "file", "mininterval": 1.0, "delay": 2.0, "leave": False}
    with ThreadPool(THREADS) as pool:
        return list(tqdm(pool.imap(function, items), what, len(items), **bar))


class _Folder:
    """A store's folder of shards; those written here begin with `share`.

    A shard's checksum is computed once: verified.json keeps the size and the time of change that
    the file had then. A shard's name is random, so no other file gets the name of a verified one.
    """

    def __init__(self, path: Path, share: str) -> None:
        self.path, self.share = path, share
        self.shards: dict[str, np.ndarray] = {}  # by file name
        self.rows: dict[str, tuple[str, int]] = {}  # content -> file name, row in it
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are new here; delete corrupt ones and those of another store."""
        paths = sorted(p for p in self.path.glob("*.safetensors") if p.name not in self.shards)
        note = self.path / "verified.json"
        try:
            verified = dict(json.loads(note.read_text()))
        except (OSError, ValueError, TypeError):
            verified = {}
        found = _in_threads(lambda p: self._read(p, verified.get(p.name)), paths, "verifying")
        stamps = {}
        for path, shard in zip(paths, found, strict=True):
            if shard is not None:
                stamps[path.name], contents, self.shards[path.name] = shard
                for row, content in enumerate(contents):
                    self.rows.setdefault(content, (path.name, row))
        if any(verified.get(name) != stamp for name, stamp in stamps.items()):
            with suppress(OSError), replacing(note) as scratch:
                scratch.write_text(json.dumps(verified | stamps))

    def _read(self, path: Path, verified: Any) -> tuple[list[int], list[str], np.ndarray] | None:
        """A shard's stamp, contents and features; None if its images must be encoded again."""
        try:
            stamp = [path.stat().st_size, path.stat().st_ctime_ns]
            with safe_open(path, "pt") as file:  # memory-mapped
                features, metadata = file.get_tensor("features").numpy(), file.metadata() or {}
            contents = metadata["contents"].split()
            if stamp == verified or metadata["checksum"] == self._checksum(contents, features):
                return stamp, contents, features
            reason = "its checksum differs"
        except FileNotFoundError:  # another process has deleted it
            return None
        except (SafetensorError, KeyError, TypeError) as error:
            reason = str(error)
        problem = f"{path}: corrupt shard ({reason}); deleted, will be encoded again"
        tqdm.write(problem, file=sys.stderr)
        path.unlink(missing_ok=True)
        return None

    def _checksum(self, contents: list[str], features: np.ndarray) -> str:
        digest = hashlib.sha256(f"{self.path.name} {contents} {features.shape}".encode())
        digest.update(features)
        return digest.hexdigest()

    def sweep(self) -> None:
        """Delete what killed processes left half written; a live one holds its share's lock."""
        for lock in self.path.glob(".*.lock"):
            with suppress(Timeout), FileLock(lock, timeout=0):
                for scratch in self.path.glob(f"{lock.stem}-*"):
                    shutil.rmtree(scratch)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this share's lock, and know the shards that others have added."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / f".{self.share}.lock"):
            self.refresh()
            yield

    def add(self, contents: list[str], features: Tensor) -> None:
        """Write a shard, whole or not at all."""
        checksum = self._checksum(contents, features.numpy())
        metadata = {"contents": " ".join(contents), "checksum": checksum}
        with replacing(self.path / f"{self.share}-{uuid4().hex}.safetensors") as path:
            save_file({"features": features}, path, metadata)
        self.refresh()

    def open(self, contents: Mapping[str, str], key: str) -> FeatureStore:
        """The store of these images (id -> content)."""
        names = sorted({self.rows[content][0] for content in contents.values()})
        shards = tuple(self.shards[name] for name in names)
        starts = dict(zip(names, accumulate(map(len, shards), initial=0), strict=False))
        places = {i: self.rows[content] for i, content in contents.items()}
        rows = {i: starts[name] + row for i, (name, row) in places.items()}
        return FeatureStore(shards, rows, key)


def _encode_missing(
    encoder: nn.Module, paths: Mapping[str, Path], image_size: int, batch_size: int, folder: _Folder
) -> None:
    folder.sweep()
    missing = [content for content in paths if content not in folder.rows]
    with tqdm(total=len(missing), desc="encoding", unit="image", mininterval=1.0) as bar:
        for start in range(0, len(missing), SHARD_IMAGES):
            part = missing[start : start + SHARD_IMAGES]
            with folder.locked():
                left = [content for content in part if content not in folder.rows]
                bar.update(len(part) - len(left))
                if left:
                    files = [paths[content] for content in left]
                    folder.add(left, _encode(encoder, files, image_size, batch_size, bar))


@torch.no_grad()
def _encode(
    encoder: nn.Module, paths: list[Path], image_size: int, batch_size: int, bar: tqdm
) -> Tensor:
    """(len(paths), P, C) float16 features; files are decoded while the encoder computes."""
    transform = image_transform(image_size)
    device = next(encoder.parameters()).device
    features = []
    with ThreadPool(THREADS) as pool:
        pixels = pool.imap(lambda path: transform(read_image(path)), paths)
        while batch := list(islice(pixels, batch_size)):
            features.append(encoder(torch.stack(batch).to(device)).half().cpu())
            bar.update(len(batch))
    encoded = torch.cat(features)
    for path, one in zip(paths, encoded, strict=True):
        if not all_finite(one):
            raise ValueError(f"{path}: its features are NaN or exceed float16's 65,504")
    return encoded
