"""What this process reads, by Python's audit events: files, folders, sockets, programs.

A build with nothing to do keeps its answer together with all that it has looked at (`cli.unchanged`). Whoever reads a
file need not say so: Python reports each one. What it cannot see through (a program, a connection) makes a doubt,
unless the caller knows what the program reads (`covered`). Doubts mean that no answer is kept.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = frozenset(
    {"subprocess.Popen", "os.posix_spawn", "os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "pty.spawn"}
)
IMPORTS = "<frozen "
"""Begin of the file names of Python's own machinery of imports. Modules are looked at as modules."""
METADATA = "importlib/metadata/"
CACHES = "__pycache__"
OF_PROCESSES = ("/proc/", "/sys/", "/dev/")
"""Places without files that stay: what is read there is a doubt, unless it is known."""
KNOWN = ("/proc/cpuinfo", "/proc/sys/kernel/random/boot_id", "/proc/self/", "/dev/null", "/dev/tty")
"""What is known of these: CPU flags are compared by themselves, and run ids differ from run to run."""


class Reads:
    """What a process has looked at since a moment. Calls come from several threads."""

    def __init__(self, after: Reads | None = None) -> None:
        self.began = time.time_ns()
        self.after = after
        """What this process has looked at before: it may remember some of that, and not look at it again."""
        self.cwd = os.getcwd()  # noqa: PTH109
        self.files: dict[str, bool] = {}
        """Absolute paths of files that were opened to be read, with whether they were there."""
        self.folders: set[str] = set()
        """Absolute paths of folders that were listed."""
        self.doubts: list[str] = []
        """What was done whose inputs are not known."""
        self.asked: dict[str, tuple[int, tuple[str, ...], str]] = {}
        """Of each question to the engine: status, fields that were read, and a digest of their values."""
        self.address = ""
        """Of the engine that was asked."""

    def read(self, path: str) -> None:
        """Take note of a file."""
        path = os.path.join(self.cwd, path)  # noqa: PTH118
        if path.startswith(OF_PROCESSES):
            if not path.startswith(KNOWN) and not _is_process(path):
                self.doubts.append(f"reads {path}")
        elif path not in self.files and CACHES not in path:
            self.files[path] = os.path.lexists(path)

    def listed(self, path: str) -> None:
        """Take note of a folder whose list of names counts."""
        if CACHES not in path:
            self.folders.add(os.path.join(self.cwd, path))  # noqa: PTH118


def _is_process(path: str) -> bool:
    """Return whether a path is /proc/PID/stat."""
    pid, _, rest = path.removeprefix("/proc/").partition("/")
    return pid.isdecimal() and rest == "stat"


class _State(threading.local):
    silent = 0
    """Number of blocks of this thread that say themselves what is read."""


_state = _State()
_current: Reads | None = None
_hooked = False


def current() -> Reads | None:
    """Return the watch that goes on; None if nobody wants to know."""
    return _current


def asks_here() -> bool:
    """Return whether somebody watches, and the engine that was asked is one of this machine."""
    return _current is not None and bool(_current.address)


@contextmanager
def watching(*, after: Reads | None = None) -> Iterator[Reads]:
    """Watch what is read while the block runs.

    Args:
        after: what was read before by the same process.
    """
    global _current, _hooked  # noqa: PLW0603  # the hook is this process's, and Python has no way to remove it
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    _current, before = Reads(after), _current
    try:
        yield _current
    finally:
        _current = before


@contextmanager
def covered(*files: str, folders: tuple[str, ...] = ()) -> Iterator[None]:
    """Take note of files and folders, in place of what this thread reads while the block runs."""
    watch = _current
    if watch is not None:
        for path in files:
            watch.read(path)
        for path in folders:
            watch.listed(path)
    _state.silent += 1
    try:
        yield
    finally:
        _state.silent -= 1


def note_folders(folders: Iterable[Path]) -> None:
    """Take note of folders in which it counts whether files are there."""
    if _current is not None:
        for folder in folders:
            _current.listed(str(folder))


def note_path(path: Path) -> None:
    """Take note of a file or folder of which it counts only whether it is there."""
    if _current is not None:
        _current.read(str(path))


def doubt(why: str) -> None:
    """Take note of something whose inputs are not known."""
    if _current is not None:
        _current.doubts.append(why)


def _hook(event: str, args: tuple[object, ...]) -> None:
    watch = _current
    if watch is None or _state.silent:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, str | bytes) and isinstance(flags, int) and _reads(flags) and not _of_no_interest():
            watch.read(os.fsdecode(path))
    elif event in {"os.listdir", "os.scandir"}:
        if _of_no_interest():
            return
        if isinstance(args[0], str | bytes):
            watch.listed(os.fsdecode(args[0]))
        elif args[0] is None:
            watch.listed(".")
        else:
            watch.doubts.append("lists a folder by its descriptor")
    elif event in PROGRAMS:
        watch.doubts.append(f"starts {args[0] if args else event}")
    elif event == "socket.connect":
        if not isinstance(args[1], str):
            watch.doubts.append("connects to another machine")
    elif event == "os.chdir":
        watch.doubts.append("changes its folder")


def _reads(flags: int) -> bool:
    """Return whether a file is opened to be read: not to make it, to lock it, or for temporary use."""
    return flags & os.O_ACCMODE == os.O_RDONLY


def _of_no_interest() -> bool:
    """Return whether the event that the hook is called for is of an import, or of the removal of a folder."""
    caller = sys._getframe(2).f_code
    # Looking for packages, Python lists all folders of modules, of which that of the call is one.
    looks = METADATA in caller.co_filename and caller.co_name == "children"
    return looks or caller.co_filename.startswith(IMPORTS) or "rmtree" in caller.co_name
