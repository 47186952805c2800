"""Workloads: the requests to a server under load, as data and as bytes. The seed makes them equal for all servers."""

from __future__ import annotations

import binascii
import random
import re
from dataclasses import dataclass

from pikaforge.errors import UsageError

PLACEHOLDER = re.compile(r"\{(key|value)\}")
RECENT = 10_000
"""If every key is new, a connection reads keys that it has written lately: at least so many."""
AHEAD = 1 << 14
"""Random bytes that are made at a time: making the 90 of one request would cost more than the rest of the request."""
LIMITS = {
    "connections": (1, 4096),
    "processes": (1, 64),
    "pipeline": (1, 10_000),
    "key_bytes": (1, 65_536),
    "value_bytes": (0, 1 << 20),
    "keyspace": (1, 100_000_000),
    "seconds": (0.1, 3600),
    "read_share": (0, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A load: many connections, each of which sends a batch of requests, waits for all replies, and sends the next.

    Raises:
        ConfigError: a figure is out of its bounds, or figures contradict each other.
    """

    connections: int = 32
    """Of all processes, which share them evenly."""
    processes: int = 2
    """Processes that make the load. One uses a whole core for about 400,000 requests per second (pipeline 16)."""
    pipeline: int = 16
    """Requests in a batch; 1 is no pipelining."""
    key_bytes: int = 50
    value_bytes: int = 40
    keyspace: int | None = None
    """The number of different keys; None: every key that is written is new."""
    seconds: float = 30.0
    seed: int = 1
    """Determines all keys and values. A faster server gets further in the same sequence."""
    request: tuple[str, ...] = ("SET", "{key}", "{value}")
    """The words of a write."""
    read: tuple[str, ...] = ("GET", "{key}")
    """The words of a read; without `keyspace`, its key is one that the connection has written lately."""
    read_share: float = 0.0
    """The share of reads among the requests."""

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"the load's `{name}` is {value:g}; it must be from {low:g} to {high:g}")
        if self.connections < self.processes:
            raise UsageError(f"the load has {self.processes} processes, but only {self.connections} connections")
        if not self.request or not self.read:
            raise UsageError("the load has a request without words")
        if self.read_share == 1 and self.keyspace is None:
            raise UsageError("the load reads only, but has no `keyspace` of keys to read")

    def share(self, process: int) -> range:
        """Return the numbers of the connections that a process makes."""
        return range(process, self.connections, self.processes)

    def describe(self) -> str:
        """Return the load in one line, for people."""
        asked = self.request[0]
        if self.read_share:
            asked = f"{1 - self.read_share:.0%} {asked}, {self.read_share:.0%} {self.read[0]}"
        keys = "all new" if self.keyspace is None else f"of {self.keyspace:,}"
        return (
            f"{asked}; keys of {self.key_bytes} bytes, {keys}; values of {self.value_bytes} bytes; "
            f"{self.connections} connections, pipeline {self.pipeline}; {self.seconds:g} s"
        )


def letters(source: random.Random, count: int) -> bytes:
    """Return random characters of base64's alphabet: they compress badly, and are readable in a log."""
    return binascii.b2a_base64(source.randbytes(-(-count * 3 // 4)), newline=False)[:count]


def key_table(workload: Workload) -> bytes | None:
    """Return all keys of a bounded key space: key n begins at byte n, so a key costs one byte of memory and not 50."""
    if workload.keyspace is None:
        return None
    return letters(random.Random(f"{workload.seed}/keys"), workload.keyspace + workload.key_bytes)  # noqa: S311


class Requests:
    """The endless sequence of one connection's requests."""

    def __init__(self, workload: Workload, number: int, table: bytes | None) -> None:
        """Begin the sequence.

        Args:
            workload: the load.
            number: of the connection; each has a sequence of its own, so that their timing changes no key.
            table: `key_table(workload)`, which the connections of a process share.
        """
        self._load = workload
        self._table = table
        self._random = random.Random(f"{workload.seed}/{number}")  # noqa: S311  # repeatable, not secret
        self._text, self._at = b"", 0
        self._recent: list[bytes] = []
        self._reads_due = 0.0
        lengths = {"key": workload.key_bytes, "value": workload.value_bytes}
        self._write, self._slots = template(workload.request, lengths)
        self._read, self._read_slots = template(workload.read, lengths)
        self.writes = 0
        """The number of writes in the last batch; they come first."""
        self.asked = workload.pipeline
        """The number of requests in each batch."""

    def batch(self) -> bytes:
        """Return the next `pipeline` requests: the writes, then the reads."""
        load = self._load
        self._reads_due += load.read_share * load.pipeline
        reads = int(self._reads_due)
        self._reads_due -= reads
        self.writes = writes = load.pipeline - reads
        words: list[bytes] = []
        if writes:
            keys = self._known(writes) if self._table is not None else self._cut(writes, load.key_bytes)
            words = fill(self._slots, keys, self._cut(writes, load.value_bytes))
            if load.read_share:
                self._remember(keys)
        if reads:
            words += fill(self._read_slots, self._known(reads), self._cut(reads, load.value_bytes))
        # One formatting call makes the whole batch, because each Python step costs time.
        return (self._write * writes + self._read * reads) % tuple(words)

    def answered(self, count: int) -> None:
        """Note that requests of the last batch were answered; nothing depends on it."""

    def words(self, place: int) -> tuple[str, ...]:
        """Return the words of the request at a place of the last batch."""
        return self._load.request if place < self.writes else self._load.read

    def _cut(self, count: int, size: int) -> list[bytes]:
        begin, end = self._at, self._at + count * size
        if end > len(self._text):
            self._text = letters(self._random, count * size + AHEAD)
            begin, end = 0, count * size
        self._at = end
        text = self._text
        return [text[start : start + size] for start in range(begin, end, size)] if size else [b""] * count

    def _known(self, count: int) -> list[bytes]:
        """Return keys that may exist already."""
        draw = self._random.random
        if self._table is None:
            return [self._recent[int(draw() * len(self._recent))] for _ in range(count)]
        space = self._load.keyspace or 0
        starts = [int(draw() * space) for _ in range(count)]
        return [self._table[start : start + self._load.key_bytes] for start in starts]

    def _remember(self, keys: list[bytes]) -> None:
        if self._table is None:
            self._recent += keys
            if len(self._recent) > 2 * RECENT:
                del self._recent[:RECENT]


def template(words: tuple[str, ...], lengths: dict[str, int]) -> tuple[bytes, tuple[str, ...]]:
    """Return a request's bytes as a format for `%`, and the names of the placeholders in it."""
    parts = [b"*%d\r\n" % len(words)]
    slots: list[str] = []
    for word in words:
        size, body = 0, b""
        # re.split with a group returns literal text and names of placeholders in turn.
        for turn, piece in enumerate(PLACEHOLDER.split(word)):
            if turn % 2:
                slots.append(piece)
                size, body = size + lengths[piece], body + b"%b"
            else:
                size, body = size + len(piece.encode()), body + piece.encode().replace(b"%", b"%%")
        parts.append(b"$%d\r\n%b\r\n" % (size, body))
    return b"".join(parts), tuple(slots)


def fill(slots: tuple[str, ...], keys: list[bytes], values: list[bytes]) -> list[bytes]:
    """Return the words for all placeholders of several requests, in order."""
    words = [b""] * (len(slots) * len(keys))
    for place, slot in enumerate(slots):
        words[place :: len(slots)] = keys if slot == "key" else values
    return words
