"""Stretches of a chunk: pieces that lie behind each other, so that their bytes are looked at together."""

from __future__ import annotations

from collections.abc import Iterator
from operator import sub
from typing import NamedTuple

from pikaforge.audit.elf.layout import Buffer
from pikaforge.audit.isa.worker_pool import Chunk


class Stretch(NamedTuple):
    """Pieces of a chunk that lie behind each other, in memory and in the file."""

    first: int
    last: int
    """Index behind the last one, in the chunk."""
    address: int
    raw: bytes


def stretches(chunk: Chunk, data: Buffer, *, beyond: int = 0) -> Iterator[Stretch]:
    """Yield the stretches of a chunk, each with some bytes beyond its end."""
    size = chunk.ends[-1] - chunk.starts[0]
    # The usual case: no piece is apart from the one before.
    if sum(chunk.ends) - sum(chunk.starts) == size and len(set(map(sub, chunk.starts, chunk.offsets))) == 1:
        yield _stretch(chunk, data, 0, len(chunk.starts), beyond)
        return
    first = 0
    for index in range(1, len(chunk.starts) + 1):
        if index < len(chunk.starts):
            size = chunk.ends[index - 1] - chunk.starts[index - 1]
            step = chunk.starts[index] - chunk.starts[index - 1]
            if step == size == chunk.offsets[index] - chunk.offsets[index - 1]:
                continue
        yield _stretch(chunk, data, first, index, beyond)
        first = index


def _stretch(chunk: Chunk, data: Buffer, first: int, last: int, beyond: int) -> Stretch:
    start, at = chunk.starts[first], chunk.offsets[first]
    return Stretch(first, last, start, bytes(data[at : at + chunk.ends[last - 1] - start + beyond]))
