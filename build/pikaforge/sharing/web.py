"""A shared store on a server that takes GET, HEAD and PUT; and MOVE, if it is a WebDAV server.

An object is sent to a name beside its own, and moved. That name depends on the object's name only: what a killed run
has left there is overwritten by the next one that sends the object. Servers without MOVE get the object at its name.
Most of these show an upload when it is complete; where one does not, a reader finds another digest than it wants.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pikaforge.errors import DestinationError
from pikaforge.host import process
from pikaforge.host.http import Content, ErrorKind, HttpError, Login, Retries, phrase, redacted
from pikaforge.publish.sites.client import authorization
from pikaforge.publish.sites.credentials import advice
from pikaforge.publish.sites.webdav import NO_FOLDER, NO_MOVE, beside, drained
from pikaforge.sharing.objects import NAME, ObjectError, ObjectStoreSettings, patience, size_of

if TYPE_CHECKING:
    from pikaforge.host.http_session import Answer, Client

RETRIES = Retries(tries=2, wait=process.pause)
"""Few: what cannot be had is made here."""
MISSING = (404, 410)
OF_ONE: Collection[ErrorKind] = ("cut", "size", "file")
"""Kinds of errors that another object need not have."""
TOO_LARGE = 413

T = TypeVar("T")


class Web:
    """Objects on a web server. See `objects.ObjectStore`."""

    def __init__(self, settings: ObjectStoreSettings) -> None:
        parts = urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DestinationError(f"{redacted(settings.url)} is not an http or https URL", where="store")
        self._top = settings.url.rstrip("/")
        self.where = redacted(self._top)
        self._login = Login(url=settings.url, header=authorization(settings.credentials))
        self._timeout = (min(settings.timeout, 10.0), settings.timeout)
        self._kept = threading.local()
        self._moves = True
        self._folders: set[str] = set()

    @property
    def _client(self) -> Client:
        """The connections of this thread."""
        from pikaforge.host.http_session import Client  # noqa: PLC0415  # imports requests

        client: Client | None = getattr(self._kept, "client", None)
        if client is None:
            client = self._kept.client = Client(retries=RETRIES, login=self._login, timeout=self._timeout)
        return client

    def read(self, path: str, *, limit: int) -> bytes | None:
        """Return an object; None if there is none."""

        def body(answer: Answer) -> bytes:
            return answer.body(limit)

        return self._ask("GET", path, body, also=MISSING, size=limit)

    def download(self, path: str, into: Path, *, size: int) -> bool:
        """Copy an object to a file; return whether there is one."""

        def write(answer: Answer) -> bool:
            with into.open("wb") as stream:
                for block in answer.blocks():
                    process.pause(0)
                    stream.write(block)
                    if stream.tell() > size:  # it is another one, and may have no end
                        break
            return True

        return bool(self._ask("GET", path, write, also=MISSING, size=size))

    def size(self, path: str) -> int | None:
        """Return the bytes of an object; None if there is none, or if the server does not say it."""
        return self._ask("HEAD", path, lambda answer: answer.length, also=MISSING)

    def write(self, path: str, content: Path | bytes) -> None:
        """Send an object to a name beside its own, and move it."""
        if self._moves:
            part = beside(path)
            self._put(part, content)
            if self._moved(part, path):
                return
        self._put(path, content)

    def _put(self, path: str, content: Content) -> None:
        if not self._ask("PUT", path, drained, body=content, also=NO_FOLDER):
            self._make_folders(path)
            self._ask("PUT", path, drained, body=content)

    def _make_folders(self, path: str) -> None:
        """Make the folders above an object, from the root on. Each folder is asked for once."""
        parts = path.split("/")[:-1]
        for folder in ("", *("/".join(parts[: end + 1]) for end in range(len(parts)))):
            if folder not in self._folders:
                # Whatever is answered, the PUT that follows has the error.
                self._ask("MKCOL", f"{folder}/" if folder else "", drained, also=range(300, 600))
                self._folders.add(folder)

    def _moved(self, part: str, path: str) -> bool:
        """Move an object to its name; return False if the server does not know MOVE."""
        # A Destination may be a path (RFC 4918, section 8.3). It is also right behind a proxy that changes the host.
        headers = {"Destination": urlsplit(self._url(path)).path, "Overwrite": "T"}
        if self._ask("MOVE", part, drained, headers=headers, also=NO_MOVE):
            return True
        if self.size(part) is None and self.size(path) is not None:
            return True  # another run has sent the same object, and moved it
        self._moves = False
        self._ask("DELETE", part, drained, also=range(300, 600))
        return False

    def _url(self, path: str) -> str:
        return f"{self._top}/{path}"

    def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        body: Content | None = None,
        headers: Mapping[str, str] | None = None,
        also: Collection[int] = (),
        size: int = 0,
    ) -> T | None:
        """Make a request; return None for the statuses in `also`, and what `read` makes of a 2xx answer.

        What has `size` bytes, or sends as many, has more time. One that is slower is ended: it is sooner made here.
        """

        def judged(answer: Answer) -> T | None:
            if answer.status in also:
                if method != "HEAD":  # which has no body, whatever its headers say
                    answer.drain()
                return None
            if not 200 <= answer.status < 300:
                raise ObjectError(_refusal(method, answer), ends=answer.status != TOO_LARGE)
            return read(answer)

        size += size_of(body or b"")
        try:
            client = self._client
            with client.within(patience(self._timeout[1], size)):
                return client.ask(method, self._url(path), judged, body=body, headers=headers, final=also)
        except HttpError as error:
            cut = "the answer was cut off: " if error.kind == "cut" else ""
            raise ObjectError(f"{method} failed: {cut}{error}", ends=error.kind not in OF_ONE) from None


def _refusal(method: str, answer: Answer) -> str:
    text = f"{method} was answered {phrase(answer.status)}"
    if answer.status in (401, 403):
        return f"{text}; {advice(NAME, '').splitlines()[0]}"
    if 300 <= answer.status < 400:
        return f"{text}, to {redacted(answer.headers.get('Location', '(none)'))[:300]}"
    return text


class WebStoreKind:
    """Shared stores on a web server. See `objects.ObjectStoreKind`."""

    title = "a web server"

    def open(self, settings: ObjectStoreSettings) -> Web:
        """Return the objects below the URL. No request is made yet."""
        return Web(settings)


KIND = WebStoreKind()
