"""Seeds, atomic checkpoints, resume, and the manifest of a run."""

from __future__ import annotations

import hashlib
import json
import pickle
import platform
import random
import subprocess
import zipfile
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import file_sha256, replacing

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pillow")


def set_seed(seed: int, rank: int = 0) -> torch.Generator:
    """Seed Python, NumPy and torch (dropout), and give a generator of its own for sampling.

    Args:
        rank: of several processes, which draw the same samples and each its own dropout.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed + 10_007 * rank)  # of its 64 bits CPUs use the lower 32
    return torch.Generator().manual_seed(seed)


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training state whole or not at all: tensors, numbers, strings, lists, dicts."""
    with replacing(path) as scratch:
        torch.save(state, scratch)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; code in the file is never run.

    Raises:
        ValueError: missing, truncated, or not a checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is not a readable checkpoint ({reason}); delete its folder to train afresh"
        ) from error


def fingerprint(**parts: Any) -> str:
    """Eight hex digits that change with any part: settings, data, weights, or this package's code.

    Finished runs are found again by it, so a changed setting or strategy never meets old results.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if source.stem not in {"plots", "tables", "reports", "widgets", "statistics"}:
            digest.update(file_sha256(source).encode())
    return digest.hexdigest()[:8]


def run_manifest(**parts: Any) -> dict[str, Any]:
    """What a reader needs to run it again: `parts`, versions, machine and git commit."""
    return {
        **parts,
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The checkout's commit, "-dirty" if tracked files differ; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def event_writer(folder: str | Path, step: int) -> Any:
    """TensorBoard's writer of scalars, offline: event files in `folder`.

    Args:
        step: the first to be written; what an interrupted run wrote from there on is hidden.
    """
    from torch.utils.tensorboard import SummaryWriter  # seconds to import

    return SummaryWriter(folder, purge_step=step)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON whole or not at all; dataclasses become objects."""
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
