"""What the scan of pieces is given, and what it gives back. Worker processes get and send them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from iced_x86 import Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHit:
    """A feature that is not allowed, in one piece of code. Worker processes send it back."""

    feature: str
    count: int
    """The number of instructions that need it."""
    address: int
    """Virtual address of the first one."""
    code: bytes
    """Bytes of the first one."""
    text: str
    """The first one in AT&T syntax, as objdump shows it."""
    suspect: bool
    """Whether it is among bytes that are most likely data."""


class Given(NamedTuple):
    """What the scan of a chunk needs beside the chunk."""

    allowed: frozenset[str]
    amd: bool
    """Whether CPUs of AMD run the code."""
    quick: bool = False
    """Whether there is so much code that many instructions are decoded at once (`chunk_scan`)."""


@dataclass(slots=True)
class Scanned:
    """The result for one chunk."""

    codes: set[int] = field(default_factory=set)
    """Opcodes that are allowed."""
    found: list[tuple[int, tuple[FeatureHit, ...]]] = field(default_factory=list)
    """The findings in a piece, with the piece's index."""
    detecting: list[int] = field(default_factory=list)
    """Indexes of the pieces that run cpuid or xgetbv."""
    tables: list[int] = field(default_factory=list)
    """Indexes of tables of data that hold what could be an instruction which is not allowed, or that code runs into."""
    mixed: list[tuple[int, int]] = field(default_factory=list)
    """Indexes of gaps that are not code from their start to their end, each with the address at which it begins: the
    last instruction of the piece before may go beyond that piece."""
    outward: array[int] = field(default_factory=lambda: array("Q"))
    """Targets of jumps and calls in other pieces, ascending."""


class Unit(NamedTuple):
    """A piece, or a part of a long one, with its instructions."""

    piece: int
    """Its index."""
    start: int
    """Address of its first instruction."""
    end: int
    raw: bytes
    slack: bytes
    """The bytes that follow it."""
    gap: bool
    instructions: list[Instruction]


class Addresses(Protocol):
    """A set of addresses that grows."""

    def __contains__(self, address: int, /) -> bool: ...

    def add(self, address: int, /) -> None:
        """Add an address."""
