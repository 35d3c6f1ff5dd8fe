"""Frozen features, computed once for each distinct image and kept on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from .files import file_sha256, replacing
from .images import image_transform, read_image

if TYPE_CHECKING:
    from .model import ModelConfig

SHARD_IMAGES = 512  # at most: 270 MB of ViT-L's features, and all that a killed extraction loses
THREADS = 8  # that read files: hashing and decoding let others run


@dataclass(frozen=True)
class FeatureStore:
    """(P, C) frozen features of named images, before `ln_vision`.

    shards: (rows, P, C) arrays.
    rows: image id -> row, counted through all shards; ids of the same content share one.
    key: a hash of the images' content, the encoder's weights and the transform.
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
        try:
            rows = np.array([self.rows[i] for i in image_ids], dtype=np.int64)
        except KeyError as error:
            raise ValueError(
                f"image {error} has no features; pass it to extract_features"
            ) from None
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
    """Encode every distinct image that no earlier call has, and open what is stored of all.

    A store belongs to an encoder and a transform; whoever asks for more images adds to it, a shard
    at a time, and a call that is interrupted is gone on with. Damaged shards and those of another
    store are named, removed and encoded again. Several processes may call this at once: one at a
    time encodes a shard, after a look at what the others have added.

    Args:
        encoder: (B, 3, H, W) -> (B, P, C), frozen. Whatever its output depends on must be in its
            weights, in `config`'s vision part or in its repr: they make the key.
        images: image id -> file; told apart by content.
        config: the model's; its vision part tells stores apart, its image_size is the input's.
        cache: folder of stores; each gets a folder named by its encoder.
        share: (rank, world) encodes and opens every `world`-th image only. Ranks work side by side:
            let each of them call this with its own share, wait for all at a barrier, and call it
            again without one, which opens everything. (Jobs of another `world` on the same images
            at the same time may encode some of them once more.)

    Returns:
        A FeatureStore of float16 features, memory-mapped.

    Raises:
        ValueError: no images, a file that cannot be read or decoded, or a rank outside the world.
    """
    rank, world = share
    if not 0 <= rank < world:
        raise ValueError(f"share must be (rank, world) with rank 0 to world - 1, not {share}")
    if not images:
        raise ValueError("no images to encode")
    ids = sorted(images)
    contents = _in_threads(_content_of, [images[i] for i in ids], "hashing")
    first = {content: i for i, content in zip(reversed(ids), reversed(contents), strict=True)}
    mine = sorted(first, key=first.__getitem__)[rank::world]
    paths = {content: images[first[content]] for content in mine}
    digest = _encoder_hash(encoder.eval(), config)
    folder = _Folder(Path(cache) / digest.hexdigest()[:16], f"{rank}-of-{world}")
    if not paths.keys() <= folder.rows.keys():
        _encode_missing(encoder, paths, config.image_size, batch_size, folder)
    opened = {i: content for i, content in zip(ids, contents, strict=True) if content in paths}
    for image_id, content in opened.items():
        digest.update(f"{image_id}:{content}".encode())
    return folder.open(opened, digest.hexdigest()[:16])


