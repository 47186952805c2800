"""The face for logs and pipes: whole blocks of lines, without any cursor movement. Each names its node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from pikaforge.cli import output
from pikaforge.cli.faces import lines
from pikaforge.cli.faces.ending import Ending
from pikaforge.cli.faces.events import (
    NodeEnded,
    NodeStarted,
    RunClosed,
    RunEvent,
    RunInterrupted,
    RunNotice,
    RunOpened,
    TableShown,
)
from pikaforge.cli.faces.terminal import encoding_of


class Blocks:
    """Writes what events say, one block for each."""

    live = False

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._encoding = encoding_of(stream, environ)
        self.ending = Ending()

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        if self.ending.keeps(event):
            return
        match event:
            case RunNotice():
                self._write([lines.notice(event)])
            case RunOpened():
                self._write(lines.opening(event))
            case NodeStarted():
                self._write([f"{lines.name(event.stage, event.label)} ..."])
            case NodeEnded():
                self._ended(event)
            case TableShown():
                self._write(lines.shown_table(event))
            case RunClosed():
                self._closed(event)
            case RunInterrupted():
                self._write(lines.interrupted(event))
            case _:
                pass

    def tick(self) -> None:
        """As `Face.tick`."""

    def close(self) -> None:
        """As `Face.close`."""

    def _ended(self, event: NodeEnded) -> None:
        error = lines.failure(event.error, event.reproduce) if event.error is not None else []
        self._write([*lines.ended(event), *error])

    def _closed(self, event: RunClosed) -> None:
        self._write(self.ending.text(event))

    def _write(self, text: list[str]) -> None:
        if text:
            output.write("\n".join(text), self._stream, self._encoding)
