"""What a function does, as a text: it changes where the function's results may change.

A run is found again by it, so that a strategy or an objective that a user registers, edits and
registers again under its name never meets the results of its earlier body.
"""

import functools
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

HOLDERS = (tuple, list, dict, set, frozenset, np.ndarray, torch.Tensor)
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def describe_code(value: Any, seen: tuple[int, ...] = ()) -> str:
    """Body, defaults and closed-over values of a function, and the same of what it uses.

    Of the names outside the function, those of its own module count. A class is told by its name.

    Args:
        value: a function, a partial, a callable object, or a value that one of them holds.
        seen: what is being described, for functions that call one another.
    """
    if id(value) in seen:
        return "(above)"
    if isinstance(value, PLAIN):
        return repr(value)
    parts = [describe_code(part, (*seen, id(value))) for part in _parts(value)]
    if isinstance(value, set | frozenset):
        parts.sort()
    return f"{type(value).__qualname__}({', '.join(parts)})"


def _parts(value: Any) -> list[Any]:
    """What a value consists of."""
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    if isinstance(value, dict):
        return sorted(value.items(), key=lambda item: repr(item[0]))
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, value.co_consts]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells, _globals(value)]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return [str(value.dtype), tuple(value.shape), value.tolist()]
    if hasattr(value, "__wrapped__"):  # functools.lru_cache
        return [value.__wrapped__]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return [getattr(value, "__qualname__", "")]
    return [type(value).__call__ if callable(value) else None, vars(value)]


def _globals(function: FunctionType) -> dict[str, Any]:
    """Functions, constants and arrays of the function's module that it names."""
    used = {name: function.__globals__.get(name) for name in _names(function.__code__)}
    own = {n: v for n, v in used.items() if getattr(v, "__module__", "") == function.__module__}
    return own | {n: v for n, v in used.items() if isinstance(v, (*PLAIN, *HOLDERS))}


def _names(code: CodeType) -> set[str]:
    """Names outside a function that it, or a function within it, may use."""
    within = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_names, within))
