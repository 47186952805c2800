"""`bench`: put the same load on servers with each allocator, in turns; print a table, write figures and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pikaforge.bench import figures, load, summary
from pikaforge.bench.workload import Workload
from pikaforge.cli import output
from pikaforge.cli.commands.build import refuse_early, refuse_problems, status
from pikaforge.cli.context import Context
from pikaforge.config.product import Server
from pikaforge.cpu import emulation
from pikaforge.errors import EXIT_DONE, ConfigError, HostError, StageError, StageFailure
from pikaforge.host.job import Input, RunningServer
from pikaforge.host.process import cwd
from pikaforge.host.store import Result, write_atomically
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.pipeline import Report
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.server import ServerPlace, read_conf
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node, Plan, expand

STAGE = "bench"
WARM_UP = 0.1
"""Share of each run that is not measured: caches fill, and threads start."""
INTERVAL = 0.5
"""Seconds between two readings of the server's memory. For each, the engine starts a program in the container."""


def bench(context: Context) -> int:
    """Run `bench`; return the exit status."""
    arguments = context.arguments
    if arguments.allocators:
        arguments.allocator = "all"
    workload = Workload(
        connections=arguments.connections,
        processes=arguments.processes,
        pipeline=arguments.pipeline,
        keyspace=arguments.keyspace,
        seconds=arguments.seconds,
    )
    if arguments.seconds < 2 * INTERVAL:
        message = f"{arguments.seconds:g} s are too short to measure"
        raise ConfigError(message, where="--seconds", hint=f"at least {2 * INTERVAL:g}; 30 gives useful figures")
    _server(context)
    cells = _cells(context)
    refuse_problems(cells)
    refuse_early(context, cells)
    figures.library()  # if it is missing, that is better known before an hour of measuring
    done, workspace = _built(context, cells)
    if status(done):
        return status(done)
    runs: list[summary.LoadRun] = []
    for number in range(1, arguments.rounds + 1):
        for cell in cells:
            output.show(f"round {number} of {arguments.rounds}: {cell.id}, {workload.describe()}")
            samples = _run(context, workspace, cell, done, workload)
            runs.append(summary.LoadRun(name=cell.allocator, round=number, samples=samples))
    _print_comparison(context, cells[0], runs, workload)
    return EXIT_DONE


def _cells(context: Context) -> tuple[Cell, ...]:
    """Return the selected cells: one model and image, and each allocator once."""
    cells = context.cells()
    named = {(cell.model, cell.image) for cell in cells}
    if len(named) != 1:
        raise ConfigError(
            f"{len(named)} pairs of model and image are selected; a comparison has one",
            where="SELECTOR",
            hint="select one model and one image: nox -s bench -- R620 --os debian12 --allocators",
        )
    return cells


def _built(context: Context, cells: tuple[Cell, ...]) -> tuple[Report, Workspace]:
    """Compile what is missing. Nothing is tested or packed."""
    engine = context.engine()
    engine.verify()
    _refuse_lacking(cells, engine.known_cpu_flags())  # before an hour of compiling
    workspace = context.workspace(engine)
    workspace = replace(workspace, jobs=workspace.jobs or engine.cores())
    engine.sweep(output.note)
    whole = expand(context.spec, cells, engine=engine.kind)
    wanted = {f"compile:{cell.group}" for cell in cells} | {f"image:{cell.image}" for cell in cells}
    plan = Plan(cells=whole.cells, nodes=_needed(whole, wanted), warnings=whole.warnings)
    for warning in whole.warnings:
        output.show(f"warning: {warning}")
    pipeline = context.pipeline(workspace)
    pipeline.identify_source()
    return pipeline.execute(plan, output.Printer()), workspace


def _refuse_lacking(cells: Iterable[Cell], flags: frozenset[str] | None) -> None:
    """Raise StageError if the engine's machine cannot run what is to be measured; `flags` is None if not known."""
    for cell in cells if flags is not None else ():
        lacking = emulation.lacking(cell.target, flags or frozenset())
        if lacking:
            raise StageError(
                f"this machine lacks {', '.join(lacking)}, so {cell.target} cannot be measured here",
                StageFailure(stage=STAGE, label=cell.group),
            )


