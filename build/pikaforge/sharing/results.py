"""Results in a shared store: read through, written back, verified each time.

Whatever goes wrong with the store is a notice, and the result is made here. After an error that will meet every other
object, too, the store is not asked again in this run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from pikaforge.errors import ForgeError, FullDiskError, HostError, KeyFileError
from pikaforge.host import process
from pikaforge.host.disk import full_disk_errors, room
from pikaforge.host.store import Result, Store, sha256
from pikaforge.host.text import one_line, size_text
from pikaforge.sharing.listing import (
    LIMIT,
    ListedFile,
    ListingError,
    ResultStatement,
    parsed,
    path_of,
    path_of_file,
    statement_in,
    statement_of,
    written,
)
from pikaforge.sharing.objects import ObjectError, ObjectStore
from pikaforge.sharing.seals import Seals

SPARE = 64 << 20
"""Bytes of the disk that a fetched result leaves free."""
SMALL = 4096
"""Bytes of a file that comes along with a result's record."""
REFUSALS = 10
"""Results that are refused before one is taken or put there. Then the store is not asked any more: it is none, but a
page that answers for everything."""
PROBE = "pikaforge"
"""An object that need not be there; it is asked for to see whether the store answers."""


class _RefusedError(Exception):
    """What the store has of a result is not taken. The text says why."""


@dataclass(slots=True)
class Counts:
    """What went through the shared store in this run."""

    taken: int = 0
    put: int = 0
    refused: int = 0


