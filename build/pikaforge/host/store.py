"""Results of stages, kept under their keys.

An entry is a folder `<stage>/<key>/` with the result's files and `result.json`, which names each file's SHA-256.
It is written beside and renamed, so it is there whole or not at all. Files are verified by digest when they are read. A
bad entry is reported, and counts as missing. Where it is another user's, and cannot be moved, a user's result has a
place of its own: `<stage>~<user id>/<key>/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError

from pikaforge.errors import HostError
from pikaforge.host import process, store_folders
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.durable import make_folders, write_through
from pikaforge.host.run_id import RunId
from pikaforge.host.shared_values import SharedValues
from pikaforge.host.store_folders import NEW, mark_of
from pikaforge.host.store_uses import Uses
from pikaforge.host.store_uses import sweep as sweep_uses

RECORD = "result.json"
DIGEST = "sha256"
"""Name of the digest of all else in a record: facts decide as much as files do."""
MAKING = ".making-"
"""Begin of the name of the lock of a result that is being made."""
PATIENCE = 1.0
"""Seconds of a wait for another run before it is said: whoever only looks at a result has its lock for less."""
FIRST_LOOK, LAST_LOOK = 0.005, 0.5
"""Seconds between two looks at a lock that another one has: at the start of the wait, and at most."""

Model = TypeVar("Model", bound=BaseModel)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if it is there.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            f"cannot remove {path}: {error.strerror}", hint="it is in the way, and nothing else is lost: remove it"
        ) from error


def _silent() -> None:
    """Say nothing before a wait."""


@contextmanager
def locked(
    path: Path, *, waits: Callable[[], None] = _silent, patience: float = 0.0, remove: bool = False
) -> Iterator[None]:
    """Hold a lock that excludes other threads and processes. The kernel releases that of a killed process.

    Args:
        path: the file.
        waits: called once if another one has the lock.
        patience: seconds of the wait before that.
        remove: remove the file at the end. All who use it must do so.

    Raises:
        HostError: the run was interrupted during the wait.
    """
    make_folders(path.parent)
    # A symlink in its place would make a file elsewhere, or lock somebody else's.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with os.fdopen(os.open(path, flags, 0o666), "ab") as lock:
            waits = _take(lock, waits, patience)
            if not _is_at(lock, path):
                continue  # the one who had it has removed the file
            try:
                yield
            finally:
                if remove:
                    path.unlink(missing_ok=True)
            return


def _take(lock: IO[bytes], waits: Callable[[], None], patience: float) -> Callable[[], None]:
    """Take the lock of an open file; return what is to be called at another wait.

    It looks again and again: nothing can interrupt a thread that waits in the kernel.
    """
    start, look = time.monotonic(), FIRST_LOOK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - start >= patience:
                waits()
                waits = _silent
            process.pause(look)
            look = min(look * 1.5, LAST_LOOK)
        else:
            return waits


def _is_at(lock: IO[bytes], path: Path) -> bool:
    """Return whether an open file is still the one of this name."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(lock.fileno()), there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a stage: facts and files."""

    stage: str
    key: str
    identity: str
    """What later stages build on: two results with one identity are interchangeable."""
    facts: Mapping[str, object]
    """As they are stored; `read` returns the model of them."""
    files: Mapping[str, Path]
    origin: str = ""
    """The shared store that it was taken from; empty if it was made here."""

    def read(self, model: type[Model]) -> Model:
        """Return the facts as the model that wrote them.

        Raises:
            HostError: they are not of that model.
        """
        try:
            # JSON has lists and no tuples.
            return model.model_validate(self.facts, strict=False)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise HostError(
                f"the facts of a stored result cannot be read: {f'{place}: ' if place else ''}{first['msg']}",
                where=f"{self.stage}/{self.key}",
            ) from error


