"""The seam of sites: where packages are published to.

A member is listed in `config.registry.SITES`. It is a kind of destination, and opens one of two things: a root for
repositories with generations (`Site`), or an index that takes single files (`Index`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from pikaforge.config.registry import SITES, DestinationKind
from pikaforge.config.schema import Destination
from pikaforge.publish.state import File
from pikaforge.publish.transaction import Transaction


class Site(Protocol):
    """Where a root is: a folder, or a server. Paths are relative to the root, with `/`.

    All methods raise PublishError, with the place and what to do, when the site does not do what it is asked.
    """

    where: str
    """For people and errors; without secrets."""
    stepwise: bool
    """Whether readers may see new pointers before all of them are there."""

    def locked(self) -> AbstractContextManager[None]:
        """One publisher at a time; waits for another one, and takes over from one that died.

        What one that died has left half done is finished, or removed, before the block begins.
        """

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        """A file; None if there is none."""

    def fetch(self, file: File, place: str, into: Path) -> None:
        """Copy a file of a repository to `into`, and check its digest."""

    def commit(self, change: Transaction) -> int:
        """Make a change; the number of files that were transferred. Additions that are there already are not."""

    def write(self, path: str, data: bytes) -> bool:
        """Put a file of the root, at once for readers, unless it is there like that; whether it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOutcome:
    """What became of a file that an index was given."""

    name: str
    sha256: str
    done: str
    """`uploaded`, `same` or `would upload`."""


class PackageIndex(ABC):
    """Takes single files and keeps them for ever, such as a Python index."""

    where: str
    """For people and errors; without secrets."""
    format: str
    """Name of the package format that it takes; it refuses all others."""

    @abstractmethod
    def verify(self) -> None:
        """Raise HostError if this machine lacks what an upload needs."""

    @abstractmethod
    def put(self, files: Sequence[tuple[Path, str]], *, yes: bool) -> Sequence[UploadOutcome]:
        """Upload files, each given with its SHA-256, unless they are there.

        Args:
            files: packages of the index's format.
            yes: upload; else only tell what would be.

        Raises:
            PublishError: a name is taken by other bytes (nothing was uploaded then), or an upload failed.
            HostError: this machine lacks what an upload needs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """What a destination is opened with."""

    name: str
    """Of the destination; the names of its variables are made of it."""
    destination: Destination
    base: Path
    """Folder of the configuration file, which paths are relative to."""
    environ: Mapping[str, str]
    """Where credentials are."""
    notice: Callable[[str], None]
    """Gets, in one line without secrets, what the user should know."""


class SiteKind(DestinationKind, Protocol):
    """A kind of destination."""

    title: str
    """For people, with its article: `a directory`."""

    def open(self, opening: SiteOptions) -> tuple[Site | PackageIndex, str]:
        """Return the site or the index, and the URL at which clients find it, without a slash at its end.

        Raises:
            ConfigError: the destination or its credentials cannot be used.
        """


def kind_of(destination: Destination) -> SiteKind:
    """Return the kind of a destination."""
    return cast(SiteKind, SITES.get(destination.kind))
