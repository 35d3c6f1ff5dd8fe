"""Read frozen features for a GPU: from its own memory, or ahead of time from the host's."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from .store import FeatureStore

PLACES = ("auto", "card", "host")
# Bytes of a GPU that features leave free: a compiled step of batch 32 at the published size keeps
# 8.2 GB, an epoch's last batch runs beside it, and the optimizer has 2.2 GB.
RESERVED = 16e9
AHEAD = 2  # batches that are read before they are asked for


class CardFeatures:
    """All features of a store in a GPU's memory, as they are stored."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.store, self.key, self.made_by = store, store.key, store.made_by
        shape = sum(map(len, store.shards)), *store.row_shape
        self.features = torch.empty(shape, dtype=torch.float16, device=device)
        start = 0
        for shard in store.shards:
            self.features[start : start + len(shard)] = torch.from_numpy(shard).to(device)
            start += len(shard)

    def get(self, image_ids: Sequence[str]) -> Tensor:
        """Ids -> (len(image_ids), P, C) float32 on the GPU.

        Raises:
            ValueError: an image has no features here.
        """
        rows = torch.from_numpy(self.store.find(image_ids))
        return self.features[rows.to(self.features.device, non_blocking=True)].float()


def place_features(
    store: FeatureStore | CardFeatures, device: torch.device, place: str = "auto"
) -> tuple[FeatureStore | CardFeatures, str]:
    """Put features onto a GPU if they fit beside what training needs.

    Args:
        place: "card" and "host" decide it; "auto" goes by the GPU's free memory. A CPU ignores it.

    Returns:
        The features, and in words where they are and why.

    Raises:
        ValueError: an unknown place, or "card" and more features than its free memory.
    """
    if place not in PLACES:
        raise ValueError(f"features must be one of {PLACES}, not {place!r}")
    if device.type != "cuda":
        return store, "features in host memory"
    if not isinstance(store, FeatureStore):
        return store, "features on the GPU"
    torch.cuda.empty_cache()
    size, free = sum(shard.nbytes for shard in store.shards), torch.cuda.mem_get_info(device)[0]
    state = f"{size / 1e9:.1f} GB of features, {free / 1e9:.1f} GB of the GPU free"
    if place == "card" and size > free:
        raise ValueError(f"{state}: they do not fit; use --features host")
    if place == "card" or (place == "auto" and size + RESERVED <= free):
        return CardFeatures(store, device), f"features on the GPU ({state})"
    return store, f"features in host memory, read ahead ({state})"


def read_ahead(
    store: FeatureStore, batches: Sequence[Sequence[str]], device: torch.device
) -> Iterator[Tensor]:
    """`store.get` of each batch, on the device: a thread reads and sends the next ones meanwhile.

    They travel as float16 and become float32 on the device. Equivalent to `store.get`.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    shape = max(map(len, batches), default=0), *store.row_shape
    buffers = cycle([_Buffer(shape, device, stream) for _ in range(AHEAD + 1)])
    waiting: deque[Future[tuple[Tensor, Any]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for batch, buffer in zip(batches, buffers, strict=False):
            waiting.append(reader.submit(buffer.send, store, batch))
            if len(waiting) > AHEAD:
                yield _received(*waiting.popleft().result())
        while waiting:
            yield _received(*waiting.popleft().result())


class _Buffer:
    """Pinned host memory that one batch at a time passes through."""

    def __init__(self, shape: tuple[int, ...], device: torch.device, stream: Any) -> None:
        self.memory = torch.empty(shape, dtype=torch.float16, pin_memory=stream is not None)
        self.device, self.stream, self.sent = device, stream, None

    def send(self, store: FeatureStore, batch: Sequence[str]) -> tuple[Tensor, Any]:
        """Read a batch and start its copy to the device. Returns it, and the end of the copy."""
        if self.sent is not None:
            self.sent.synchronize()
        rows = self.memory[: len(batch)]
        store.read(batch, rows.numpy())
        if self.stream is None:
            return rows.clone(), None
        with torch.cuda.stream(self.stream):
            there = rows.to(self.device, non_blocking=True)
            self.sent = self.stream.record_event()
        return there, self.sent


def _received(features: Tensor, sent: Any) -> Tensor:
    """A batch as float32, once its copy has ended; the host does not wait for that."""
    if sent is not None:
        current = torch.cuda.current_stream(features.device)
        current.wait_event(sent)
        features.record_stream(current)
    return features.float()
