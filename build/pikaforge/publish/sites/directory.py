"""A root in a folder, for a web server to serve.

`<root>/<image>/<model>` is a symlink to `.<model>.generations/<number>/` beside it. Each generation has a whole folder,
which shares the files of the previous one by hard links. A generation is made under a temporary name, and renamed when
it is complete. The switch is the rename of the symlink. So readers never see a part of a generation, and nothing that a
killed publisher has left.
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
from pikaforge.host.text import ignore, size_text
from pikaforge.publish.sites.site import SiteOptions
from pikaforge.publish.state import File
from pikaforge.publish.transaction import Addition, Transaction

DEFAULT_FOLDER = "repo"
"""The folder if no path is given; it is beside matrix.yaml."""
LOCK = ".lock"
GENERATIONS = ".generations"
NEW, SWITCH = ".new", ".switch"
"""Temporary names of a generation and of the symlink to it."""
KEPT_FOLDERS = 2
"""Folders of generations that stay: a reader needs no longer to resolve a path than a publication takes."""


class Directory:
    """A root in a folder of this machine. See `site.Site`."""

    stepwise = False

    def __init__(self, root: Path, *, notice: Callable[[str], None] = ignore) -> None:
        self.root = root
        self.where = str(root)
        self._notice = notice

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the root. The kernel releases the lock of a killed publisher, so it is never stale."""
        with self._errors("the lock cannot be taken", self.root / LOCK):
            _make(self.root)
            lock = locked(self.root / LOCK, waits=lambda: self._notice(f"waits for another publisher of {self.root}"))
            lock.__enter__()
        try:
            self._heal()
            yield
        finally:
            lock.__exit__(None, None, None)

    def _heal(self) -> None:
        """Remove what a killed publisher has left: incomplete generations, and symlinks under temporary names."""
        with self._errors("left-overs cannot be removed", self.root):
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
        """Return a file; None if there is none."""
        file = self.root / path
        with self._errors("a file cannot be read", file):
            try:
                with file.open("rb") as stream:
                    data = stream.read(limit + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) > limit:
            raise PublishError(f"the file is larger than {size_text(limit)}", where=str(file))
        return data

    def fetch(self, file: File, place: str, into: Path) -> None:
        """Copy a file of a repository and check its digest."""
        source = self.root / place / file.path
        with self._errors("a file cannot be copied", source):
            shutil.copyfile(source, into)
        if sha256(into) != file.sha256:
            raise PublishError("the file does not have the digest that it was published with", where=str(source))

    def commit(self, transaction: Transaction) -> int:
        """Make the folder of a generation, and switch to it."""
        served = self.root / transaction.place
        generations = served.with_name(f".{served.name}{GENERATIONS}")
        number = transaction.state.current.number
        new, done = generations / NEW, generations / str(number)
        with self._errors("the repository cannot be written", served):
            if served.exists() and not served.is_symlink():
                raise PublishError(
                    "there is something else where the repository should be", where=str(served), hint="move it away"
                )
            try:
                _make(new)
                self._fill(new, served, transaction)
                new.rename(done)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            switch = generations / SWITCH
            switch.symlink_to(Path(generations.name) / str(number))
            switch.rename(served)
            _synced(served.parent)
        with contextlib.suppress(OSError):  # it is published; the next publisher removes old folders, too
            self._tidy(generations, served)
        return len(transaction.additions)

    def _fill(self, new: Path, served: Path, transaction: Transaction) -> None:
        """Fill the folder of a generation: hard links to what stays, and copies of additions, which are read back."""
        paths = [
            *(file.path for file in transaction.kept),
            *(a.file.path for a in transaction.additions),
            *transaction.pointers,
        ]
        folders = sorted({path.rpartition("/")[0] for path in paths})
        for folder in folders:
            _make(new / folder)
        for file in transaction.kept:  # thousands of them: pathlib would take longer than the links
            _link(f"{served}/{file.path}", f"{new}/{file.path}")
        for addition in transaction.additions:
            _copy(addition, new / addition.file.path)
        for path, data in transaction.pointers.items():
            _put(data, new / path)
        for folder in folders:
            _synced(new / folder)

    def write(self, path: str, data: bytes) -> bool:
        """Write a file of the root; return False if it is there already."""
        file = self.root / path
        with self._errors("a file cannot be written", file):
            if file.is_file() and file.read_bytes() == data:
                return False
            _make(file.parent)
            write_atomically(file, data)
        return True

    @contextmanager
    def _errors(self, what: str, where: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublishError(
                f"{what}: {error.strerror or error}; nothing was changed",
                where=str(error.filename or where),
                hint="is the disk full, the folder read-only, or somebody else's?",
            ) from error


def _make(folder: Path) -> None:
    """Make a folder, and those above it, readable for a web server whatever the umask is. Existing ones stay as is."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _number(name: str) -> int:
    last = name.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0


def _link(source: str, target: str) -> None:
    """Make a hard link; a copy if the file system has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _put(content: Path | bytes, target: Path) -> None:
    """Write a file to the disk, so that it is there after a power failure."""
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
    """Write an addition, and read it back."""
    _put(addition.content, target)
    if sha256(target) != addition.file.sha256:
        raise PublishError(
            "what was written does not have the digest that it should have; nothing was changed",
            where=str(target),
            hint="was the package changed meanwhile, or is the disk at fault?",
        )


def _synced(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    with contextlib.suppress(OSError):  # some file systems cannot
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

    def open(self, options: SiteOptions) -> tuple[Directory, str]:
        """Return the folder as a site."""
        root = (options.base / self.place(options.destination)).resolve()
        return Directory(root, notice=options.notice), (options.destination.clients or root.as_uri()).rstrip("/")


KIND = DirectoryKind()
