"""The face for logs and pipes: whole blocks of lines, without any cursor movement. Each names its node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from pikaforge.cli import output
from pikaforge.cli.faces import lines
from pikaforge.cli.faces.events import (
    ArtifactPut,
    CellEnded,
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

    progress = False

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._encoding = encoding_of(stream, environ)
        self._cells: list[CellEnded] = []
        self._files: list[ArtifactPut] = []

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        match event:
            case RunNotice():
                self._write([lines.notice(event)])
            case RunOpened():
                self._write(lines.opening(event))
            case NodeStarted():
                self._write([f"{lines.name(event.stage, event.label)} ..."])
            case NodeEnded():
                self._ended(event)
            case CellEnded():
                self._cells.append(event)
            case ArtifactPut():
                self._files.append(event)
            case TableShown():
                self._write(lines.shown_table(event))
            case RunClosed():
                self._closed(event)
            case RunInterrupted():
                self._write(lines.interrupted(event))
            case _:
                pass

    def close(self) -> None:
        """As `Face.close`."""

    def _ended(self, event: NodeEnded) -> None:
        error = lines.failure(event.error, event.reproduce) if event.error is not None else []
        self._write([*lines.ended(event), *error])

    def _closed(self, event: RunClosed) -> None:
        if self._cells:
            self._write([*lines.refusals(self._cells), *lines.verdict_table(self._cells)])
        if self._files and all(file.made == "up to date" for file in self._files):
            self._write(["everything is up to date"])
        self._write([*lines.artifacts(self._files), *lines.closing(event)])

    def _write(self, text: list[str]) -> None:
        if text:
            output.write("\n".join(text), self._stream, self._encoding)