def _encoder_hash(encoder: nn.Module, config: ModelConfig) -> Any:
    """A hash that goes on to the images: what its store is called, with them what its key is."""
    names = ("encoder", "image_size", "patch_size", "vision_width", "vision_layers", "vision_heads")
    vision = [getattr(config, name) for name in names]
    digest = hashlib.sha256(f"TargetPad 1.25, bicubic, fp16, {vision}, {encoder}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest


def _content_of(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); get the file again") from error


def _in_threads(function: Callable, items: list, what: str) -> list:
    """`function` of each item, in order; a bar shows where that takes longer than two seconds."""
    bar = {"unit": "file", "mininterval": 1.0, "delay": 2.0, "leave": False}
    with ThreadPool(THREADS) as pool:
        return list(tqdm(pool.imap(function, items), what, len(items), **bar))


class _Folder:
    """A store's folder of shards, of which only sound ones count.

    A checksum is computed once: verified.json keeps the size and the time of change that a sound
    file had. A file's name is random, so what replaces a damaged shard is never taken for it.

    share: what the shards written here begin with.
    """

    def __init__(self, path: Path, share: str) -> None:
        self.path, self.share = path, share
        self.shards: dict[str, np.ndarray] = {}  # by file name
        self.rows: dict[str, tuple[str, int]] = {}  # content -> file name, row in it
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are new here; remove what is not a sound shard of this store."""
        paths = sorted(p for p in self.path.glob("*.safetensors") if p.name not in self.shards)
        if not paths:
            return
        verified = self._verified()
        stamps = {}
        found = _in_threads(lambda p: self._read(p, verified.get(p.name)), paths, "verifying")
        for path, shard in zip(paths, found, strict=True):
            if shard is not None:
                stamps[path.name], contents, self.shards[path.name] = shard
                for row, content in enumerate(contents):
                    self.rows.setdefault(content, (path.name, row))
        if any(verified.get(name) != stamp for name, stamp in stamps.items()):
            with suppress(OSError), replacing(self.path / "verified.json") as scratch:
                scratch.write_text(json.dumps(verified | stamps))

    def _verified(self) -> dict[str, list[int]]:
        try:
            return dict(json.loads((self.path / "verified.json").read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _read(self, path: Path, verified: Any) -> tuple[list[int], list[str], np.ndarray] | None:
        """Its stamp, contents and features; None if it has to be made again."""
        try:
            stamp = [path.stat().st_size, path.stat().st_ctime_ns]
            with safe_open(path, "pt") as file:  # what it gives is memory-mapped
                features, known = file.get_tensor("features").numpy(), file.metadata() or {}
            contents = known["contents"].split()
            if stamp == verified or known["checksum"] == self._checksum(contents, features):
                return stamp, contents, features
            reason = "its checksum is another"
        except FileNotFoundError:  # another process has removed it
            return None
        except (SafetensorError, KeyError, TypeError) as error:
            reason = str(error)
        said = f"{path} is no sound shard of its store ({reason}): removed, to be made again"
        tqdm.write(said, file=sys.stderr)
        path.unlink(missing_ok=True)
        return None

    def _checksum(self, contents: list[str], features: np.ndarray) -> str:
        digest = hashlib.sha256(f"{self.path.name} {contents} {features.shape}".encode())
        digest.update(features)
        return digest.hexdigest()

    def sweep(self) -> None:
        """Remove what killed processes left half written: nobody holds the lock of its share."""
        for lock in self.path.glob(".*.lock"):
            with suppress(Timeout), FileLock(lock, timeout=0):
                for scratch in self.path.glob(f"{lock.stem}-*"):
                    shutil.rmtree(scratch)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold this share's lock, and know what others have added."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / f".{self.share}.lock"):
            self.refresh()
            yield

    def add(self, contents: list[str], features: Tensor) -> None:
        """Write a shard, whole or not at all."""
        checksum = self._checksum(contents, features.numpy())
        with replacing(self.path / f"{self.share}-{uuid4().hex}.safetensors") as path:
            known = {"contents": " ".join(contents), "checksum": checksum}
            save_file({"features": features}, path, known)
        self.refresh()

    def open(self, contents: Mapping[str, str], key: str) -> FeatureStore:
        """The store of these images (id -> content)."""
        names = sorted({self.rows[content][0] for content in contents.values()})
        lengths = [len(self.shards[name]) for name in names]
        starts = dict(zip(names, accumulate(lengths, initial=0), strict=False))
        places = {i: self.rows[content] for i, content in contents.items()}
        rows = {i: starts[name] + row for i, (name, row) in places.items()}
        return FeatureStore(tuple(self.shards[name] for name in names), rows, key)


def _encode_missing(
    encoder: nn.Module, paths: Mapping[str, Path], image_size: int, batch_size: int, folder: _Folder
) -> None:
    folder.sweep()
    missing = [content for content in paths if content not in folder.rows]
    with tqdm(total=len(missing), desc="encoding", unit="image", mininterval=1.0) as bar:
        for start in range(0, len(missing), SHARD_IMAGES):
            part = missing[start : start + SHARD_IMAGES]
            with folder.turn():
                left = [content for content in part if content not in folder.rows]
                bar.update(len(part) - len(left))
                if left:
                    files = [paths[content] for content in left]
                    folder.add(left, _encode(encoder, files, image_size, batch_size, bar))


@torch.no_grad()
def _encode(
    encoder: nn.Module, paths: list[Path], image_size: int, batch_size: int, bar: tqdm
) -> Tensor:
    """(len(paths), P, C) float16 features. Files are decoded while the encoder is at work."""
    transform = image_transform(image_size)
    device = next(encoder.parameters()).device
    features = []
    with ThreadPool(THREADS) as pool:
        pixels = pool.imap(lambda path: transform(read_image(path)), paths)
        while batch := list(islice(pixels, batch_size)):
            features.append(encoder(torch.stack(batch).to(device)).half().cpu())
            bar.update(len(batch))
    return torch.cat(features)
