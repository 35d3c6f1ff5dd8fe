"""What a reader needs to run something again: versions, machine, commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from qure_lib.device import describe_device

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "pillow")


def run_manifest(**parts: Any) -> dict[str, Any]:
    """Describe a run: `parts`, versions, machine and git commit."""
    return {
        **parts,
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": describe_device(),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if tracked files differ; None outside a checkout.

    The repository must lie in the package's parent folder, no higher, and track this file.
    """
    here = Path(__file__).resolve()
    checkout = here.parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), "--git-dir=.git", "--work-tree=.", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(here.relative_to(checkout)))
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
