"""A machine as a script of a package sees it: a few tools, and stand-ins that tell how they were called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPY = '#!/bin/sh\nprintf "%s" "${0##*/}" >>"$SPY"\nfor word; do printf " %s" "$word" >>"$SPY"; done\necho >>"$SPY"\n'
"""The start of a stand-in: a line with its name and arguments goes to the file $SPY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StubbedHost:
    """What the machines of the tests have in common; their folders are below `top`."""

    top: Path
    words: tuple[str, ...]
    """Of the shell."""

    def stub(self, name: str, body: str = "exit 0") -> None:
        """Put a stand-in among the programs."""
        path = self.top / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"{SPY}{body}\n")
        path.chmod(0o755)

    def folder(self, name: str) -> Path:
        """Make a folder; return its path."""
        path = self.top / name
        path.mkdir(parents=True, exist_ok=True)
        return path
