"""A function's description changes where its results may, and nowhere else."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from qure_lib.code_in_use import describe_code


def made_of(source: str, **names):
    """A function `f`, as a script or a notebook cell would define it."""
    names["__name__"] = "script"
    exec(source, names)
    return names["f"]


SOURCE = """
SCALE = 2
KNOWN = ("a", "b")
def helper(x):
    return x * SCALE
def f(x, shift=1, *, power=2):
    # a remark
    inner = lambda y: y + 3
    return helper(inner(x)) ** power + shift
"""


def test_the_same_code_is_described_alike():
    again = SOURCE.replace("# a remark", "# another remark")
    assert describe_code(made_of(SOURCE)) == describe_code(made_of(again))


@pytest.mark.parametrize(
    "old, new",
    [
        ("helper(inner(x))", "inner(helper(x))"),
        ("y + 3", "y + 4"),  # a function within
        ("shift=1", "shift=0"),  # a default
        ("power=2", "power=3"),  # a keyword's
        ("x * SCALE", "x + SCALE"),  # a function that it calls
        ("SCALE = 2", "SCALE = 3"),  # a constant that this one reads
    ],
)
def test_a_change_is_seen(old, new):
    assert describe_code(made_of(SOURCE)) != describe_code(made_of(SOURCE.replace(old, new)))


def test_values_that_a_function_closes_over_are_seen():
    def make(k):
        return lambda x: x + k

    assert describe_code(make(1)) != describe_code(make(2))
    assert describe_code(make(1)) == describe_code(make(1))


def test_partials_and_callable_objects_are_seen():
    def add(a, b):
        return a + b

    class Add:
        def __init__(self, by):
            self.by = by

        def __call__(self, a):
            return a + self.by

    for make in (lambda k: functools.partial(add, b=k), Add):
        assert describe_code(make(1)) != describe_code(make(2))
        assert describe_code(make(1)) == describe_code(make(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda k: torch.full((2,), k),
        lambda k: np.full(2, k),
        lambda k: np.int64(k),
        lambda k: {"weights": [k, {k}]},
        lambda k: functools.lru_cache(functools.partial(pow, k)),
        lambda k: Counted(k).add,
        lambda k: Counted(k),
    ],
)
def test_whatever_a_function_closes_over_is_described(make):
    def closing(held):
        return torch.no_grad()(lambda x: (x, held))

    one, same, other = (describe_code(closing(make(k))) for k in (1, 1, 2))
    assert one == same != other


class Counted:
    def __init__(self, k):
        self.k = k

    def add(self, x):
        return x + self.k


@pytest.mark.parametrize("value", [len, print, "x".join, Counted, object(), None])
def test_anything_can_be_described(value):
    assert isinstance(describe_code(value), str)


def test_a_table_of_the_functions_module_is_seen():
    source = "TABLE = {'a': [1, 2]}\ndef f(x):\n    return TABLE[x]\n"
    assert describe_code(made_of(source)) != describe_code(made_of(source.replace("2", "3")))


def test_functions_that_call_one_another_end():
    source = "def f(x):\n    return g(x - 1) if x else 0\ndef g(x):\n    return f(x - {})\n"
    one, two = (describe_code(made_of(source.format(step))) for step in (1, 2))
    assert one != two


def test_the_description_is_the_same_in_every_process():
    code = (
        "from qure_lib.code_in_use import describe_code\n"
        "def f(x):\n    return x in {'a', 'b', 'c', 'd'}\n"
        "print(hash(describe_code(f)) if False else describe_code(f))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=e
        ).stdout
        for e in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert len(said) == 1 and said != {""}
