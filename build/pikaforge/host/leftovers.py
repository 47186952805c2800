"""Temporary folders, and the ones that killed runs have left. The next run of any verb removes these.

A folder outside of `out/` has a short name, because a socket's path may lie in it (at most 107 bytes, unix(7)). Beside
it is a file of the same name with `.run` at its end, which says whose it is. What is made inside of a folder of ours
has the run id in its name.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pikaforge.errors import EngineError, FullDiskError, HostError
from pikaforge.host import ended_runs
from pikaforge.host.disk import full_disk_errors, refuse_full
from pikaforge.host.ended_runs import MARK, START
from pikaforge.host.run_id import RunId
from pikaforge.host.store import remove

PLACES = ("/tmp", "/var/tmp")  # noqa: S108  # only looked at, where Python has found none
RUNTIME = "XDG_RUNTIME_DIR"
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
"""Folders with short paths, where that of temporary files (TMPDIR) has one that is too long."""


def places() -> tuple[str, ...]:
    """Return the folders in which temporary folders may be, the first choice first."""
    try:
        first = tempfile.gettempdir()
    except FileNotFoundError:  # none can be written; who needs one says so
        first = ""
    places = (first, os.environ.get(RUNTIME, ""), *SHORT)
    return tuple(dict.fromkeys(place for place in places if place.startswith("/")))


@contextmanager
def temporary_folder(purpose: str, *, longest: int | None = None) -> Iterator[Path]:
    """Make a folder for temporary files, mode 0700; it is removed when the block is left.

    Args:
        purpose: a word of its name.
        longest: bytes that its path may have, without links. If that in TMPDIR has more, the folder is made elsewhere.

    Raises:
        HostError: it cannot be made.
    """
    sweep_temporary()
    folder = _made(purpose) if longest is None else _made_short(purpose, longest)
    try:
        with full_disk_errors(folder.parent):
            yield folder
    finally:
        _drop(folder)


def _made(purpose: str, place: str | None = None) -> Path:
    """Make a folder with its mark, in TMPDIR or another place."""
    where = Path(place) if place else _place()
    try:
        with full_disk_errors(where):
            descriptor, mark = tempfile.mkstemp(prefix=f"{START}{purpose}-", suffix=MARK, dir=place)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(RunId.current().text)
            folder = Path(mark.removesuffix(MARK))
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise EngineError(
            f"cannot make a folder for temporary files in {where}: {error.strerror}",
            hint="set TMPDIR to another folder",
        ) from error
    return folder


def _made_short(purpose: str, longest: int) -> Path:
    """Make a folder whose path has at most so many bytes, in the first place that allows it."""
    full: FullDiskError | None = None
    for place in places():
        try:
            folder = _made(purpose, str(Path(place).resolve()))
        except HostError:
            continue
        except FullDiskError as error:
            full = full or error
            continue
        if len(os.fsencode(folder)) <= longest:
            return folder
        _drop(folder)
    if full is not None:
        raise full
    raise EngineError(
        f"there is no folder for {purpose}: paths have more than {longest} bytes, or cannot be written",
        where=", ".join(places()),
        hint="set TMPDIR to a folder with a short path",
    )


def _drop(folder: Path) -> None:
    """Remove a folder with its mark."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(folder.name + MARK).unlink(missing_ok=True)


def _place() -> Path:
    """Return the folder for temporary files. Python takes another one than TMPDIR, silently, if it cannot write there.

    Raises:
        FullDiskError: there is no room.
        HostError: there is no such folder.
    """
    named = os.environ.get("TMPDIR", "")
    refuse_full(*([Path(named)] if named else []))
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        refuse_full(*map(Path, PLACES))
        raise EngineError(
            f"there is no folder for temporary files: neither TMPDIR nor {', '.join(PLACES)} can be written",
            hint="set TMPDIR to a folder that can",
        ) from error


def sweep_temporary() -> int:
    """Remove temporary folders of runs that have ended; return how many those were."""
    removed = 0
    for mark in map(Path, ended_runs.marks_left(places())):
        with suppress(OSError):
            folder = mark.with_name(mark.name.removesuffix(MARK))
            if ended_runs.own(folder, stat.S_IFDIR):
                shutil.rmtree(folder)
            mark.unlink()
            removed += 1
    return removed


def sweep(folder: Path) -> int:
    """Remove what runs that have ended have made in a folder, and named by their run id; return how much that was."""
    removed = 0
    for name in ended_runs.left(str(folder)):
        with suppress(HostError):
            remove(folder / name)
            removed += 1
    return removed
