"""The lock of a root on a server: a file `.lock`, which its holder renews and others take over when it is old.

The holder is the publisher whose token is in the file. A publisher writes the file under a temporary name, and moves it
to its own name by a MOVE that must not replace another file. The temporary name is the same for all: if several
publishers see no lock at once, one MOVE finds the temporary file and the others find none. Then each publisher reads
whose token is in the lock.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from pikaforge.errors import PublishError
from pikaforge.host.run_id import RunId
from pikaforge.host.text import ignore
from pikaforge.publish.sites.client import RefusedError
from pikaforge.publish.sites.webdav import DavClient, beside

LOCK = ".lock"
PART = beside(LOCK)
TTL = 60.0
"""Seconds after which a lock that is not renewed may be taken over."""
LOOK = 1.0
"""Seconds between two looks at the lock of another publisher."""
LIMIT = 1 << 16
TAKES = 20
"""Tries to write the lock where there is none. Each other publisher that is faster costs one."""
GRAIN = 1.0
"""Seconds by which an age may be wrong: both dates of an answer are in whole seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLock:
    """A lock that was read."""

    data: bytes
    token: str = ""
    run_id: str = ""
    """The holder, as `RunId` writes it."""
    name: str = "somebody"
    """The holder, for messages: process and machine."""
    ttl: float = TTL
    age: float | None = None
    """Seconds since it was renewed, by the server's clock; None if the server sends no dates."""

    def gone(self) -> bool:
        """Return whether its holder was a process of this machine and has ended."""
        holder = RunId.parse(self.run_id)
        return holder is not None and holder.gone()


