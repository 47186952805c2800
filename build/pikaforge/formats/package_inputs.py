"""What packages are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorInputs:
    """An allocator that was built for the target, for packages of its own."""

    version: str
    unwinder: str
    """How it was asked to walk the stack; empty where that is no question."""
    epoch: int
    """Date of its source in seconds since 1970."""
    needs: Mapping[str, Sequence[str]]
    """Symbol versions that its libraries need of others, by soname of those."""
    prefix: Path
    """Its tree as a tar archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageInputs:
    """The product's tree, and the facts of it that packages hold."""

    epoch: int
    """SOURCE_DATE_EPOCH: date of the source in seconds since 1970."""
    tree: Path
    """The tree as a tar archive."""
    debug: Path
    """Its debug information as a tar archive, `PATH.debug` for each file."""
    build_ids: Mapping[str, str]
    """Build id of each ELF file, by path in the tree; empty where it has none."""
    library_versions: Mapping[str, Sequence[str]]
    """Symbol versions that the tree needs of the host's libraries, by soname."""
    allocator: AllocatorInputs | None = None
    """None where none was built."""
