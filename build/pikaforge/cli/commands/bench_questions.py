"""What a load test asks the server, as `product.bench` of matrix.yaml says: its keys, its allocator, its disk."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pikaforge.bench.journal import AllocatorText
from pikaforge.bench.key_load import KeyLoad, permanent
from pikaforge.bench.room import Room
from pikaforge.config.load_checks import AllocatorQuestion, LoadQuestion
from pikaforge.errors import HostError, LoadError
from pikaforge.host.job import RunningServer
from pikaforge.host.process import pause
from pikaforge.host.text import clean
from pikaforge.pipeline.smoke.expectations import show
from pikaforge.pipeline.smoke.resp import Connection, ErrorReply, Reply
from pikaforge.pipeline.smoke.wire import Closed

POLL = 0.5
"""Seconds between two tries of a question that does not match yet."""
LOOK = 20.0
"""Seconds for a program that looks at a disk."""
SAMPLED = 64
"""Keys of each connection that are read back before a test goes on."""
LONGEST = 20_000
"""Characters of what a server says of its allocator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the server must have."""

    written: int
    """Keys that it has acknowledged."""
    expiring: int
    """Those of them with a time to live."""
    ttl: int
    seconds: float
    """Since the first of them was written."""

    @property
    def some_expired(self) -> bool:
        """Whether keys may have expired by now."""
        return bool(self.expiring) and self.seconds >= self.ttl

    def problem(self, found: dict[str, int]) -> str:
        """Return what the server has that it must not have, or lacks; "" if nothing."""
        if not self.some_expired:
            wanted = {"keys": self.written, "expires": self.expiring}
            wrong = [
                f"{found[name]:,} {name} instead of {wanted[name]:,}" for name in found if found[name] != wanted[name]
            ]
            return ", ".join(wrong)
        least = {"keys": self.written - self.expiring, "expires": 0}
        most = {"keys": self.written, "expires": self.expiring}
        wrong = [
            f"{number:,} {name}, which is not from {least[name]:,} to {most[name]:,}"
            for name, number in found.items()
            if not least[name] <= number <= most[name]
        ]
        return ", ".join(wrong)


def counted(questions: Sequence[LoadQuestion], connection: Connection) -> dict[str, int]:
    """Return how many keys the server has, and how many of them have a time to live, by the groups' names.

    Raises:
        ForgeError: a reply does not match in time.
    """
    found: dict[str, int] = {}
    for question in questions:
        reply = _matching(question, connection)
        found |= {name: int(number) for name, number in reply.groupdict().items() if number is not None}
    return found


def _matching(question: LoadQuestion, connection: Connection) -> re.Match[str]:
    deadline = time.monotonic() + question.within
    while True:
        [reply] = connection.exchange([question.send])
        text = reply if isinstance(reply, str) else show(reply)
        match = None if isinstance(reply, ErrorReply) else re.search(question.match, text)
        if match is not None:
            return match
        if time.monotonic() >= deadline:
            asked = " ".join(map(str, question.send))
            raise LoadError(
                f"sent {asked}; wanted a match of {question.match!r}; got {show(reply)}", where="product.bench.counted"
            )
        pause(POLL)


def statistics(questions: Sequence[AllocatorQuestion], kind: str, connection: Connection) -> tuple[AllocatorText, ...]:
    """Return what the server says of its allocator; of an answer that is an error, the error.

    Args:
        questions: of the product.
        kind: the kind of the cell's allocator.
        connection: to the server.
    """
    found = []
    for question in questions:
        if question.allocators and kind not in question.allocators:
            continue
        [reply] = connection.exchange([question.send])
        text = clean(_text(reply).replace("\r\n", "\n"))[:LONGEST]
        found.append(AllocatorText(title=" ".join(map(str, question.send)), text=text.strip("\n")))
    return tuple(found)


def _text(reply: Reply) -> str:
    if isinstance(reply, list):
        return "\n".join(map(_text, reply))
    if isinstance(reply, ErrorReply):
        return f"(error) {reply.text}"
    return "" if reply is None else str(reply)


def lost(load: KeyLoad, acknowledged: Sequence[int], connection: Connection) -> str:
    """Return which acknowledged key the server does not have any more; "" if it has all that are asked for.

    These are the last ones of each connection that have no time to live.
    """
    for number, done in enumerate(acknowledged):
        pairs = permanent(load, number, done, SAMPLED)
        if not pairs:
            continue
        replies = connection.exchange(
            [[w.replace("{key}", key.decode("ascii")) for w in load.read] for key, _ in pairs]
        )
        for (key, value), reply in zip(pairs, replies, strict=True):
            if reply != value.decode("ascii"):
                return f"{key.decode('ascii')}: {show(reply)}"
    return ""


def looking_at(running: RunningServer, name: str) -> Callable[[], Room | None]:
    """Return a function that looks at the file system of a server's data; it returns None if that cannot be seen."""

    def look() -> Room | None:
        argv = ("/usr/bin/env", "stat", "-f", "-c", "%S %a %b", f"{running.root}/data")
        try:
            done = running.execute(argv, timeout=LOOK)
        except (HostError, Closed):
            return None
        match = re.fullmatch(rb"(\d+) (\d+) (\d+)\s*", done.output)
        if done.status != 0 or match is None:
            return None
        block, free, total = map(int, match.groups())
        return Room(name=name, free=free * block, total=total * block)

    return look


def data_bytes(running: RunningServer) -> int | None:
    """Return how many bytes a server's data takes on disk; None if that cannot be seen."""
    try:
        done = running.execute(("/usr/bin/env", "du", "-s", "-k", f"{running.root}/data/"), timeout=LOOK)
    except (HostError, Closed):
        return None
    match = re.match(rb"(\d+)\s", done.output)
    return int(match[1]) << 10 if done.status == 0 and match is not None else None
