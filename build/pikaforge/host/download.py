"""Downloads of files whose SHA-256 is known: kept in a folder, resumed after a cut, and never trusted unread."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from pikaforge.errors import ConfigError, HostError, UnreachableError
from pikaforge.host.net import redacted
from pikaforge.host.store import sha256, write_atomically
from pikaforge.host.transfer import (
    DATE,
    LENGTH,
    STRONG,
    _asked,
    _CutError,
    _FailedError,
    _local,
    _of_body,
    _of_file,
    _rest,
    _scheme,
    _status,
    _validator,
)

FILE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}"
"""Name of a downloaded file; 55 bytes are left for what is kept beside it."""

if TYPE_CHECKING:
    from requests import Response

LIMIT = 256 << 20
"""Bytes of one file; a source tarball has a hundredth of that."""
TRIES = 5
"""Requests to one source within one call, as long as each of them brings at least one byte."""
LOOK = 0.2
"""Seconds between two looks at a lock that another process holds, so that `abort` is heard meanwhile."""

DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(FILE_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A file that is pinned.

    Raises:
        ConfigError: the name is no plain file name, or the digest no SHA-256.
    """

    name: str
    """File name in the download folder, and at mirrors: NAME-1.0.tar.gz."""
    url: str
    """http, https or file."""
    sha256: str
    """64 lower-case hex digits."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot be the name of a download",
                hint="letters, digits and . _ + ~ - only, and a letter or digit first",
            )
        if not DIGEST.fullmatch(self.sha256):
            raise ConfigError(
                f"the SHA-256 of {self.name} is {self.sha256!r}, which is no SHA-256",
                hint="64 hex digits in lower case, as `sha256sum` prints them",
            )


def _unheard(_text: str) -> None:
    """Where notices go if nobody listens."""


class Downloads:
    """The download folder, and the ways to fill it.

    Threads and processes may share it: of those that want one file, one downloads and the others wait for it.
    Beside a file NAME there may be `.NAME.part` with `.NAME.part.json` (a download that was cut, and what it can be
    resumed by), and `.NAME.lock`. Proxies come from the environment, as for requests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mirrors: Sequence[str] = (),
        notice: Callable[[str], None] = _unheard,
        option: str = "",
    ) -> None:
        """Touch nothing yet; the folder is made when it is needed.

        Args:
            folder: where files are kept, each under its `Wanted.name`.
            mirrors: URLs (http, https or file) to which `/NAME` is added; asked in this order, before a file's own.
            notice: told, in one line without secrets, what went wrong but does not end the download.
            option: the command line's option that names a local file, for hints.
        """
        self.folder = folder
        self._mirrors = tuple(mirrors)
        self._notice = notice
        self._option = f", or name it with {option}" if option else ""
        self._aborted = threading.Event()

    def path(self, wanted: PinnedFile) -> Path:
        """Where a file is kept once it is here."""
        return self.folder / wanted.name

    def get(self, wanted: PinnedFile, *, given: Path | None = None) -> Path:
        """A local file with the wanted digest, which is verified at every call.

        Args:
            wanted: what to get.
            given: a file that the user named; used in its place, never copied, changed or removed, and no other is
                looked for.

        Raises:
            ConfigError: `given` cannot be read, or has another digest.
            HostError: no source has the file, the folder cannot be used, or `abort` was called.
        """
        if given is not None:
            return _verified(given, wanted)
        path = self.path(wanted)
        try:
            # Without the lock, so that a folder which somebody else has filled may be read-only.
            if path.is_file() and sha256(path) == wanted.sha256:
                return path
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone(wanted):
                return self._fetch(wanted)
        except OSError as error:
            raise HostError(
                f"cannot keep {wanted.name}: {error.strerror or error}",
                where=str(error.filename or path),
                hint="is the disk full, or the folder somebody else's?",
            ) from error

    def abort(self) -> None:
        """End what other threads do here, at the next block or stall; nothing is begun afterwards."""
        self._aborted.set()

    def _go_on(self) -> None:
        if self._aborted.is_set():
            raise HostError("interrupted")

    @contextmanager
    def _alone(self, wanted: PinnedFile) -> Iterator[None]:
        """One at a time for each name, over threads and processes; the kernel frees the lock of a killed one."""
        with (self.folder / f".{wanted.name}.lock").open("ab") as lock:
            told = False
            while True:
                self._go_on()
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        self._notice(f"{wanted.name} is being downloaded by another run: waiting for it")
                        told = True
                    self._aborted.wait(LOOK)
            yield

    def _fetch(self, wanted: PinnedFile) -> Path:
        path = self.path(wanted)
        failures: list[str] = []
        if path.is_file():
            found = sha256(path)
            if found == wanted.sha256:  # the one we waited for brought it
                return path
            self._notice(f"{path} has SHA-256 {found}, not {wanted.sha256}: it is removed and downloaded anew")
            path.unlink()
            failures.append(f"{path} had SHA-256 {found}, not {wanted.sha256}, and was removed")
        part = _Part(path.with_name(f".{wanted.name}.part"))
        if part.path.is_file() and sha256(part.path) == wanted.sha256:  # killed just before the end
            return part.keep(path)
        sources = [*(_at(mirror, wanted.name) for mirror in self._mirrors), wanted.url]
        for index, url in enumerate(sources):
            self._go_on()
            try:
                self._take(url, part, wanted)
            except _FailedError as failed:
                failures.append(f"{redacted(url)} {failed}")
                if index + 1 < len(sources):
                    self._notice(f"{failures[-1]}; {redacted(sources[index + 1])} is tried next")
            else:
                return part.keep(path)
        # Raised out here, without a cause: the texts of what requests raised have whole URLs, and `--debug` shows them.
        apart = "\n    " if len(failures) > 1 else " "
        raise UnreachableError(
            apart.join([f"cannot download {wanted.name}:", *failures]),
            hint=f"without network: put a file with SHA-256 {wanted.sha256} at {path}{self._option}\n"
            f"or set a mirror that has {wanted.name}; a proxy is taken from the environment (https_proxy)",
        )

    def _take(self, url: str, part: _Part, wanted: PinnedFile) -> None:
        """Bring the whole file from one source; it is in `part` then, and verified."""
        for left in reversed(range(TRIES)):
            try:
                resumed = self._receive(url, part)
            except _CutError as cut:
                if cut.received and left:
                    continue
                raise _FailedError(str(cut)) from cut
            found = sha256(part.path)
            if found == wanted.sha256:
                return
            part.drop()
            # After a resumption, the bytes of before may be to blame: a machine that lost power leaves zeros.
            if not (resumed and left):
                raise _FailedError(f"has SHA-256 {found}, but {wanted.sha256} is expected")

    def _receive(self, url: str, part: _Part) -> bool:
        """Fill `part` with one body, or the rest of it; whether bytes of before were gone on from."""
        if _scheme(url) == "file":
            path = _local(url)
            with part.begin(url, "") as stream:
                self._write(_of_file(path), stream, part)
            return False
        offset, validator = part.held(url)
        if offset:
            with _asked(url, {"Range": f"bytes={offset}-", "If-Range": validator}) as answer:
                if answer.status_code == http.client.OK:
                    self._write_whole(answer, url, part)
                    return False
                rest = _rest(answer, offset, validator)
                if rest is not None:
                    self._check_size(offset + rest, part)
                    with part.go_on() as stream:
                        self._write(_of_body(answer, rest), stream, part)
                    return True
            part.drop()
        with _asked(url, {}) as answer:
            if answer.status_code != http.client.OK:
                raise _FailedError(_status(answer))
            self._write_whole(answer, url, part)
        return False

    def _write_whole(self, answer: Response, url: str, part: _Part) -> None:
        length = answer.headers.get("Content-Length", "")
        # With chunks the length is not the body's (RFC 9112, section 6.3).
        known = LENGTH.fullmatch(length) and "Transfer-Encoding" not in answer.headers
        expected = int(length) if known else None
        self._check_size(expected or 0, part)
        with part.begin(url, _validator(answer)) as stream:
            self._write(_of_body(answer, expected), stream, part)

    def _write(self, blocks: Iterable[bytes], stream: IO[bytes], part: _Part) -> None:
        for block in blocks:
            self._go_on()
            self._check_size(stream.tell() + len(block), part)
            stream.write(block)
            stream.flush()  # what a killed run has received is there for the next one

    @staticmethod
    def _check_size(size: int, part: _Part) -> None:
        if size > LIMIT:
            part.drop()
            raise _FailedError(f"is larger than {LIMIT >> 20} MiB")


