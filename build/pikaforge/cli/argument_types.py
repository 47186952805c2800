"""Types of arguments: each takes the text of an argument, and raises ArgumentTypeError if that is none of its kind."""

from __future__ import annotations

import argparse
import re

from pikaforge.config.registry import FORMATS

AMOUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
"""What letters behind a number mean."""
MOST = 10**12
UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
"""Bits of what letters behind a size of memory mean."""
LEAST_MEMORY, MOST_MEMORY = 256 << 20, 1024 << 40


def count(text: str) -> int:
    """Return a number from 1 to 1024."""
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return value


def amount(text: str) -> int:
    """Return a number such as 500M."""
    found = re.fullmatch("([0-9]{1,12})([KMG]?)", text)
    value = int(found[1]) * AMOUNTS[found[2]] if found else 0
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number from 1 to {MOST // AMOUNTS['G']}G: digits, with K, M or G behind them if you like"
        )
    return value


class MemorySize(int):
    """Bytes, as the user writes them: its text is the number in the largest unit that divides it."""

    def __str__(self) -> str:
        for unit, shift in reversed(UNITS.items()):
            if not self % (1 << shift):
                return f"{self >> shift}{unit}"
        return super().__repr__()


def memory_size(text: str) -> MemorySize:
    """Return a size of memory such as 6G, in bytes."""
    found = re.fullmatch("([0-9]{1,12})([KMGT])", text)
    value = int(found[1]) << UNITS[found[2]] if found else 0
    if not LEAST_MEMORY <= value <= MOST_MEMORY:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size of memory from 256M to {MOST_MEMORY >> UNITS['T']}T: a number and M, G or T"
        )
    return MemorySize(value)


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    value = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text) else -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return value


def format_list(text: str) -> tuple[str, ...]:
    """Return names of formats, which commas separate."""
    names = tuple(dict.fromkeys(text.split(",")))
    if not all(name in FORMATS.names for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of formats: {','.join(FORMATS.names)}")
    return names
