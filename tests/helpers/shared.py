"""What several test files use."""

import subprocess
from pathlib import Path

import torch

from qure_lib.method.config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(
    image_size=32,
    patch_size=16,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    qformer_width=24,
    qformer_layers=2,
    qformer_heads=2,
    num_query_tokens=3,
    embedding_dim=16,
    vocab_size=40,
    dropout=0.0,
)


def embeddings_with(scores):
    """(Q, D) queries and (N, 1, D) images whose relevance scores are the given (Q, N) numbers."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    return scores, torch.eye(scores.shape[1], dtype=torch.float64)[:, None, :]


class OnDisk:
    """(N, T, D) images that can only be sliced; `read` has the length of every slice taken."""

    def __init__(self, images):
        self.images, self.shape, self.read = images, tuple(images.shape), []

    def __getitem__(self, block):
        self.read.append(len(self.images[block]))
        return self.images[block]


def project_files() -> list[Path]:
    """Tracked files and those that would be, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
