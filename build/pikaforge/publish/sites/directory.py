"""A root in a folder, for a web server to serve.

`<root>/<image>/<model>` is a symlink to `.<model>.generations/<number>/` beside it. Each generation has a whole folder,
which shares the files of the previous one by hard links. What is new is written beside. Then the folder of the
generation before the current one, if there is one, becomes that of the new one, under a temporary name: links that
differ are made or removed (`recycling.py`). It is renamed when it is complete. The switch is the rename of the symlink.
So readers never see a part of a generation, and nothing that a killed publisher has left.

Symlinks in the root are not followed, apart from those of this module: somebody else may have made them, and what they
lead to is not the publisher's. What is removed has the name and the record of a generation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pikaforge.config.schema import Destination
from pikaforge.errors import FullDiskError, PublishError
from pikaforge.host.disk import is_full
from pikaforge.host.durable import write_atomically
from pikaforge.host.leftovers import sweep
from pikaforge.host.store import locked, sha256
from pikaforge.host.text import ignore, size_text
from pikaforge.publish.sites.recycling import Kept, strip
from pikaforge.publish.sites.site import SiteOptions
from pikaforge.publish.state import STATE, STATE_LIMIT, File, identity
from pikaforge.publish.transaction import Addition, Transaction

DEFAULT_FOLDER = "repo"
"""The folder if no path is given; it is beside matrix.yaml."""
LOCK = ".lock"
GENERATIONS = ".generations"
STAGED, NEW, SWITCH = ".staged", ".new", ".switch"
"""Temporary names of what is written for a generation, of the generation itself, and of the symlink to it."""
NUMBER = re.compile("[1-9][0-9]{0,17}")
PLACE_DEPTH = 1
"""Depth of the symlink to a generation, counted from 0: IMAGE/MODEL."""
FLUSHES = 8
"""Files that are waited for at once."""
KEPT_FOLDERS = 2
"""Folders of generations that stay: a reader needs no longer to resolve a path than a publication takes. So the older
one of them becomes the next generation's when all that is new has been written, and not before."""


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

    def _at(self, path: str) -> Path:
        """Return a path below the root.

        Raises:
            PublishError: it leads out of the root, or over a symlink other than that of a repository to a generation.
        """
        at = self.root
        for depth, part in enumerate(path.split("/")):
            if not part.strip("."):
                raise PublishError(f"{path!r} leads elsewhere", where=self.where, hint="is repository.json damaged?")
            at /= part
            if at.is_symlink() and not (depth == PLACE_DEPTH and _served_number(at)):
                raise PublishError(
                    "there is a symlink, which is not followed: what it leads to may be somebody else's",
                    where=str(at),
                    hint="put a folder in its place; another disk can be mounted there",
                )
        return at

    def _heal(self) -> None:
        """Remove what a killed publisher has left: incomplete generations, and files and symlinks under temporary
        names."""
        with self._errors("left-overs cannot be removed", self.root):
            for place in (self.root, *self.root.glob("*/")):
                if place == self.root or not place.is_symlink():
                    sweep(place)
            for folder in self.root.glob(f"*/.*{GENERATIONS}/"):
                if not folder.is_symlink() and not folder.parent.is_symlink():
                    self._tidy(folder, folder.with_name(folder.name[1:].removesuffix(GENERATIONS)))

    def _tidy(self, folder: Path, served: Path) -> None:
        """Remove generations that are incomplete, not switched to, or old."""
        current = _served_number(served)
        if not current and os.path.lexists(served):
            return  # it is not what this module makes
        for path in folder.iterdir():
            number = _number(path.name)
            if path.name in (STAGED, NEW, SWITCH) and path.is_symlink():
                path.unlink()
            elif path.name in (STAGED, NEW) and path.is_dir():
                shutil.rmtree(path)
            elif number > current or 0 < number <= current - KEPT_FOLDERS:
                if self._is_generation(path, number, f"{served.parent.name}/{served.name}"):
                    shutil.rmtree(path)
                else:
                    self._notice(f"{path} is no generation that was published here; it is left alone")

    def _is_generation(self, path: Path, number: int, place: str) -> bool:
        """Return whether this is the folder of a generation, by the record in it."""
        record = path / STATE
        if path.is_symlink() or not path.is_dir() or record.is_symlink() or not record.is_file():
            return False
        try:
            return identity(self._read(record, STATE_LIMIT) or b"") == (place, number)
        except PublishError:
            return False

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        """Return a file; None if there is none."""
        return self._read(self._at(path), limit)

    def _read(self, file: Path, limit: int) -> bytes | None:
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
        source = self._at(f"{place}/{file.path}")
        with self._errors("a file cannot be copied", source):
            shutil.copyfile(source, into)
        if sha256(into) != file.sha256:
            raise PublishError("the file does not have the digest that it was published with", where=str(source))

    def commit(self, transaction: Transaction) -> int:
        """Make the folder of a generation, and switch to it."""
        served = self._at(transaction.place)
        generations = self._at(f"{served.parent.name}/.{served.name}{GENERATIONS}")
        number = transaction.state.current.number
        staged, new, done = generations / STAGED, generations / NEW, generations / str(number)
        with self._errors("the repository cannot be written", served):
            if served.exists() and not served.is_symlink():
                raise PublishError(
                    "there is something else where the repository should be", where=str(served), hint="move it away"
                )
            _make(generations)
            try:
                staged.mkdir()  # it is new: whatever there was under these names is gone since `locked`
                _stage(staged, transaction)
                self._take_old(new, served)
                self._fill(new, staged, transaction)
                shutil.rmtree(staged)
                new.rename(done)
                _synced(generations)  # before the switch: the symlink must not outlive what it leads to
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                shutil.rmtree(new, ignore_errors=True)
                raise
            switch = generations / SWITCH
            switch.symlink_to(Path(generations.name) / str(number))
            switch.rename(served)
            _synced(served.parent)
        with contextlib.suppress(OSError):  # it is published; the next publisher removes old folders, too
            self._tidy(generations, served)
        return len(transaction.additions)

    def _take_old(self, new: Path, served: Path) -> None:
        """Make the folder of a new generation: out of that before the current one, or an empty one."""
        current = _served_number(served)
        numbers = [number for path in new.parent.iterdir() if 0 < (number := _number(path.name)) < current]
        old = new.with_name(str(max(numbers, default=0)))
        if numbers and self._is_generation(old, max(numbers), f"{served.parent.name}/{served.name}"):
            old.rename(new)
            _synced(new.parent)  # before it is changed: after a power failure it must not have its old name
        else:
            new.mkdir()
        new.chmod(0o755)

    def _fill(self, new: Path, staged: Path, transaction: Transaction) -> None:
        """Fill the folder of a generation: hard links to what stays, and what is staged."""
        paths = [*(a.file.path for a in transaction.additions), *transaction.pointers]
        names: dict[str, list[str]] = {}
        for file in transaction.kept:
            folder, _, name = file.path.rpartition("/")
            names.setdefault(folder, []).append(name)
        kept = {at: Kept.of(self._at(f"{transaction.place}/{at}".rstrip("/")), names[at]) for at in names}
        stays = strip(new, kept)
        folders = sorted({*kept, *(path.rpartition("/")[0] for path in paths)})
        for folder in folders:
            _make(new / folder)
        for folder, files in kept.items():
            _link(files, new / folder, set(files.names).difference(stays.get(folder, ())))
        with _opened(staged) as there, _opened(new) as here:
            for path in paths:
                os.rename(path, path, src_dir_fd=there, dst_dir_fd=here)
        above = {folder.rpartition("/")[0] for folder in folders} | {""}
        for folder in sorted({*folders, *above}, reverse=True):
            _synced(new / folder)

    def write(self, path: str, data: bytes) -> bool:
        """Write a file of the root; return False if it is there already."""
        folder, _, name = path.rpartition("/")
        file = (self._at(folder) if folder else self.root) / name
        with self._errors("a file cannot be written", file, after="it is as it was; publish again to finish"):
            there = file.lstat() if os.path.lexists(file) else None
            if there and stat.S_ISREG(there.st_mode) and there.st_size == len(data) and file.read_bytes() == data:
                return False
            _make(file.parent)
            write_atomically(file, data)
        return True

    @contextmanager
    def _errors(self, what: str, where: Path, after: str = "nothing was changed") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "free space there" if is_full(error) else "is the folder read-only, or somebody else's?"
            raise PublishError(
                f"{what}: {error.strerror or error}; {after}",
                where=str(error.filename or where),
                hint=advice,
            ) from error
        except FullDiskError as error:
            raise PublishError(
                f"{what}: {error.message}; {after}", where=error.where or str(where), hint=error.hint
            ) from error


