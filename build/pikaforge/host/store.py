"""Results of stages, kept under their keys.

An entry is a folder `<stage>/<key>/` with the result's files and `result.json`, which names each file's SHA-256.
It is written beside and renamed, so it is there whole or not at all; what is read is verified by digest, and a bad
entry counts as a miss that is said aloud.
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
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file beside and rename it into place, so that no reader ever sees half of it."""
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
    """What is done while a lock is waited for, if nothing is said."""


@contextmanager
def locked(path: Path, *, waits: Callable[[], None] = _silent) -> Iterator[None]:
    """One at a time, over threads and processes; the file stays, because removing it would let two in.

    Args:
        path: the file.
        waits: called once, before it waits for somebody else.
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
    """What a stage left: facts about it, and files."""

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
        self._owner = RunId.current()

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def peek(self, stage: str, key: str) -> Result | None:
        """The entry as recorded, its files' digests unchecked: for looking, not for building on."""
        read = self._read(stage, key)
        return None if read is None else read[0]

    def _read(self, stage: str, key: str) -> tuple[Result, dict[str, str]] | None:
        """The entry as recorded, and the digests of its files by name."""
        folder = self._folder(stage, key)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            digests = {str(name): str(digest) for name, digest in record["files"].items()}
            facts = dict(record["facts"].items())
            files = {name: folder / name for name in digests}
            if not all(path.is_file() for path in files.values()):
                return None
            result = Result(stage=stage, key=key, identity=str(record["identity"]), facts=facts, files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return result, digests

    def get(self, stage: str, key: str) -> tuple[Result | None, str]:
        """The verified entry; without one, None and the reason if there is an entry that is bad ("" if none)."""
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
        """A folder for a result in the making, on the store's file system; removed when the block is left."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f".new-{self._owner.text}-", dir=self.root))
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
            # Nobody removes what another one has just made good.
            with locked(self.root / ".lock"):
                # Where another run was first, with the same inputs, its result stays.
                if folder.is_dir() and self.get(stage, key)[0] is None:
                    shutil.rmtree(folder)
                if not folder.is_dir():
                    beside.rename(folder)
            result = self.peek(stage, key)
        if result is None:
            raise HostError(f"cannot write {folder}", hint="is something removing it? then run again")
        return result

    def drop(self, stage: str, key: str) -> None:
        """Forget an entry."""
        shutil.rmtree(self._folder(stage, key), ignore_errors=True)

    def sweep(self) -> int:
        """Remove half-made results of runs that are over; the count of them."""
        removed = 0
        for folder in self.root.glob(".new-*"):
            owner = RunId.parse("-".join(folder.name.split("-")[1:4]))
            if owner is not None and owner.gone():
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed
