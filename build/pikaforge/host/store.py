"""Results of stages, kept under their keys.

An entry is a folder `<stage>/<key>/` with the result's files and `result.json`, which names each file's SHA-256.
It is written beside and renamed, so it is there whole or not at all. Files are verified by digest when they are read. A
bad entry is reported, and counts as missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pikaforge.errors import HostError
from pikaforge.host.run_id import RunId

RECORD = "result.json"

Model = TypeVar("Model", bound=BaseModel)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name and rename it, so that no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _silent() -> None:
    """Say nothing before a wait."""


@contextmanager
def locked(path: Path, *, waits: Callable[[], None] = _silent) -> Iterator[None]:
    """Hold a lock that excludes other threads and processes.

    The file stays, because a removed file and a new one would be two locks.

    Args:
        path: the file.
        waits: called once if another one has the lock, before the wait for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


class Store:
    """The folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._run_id = RunId.current()

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def peek(self, stage: str, key: str) -> Result | None:
        """Return an entry without verifying its files: for display, not to build on it."""
        read = self._read(stage, key)
        return None if read is None else read[0]

    def _read(self, stage: str, key: str) -> tuple[Result, dict[str, str]] | None:
        """Return an entry without verifying its files, and the digests of its files by name."""
        folder = self._folder(stage, key)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            digests = {str(name): str(digest) for name, digest in record["files"].items()}
            facts = dict(record["facts"].items())
            files = {name: folder / name for name in digests}
            if not all(path.is_file() for path in files.values()):
                return None
            result = Result(stage=stage, key=key, identity=str(record["identity"]), facts=facts, files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return result, digests

    def get(self, stage: str, key: str) -> tuple[Result | None, str]:
        """Return the verified entry; without one, None and why the entry is bad ("" if there is none)."""
        folder = self._folder(stage, key)
        if not folder.is_dir():
            return None, ""
        read = self._read(stage, key)
        if read is None:
            return None, f"{folder / RECORD} or a file it names is missing or unreadable"
        result, digests = read
        for name, path in result.files.items():
            try:
                found = sha256(path)
            except OSError as error:
                return None, f"{path} cannot be read: {error.strerror}"
            if found != digests[name]:
                return None, f"{path} does not have the digest it was stored with"
        return result, ""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder for a new result, on the store's file system. It is removed when the block is left."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f".new-{self._run_id.text}-", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def put(
        self, stage: str, key: str, *, identity: str, facts: BaseModel | Mapping[str, object], files: Mapping[str, Path]
    ) -> Result:
        """Store a result; its files are moved. A bad entry under the same key is replaced."""
        folder = self._folder(stage, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self.scratch() as beside:
            for name, path in files.items():
                shutil.move(path, beside / name)
            record = {
                "stage": stage,
                "identity": identity,
                "facts": facts.model_dump(mode="json") if isinstance(facts, BaseModel) else facts,
                "files": {name: sha256(beside / name) for name in sorted(files)},
            }
            (beside / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            beside.chmod(0o755)
            # Under the lock, so that nobody removes an entry that another run has just replaced.
            with locked(self.root / ".lock"):
                # If another run was first, with the same inputs, its result stays.
                if folder.is_dir() and self.get(stage, key)[0] is None:
                    shutil.rmtree(folder)
                if not folder.is_dir():
                    beside.rename(folder)
            result = self.peek(stage, key)
        if result is None:
            raise HostError(f"cannot write {folder}", hint="is something removing it? then run again")
        return result

    def drop(self, stage: str, key: str) -> None:
        """Remove an entry."""
        shutil.rmtree(self._folder(stage, key), ignore_errors=True)

    def sweep(self) -> int:
        """Remove incomplete results of runs that have ended; return how many those were."""
        removed = 0
        for folder in self.root.glob(".new-*"):
            made_by = RunId.parse("-".join(folder.name.split("-")[1:4]))
            if made_by is not None and made_by.gone():
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed
