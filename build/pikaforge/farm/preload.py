"""For `dask worker --preload pikaforge.farm.preload`: says what the machine has, and watches over tasks' processes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import WorkerPlugin

from pikaforge.errors import HostError
from pikaforge.farm import resources
from pikaforge.farm.task import WISHES
from pikaforge.host.docker import DockerEngine
from pikaforge.host.text import printable

if TYPE_CHECKING:
    from distributed import Worker

LOG = logging.getLogger("distributed.worker")
"""A worker's log, which Dask shows."""


class NodePlugin(WorkerPlugin):
    """Ends the process of a task that is not wanted any more."""

    name = "pikaforge"

    def transition(self, key: object, start: str, finish: str, **_more: object) -> None:
        """Take note of a task's new state."""
        WISHES.moved(str(key), finish)

    def teardown(self, worker: Worker) -> None:
        """End all processes: the worker ends, or its scheduler is gone."""
        WISHES.close()


def has() -> dict[str, float]:
    """Return the resources of this machine.

    Raises:
        HostError: no engine answers.
    """
    engine = DockerEngine()
    engine.verify()
    return resources.machine_has(cores=engine.cores(), memory=engine.memory(), flags=engine.known_cpu_flags())


async def dask_setup(worker: Worker) -> None:
    """Add the resources of this machine to those of the command line, and the plugin. The scheduler gets them next.

    A machine without an engine gets none, and so no nodes.
    """
    try:
        found = has()
    except HostError as error:
        for line in error.lines():
            LOG.error("%s", printable(line))
        found = {}
    for name, amount in found.items():
        worker.state.total_resources.setdefault(name, amount)
        worker.state.available_resources.setdefault(name, amount)
    await worker.plugin_add(plugin=NodePlugin(), name=NodePlugin.name)
