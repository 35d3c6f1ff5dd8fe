"""Several processes as one: each rank computes its share of the rows, and gathers the others'.

In a single process the functions below return what they are given. In a group, all ranks must call
the same functions in the same order.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

# The longest that a rank waits for another, which may have features to encode. If a rank dies, the
# launcher ends the others at once.
COLLECTIVE_TIMEOUT = timedelta(hours=12)
T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Join the group of processes that `accelerate launch` started, if it started this one.

    They communicate by NCCL on GPUs, one a process, and by gloo on CPUs.

    Raises:
        ValueError: accelerate was launched with --cpu, which starts one process only.
    """
    from accelerate import PartialState  # takes a second to import

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=COLLECTIVE_TIMEOUT)
    if state.num_processes == 1 and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        raise ValueError(
            "accelerate launch --cpu starts one process, whatever --num_processes says; use "
            "--multi_gpu, which starts them all and uses CPUs if there is no GPU"
        )
    yield
    state.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """This process's rank, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this is rank 0, which alone writes the run's files and prints."""
    return rank_and_count()[0] == 0


def wait_for_all() -> None:
    """Return when every rank has called this."""
    if dist.is_initialized():
        dist.barrier()


def as_main_says(answer: bool) -> bool:
    """Rank 0's answer, on every rank."""
    answers = [answer]
    if dist.is_initialized():
        dist.broadcast_object_list(answers)
    return answers[0]


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block on rank 0, and on the other ranks after it."""
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


def share(n: int) -> slice:
    """This rank's rows of n; all n rows if there are fewer rows than ranks."""
    return _share_of(*rank_and_count(), n)


def _share_of(rank: int, count: int, n: int) -> slice:
    """A rank's rows of n; the shares differ by one row at most.

    Example:
        >>> [_share_of(rank, 3, 7) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(n * rank // count, n * (rank + 1) // count) if n >= count else slice(0, n)


def gather_rows(mine: Tensor, n: int) -> Tensor:
    """Gather the rows `share(n)` of every rank, (share, ...), into all n, (n, ...), on every rank.

    If every rank then computes the same loss, `average_gradients` leaves the gradients that one
    process would have.

    Raises:
        ValueError: `mine` does not have the share's number of rows.
    """
    rows = share(n)
    if len(mine) != rows.stop - rows.start:
        raise ValueError(f"{len(mine)} rows, but this rank's share of {n} is {rows}")
    return _GatherRows.apply(mine, n) if _are_shared(n) else mine


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, n: int) -> Tensor:
        ctx.n, count = n, dist.get_world_size()
        sizes = [s.stop - s.start for s in (_share_of(rank, count, n) for rank in range(count))]
        padded = mine.new_zeros(max(sizes), *mine.shape[1:])  # a collective takes equal shapes
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[share(ctx.n)] * rank_and_count()[1], None


def gather_shares(mine: T, n: int) -> list[T]:
    """Gather what each rank made of its share of n rows, in the order of the rows."""
    if not _are_shared(n):
        return [mine]
    parts: list[Any] = [None] * rank_and_count()[1]
    dist.all_gather_object(parts, mine)
    return parts


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the ranks."""
    _, count = rank_and_count()
    if count > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = parameters_to_vector(gradients)
        dist.all_reduce(together)
        vector_to_parameters(together / count, gradients)


def _are_shared(n: int) -> bool:
    """Whether there are several ranks, and at least a row for each."""
    return 1 < rank_and_count()[1] <= n
