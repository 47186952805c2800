"""What the judgement of an area is given, and what it gives back. Worker processes get and send them."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pikaforge.audit.isa.scan_facts import FeatureHit


class AreaGiven(NamedTuple):
    """What the judgement of areas needs beside them."""

    allowed: frozenset[str]
    certain: array[int]
    """Addresses at which certain code begins, ascending."""
    referred: array[int]
    """Addresses that code or pointers name, ascending."""
    needed: int
    """The sum of weights from which on a run is code."""
    referred_needed: int
    """The same for a run from an address that is referred to."""
    running: tuple[tuple[int, int], ...]
    """Ranges of addresses that may be executed."""
    loaded: tuple[tuple[int, int], ...]
    """Ranges of addresses that the file has."""
    formed: tuple[tuple[int, int], ...] = ()
    """Ranges with tables of the loader whose entries all have the form of such: code there is only what something leads
    to."""


@dataclass(slots=True)
class Judged:
    """The result for one area."""

    number: int
    """Its number among the areas of the file."""
    hits: tuple[FeatureHit, ...] = ()
    codes: set[int] = field(default_factory=set)
    """Opcodes that are allowed."""
    decoded: int = 0
    """Bytes of code."""
    data: Counter[str] = field(default_factory=Counter)
    """Bytes of data by evidence; empty for what claims to be data: the claim is the evidence."""
    unclassified: int = 0
    """Bytes of neither."""
    outward: array[int] = field(default_factory=lambda: array("Q"))
    """Addresses outside of the area to which its code leads."""
    taken: array[int] = field(default_factory=lambda: array("Q"))
    """Addresses that its code takes or touches."""
    begun: bytes = b""
    """A byte for each byte of the area, 1 where an instruction begins that is taken for code; compressed."""
