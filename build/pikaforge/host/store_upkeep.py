"""Upkeep of a store: sizes of entries, removal of those that were not used for long, and of those that are damaged.

What a running process uses stays (`store_uses`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host.store import RECORD, Store, locked, remove
from pikaforge.host.store_folders import mark_of, of_another, take_away
from pikaforge.host.store_uses import used


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An entry of the store."""

    stage: str
    key: str
    bytes: int
    last_used: float
    """Seconds since 1970: when it was made, or last taken by a build."""

    @property
    def name(self) -> str:
        """`stage/key`."""
        return f"{self.stage}/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What was removed, and what was not because it is in use."""

    removed: tuple[StoredEntry, ...]
    in_use: tuple[StoredEntry, ...]


def entries(root: Path) -> list[StoredEntry]:
    """Return the entries of a store, those first that were not used for the longest time."""
    found = []
    for folder in _folders(root):
        with suppress(OSError):  # somebody removes it
            size = sum(path.lstat().st_size for path in folder.iterdir())
            found.append(
                StoredEntry(stage=folder.parent.name, key=folder.name, bytes=size, last_used=_last_used(folder))
            )
    return sorted(found, key=lambda entry: (entry.last_used, entry.name))


def _folders(root: Path) -> Iterator[Path]:
    for stage in sorted(root.glob("[!.]*")):
        if stage.is_dir():
            yield from (folder for folder in sorted(stage.glob("[!.]*")) if folder.is_dir())


def _last_used(folder: Path) -> float:
    made = next((path for path in (folder / RECORD, folder) if path.exists()), folder).stat().st_mtime
    try:
        return max(made, mark_of(folder).stat().st_mtime)
    except FileNotFoundError:  # nobody has used it since
        return made


def prune(store: Store, *, keep: int | None = None, older: float | None = None) -> Removal:
    """Remove entries, those first that were not used for the longest time.

    Args:
        store: the store.
        keep: bytes that may stay; entries are removed until that is so.
        older: seconds; what was not used for longer is removed.
    """
    known = entries(store.root)
    left, limit = sum(entry.bytes for entry in known), time.time() - older if older is not None else None
    removed, in_use = [], []
    for entry in known:
        too_old = limit is not None and entry.last_used < limit
        if not too_old and (keep is None or left <= keep):
            continue
        if _removed(store, entry, unless=partial(_used_since, entry)):
            removed.append(entry)
            left -= entry.bytes
        else:
            in_use.append(entry)
    return Removal(removed=tuple(removed), in_use=tuple(in_use))


def _used_since(entry: StoredEntry, folder: Path) -> bool:
    return _last_used(folder) > entry.last_used


def _is_whole(store: Store, entry: StoredEntry, _folder: Path) -> bool:
    return store.verified(entry.stage, entry.key)[0] is not None


def damaged(store: Store) -> Iterator[tuple[StoredEntry, str]]:
    """Compare all files with their digests; yield each bad entry with the reason."""
    for entry in entries(store.root):
        _, bad = store.verified(entry.stage, entry.key)
        if bad:
            yield entry, bad


def drop(store: Store, bad: Iterable[StoredEntry]) -> Sequence[StoredEntry]:
    """Remove entries, unless they are in use or whole again; return those that were removed."""
    return [entry for entry in bad if _removed(store, entry, unless=partial(_is_whole, store, entry))]


def _removed(store: Store, entry: StoredEntry, *, unless: Callable[[Path], bool]) -> bool:
    """Remove an entry, unless a running process uses it; return whether it is gone."""
    folder = store.root / entry.stage / entry.key
    with locked(store.root / ".lock"):
        if not folder.is_dir():
            return True
        if entry.name in used(store.root) or unless(folder):
            return False
        if take_away(folder):
            remove(mark_of(folder))
            return True
    raise HostError(
        f"cannot remove {folder}{of_another(folder)}", hint="its owner can, or whoever may write the folder above"
    )
