"""The journal of a load test: what it is, what the server has acknowledged, and what was measured.

It is a folder beside the result. Each interval is a line of `intervals.jsonl`. An interrupted test goes on from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pikaforge.bench.acknowledged import Acknowledged
from pikaforge.bench.histogram import Histogram
from pikaforge.bench.key_load import KeyLoad, expiring_among
from pikaforge.bench.load import Interval
from pikaforge.errors import ConfigError, HostError
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.durable import write_atomically

HEAD, NOTED, INTERVALS = "load.json", "acknowledged", "intervals.jsonl"
ANEW = "--anew begins again with empty data"


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AllocatorText(_Written):
    """What the server said of its allocator."""

    title: str
    """The request."""
    text: str


class JournalHead(_Written):
    """What a load test is, and how its server was before it."""

    format: Literal[1] = 1
    load: KeyLoad
    server: str
    """What tells this server from every other one: the identity of its compilation, and its image."""
    interval: float
    """Seconds between two readings."""
    data: str
    """The name of the server's data, which outlive the server."""
    began: float
    """When the test began, in seconds since 1970."""
    resident_before: int | None = None
    """Bytes of memory that the server held before the first request."""
    before: tuple[AllocatorText, ...] | None = None
    """None until the server was asked."""


class IntervalLine(_Written):
    """An interval: a line of the file."""

    session: int
    """1 for the first run, 2 for the one that went on after an interruption."""
    start: float
    seconds: float
    latency: tuple[tuple[int, int], ...]
    resident: int | None

    @classmethod
    def of(cls, session: int, interval: Interval) -> IntervalLine:
        """Return the line of an interval."""
        return cls(
            session=session,
            start=round(interval.start, 6),
            seconds=round(interval.seconds, 6),
            latency=interval.latency.counts,
            resident=interval.resident,
        )

    def interval(self) -> Interval:
        """Return what was measured."""
        return Interval(start=self.start, seconds=self.seconds, latency=Histogram(self.latency), resident=self.resident)


class LoadJournal:
    """The folder of a load test."""

    def __init__(self, folder: Path, head: JournalHead) -> None:
        self.folder, self.head = folder, head
        self.lines = _lines(folder / INTERVALS)
        """The intervals, of all sessions."""
        self.session = 1 + max((line.session for line in self.lines), default=0)
        """The number of this session."""

    @classmethod
    def begin(cls, folder: Path, head: JournalHead) -> LoadJournal:
        """Return the journal of a new load test."""
        shutil.rmtree(folder, ignore_errors=True)
        with full_disk_errors(folder.parent):
            folder.mkdir(parents=True)
            Acknowledged.make(folder / NOTED, head.load.connections)
        journal = cls(folder, head)
        journal.write_head(head)  # last: a journal with a head is whole
        return journal

    @classmethod
    def open(cls, folder: Path) -> LoadJournal | None:
        """Return the journal of a load test that was interrupted; None if there is none.

        Raises:
            HostError: it is damaged.
        """
        try:
            text = (folder / HEAD).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _damaged(folder, str(error)) from error
        try:
            journal = cls(folder, JournalHead.model_validate_json(text))
        except (ValidationError, ConfigError) as error:
            raise _damaged(folder, f"{HEAD} cannot be read") from error
        load, noted = journal.head.load, folder / NOTED
        try:
            done = journal.acknowledged()
        except (OSError, ValueError) as error:
            raise _damaged(folder, f"{noted.name} cannot be read") from error
        if len(done) != load.connections or any(keys > load.keys_of(n) for n, keys in enumerate(done)):
            raise _damaged(folder, f"{noted.name} is of another test")
        return journal

    @property
    def noted(self) -> Path:
        """The file with the numbers of acknowledged keys."""
        return self.folder / NOTED

    def acknowledged(self) -> Sequence[int]:
        """Return the number of acknowledged keys of each connection."""
        noted = Acknowledged(self.noted)
        try:
            return noted.all()
        finally:
            noted.close()

    def written(self) -> tuple[int, int]:
        """Return how many keys were acknowledged, and how many of them have a time to live."""
        done = self.acknowledged()
        return sum(done), sum(expiring_among(self.head.load, n, keys) for n, keys in enumerate(done))

    @property
    def seconds(self) -> float:
        """The time of the load so far, without the pauses between sessions."""
        return self.lines[-1].start + self.lines[-1].seconds if self.lines else 0.0

    def write_head(self, head: JournalHead) -> None:
        """Write the head."""
        self.head = head
        write_atomically(self.folder / HEAD, head.model_dump_json(indent=1) + "\n")

    def add(self, interval: Interval) -> None:
        """Add an interval of this session."""
        line = IntervalLine.of(self.session, interval)
        with full_disk_errors(self.folder), (self.folder / INTERVALS).open("a", encoding="utf-8") as file:
            # After a line end, too: a line that was cut off by a kill must not spoil the next one.
            file.write(f"\n{line.model_dump_json()}\n")
        self.lines.append(line)

    def remove(self) -> None:
        """Remove the folder: the test is over."""
        (self.folder / HEAD).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _damaged(folder: Path, why: str) -> HostError:
    return HostError(f"the journal of the interrupted load test is damaged: {why}", where=str(folder), hint=ANEW)


def _lines(path: Path) -> list[IntervalLine]:
    """Return the lines of the file; what cannot be read was cut off by a kill, and is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            lines.append(IntervalLine.model_validate_json(text))
        except ValidationError:
            continue
    return lines
