"""Load tests of so many keys: each key is written once, and a share of them has a time to live.

Keys and values of a connection are one fixed sequence of bytes, of which any part can be made without the parts before
it. So a load test that was interrupted goes on with the next key. The bytes are those of SHAKE128 (FIPS 202), so that
they are the same with every version of Python.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import shake_128

from pikaforge.bench.workload import LIMITS, fill, template
from pikaforge.errors import UsageError

MILLION = 1_000_000
BLOCK_KEYS, BLOCK_BYTES = 1024, 1 << 20
"""Keys whose bytes are made together: making them key by key would cost more than the requests. With long values there
are fewer."""
MOST_KEYS = 10**12
MOST_SECONDS = 10 * 366 * 86_400
COLLISION = 0.001
"""The greatest probability that two random keys are the same: then the server would hold one key less than expected."""
LETTERS = 64
"""Characters of base64's alphabet, of which keys and values are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLoad:
    """A load test: so many new keys over several connections, in batches.

    Raises:
        ConfigError: a figure is out of its bounds, or figures contradict each other.
    """

    keys: int
    expire_share: float = 0.2
    """The share of keys with a time to live; millionths count."""
    ttl: int = 86_400
    """That time, in seconds."""
    connections: int = 32
    processes: int = 1
    pipeline: int = 16
    key_bytes: int = 50
    value_bytes: int = 40
    seed: int = 1
    """Determines all keys and values."""
    request: tuple[str, ...] = ("SET", "{key}", "{value}")
    """The words of a write."""
    expiring: tuple[str, ...] = ("SET", "{key}", "{value}", "EX", "{ttl}")
    """The words of a write with a time to live."""
    read: tuple[str, ...] = ("GET", "{key}")
    """The words that read a key back."""

    def __post_init__(self) -> None:
        for name in ("connections", "processes", "pipeline", "key_bytes", "value_bytes"):
            self._check(name, *LIMITS[name])
        self._check("keys", 1, MOST_KEYS)
        self._check("ttl", 1, MOST_SECONDS)
        self._check("expire_share", 0, 1)
        if self.connections < self.processes:
            raise UsageError(f"the load has {self.processes} processes, but only {self.connections} connections")
        if self.keys**2 / 2 > COLLISION * LETTERS**self.key_bytes:
            raise UsageError(
                f"{self.keys:,} random keys of {self.key_bytes} bytes are not all different: "
                "what the server holds could not be compared with what was written",
                where="--key-bytes",
                hint="give longer keys, or fewer; the default is 50 bytes",
            )

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:  # NaN, too
            raise UsageError(f"the load's `{name}` is {value:g}; it must be from {low:g} to {high:g}")

    @property
    def raw_bytes(self) -> int:
        """The bytes of all keys and values."""
        return self.keys * (self.key_bytes + self.value_bytes)

    def share(self, process: int) -> range:
        """Return the numbers of the connections that a process makes."""
        return range(process, self.connections, self.processes)

    def keys_of(self, connection: int) -> int:
        """Return how many keys a connection writes."""
        return self.keys // self.connections + (connection < self.keys % self.connections)

    def expiring_in(self, connection: int, first: int, end: int) -> int:
        """Return how many keys with a time to live a connection has from number `first` to the one before `end`.

        Over all connections these are the share of all keys, rounded down.
        """
        share = round(self.expire_share * MILLION)
        before = connection * (self.keys // self.connections) + min(connection, self.keys % self.connections)
        return (before + end) * share // MILLION - (before + first) * share // MILLION

    def describe(self) -> str:
        """Return the load in one line, for people."""
        share = f"{100 * self.expire_share:g} %"
        expire = f"{share} with a time to live of {self.ttl:,} s" if self.expire_share else "without a time to live"
        return (
            f"{self.request[0]}; {self.keys:,} random keys of {self.key_bytes} bytes, {expire}; "
            f"values of {self.value_bytes} bytes; {self.connections} connections, pipeline {self.pipeline}"
        )


class KeyStream:
    """The keys and values of one connection."""

    def __init__(self, load: KeyLoad, number: int) -> None:
        self._load, self._number = load, number
        self._size = load.key_bytes + load.value_bytes
        self._block = max(1, min(BLOCK_KEYS, BLOCK_BYTES // self._size))
        self._held = -1
        self._text = b""

    def pairs(self, first: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return keys and values from number `first` on."""
        keys: list[bytes] = []
        values: list[bytes] = []
        key_bytes, size = self._load.key_bytes, self._size
        at, end = first, first + count
        while at < end:
            block, offset = divmod(at, self._block)
            text = self._of_block(block)
            upto = min(self._block, offset + end - at)
            places = range(offset * size, upto * size, size)
            keys += [text[place : place + key_bytes] for place in places]
            values += [text[place + key_bytes : place + size] for place in places]
            at += upto - offset
        return keys, values

    def _of_block(self, block: int) -> bytes:
        if block != self._held:
            length = self._block * self._size
            source = shake_128(f"{self._load.seed}/{self._number}/{block}".encode()).digest(-(-length * 3 // 4))
            self._text, self._held = binascii.b2a_base64(source, newline=False)[:length], block
        return self._text


class KeyRequests:
    """The requests of one connection, from the first one that was not acknowledged to the last one.

    Batches begin at multiples of `pipeline`. Keys with a time to live are the first of their batch. Of a batch that was
    acknowledged in part, only the rest is sent, so that the same keys have a time to live.
    """

    def __init__(self, load: KeyLoad, number: int, done: int, acknowledge: Callable[[int], None]) -> None:
        """Begin after what is done.

        Args:
            load: the load.
            number: of the connection.
            done: how many of its keys were acknowledged.
            acknowledge: is called with the number of keys that were acknowledged, whenever there are more.
        """
        self._load, self._number = load, number
        self._stream = KeyStream(load, number)
        self._at, self._all = done, load.keys_of(number)
        self._acknowledge = acknowledge
        lengths = {"key": load.key_bytes, "value": load.value_bytes}
        self._plain, self._slots = template(load.request, lengths)
        words = tuple(word.replace("{ttl}", str(load.ttl)) for word in load.expiring)
        self._expiring, self._expiring_slots = template(words, lengths)
        self.asked = 0
        """The number of requests in the last batch."""
        self._expire = 0

    def batch(self) -> bytes:
        """Return the next requests; "" after the last key."""
        if self._at >= self._all:
            self.asked = 0
            return b""
        first, size, expiring = _batch_of(self._load, self._number, self._at)
        self.asked = asked = first + size - self._at
        self._expire = expire = max(0, first + expiring - self._at)
        keys, values = self._stream.pairs(self._at, asked)
        words = fill(self._expiring_slots, keys[:expire], values[:expire])
        words += fill(self._slots, keys[expire:], values[expire:])
        return (self._expiring * expire + self._plain * (asked - expire)) % tuple(words)

    def answered(self, count: int) -> None:
        """Note that the next requests of the last batch were acknowledged."""
        self._at += count
        self._acknowledge(self._at)

    def words(self, place: int) -> tuple[str, ...]:
        """Return the words of the request at a place of the last batch."""
        return self._load.expiring if place < self._expire else self._load.request


def _batch_of(load: KeyLoad, connection: int, number: int) -> tuple[int, int, int]:
    """Return the batch that holds a key of a connection: its first key, its size, its keys with a time to live."""
    first = number - number % load.pipeline
    size = min(load.pipeline, load.keys_of(connection) - first)
    return first, size, load.expiring_in(connection, first, first + size)


def expiring_among(load: KeyLoad, connection: int, done: int) -> int:
    """Return how many of the first `done` keys of a connection have a time to live."""
    first, _, expiring = _batch_of(load, connection, done)
    return load.expiring_in(connection, 0, first) + min(done - first, expiring)


def permanent(load: KeyLoad, connection: int, done: int, most: int) -> list[tuple[bytes, bytes]]:
    """Return some of a connection's first `done` keys that have no time to live, with their values: the last ones."""
    found: list[tuple[bytes, bytes]] = []
    stream, end = KeyStream(load, connection), done
    while end > 0 and len(found) < most:
        first, _, expiring = _batch_of(load, connection, end - 1)
        keys, values = stream.pairs(first, end - first)
        found += list(zip(keys, values, strict=True))[expiring:][: most - len(found)]
        end = first
    return found
