"""How a judgement is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One violation or warning."""

    where: str
    """A file of the tree, or the part of the configuration."""
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" -> {self.do}" if self.do else "")
