"""Frozen features, computed once for each distinct image and kept on disk, memory-mapped."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
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

from qure_lib import processes
from qure_lib.code_in_use import describe_code
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.files import file_sha256, replacing
from qure_lib.method.config import ModelConfig

from .encoding import THREADS, encode_files, made_by

SHARD_IMAGES = 384  # at most: 202 MB of ViT-L's features, and all that a killed CPU loses
# Packages whose functions are not hashed: a store outlives their updates and Python's. An encoder
# of this library that comes to compute something else gets another name.
OWN_CODE = ("torch", "transformers", "qure_lib")
SETTLED = 2.0  # seconds after which a second change of a file changes its time, too
# Settings that frozen features do not depend on.
TRAINED_PART = {"qformer_width", "qformer_layers", "qformer_heads", "num_query_tokens", "dropout"}
TRAINED_PART |= {"embedding_dim", "vocab_size", "max_caption_tokens"}


@dataclass(frozen=True)
class FeatureStore:
    """(P, C) frozen features of named images, before `ln_vision`.

    shards: (rows, P, C) arrays.
    rows: image id -> row, counted through all shards; ids of the same content share one.
    key: a hash of the images' content, the encoder and the transform.
    made_by: the arithmetic and the device, such as "float16 on NVIDIA H100"; several where shards
        were added elsewhere. They differ by rounding, which is not in the key.
    """

    shards: tuple[np.ndarray, ...]
    rows: Mapping[str, int]
    key: str
    made_by: tuple[str, ...] = ()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(P, C)."""
        return self.shards[0].shape[1:]

    def get(self, image_ids: Sequence[str]) -> Tensor:
        """Ids -> (len(image_ids), P, C) float32.

        Raises:
            ValueError: an image has no features here.
        """
        features = np.empty((len(image_ids), *self.row_shape), self.shards[0].dtype)
        self.read(image_ids, features)
        return torch.from_numpy(features).float()

    def read(self, image_ids: Sequence[str], out: np.ndarray) -> None:
        """Copy features as they are stored into `out`, (len(image_ids), P, C).

        Raises:
            ValueError: an image has no features here.
        """
        rows = self.find(image_ids)
        ends = np.cumsum([len(shard) for shard in self.shards])
        holders = np.searchsorted(ends, rows, side="right")
        for place, (number, row) in enumerate(zip(holders.tolist(), rows.tolist(), strict=True)):
            shard = self.shards[number]
            out[place] = shard[row - ends[number] + len(shard)]

    def find(self, image_ids: Sequence[str]) -> np.ndarray:
        """Ids -> (len(image_ids),) rows.

        Raises:
            ValueError: an image has no features here.
        """
        if unknown := [i for i in image_ids if i not in self.rows]:
            raise ValueError(f"image {unknown[0]!r} has no features; pass it to extract_features")
        return np.array([self.rows[i] for i in image_ids], dtype=np.int64)


def extract_features(
    encoder: nn.Module,
    images: Mapping[str, Path],
    config: ModelConfig,
    cache: str | Path,
    batch_size: int = 128,
    share: tuple[int, int] | None = None,
) -> FeatureStore:
    """Encode each distinct image once, and open the memory-mapped float16 features of all.

    Each encoder and transform has a store, to which further images are added. An interrupted call
    resumes; corrupt shards are encoded again. The ranks of a group encode a share each and open
    the whole; of other processes that want the same, one encodes while the others wait.

    Args:
        encoder: (B, 3, H, W) -> (B, P, C), frozen. The store's key covers its parameters, buffers,
            repr and, for an encoder of your own, its code.
        images: image id -> file; files of equal content are encoded once. A file is hashed once,
            and again if its size or time of change differs.
        config: the model's; all but the trained part is in the key.
        cache: folder of the stores.
        share: (rank, world) encodes and opens every `world`-th image only.

    Raises:
        ValueError: no images, a rank outside the world, an image that cannot be read or decoded, or
            one whose features are not finite in float16 (at most 65,504).
    """
    rank, world = share or processes.rank_and_count()
    if not images or not 0 <= rank < world:
        raise ValueError(f"no images to encode, or no rank 0 to world - 1 in share {share}")
    with ThreadPool(1) as pool:  # beside the looking up of files
        hashing = pool.apply_async(_hash_encoder, (encoder.eval(), config))
        with processes.main_first():  # the other ranks find the files' hashes
            contents = _hash_images(images, Path(cache))
        digest = hashing.get()
    first = {content: i for i, content in reversed(contents.items())}
    mine = sorted(first, key=first.__getitem__)[rank::world]
    paths = {content: images[first[content]] for content in mine}
    folder = _Folder(Path(cache) / digest.hexdigest()[:16], f"{rank}-of-{world}")
    if not paths.keys() <= folder.rows.keys():
        _encode_missing(encoder, paths, config.image_size, batch_size, folder)
    opened = contents
    if share is None:
        processes.wait_for_all()
        folder.refresh()
    else:
        opened = {i: content for i, content in contents.items() if content in paths}
    digest.update(json.dumps(opened).encode())
    return folder.open(opened, digest.hexdigest()[:16])


