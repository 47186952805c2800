"""`bench`: the same load on servers with each allocator, in turns; a table, figures and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pikaforge.bench import figures, load, summary
from pikaforge.bench.workload import Workload
from pikaforge.cli import output
from pikaforge.cli.commands.build import refuse_problems, status
from pikaforge.cli.context import Context
from pikaforge.cpu import emulation
from pikaforge.errors import EXIT_DONE, ConfigError, HostError, StageError, StageFailure
from pikaforge.host.job import Input, RunningServer
from pikaforge.host.process import cwd
from pikaforge.host.store import Result, write_atomically
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.pipeline import Report
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.server import ServerPlace, read_conf
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node, Plan, expand

STAGE = "bench"
WARM_UP = 0.1
"""Share of a run that does not count: caches fill and threads start."""
INTERVAL = 0.5
"""Seconds between two looks at the server's memory; each is a program that the engine starts beside it."""


def bench(context: Context) -> int:
    """`bench`: build what is needed, then let one server after the other serve the same load."""
    given = context.arguments
    if given.allocators:
        given.allocator = "all"
    workload = Workload(
        connections=given.connections,
        processes=given.processes,
        pipeline=given.pipeline,
        keyspace=given.keyspace,
        seconds=given.seconds,
    )
    if given.seconds < 2 * INTERVAL:
        raise ConfigError(f"{given.seconds:g} s are too short to measure", where="--seconds", hint="30 tells something")
    cells = _cells(context)
    figures.library()  # an hour of measuring must not end without its plot
    done, workspace = _built(context, cells)
    if status(done):
        return status(done)
    runs: list[summary.LoadRun] = []
    for number in range(1, given.rounds + 1):
        for cell in cells:
            output.show(f"round {number} of {given.rounds}: {cell.id}, {workload.describe()}")
            samples = _run(context, workspace, cell, done, workload)
            runs.append(summary.LoadRun(name=cell.allocator, round=number, samples=samples))
    _tell(context, cells[0], runs, workload)
    return EXIT_DONE


def _cells(context: Context) -> tuple[Cell, ...]:
    """The selected cells: one model and image, with each allocator once."""
    cells = context.cells()
    refuse_problems(cells)
    named = {(cell.model, cell.image) for cell in cells}
    if len(named) != 1:
        raise ConfigError(
            f"{len(named)} pairs of model and image are selected; a comparison has one",
            where="SELECTOR",
            hint="name one model, and one image by --os: nox -s bench -- R620 --os debian12 --allocators",
        )
    return cells


def _built(context: Context, cells: tuple[Cell, ...]) -> tuple[Report, Workspace]:
    """Compile what is missing; nothing is tested or packed."""
    engine = context.engine()
    engine.verify()
    workspace = context.workspace(engine)
    workspace = replace(workspace, jobs=workspace.jobs or engine.cores())
    engine.sweep()
    whole = expand(context.spec, cells, engine=engine.kind)
    wanted = {f"compile:{cell.group}" for cell in cells} | {f"image:{cell.image}" for cell in cells}
    plan = Plan(cells=whole.cells, nodes=_needed(whole, wanted), warnings=whole.warnings)
    for warning in whole.warnings:
        output.show(f"warning: {warning}")
    pipeline = context.pipeline(workspace)
    pipeline.identify_source()
    return pipeline.execute(plan, output.Printer()), workspace


def _needed(plan: Plan, wanted: set[str]) -> tuple[Node, ...]:
    """The nodes of a plan that some of its nodes need, themselves among them."""
    for node in reversed(plan.nodes):
        if node.id in wanted:
            wanted.update(node.needs)
    return tuple(node for node in plan.nodes if node.id in wanted)


def _result(done: Report, node: str) -> Result:
    result = done.outcomes[node].result
    assert result is not None  # the caller has looked at the report's status
    return result


def _run(context: Context, workspace: Workspace, cell: Cell, done: Report, workload: Workload) -> load.Samples:
    """One server with empty data, one load."""
    compiled, image = _result(done, f"compile:{cell.group}"), _result(done, f"image:{cell.image}")
    server, runtime = context.spec.product.server, str(image.facts["runtime"])
    lacking = emulation.lacking(cell.target, workspace.engine.cpu_flags(runtime))
    failure = StageFailure(stage=STAGE, label=cell.group)
    if lacking:
        raise StageError(f"this machine lacks {', '.join(lacking)}, so {cell.target} cannot be measured here", failure)
    tree = compiled.files["tree.tar"]
    place = ServerPlace(
        engine=workspace.engine,
        server=server,
        image=runtime,
        stem=STAGE,
        group=cell.group,
        tree=Input(folder="tree", archive=tree),
        conf=read_conf(tree, server.conf.path),
        log_path=workspace.log_path(cell.group, STAGE),
        connect=Connection,
        allocator=context.spec.allocators[cell.allocator].kind,
    )
    with place.serve(log=place.log_path) as running:
        _, problem = place.ready(running)
        if problem:
            raise StageError(problem, replace(failure, log=str(place.log_path)))
        host, port = running.address()
        return load.run(host, port, workload, resident=_resident(running), interval=INTERVAL, name=cell.allocator)


def _resident(server: RunningServer) -> Callable[[], int | None]:
    """A function that tells the server's resident memory in bytes; None where it cannot be read just now."""

    def look() -> int | None:
        try:
            held: Mapping[str, int] = server.rest()
            return held["rss_kib"] << 10
        except (HostError, KeyError, IndexError, ValueError):
            return None

    return look


def _tell(context: Context, cell: Cell, runs: list[summary.LoadRun], workload: Workload) -> None:
    names = {run.name for run in runs}
    baseline = summary.BASELINE if summary.BASELINE in names else runs[0].name
    compared = summary.compare(runs, baseline, warm_up=workload.seconds * WARM_UP)
    output.show(output.table(compared.header(), compared.rows()))
    for note in compared.notes():
        output.show(f"note: {note}")
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
