"""Find the known names that are most like a mistyped word, for hints of errors. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

WORD_LIMIT = 64
KNOWN_LIMIT = 1000
"""Comparing takes the product of the lengths for each name, so what is longer or more is not compared."""


def nearest(word: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most like a word, without regard to capital letters, the best one first.

    Args:
        word: as it was typed.
        known: the names; nothing is returned where there are more than `KNOWN_LIMIT`.
        count: how many names to return at most.
        cutoff: how alike they must be, from 0 to 1, as `difflib.get_close_matches` measures it.
    """
    by_lower = {name.lower(): name for name in known}
    if len(word) > WORD_LIMIT or len(by_lower) > KNOWN_LIMIT:
        return []
    return [by_lower[match] for match in difflib.get_close_matches(word.lower(), by_lower, n=count, cutoff=cutoff)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with up to three names that are like a word; empty if none is."""
    near = nearest(word, known, count=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else ""
