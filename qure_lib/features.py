"""Frozen features, computed once for each image and kept on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .files import file_sha256, replacing
from .images import image_transform, read_image

if TYPE_CHECKING:
    from .model import ModelConfig


@dataclass(frozen=True)
class FeatureStore:
    """(images, P, C) frozen features of named images, before `ln_vision`.

    `key` is a hash of the images' content, the encoder's weights and the transform.
    """

    features: np.ndarray
    rows: Mapping[str, int]
    key: str

    def get(self, image_ids: list[str] | tuple[str, ...]) -> Tensor:
        """Ids -> (len(image_ids), P, C) float32.

        Raises:
            ValueError: an image has no features here.
        """
        try:
            rows = [self.rows[i] for i in image_ids]
        except KeyError as error:
            raise ValueError(
                f"image {error} has no features; pass it to extract_features"
            ) from None
        return torch.from_numpy(self.features[rows].astype(np.float32))


def extract_features(
    encoder: nn.Module,
    images: Mapping[str, Path],
    config: ModelConfig,
    cache: str | Path,
    batch_size: int = 128,
) -> FeatureStore:
    """Encode every image once, or open what an earlier call stored.

    Args:
        encoder: (B, 3, H, W) -> (B, P, C), frozen. Whatever its output depends on must be in its
            weights, in `config`'s vision part or in its repr: they make the key.
        images: image id -> file.
        config: the model's; its vision part tells stores apart, its image_size is the input's.
        cache: folder of stores; each gets a folder named by its key, written whole or not at all.

    Returns:
        A FeatureStore of float16 features, memory-mapped.

    Raises:
        ValueError: no images, or a file that cannot be decoded.
    """
    if not images:
        raise ValueError("no images to encode")
    ids = sorted(images)
    encoder.eval()
    folder = Path(cache) / _store_key(encoder, images, config)
    stored = _open_store(folder, ids)
    if stored is None:
        with replacing(folder) as scratch:
            scratch.mkdir()
            paths = [images[i] for i in ids]
            _encode(encoder, paths, config.image_size, batch_size, scratch / "features.npy")
            index = {"ids": ids, "sha256": file_sha256(scratch / "features.npy")}
            (scratch / "images.json").write_text(json.dumps(index))
        stored = _open_store(folder, ids)
    return stored


def _store_key(encoder: nn.Module, images: Mapping[str, Path], config: ModelConfig) -> str:
    names = ("encoder", "image_size", "patch_size", "vision_width", "vision_layers", "vision_heads")
    vision = [getattr(config, name) for name in names]
    digest = hashlib.sha256(f"TargetPad 1.25, bicubic, fp16, {vision}, {encoder}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for image_id in sorted(images):
        digest.update(f"{image_id}:{file_sha256(images[image_id])}".encode())
    return digest.hexdigest()[:16]


def _open_store(folder: Path, ids: list[str]) -> FeatureStore | None:
    """The stored features; None where there are none or they are damaged (they are made again)."""
    try:
        index = json.loads((folder / "images.json").read_text())
        if index != {"ids": ids, "sha256": file_sha256(folder / "features.npy")}:
            return None
        features = np.load(folder / "features.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    return FeatureStore(features, {image_id: row for row, image_id in enumerate(ids)}, folder.name)


@torch.no_grad()
def _encode(
    encoder: nn.Module, paths: list[Path], image_size: int, batch_size: int, out: Path
) -> None:
    transform: Callable = image_transform(image_size)
    device = next(encoder.parameters()).device
    stored = None
    bar = tqdm(total=len(paths), desc="encoding", unit="image", mininterval=1.0)
    for start in range(0, len(paths), batch_size):
        batch = torch.stack([transform(read_image(p)) for p in paths[start : start + batch_size]])
        features = encoder(batch.to(device)).half().cpu().numpy()
        if stored is None:
            shape = (len(paths), *features.shape[1:])
            stored = np.lib.format.open_memmap(out, mode="w+", dtype=np.float16, shape=shape)
        stored[start : start + len(features)] = features
        bar.update(len(features))
    bar.close()
    stored.flush()
