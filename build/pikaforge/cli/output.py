"""What all verbs print with: tables, notes, errors, and the progress of a run.

Nothing else prints. All of it is made printable here: names, messages and hints may come from a source, a package or a
server.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from pikaforge.errors import ForgeError
from pikaforge.host.text import one_line, printable, printable_json
from pikaforge.pipeline.pipeline import Events, NodeOutcome
from pikaforge.plan.plan import Node


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with left-aligned columns, two spaces apart."""
    lines = [list(map(one_line, line)) for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def built_target(target: str, wanted: str) -> str:
    """Return the target that is built; with the wanted one, if that is another."""
    return target if target == wanted else f"{target} (wanted {wanted})"


def count(number: int, what: str, many: str = "") -> str:
    """Return a number with its noun: `1 cell`, `2 cells`; `many` is a plural that is not made with s."""
    return f"{number} {what if number == 1 else many or what + 's'}"


def size(number: int) -> str:
    """Return a number of bytes in KiB or MiB."""
    return f"{number / (1 << 20):.1f} MiB" if number >= 1 << 20 else f"{number / 1024:.1f} KiB"


def readable(path: Path, start: Path) -> str:
    """Return a path as a person would type it: relative if it is below `start`."""
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def show(text: str) -> None:
    """Print a result on standard output. It is no error if the reader has ended (`| head`)."""
    try:
        sys.stdout.write(f"{printable(text)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_json(text: str) -> None:
    """Print a JSON text as a result, on standard output."""
    show(printable_json(text))


def note(text: str) -> None:
    """Print a remark that the reader should know, on standard output."""
    show(f"note: {text}")


def warn(text: str, stream: TextIO | None = None) -> None:
    """Print lines on standard error."""
    (stream or sys.stderr).write(f"{printable(text)}\n")


def show_error(error: ForgeError, stream: TextIO | None = None) -> None:
    """Print an error on standard error."""
    warn("\n".join(error.lines()), stream)


class Printer(Events):
    """Prints the progress of a run, one line for each event. Each line names its node: nodes run in parallel."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def _line(self, text: str) -> None:
        with self._lock:
            self._stream.write(f"{printable(text)}\n")
            self._stream.flush()

    @staticmethod
    def _name(node: Node) -> str:
        return f"{node.stage:<8} {node.label}"

    def started(self, node: Node) -> None:
        """As `Events.started`."""
        self._line(f"{self._name(node)} ...")

    def ended(self, outcome: NodeOutcome) -> None:
        """As `Events.ended`. An error is printed whole, in one block."""
        name = self._name(outcome.node)
        if outcome.status == "cached":
            self._line(f"{name} is up to date")
        elif outcome.status == "done":
            self._line(f"{name} done in {outcome.seconds:.1f} s")
        elif outcome.status == "blocked":
            self._line(f"{name} not run: it needs {outcome.blocked_by}")
        else:
            lines = outcome.error.lines() if outcome.error is not None else []
            self._line("\n".join([f"{name} FAILED after {outcome.seconds:.1f} s", *lines]))

    def notice(self, text: str) -> None:
        """As `Events.notice`."""
        self._line(f"note: {text}")
