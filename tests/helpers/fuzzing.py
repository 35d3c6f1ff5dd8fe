"""Fuzzing: how many inputs, how a file is damaged, and what a reader may do with it."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SHARES = 55  # equal shares of the inputs; a property takes one unless it says otherwise
SECONDS = 20  # after which a reader is said to hang
ODD = [None, True, 0, -1, 7, 2**70, 1.5, math.nan, math.inf, "", "a", "\ud800", "../../x", "\0"]
ODD += ["x" * 300, [], {}, [[]], [None], {"a": None}, ["a", "a"]]


class Hangs(BaseException):
    """A reader took more than SECONDS. No OSError: a reader may not turn it into an answer."""


def inputs(shares: float = 1) -> settings:
    """The share of a property: QURE_FUZZ inputs over all properties, the same 400 where not set."""
    total = os.environ.get("QURE_FUZZ")
    return settings(
        max_examples=max(round(int(total or 400) * shares / SHARES), 1),
        derandomize=total is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def named_or_valid(*places: str | Path) -> Iterator[None]:
    """The block gives a result, or a ValueError or OSError that names one of the places."""

    def stop(*_: Any) -> None:
        raise Hangs(f"{places}: more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    except (ValueError, OSError) as error:
        named = any(str(place) in str(error) for place in places)
        assert named, f"none of {places} is named: {error!r}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after one to four flips, cuts, zeros or insertions."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(damaged) - 1, 0)))
        kind = draw(st.sampled_from(["set", "flip", "cut", "remove", "zeros", "insert"]))
        if kind == "cut":
            del damaged[at:]
        elif kind == "remove":
            del damaged[at : at + draw(st.integers(1, 40))]
        elif kind == "zeros":
            end = min(at + draw(st.integers(1, 40)), len(damaged))
            damaged[at:end] = bytes(end - at)
        elif kind == "insert":
            damaged[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif damaged:
            damaged[at] = draw(st.integers(0, 255)) if kind == "set" else damaged[at] ^ 1
    return bytes(damaged)


@st.composite
def damaged_json(draw: st.DrawFn, content: Any) -> Any:
    """The content after one to three values were replaced, removed, doubled or exchanged."""
    top = [deepcopy(content)]
    for _ in range(draw(st.integers(1, 3))):
        holder, key = top, 0
        while isinstance(holder[key], list | dict) and holder[key] and draw(st.integers(0, 4)):
            holder = holder[key]
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = keys[draw(st.integers(0, len(keys) - 1))]
        kind = draw(st.sampled_from(["replace", "remove", "double", "exchange"]))
        if kind == "replace" or holder is top:
            holder[key] = deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "remove":
            del holder[key]
        elif kind == "exchange":
            other = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else [0, -1]))
            holder[key], holder[other] = holder[other], holder[key]
        elif isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        else:
            holder[f"{key}2"] = deepcopy(holder[key])
    return top[0]
