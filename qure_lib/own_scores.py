"""Hard negatives from the scores of any model."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qure_lib.arrays import as_positions
from qure_lib.method.config import MiningConfig
from qure_lib.method.drops import check_curve
from qure_lib.method.mining import choose
from qure_lib.method.mining_report import MiningReport
from qure_lib.method.ranking import SORTING_BYTES_PER_SCORE, SORTING_CHUNK_BYTES

ARRAYS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1")  # types that a file may hold


def hard_negatives(
    scores: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    *,
    curve: str = "cosine",
    temperature: float | None = None,
    rule: str = "release",
    consecutive_threshold: int = 1,
    search_window: int | None = None,
) -> tuple[list[np.ndarray] | list[Tensor], MiningReport]:
    """Each query's hard negatives, from any model's scores: what lies between its two steep drops.

    Args:
        scores: (Q, N) scores of N images for each query, higher is better, in any order. -inf
            leaves an image out for that query. Half precision is made single. A memory-mapped
            array is read a chunk at a time.
        targets: (Q,) position in the corpus of each query's target.
        curve: "cosine" measures the drops in the scores, as released; "preference" in the
            probability that Bradley-Terry prefers the target.
        temperature: tau, in the unit of the scores; needed for curve "preference": 1 / logit_scale,
            or 1 where the scores are already divided by it. With "cosine" for the report alone.
        rule, consecutive_threshold, search_window: as in `drops.find_steepest_drops`.

    Returns:
        A list of Q arrays (NumPy for NumPy, torch for torch) of corpus positions, best first, empty
        where no pair of drops qualifies: draw that query's negatives from the whole corpus, as the
        release does. And the report: `print` it, or read `summary()` and `per_query`.

    Raises:
        ValueError: shapes that do not fit, no query, one image, a position outside the corpus, NaN
            or +inf, a target that is left out, or a setting out of its range.

    Source: QuRe, arXiv:2507.12416, Eq. 5-7; the preference curve is this kit's (docs/method.md).

    Example:
        >>> scores = np.array([[0.57, 0.95, 0.90, 0.20, 0.89, 0.60, 0.58]])
        >>> sets, report = hard_negatives(scores, np.array([1]))
        >>> sets[0].tolist()
        [5, 6, 0]
    """
    config = MiningConfig(
        drop_rule=rule,
        consecutive_threshold=consecutive_threshold,
        search_window=search_window,
        curve=curve,
        temperature=temperature,
    )
    check_curve(curve, temperature)
    found, frames, moments = [], [], np.zeros((2, 1))
    for part, positions in chunks(scores, targets):
        chosen, described, sums = choose(part, positions, config)
        found += chosen.split(described.set_size.tolist())
        frames.append(described)
        moments = moments + sums
    as_given = isinstance(scores, Tensor)
    sets = [chosen if as_given else chosen.numpy() for chosen in found]
    return sets, MiningReport.from_moments(config, pd.concat(frames), moments)


def open_array(path: Path) -> np.ndarray:
    """Memory-map a file of scores or target positions.

    Raises:
        ValueError: missing, damaged, or not one array of numbers; the message names the file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype not in ARRAYS or not array.ndim:
            raise ValueError(f"of type {getattr(array, 'dtype', 'archive')}")
    except Exception as error:  # decoders raise errors of any type on damaged files
        remedy = "write it with np.save, as float32 or int64"
        raise ValueError(f"{path} holds no array of numbers ({error}); {remedy}") from error
    return array


def chunks(
    scores: np.ndarray | Tensor, targets: np.ndarray | Tensor, queries: np.ndarray | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(q, N) scores and (q,) target positions, a copied chunk of queries at a time.

    Half precision is made single, with a warning at the end if it made scores equal.

    Args:
        queries: which rows to take, in this order; None takes all.

    Raises:
        ValueError: see `hard_negatives`.
    """
    positions = _check_arrays(scores, targets)
    step = max(SORTING_CHUNK_BYTES // (scores.shape[1] * SORTING_BYTES_PER_SCORE), 1)
    taken, tied = np.arange(len(scores)) if queries is None else queries, 0
    for first in range(0, len(taken), step):
        numbers = taken[first : first + step]
        rows = scores[numbers]
        part = rows.detach() if isinstance(rows, Tensor) else torch.tensor(np.asarray(rows))
        half = part.dtype in (torch.float16, torch.bfloat16)
        part = part.float() if half else part if part.is_floating_point() else part.double()
        chosen = positions[numbers].to(part.device, torch.int64)
        _check_scores(part, chosen, numbers)
        yield part, chosen
        if half:
            tied += int((part.sort(dim=1).values.diff(dim=1) == 0).any(dim=1).sum())
    if tied:
        warnings.warn(
            f"{tied} of {len(taken)} queries have equal scores, as half precision makes them; the "
            "sets may differ from those of single precision, which keeps such images apart",
            stacklevel=3,  # of who called whoever reads the chunks
        )


def _check_arrays(scores: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> Tensor:
    """Refuse what is not (Q, N) scores with (Q,) positions; return the positions as a tensor."""
    for name, given in (("scores", scores), ("targets", targets)):
        if not isinstance(given, np.ndarray | Tensor):
            raise ValueError(f"{name} must be an array or a tensor, not a {type(given).__name__}")
        if "complex" in str(given.dtype):
            raise ValueError(f"{name} must be real numbers, not {given.dtype}")
    positions = as_positions(targets)
    shape = tuple(scores.shape)
    if len(shape) != 2 or not shape[0] or shape[1] < 2 or positions.shape != shape[:1]:
        raise ValueError(
            f"scores {shape} must be (Q, N) with at least one query and two images, and targets "
            f"{tuple(positions.shape)} (Q,)"
        )
    if (outside := (positions < 0) | (positions >= shape[1])).any():
        query = int(outside.nonzero()[0])
        raise ValueError(
            f"query {query}: its target {int(positions[query])} is not one of {shape[1]} images"
        )
    return positions


def _check_scores(scores: Tensor, targets: Tensor, queries: np.ndarray) -> None:
    if (wrong := scores.isnan() | (scores == torch.inf)).any():
        query, image = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"query {queries[query]}, image {image}: the score is {scores[query, image]}; only "
            "finite scores can be ranked (-inf leaves an image out)"
        )
    if (out := scores.gather(1, targets[:, None])[:, 0] == -torch.inf).any():
        query = int(out.nonzero()[0])
        raise ValueError(f"query {queries[query]}: its target scores -inf, which leaves it out")