class SharedResults:
    """See `host.shared_store.SharedStore`."""

    def __init__(
        self,
        objects: ObjectStore,
        seals: Seals,
        *,
        write: bool,
        file_limit: int,
        notice: Callable[[str], None],
    ) -> None:
        """Ask nothing yet.

        Args:
            objects: the store.
            seals: makes and judges signatures.
            write: whether results are put there.
            file_limit: bytes that a file of a result may have.
            notice: takes messages for the user: one line each, without secrets.
        """
        self._objects = objects
        self._seals = seals
        self._file_limit = file_limit
        self._notice = notice
        self._lock = threading.Lock()
        # Where only signed results are taken, one without a signature would be in the way of others.
        self._reads, self._writes = True, write and (seals.signs or not seals.judges)
        self._proven = False
        self._useful = False
        """Whether a result was taken, or put there and seen there, in this run."""
        self._refused: set[str] = set()
        """Paths of listings that were not taken: they are replaced, and all their files are sent again."""
        self.where = objects.where
        self.counts = Counts()

    @property
    def _origin(self) -> str:
        """The store, as a provenance names it: without a path of this machine."""
        return self.where if "://" in self.where else "a shared folder"

    @property
    def writes(self) -> bool:
        """Whether results are put there."""
        return self._writes

    @property
    def signed(self) -> bool:
        """Whether only what is signed is taken."""
        return self._seals.judges

    def unreachable(self) -> str:
        """Ask for an object; return why there is no answer, "" if there is one."""
        try:
            self._objects.read(PROBE, limit=LIMIT)
        except ObjectError as error:
            return str(error)
        return ""

    def summary(self) -> str:
        """Return in words what went through the store since the last call. See the protocol."""
        with self._lock:
            now, self.counts = self.counts, Counts()
        parts = [
            f"{count} {'result' if count == 1 else 'results'} {what}"
            for count, what in ((now.taken, "taken from it"), (now.put, "put there"), (now.refused, "refused"))
            if count
        ]
        return f"the shared store {self.where}: {', '.join(parts)}" if parts else ""

    # ---- reading

    def fetch(
        self, stage: str, key: str, *, into: Store, facts: type[BaseModel], unfit: Callable[[Result], str]
    ) -> Result | None:
        """Copy a result into the local store. See the protocol."""
        if not self._reads:
            return None
        try:
            statement = self._statement(stage, key)
            if statement is None:
                return None
            with into.scratch() as folder:
                found = self._files(statement, folder)
                _check_facts(found, facts, unfit)
                result = into.put(
                    stage, key, identity=found.identity, facts=found.facts, files=found.files, origin=self._origin
                )
        except ObjectError as error:
            self._failed(f"{stage}/{key} cannot be read", error)
        except (_RefusedError, ListingError) as refused:
            self._refuse(stage, key, str(refused))
        else:
            self._useful = True
            self.counts.taken += 1
            return result
        return None

    def record(self, stage: str, key: str, *, facts: type[BaseModel], into: Path) -> Result | None:
        """Return a result without its large files. See the protocol."""
        if not self._reads:
            return None
        try:
            statement = self._statement(stage, key)
            if statement is None:
                return None
            into.mkdir(parents=True, exist_ok=True)
            small = [file for file in statement.files if file.bytes <= SMALL]
            files = {file.name: into / file.name for file in statement.files}
            with full_disk_errors(into):
                files |= {file.name: self._file(file, into) for file in small}
            found = Result(
                stage=stage,
                key=key,
                identity=statement.identity,
                facts=statement.facts,
                files=files,
                origin=self._origin,
            )
            _check_facts(found, facts, lambda _result: "")
        except ObjectError as error:
            self._failed(f"{stage}/{key} cannot be read", error)
        except (_RefusedError, ListingError) as refused:
            self._refuse(stage, key, str(refused))
        else:
            return found
        return None

    def _refuse(self, stage: str, key: str, why: str) -> None:
        """Say that a result is not taken, and remember that it may be replaced."""
        self._say(f"what the shared store {self.where} has under {stage}/{key} is not taken: {why}")
        with self._lock:
            self._refused.add(path_of(stage, key))
            self.counts.refused += 1
            ends = self._reads and not self._useful and len(self._refused) >= REFUSALS
            if ends:
                self._reads = self._writes = False
        if ends:
            self._say(f"the shared store {self.where} is not used in this run: it has nothing that can be taken")

    def _statement(self, stage: str, key: str) -> ResultStatement | None:
        """Return the statement of a result, after its signature was judged; None if there is none."""
        data = self._objects.read(path_of(stage, key), limit=LIMIT)
        if data is None:
            return None
        listing = parsed(data)
        try:
            why = self._seals.refusal(listing.statement.encode("utf-8", "surrogatepass"), listing.signature)
        except FullDiskError:
            raise
        except ForgeError as error:
            process.pause(0)
            why = f"its signature cannot be judged: {error.message}"
        if why:
            raise _RefusedError(one_line(why))
        return statement_in(listing, stage=stage, key=key)

    def _files(self, statement: ResultStatement, folder: Path) -> Result:
        """Copy the files of a result into a folder; compare them with their digests on the way."""
        total = 0
        for file in statement.files:
            total += file.bytes
            if file.bytes > self._file_limit:
                raise _RefusedError(f"{file.name} has more than {size_text(self._file_limit)} (limits.file_mib)")
        free = room("results", folder).free
        if free is not None and total + SPARE > free:
            raise _RefusedError(f"its {size_text(total)} leave no room on the disk")
        files = {file.name: self._file(file, folder) for file in statement.files}
        return Result(
            stage=statement.stage,
            key=statement.key,
            identity=statement.identity,
            facts=statement.facts,
            files=files,
        )

    def _file(self, file: ListedFile, folder: Path) -> Path:
        path = folder / file.name
        if not self._objects.download(path_of_file(file.sha256), path, size=file.bytes):
            raise _RefusedError(f"the file {file.name} is gone")
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise _RefusedError(f"the file {file.name} does not have the digest of its name")
        return path

    # ---- writing

    def offer(self, result: Result, *, replace: bool = True, whole: bool = False) -> bool:
        """Put a result of the local store there. See the protocol."""
        name = f"{result.stage}/{result.key}"
        if not self._writes:
            return False
        try:
            listing = path_of(result.stage, result.key)
            if not replace and listing not in self._refused and self._objects.size(listing) is not None:
                return True
            statement = statement_of(result)
            data = written(statement, self._signed)
            self._send(statement, result, whole=whole)
            self._objects.write(listing, data)
            if not self._kept(listing):
                self._end_writes(f"{name} was put there, and is not there; it gets nothing more in this run")
                return False
            with self._lock:
                self._refused.discard(listing)
        except ObjectError as error:
            self._failed(f"{name} cannot be put there", error, writing=True)
        except (ListingError, OSError) as error:
            self._say(f"{name} is not put into the shared store {self.where}: {one_line(str(error))}")
        except FullDiskError:
            raise
        except ForgeError as error:
            process.pause(0)  # of an interrupted run, which is no error of the store
            self._end_writes(f"{error.message}; it gets nothing more in this run")
        else:
            self.counts.put += 1
            return True
        return False

    def _kept(self, listing: str) -> bool:
        """Return whether there is a listing now: this one, or that of another machine that has put it there since.

        It is looked for once in a run: a page that answers for everything takes a PUT, too.
        """
        if not self._useful:
            try:
                data = self._objects.read(listing, limit=LIMIT)
                self._useful = data is not None and bool(parsed(data).statement)
            except ListingError:
                return False
        return self._useful

    def _signed(self, text: bytes) -> str:
        """Return the signature of a text. The first one is judged as readers do.

        Raises:
            ForgeError: the key cannot be used, or is not trusted.
        """
        signature = self._seals.sign(text)
        if not self._proven and (why := self._seals.refusal(text, signature)):
            raise KeyFileError(f"nobody would take what this machine signs: {why}")
        self._proven = True
        return signature

    def _send(self, statement: ResultStatement, result: Result, *, whole: bool) -> None:
        """Send the files of a result; if what is there was not refused, only those that are not there in their size."""
        with self._lock:
            whole = whole or path_of(result.stage, result.key) in self._refused
        for file in statement.files:
            target = path_of_file(file.sha256)
            if whole or self._objects.size(target) != file.bytes:
                self._objects.write(target, result.files[file.name])

    # ---- notices

    def _say(self, text: str) -> None:
        self._notice(text)

    def _failed(self, what: str, error: ObjectError, *, writing: bool = False) -> None:
        """Say what failed. If it will fail again, say so once, and do not try again."""
        reason = one_line(str(error))
        if not error.ends:
            self._say(f"the shared store {self.where}: {what}: {reason}")
        elif writing:
            self._end_writes(f"{what}: {reason}; it gets nothing more in this run")
        else:
            with self._lock:
                first, self._reads, self._writes = self._reads, False, False
            if first:
                self._say(f"the shared store {self.where} is not used in this run: {reason}")

    def _end_writes(self, text: str) -> None:
        with self._lock:
            first, self._writes = self._writes, False
        if first:
            self._say(f"the shared store {self.where}: {text}")


def _check_facts(found: Result, facts: type[BaseModel], unfit: Callable[[Result], str]) -> None:
    """Raise _RefusedError unless facts and files are such as the stage itself would leave."""
    try:
        found.read(facts)
    except HostError as error:
        raise _RefusedError(one_line(error.message)) from None
    if why := unfit(found):
        raise _RefusedError(one_line(why))
