"""Several processes as one: rows shared out over ranks, and put together again on each.

Without a group every function on rows gives back what it is given. Within one, all ranks must call
the same functions in the same order.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

# How long ranks wait for one another: one that finds its share of the features stored waits for
# those that encode theirs. A rank's death is noticed at once, by the launcher.
PATIENCE = timedelta(hours=12)

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that `accelerate launch` started, if it started this one.

    They talk by NCCL where there are GPUs, one a process, and by gloo on CPUs.

    Raises:
        ValueError: several processes were asked for by --cpu, of which accelerate starts one.
    """
    from accelerate import PartialState  # a second to import

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes == 1 and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        raise ValueError(
            "accelerate launch --cpu starts one process, whatever --num_processes says; "
            "--multi_gpu starts them all, and where there is no GPU they use CPUs"
        )
    yield
    state.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """This process's number, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank_and_count()[0] == 0


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def share(n: int) -> slice:
    """The rows of n that are this rank's; all of them where there are fewer rows than ranks.

    Example:
        >>> share(7)
        slice(0, 7, None)
    """
    return _share_of(*rank_and_count(), n)


def _share_of(rank: int, count: int, n: int) -> slice:
    """A rank's rows of n: as many for each rank as can be.

    Example:
        >>> [_share_of(rank, 3, 7) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(n * rank // count, n * (rank + 1) // count) if n >= count else slice(0, n)


def gather_rows(mine: Tensor, n: int) -> Tensor:
    """This rank's share of n rows, (share, ...), -> those of all, (n, ...), on every rank.

    Each rank may compute the same loss of them: then `average_gradients` leaves what one process
    would have.
    """
    return _GatherRows.apply(mine, n) if _are_shared(n) else mine


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, n: int) -> Tensor:
        ctx.n = n
        rank, count = rank_and_count()
        rows = mine.new_empty(n, *mine.shape[1:])
        rows[share(n)] = mine
        for other in range(count if rows.numel() else 0):
            dist.broadcast(rows[_share_of(other, count, n)], src=other)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[share(ctx.n)] * rank_and_count()[1], None


def gather_shares(mine: T, n: int) -> list[T]:
    """What each rank made of its share of n rows, in the order of the rows, on every rank."""
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


def exit_with_parent() -> None:
    """End this process, whatever it does, when the one that started it is gone (killed, say)."""

    def wait_for_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
