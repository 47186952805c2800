"""Which entries of a store a running process uses, so that nobody removes them meanwhile.

Each process that uses entries has a file `.uses-<run id>-<random>` in the store, with a line for each entry. It is
removed when the process ends; of a process that was killed, it is removed when somebody finds it. A process adds its
line under the store's lock, and an entry is removed under that lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pikaforge.host.run_id import RunId

BEGIN = ".uses-"


def keys(folder: Path) -> frozenset[str]:
    """Return the keys under which the folder of a stage has entries, good or bad."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  # names are wanted, of thousands
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


class Uses:
    """The entries that this process uses."""

    def __init__(self, root: Path) -> None:
        """Write nothing yet."""
        self._path = root / f"{BEGIN}{RunId.current().text}-{os.urandom(4).hex()}"
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def known(self, stage: str, key: str) -> bool:
        """Return whether an entry is listed already."""
        return (stage, key) in self._known

    def add(self, stage: str, key: str) -> None:
        """List an entry. The caller has the store's lock.

        Raises:
            OSError: the store cannot be written.
        """
        with self._lock:
            if not self._known:
                weakref.finalize(self, _forget, self._path, os.getpid())
            with self._path.open("a", encoding="ascii") as stream:
                stream.write(f"{stage}/{key}\n")
            self._known.add((stage, key))


def _forget(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _files(root: Path) -> Iterator[tuple[Path, RunId]]:
    for path in root.glob(f"{BEGIN}*"):
        made_by = RunId.parse(path.name.removeprefix(BEGIN).rpartition("-")[0])
        if made_by is not None:
            yield path, made_by


def used(root: Path) -> set[str]:
    """Return `stage/key` of the entries that running processes use. The caller has the store's lock."""
    found: set[str] = set()
    for path, made_by in _files(root):
        if not made_by.gone():
            with suppress(OSError):
                found.update(path.read_text(encoding="ascii", errors="replace").splitlines())
    return found


def sweep(root: Path) -> None:
    """Remove the lists of processes that have ended."""
    for path, made_by in _files(root):
        if made_by.gone():
            with suppress(OSError):
                path.unlink(missing_ok=True)
