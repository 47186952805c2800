"""The seam of sites: places to which packages are published.

A member is a kind of destination, and is listed in `config.registry.SITES`. It opens one of two things: a root for
repositories with generations (`Site`), or an index that takes single files (`PackageIndex`).
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
    """A root for repositories: a folder, or files on a server. Paths are relative to it, with `/`.

    All methods raise PublishError, with the place and a hint, if they fail.
    """

    where: str
    """The root, as it is shown: without secrets."""
    stepwise: bool
    """Whether readers may see some new pointers while others are still the old ones."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of the root: one publisher at a time.

        It waits for another publisher, and takes over the lock of one that died. What that one has left half done is
        finished or removed before the block begins.
        """

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        """Return a file; None if there is none. A file with more than `limit` bytes is an error."""

    def fetch(self, file: File, place: str, into: Path) -> None:
        """Copy a file of a repository to `into`, and check its digest.

        Args:
            file: which one.
            place: of the repository, relative to the root.
            into: the copy.
        """

    def commit(self, transaction: Transaction) -> int:
        """Make the next generation of a repository, and switch to it.

        Returns:
            The number of files that were transferred. Additions that are there already are not.
        """

    def write(self, path: str, data: bytes) -> bool:
        """Write a file of the root, which readers see whole or not at all; return False if it is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file for an index."""

    path: Path
    sha256: str
    model: str
    image: str
    allocator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOutcome:
    """The outcome of the upload of one file."""

    name: str
    sha256: str
    done: str
    """`uploaded`, `same` or `would upload`."""


class PackageIndex(ABC):
    """An index that takes single files and never replaces one, such as a Python index."""

    where: str
    """The index, as it is shown: without secrets."""
    format: str
    """Name of the only package format that it takes."""

    @abstractmethod
    def verify(self) -> None:
        """Raise HostError if this machine lacks what an upload needs."""

    @abstractmethod
    def put(self, files: Sequence[Upload], *, yes: bool) -> Sequence[UploadOutcome]:
        """Upload files, unless they are there.

        Args:
            files: packages of the index's format.
            yes: upload; else return what would be done.

        Raises:
            PublishError: an index has another file of that name, or would have builds among which its clients cannot
                choose (nothing was uploaded then); or an upload failed.
            HostError: this machine lacks what an upload needs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """Arguments with which a destination is opened."""

    name: str
    """Of the destination. The variables with its credentials are named after it."""
    destination: Destination
    base: Path
    """Folder of the configuration file. Paths are relative to it."""
    environ: Mapping[str, str]
    """Variables, among them those with credentials."""
    notice: Callable[[str], None]
    """Takes messages for the user: one line each, without secrets."""


class SiteKind(DestinationKind, Protocol):
    """A kind of destination."""

    title: str
    """Its name in texts, with the article: `a directory`."""

    def open(self, options: SiteOptions) -> tuple[Site | PackageIndex, str]:
        """Return the site or the index, and the URL at which clients find it, without a slash at its end.

        Raises:
            ConfigError: the destination or its credentials cannot be used.
        """


def kind_of(destination: Destination) -> SiteKind:
    """Return the kind of a destination."""
    return cast(SiteKind, SITES.get(destination.kind))
