"""Encode image files by a frozen encoder: decoding, computing and storing side by side."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from qure_lib import processes
from qure_lib.datasets.image_files import read_image
from qure_lib.datasets.preprocessing import image_transform
from qure_lib.device import autocast, describe_device, usable_cores

THREADS = 8  # that hash and decode files
CHUNK = 4  # images that a decoding process hands over at once: 1.2 MB of shared memory
TOO_LARGE = "its features are NaN or exceed float16's 65,504"


def made_by(encoder: nn.Module) -> str:
    """The arithmetic of `encode_files` with this encoder, and the device."""
    parameter = next(encoder.parameters())
    return f"{'float16' if parameter.is_cuda else 'float32'} on {describe_device(parameter.device)}"


def encode_files(
    encoder: nn.Module, paths: Sequence[Path], image_size: int, shard: int, batch: int, bar: tqdm
) -> Iterator[Tensor]:
    """Encode files in order, and yield the features of a shard at a time.

    On a CPU threads decode, and the encoder computes in its own precision. On a GPU processes
    decode, and the encoder computes in float16 autocast, as in the release; images whose features
    are not finite then are encoded again without it.

    Args:
        encoder: (B, 3, H, W) -> (B, P, C), frozen, in evaluation mode.
        shard, batch: images in each. A GPU computes the next shard while one is stored.
        bar: moves by each batch.

    Yields:
        (shard or fewer, P, C) float16 features.

    Raises:
        ValueError: a file that cannot be decoded, or features that float16 cannot hold, by name.
    """
    on_gpu = next(encoder.parameters()).is_cuda
    dtype = torch.float16 if on_gpu else torch.float32
    batches = [_split(part, batch) for part in _split(range(len(paths)), shard)]
    chunks = [chunk for part in batches for numbers in part for chunk in _split(numbers, CHUNK)]
    workers = 0
    if on_gpu:  # the cores of all ranks together, two of them for what follows
        workers = min(max((usable_cores() - 2) // processes.rank_and_count()[1], 1), 16)
    decoded = _decode(_Pixels(paths, image_size, dtype), chunks, workers)
    running: deque[_Shard] = deque()
    for part in batches:
        running.append(_Shard([paths[i] for numbers in part for i in numbers], on_gpu))
        for numbers in part:
            pixels = _collect(decoded, len(numbers), on_gpu)
            running[-1].add(_encode(encoder, pixels, dtype))
            bar.update(len(numbers))
        running[-1].end()
        if len(running) > on_gpu:
            yield running.popleft().finish(encoder, image_size)
    for last in running:
        yield last.finish(encoder, image_size)


def _collect(decoded: Iterator[Tensor], count: int, on_gpu: bool) -> Tensor:
    """(count, 3, H, W): the next chunks as a batch, whose copy to a GPU need not be waited for."""
    chunk = next(decoded)
    pixels = torch.empty((count, *chunk.shape[1:]), dtype=chunk.dtype, pin_memory=on_gpu)
    for start in range(0, count, CHUNK):
        chunk = next(decoded) if start else chunk
        pixels[start : start + len(chunk)] = chunk
    return pixels


@torch.no_grad()
def _encode(encoder: nn.Module, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    device = next(encoder.parameters()).device
    with autocast(device, dtype):
        return encoder(pixels.to(device, non_blocking=True)).half()


def _split(numbers: range, size: int) -> list[range]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


class _Shard:
    """Features on their way from the device to the host's memory."""

    def __init__(self, paths: list[Path], on_gpu: bool) -> None:
        self.paths, self.on_gpu = paths, on_gpu
        self.features = torch.empty(0)  # of the first batch's shape, once it is there
        self.finite = torch.empty(len(paths), dtype=torch.bool, pin_memory=on_gpu)
        self.count = 0
        self.copied = torch.cuda.Event() if on_gpu else None

    def add(self, encoded: Tensor) -> None:
        """Copy a batch's features; a GPU does it while this process goes on."""
        if self.count == 0:
            shape = len(self.paths), *encoded.shape[1:]
            self.features = torch.empty(shape, dtype=encoded.dtype, pin_memory=self.on_gpu)
        end = self.count + len(encoded)
        self.features[self.count : end].copy_(encoded, non_blocking=True)
        finite = encoded.isfinite().flatten(1).all(1)
        self.finite[self.count : end].copy_(finite, non_blocking=True)
        self.count = end

    def end(self) -> None:
        """All batches have been added."""
        if self.copied:
            self.copied.record()

    def finish(self, encoder: nn.Module, image_size: int) -> Tensor:
        """The features, once they are here and finite."""
        if self.copied:
            self.copied.synchronize()
        for number in (~self.finite).nonzero().flatten().tolist():
            path = self.paths[number]
            if self.on_gpu:  # half precision may have overflowed on the way
                pixels = image_transform(image_size)(read_image(path))[None]
                self.features[number] = _encode(encoder, pixels, torch.float32)[0].cpu()
            if not self.features[number].isfinite().all():
                raise ValueError(f"{path}: {TOO_LARGE}")
        return self.features


class _Pixels(Dataset):
    """(n, 3, H, W) decoded images of a chunk, or the error that says why there are none."""

    def __init__(self, paths: Sequence[Path], image_size: int, dtype: torch.dtype) -> None:
        self.paths, self.image_size, self.dtype = paths, image_size, dtype

    def __getitem__(self, numbers: range) -> Tensor | ValueError:
        transform, images, problems = image_transform(self.image_size), [], []
        for path in (self.paths[number] for number in numbers):
            try:
                images.append(transform(read_image(path)))
            except Exception as error:  # a process would wrap it in its own traceback
                problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
        if problems:
            return ValueError("\n".join(problems))
        return torch.stack(images).to(self.dtype)


def _decode(images: _Pixels, chunks: list[range], workers: int) -> Iterator[Tensor]:
    """The decoded chunks, in order; by threads where there are no worker processes.

    Raises:
        ValueError: files that cannot be decoded, all of them by name.
    """
    decoded: Iterable[Tensor | ValueError]
    if workers:
        decoded = iter(DataLoader(images, sampler=chunks, batch_size=None, num_workers=workers))
    else:
        decoded = _in_threads(images, chunks)
    for chunk in decoded:
        if isinstance(chunk, ValueError):
            tqdm.write("a file cannot be decoded; decoding the rest, to name all such files")
            raise ValueError("\n".join(str(c) for c in (chunk, *decoded) if type(c) is ValueError))
        yield chunk


def _in_threads(images: _Pixels, chunks: list[range]) -> Iterator[Tensor | ValueError]:
    """The chunks in order; few are held, since a CPU encodes far slower than it decodes."""
    running: deque[Future] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for chunk in chunks:
            running.append(threads.submit(images.__getitem__, chunk))
            if len(running) >= 8 * THREADS:
                yield running.popleft().result()
        for decoded in running:
            yield decoded.result()
