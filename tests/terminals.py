"""A real pseudo-terminal with an emulated screen (pyte), and runs that are replayed on it event by event.

with Terminal(columns=80) as terminal:
    with terminal.replay("board") as run:
        run.take(opened(), started("compile", GROUP))
        terminal.until(lambda rows: any("compile" in row for row in rows))
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyte
from pyte.screens import Char

from pikaforge.cli.faces.events import EventBase

ROOT = Path(__file__).resolve().parents[1]
SOON = 60.0
"""Seconds in which what is waited for must come; a limit for tests that fail."""
REPLAY = """
import json, os, signal, sys, time
from pikaforge.cli.faces.board_rows import BoardState
from pikaforge.cli.faces.events import EventLine
from pikaforge.cli.faces import board, face
from pikaforge.host.process import cwd
shown = face.open_face(sys.argv[1], os.environ)
now = [0.0]
if sys.argv[1] == "board":
    shown.state = BoardState(clock=lambda: now[0], wall=lambda: 1_000_000_000 + now[0])
for line in sys.stdin:
    given = json.loads(line)
    if "clock" in given:
        now[0] = given["clock"]
    else:
        shown.take(EventLine.model_validate_json(line).root)
shown.close()
assert os.environ.get("REPLAY_WITHOUT", "-") not in sys.modules
"""
"""Takes events, and times of a clock, one on each line of standard input."""


@dataclass(slots=True, kw_only=True)
class Replayed:
    """A face that shows events on a terminal as they are given."""

    lines: IO[bytes]

    def take(self, *events: EventBase) -> None:
        """Show events."""
        for event in events:
            self._write(event.model_dump(mode="json"))

    def clock(self, seconds: float) -> None:
        """Set the clock of the board."""
        self._write({"clock": seconds})

    def _write(self, data: Mapping[str, Any]) -> None:
        self.lines.write(json.dumps(data).encode() + b"\n")
        self.lines.flush()


class Terminal:
    """A pseudo-terminal with an emulated screen."""

    def __init__(self, *, columns: int, lines: int = 40, charset: str = "utf-8") -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=2000)
        self._stream = pyte.Stream(self.screen)
        self._charset = charset
        self.raw = b""
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)
        os.close(self._slave)

    def resize(self, columns: int, lines: int = 40) -> None:
        """Give the terminal another size; who has it as its controlling terminal gets SIGWINCH."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def write(self, text: str) -> None:
        """Type something: `\\x03` is Ctrl-C."""
        os.write(self._master, text.encode())

    def rows(self) -> list[str]:
        """Return all rows that were shown and have not been overwritten, without blanks behind them."""
        above = [self._text(line) for line in self.screen.history.top]
        return [row.rstrip() for row in (*above, *self.screen.display)]

    def _text(self, line: Mapping[int, Char]) -> str:
        return "".join(line[column].data for column in range(self.screen.columns))

    def read(self, seconds: float) -> bool:
        """Take what is written within a time; return whether anything was."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        data = os.read(self._master, 1 << 16)
        self.raw += data
        self._stream.feed(data.decode(self._charset, "replace"))
        return True

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Return the rows as soon as they are so; fail if they never are."""
        end = time.monotonic() + SOON
        while not seen(self.rows()):
            left = end - time.monotonic()
            assert left > 0, "\n".join(self.rows())
            self.read(left)
        return self.rows()

    @contextmanager
    def running(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: int | None = None,
        cwd: Path | None = None,
        hangup: bool = False,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program with this as its controlling terminal; take all that it writes until it ends.

        Args:
            argv: program and arguments.
            env: its environment.
            stdin: where it reads from, instead of the terminal.
            cwd: where it runs.
            hangup: whether the terminal is closed meanwhile, so that nothing can be read at the end.
        """

        def control() -> None:
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        with subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=self._slave if stdin is None else stdin,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=control,  # noqa: PLW1509  # no threads here
        ) as child:
            try:
                yield child
                if not hangup:
                    self.ended(child)
            finally:
                if child.poll() is None:
                    child.kill()

    def ended(self, child: subprocess.Popen[bytes]) -> None:
        """Take what a program writes until it ends."""
        end = time.monotonic() + 10 * SOON
        while child.poll() is None:
            assert time.monotonic() < end, "\n".join(self.rows())
            self.read(0.2)
        while self.read(0):
            pass

    @contextmanager
    def replay(self, face: str, **env: str) -> Iterator[Replayed]:
        """Show events by a face; at the end all is on the screen."""
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color"}
        given |= {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONIOENCODING": self._charset} | env
        with self.running([sys.executable, "-c", REPLAY, face], given, stdin=subprocess.PIPE) as child:
            assert child.stdin is not None
            with child.stdin:
                yield Replayed(lines=child.stdin)
        assert child.returncode == 0, "\n".join(self.rows())
