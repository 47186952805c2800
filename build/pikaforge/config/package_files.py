"""Find the format of a package file by its name, and read the members of packages and plain archives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.config.registry import FORMATS
from pikaforge.host import archive_kinds, archives

if TYPE_CHECKING:
    from pikaforge.config.registry import PackageReader
    from pikaforge.host.archives import Member


def format_of(path: Path) -> PackageReader | None:
    """Return the format that a file's name belongs to, by the longest suffix; None if there is none."""
    name = path.name.lower()
    fitting = {suffix: kind for kind in FORMATS.all() for suffix in kind.suffixes if name.endswith(suffix)}
    return fitting[max(fitting, key=len)] if fitting else None


def suffixes() -> tuple[str, ...]:
    """Return the ends of the names of all packages and archives that can be read."""
    return tuple(dict.fromkeys((*(s for kind in FORMATS.all() for s in kind.suffixes), *archives.ARCHIVE_SUFFIXES)))


def is_package(path: Path) -> bool:
    """Return whether a file's name says that it is a package or an archive."""
    return path.name.lower().endswith(suffixes())


def copies(path: Path) -> Mapping[str, str]:
    """Return the members of a package that stand for links, as `PackageReader.copies`."""
    kind = format_of(path)
    return {} if kind is None else kind.copies(path)


def members(path: Path) -> Iterator[Member]:
    """Return the files and links of a package or archive; what has no known name is read as a tar archive.

    Raises:
        AuditError: it is of another kind than its name says, is compressed by a method that cannot be read here, is
            truncated or corrupt, or has more members than a package may have.
    """
    kind = format_of(path)
    return archives.bounded(archive_kinds.members(path) if kind is None else kind.members(path), str(path))


def wrapping(path: Path) -> Iterator[Member]:
    """Return what a package file has beside the files that it installs, as `PackageReader.wrapping`."""
    kind = format_of(path)
    return iter(()) if kind is None else archives.bounded(kind.wrapping(path), str(path))


def contained(path: Path, name: str, start: bytes) -> Iterator[Member]:
    """Return the members of a package or archive that was found within another one, by its first bytes.

    Args:
        path: where its bytes are.
        name: its own name, for errors.
        start: its first bytes, which `is_container` takes for those of one.

    Raises:
        AuditError: it is compressed by a method that cannot be read here, is truncated or corrupt, or has more members
            than a package may have.
    """
    kind, archive = _format_by_start(start), archive_kinds.kind_of(start)
    if kind is not None:
        return archives.bounded(chain(kind.wrapping(path), kind.members(path)), name)
    return archives.bounded(archive_kinds.members_of(archive, path, name) if archive else (), name)


def is_container(start: bytes) -> bool:
    """Return whether a file is a package or archive that can be read, by its first `archive_kinds.START` bytes."""
    return archive_kinds.kind_of(start) is not None or _format_by_start(start) is not None


def _format_by_start(start: bytes) -> PackageReader | None:
    return next((kind for kind in FORMATS.all() if kind.start and start.startswith(kind.start)), None)
