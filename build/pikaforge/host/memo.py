"""Results that are remembered while a run asks for the same thing many times: once for each of hundreds of cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

Argument = TypeVar("Argument")
Returned = TypeVar("Returned")


def for_last(function: Callable[[Argument], Returned]) -> Callable[[Argument], Returned]:
    """Return a function that remembers its result for the last argument.

    Arguments are compared by identity: a frozen model that has mappings cannot be hashed. Nobody may change the result.
    """
    last: list[tuple[Argument, Returned]] = []

    @wraps(function)
    def remembered(argument: Argument) -> Returned:
        for known, result in last:  # one at most; another thread may put another one in its place
            if known is argument:
                return result
        result = function(argument)
        last[:] = [(argument, result)]
        return result

    return remembered


@lru_cache(maxsize=16)
def library_version(name: str) -> str:
    """Return the version of a Python package that is installed."""
    from importlib.metadata import version  # noqa: PLC0415  # 20 ms, which few verbs need

    return version(name)
