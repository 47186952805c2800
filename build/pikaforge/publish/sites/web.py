"""A root on a web server: a WebDAV server, or any server that takes PUT, GET, HEAD and DELETE.

Plain servers cannot list files, lock them or take parts of them, so none of that is needed. Files that never change are
sent first. Then the journal of the whole switch is written at the root, and the switch is made. If a publisher is
killed in the middle of it, the next one makes the switch again. What was done already stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pikaforge.config.schema import Destination
from pikaforge.errors import PublishError
from pikaforge.host.disk import is_full
from pikaforge.host.http import TIMEOUT, redacted
from pikaforge.host.store import sha256
from pikaforge.host.text import ignore
from pikaforge.publish.sites.client import RETRIES, SiteClient, warn_if_plain
from pikaforge.publish.sites.credentials import Credentials, credentials
from pikaforge.publish.sites.journal import PENDING, Journal
from pikaforge.publish.sites.site import SiteOptions
from pikaforge.publish.sites.web_lock import LOOK, TTL, WebLock
from pikaforge.publish.sites.webdav import TRIES, DavClient, beside, digest_of
from pikaforge.publish.state import File
from pikaforge.publish.transaction import Addition, Transaction


class WebSite:
    """A root behind a URL. See `site.Site`."""

    stepwise = True

    def __init__(
        self,
        url: str,
        credentials: Credentials | None,
        *,
        target: str = "web",
        notice: Callable[[str], None] = ignore,
        timeout: tuple[float, float] = TIMEOUT,
        pause: float = RETRIES.pause,
        ttl: float = TTL,
        look: float = LOOK,
    ) -> None:
        """Make no request yet.

        Args:
            url: of the root; publishers write there.
            credentials: of the publisher; None if the server lets everybody write.
            target: name of the destination, for hints: its variables are named after it.
            notice: takes messages for the user: one line each, without secrets.
            timeout: seconds to connect, and between two reads or writes.
            pause: see `http.Retries`.
            ttl: seconds after which others may take over the lock of a publisher that has ended.
            look: seconds between two looks at the lock of another publisher.

        Raises:
            ConfigError: the URL is neither http nor https, or has credentials in it.
        """

        def connect(timeout: tuple[float, float], tries: int) -> DavClient:
            retries = replace(RETRIES, tries=tries, pause=pause)
            client = SiteClient(url, credentials, target=target, timeout=timeout, retries=retries)
            return DavClient(url, client, notice=notice)

        self._dav = connect(timeout, RETRIES.tries)
        renewing = connect((min(timeout[0], ttl / 4), min(timeout[1], ttl / 4)), 2)
        self.where = self._dav.where
        self._lock = WebLock(self._dav, renewing, ttl=ttl, look=look, notice=notice)
        self._notice = notice
        self._unfinished = False
        warn_if_plain(url, credentials, notice)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the root. A switch that a killed publisher has begun is finished first."""
        with self._lock.held():
            self._finish()
            yield

    def read(self, path: str, *, limit: int = 256 << 20) -> bytes | None:
        """Return a file; None if there is none."""
        return self._dav.get(path, limit=limit)

    def fetch(self, file: File, place: str, into: Path) -> None:
        """Copy a file of a repository and check its digest."""
        path = f"{place}/{file.path}"
        part = into.with_name(f".{into.name}.part")
        try:
            for _ in range(TRIES):
                if not self._dav.download(path, part, size=file.bytes):
                    raise PublishError(
                        "the file is gone", where=redacted(self._dav.url(path)), hint="did somebody remove it by hand?"
                    )
                if sha256(part) == file.sha256:
                    part.replace(into)
                    return
        except OSError as error:
            if is_full(error):  # of this machine, not of the server
                raise
            raise PublishError(f"a file cannot be kept: {error.strerror or error}", where=str(into)) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise PublishError(
            "the file does not have the digest that it was published with", where=redacted(self._dav.url(path))
        )

    def commit(self, transaction: Transaction) -> int:
        """Send what is new, and switch to it; return the number of additions that were sent."""
        if self._unfinished:
            self._finish()
        kept = {file.path: file.sha256 for file in transaction.kept}
        for addition in transaction.additions:
            if kept.get(addition.file.path, addition.file.sha256) != addition.file.sha256:
                raise PublishError(
                    "another file of this name is published already",
                    where=f"{self.where}/{transaction.place}/{addition.file.path}",
                    hint="published files never change: give the new one another release",
                )
        sent = self._send(transaction)
        self._lock.confirm()
        journal = Journal.of(transaction)
        self._dav.put_whole(PENDING, journal.text())
        self._unfinished = True
        self._switch(journal)
        return sent

    def _send(self, transaction: Transaction) -> int:
        """Send what is new. First write a journal of the temporary names, so that the next publisher removes them."""
        place = transaction.place
        missing = [
            addition
            for addition in transaction.additions
            if not self._dav.has(f"{place}/{addition.file.path}", addition.file.sha256, addition.file.bytes)
        ]
        if not missing:
            return 0
        self._lock.check()
        temporary = (beside(f"{place}/{addition.file.path}") for addition in missing)
        self._dav.put_whole(PENDING, Journal.of_uploads(place, temporary).text())
        try:
            sent = 0
            for addition in missing:
                self._lock.check()
                sent += self._add(addition, place)
        except PublishError:  # no temporary file is left, unless the server is out of reach
            self._dav.clear(PENDING)
            raise
        return sent

    def _add(self, addition: Addition, place: str) -> bool:
        """Send a file that never changes, unless it is there by now; return whether it was sent.

        A file of that name with other bytes is a left-over of a publisher that did not come to the switch. It is
        replaced.
        """
        file = addition.file
        path = f"{place}/{file.path}"
        if digest_of(addition.content) != file.sha256:
            raise PublishError(
                "it was changed since it was looked at", where=str(addition.content), hint="publish again"
            )
        if self._dav.put_whole(path, addition.content, over=False):
            return True
        if self._dav.has(path, file.sha256, file.bytes):
            return False
        return self._dav.put_whole(path, addition.content)

    def _finish(self) -> None:
        """Make the switch of which there is a journal. Of a damaged journal, the switch was not begun."""
        text = self._dav.get(PENDING)
        if text is not None:
            journal = Journal.parse(text)
            if journal is None:
                self._dav.delete(PENDING)
            else:
                what = "finishes what" if journal.pointers else "tidies up where"
                self._notice(f"{what} another publisher has begun: {self.where}/{journal.place}")
                self._switch(journal)
        self._unfinished = False

    def _switch(self, journal: Journal) -> None:
        """Make a switch, or make it again."""
        try:
            for path, data in journal.pointers:
                self._lock.check()
                self._put(path, data)
            for path in journal.removals:
                self._lock.check()
                self._dav.delete(path)
            self._dav.delete(PENDING)
        except PublishError as error:
            error.hint = "\n".join(filter(None, [error.hint, "the switch has begun: the next publisher finishes it"]))
            raise
        self._unfinished = False

    def _put(self, path: str, data: bytes) -> None:
        """Write a file that changes, and check that readers get it."""
        for _ in range(TRIES):
            self._dav.put_whole(path, data)
            if self._dav.get(path) == data:
                return
        raise PublishError(
            "readers do not get what was written",
            where=redacted(self._dav.url(path)),
            hint="does a cache stand before the server? It must ask for each of these files",
        )

    def write(self, path: str, data: bytes) -> bool:
        """Write a file of the root; return False if it is there already."""
        self._lock.check()
        if self._dav.get(path) == data:
            return False
        self._put(path, data)
        return True


class WebKind:
    """Destinations on a web server. See `site.SiteKind`."""

    title = "a web server"
    required = frozenset({"url"})
    optional = frozenset({"clients", "keep", "valid_days"})

    def place(self, destination: Destination) -> str:
        """Return its URL."""
        return str(destination.url)

    def open(self, options: SiteOptions) -> tuple[WebSite, str]:
        """Return the root behind the URL. No request is made yet."""
        url = self.place(options.destination)
        publisher = credentials(options.name, url, options.environ)
        site = WebSite(url, publisher, target=options.name, notice=options.notice)
        return site, (options.destination.clients or url).rstrip("/")


KIND = WebKind()
