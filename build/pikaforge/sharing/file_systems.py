"""Shared stores in S3 and in other places that fsspec knows.

In S3, credentials of the store are an access key and its secret; without any, botocore's own chain counts (AWS_*
variables, ~/.aws, the machine's role). For other kinds, their own settings count.

What a server of S3 answers is bounded in bytes and in time. So is the time of other kinds that fsspec runs in its own
loop; how much these read is for their packages to say.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from pikaforge.errors import DestinationError, ForgeError, ProgramError
from pikaforge.host import extras, process
from pikaforge.host.http import redacted
from pikaforge.host.text import one_line, size_text
from pikaforge.publish.sites.webdav import beside
from pikaforge.sharing.objects import EXTRA, ObjectError, ObjectStoreSettings, patience, size_of
from pikaforge.sharing.s3_answers import bounded_session

BLOCK = 8 << 20
"""Bytes that are asked for at once."""
WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
"""Object stores: an object is there when it is complete. Elsewhere it is written beside, and moved."""
S3_SCHEMES = ("s3", "s3a")
TRIES = 2


class _FileSystem(Protocol):
    """What is used of fsspec's file systems (fsspec.spec.AbstractFileSystem)."""

    retries: int
    """How often s3fs itself repeats a request."""
    async_impl: bool
    """Whether calls run in fsspec's loop; those take the seconds after which they are ended (fsspec.asyn.sync)."""

    def cat_file(self, path: str, *, start: int, end: int, **options: float) -> bytes: ...
    def info(self, path: str, **options: float) -> Mapping[str, object]: ...
    def pipe_file(self, path: str, value: bytes, **options: float) -> None: ...
    def put_file(self, lpath: str, rpath: str, *, callback: object, **options: float) -> None: ...
    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...
    def mv(self, path1: str, path2: str) -> None: ...
    def invalidate_cache(self) -> None: ...
    def connect(self) -> object: ...  # of s3fs


