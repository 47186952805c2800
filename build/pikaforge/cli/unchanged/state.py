"""States of what a build has looked at, as texts that are compared: files, folders, modules, CPU."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping

MISSING = "missing"
BLOCK = 1 << 18
DIGITS = 64
"""Length of a digest, behind which the mode follows; states of what could not be read are shorter."""


def of_file(path: str) -> str:
    """Return the BLAKE2b digest of a file's bytes with its mode, or why there is none.

    BLAKE2b takes half the time of SHA-256. The mode decides, too: sources have programs.
    """
    descriptor = _opened(path)
    if isinstance(descriptor, str):
        return descriptor
    try:
        digest = hashlib.blake2b(digest_size=32)
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
        return f"{digest.hexdigest()}{_mode(descriptor)}"
    except OSError as error:
        return f"error {error.errno}"
    finally:
        os.close(descriptor)


def _mode(descriptor: int) -> str:
    return f" {stat.S_IMODE(os.fstat(descriptor).st_mode):o}"


def _opened(path: str) -> int | str:
    """Return a descriptor of a regular file, or why there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        return f"error {error.errno}"
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return "no file"
    return descriptor


def as_they_were(files: Mapping[str, object]) -> bool:
    """Return whether all files have the states that they had, by path.

    A package is in the store and in dist/. Of files that had the same bytes, one is digested, and others are compared
    with it, which takes a tenth of the time.
    """
    alike: dict[str, str] = {}
    for path, was in files.items():
        state = str(was)
        digest, mode = state[:DIGITS], state[DIGITS:]
        first = alike.setdefault(digest, path)
        if not (_same(first, path, mode) if first != path and mode else of_file(path) == state):
            return False
    return True


def _same(first: str, second: str, mode: str) -> bool:
    """Return whether two files are there and have the same bytes, and the second one has a mode."""
    opened: list[int] = []
    try:
        for path in (first, second):
            descriptor = _opened(path)
            if isinstance(descriptor, str):
                return False
            opened.append(descriptor)
        if _mode(opened[1]) != mode:
            return False
        while True:
            blocks = [os.read(descriptor, BLOCK) for descriptor in opened]
            if blocks[0] != blocks[1]:
                return False
            if not blocks[0]:
                return True
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)


def of_folder(path: str) -> str:
    """Return a digest of the names in a folder and their kinds, or why there is none."""
    try:
        with os.scandir(path) as entries:
            names = sorted(f"{'l' if e.is_symlink() else 'd' if e.is_dir() else 'f'}{e.name}" for e in entries)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        return f"error {error.errno}"
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def of_modules(paths: Iterable[str]) -> str:
    """Return a digest of the times and sizes of modules, by which Python itself knows changed ones (PEP 3147)."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116  # pathlib costs 10 ms
        except OSError:
            return MISSING
        digest.update(f"{path}\0{found.st_mtime_ns}\0{found.st_size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def of_cpu(path: str = "/proc/cpuinfo") -> str:
    """Return a digest of the flags of this machine's CPUs."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            flags = {line for line in stream if line.startswith(b"flags")}
    except OSError as error:
        return f"error {error.errno}"
    return hashlib.sha256(b"".join(sorted(flags))).hexdigest()
