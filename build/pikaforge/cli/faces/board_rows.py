"""The rows of the live board: a row for each running node, then the totals. Pure: a clock is an argument."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from pikaforge.cli.faces.events import NodeEnded, NodeProgressed, NodeStarted, RunEvent, RunOpened, RunStopping
from pikaforge.cli.faces.lines import name, percent
from pikaforge.cli.faces.terminal import Signs
from pikaforge.host.text import cut, one_line, width

INDENT = "  "
"""Below the signs of what has ended."""
ROOMY, SLIM = 70, 54
"""Columns from which rows have a bar; an end."""
WIDEST = 110
"""Columns of a row at most: on a wider terminal the eye would lose the row."""
BAR = 12
ALMOST = 0.99
"""The most that is said by the time of an earlier run: only the build itself knows that it is done."""
EARLIEST = 0.05
"""The share that a build must have done before it is said when it will end."""
STAMP = "%H:%M:%S"


@dataclass(slots=True, kw_only=True)
class RunningNode:
    """A node that runs."""

    title: str
    began: float
    expected: float | None
    """Seconds that it took in an earlier run."""
    fraction: float | None = None
    """What the build itself says."""
    text: str = ""

    def done(self, now: float) -> float | None:
        """Return the share that is done, by the build itself or by the time of an earlier run."""
        if self.fraction is not None:
            return self.fraction
        return min((now - self.began) / self.expected, ALMOST) if self.expected else None

    def left(self, now: float) -> float | None:
        """Return the seconds that are left; None if nothing is known, or if it takes longer than it should."""
        elapsed = now - self.began
        if self.expected is not None:
            left = self.expected - elapsed
        elif self.fraction is not None and self.fraction >= EARLIEST:
            left = elapsed / self.fraction - elapsed
        else:
            return None
        return left if left > 0 else None


@dataclass(slots=True, kw_only=True)
class BoardState:
    """What a board shows: the nodes that run, and how many have ended."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    running: dict[str, RunningNode] = field(default_factory=dict)
    nodes: int = 0
    ended: int = 0
    cached: int = 0
    failed: int = 0
    began: float = 0.0
    expected: float | None = None
    stopping: bool = False

    def take(self, event: RunEvent) -> None:
        """Take an event into account."""
        match event:
            case RunOpened():
                self.nodes, self.expected, self.began = event.nodes, event.expected_seconds, self.clock()
                self.ended = self.cached = self.failed = 0
            case NodeStarted():
                self.running[event.node] = RunningNode(
                    title=name(event.stage, event.label), began=self.clock(), expected=event.expected_seconds
                )
            case NodeProgressed() if event.node in self.running:
                self.running[event.node].fraction = event.fraction
                self.running[event.node].text = event.text
            case NodeEnded():
                self.running.pop(event.node, None)
                self.ended += 1
                self.cached += event.status == "cached"
                self.failed += event.status == "failed"
            case RunStopping():
                self.stopping = True
            case _:
                pass


RowStyle = Literal["running", "totals", "trouble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRow:
    """A row of the board, and how it is coloured."""

    text: str
    style: RowStyle


def rows(state: BoardState, columns: int, signs: Signs, lines: int = 0) -> list[BoardRow]:
    """Return the rows for a terminal of a size. No row fills the last column: some terminals wrap then.

    Args:
        state: what is shown.
        columns: of the terminal.
        signs: what it can show.
        lines: of the terminal; 0: as many as are needed. Where there are too few, the nodes that began last are counted
            only.
    """
    room = max(1, min(columns - 1, WIDEST))
    now = state.clock()
    running = list(state.running.values())
    most = max(1, lines - 3) if lines else len(running)
    nodes = running if len(running) <= most + 1 else running[:most]
    wide = max((width(one_line(node.title)) for node in nodes), default=0)
    shown = [BoardRow(text=_node(node, state, room, signs, wide=wide), style="running") for node in nodes]
    if more := len(running) - len(nodes):
        shown.append(BoardRow(text=cut(f"{INDENT}and {more} more", room, signs.cut), style="running"))
    totals = cut(_totals(state, now, room), room, signs.cut)
    return [*shown, BoardRow(text=totals, style="trouble" if state.failed or state.stopping else "totals")]


def elapsed(seconds: float) -> str:
    """Return a time as `0:07`, `12:03` or `1:02:03`."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _node(node: RunningNode, state: BoardState, room: int, signs: Signs, *, wide: int) -> str:
    """Return the row of a node; `wide` is the width of the longest title."""
    now = state.clock()
    done, left = node.done(now), node.left(now)
    bar = _bar(done, signs)
    share = "    " if done is None else f"{int(done * 100):>3}%"
    said = share if node.fraction is not None or done is None else f"~{share.strip()}".rjust(4)
    took = elapsed(now - node.began).rjust(5)
    end = f"end {_stamp(state, left)}" if left is not None else " " * 12
    parts: Iterable[str] = (
        (bar, said, took, end) if room >= ROOMY else (said, took, end) if room >= SLIM else (said, took)
    )
    tail = " ".join(parts)
    indent = INDENT if room >= ROOMY else ""
    most = room - width(tail) - 2 - len(indent)
    title = cut(one_line(node.title if room >= SLIM else " ".join(node.title.split())), most, signs.cut)
    return cut(f"{indent}{title}{' ' * (min(wide, most) - width(title))}  {tail}".rstrip(), room, signs.cut)


def _bar(done: float | None, signs: Signs) -> str:
    filled = int((done or 0.0) * BAR)
    return signs.full * filled + signs.empty * (BAR - filled)


def _stamp(state: BoardState, left: float) -> str:
    return time.strftime(STAMP, time.localtime(state.wall() + left))


def _totals(state: BoardState, now: float, room: int) -> str:
    if state.stopping:
        return "stopping: what runs is being removed"
    parts = []
    if state.nodes:
        parts.append(f"{state.ended}/{state.nodes} ({percent(state.cached, state.nodes)} cached)")
    if state.failed:
        parts.append(f"{state.failed} failed")
    if room >= SLIM:
        parts.append(f"{len(state.running)} running")
    if state.nodes:
        parts.append(elapsed(now - state.began))
        left = None if state.expected is None else state.expected - (now - state.began)
        if left is not None and left > 0 and room >= SLIM:
            parts.append(f"end about {_stamp(state, left)}")
    return ", ".join(parts)
