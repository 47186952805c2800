"""Folders of a store that several users may have: whose an entry is, how one is taken out of the way, and what is left.

A group may share a store. What one of its users has made, another one need not be able to remove. A folder can still
be renamed by whoever may write the folder that it is in, and then its owner's next run removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host.run_id import RunId

NEW = ".new-"
"""Begin of the name of an entry that is being written or removed. The run id comes behind it."""

USED = ".used-"
"""Begin of the name of an entry's mark; see `mark_of`."""


def mark_of(entry: Path) -> Path:
    """Return the file whose time is that of the last use of an entry. The entry itself never changes."""
    return entry.parent.with_name(f"{USED}{entry.parent.name}-{entry.name}")


def owner(path: Path) -> str:
    """Return the name of the user whose a path is, or the number of one without a name; "" if it cannot be seen."""
    try:
        uid = path.lstat().st_uid
    except OSError:
        return ""
    import pwd  # noqa: PLC0415  # nobody but a second user asks

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def of_another(path: Path) -> str:
    """Return " (of NAME)" for what is another user's, else ""."""
    try:
        return "" if path.lstat().st_uid == os.geteuid() else f" (of {owner(path)})"
    except OSError:
        return ""


def refuse_unwritable(*folders: Path) -> None:
    """Refuse folders that cannot be written, and what is in the place of one: better before hours of work than after.

    Raises:
        HostError: it says which, and whose it is.
    """
    for folder in folders:
        if not folder.is_dir() and os.path.lexists(folder):
            what = "a link that leads to no folder" if folder.is_symlink() else "not a folder"
            raise HostError(f"{folder} is {what}", hint="move it away, or name another folder: --out, --dist")
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise HostError(
                f"{folder} cannot be written{of_another(folder)}",
                hint="--out and --dist name others; or its owner lets a group share it (docs/survival.md)",
            )


class OwnPlaces:
    """Places of a user's own, for results whose places have what is bad, and another user's."""

    def __init__(self, root: Path) -> None:
        """Look at nothing yet."""
        self._root = root
        self._wanted: set[tuple[str, str]] = set()
        self._there: dict[str, bool] = {}

    def of(self, stage: str, key: str) -> Path | None:
        """Return the place of a result, if it has one. Most stages have none, which is looked at once."""
        folder = self._root / f"{stage}~{os.geteuid()}"
        if (stage, key) in self._wanted:
            return folder / key
        if stage not in self._there:
            self._there[stage] = folder.is_dir()
        return folder / key if self._there[stage] and (folder / key).is_dir() else None

    def want(self, stage: str, key: str) -> None:
        """Give a result a place."""
        self._wanted.add((stage, key))


def take_away(entry: Path) -> bool:
    """Remove an entry; return whether its name is free. Of another user's, there may be something left; see `sweep`."""
    if not os.path.lexists(entry):
        return True
    beside = entry.with_name(f"{NEW}{RunId.current().text}-{os.urandom(8).hex()}")
    try:
        entry.rename(beside)
    except OSError:
        return False
    _remove(beside)
    return True


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sweep(root: Path) -> int:
    """Remove what runs that have ended have left of entries; return how many are gone."""
    removed = 0
    for path in _left(root):
        made_by = RunId.parse("-".join(path.name.split("-")[1:4]))
        if made_by is not None and made_by.gone():
            _remove(path)
            removed += not os.path.lexists(path)  # what is another user's stays for that user
    return removed


def _left(root: Path) -> Iterator[Path]:
    for folder in (root, *root.glob("[!.]*")):
        yield from folder.glob(f"{NEW}*")