def _hash_images(images: Mapping[str, Path], cache: Path) -> dict[str, str]:
    """Image id -> hash of its file, by id; files.json in the cache remembers them.

    A file that changed in the last SETTLED seconds is not remembered: a second change might leave
    size and time as they are.
    """
    note = cache / "files.json"
    known, now = _read_note(note), time.time_ns()
    ids, new, problems = sorted(images), {}, []

    def find(image_id: str) -> str:
        path = os.path.abspath(images[image_id])
        try:
            stamp = _stamp(path)
            match known.get(path):
                case [size, changed, str(content)] if [size, changed] == stamp:
                    return content
            if not os.path.isfile(path):  # a pipe would wait for ever
                raise OSError("not a plain file")
            content = file_sha256(path)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}; get the file again")
            return ""
        if now - stamp[1] > SETTLED * 1e9:
            new[path] = [*stamp, content]
        return content

    hashes = _in_threads(find, ids, "hashing")
    if problems:
        raise ValueError("\n".join(sorted(set(problems))))
    _write_note(note, known, new)
    return dict(zip(ids, hashes, strict=True))


def _read_note(path: Path) -> dict[str, Any]:
    """What a note remembers; nothing if it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _write_note(path: Path, known: dict[str, Any], new: dict[str, Any]) -> None:
    """Add to a note; a disk that cannot be written costs only the time it would save."""
    if new:
        with suppress(OSError), replacing(path) as scratch:
            scratch.write_text(json.dumps(known | new))


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
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


def _in_threads(function: Callable, items: list, what: str) -> list:
    """`function` of each item, in order; a bar shows when that takes more than two seconds."""
    bar: dict[str, Any] = {"unit": "file", "mininterval": 1.0, "delay": 2.0, "leave": False}
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
        self.made_by: dict[str, str] = {}  # by file name
        self.written: dict[str, list[int]] = {}  # by this process: file name -> stamp
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are new here; delete corrupt ones and those of another store."""
        paths = sorted(p for p in self.path.glob("*.safetensors") if p.name not in self.shards)
        note = self.path / "verified.json"
        known = _read_note(note)
        verified = known | self.written
        found = _in_threads(lambda p: self._read(p, verified.get(p.name)), paths, "verifying")
        stamps = {}
        for path, shard in zip(paths, found, strict=True):
            if shard is not None:
                stamps[path.name], contents, self.made_by[path.name], self.shards[path.name] = shard
                for row, content in enumerate(contents):
                    self.rows.setdefault(content, (path.name, row))
        _write_note(note, known, {n: s for n, s in stamps.items() if known.get(n) != s})

    def _read(self, path: Path, verified: Any) -> tuple[list[int], list[str], str, Any] | None:
        """A shard's stamp, contents, maker and features; None if they must be made again."""
        try:
            stamp = _stamp(path)
            with safe_open(path, "pt") as file:  # memory-mapped
                features, metadata = file.get_tensor("features").numpy(), file.metadata() or {}
            contents = metadata["contents"].split()
            if stamp == verified or metadata["checksum"] == self._checksum(contents, features):
                return stamp, contents, metadata.get("made_by", "float32"), features
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
        digest.update(features.data)
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

    def write(self, contents: list[str], features: Tensor, maker: str) -> None:
        """Write a shard, whole or not at all; `refresh` then knows it. Threads may call this."""
        path = self.path / f"{self.share}-{uuid4().hex}.safetensors"
        checksum = self._checksum(contents, features.numpy())
        metadata = {"contents": " ".join(contents), "checksum": checksum, "made_by": maker}
        with replacing(path) as scratch:
            save_file({"features": features}, scratch, metadata)
        self.written[path.name] = _stamp(path)

    def open(self, contents: Mapping[str, str], key: str) -> FeatureStore:
        """The store of these images (id -> content)."""
        names = sorted({self.rows[content][0] for content in contents.values()})
        shards = tuple(self.shards[name] for name in names)
        starts = dict(zip(names, accumulate(map(len, shards), initial=0), strict=False))
        places = {i: self.rows[content] for i, content in contents.items()}
        rows = {i: starts[name] + row for i, (name, row) in places.items()}
        return FeatureStore(shards, rows, key, tuple(sorted({self.made_by[n] for n in names})))


def _stamp(path: str | Path) -> list[int]:
    """What differs after a file has changed: its size, and the time of its change."""
    status = os.stat(path)
    return [status.st_size, status.st_ctime_ns]


def _encode_missing(
    encoder: nn.Module, paths: Mapping[str, Path], image_size: int, batch_size: int, folder: _Folder
) -> None:
    """Encode what the folder lacks; threads write the shards."""
    folder.sweep()
    writers = 3 if next(encoder.parameters()).is_cuda else 1  # a CPU encodes slower than one writes
    with folder.locked(), ThreadPoolExecutor(writers) as pool:
        missing = [content for content in paths if content not in folder.rows]
        with tqdm(total=len(missing), desc="encoding", unit="image", mininterval=1.0) as bar:
            files, sizes = [paths[c] for c in missing], (SHARD_IMAGES, batch_size)
            written: deque[Future] = deque()
            for features in encode_files(encoder, files, image_size, *sizes, bar):
                contents, missing = missing[: len(features)], missing[len(features) :]
                written.append(pool.submit(folder.write, contents, features, made_by(encoder)))
                if len(written) > 2 * writers:  # features wait in memory for their writer
                    written.popleft().result()
            for shard in written:
                shard.result()
        folder.refresh()
