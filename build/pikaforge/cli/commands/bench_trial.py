"""The number of keys of a load test without `--keys`: as many as are written in some time, by a short trial here."""

from __future__ import annotations

from pikaforge.bench import load as timed_load
from pikaforge.bench import room
from pikaforge.bench.key_load import KeyLoad
from pikaforge.bench.workload import Workload
from pikaforge.cli import output
from pikaforge.cli.commands import bench_questions
from pikaforge.cli.commands.bench_servers import Servers
from pikaforge.plan.cells import Cell

LASTING = 60
"""Seconds that a load test takes, if neither its keys nor its time are given."""
TRIAL = 3.0
INTERVAL = 0.5
"""Seconds between two looks at the disk during the trial."""
DIGITS = 2
"""Leading digits that are kept of a number of keys."""


def keys_for(rate: float, seconds: float) -> int:
    """Return how many keys are written in some time, as a round number."""
    keys = max(1, round(rate * seconds))
    step: int = 10 ** max(0, len(str(keys)) - DIGITS)
    return keys // step * step


def keys_by_trial(servers: Servers, cell: Cell, load: KeyLoad, seconds: float) -> int:
    """Return how many keys a server of a cell takes in so many seconds.

    A server with empty data of its own is put under the same load for `TRIAL` seconds.

    Raises:
        ForgeError: see `load.run`.
        FullDiskError: the trial was about to fill the disk.
    """
    workload = Workload(
        connections=load.connections,
        processes=load.processes,
        pipeline=load.pipeline,
        key_bytes=load.key_bytes,
        value_bytes=load.value_bytes,
        seconds=TRIAL,
        seed=load.seed,
        request=load.request,
    )
    with servers.serve(cell) as running:
        look = bench_questions.looking_at(running, "the server's disk")

        def watched() -> None:
            if (found := look()) is not None:
                room.check_while(found, 0)

        host, port = running.address()
        samples = timed_load.run(host, port, workload, resident=watched, interval=INTERVAL, name=cell.allocator)
    rate = samples.requests / TRIAL
    keys = keys_for(rate, seconds)
    output.note(
        f"{rate:,.0f} requests/s in a trial of {TRIAL:g} s: {keys:,} keys take about {output.duration(seconds)}; "
        "--keys gives another number"
    )
    return keys