class _Part:
    """A file in the making, and what is known of where it came from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record = path.with_name(f"{path.name}.json")

    def held(self, url: str) -> tuple[int, str]:
        """Bytes that came from this URL, and the validator they came with; (0, "") if there is no going on."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            source, validator = record["url"], record["validator"]
            size = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0, ""
        good = isinstance(validator, str) and (STRONG.fullmatch(validator) or DATE.fullmatch(validator))
        return (size, validator) if good and source == redacted(url) else (0, "")

    def begin(self, url: str, validator: str) -> IO[bytes]:
        """Open it, empty. In this order, so that old bytes are never beside a new validator."""
        stream = self.path.open("wb")
        try:
            if validator:
                write_atomically(self._record, json.dumps({"url": redacted(url), "validator": validator}))
            else:
                self._record.unlink(missing_ok=True)
        except BaseException:
            stream.close()
            raise
        return stream

    def go_on(self) -> IO[bytes]:
        """Open it at its end."""
        return self.path.open("ab")

    def drop(self) -> None:
        """Remove it."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def keep(self, path: Path) -> Path:
        """Make it the file that it was to become."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.chmod(0o644)
        self.path.replace(path)
        self._record.unlink(missing_ok=True)
        return path


def _verified(given: Path, wanted: PinnedFile) -> Path:
    hint = f"name another file, or none: {wanted.name} is downloaded then"
    if not given.is_file():
        what = "is not a file" if given.exists() else "does not exist"
        raise ConfigError(f"{given}, given as {wanted.name}, {what}", hint=hint)
    try:
        found = sha256(given)
    except OSError as error:
        raise ConfigError(f"{given}, given as {wanted.name}, cannot be read: {error.strerror}", hint=hint) from error
    if found != wanted.sha256:
        raise ConfigError(
            f"{given} is not the {wanted.name} that is pinned: it has SHA-256 {found}, but {wanted.sha256} is expected",
            hint=hint,
        )
    return given


def _at(mirror: str, name: str) -> str:
    """The URL of a file at a mirror, whose own may have a query."""
    try:
        parts = urlsplit(mirror)
    except ValueError:
        return mirror  # `_scheme` says so when its turn has come
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment="").geturl()
