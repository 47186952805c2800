"""`bench`: put the same load on servers of several models or allocators, in turns; print a table, write a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pikaforge.bench import figures, load, summary
from pikaforge.bench.workload import Workload
from pikaforge.cli import output
from pikaforge.cli.commands import bench_servers
from pikaforge.cli.commands.bench_load import load_test_of
from pikaforge.cli.commands.bench_servers import STAGE, LeftOut, Servers
from pikaforge.cli.commands.build import refuse_early, refuse_problems, status
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_DONE, UsageError
from pikaforge.host.durable import write_atomically
from pikaforge.host.process import cwd
from pikaforge.plan.cells import Cell

WARM_UP = 0.1
"""Share of each run that is not measured: caches fill, and threads start."""
INTERVAL = 0.5
"""Seconds between two readings of the server's memory. For each, the engine starts a program in the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What a comparison has measured."""

    cells: tuple[Cell, ...]
    names: dict[str, str]
    """By a cell's id."""
    runs: list[summary.LoadRun]
    left_out: tuple[LeftOut, ...]
    workload: Workload

    @property
    def baseline(self) -> str:
        """The name with which others are compared: the allocator `none`, or the first model."""
        names = [self.names[cell.id] for cell in self.cells]
        return summary.BASELINE if summary.BASELINE in names else names[0]

    @property
    def axis(self) -> str:
        """What differs: `model`, `allocator`, or both."""
        models = len({cell.model for cell in self.cells}) > 1
        return "model" if models else "allocator"


OF_TESTS = ("keys", "lasting", "expire_share", "ttl", "key_bytes", "value_bytes", "seed", "anew")
OF_COMPARISONS = ("seconds", "rounds", "keyspace", "allocators")
"""Options of one of the two ways, by their names in the arguments."""
SECONDS, ROUNDS = 30.0, 3


def bench(context: Context) -> int:
    """Run `bench`; return the exit status."""
    arguments = context.arguments
    tests, comparisons = (
        [f"--{name.replace('_', '-')}" for name in names if _is_given(getattr(arguments, name))]
        for names in (OF_TESTS, OF_COMPARISONS)
    )
    if tests and comparisons:
        raise UsageError(
            f"{tests[0]} is for the load test of one server, and {comparisons[0]} for a comparison",
            hint="a load test ends with its last key: nox -s bench -- R620 --keys 500M\n"
            "a comparison ends after some time: nox -s bench -- x86_64_v2 R620 --seconds 30",
        )
    if arguments.allocators:
        arguments.allocator = "all"
    if tests or (not comparisons and len(context.cells()) == 1):
        return load_test_of(context)
    return _compare(context)


def _is_given(value: object) -> bool:
    """Return whether an option was given; 0 is a figure, too, and equals False."""
    return value is not None and value is not False


def _compare(context: Context) -> int:
    """Compare several servers; return the exit status."""
    arguments = context.arguments
    seconds = SECONDS if arguments.seconds is None else arguments.seconds
    workload = Workload(
        connections=arguments.connections,
        processes=arguments.processes,
        pipeline=arguments.pipeline,
        keyspace=arguments.keyspace,
        seconds=seconds,
    )
    if seconds < 2 * INTERVAL:
        message = f"{seconds:g} s are too short to measure"
        raise UsageError(message, where="--seconds", hint=f"at least {2 * INTERVAL:g}; 30 gives useful figures")
    bench_servers.server_of(context)
    cells, same = bench_servers.distinct(_cells(context))
    refuse_problems(cells)
    refuse_early(context, cells)
    figures.library()  # if it is missing, that is better known before an hour of measuring
    engine = context.engine()
    engine.verify()
    cells, lacking = bench_servers.runnable(cells, engine.known_cpu_flags())  # before an hour of compiling
    _say_left_out((*same, *lacking))
    servers = bench_servers.compiled(context, engine, cells)
    if status(servers.done):
        return status(servers.done)
    cells, more = bench_servers.runnable(cells, servers.cpu_flags(cells[0]))
    _say_left_out(more)
    names = bench_servers.names_of((*cells, *(out.cell for out in (*lacking, *more))))
    compared = Compared(
        cells=cells,
        names=names,
        runs=_measured(context, servers, cells, names, workload),
        left_out=(*same, *lacking, *more),
        workload=workload,
    )
    _print_comparison(context, compared)
    return EXIT_DONE


def _cells(context: Context) -> tuple[Cell, ...]:
    """Return the selected cells, in the order in which they were named: of one image."""
    cells = context.cells()
    images = {cell.image for cell in cells}
    if len(images) != 1:
        raise UsageError(
            f"{len(images)} images are selected; a comparison has one",
            where="SELECTOR",
            hint="select one image: nox -s bench -- x86_64_v2 R620 --os debian12",
        )
    return bench_servers.in_order(cells, context.arguments.selectors)


def _say_left_out(left_out: Sequence[LeftOut]) -> None:
    for out in left_out:
        output.note(f"{out.cell.id} is left out: {out.reason}")


def _measured(
    context: Context, servers: Servers, cells: Sequence[Cell], names: dict[str, str], workload: Workload
) -> list[summary.LoadRun]:
    """Measure all servers in each round, one after the other: so the machine's noise is similar for all."""
    rounds: int = context.arguments.rounds or ROUNDS
    runs = []
    for number in range(1, rounds + 1):
        for cell in cells:
            output.show(f"round {number} of {rounds}: {cell.id}, {workload.describe()}")
            name = names[cell.id]
            with servers.serve(cell) as running:
                host, port = running.address()
                read = bench_servers.resident(running)
                samples = load.run(host, port, workload, resident=read, interval=INTERVAL, name=name)
            runs.append(summary.LoadRun(name=name, round=number, samples=samples))
    return runs


def _print_comparison(context: Context, done: Compared) -> None:
    """Print the comparison as a table, and write its figures and plots to out/bench/."""
    cell, workload = done.cells[0], done.workload
    compared = summary.compare(done.runs, done.baseline, warm_up=workload.seconds * WARM_UP, axis=done.axis)
    output.show(output.table(compared.header(), compared.rows()))
    for note in compared.notes():
        output.note(note)
    product = context.spec.product
    models = list(dict.fromkeys(cell.model for cell in done.cells))
    stem = f"{cell.model if len(models) == 1 else 'models'}-{cell.image}"
    folder = context.out / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    figure = folder / f"{stem}.json"
    facts = {
        "product": product.name,
        "version": product.version,
        "model": cell.model,
        "image": cell.image,
        "target": cell.target,
        "source": context.arguments.source,
        "workload": workload.describe(),
        "servers": {
            done.names[each.id]: {"model": each.model, "target": each.target, "allocator": each.allocator}
            for each in done.cells
        },
        "left_out": [
            {
                "model": out.cell.model,
                "target": out.cell.target,
                "allocator": out.cell.allocator,
                "reason": out.reason,
                "lacking": list(out.lacking),
            }
            for out in done.left_out
        ],
        "comparison": compared.json(),
        "runs": [{"name": run.name, "round": run.round, **run.samples.json()} for run in done.runs],
    }
    write_atomically(figure, json.dumps(facts, indent=1) + "\n")
    source = f" ({context.arguments.source})" if context.arguments.source else ""
    targets = cell.target if len(models) == 1 else ", ".join(models)
    title = f"{product.name} {product.version}{source} for {targets} on {cell.image}"
    drawn = figures.draw(done.runs, compared, title=title, subtitle=workload.describe(), folder=folder, stem=stem)
    for path in (figure, *drawn):
        output.show(output.readable(Path(path), cwd()))
