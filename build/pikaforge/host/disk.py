"""Full disks: every one is an error of one kind, with the words "no space left" and the folder.

The system names no file where a write fails, and what was begun is removed before the error is printed, so the disk has
room again by then. `full_disk_errors` is therefore put around whatever writes into a folder, within the block that
removes what was begun.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pikaforge.errors import FullDiskError
from pikaforge.host.text import one_line

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID = re.compile(
    r"no space left on device|disk quota exceeded"
    r"|you don't have enough free space in "
    r"|needs \d+(?:[KMG]?B| inodes)?(?: more (?:space|inodes))? on the \S+ filesystem"
    r"|at least \d+[KMG]?B more space needed on the \S+ filesystem",
    re.IGNORECASE,
)
"""The system's words for these, as programs and engines print them; those of apt, rpm, and dnf, which look before they
write."""
ELSEWHERE = re.compile(r"\s*remote:")
"""Begin of a line in which git repeats what a server says: it is the server's disk."""
LEAST = 1 << 20
"""Bytes of room below which a file system is full. Who cannot write a file removes its beginning, and so makes room."""
HINT = (
    "free space there: `nox -s tool -- cache list` shows results that can be removed\n"
    "or name another folder: --out, --dist, TMPDIR"
)


def is_full(error: BaseException) -> bool:
    """Return whether an error of the system is that of a full disk, or of a quota that is used up."""
    return isinstance(error, OSError) and error.errno in FULL


def has_no_room(folder: Path) -> bool:
    """Return whether the file system of a folder has no room left for this user; False if that cannot be seen."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    return (found.f_blocks > 0 and blocks * found.f_frsize < LEAST) or (found.f_files > 0 and found.f_ffree == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The room that a file system has left for a folder."""

    what: str
    """What the folder is for."""
    folder: Path
    free: int | None
    """Bytes for this user; None if that cannot be seen."""
    device: int = 0
    """Number of the file system: folders on one share its room."""
    writable: bool = True
    """Whether this user may write there, or make the folder."""


def room(what: str, folder: Path) -> Space:
    """Return the room of a folder, which need not exist yet: the first of its parents that does is looked at."""
    for place in (folder, *folder.absolute().parents):
        try:
            found = os.statvfs(place)
            device = place.stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:
            break
        blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        may = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        return Space(what=what, folder=folder, free=blocks * found.f_frsize, device=device, writable=may)
    return Space(what=what, folder=folder, free=None)


def full_disk(error: OSError, *folders: Path) -> FullDiskError:
    """Return the error of a full disk.

    Args:
        error: of the system. If it names a file, that file's folder is meant.
        folders: those that may be meant; the first one is, unless another one has no room and the first one has.
    """
    named = _text(error.filename2 or error.filename)
    if named:
        path = Path(named)
        folder = path if path.is_dir() else path.parent
        folder = lasting(folder)
    else:
        places = [*folders, Path(tempfile.gettempdir())]
        folder = lasting(next(filter(has_no_room, places), places[0]))
        if not folders and not has_no_room(folder):
            return FullDiskError("no space left on the disk", hint=HINT)
    quota = ": the disk quota is used up" if error.errno == errno.EDQUOT else ""
    return FullDiskError(f"no space left in {folder}{quota}", where=named, hint=HINT)


def lasting(folder: Path) -> Path:
    """Return the folder in which a folder is that is removed at the end: such a one has a dot before its name."""
    return next((place for place in (folder, *folder.parents) if not place.name.startswith(".")), folder)


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


@contextmanager
def full_disk_errors(*folders: Path) -> Iterator[None]:
    """Raise FullDiskError for a disk that is full. All other errors pass.

    Args:
        folders: where the block writes; see `full_disk`.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise full_disk(error, *folders) from error


def said_in(lines: Iterable[str]) -> str:
    """Return the last line in which a program says that a disk is full; "" if there is none."""
    found = [line for line in lines if SAID.search(line) and not ELSEWHERE.match(line)]
    return one_line(found[-1].strip())[:300] if found else ""


def who_has_no_room(*folders: Path) -> Path:
    """Return the folder that has no room, by its lasting name; the last one, where a program has made room again."""
    return lasting(next(filter(has_no_room, folders), folders[-1]))


def refuse_full(*folders: Path) -> None:
    """Raise FullDiskError if one of the folders has no room, which a program that failed may not have said."""
    for folder in filter(has_no_room, folders):
        raise FullDiskError(f"no space left in {folder}", hint=HINT)
