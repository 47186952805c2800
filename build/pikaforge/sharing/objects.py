"""The seam of shared stores: places for objects, which have a path and bytes, and are there whole or not at all.

Members are listed in `config.registry.STORES` by the scheme of their URLs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pikaforge.publish.sites.credentials import Credentials

EXTRA = "store"
"""The extra of this project with Python packages for stores."""
NAME = "store"
"""Of the store among destinations: its credentials are in PIKAFORGE_STORE_USER and so on."""
SLOWEST = 1 << 17
"""Bytes that have to come in a second."""
PATIENCE = 3
"""Times the seconds without an answer, for a request of any size."""


def patience(timeout: float, size: int) -> float:
    """Return the seconds that a whole request may take. A slower store is ended: what it has is sooner made here.

    Args:
        timeout: seconds without an answer.
        size: bytes of the object.
    """
    return PATIENCE * timeout + size / SLOWEST


def size_of(content: Path | bytes) -> int:
    """Return the bytes of what is sent; 0 if it cannot be read, which is found when it is sent."""
    try:
        return content.stat().st_size if isinstance(content, Path) else len(content)
    except OSError:
        return 0


class ObjectError(Exception):
    """An object cannot be read or written. The text is for people, and has no secret."""

    def __init__(self, reason: str, *, ends: bool) -> None:
        super().__init__(reason)
        self.ends = ends
        """Whether the same will happen to every other object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreSettings:
    """Arguments with which a store is opened."""

    url: str
    """With a scheme; of a folder, its absolute path."""
    endpoint: str
    """Of S3: the server; "" for the usual one."""
    timeout: float
    """Seconds without an answer."""
    credentials: Credentials | None
    environ: Mapping[str, str]
    write: bool = True
    """Whether this machine may change anything there, marks of use included."""


class ObjectStore(Protocol):
    """Objects below a URL. Paths have letters, digits, `-`, `_`, `.` and `/`. Several threads may call the methods.

    All raise ObjectError if there is no answer, or not the one that was asked for, and HostError if the run was
    interrupted.
    """

    where: str
    """The place, as it is shown: without secrets."""

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Return an object; None if there is none. One with more than `limit` bytes is an error."""

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Copy an object to a file; return whether there is one. Of one with more than `size` bytes, a part is copied.

        Raises:
            OSError: the file cannot be written.
        """

    def size(self, path: str) -> int | None:
        """Return the bytes of an object; None if there is none, or if that is not known."""

    def write(self, path: str, content: Path | bytes) -> None:
        """Write an object, over another one of that path. Readers see the old one or the new one."""


class ObjectStoreKind(Protocol):
    """A kind of shared store."""

    title: str
    """Its name in texts, with the article: `a folder`."""

    def open(self, settings: ObjectStoreSettings) -> ObjectStore:
        """Return the store. Nothing is asked yet.

        Raises:
            ConfigError: the URL cannot be used.
            HostError: a Python package is missing.
        """
