"""Downloads of files whose SHA-256 is known: kept in a folder, resumed after a cut, verified before they are used."""

from __future__ import annotations

import fcntl
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from pikaforge.errors import HostError, PinError, UnreachableError
from pikaforge.host import offline
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.http import CutError, HttpError, Retries, local_path, phrase, redacted
from pikaforge.host.partial import PartialFile, range_of, remaining, validator_of
from pikaforge.host.store import sha256
from pikaforge.host.text import ignore, size_text

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer, Client

FILE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}"
"""Name of a downloaded file; 55 bytes are left for what is kept beside it."""
LIMIT = 256 << 20
"""Bytes of one file; a source tarball has a hundredth of that."""
BLOCK = 1 << 14
"""Bytes that a cut connection may cost."""
RETRIES = Retries(tries=3, connections=False, longest=10.0)
"""If a source does not answer, the next one is tried at once."""
TRIES = 5
"""Bodies that one source sends within one call, as long as each of them brings at least one byte."""
LOCK_INTERVAL = 0.2
"""Seconds between two looks at a lock that another process holds, so that `abort` is noticed meanwhile."""

DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(FILE_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A file with a known digest.

    Raises:
        ConfigError: the name is no plain file name, or the digest no SHA-256.
    """

    name: str
    """Name in the download folder and at mirrors: NAME-1.0.tar.gz."""
    url: str
    """http, https or file."""
    sha256: str
    """64 lower-case hex digits."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise PinError(
                f"{self.name!r} cannot be the name of a download",
                hint="letters, digits and . _ + ~ - only, and a letter or digit first",
            )
        if not DIGEST.fullmatch(self.sha256):
            raise PinError(
                f"the SHA-256 of {self.name} is {self.sha256!r}, which is no SHA-256",
                hint="64 hex digits in lower case, as `sha256sum` prints them",
            )


class _SourceError(Exception):
    """A source does not have the file; the text continues a sentence that begins with the source's URL."""


