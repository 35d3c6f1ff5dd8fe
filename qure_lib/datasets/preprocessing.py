"""Pad, resize, crop, normalise: the published preprocessing."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from qure_lib.pixels import CLIP_MEAN, CLIP_STD

MAX_PADDED_PIXELS = 2**28  # 16,384 x 16,384; about 1 GB in four channels


def pad_to_ratio(image: Image.Image, ratio: float = 1.25) -> Image.Image:
    """Pad an image whose longer side is at least `ratio` times the shorter, on the shorter.

    Zeros are added in the image's original mode: black in most, the palette's first colour in P,
    white in CMYK. Source: the release's TargetPad.

    Raises:
        ValueError: it is so long and thin that the result would take gigabytes.
    """
    longer = max(image.size)
    if longer / min(image.size) < ratio:
        return image
    left, top = (max(int((longer / ratio - side) / 2), 0) for side in image.size)
    size = (image.width + 2 * left, image.height + 2 * top)
    if size[0] * size[1] > MAX_PADDED_PIXELS:
        name = getattr(image, "filename", None) or "the image"
        raise ValueError(f"{name}: {image.size} pads to {size}; crop it or leave it out")
    padded = Image.new(image.mode, size, 0)
    if image.mode == "P" and (palette := image.getpalette()):
        padded.putpalette(palette)
    padded.paste(image, (left, top))
    return padded


def image_transform(
    size: int = 224, convert_first: bool = False
) -> Callable[[Image.Image], Tensor]:
    """PIL image in its original mode -> (3, size, size) float32, normalised by CLIP's statistics.

    Pad to 1.25, resize the shorter side to `size` (bicubic, antialiased, longer side truncated),
    centre crop, and only then convert to RGB; EXIF orientation is ignored, as in the release (but
    Pillow itself turns a TIFF as it decodes it). So modes P and 1 are resized by the nearest
    neighbour, transparency never shows, and 16-bit, 32-bit and float pixels are clipped to 0-255.
    Equivalent to torchvision's Pad, Resize, CenterCrop, ToTensor and Normalize, to the bit.

    Args:
        size: of the output's sides, in pixels.
        convert_first: apply the EXIF orientation and convert to RGB before the same steps. Not as
            in the release; for photographs from elsewhere.
    """
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))

    def transform(image: Image.Image) -> Tensor:
        if convert_first:
            image = ImageOps.exif_transpose(image).convert("RGB")
        image = pad_to_ratio(image)
        width, height = (int(size * side / min(image.size)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (int(round((side - size) / 2.0)) for side in (width, height))
        image = image.crop((left, top, left + size, top + size)).convert("RGB")
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        return torch.from_numpy((pixels - mean) / std)

    return transform
