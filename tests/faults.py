"""Calls of the system that fail: each change of a folder in turn, once or from then on; or the process is killed there.

Python's audit hooks (PEP 578) see a change before it is made, so an error that the hook raises is one of the system at
that place. No change can be forgotten, whatever the code does. `fsync` and `os.write` are not audited, and are replaced
while a fault is active. What other programs write is not seen.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from power import LASTING

from pikaforge.errors import ForgeError
from pikaforge.host.run_id import RunId

PATHS = {
    "open": 1,
    "os.chmod": 1,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.symlink": 2,
    "os.rename": 2,
    "os.link": 2,
}
"""Changes, and how many of their arguments are paths."""
KILLED = 0
"""In the place of an error's number: the process is killed."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fault:
    """Fails changes below a folder, beginning with one of them."""

    def __init__(self, root: Path, *, at: int, number: int, lasts: bool) -> None:
        self.hits = 0
        self.seen: list[str] = []
        """What was changed, or would have been."""
        self._root = str(root)
        self._at, self._number, self._lasts = at, number, lasts
        self._here = os.getpid()
        self._looking = threading.local()

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Look whether an audited call is to fail."""
        if event not in PATHS or os.getpid() != self._here or getattr(self._looking, "now", False):
            return
        if event == "open":
            flags = arguments[2]
            if isinstance(arguments[0], int) or not (isinstance(flags, int) and flags & WRITES):
                return
        self._looking.now = True
        try:
            paths = [self._whole(arguments, place) for place in range(PATHS[event])]
        finally:
            self._looking.now = False
        below = [path for path in paths if path.startswith(f"{self._root}/")]
        if below:
            self._change(f"{event} {below[-1]}")

    def file(self, name: str, descriptor: int) -> None:
        """Look whether a call with an open file is to fail."""
        self._looking.now = True
        try:
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            path = ""
        finally:
            self._looking.now = False
        if path == self._root or path.startswith(f"{self._root}/"):
            self._change(f"{name} {path}")

    def _whole(self, arguments: tuple[object, ...], place: int) -> str:
        """The path of an argument; with the folder of a descriptor, which comes behind all else."""
        given = arguments[place]
        path = os.fsdecode(given) if isinstance(given, str | bytes | os.PathLike) else ""
        folders = [each for each in arguments[1:] if isinstance(each, int) and each > 2 and _is_folder(each)]
        if path and not path.startswith("/") and folders:
            return f"{Path(f'/proc/self/fd/{folders[-1]}').readlink()}/{path}"
        return path

    def _change(self, what: str) -> None:
        self.seen.append(what)
        place = len(self.seen) - 1
        if place == self._at or (self._lasts and place > self._at >= 0):
            self.hits += 1
            if self._number == KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self._number, os.strerror(self._number))


def _is_folder(descriptor: int) -> bool:
    try:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    except OSError:
        return False


_active: Fault | None = None
_installed = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _active is not None:
        _active.hook(event, arguments)


@contextmanager
def fault(
    root: Path, patch: pytest.MonkeyPatch, *, at: int, number: int = errno.EIO, lasts: bool = False
) -> Iterator[Fault]:
    """Fail one change below a folder while the block runs; without a fault if `at` is negative.

    Args:
        root: the folder.
        patch: replaces functions.
        at: number of the change, from 0.
        number: of the error, or KILLED.
        lasts: whether all later changes fail, too, as on a disk that has become read-only.
    """
    global _active, _installed  # noqa: PLW0603  # an audit hook cannot be taken away
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    found = Fault(root, at=at, number=number, lasts=lasts)

    def watched(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def instead(file: object, *more: object) -> object:
            found.file(name, file if isinstance(file, int) else file.fileno())  # type: ignore[attr-defined]
            return call(file, *more)

        return instead

    with patch.context() as context:
        for name in ("fsync", "fdatasync", "write"):
            context.setattr(os, name, watched(name, getattr(os, name)))
        _active = found
        try:
            yield found
        finally:
            _active = None


def attempt(work: Callable[[], object]) -> Exception | None:
    """Do something; return the error of the system or of the tool with which it fails. No other one is expected."""
    try:
        work()
    except (OSError, ForgeError) as error:
        return error
    return None


class DeathError(Exception):
    """The process of the work was killed."""


def killed(root: Path, patch: pytest.MonkeyPatch, work: Callable[[], object], *, at: int) -> DeathError:
    """Do something in a process of its own, which is killed before a change below a folder; see `fault`."""
    pid = os.fork()
    if pid == 0:
        try:
            with fault(root, patch, at=at, number=KILLED):
                work()
        finally:  # it was not killed
            os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status), f"change {at} was not made"
    return DeathError(f"killed by signal {os.WTERMSIG(status)}")


def started_again(folder: Path) -> None:
    """Give names with this run's id one of before: the run has ended."""
    machine = RunId.current().machine
    for path in sorted(folder.rglob(f"*{machine}*"), key=lambda each: -len(each.parts)):
        before = machine[:LASTING] + "0" * (len(machine) - LASTING)
        path.rename(path.with_name(path.name.replace(machine, before)))
