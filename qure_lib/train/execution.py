"""How a run is executed: nothing here changes what it computes, beyond rounding."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qure_lib import processes
from qure_lib.features.reading import PLACES
from qure_lib.method.model import QuReModel

# Steps from which compiling pays: it takes 80 to 100 s once, and a step of batch 32 at the
# published size then takes 20 ms in the place of 100 (measured on an H200).
COMPILED_FROM = 1000
PROVEN = 4  # steps after which graphs have been recorded and replayed


@dataclass(frozen=True)
class Execution:
    """How `train` runs. A run may be continued under another one, or on another device.

    on_epoch: called with each finished epoch's row of the history.

    Raises:
        ValueError: an unknown place of the features, or a negative time.
    """

    features: str = field(
        default="auto", metadata={"help": "auto, card (the GPU's memory) or host"}
    )
    compile: bool | None = field(
        default=None, metadata={"help": f"the step; None: on a GPU from {COMPILED_FROM} steps on"}
    )
    checkpoint_minutes: float = field(
        default=10.0, metadata={"help": "between checkpoints within an epoch; one is at its end"}
    )
    on_epoch: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        if not self.checkpoint_minutes >= 0:
            raise ValueError(f"checkpoint_minutes must be 0 or more, not {self.checkpoint_minutes}")
        if self.features not in PLACES:
            raise ValueError(f"features must be one of {PLACES}, not {self.features!r}")

    def compiles(self, device: torch.device, steps: int) -> bool:
        """Whether so many steps on this device are worth a compilation."""
        chosen = device.type == "cuda" and steps >= COMPILED_FROM
        return chosen if self.compile is None else self.compile


class Encoder:
    """Embeddings of a training batch: the model's own calls, compiled for static shapes or not.

    Compiled, a step's kernels are one CUDA graph, and the CPU no longer has to launch each of them.
    It needs batches of equal size with captions of equal length; others run as they are.
    """

    def __init__(self, model: QuReModel, compiled: bool) -> None:
        def encode(references: Tensor, ids: Tensor, mask: Tensor, images: Tensor) -> Any:
            return model.encode_query(references, ids, mask), model.encode_image(images)

        self.plain, self.is_compiled = encode, compiled
        self.compiled: Callable[..., Any] | None = None
        self.shape: torch.Size | None = None  # of the last compiled batch's images
        self.steps: Counter[torch.Size | None] = Counter()  # that have run, by shape

    def __call__(self, static: bool, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) queries and (I, T, D) images.

        Args:
            static: whether the batch has the size that all but an epoch's last one have.
            batch: (B, P, C) references, (B, L) input_ids and mask, (I, P, C) images.
        """
        if not (static and self.is_compiled):
            return self.plain(*batch)
        if self.compiled is None:
            self.compiled = torch.compile(self.plain, mode="reduce-overhead", dynamic=False)
        self.shape = batch[-1].shape
        torch.compiler.cudagraph_mark_step_begin()
        return self.compiled(*batch)

    def attempt(self, step: Callable[[], Tensor]) -> Tensor:
        """A step's forward and backward pass; once more as it is where a compiled one fails.

        Raises:
            ValueError: it fails in one of several processes, of which the others go on.
        """
        if not self.is_compiled:
            return step()
        try:
            loss = step()
            self.steps[self.shape] += 1
            return loss
        except Exception as error:  # compilers, drivers and graphs fail in many ways
            if self.shape is None or self.steps[self.shape] >= PROVEN:
                raise
            reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
            reason = f"compiling the training step failed ({reason})"
            if processes.rank_and_count()[1] > 1:
                raise ValueError(f"{reason}; run all processes with --no-compile") from error
        tqdm.write(
            f"WARNING: {reason}; it runs as it is, several times slower on a GPU. --no-compile "
            "says so from the start"
        )
        self.is_compiled = False
        return step()  # outside the handler, which would keep the failed step's memory
