"""Files on a server that takes PUT and DELETE, and MOVE if it is a WebDAV server.

Readers see a file whole or not at all, and what was written is read back. A temporary name depends on the file's name
only. Because one publisher at a time writes, the next one overwrites what a killed one has left, without a list of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from pikaforge.errors import PublishError
from pikaforge.host.http import Content, redacted
from pikaforge.host.store import sha256
from pikaforge.host.text import ignore
from pikaforge.publish.sites.client import LIMIT, RefusedError, SiteClient

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer

DIGEST_HEADER = "X-Checksum-Sha256"
"""Header of repository managers with the digest of what they have stored."""
NO_MOVE = (400, 404, 405, 501)
"""Answers of servers that do not know MOVE. 400 and 404 may have another reason."""
TRIES = 5
"""How often a file is sent until what comes back is the same."""
NO_FOLDER = (409, 500)
"""Answers to a PUT below a missing folder: that of the standard, and that of nginx."""


def digest_of(content: Content) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(content)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def drained(answer: Answer) -> bool:
    """Read a body that is not needed, so that the connection can be used again; return True."""
    answer.drain()
    return True


def beside(path: str) -> str:
    """Return the temporary name of a file."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name.lstrip('.')}.part"


class DavClient:
    """Files below a URL. Paths are relative to it. One thread at a time."""

    def __init__(self, url: str, client: SiteClient, *, notice: Callable[[str], None] = ignore) -> None:
        self._top = url.rstrip("/")
        self.where = redacted(self._top)
        self._client = client
        self._notice = notice
        self._folders: set[str] = set()
        self.moves = True
        """Whether the server knows MOVE. It is True until the server has refused one."""

    def url(self, path: str) -> str:
        """Return the URL of a file; raise PublishError if the path leads elsewhere."""
        if not all(part.strip(".") for part in path.split("/")):
            raise PublishError(f"{path!r} leads elsewhere", where=self.where, hint="is the repository's state damaged?")
        return f"{self._top}/{quote(path, safe='/~')}"

    def get(self, path: str, *, limit: int = LIMIT) -> bytes | None:
        """Return a file; None if there is none."""
        return self._client.get(self.url(path), limit=limit)

    def read(self, path: str, *, limit: int = LIMIT) -> tuple[bytes, Mapping[str, str]] | None:
        """Return a file and its headers; None if there is none."""

        def both(answer: Answer) -> tuple[bytes, Mapping[str, str]]:
            return answer.body(limit), answer.headers

        return self._client.ask("GET", self.url(path), both, also=(404,))

    def headers(self, path: str) -> Mapping[str, str] | None:
        """Return the headers of a file; None if there is none."""
        return self._client.look(self.url(path))

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Copy a file to `into`; return whether there is one. Of one with more than `size` bytes, a part is copied."""

        def write(answer: Answer) -> bool:
            with into.open("wb") as stream:
                for block in answer.blocks():
                    stream.write(block)
                    if stream.tell() > size:  # it is another file, and may have no end
                        break
            return True

        return bool(self._client.ask("GET", self.url(path), write, also=(404,)))

    def has(self, path: str, digest: str, size: int) -> bool:
        """Return whether a file is there with this SHA-256. It is read only if the server sends no digest."""
        headers = self.headers(path)
        if headers is None or headers.get("Content-Length", str(size)) != str(size):
            return False
        stored = headers.get(DIGEST_HEADER, "").lower()
        return stored == digest if stored else self._holds(path, digest, size)

    def _holds(self, path: str, digest: str, size: int) -> bool:
        """Read a file; return whether it is there with these bytes."""

        def read(answer: Answer) -> bool:
            found, received = hashlib.sha256(), 0
            for block in answer.blocks():
                found.update(block)
                received += len(block)
                if received > size:  # it is another file, and may have no end
                    return False
            return found.hexdigest() == digest

        return bool(self._client.ask("GET", self.url(path), read, also=(404,)))

    def put(self, path: str, content: Content, *, headers: Mapping[str, str] | None = None) -> bool:
        """Send a file to its name; return False if a condition in the headers is not met (412)."""
        url = self.url(path)
        if headers:
            return bool(self._client.ask("PUT", url, drained, body=content, headers=headers, also=(412,)))
        if self._client.ask("PUT", url, drained, body=content, also=NO_FOLDER):
            return True
        self._make_folders(path)
        return bool(self._client.ask("PUT", url, drained, body=content))

    def _make_folders(self, path: str) -> None:
        """Make the folders above a file, from the root on. Each folder is asked for once."""
        parts = path.split("/")[:-1]
        for folder in ["", *("/".join(parts[: end + 1]) for end in range(len(parts)))]:
            if folder not in self._folders:
                url = f"{self.url(folder)}/" if folder else f"{self._top}/"
                with suppress(RefusedError):  # the PUT that follows has the error
                    self._client.ask("MKCOL", url, drained, also=(405, 409))
                self._folders.add(folder)

    def put_whole(self, path: str, content: Content, *, over: bool = True) -> bool:
        """Write a file so that readers see it whole or not at all, after it was read back under a temporary name.

        Without MOVE it is sent to its own name. Such servers show an upload when it is complete.

        Args:
            path: its name.
            content: its content.
            over: whether it may replace another file.

        Returns:
            False if there is a file that it must not replace.

        Raises:
            PublishError: it could not be written. The temporary file was removed.
        """
        digest, size = digest_of(content), _size(content)
        if self.moves:
            part = beside(path)
            try:
                self._transfer(part, content, digest, size)
                moved = self._settle(part, path, digest, size, over=over)
            except BaseException:
                self.clear(part)
                raise
            if not moved:
                self.clear(part)
            if moved is not None:
                return moved
        self._transfer(path, content, digest, size)
        return True

    def _settle(self, part: str, path: str, digest: str, size: int, *, over: bool) -> bool | None:
        """Rename a temporary file to its name; see `move`."""
        try:
            return self.move(part, path, over=over)
        except RefusedError:
            if self._holds(path, digest, size):  # it was moved, and the answer was lost
                return True
            raise

    def _transfer(self, path: str, content: Content, digest: str, size: int) -> None:
        """Send a file, and read it back; do so again if it is not the same."""
        for _ in range(TRIES):
            self.put(path, content)
            if self._holds(path, digest, size):
                return
        if digest_of(content) != digest:
            raise PublishError("it was changed while it was published", where=str(content), hint="publish it again")
        raise PublishError(
            f"what was sent is not what comes back, {TRIES} times",
            where=redacted(self.url(path)),
            hint="does something on the way change it, or keep an older one? The server's log says what it took",
        )

    def move(self, source: str, target: str, *, over: bool) -> bool | None:
        """Rename a file.

        Returns:
            False if there is a file that it must not replace; None if the server does not know MOVE.

        Raises:
            RefusedError: the server refuses; with status 404, `source` is missing.
        """
        url = self.url(source)
        # A Destination may be a path (RFC 4918, section 8.3). It is also right behind a proxy that changes the host.
        headers = {"Destination": urlsplit(self.url(target)).path, "Overwrite": "T" if over else "F"}
        try:
            done = self._client.ask("MOVE", url, drained, headers=headers, also=(412,))
        except RefusedError as refused:
            if refused.status not in NO_MOVE or (refused.status in (400, 404) and self.headers(source) is None):
                raise
            self.moves = False
            self._notice(f"{self.where} does not know MOVE ({refused.status}): files are put at their names directly")
            return None
        return bool(done)

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._client.ask("DELETE", self.url(path), drained, also=(404, 410))

    def clear(self, path: str) -> None:
        """Remove a temporary file, and ignore errors."""
        with suppress(PublishError):
            self.delete(path)
