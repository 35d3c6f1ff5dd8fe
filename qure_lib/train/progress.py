"""Where an epoch stands: its finished steps, and the generators that an epoch is seeded with."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qure_lib import processes


@dataclass
class Progress:
    """An epoch after some of its steps.

    steps: how many are finished. sums: (3,) float64 over them: loss times queries, finite norms of
    the gradient, and their number. seconds: spent on "mining" and "training". generators: by rank.
    """

    steps: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    seconds: dict[str, float] = field(default_factory=lambda: {"mining": 0.0, "training": 0.0})
    generators: list[dict[str, Any]] = field(default_factory=list)

    def keep_generators(self) -> None:
        """Note the state of all processes' generators."""
        self.generators = processes.gather_shares(random_state(), processes.rank_and_count()[1])

    def restore_generators(self) -> None:
        """Put this process's generators where they were; a rank that was not there is as seeded."""
        if len(self.generators) <= (rank := processes.rank_and_count()[0]):
            return
        state = self.generators[rank]
        random.setstate(state["python"])
        mersenne = state["numpy"]["state"] | {"key": state["numpy"]["state"]["key"].numpy()}
        np.random.set_state(state["numpy"] | {"state": mersenne})
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and "cuda" in state:  # where there is a GPU now and was then
            torch.cuda.set_rng_state(state["cuda"])


def set_seed(seed: int, rank: int = 0) -> torch.Generator:
    """Seed Python, NumPy and torch (dropout), and give a generator of its own for sampling.

    Args:
        rank: of several processes, which draw the same samples and each its own dropout.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed + 10_007 * rank)  # of its 64 bits CPUs use the lower 32
    return torch.Generator().manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all that `set_seed` seeds, in types that a checkpoint holds."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].copy())
    state: dict[str, Any] = {"python": random.getstate(), "numpy": numpy}
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
