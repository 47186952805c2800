"""One step of a repository from a generation to the next: what is to be done, wherever the repository is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.publish.state import File, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A file that never changes once it is there."""

    file: File
    """Its path below the repository's folder, digest and size."""
    content: Path | bytes
    """Where it is, or what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What makes one generation of a repository out of the one before.

    In this order: additions, then the switch to the pointers (all at once, or one after the other where a server can do
    no more), then the removals. A reader that is at the old pointers finds all that they name until then, and after.
    """

    state: State
    """After the change."""
    kept: tuple[File, ...]
    """What is there already and stays."""
    additions: tuple[Addition, ...]
    pointers: Mapping[str, bytes]
    """Files that change from generation to generation, by path, in the order in which they are to be written where it
    cannot be done at once: what is named comes before what names it."""
    transitional: Mapping[str, bytes] = field(default_factory=dict)
    """Pointers that are written before all others where it cannot be done at once: fit for the old ones and the new."""
    removals: tuple[File, ...] = ()
    """What no kept generation names any more."""

    @property
    def place(self) -> str:
        """The repository's folder below the root."""
        return self.state.place


def file_of(path: str, data: bytes) -> File:
    """What a record says of a file."""
    return File(path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def sums_text(files: Iterable[File]) -> str:
    """A folder's SHA256SUMS, as `sha256sum` writes it."""
    return "".join(
        f"{file.sha256}  {file.path.rpartition('/')[2]}\n" for file in sorted(files, key=lambda file: file.path)
    )
