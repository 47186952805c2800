"""The searches of the audit in a file's code, which are made once in a test run for the same bytes and questions.

Nearly all packages of the tests have the same libraries of Debian's, and two searches in one of them, libzstd, are four
fifths of what the audit of the sample costs. So runs of the tool that are forked keep what these searches return, in a
folder of the test run; all else of the audit is done each time. The key has the file's bytes and every argument. Runs
that Python has started, and the tests that call the audit themselves, keep nothing and find nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import tempfile
from array import array
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.version import Version

from pikaforge.audit.isa import decode, tzcnt
from pikaforge.audit.isa.worker_pool import WorkerPool

if TYPE_CHECKING:
    import pytest

SEARCHES = ((tzcnt, "look"), (decode, "find_evidence"))
"""Modules, and the names in them of functions that return the same for the same arguments."""
FOLDER = "PIKAFORGE_TEST_AUDIT_MEMORY"
"""Variable with the folder, which the process that starts the workers has made."""
Found = TypeVar("Found")


def prepare(config: pytest.Config) -> None:
    """Make the folder; it is removed at the end of the test run."""
    folder = tempfile.mkdtemp(prefix="pikaforge-audits-")
    os.environ[FOLDER] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def install() -> None:
    """Let the audit of this process, and of those that it forks, keep what the searches return."""
    folder = os.environ.get(FOLDER)
    if folder:
        for module, name in SEARCHES:
            setattr(module, name, kept(getattr(module, name), Path(folder)))


def kept(search: Callable[..., Found], folder: Path) -> Callable[..., Found]:
    """Return a search whose results are kept in a folder. Its first argument is the path of the file."""

    @wraps(search)
    def found(path: Path, *args: Any, **options: Any) -> Found:
        words = [tuple(each) if hasattr(each, "__next__") else each for each in args]
        asked = [word for word in words if not isinstance(word, WorkerPool)]  # how many there are changes no result
        try:
            place = folder / key(search.__qualname__, path.read_bytes(), asked, options)
        except TypeError:
            return search(path, *words, **options)
        if place.is_file():
            before: Found = pickle.loads(place.read_bytes())  # noqa: S301  # of this test run
            return before
        result = search(path, *words, **options)
        with contextlib.suppress(OSError):
            beside = place.with_name(f".{place.name}-{os.getpid()}")
            beside.write_bytes(pickle.dumps(result))
            beside.rename(place)
        return result

    return found


def key(*parts: object) -> str:
    """Return a digest of arguments."""
    return hashlib.sha256(repr([plain(part) for part in parts]).encode()).hexdigest()


def plain(value: object) -> object:
    """Return a value as one whose `repr` is the same in each process.

    Raises:
        TypeError: it has a type of which that is not known.
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Version):
        return str(value)
    if isinstance(value, (bytes, bytearray, array)):
        return hashlib.sha256(bytes(value)).hexdigest()
    if isinstance(value, (set, frozenset, Mapping)):
        return sorted(map(plain, value.items() if isinstance(value, Mapping) else value), key=repr)
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if is_dataclass(value):
        return [type(value).__name__, *(plain(getattr(value, field.name)) for field in fields(value))]
    raise TypeError(f"no key for {type(value).__name__}")
