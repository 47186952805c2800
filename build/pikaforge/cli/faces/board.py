"""The face for a terminal: a live board of what runs. Blocks of what has ended scroll above it, and stay."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from pikaforge.cli.faces import lines
from pikaforge.cli.faces.board_rows import BoardState, RowStyle, rows
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
from pikaforge.cli.faces.terminal import encoding_of, signs_for
from pikaforge.host.text import printable, writable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

USUAL = 80
"""Columns of a terminal that does not say how many it has."""
STYLES: Mapping[RowStyle, str] = {"running": "", "totals": "bold", "trouble": "bold red"}
ENDED = {"done": "green", "failed": "bold red", "cached": "dim", "blocked": "yellow"}
"""Colours of the first line about a node. Its words say the same."""
HEADER = re.compile(r"(?:CELL|FILE|IMAGE)  ")
"""How the headers of tables begin."""
LABEL = re.compile(r"error:|  (?:where|reason|hint|log|command|to reproduce it on this machine):")


class Board:
    """Shows a board while nodes run. rich is imported when the first one is started."""

    live = True

    def __init__(self, stream: TextIO, environ: Mapping[str, str], state: BoardState | None = None) -> None:
        self._stream = stream
        self._encoding = encoding_of(stream, environ)
        self._signs = signs_for(self._encoding, environ)
        # What a shell exports of the size is that of its start.
        self._environ = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}
        self.state = state or BoardState()
        self._console_: Console | None = None
        self._live: Live | None = None
        self._ending = Ending()

    def take(self, event: RunEvent) -> None:
        """As `Face.take`."""
        self.state.take(event)
        if self._ending.keeps(event):
            return
        match event:
            case RunNotice():
                self._print([(lines.notice(event), "yellow" if event.level == "warning" else "")])
            case RunOpened():
                self._print([(line, "bold" if number == 0 else "") for number, line in enumerate(lines.opening(event))])
            case NodeStarted():
                self._start()
            case NodeEnded():
                self._ended(event)
            case TableShown():
                self.close()
                self._print([(line, "") for line in lines.shown_table(event)])
            case RunClosed():
                self._closed(event)
            case RunInterrupted():
                self.close()
                self._print([(line, "") for line in lines.interrupted(event)])
            case _:
                pass
        self.tick()

    def tick(self) -> None:
        """As `Face.tick`."""
        if self._live is not None:
            self._live.refresh()

    def close(self) -> None:
        """Remove the board. What has scrolled above it stays."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def drawn(self) -> Text:
        """Return the board as it is now, for the width that the terminal has now."""
        from rich.text import Text  # noqa: PLC0415  # only a terminal on which something runs needs it

        columns, height = self._size()
        shown = rows(self.state, columns or USUAL, self._signs, height)
        texts = [Text(writable(row.text, self._encoding), style=STYLES[row.style], no_wrap=True) for row in shown]
        return Text("\n", no_wrap=True, overflow="crop").join(texts)

    def _console(self) -> Console:
        from rich.console import Console  # noqa: PLC0415

        if self._console_ is None:
            self._console_ = Console(
                file=self._stream,
                force_terminal=True,
                highlight=False,
                markup=False,
                emoji=False,
                legacy_windows=False,
                _environ=self._environ,
            )
        return self._console_

    def _start(self) -> None:
        from rich.live import Live  # noqa: PLC0415

        if self._live is None:
            self._live = Live(
                console=self._console(),
                get_renderable=self.drawn,
                auto_refresh=False,  # by a thread of rich's own, which would not end well if the terminal were gone
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()

    def _ended(self, event: NodeEnded) -> None:
        sign = {
            "done": self._signs.done,
            "failed": self._signs.failed,
            "cached": self._signs.cached,
            "blocked": self._signs.blocked,
        }[event.status]
        shown = [(f"{sign} {line}", ENDED[event.status]) for line in lines.ended(event)]
        if event.error is not None:
            shown += [(line, "") for line in lines.failure(event.error, event.reproduce, tail=False)]
        self._print(shown)

    def _closed(self, event: RunClosed) -> None:
        self.close()
        self._print([(line, "") for line in self._ending.text(event, self._columns())])

    def _columns(self) -> int:
        """Return the width that the terminal has now."""
        return self._size()[0] or USUAL

    def _size(self) -> tuple[int, int]:
        """Return columns and lines that the terminal has now; 0 where it does not say."""
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 0, 0
        return found.columns, found.lines

    def _print(self, shown: list[tuple[str, str]]) -> None:
        """Print lines above the board. Long ones are wrapped by the terminal, so that they are copied as they are."""
        text = [(writable(printable(line), self._encoding), style) for line, style in shown]
        if not text:
            return
        if self._console_ is None:  # nothing runs yet, and perhaps nothing will
            self._stream.write("".join(f"{line}\n" for line, _ in text))
            self._stream.flush()
            return
        from rich.text import Text  # noqa: PLC0415

        whole = Text("\n").join(_styled(line, style) for line, style in text)
        self._console_.print(whole, soft_wrap=True)


def _styled(line: str, style: str) -> Text:
    """Return a line in a colour; in the lines of an error, the labels stand out."""
    from rich.text import Text  # noqa: PLC0415

    text = Text(line, style="bold" if HEADER.match(line) else style)
    if not style and (label := LABEL.match(line)):
        text.stylize("bold red" if label[0] == "error:" else "bold", 0, label.end())
    return text