class FileSystemObjects:
    """Objects in a file system of fsspec. See `objects.ObjectStore`."""

    def __init__(self, url: str, options: Mapping[str, object], *, timeout: float) -> None:
        """Import what the kind needs; ask nothing yet.

        Args:
            url: of the place.
            options: for fsspec, beside the URL.
            timeout: seconds without an answer.

        Raises:
            ConfigError: fsspec knows no such kind.
            HostError: a Python package is missing.
        """
        self._url = url.rstrip("/")
        self.where = redacted(self._url)
        self._scheme = url.partition(":")[0]
        self._options = dict(options)
        self._timeout = timeout
        fsspec = extras.load("fsspec", package="fsspec", extra=EXTRA)
        try:
            fsspec.get_filesystem_class(self._scheme)
        except ImportError as error:
            raise ProgramError(
                f"a Python package for {self._scheme}:// cannot be imported: {one_line(str(error))[:200]}",
                hint="install it beside pikaforge",
            ) from error
        except ValueError as error:
            raise DestinationError(f"{self.where}: {one_line(str(error))[:200]}", where="store") from error
        self._open_url = fsspec.core.url_to_fs
        self._slow: type[Exception] = fsspec.exceptions.FSTimeoutError
        self._paced = _paced(fsspec.callbacks.Callback)
        self._lock = threading.Lock()
        self._system: tuple[_FileSystem, str] | None = None

    @property
    def _place(self) -> tuple[_FileSystem, str]:
        with self._lock:
            if self._system is None:
                found = cast("tuple[_FileSystem, str]", self._open_url(self._url, **self._options))
                found[0].retries = TRIES
                if self._scheme in S3_SCHEMES:
                    found[0].connect()  # reads the service's description, which is no time of the server's
                self._system = found
        return self._system

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Return an object; None if there is none."""
        size = self.size(path)
        if size is None:
            return None
        if size > limit:
            raise ObjectError(f"it is larger than {size_text(limit)}", ends=False)
        if size == 0:  # of which no range can be asked for
            return b""
        return self._range(path, 0, size)

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Copy an object to a file; return whether there is one."""
        there = self.size(path)
        if there is None:
            return False
        with into.open("wb") as target:
            left = min(there, size + 1)
            while left > 0:
                process.pause(0)
                block = self._range(path, min(there, size + 1) - left, min(BLOCK, left))
                target.write(block)  # an error of this machine, not of the store
                left -= len(block)
        return True

    def _range(self, path: str, start: int, length: int) -> bytes:
        with self._errors(length):
            system, root = self._place
            block = system.cat_file(f"{root}/{path}", start=start, end=start + length, **self._within(length))
        if len(block) != length:  # it is not the range that was asked for
            raise ObjectError(f"{len(block):,} bytes were sent, and {length:,} asked for", ends=False)
        return block

    def _within(self, size: int) -> dict[str, float]:
        """Return the option that ends a call which takes too long for so many bytes, where there is such an option."""
        return {"timeout": patience(self._timeout, size)} if self._place[0].async_impl else {}

    def size(self, path: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        with self._errors():
            system, root = self._place
            system.invalidate_cache()  # what was not there before may be there now
            try:
                size = system.info(f"{root}/{path}", **self._within(0)).get("size")
            except FileNotFoundError:
                return None
        return size if isinstance(size, int) else None

    def write(self, path: str, content: Path | bytes) -> None:
        """Write an object; where it would be seen before it is complete, beside, and move it."""
        with self._errors(size_of(content)):
            system, root = self._place
            target = f"{root}/{path}"
            if self._scheme in WHOLE:
                self._send(system, target, content)
                return
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._send(system, beside(target), content)
            try:
                system.mv(beside(target), target)
            except FileNotFoundError:
                if self.size(path) is None:
                    raise
                # Else another one has sent the same object, and moved it.

    def _send(self, system: _FileSystem, target: str, content: Path | bytes) -> None:
        within = self._within(size_of(content))
        if isinstance(content, bytes):
            system.pipe_file(target, content, **within)
            return
        system.put_file(str(content), target, callback=self._paced(), **within)

    @contextmanager
    def _errors(self, size: int = 0) -> Iterator[None]:
        """Make errors of a call one of the kind that stores have.

        Args:
            size: bytes that the call sends or gets.
        """
        try:
            yield
        except (ForgeError, ObjectError):
            raise
        except self._slow:
            seconds = patience(self._timeout, size)
            raise ObjectError(f"there was no whole answer within {seconds:.0f} seconds", ends=True) from None
        except FileNotFoundError as error:  # such as the bucket
            raise ObjectError(_brief(error), ends=True) from None
        except Exception as error:  # noqa: BLE001  # each kind of file system has errors of its own
            raise ObjectError(_brief(error), ends=True) from None


def _paced(callback: type[object]) -> type[object]:
    """Return a callback of fsspec's kind for transfers, which end when the run is interrupted."""

    def update(_self: object, _bytes: int = 1) -> None:
        process.pause(0)

    return type("Paced", (callback,), {"relative_update": update})


def _brief(error: BaseException) -> str:
    """Return an error in one line, without what may be a secret."""
    text = re.sub(r"://[^\s/]*@", "://***@", " ".join(str(error).split()))
    text = re.sub(r"\?[^\s'\"<>)]+", "?***", text)
    return one_line(f"{type(error).__name__}: {text}"[:300])


class S3Kind:
    """Shared stores in a bucket. See `objects.ObjectStoreKind`."""

    title = "a bucket"

    def open(self, settings: ObjectStoreSettings) -> FileSystemObjects:
        """Return the objects below s3://BUCKET/PREFIX."""
        found = settings.credentials
        if found is not None and found.token:
            raise DestinationError("S3 takes no token: give an access key and its secret", where=found.source)
        options: dict[str, object] = {
            "config_kwargs": {
                "connect_timeout": settings.timeout,
                "read_timeout": settings.timeout,
                "retries": {"max_attempts": TRIES},
                "http_session_cls": bounded_session(),
            },
            "use_listings_cache": False,
            "skip_instance_cache": True,
        }
        extras.load("s3fs", package="s3fs", extra=EXTRA)
        if found is not None:
            options |= {"key": found.user, "secret": found.password}
        if settings.endpoint:
            options["endpoint_url"] = settings.endpoint
        return FileSystemObjects(settings.url, options, timeout=settings.timeout)


class OtherKind:
    """Shared stores of other kinds that fsspec knows. See `objects.ObjectStoreKind`."""

    title = "a file system of fsspec"

    def open(self, settings: ObjectStoreSettings) -> FileSystemObjects:
        """Return the objects below the URL."""
        return FileSystemObjects(settings.url, {"skip_instance_cache": True}, timeout=settings.timeout)


S3 = S3Kind()
OTHER = OtherKind()