def _needed(plan: Plan, wanted: set[str]) -> tuple[Node, ...]:
    """Return the wanted nodes of a plan and all nodes that they need."""
    for node in reversed(plan.nodes):
        if node.id in wanted:
            wanted.update(node.needs)
    return tuple(node for node in plan.nodes if node.id in wanted)


def _result(done: Report, node: str) -> Result:
    result = done.outcomes[node].result
    assert result is not None  # bench() ends before this if a node failed
    return result


def _server(context: Context) -> Server:
    """Return the product's server; raise ConfigError if it cannot be measured."""
    product = context.spec.product
    if product.server is None:
        raise ConfigError(f"{product.name} has no server that could be measured", where="product")
    if not product.speaks_resp:
        raise ConfigError(
            f"a load is requests in RESP, and {product.name} is asked by {product.server.ready.kind}",
            where="product.server.ready",
        )
    return product.server


def _run(context: Context, workspace: Workspace, cell: Cell, done: Report, workload: Workload) -> load.Samples:
    """Start a server with empty data, and put the load on it."""
    compiled, image = _result(done, f"compile:{cell.group}"), _result(done, f"image:{cell.image}")
    server, runtime = _server(context), image.read(ImageStageFacts).runtime
    _refuse_lacking([cell], workspace.engine.cpu_flags(runtime))
    tree = compiled.files["tree.tar"]
    place = ServerPlace(
        engine=workspace.engine,
        server=server,
        image=runtime,
        stem=STAGE,
        group=cell.group,
        tree=Input(folder="tree", archive=tree),
        conf=read_conf(tree, server.conf),
        log_path=workspace.log_path(cell.group, STAGE),
        connect=Connection,
        allocator=context.spec.allocators[cell.allocator].kind,
        bounds=workspace.bounds,
    )
    with place.serve(log=place.log_path) as running:
        _, problem = place.ready(running)
        if problem:
            raise StageError(problem, StageFailure(stage=STAGE, label=cell.group, log=str(place.log_path)))
        host, port = running.address()
        return load.run(host, port, workload, resident=_resident(running), interval=INTERVAL, name=cell.allocator)


def _resident(server: RunningServer) -> Callable[[], int | None]:
    """Return a function that returns the server's resident memory in bytes; None if it cannot be read."""

    def resident() -> int | None:
        try:
            held: Mapping[str, int] = server.resources()
            return held["rss_kib"] << 10
        except (HostError, KeyError, IndexError, ValueError):
            return None

    return resident


def _print_comparison(context: Context, cell: Cell, runs: list[summary.LoadRun], workload: Workload) -> None:
    """Print the comparison as a table, and write its figures and plots to out/bench/."""
    names = {run.name for run in runs}
    baseline = summary.BASELINE if summary.BASELINE in names else runs[0].name
    compared = summary.compare(runs, baseline, warm_up=workload.seconds * WARM_UP)
    output.show(output.table(compared.header(), compared.rows()))
    for note in compared.notes():
        output.note(note)
    product = context.spec.product
    folder = context.out / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{cell.model}-{cell.image}"
    figure = folder / f"{stem}.json"
    facts = {
        "product": product.name,
        "version": product.version,
        "model": cell.model,
        "image": cell.image,
        "target": cell.target,
        "source": context.arguments.source,
        "workload": workload.describe(),
        "comparison": compared.json(),
        "runs": [{"name": run.name, "round": run.round, **run.samples.json()} for run in runs],
    }
    write_atomically(figure, json.dumps(facts, indent=1) + "\n")
    source = f" ({context.arguments.source})" if context.arguments.source else ""
    title = f"{product.name} {product.version}{source} for {cell.target} on {cell.image}"
    drawn = figures.draw(runs, compared, title=title, subtitle=workload.describe(), folder=folder, stem=stem)
    for path in (figure, *drawn):
        output.show(output.readable(Path(path), cwd()))
