"""What Dask runs on a worker: `run`, which has one node made by a process of its own, and ends that with the task.

Dask lets a task that was cancelled run on in its thread. So the worker's plugin says whether a task is still wanted;
the process is wanted as long as bytes come through its pipe.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pikaforge.errors import EXIT_INTERRUPTED, HostError
from pikaforge.farm.messages import LIMIT, ErrorRecord, NodeReply
from pikaforge.farm.node import REPLY, REQUEST
from pikaforge.host import process
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.lifeline import BEAT, GRACE
from pikaforge.host.text import clean

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that this package is imported from."""
TOPIC = "pikaforge"
"""Of the events that say which tasks have begun."""
HEARD = 3.0
"""Seconds in which a worker hears of a cancellation."""
LOOK = 0.1
"""Seconds between two looks at what runs."""
SAID = 2000
"""Bytes of what a process has printed that are shown, if it leaves no reply."""


class UnwantedError(Exception):
    """The task was cancelled, or its worker ends: there is no reply."""


@dataclass(slots=True)
class Wishes:
    """Which tasks of a worker are wanted. The worker's own thread changes it, those of tasks ask."""

    closing: bool = False
    _unwanted: dict[str, threading.Event] = field(default_factory=dict)

    def begin(self, key: str) -> threading.Event:
        """Return the event that is set while a task is not wanted."""
        event = self._unwanted.setdefault(key, threading.Event())
        if self.closing:
            event.set()
        return event

    def end(self, key: str) -> None:
        """Forget a task whose process has ended."""
        self._unwanted.pop(key, None)

    def moved(self, key: str, state: str) -> None:
        """Take note of a task's new state. A cancelled one may be wanted again."""
        event = self._unwanted.get(key)
        if event is None:
            return
        if state in ("executing", "long-running") and not self.closing:
            event.clear()
        else:
            event.set()

    def close(self) -> None:
        """Take note that the worker ends."""
        self.closing = True
        for event in list(self._unwanted.values()):
            event.set()

    def unwanted(self, key: str) -> bool:
        """Return whether a task has a process that ends."""
        event = self._unwanted.get(key)
        return event is not None and event.is_set()

    @property
    def running(self) -> list[str]:
        """The tasks that have a process."""
        return sorted(self._unwanted)


WISHES = Wishes()
"""Of the worker in this process."""


def run(text: str, *needs: str) -> str:
    """Have a node made; return the reply's text.

    Args:
        text: a `NodeRequest`.
        needs: replies of the nodes that it needs, so that Dask prefers the workers that have made these.

    Raises:
        UnwantedError: the task was cancelled.
    """
    from distributed import get_worker  # noqa: PLC0415  # a worker has it

    worker = get_worker()
    key = str(worker.get_current_task())
    unwanted = WISHES.begin(key)
    try:
        worker.log_event(TOPIC, {"key": key, "worker": str(worker.name)})
        while True:
            reply = supervised(text, unwanted, name=str(worker.name))
            if reply is not None:
                return reply
            if unwanted.is_set():
                raise UnwantedError(key)
    finally:
        WISHES.end(key)


async def settled(keys: Sequence[str], seconds: float) -> None:
    """Wait, in the worker's own thread, until the processes of tasks that were cancelled have ended.

    Those that another client wants run on.

    Args:
        keys: of the tasks.
        seconds: at most.
    """
    end, heard = time.monotonic() + seconds, time.monotonic() + HEARD
    while running := [key for key in keys if key in WISHES.running]:
        now = time.monotonic()
        if now > end or (now > heard and not any(WISHES.unwanted(key) for key in running)):
            return
        await asyncio.sleep(LOOK)


def supervised(
    text: str, unwanted: threading.Event, *, name: str, argv: Callable[[Path], list[str]] | None = None
) -> str | None:
    """Run the process of a node to its end; return its reply, None if it was ended because nobody wants it.

    Args:
        text: the request.
        unwanted: is set when nobody wants it.
        name: of the worker.
        argv: the program, for tests.
    """
    with temporary_folder("task") as folder, ExitStack() as stack:
        (folder / REQUEST).write_text(text, encoding="utf-8")
        command = argv(folder) if argv is not None else [sys.executable, "-m", "pikaforge.farm.node", str(folder)]
        output = stack.enter_context((folder / "output").open("w+b"))
        reading, writing = os.pipe()
        life = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
        with os.fdopen(reading, "rb") as stdin:
            child = stack.enter_context(
                process.child(command, cwd=folder, env=_environment(), output=output, stdin=stdin)
            )
        status = _waited(child, life, unwanted)
        if unwanted.is_set() or status == EXIT_INTERRUPTED:
            return None
        return _reply(folder, status, output, name)


def _waited(child: process.Child, life: IO[bytes], unwanted: threading.Event) -> int | None:
    """Wait for a process, and keep it alive while it is wanted; return its exit status, None if it does not end."""
    status = None
    while status is None and not unwanted.is_set():
        with suppress(BrokenPipeError):  # it ends
            life.write(b".")
        status = child.wait(BEAT)
    if status is None:
        life.close()
        status = child.wait(GRACE + BEAT)
    return status


def _environment() -> dict[str, str]:
    """Return this process's own environment: the node's process is the same tool, with the same secrets."""
    inherited = dict(os.environ)
    paths = [str(PACKAGES), *filter(None, [inherited.get("PYTHONPATH", "")])]
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _reply(folder: Path, status: int | None, output: IO[bytes], name: str) -> str:
    """Return the reply that a process has left; one that says how it ended, if it left none."""
    with suppress(OSError):
        if (folder / REPLY).stat().st_size <= LIMIT:
            return (folder / REPLY).read_text(encoding="utf-8")
    output.seek(0)
    lines = clean(output.read()[-SAID:].decode("utf-8", "replace")).strip()
    error = HostError(
        f"the process of the node on {name} has ended with status {status}, without a reply",
        where=f"worker {name}",
        hint=lines or "the kernel kills programs when memory runs out: `dmesg` says so",
    )
    return NodeReply(node="", status="failed", error=ErrorRecord.of(error, machine=name)).model_dump_json()
