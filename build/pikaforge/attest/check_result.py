"""The result of one check of `verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pikaforge.host.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    file: str
    what: str
    verdict: Literal["yes", "no", "not checked"]
    why: str = ""
    """What it was checked by, or what is wrong."""

    def __str__(self) -> str:
        return one_line(f"{self.verdict:<11}  {self.file}: {self.what}{f': {self.why}' if self.why else ''}")
