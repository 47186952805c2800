"""Makes events of what a run does, and gives them to a face, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pikaforge.cli.faces.build_progress import FollowedLog
from pikaforge.cli.faces.events import (
    FailureText,
    NodeEnded,
    NodeProgressed,
    NodeStarted,
    RunEvent,
    RunFailed,
    RunInterrupted,
    RunNotice,
    RunOpened,
    RunStopping,
)
from pikaforge.cli.faces.face import Face
from pikaforge.cli.signals import status_of
from pikaforge.errors import ForgeError, StageError
from pikaforge.pipeline.expected import EarlierTimes, run_seconds
from pikaforge.pipeline.outcomes import Events, NodeOutcome, View
from pikaforge.plan.budget import Budget
from pikaforge.plan.plan import Node, Plan

if TYPE_CHECKING:
    from pikaforge.cli.faces.places import ConfigPlaces
    from pikaforge.config.product import Product

EVERY = 0.25
"""Seconds between two looks into the logs of running nodes, and between two pictures of a live face."""
ONE = Budget(cores=1)
"""What is taken where nothing is said of the machine."""


def utc_now() -> str:
    """Return the time as events have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def nothing(_cell: str = "") -> tuple[str, ...]:
    """Return no command lines; for runs that cannot be repeated by one."""
    return ()


@dataclass(slots=True, kw_only=True)
class _FollowedNode:
    node: Node
    logs: list[FollowedLog] = field(default_factory=list)
    percent: int = -1
    """The last whole percent that was shown."""


