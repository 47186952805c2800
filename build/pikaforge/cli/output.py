"""What all verbs print with: tables, notes, errors, and commands for GitHub's runner.

Nothing else prints, but the board of a terminal. All of it is made printable here: names, messages and hints may come
from a source, a package or a server.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pikaforge.errors import ForgeError
from pikaforge.host.text import one_line, printable, printable_json, width, writable

EVERY = 30.0
"""Seconds between two lines that say how far something is, where they are not in place."""
DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
PROPERTY = {**DATA, ":": "%3A", ",": "%2C"}
"""What GitHub's runner wants for these in messages, and in properties (actions/toolkit, command.ts)."""
ERASE = "\x1b[K"
"""Erases the rest of a line on a terminal (ECMA-48, EL)."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with left-aligned columns, two spaces apart."""
    lines = [list(map(one_line, line)) for line in (header, *rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def built_target(target: str, wanted: str) -> str:
    """Return the target that is built; with the wanted one, if that is another."""
    return target if target == wanted else f"{target} (wanted {wanted})"


def count(number: int, what: str, many: str = "") -> str:
    """Return a number with its noun: `1 cell`, `2 cells`; `many` is a plural that is not made with s."""
    return f"{number} {what if number == 1 else many or what + 's'}"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has: `4 h 5 min`, `12 min 3 s`, `8 s`."""
    whole = round(seconds)
    for unit, name, part, part_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {part_name}"
    return f"{whole} s"


def size(number: int) -> str:
    """Return a number of bytes in KiB or MiB, from 10 GiB on in GiB."""
    if number >= 10 << 30:
        return f"{number / (1 << 30):.1f} GiB"
    return f"{number / (1 << 20):.1f} MiB" if number >= 1 << 20 else f"{number / 1024:.1f} KiB"


def readable(path: Path, start: Path) -> str:
    """Return a path as a person would type it: relative if it is below `start`."""
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def write(text: str, stream: TextIO, encoding: str = "") -> None:
    """Write lines to a stream, made printable; letters that an encoding lacks become escapes.

    Raises:
        BrokenPipeError: the reader has ended.
    """
    stream.write(f"{writable(printable(text), encoding or stream.encoding or 'utf-8')}\n")
    stream.flush()


def write_command(name: str, message: str, stream: TextIO, **properties: str) -> None:
    """Write a command of GitHub's runner, as the runner's own toolkit escapes it.

    Args:
        name: `error`, `group`, `endgroup`.
        message: what stands behind the command; line ends stay.
        stream: which the runner reads.
        properties: of the command, such as `file`; empty ones are left out.
    """
    given = ",".join(f"{key}={_for_runner(value, PROPERTY)}" for key, value in properties.items() if value)
    stream.write(f"::{name}{' ' if given else ''}{given}::{_for_runner(message, DATA)}\n")
    stream.flush()


def _for_runner(text: str, escapes: Mapping[str, str]) -> str:
    """Return a text for a command: its line ends stay, and other control characters are made visible first."""
    return "".join(escapes.get(letter, letter) for letter in printable(text))


def show(text: str) -> None:
    """Print a result on standard output. It is no error if the reader has ended (`| head`)."""
    try:
        write(text, sys.stdout)
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
    warn("\n".join([*error.lines(), *error.see()]), stream)


class ProgressLine:
    """A line that says how far something is: in place on a terminal, else a new line now and then."""

    def __init__(
        self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic, every: float = EVERY
    ) -> None:
        """Begin without a line.

        Args:
            stream: standard output, unless tests give another one.
            clock: of seconds.
            every: seconds between two lines, if they are not in place.
        """
        self._stream = stream or sys.stdout
        self._clock, self._every = clock, every
        self._in_place = self._stream.isatty()
        self._said = clock()
        self._open = False

    def show(self, text: str, *, last: bool = False) -> None:
        """Show how far it is.

        Args:
            text: one line.
            last: whether nothing comes after it: then it is always shown, and ended.
        """
        line = one_line(text)
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1  # a full line would be wrapped, and not be overwritten
            self._write(f"\r{line[:width]}{ERASE}" + ("\n" if last else ""))
            self._open = not last
        elif last or self._clock() - self._said >= self._every:
            self._said = self._clock()
            self._write(f"{line}\n")

    def close(self) -> None:
        """End a line that is in place, so that what follows has a line of its own."""
        if self._open:
            self._open = False
            self._write("\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