def sealed(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with the digest of all else in it, whatever the order of its names."""
    content = {name: value for name, value in record.items() if name != DIGEST}
    return {**content, DIGEST: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


class Store:
    """The folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._run_id = RunId.current()
        self._uses = Uses(root)
        self._own = store_folders.OwnPlaces(root)
        self._values = SharedValues()

    def entry(self, stage: str, key: str) -> Path:
        """Return where an entry is, or would be."""
        return self._own.of(stage, key) or self.root / stage / key

    def _clear(self, stage: str, key: str) -> None:
        """Take an entry away. If it cannot be taken away, the next one will have a place of this user's own."""
        if not store_folders.take_away(self.entry(stage, key)):
            self._own.want(stage, key)

    def peek(self, stage: str, key: str) -> Result | None:
        """Return an entry without verifying its files: for display, not to build on it."""
        read = self._read(stage, key)
        return None if read is None else read[0]

    def _read(self, stage: str, key: str) -> tuple[Result, dict[str, str]] | None:
        """Return an entry without verifying its files, and the digests of its files by name."""
        own = self._own.of(stage, key)
        try:
            # Most nodes of a large plan have no entry: without pathlib, to see that takes a fifth of the time.
            with open(f"{own or f'{self.root}/{stage}/{key}'}/{RECORD}", encoding="utf-8") as stream:  # noqa: PTH123
                record = json.load(stream)
            folder = own or self.root / stage / key
            if record[DIGEST] != sealed(record)[DIGEST]:
                return None
            digests = {str(name): str(digest) for name, digest in record["files"].items()}
            facts = self._values.under(str(record[DIGEST]), dict(record["facts"].items()))
            files = {name: folder / name for name in digests}
            if not all(path.is_file() for path in files.values()):
                return None
            result = Result(
                stage=stage,
                key=key,
                identity=str(record["identity"]),
                facts=facts,
                files=files,
                origin=str(record.get("origin", "")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return result, digests

    def get(self, stage: str, key: str) -> tuple[Result | None, str]:
        """Return the verified entry; without one, None and why the entry is bad ("" if there is none).

        It counts as used from now on: nobody removes it while this process runs.
        """
        folder = self.entry(stage, key)
        if folder.is_dir():
            with suppress(OSError):  # a store that only others can write
                self._use(stage, key)
        return self.verified(stage, key)

    def _use(self, stage: str, key: str) -> None:
        """Note that this process uses an entry, and when."""
        folder = self.entry(stage, key)
        if not self._uses.known(folder.parent.name, key):
            with locked(self.root / ".lock"):
                self._uses.add(folder.parent.name, key)
        mark_of(folder).touch()

    def verified(self, stage: str, key: str) -> tuple[Result | None, str]:
        """Return the entry as `get` does, without using it."""
        folder = self.entry(stage, key)
        if in_the_way := self._in_the_way(folder):
            return None, f"{in_the_way} is not a folder"
        if not folder.is_dir():
            return None, ""
        read = self._read(stage, key)
        if read is None:
            why = f"{folder / RECORD} or a file it names is missing, unreadable or damaged"
            return None, f"{why}{store_folders.of_another(folder)}"
        result, digests = read
        for name, path in result.files.items():
            try:
                found = sha256(path)
            except OSError as error:
                return None, f"{path} cannot be read: {error.strerror}"
            if found != digests[name]:
                return None, f"{path} does not have the digest it was stored with{store_folders.of_another(folder)}"
        return result, ""

    def _in_the_way(self, folder: Path) -> Path | None:
        """Return what is where an entry's folder, or that of its stage, would be: a file, or a link to nothing."""
        for path in (folder.parent, folder):
            if os.path.lexists(path) and not path.is_dir():
                return path
        return None

    @contextmanager
    def making(self, stage: str, key: str, waits: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a key, so that two runs that need one result do not make it twice.

        Args:
            stage: of the result.
            key: of the result.
            waits: called once if another run makes it.
        """
        with locked(self.root / f"{MAKING}{stage}-{key}", waits=waits, patience=PATIENCE, remove=True):
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder for a new result, on the store's file system. It is removed when the block is left."""
        make_folders(self.root)
        path = Path(tempfile.mkdtemp(prefix=f"{NEW}{self._run_id.text}-", dir=self.root))
        try:
            with full_disk_errors(self.root):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def put(
        self,
        stage: str,
        key: str,
        *,
        identity: str,
        facts: BaseModel | Mapping[str, object],
        files: Mapping[str, Path],
        origin: str = "",
    ) -> Result:
        """Store a result; its files are moved. A bad entry under the same key is replaced."""
        with self.scratch() as beside:
            for name, path in files.items():
                shutil.move(path, beside / name)
            record = {
                "stage": stage,
                "identity": identity,
                "facts": facts.model_dump(mode="json") if isinstance(facts, BaseModel) else facts,
                "files": {name: sha256(beside / name) for name in sorted(files)},
                **({"origin": origin} if origin else {}),
            }
            (beside / RECORD).write_text(json.dumps(sealed(record), indent=2, sort_keys=True) + "\n", encoding="utf-8")
            beside.chmod(0o755 | self.root.stat().st_mode & 0o020)  # whoever shares the store may mend it
            # What has taken an hour is not lost with the power; and what has the name of an entry is one.
            for path in (*(beside / name for name in files), beside / RECORD, beside):
                write_through(path)
            # Under the lock, so that nobody removes an entry that another run has just replaced.
            with locked(self.root / ".lock"):
                try:
                    folder = self._place(stage, key, beside)
                except PermissionError:  # the folder is another user's
                    self._own.want(stage, key)
                    folder = self._place(stage, key, beside)
                self._uses.add(folder.parent.name, key)
            result = self.peek(stage, key)
        if result is None:
            raise HostError(f"cannot write {folder}", hint="is something removing it? then run again")
        return result

    def _place(self, stage: str, key: str, made: Path) -> Path:
        """Give a folder the name of an entry, unless there is a good one; return that. The store is locked."""
        # If another run was first, with the same inputs, its result stays.
        while in_the_way := self._in_the_way(self.entry(stage, key)):
            remove(in_the_way)
        if self.entry(stage, key).is_dir() and self.verified(stage, key)[0] is None:
            self._clear(stage, key)
        folder = self.entry(stage, key)
        make_folders(folder.parent)
        if not folder.is_dir():
            made.rename(folder)
            write_through(folder.parent)
        return folder

    def drop(self, stage: str, key: str) -> None:
        """Remove an entry."""
        with suppress(HostError):
            remove(mark_of(self.entry(stage, key)))
        self._clear(stage, key)

    def sweep(self) -> int:
        """Remove incomplete results of runs that have ended; return how many those were."""
        sweep_uses(self.root)
        return store_folders.sweep(self.root)
