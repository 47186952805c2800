"""How results travel between machines: the shared store, as a farm uses it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from pikaforge.errors import UsageError
from pikaforge.host.store import Result, Store


class Exchange(Protocol):
    """Results by key, between machines. Several threads may call the methods."""

    def record(self, stage: str, key: str) -> Result | None:
        """Return a result without its files; None if there is none that can be taken."""

    def fetch(self, stage: str, key: str, *, into: Store) -> Result | None:
        """Copy a result into a local store; None if there is none that can be taken."""

    def offer(self, result: Result) -> bool:
        """Put a result of the local store there; return whether it is there now."""


class FolderExchange:
    """Results in a folder that all machines see. See `Exchange`."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root)

    def record(self, stage: str, key: str) -> Result | None:
        """Return a result without its files."""
        return self._store.peek(stage, key)

    def fetch(self, stage: str, key: str, *, into: Store) -> Result | None:
        """Copy a result into a local store."""
        found, _ = self._store.get(stage, key)
        return None if found is None else _copied(found, into)

    def offer(self, result: Result) -> bool:
        """Copy a result into the folder."""
        return _copied(result, self._store) is not None


def _copied(result: Result, into: Store) -> Result:
    with into.scratch() as scratch:
        files = {name: scratch / name for name in result.files}
        for name, path in files.items():
            shutil.copyfile(result.files[name], path)
        return into.put(result.stage, result.key, identity=result.identity, facts=result.facts, files=files)


def configured() -> Exchange:
    """Return the shared store of this machine.

    Raises:
        ConfigError: none is configured.
    """
    place = os.environ.get("PIKAFORGE_STORE", "")
    if not place:
        raise UsageError("a farm needs a shared store", where="store", hint="store: in matrix.yaml, or PIKAFORGE_STORE")
    return FolderExchange(Path(place))
