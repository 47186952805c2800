"""A root in a folder, as a web server serves it.

`<root>/<image>/<model>` is a symlink to `.<model>.generations/<number>/` beside it, a whole folder for each generation
that shares the files of the one before by hard links. A generation is made beside, renamed when it is complete, and the
switch is the rename of the symlink: at no moment does a reader see a part of it, and a publisher that is killed leaves
nothing that a reader sees.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pikaforge.config.schema import Destination
from pikaforge.errors import PublishError
from pikaforge.host.store import locked, sha256, write_atomically
from pikaforge.host.text import ignore
from pikaforge.publish.sites.site import SiteOptions
from pikaforge.publish.state import File
from pikaforge.publish.transaction import Addition, Transaction

DEFAULT_FOLDER = "repo"
"""Where a directory is that names no path, beside matrix.yaml."""
LOCK = ".lock"
GENERATIONS = ".generations"
NEW, SWITCH = ".new", ".switch"
"""A generation in the making, and the symlink to it before the switch."""
KEPT_FOLDERS = 2
"""Folders of generations that stay: a reader's look at a path takes no longer than a publication."""


class Directory:
    """A root in a folder of this machine. See `site.Site`."""

    stepwise = False

    def __init__(self, root: Path, *, notice: Callable[[str], None] = ignore) -> None:
        self.root = root
        self.where = str(root)
        self._notice = notice

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One publisher at a time. The system frees the lock of one that died, so it is never stale."""
        with self._told("the lock cannot be taken", self.root / LOCK):
            _make(self.root)
            lock = locked(self.root / LOCK, waits=lambda: self._notice(f"waits for another publisher of {self.root}"))
            lock.__enter__()
        try:
            self._heal()
            yield
        finally:
            lock.__exit__(None, None, None)

    def _heal(self) -> None:
        """Remove what a publisher that died has left: half-made generations, and symlinks before their switch."""
        with self._told("left-overs cannot be removed", self.root):
            for folder in self.root.glob(f"*/.*{GENERATIONS}/"):
                served = folder.with_name(folder.name[1:].removesuffix(GENERATIONS))
                if served.is_symlink() or not served.exists():
                    self._tidy(folder, served)

    def _tidy(self, folder: Path, served: Path) -> None:
        current = _number(str(served.readlink())) if served.is_symlink() else 0
        for path in folder.iterdir():
            number = _number(path.name)
            if path.name in (NEW, SWITCH) or number > current or 0 < number <= current - KEPT_FOLDERS:
                if path.is_symlink():
                    path.unlink()
                else:
                    shutil.rmtree(path)

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        """A file; None if there is none."""
        file = self.root / path
        with self._told("a file cannot be read", file):
            try:
                with file.open("rb") as stream:
                    data = stream.read(limit + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) > limit:
            raise PublishError(f"the file is larger than {limit >> 20} MiB", where=str(file))
        return data

    def fetch(self, file: File, place: str, into: Path) -> None:
        """Copy a file of a repository and check its digest."""
        source = self.root / place / file.path
        with self._told("a file cannot be copied", source):
            shutil.copyfile(source, into)
        if sha256(into) != file.sha256:
            raise PublishError("the file does not have the digest that it was published with", where=str(source))

    def commit(self, change: Transaction) -> int:
        """Make the folder of a generation, and switch to it."""
        served = self.root / change.place
        generations = served.with_name(f".{served.name}{GENERATIONS}")
        number = change.state.current.number
        new, done = generations / NEW, generations / str(number)
        with self._told("the repository cannot be written", served):
            if served.exists() and not served.is_symlink():
                raise PublishError(
                    "there is something else where the repository should be", where=str(served), hint="move it away"
                )
            try:
                _make(new)
                self._fill(new, served, change)
                new.rename(done)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            switch = generations / SWITCH
            switch.symlink_to(Path(generations.name) / str(number))
            switch.rename(served)
            _synced(served.parent)
        with contextlib.suppress(OSError):  # it is published; what is left, the next publisher removes
            self._tidy(generations, served)
        return len(change.additions)

    def _fill(self, new: Path, served: Path, change: Transaction) -> None:
        """Everything of the generation: what stays by hard links, additions as copies, whose digests are read back."""
        paths = [*(file.path for file in change.kept), *(a.file.path for a in change.additions), *change.pointers]
        folders = sorted({path.rpartition("/")[0] for path in paths})
        for folder in folders:
            _make(new / folder)
        for file in change.kept:  # thousands of them: without pathlib, which would take longer than the links
            _link(f"{served}/{file.path}", f"{new}/{file.path}")
        for addition in change.additions:
            _copy(addition, new / addition.file.path)
        for path, data in change.pointers.items():
            _put(data, new / path)
        for folder in folders:
            _synced(new / folder)

    def write(self, path: str, data: bytes) -> bool:
        """Put a file of the root, unless it is there like that."""
        file = self.root / path
        with self._told("a file cannot be written", file):
            if file.is_file() and file.read_bytes() == data:
                return False
            _make(file.parent)
            write_atomically(file, data)
        return True

    @contextmanager
    def _told(self, what: str, where: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"{what}: {error.strerror or error}; nothing was changed",
                where=str(error.filename or where),
                hint="is the disk full, the folder read-only, or somebody else's?",
            ) from error


def _make(folder: Path) -> None:
    """A folder with those above it, for a web server to read, whatever the umask; what is there stays as it is."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _number(name: str) -> int:
    last = name.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0


def _link(source: str, target: str) -> None:
    """A hard link; a copy where the file system has none."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _put(content: Path | bytes, target: Path) -> None:
    """Write a file that is on the disk before readers are sent to it, also if the power fails."""
    with target.open("wb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())
    target.chmod(0o644)


def _copy(addition: Addition, target: Path) -> None:
    """Write a file, and read it back."""
    _put(addition.content, target)
    if sha256(target) != addition.file.sha256:
        raise PublishError(
            "what was written does not have the digest that it should have; nothing was changed",
            where=str(target),
            hint="was the package changed meanwhile, or is the disk at fault?",
        )


def _synced(folder: Path) -> None:
    """Let a folder's names be on the disk before what comes next."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DirectoryKind:
    """Destinations in a folder of this machine. See `site.SiteKind`."""

    title = "a directory"
    required: frozenset[str] = frozenset()
    optional = frozenset({"path", "clients", "keep"})

    def place(self, destination: Destination) -> str:
        """Return its path, which may be relative to the configuration."""
        return destination.path or DEFAULT_FOLDER

    def open(self, opening: SiteOptions) -> tuple[Directory, str]:
        """Return the folder as a site."""
        root = (opening.base / self.place(opening.destination)).resolve()
        return Directory(root, notice=opening.notice), (opening.destination.clients or root.as_uri()).rstrip("/")


KIND = DirectoryKind()