class Downloads:
    """The download folder, and the ways to fill it.

    Threads and processes may share it: of those that want one file, one downloads and the others wait for it.
    Beside a file NAME there may be `.NAME.part` with `.NAME.part.json` (see `partial`), and `.NAME.lock`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mirrors: Sequence[str] = (),
        notice: Callable[[str], None] = ignore,
        option: str = "",
    ) -> None:
        """Touch nothing yet; the folder is made when it is needed.

        Args:
            folder: where files are kept, each under its `PinnedFile.name`.
            mirrors: URLs (http, https or file) to which `/NAME` is added; asked in this order, before a file's own.
            notice: gets, in one line without secrets, what went wrong but does not end the download.
            option: the command line's option that names a local file, for hints.
        """
        self.folder = folder
        self._mirrors = tuple(mirrors)
        self._notice = notice
        self._option = f", or name it with {option}" if option else ""
        self._aborted = threading.Event()

    def path(self, wanted: PinnedFile) -> Path:
        """Return where a file is kept once it is here."""
        return self.folder / wanted.name

    def get(self, wanted: PinnedFile, *, given: Path | None = None) -> Path:
        """Return a local file with the wanted digest, which is verified at every call.

        Args:
            wanted: what to get.
            given: a file of the user. It is used where it is, never copied, changed or removed, and no source is asked.

        Raises:
            ConfigError: `given` cannot be read, or has another digest.
            HostError: no source has the file, the folder cannot be used, or `abort` was called.
        """
        if given is not None:
            return verified(given, wanted)
        path = self.path(wanted)
        try:
            # Without the lock, because the folder may be a read-only one with all files in it.
            if path.is_file() and sha256(path) == wanted.sha256:
                return path
            with full_disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with self._locked(wanted):
                    return self._fetch(wanted)
        except OSError as error:
            raise HostError(
                f"cannot keep {wanted.name}: {error.strerror or error}",
                where=str(error.filename or path),
                hint="is the folder read-only, or somebody else's?",
            ) from error

    def abort(self) -> None:
        """End downloads of other threads at their next block or stall. No download begins afterwards."""
        self._aborted.set()

    def _check_aborted(self) -> None:
        if self._aborted.is_set():
            raise HostError("interrupted")

    def _pause(self, seconds: float) -> None:
        self._aborted.wait(seconds)
        self._check_aborted()

    @contextmanager
    def _locked(self, wanted: PinnedFile) -> Iterator[None]:
        """Hold the lock of a name against other threads and processes. The kernel releases that of a killed process."""
        with (self.folder / f".{wanted.name}.lock").open("ab") as lock:
            waits = False
            while True:
                self._check_aborted()
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waits:
                        self._notice(f"{wanted.name} is being downloaded by another run: waiting for it")
                        waits = True
                    self._aborted.wait(LOCK_INTERVAL)
            yield

    def _fetch(self, wanted: PinnedFile) -> Path:
        path = self.path(wanted)
        failures: list[str] = []
        if path.is_file():
            found = sha256(path)
            if found == wanted.sha256:  # the holder of the lock has downloaded it
                return path
            self._notice(f"{path} has SHA-256 {found}, not {wanted.sha256}: it is removed and downloaded anew")
            path.unlink()
            failures.append(f"{path} had SHA-256 {found}, not {wanted.sha256}, and was removed")
        part = PartialFile(path.with_name(f".{wanted.name}.part"))
        if part.path.is_file() and sha256(part.path) == wanted.sha256:  # killed just before the end
            return part.keep(path)
        sources = [*(_at(mirror, wanted.name) for mirror in self._mirrors), wanted.url]
        for index, url in enumerate(sources):
            self._check_aborted()
            if not url.startswith("file:"):
                hint = f"or put a file with SHA-256 {wanted.sha256} at {path}{self._option}"
                offline.refuse(f"{wanted.name} ({redacted(url)})", hint=hint)
            try:
                self._take(url, part, wanted)
            except _SourceError as failed:
                failures.append(f"{redacted(url)} {failed}")
                if index + 1 < len(sources):
                    self._notice(f"{failures[-1]}; {redacted(sources[index + 1])} is tried next")
            else:
                return part.keep(path)
        separator = "\n    " if len(failures) > 1 else " "
        raise UnreachableError(
            separator.join([f"cannot download {wanted.name}:", *failures]),
            hint=f"without network: put a file with SHA-256 {wanted.sha256} at {path}{self._option}\n"
            f"or set a mirror that has {wanted.name}; a proxy is taken from the environment (https_proxy)",
        )

    def _take(self, url: str, part: PartialFile, wanted: PinnedFile) -> None:
        """Bring the whole file from one source into `part`, and verify it."""
        for left in reversed(range(TRIES)):
            try:
                resumed = self._copy(url, part) if _scheme(url) == "file" else self._download(url, part)
            except CutError as cut:
                if cut.received and left:
                    continue
                raise _SourceError(f"was cut off: {cut}") from cut
            found = sha256(part.path)
            if found == wanted.sha256:
                return
            part.drop()
            # After a resumption, the kept bytes may be wrong: a machine that lost power leaves zeros in a file.
            if not (resumed and left):
                raise _SourceError(f"has SHA-256 {found}, but {wanted.sha256} is expected")

    def _copy(self, url: str, part: PartialFile) -> bool:
        path = _local(url)
        with part.begin(url, "") as stream:
            self._write(_blocks_of(path), stream, part)
        return False

    def _download(self, url: str, part: PartialFile) -> bool:
        """Fill `part` with one body, or the rest of it; return whether bytes of before were kept."""
        from pikaforge.host.http_session import Client  # noqa: PLC0415  # imports requests

        # What comes is verified by its digest, so it need not be encrypted.
        with Client(retries=replace(RETRIES, wait=self._pause), downgrade=True) as client:
            offset, validator = part.held(url)
            if offset:
                with _answer(client, url, range_of(offset, validator)) as answer:
                    if answer.status == HTTPStatus.OK:
                        self._write_whole(answer, url, part)
                        return False
                    rest = remaining(answer, offset, validator)
                    if rest is not None:
                        self._check_size(offset + rest, part)
                        with part.append() as stream:
                            self._write(answer.blocks(BLOCK, expected=rest), stream, part)
                        return True
                part.drop()
            with _answer(client, url, {}) as answer:
                if answer.status != HTTPStatus.OK:
                    raise _SourceError(f"answers {phrase(answer.status)}")
                self._write_whole(answer, url, part)
        return False

    def _write_whole(self, answer: Answer, url: str, part: PartialFile) -> None:
        self._check_size(answer.length or 0, part)
        with part.begin(url, validator_of(answer.headers)) as stream:
            self._write(answer.blocks(BLOCK), stream, part)

    def _write(self, blocks: Iterable[bytes], stream: IO[bytes], part: PartialFile) -> None:
        for block in blocks:
            self._check_aborted()
            self._check_size(stream.tell() + len(block), part)
            stream.write(block)
            stream.flush()  # what a killed run has received is there for the next one

    @staticmethod
    def _check_size(size: int, part: PartialFile) -> None:
        if size > LIMIT:
            part.drop()
            raise _SourceError(f"is larger than {size_text(LIMIT)}")


def _scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) if parts.scheme in {"http", "https"} else parts.netloc in {"", "localhost"}
        _ = parts.port  # raises here if it is no number
    except ValueError:
        good = False
    if not good or parts.scheme not in {"http", "https", "file"}:
        raise _SourceError("is not a URL with http://, https:// or file:///")
    return parts.scheme


@contextmanager
def _answer(client: Client, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
    """Get an answer of 200, 206 or 416 whose body has not been read."""
    try:
        opened = client.open("GET", url, headers=headers)
    except HttpError as error:
        raise _SourceError(f"cannot be reached: {error}") from error
    with opened as answer:
        if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise _SourceError(f"answers {phrase(answer.status)}")
        if answer.encoded:
            raise _SourceError("comes with a Content-Encoding, though none was asked for")
        yield answer


def _local(url: str) -> Path:
    """Return the path of a file:// URL; it must be a file."""
    path = local_path(url)
    try:
        if path.is_file():  # a pipe would never end
            return path
        raise _SourceError("is not a file" if path.exists() else "does not exist")
    except (OSError, ValueError) as error:
        raise _SourceError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _blocks_of(path: Path) -> Iterator[bytes]:
    """Yield the blocks of a file that is a source."""
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    except OSError as error:
        raise _SourceError(f"cannot be read: {error.strerror}") from error


def verified(given: Path, wanted: PinnedFile) -> Path:
    """Return a file of the user that is taken for a pinned one.

    Raises:
        ConfigError: it cannot be read, or has another digest.
    """
    hint = f"name another file, or none: {wanted.name} is downloaded then"
    if not given.is_file():
        what = "is not a file" if given.exists() else "does not exist"
        raise PinError(f"{given}, given as {wanted.name}, {what}", hint=hint)
    try:
        found = sha256(given)
    except OSError as error:
        raise PinError(f"{given}, given as {wanted.name}, cannot be read: {error.strerror}", hint=hint) from error
    if found != wanted.sha256:
        raise PinError(
            f"{given} is not the {wanted.name} that is pinned: it has SHA-256 {found}, but {wanted.sha256} is expected",
            hint=hint,
        )
    return given


def _at(mirror: str, name: str) -> str:
    """Return the URL of a file at a mirror. The mirror's URL may have a query."""
    try:
        parts = urlsplit(mirror)
    except ValueError:
        return mirror  # `_scheme` reports it
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}", fragment="").geturl()
