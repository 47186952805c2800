"""The transaction that takes a repository from one generation to the next, on any kind of site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.publish.state import File, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A file that is added, and never changed afterwards."""

    file: File
    """Its path below the repository's folder, digest and size."""
    content: Path | bytes
    """Its path on this machine, or its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The changes of files from one generation to the next.

    The order is: additions, then the switch to the new pointers (all at once, or one after the other where a server
    can do no more), then removals. A reader that has the old pointers finds all files that they name, before the
    switch and after it.
    """

    state: State
    """After the transaction."""
    kept: tuple[File, ...]
    """Files that are there already, and stay."""
    additions: tuple[Addition, ...]
    pointers: Mapping[str, bytes]
    """Files that change from generation to generation, by path. The order is that in which they are written if the site
    cannot switch them at once: a file comes before those that name it."""
    transitional: Mapping[str, bytes] = field(default_factory=dict)
    """Pointers that are written before all others if the site cannot switch at once. They fit the old pointers and the
    new ones."""
    removals: tuple[File, ...] = ()
    """Files that no kept generation names any more."""

    @property
    def place(self) -> str:
        """Return the repository's folder below the root."""
        return self.state.place


def file_of(path: str, data: bytes) -> File:
    """Return the record of a file."""
    return File(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
