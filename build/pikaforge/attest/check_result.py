"""The result of one check of `verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def plain(text: str) -> str:
    """Return a text for a terminal. A name in an artifact that is not verified may hold control characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    file: str
    what: str
    verdict: Literal["yes", "no", "not checked"]
    why: str = ""
    """What it was checked by, or what is wrong."""

    def __str__(self) -> str:
        return plain(f"{self.verdict:<11}  {self.file}: {self.what}{f': {self.why}' if self.why else ''}")
