"""The texts that a compilation leaves as its facts. Whoever built can have written them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pikaforge.errors import StageError
from pikaforge.host.archives import tar_entries
from pikaforge.host.confinement import FACTS_LIMIT, FACTS_LINES, OutputError, too_large
from pikaforge.host.workspace import failure


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """The text files that a guest script left in its folder of facts, by name."""

    texts: Mapping[str, str]

    def lines(self, name: str) -> tuple[str, ...]:
        """Return the lines of one; none if it is not there."""
        return tuple(self.texts.get(name, "").splitlines())

    def rows(self, name: str) -> list[list[str]]:
        """Return the lines of one, split at tabs."""
        return [line.split("\t") for line in self.lines(name)]

    def dropped(self) -> tuple[tuple[int, str], ...]:
        """Return how often the compiler wrapper dropped which flag.

        Raises:
            OutputError: a line is no number and flag.
        """
        found = []
        for line in self.lines("dropped.tsv"):
            count, _, flag = line.partition("\t")
            if not (count.isascii() and count.isdigit() and len(count) < 10):
                raise OutputError(f"dropped.tsv has a line without a number: {line[:80]!r}")
            found.append((int(count), flag))
        return tuple(found)


def guest_facts(archive: Path) -> GuestFacts:
    """Read the archive of a guest's facts.

    Raises:
        OutputError: it has too much in it.
        AuditError: it cannot be read.
    """
    texts: dict[str, str] = {}
    left, lines = FACTS_LIMIT, FACTS_LINES
    for member in tar_entries(archive):
        if member.kind != "file":
            continue
        data = member.read(left + 1)
        left, lines = left - len(data), lines - data.count(b"\n")
        if left < 0:
            raise too_large(archive.name, FACTS_LIMIT)
        if lines < 0:
            raise OutputError(f"{archive.name} has more than {FACTS_LINES} lines")
        texts[Path(member.name).name] = data.decode("utf-8", "replace").replace("\r\n", "\n")
    return GuestFacts(texts)


def unreadable(error: Exception, *, stage: str, label: str, log: Path) -> StageError:
    """Return the error for facts that cannot be read."""
    found = replace(failure(stage=stage, label=label, log=log), findings=(str(error),))
    return StageError("what the build says of itself cannot be read", found)
