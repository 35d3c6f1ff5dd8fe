"""Arrays as tensors, for the functions that take either."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def as_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Numbers as a tensor; an array's memory is shared where torch can read it as it lies.

    Raises:
        ValueError: they are not real numbers.
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"real numbers are needed, not an array of {array.dtype}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))  # [:, ::-1], or read-only


def as_scores(values: ArrayLike | Tensor) -> Tensor:
    """`as_tensor`, whole numbers as double precision."""
    tensor = as_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.double()


def as_positions(values: ArrayLike | Tensor) -> Tensor:
    """`as_tensor` of whole numbers, positions or ranks, as int64.

    Raises:
        ValueError: they are not whole numbers.
    """
    tensor = as_tensor(values)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"positions and ranks must be whole numbers, not {tensor.dtype}")
    return tensor.long()
