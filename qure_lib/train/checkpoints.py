"""Checkpoints: written whole, the last two kept, never read unless they are sound."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qure_lib.files import replacing


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training state whole or not at all, and keep the one before it.

    Raises:
        ValueError: a tensor is not finite.
        OSError: it cannot be written (a full disk); what was there before is as it was.
    """
    path = Path(path)
    refuse_not_finite(state)
    with replacing(path) as scratch:
        try:
            torch.save(state, scratch)
        except RuntimeError as error:  # torch's own, for whatever the system says
            reason = str(error).splitlines()[0]
            raise OSError(f"{path} cannot be written ({reason}); is the disk full?") from error
        if path.exists():
            os.replace(path, previous(path))


def refuse_not_finite(state: Any, name: str = "") -> None:
    """Raise ValueError, with its name, if a tensor of a state holds NaN or infinity."""
    if isinstance(state, dict | list | tuple):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in pairs:
            refuse_not_finite(value, f"{name}.{key}".lstrip("."))
    elif isinstance(state, Tensor) and not state.isfinite().all():
        raise ValueError(f"{name} is not finite: this state is not saved; lower the learning rate")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, checksums checked; code in the file is never run.

    Raises:
        ValueError: missing, truncated, damaged, or not a checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # decoders raise errors of any type on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is not a readable checkpoint ({reason}); delete its folder to train afresh"
        ) from error


def set_damaged_aside(path: Path) -> None:
    """If the checkpoint is missing or damaged and the one before is not, put that in its place.

    The damaged file stays beside it, as `*.damaged.pt`, and a warning says so.
    """
    if not previous(path).exists():
        return
    try:
        load_checkpoint(path)
    except ValueError as error:
        load_checkpoint(previous(path))
        aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
        if path.exists():
            os.replace(path, aside)
        os.replace(previous(path), path)
        reason = str(error).split(";")[0]
        tqdm.write(f"WARNING: {reason}. It is now {aside.name}; going on from the one before it")
