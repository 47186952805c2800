"""Temporary folders, and the ones that killed runs have left. The next run of any verb removes these.

A folder outside of `out/` has a short name, because a socket's path may lie in it (at most 107 bytes, unix(7)). Beside
it is a file of the same name with `.run` at its end, which says whose it is.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pikaforge.errors import HostError
from pikaforge.host.run_id import RunId
from pikaforge.host.store import remove

START, MARK = "pikaforge-", ".run"
LIMIT = 100
"""Bytes of a mark; the text of a run id has 50 at most."""
_RUN = re.compile(r"[.-]([0-9a-f]{16}-\d+-\d+)(?:-[^-]+)?$")
"""The run id at the end of a name; there may be random letters behind it."""


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Make a folder for temporary files, mode 0700; it is removed when the block is left.

    Raises:
        HostError: it cannot be made.
    """
    sweep_temporary()
    try:
        descriptor, mark = tempfile.mkstemp(prefix=f"{START}{purpose}-", suffix=MARK)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(RunId.current().text)
        folder = Path(mark.removesuffix(MARK))
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise HostError(
            f"cannot make a folder for temporary files in {tempfile.gettempdir()}: {error.strerror}",
            hint="free space there, or set TMPDIR to another folder",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(mark).unlink(missing_ok=True)


def _own(path: Path, kind: int) -> bool:
    """Return whether a path is of this user and of a kind (stat.S_IFREG, S_IFDIR). A link is of neither."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid()


def sweep_temporary() -> int:
    """Remove temporary folders of runs that have ended; return how many those were."""
    removed = 0
    for mark in Path(tempfile.gettempdir()).glob(f"{START}*{MARK}"):
        if not _own(mark, stat.S_IFREG):
            continue
        with suppress(OSError, UnicodeDecodeError):
            with mark.open(encoding="ascii") as stream:
                made_by = RunId.parse(stream.read(LIMIT))
            if made_by is None or not made_by.gone():
                continue
            folder = mark.with_name(mark.name.removesuffix(MARK))
            if _own(folder, stat.S_IFDIR):
                shutil.rmtree(folder)
            mark.unlink()
            removed += 1
    return removed


def sweep(folder: Path) -> int:
    """Remove what runs that have ended have made in a folder, and named by their run id; return how much that was."""
    removed = 0
    for path in folder.glob(".*"):
        found = _RUN.search(path.name)
        made_by = RunId.parse(found[1]) if found else None
        if made_by is not None and made_by.gone():
            with suppress(HostError):
                remove(path)
                removed += 1
    return removed