def _make(folder: Path) -> None:
    """Make a folder, and those above it, readable for a web server whatever the umask is. Existing ones stay as is."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        _synced(folder.parent)


def _stage(folder: Path, transaction: Transaction) -> None:
    """Write additions, which are read back, and pointers; wait until they are on the disk."""
    paths = [*(a.file.path for a in transaction.additions), *transaction.pointers]
    for parent in {path.rpartition("/")[0] for path in paths}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for addition in transaction.additions:
        _copy(addition, folder / addition.file.path)
    for path, data in transaction.pointers.items():
        _put(data, folder / path)
    _flush(folder, paths)


def _number(name: str) -> int:
    return int(name) if NUMBER.fullmatch(name) else 0


def _served_number(served: Path) -> int:
    """Return the number of the generation that a repository's symlink leads to; 0 if it is no such symlink."""
    if not served.is_symlink():
        return 0
    folder, _, name = str(served.readlink()).partition("/")
    return 0 if folder != f".{served.name}{GENERATIONS}" or (served.parent / folder).is_symlink() else _number(name)


def _link(kept: Kept, target: Path, missing: Collection[str]) -> None:
    """Make hard links to files of a folder in another; copies if the file system has no hard links.

    There may be thousands of them, so that the folders are opened once, and nothing is looked up by its whole path.

    Raises:
        PublishError: one of the files that are kept is no regular file, also if there is a link to it already.
    """
    source = kept.folder
    for name in kept.names:
        if name not in kept.regular:
            if not os.path.lexists(source / name):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source / name))
            raise PublishError(
                "a published file is no regular file any more", where=str(source / name), hint="put the file back"
            )
    with _opened(source) as there, _opened(target) as here:
        for name in sorted(missing):
            try:
                os.link(name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(source / name, target / name, follow_symlinks=False)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _put(content: Path | bytes, target: Path) -> None:
    """Write a file, and let the disk begin with it; `_flush` waits until it is there."""
    with target.open("wb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
        stream.flush()
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.fchmod(stream.fileno(), 0o644)


def _copy(addition: Addition, target: Path) -> None:
    """Write an addition, and read it back."""
    _put(addition.content, target)
    if sha256(target) != addition.file.sha256:
        raise PublishError(
            "what was written does not have the digest that it should have; nothing was changed",
            where=str(target),
            hint="was the package changed meanwhile, or is the disk at fault?",
        )


def _flush(folder: Path, paths: Sequence[str]) -> None:
    """Wait until files of a folder are on the disk, so that they are there after a power failure.

    Several wait at once: the file system's journal then writes for all of them together, and not for each.
    """
    with _opened(folder) as there, ThreadPoolExecutor(FLUSHES, thread_name_prefix="flush") as pool:
        for _ in pool.map(lambda start: _flush_some(there, paths[start::FLUSHES]), range(min(FLUSHES, len(paths)))):
            pass


def _flush_some(folder: int, paths: Sequence[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _synced(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    with contextlib.suppress(OSError), _opened(folder) as descriptor:  # some file systems cannot
        os.fsync(descriptor)


class DirectoryKind:
    """Destinations in a folder of this machine. See `site.SiteKind`."""

    title = "a directory"
    required: frozenset[str] = frozenset()
    optional = frozenset({"path", "clients", "keep", "valid_days"})

    def place(self, destination: Destination) -> str:
        """Return its path, which may be relative to the configuration."""
        return destination.path or DEFAULT_FOLDER

    def open(self, options: SiteOptions) -> tuple[Directory, str]:
        """Return the folder as a site."""
        root = (options.base / self.place(options.destination)).resolve()
        return Directory(root, notice=options.notice), (options.destination.clients or root.as_uri()).rstrip("/")


KIND = DirectoryKind()
