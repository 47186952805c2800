"""One publisher at a time on a server: a file `.lock` that its holder renews, and that others take over when it is old.

Who has it is what is in it, and who puts it there is decided by one MOVE that must not replace another file. All make
it under the same temporary name, so that of several that see no lock at once, one finds the temporary file to move and
the others find none; each then reads whose token is in the lock.
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
from pikaforge.publish.sites.webdav import Dav, beside

LOCK = ".lock"
PART = beside(LOCK)
TTL = 60.0
"""Seconds after which a lock that is not renewed is nobody's."""
LOOK = 1.0
"""Seconds between two looks at somebody else's lock."""
LIMIT = 1 << 16
TAKES = 20
"""How often the lock is put where there is none; each other publisher who is faster costs one."""
GRAIN = 1.0
"""Seconds that the two dates of an answer, in whole seconds, may be wrong by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLock:
    """A lock that was seen."""

    data: bytes
    token: str = ""
    owner: str = ""
    """The process, as `Owner` writes it."""
    name: str = "somebody"
    """For people: process and machine."""
    ttl: float = TTL
    age: float | None = None
    """Seconds since it was renewed, by the server's clock; None if the server does not tell."""

    def gone(self) -> bool:
        """Whether its holder certainly ended, being of this machine."""
        owner = RunId.parse(self.owner)
        return owner is not None and owner.gone()


def parse(data: bytes, headers: Mapping[str, str]) -> SeenLock:
    """What is known of a lock. One that cannot be read is held by somebody nevertheless."""
    age = _age(headers)
    try:
        text = json.loads(data)
        return SeenLock(
            data=data,
            token=str(text["token"]),
            owner=str(text["owner"]),
            name=f"process {int(text['pid'])} on {str(text['host'])[:100]!r}, since {str(text['since'])[:40]!r}",
            ttl=min(float(text["ttl"]), 10 * TTL),
            age=age,
        )
    except (ValueError, KeyError, TypeError):
        return SeenLock(data=data, age=age)


def _age(headers: Mapping[str, str]) -> float | None:
    try:
        then, now = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return (now - then).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


class WebLock:
    """The lock of a root.

    Where the server has no MOVE it is weaker: PUT with `If-None-Match: *`, which not every server minds, and another
    look after a while. Two that begin within the same moment may both have it then, until one finds the other's token.
    """

    def __init__(
        self,
        dav: Dav,
        beat: Dav,
        *,
        ttl: float = TTL,
        look: float = LOOK,
        notice: Callable[[str], None] = ignore,
    ) -> None:
        """Touch nothing yet.

        Args:
            dav: the server.
            beat: another connection to it, for the thread that renews; it gives up early, so that the next try comes.
            ttl: seconds after which others may take the lock over if it is not renewed.
            look: seconds between two looks at somebody else's.
            notice: told whom it waits for.
        """
        self._dav = dav
        self._beat = beat
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
        """Wait until nobody has the lock, and have it."""
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
            renewer.join()  # a renewal that came after the end would be a lock that nobody has
            self._release()
            self._token = ""

    def check(self) -> None:
        """Nothing if the lock is still ours, as far as is known without asking.

        Raises:
            PublishError: it may be somebody else's.
        """
        if not self._token or self._lost or time.monotonic() - self._renewed > self._ttl:
            raise PublishError(
                "the lock was lost: this publisher could not renew it in time, or somebody removed it",
                where=f"{self._dav.where}/{LOCK}",
                hint="publish again; what is there already is not sent twice",
            )

    def confirm(self) -> None:
        """As `check`, and the server says so, too. Who took it away by mistake is given time to put it back."""
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
    def _read(dav: Dav) -> SeenLock | None:
        found = dav.read(LOCK, limit=LIMIT)
        return None if found is None else parse(*found)

    def _acquire(self) -> None:
        told, seen, since, failed = "", b"", time.monotonic(), 0
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
                if found.token != told:
                    told = found.token
                    self._notice(f"waits for another publisher of {self._dav.where}: {found.name}")
            time.sleep(self._look)

    def _take(self) -> bool:
        """Put our lock where there is none; whether it is ours then."""
        begun, text = time.monotonic(), self._text()
        if self._dav.moves:
            self._dav.put(PART, text)
            try:
                if self._dav.move(PART, LOCK, over=False) is False:
                    self._dav.clear(PART)
            except RefusedError as refused:  # 404: somebody else has moved it, theirs or ours
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
        """Remove a lock that is nobody's, and no other one.

        It is moved to the temporary name and read there: what is not the stale one is put back.
        """
        self._notice(f"takes over the lock of a publisher that ended: {stale.name}")
        if not self._dav.moves:
            found = self._read(self._dav)
            if found is not None and found.data == stale.data:
                self._dav.delete(LOCK)
            return
        try:
            if self._dav.move(LOCK, PART, over=True) is None:
                return  # it cannot, as is known now; the next look does it the other way
            if self._dav.get(PART, limit=LIMIT) not in (None, stale.data):
                self._dav.move(PART, LOCK, over=False)
        except RefusedError as refused:
            if refused.status not in (400, 404):  # somebody else was faster
                raise

    def _renew(self, over: threading.Event) -> None:
        pause = self._ttl / 3
        while not over.wait(pause):
            begun = time.monotonic()
            pause = self._ttl / 12
            try:
                found = self._read(self._beat)
                if found is not None and found.token != self._token:
                    self._lost = True
                    return
                self._beat.put(LOCK, self._text())
            except PublishError:  # the next time, perhaps; else it runs out
                continue
            self._renewed = begun
            pause = self._ttl / 3

    def _release(self) -> None:
        """Remove the lock if it is still ours; what fails here does not undo what was published."""
        try:
            found = self._read(self._beat)
            if found is not None and found.token == self._token:
                self._beat.delete(LOCK)
        except PublishError as error:
            self._notice(f"{error.where}: the lock could not be removed ({error.message}); it ends in {self._ttl:g} s")