def parse(data: bytes, headers: Mapping[str, str]) -> SeenLock:
    """Return a lock. One that cannot be parsed counts as held."""
    age = _age(headers)
    try:
        text = json.loads(data)
        return SeenLock(
            data=data,
            token=str(text["token"]),
            run_id=str(text["owner"]),
            name=f"process {int(text['pid'])} on {str(text['host'])[:100]!r}, since {str(text['since'])[:40]!r}",
            ttl=min(float(text["ttl"]), 10 * TTL),
            age=age,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return SeenLock(data=data, age=age)


def _age(headers: Mapping[str, str]) -> float | None:
    try:
        then, now = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        age = (now - then).total_seconds()
        return age if age >= 0 else None  # its clock was set back meanwhile
    except (KeyError, ValueError, TypeError):
        return None


class WebLock:
    """The lock of a root.

    Without MOVE it is weaker: it is written by PUT with `If-None-Match: *`, which some servers ignore, and read again
    after a while. Two publishers that begin at the same moment may both have it, until one finds the other's token.
    """

    def __init__(
        self,
        dav: DavClient,
        renewing: DavClient,
        *,
        ttl: float = TTL,
        look: float = LOOK,
        notice: Callable[[str], None] = ignore,
    ) -> None:
        """Touch nothing yet.

        Args:
            dav: the server.
            renewing: another connection, for the thread that renews. It gives up early, so that it can try again.
            ttl: seconds after which others may take the lock over if it is not renewed.
            look: seconds between two looks at the lock of another publisher.
            notice: takes messages for the user.
        """
        self._dav = dav
        self._renewing = renewing
        self._ttl = ttl
        self._look = look
        self._notice = notice
        self._token = ""
        self._since = ""
        self._beats = 0
        self._renewed = 0.0
        self._lost = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Acquire the lock; wait until it is free."""
        self._token = secrets.token_hex(16)
        self._since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._lost = False
        over = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(over,), name="lock", daemon=True)
        self._acquire()
        renewer.start()
        try:
            yield
        finally:
            over.set()
            renewer.join()  # a renewal after the release would leave a lock without a holder
            self._release()
            self._token = ""

    def check(self) -> None:
        """Check, without a request, that the lock is still ours.

        Raises:
            PublishError: another publisher may have it.
        """
        if not self._token or self._lost or time.monotonic() - self._renewed > self._ttl:
            raise PublishError(
                "the lock was lost: this publisher could not renew it in time, or somebody removed it",
                where=f"{self._dav.where}/{LOCK}",
                hint="publish again; what is there already is not sent twice",
            )

    def confirm(self) -> None:
        """Read the lock, and check that it is still ours. Who moved it away by mistake has time to put it back."""
        for left in (2, 1, 0):
            self.check()
            found = self._read(self._dav)
            if found is not None and found.token == self._token:
                return
            if found is not None or not left:
                self._lost = True
            else:
                time.sleep(self._look)
        self.check()

    def _text(self) -> bytes:
        self._beats += 1
        content = {
            "token": self._token,
            "host": platform.node(),
            "pid": os.getpid(),
            "since": self._since,
            "owner": RunId.current().text,
            "ttl": self._ttl,
            "renewed": self._beats,
        }
        return (json.dumps(content) + "\n").encode()

    @staticmethod
    def _read(dav: DavClient) -> SeenLock | None:
        found = dav.read(LOCK, limit=LIMIT)
        return None if found is None else parse(*found)

    def _acquire(self) -> None:
        waits_for, seen, since, failed = "", b"", time.monotonic(), 0
        while True:
            found = self._read(self._dav)
            if found is None:
                if self._take():
                    return
                failed += 1
                if failed > TAKES:
                    raise PublishError(
                        f"the lock cannot be put there: {TAKES} times it was not there afterwards",
                        where=f"{self._dav.where}/{LOCK}",
                        hint="does a cache stand before the server, or does something on the way change files?",
                    )
            else:
                if found.data != seen:
                    seen, since = found.data, time.monotonic()
                age = time.monotonic() - since if found.age is None else found.age
                if found.gone() or age > found.ttl + GRAIN:
                    self._evict(found)
                    continue
                if found.token != waits_for:
                    waits_for = found.token
                    self._notice(f"waits for another publisher of {self._dav.where}: {found.name}")
            time.sleep(self._look)

    def _take(self) -> bool:
        """Write our lock where there is none; return whether it is ours then."""
        begun, text = time.monotonic(), self._text()
        if self._dav.moves:
            self._dav.put(PART, text)
            try:
                if self._dav.move(PART, LOCK, over=False) is False:
                    self._dav.clear(PART)
            except RefusedError as refused:  # 404: another publisher has moved the temporary file
                if refused.status not in (400, 404):
                    raise
        if not self._dav.moves:
            self._dav.clear(PART)
            if not self._dav.put(LOCK, text, headers={"If-None-Match": "*"}):
                return False
            time.sleep(self._look)
        found = self._read(self._dav)
        if found is None or found.token != self._token:
            return False
        self._renewed = begun
        return True

    def _evict(self, stale: SeenLock) -> None:
        """Remove a stale lock, and no other one.

        The lock is moved to the temporary name and read there. If it is not the stale one, it is moved back.
        """
        self._notice(f"takes over the lock of a publisher that ended: {stale.name}")
        if not self._dav.moves:
            found = self._read(self._dav)
            if found is not None and found.data == stale.data:
                self._dav.delete(LOCK)
            return
        try:
            if self._dav.move(LOCK, PART, over=True) is None:
                return  # the server does not know MOVE; the next look removes the lock by DELETE
            if self._dav.get(PART, limit=LIMIT) not in (None, stale.data):
                self._dav.move(PART, LOCK, over=False)
        except RefusedError as refused:
            if refused.status not in (400, 404):  # else another publisher was faster
                raise

    def _renew(self, over: threading.Event) -> None:
        pause = self._ttl / 3
        while not over.wait(pause):
            begun = time.monotonic()
            pause = self._ttl / 12
            try:
                found = self._read(self._renewing)
                if found is not None and found.token != self._token:
                    self._lost = True
                    return
                self._renewing.put(LOCK, self._text())
            except PublishError:  # tried again; without success, the lock expires
                continue
            self._renewed = begun
            pause = self._ttl / 3

    def _release(self) -> None:
        """Remove the lock if it is still ours. A failure is only a notice: what was published stays."""
        try:
            found = self._read(self._renewing)
            if found is not None and found.token == self._token:
                self._renewing.delete(LOCK)
        except PublishError as error:
            self._notice(f"{error.where}: the lock could not be removed ({error.message}); it ends in {self._ttl:g} s")
