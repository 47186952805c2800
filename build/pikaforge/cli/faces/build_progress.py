"""How far a build is, by what it prints itself: `[ 42%]` of CMake, `[12/80]` of ninja, `Step 3/9` of image builds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 1 << 16
"""Bytes at the end of a log that are looked at: a build prints less between two looks, or the last lines count."""
SHARE = re.compile(r"^\s*(?:\[\s{0,8}(\d{1,3})%\]|(\d{1,3})% (?:done|complete))", re.MULTILINE)
STEPS = re.compile(
    r"^(?:#\d{1,4} )?(?:\[(?:\S{1,64} )?\s{0,8}(\d{1,6})/(\d{1,6})\]|(?:step|STEP|Step) (\d{1,6})/(\d{1,6})\b)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """What a build has printed of its progress."""

    fraction: float
    """From 0 to 1."""
    text: str
    """`42%`, `3/9`."""


def progress_in(text: str) -> BuildProgress | None:
    """Return the last progress in the output of a build; None if there is none."""
    found: list[tuple[int, BuildProgress]] = []
    for match in SHARE.finditer(text):
        percent = int(match[1] or match[2])
        if percent <= 100:
            found.append((match.start(), BuildProgress(fraction=percent / 100, text=f"{percent}%")))
    for match in STEPS.finditer(text):
        number, whole = int(match[1] or match[3]), int(match[2] or match[4])
        if 0 <= number <= whole and whole > 0:
            found.append((match.start(), BuildProgress(fraction=number / whole, text=f"{number}/{whole}")))
    return max(found, key=lambda each: each[0])[1] if found else None


@dataclass(slots=True, kw_only=True)
class FollowedLog:
    """The log of a node that runs. Only what has come since the last look is read."""

    path: Path
    last: BuildProgress | None = None
    _offset: int = field(default=0)

    def look(self) -> BuildProgress | None:
        """Return the progress if it has changed since the last look; else None."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                if size == self._offset:
                    return None
                stream.seek(max(0, self._offset if size > self._offset else 0, size - BLOCK))
                data = stream.read(BLOCK)
                self._offset = size - len(data.rpartition(b"\n")[2])  # the last line may go on
        except OSError:  # the log is made anew
            return None
        found = progress_in(data.decode("utf-8", "replace"))
        if found is None or found == self.last:
            return None
        self.last = found
        return found