class Reporter(Events):
    """Gives the events of a run to a face. As a context manager it reports how the run has ended early."""

    def __init__(
        self,
        face: Face,
        *,
        again: Callable[..., tuple[str, ...]] = nothing,
        places: ConfigPlaces | None = None,
        now: Callable[[], str] = utc_now,
        every: float = EVERY,
    ) -> None:
        """Begin without events.

        Args:
            face: what shows them.
            again: returns the command lines that build a cell again; without an argument, those of the whole run.
            places: of the configuration.
            now: returns the time as events have it.
            every: seconds between two looks into logs.
        """
        self._face, self._again, self._places = face, again, places
        self.now = now
        self._every = every
        self._lock = threading.RLock()
        self._running: dict[str, _FollowedNode] = {}
        self._times = EarlierTimes(nodes={}, stages={})
        self._nodes = self._kept = 0
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(OSError):  # the terminal or the reader may be gone: that must not hide why the run ends
            if isinstance(error, KeyboardInterrupt):
                self._interrupted(error)
            elif isinstance(error, ForgeError):
                self.take(RunFailed(time=self.now(), error=failure_text(error)))
        with suppress(OSError):
            self.close()

    def seconds(self) -> float:
        """Return how long the run has taken so far."""
        return time.monotonic() - self._began

    def close(self) -> None:
        """End the watch on logs, and leave the terminal as it was."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            self._face.close()

    def take(self, event: RunEvent) -> None:
        """Give an event to the face."""
        with self._lock:
            self._face.take(event)

    def opened(
        self,
        product: Product,
        plan: Plan,
        views: Sequence[View],
        times: EarlierTimes,
        options: Sequence[str] = (),
        *,
        budget: Budget = ONE,
    ) -> None:
        """Report what a run will do.

        Args:
            product: what is built.
            plan: the plan.
            views: its nodes, with whether their results are stored.
            times: of earlier runs.
            options: of the command line that are not the defaults.
            budget: what nodes may use together.
        """
        cached = {view.node.id for view in views if view.cached}
        seconds, unknown = run_seconds(plan, cached, times, budget)
        self._times, self._nodes, self._kept = times, len(plan.nodes), 0
        self.take(
            RunOpened(
                time=self.now(),
                product=product.name,
                version=product.version,
                options=tuple(options),
                cells=tuple(cell.id for cell in plan.cells),
                compilations=len({cell.group for cell in plan.cells}),
                nodes=len(plan.nodes),
                cached=len(cached),
                expected_seconds=seconds,
                unknown=unknown,
            )
        )

    def started(self, node: Node) -> None:
        """As `Events.started`."""
        with self._lock:
            self._running[node.id] = _FollowedNode(node=node)
            self.take(
                NodeStarted(
                    time=self.now(),
                    node=node.id,
                    stage=node.stage,
                    label=node.label,
                    cells=tuple(cell.id for cell in node.cells),
                    expected_seconds=self._times.expected(node),
                )
            )
            if self._face.live and self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="logs", daemon=True)
                self._watcher.start()

    def ended(self, outcome: NodeOutcome) -> None:
        """As `Events.ended`."""
        node = outcome.node
        with self._lock:
            running = self._running.pop(node.id, None)
            self._kept += outcome.result is not None
            self.take(
                NodeEnded(
                    time=self.now(),
                    node=node.id,
                    stage=node.stage,
                    label=node.label,
                    cells=tuple(cell.id for cell in node.cells),
                    status=outcome.status,
                    seconds=outcome.seconds,
                    blocked_by=outcome.blocked_by,
                    log=str(running.logs[-1].path) if running is not None and running.logs else "",
                    error=self._failure(outcome),
                    reproduce=self._again(node.cells[0].id) if outcome.error is not None and node.cells else (),
                )
            )

    def notice(self, text: str) -> None:
        """As `Events.notice`."""
        self.take(RunNotice(time=self.now(), text=text))

    def warning(self, text: str) -> None:
        """Report what may be wrong."""
        self.take(RunNotice(time=self.now(), level="warning", text=text))

    def stopping(self) -> None:
        """As `Events.stopping`. The terminal may be gone."""
        with suppress(OSError):
            self.take(RunStopping(time=self.now()))

    def log_begun(self, label: str, stage: str, path: Path) -> None:
        """Take note of a log; see `Workspace.on_log`. A stage may have several: `smoke-native`."""
        with self._lock:
            for running in self._running.values():
                own = running.node.stage
                if label == running.node.label and (stage == own or stage.startswith(f"{own}-")):
                    running.logs.append(FollowedLog(path=path))

    def look(self) -> None:
        """Report how far the running nodes are, as far as their logs say something new."""
        with self._lock:
            for name, running in self._running.items():
                found = [progress for log in running.logs if (progress := log.look()) is not None]
                if found and (percent := int(found[-1].fraction * 100)) != running.percent:
                    running.percent = percent
                    self.take(
                        NodeProgressed(time=self.now(), node=name, fraction=found[-1].fraction, text=found[-1].text)
                    )

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self.look()
                with self._lock:
                    self._face.tick()
            except OSError:  # the terminal or the reader is gone, which the next event says
                return

    def _failure(self, outcome: NodeOutcome) -> FailureText | None:
        if outcome.error is None:
            return None
        text = failure_text(outcome.error)
        place = self._places.of(outcome) if self._places is not None else None
        return text if place is None else text.model_copy(update={"file": str(place[0]), "line": place[1]})

    def _interrupted(self, error: KeyboardInterrupt) -> None:
        if self._again is nothing:
            return
        self.take(
            RunInterrupted(
                time=self.now(),
                exit_status=status_of(error),
                kept=self._kept,
                nodes=self._nodes,
                next=self._again(),
            )
        )


def failure_text(error: ForgeError) -> FailureText:
    """Return an error as events have it."""
    details = error.failure if isinstance(error, StageError) else None
    lines = tuple(line for text in (*error.lines(), *error.see()) for line in text.split("\n"))
    return FailureText(
        message=error.message,
        where=error.where,
        reasons=details.findings if details is not None else (),
        tail=details.tail if details is not None else (),
        hints=tuple(error.hint.splitlines()),
        lines=lines,
        exit_status=error.exit_code,
    )
