"""The connection to the scheduler of a Dask cluster. The library is imported when there is one to connect to."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from pikaforge.errors import HostError, UnreachableError, UsageError
from pikaforge.farm import task
from pikaforge.farm.resources import FarmSeen
from pikaforge.host import extras
from pikaforge.host.text import clean

if TYPE_CHECKING:
    from distributed import Client, Future

ADDRESS = re.compile(r"(tcp|tls|ws|wss)://[A-Za-z0-9.:\[\]_-]+:[0-9]{1,5}")
CONNECT = 10.0
"""Seconds for a scheduler to answer."""
ENDING = 90.0
"""Seconds for workers to remove what cancelled tasks have started."""
LOST = (
    "results that were finished are in the shared store: start the scheduler and its workers, and run this again;\n"
    "it goes on where it was"
)


class FarmTask(Protocol):
    """A task of a cluster."""

    def add_done_callback(self, fn: Callable[[FarmTask], object]) -> None:
        """Call a function when the task has ended, in any thread."""

    def result(self) -> object:
        """Return what it has returned, or raise what has ended it."""


class Cluster(Protocol):
    """A cluster, as the runner uses it."""

    def submit(
        self, text: str, needs: Sequence[FarmTask], *, key: str, asks: Mapping[str, float], priority: int
    ) -> FarmTask:
        """Begin a task: `task.run`. One that has this key already is the same task, whoever has begun it."""

    def cancel(self, tasks: Sequence[FarmTask]) -> None:
        """Cancel tasks, and wait until what they have started is removed."""


class DaskCluster:
    """A cluster of Dask. See `Cluster`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def seen(self) -> FarmSeen:
        """Return what the workers have now."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return FarmSeen.of(worker.get("resources", {}) for worker in workers.values())

    def notify(self, begun: Callable[[str], None]) -> None:
        """Call a function with the key of each task that begins."""

        def handle(event: object) -> None:
            message = event[1] if isinstance(event, (tuple, list)) and len(event) == 2 else None
            if isinstance(message, dict) and isinstance(message.get("key"), str):
                begun(message["key"])

        self._client.subscribe_topic(task.TOPIC, handle)

    def submit(
        self, text: str, needs: Sequence[FarmTask], *, key: str, asks: Mapping[str, float], priority: int
    ) -> Future:
        """Begin a task."""
        return self._client.submit(task.run, text, *needs, key=key, resources=dict(asks), priority=priority, pure=False)

    def cancel(self, tasks: Sequence[FarmTask]) -> None:
        """Cancel tasks, and wait until what they have started is removed. Workers that are stuck are not waited for."""
        futures = [future for future in tasks if hasattr(future, "key")]
        keys = sorted({str(future.key) for future in futures})

        def cancel() -> None:
            with suppress(Exception):  # the scheduler may be gone; then workers end what they run
                self._client.cancel(futures)
                self._client.run(task.settled, keys, ENDING, on_error="ignore")

        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        thread.join(ENDING)


async def _asked(address: str) -> None:
    """Ask a scheduler who it is.

    The library's client waits without end for one that takes a connection and says nothing. After other failures, its
    finaliser waits for 20 s, and prints a traceback. So no client is made before a scheduler has answered.
    """
    core, security = (importlib.import_module(f"distributed.{name}") for name in ("comm.core", "security"))
    arguments = security.Security().get_connection_args("client")
    comm = await core.connect(address, timeout=CONNECT, **arguments)
    try:
        await comm.write({"op": "identity", "reply": True})
        await comm.read()
    finally:
        comm.abort()


@contextmanager
def connected(address: str) -> Iterator[DaskCluster]:
    """Connect to a scheduler.

    Raises:
        UsageError: the address has another form.
        HostError: the library is missing.
        UnreachableError: no scheduler answers there.
    """
    if not ADDRESS.fullmatch(address):
        raise UsageError(f"{clean(address)!r} is no address of a scheduler", where="--farm", hint="tcp://HOST:8786")
    distributed = extras.load(
        "distributed", package="distributed", extra="farm", session="build -- SELECTOR --farm URL"
    )
    for name in ("distributed", "distributed.client"):  # what they say is said as an error of this tool
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(_asked(address), CONNECT))
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False, name="pikaforge")
    except Exception as error:  # of what is no scheduler, the library raises what it meets: MemoryError for HTTP
        silent = isinstance(error, (TimeoutError, asyncio.TimeoutError)) and not str(error)
        why = f"it said nothing for {CONNECT:.0f} s" if silent else _words(error)
        raise UnreachableError(
            f"no Dask scheduler answers at {address}: {why}",
            where="--farm",
            hint="is it running (`dask scheduler`)? docs/farm.md says what a tls:// address needs",
        ) from error
    try:
        yield DaskCluster(client)
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def answer_of(done: FarmTask) -> object:
    """Return what a task has returned.

    Raises:
        UnreachableError: the scheduler is gone.
        HostError: it has ended otherwise.
    """
    try:
        return done.result()
    except Exception as error:  # whatever the library, or a worker, raises
        raise why_ended(error) from error


def why_ended(error: BaseException) -> HostError:
    """Return why a task has no reply; UnreachableError if the scheduler is gone, so that no other will have one."""
    said = _words(error)
    if getattr(error, "reason", "") == "scheduler-connection-lost":
        return UnreachableError("the scheduler of the farm is gone", where="--farm", hint=LOST)
    if type(error).__name__ == "KilledWorker":
        return HostError(
            f"its workers have died, one after the other: {said}",
            where="--farm",
            hint="does it need more memory than a worker has? the logs of the workers say more",
        )
    if type(error).__name__ == "NoValidWorkerError":
        return HostError(
            "no worker of the farm has what the node asks for",
            where="--farm",
            hint="start one that has (docs/farm.md lists what nodes ask for); with fewer --jobs, smaller ones will do",
        )
    return HostError(
        f"a task of the farm has ended without a reply: {clean(type(error).__name__)}: {said}", where="--farm"
    )


def _words(error: BaseException) -> str:
    """Return what an error says. Its class may have come from a worker."""
    try:
        return clean(str(error))[:500]
    except Exception:  # noqa: BLE001
        return "no words"
