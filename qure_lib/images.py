"""Decode, pad-resize-crop, normalise: the published preprocessing (METHOD section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PADDED_PIXELS = 2**28  # 16,384 x 16,384; about 1 GB in four channels


@dataclass(frozen=True)
class TargetPad:
    """Pad with zeros towards an aspect ratio, in the image's original mode.

    Images whose longer side is at least `ratio` times the shorter are padded on the shorter.
    Zero is the mode's own: black in most, the palette's first colour in P, white in CMYK.
    """

    ratio: float = 1.25

    def __call__(self, image: Image.Image) -> Image.Image:
        """Pad one image.

        Raises:
            ValueError: it is so long and thin that it would take gigabytes.
        """
        width, height = image.size
        if max(width, height) / min(width, height) < self.ratio:
            return image
        scaled = max(width, height) / self.ratio
        left = max(int((scaled - width) / 2), 0)
        top = max(int((scaled - height) / 2), 0)
        size = (width + 2 * left, height + 2 * top)
        if size[0] * size[1] > MAX_PADDED_PIXELS:
            name = getattr(image, "filename", None) or "the image"
            raise ValueError(f"{name}: {image.size} pads to {size}; crop it or leave it out")
        padded = Image.new(image.mode, size, 0)
        if image.mode == "P":
            padded.putpalette(image.getpalette())
        padded.paste(image, (left, top))
        return padded


def image_transform(
    size: int = 224, convert_first: bool = False
) -> Callable[[Image.Image], Tensor]:
    """PIL image in its original mode -> (3, size, size) float32, normalised by CLIP's statistics.

    Pad to 1.25, resize the shorter side to `size` (bicubic, antialiased, longer side truncated),
    centre crop, and only then convert to RGB; EXIF orientation is ignored, as in the release (but
    Pillow itself turns a TIFF as it decodes it). So modes P and 1 are resized by the nearest
    neighbour, and transparency never shows. Equivalent to torchvision's Pad, Resize, CenterCrop,
    ToTensor and Normalize, to the bit, on every mode that Pillow decodes.

    Args:
        size: of the output's sides, in pixels.
        convert_first: not the release's way, for photographs from elsewhere: apply the EXIF
            orientation and convert to RGB, then the same steps.
    """
    pad = TargetPad()
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))

    def transform(image: Image.Image) -> Tensor:
        if convert_first:
            image = ImageOps.exif_transpose(image).convert("RGB")
        image = pad(image)
        width, height = image.size
        if width <= height:
            resized = (size, int(size * height / width))
        else:
            resized = (int(size * width / height), size)
        image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = (int(round((side - size) / 2.0)) for side in resized)
        image = image.crop((left, top, left + size, top + size)).convert("RGB")
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        return torch.from_numpy((pixels - mean) / std)

    return transform


def read_image(path: str | Path) -> Image.Image:
    """Decode an image file whole, in its original mode.

    Raises:
        ValueError: missing, truncated, not an image, or absurdly large; the message names it.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); get the file again") from error
