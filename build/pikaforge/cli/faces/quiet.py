"""The face of `--quiet`: nothing on standard output; what failed, and warnings, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from pikaforge.cli import output
from pikaforge.cli.faces import lines
from pikaforge.cli.faces.events import NodeEnded, RunEvent, RunInterrupted, RunNotice


class Quiet:
    """Writes errors only."""

    live = False

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = sys.stderr

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        match event:
            case NodeEnded() if event.error is not None:
                self._write([*lines.ended(event), *lines.failure(event.error, event.reproduce)])
            case RunNotice() if event.level == "warning":
                self._write([lines.notice(event)])
            case RunInterrupted():
                self._write(lines.interrupted(event))
            case _:
                pass

    def tick(self) -> None:
        """As `Face.tick`."""

    def close(self) -> None:
        """As `Face.close`."""

    def _write(self, text: list[str]) -> None:
        output.warn("\n".join(text), self._stream)
