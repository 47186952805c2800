"""Servers for `bench`: which cells this machine can run, compiling them, and starting a server of one."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.cli.faces.opening import part_reporting
from pikaforge.config.product import Server
from pikaforge.cpu import emulation
from pikaforge.errors import ConfigError, HostError, StageError, StageFailure
from pikaforge.host.job import Engine, Input, RunningServer
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.outcomes import Report
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.server import ServerPlace, read_conf
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node, Plan, expand

STAGE = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A cell that is not measured, and why."""

    cell: Cell
    reason: str
    lacking: tuple[str, ...] = ()
    """The features that this machine lacks, as the kernel names them; empty if that is not the reason."""


def server_of(context: Context) -> Server:
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


def in_order(cells: Sequence[Cell], selectors: Sequence[str]) -> tuple[Cell, ...]:
    """Return cells in the order of the selectors that choose them. The first one is the baseline of models."""

    def place(cell: Cell) -> int:
        fits = (
            number
            for number, selector in enumerate(selectors)
            if selector in (cell.model, cell.id) or fnmatch.fnmatchcase(cell.id, selector)
        )
        return next(fits, len(selectors))

    return tuple(sorted(cells, key=place))


def names_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the name of each cell in a comparison, by its id: what distinguishes it from the others."""
    models, allocators = {cell.model for cell in cells}, {cell.allocator for cell in cells}
    if len(models) == 1:
        return {cell.id: cell.allocator for cell in cells}
    if len(allocators) == 1:
        return {cell.id: cell.model for cell in cells}
    return {cell.id: f"{cell.model}-{cell.allocator}" for cell in cells}


def distinct(cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], tuple[LeftOut, ...]]:
    """Return the cells that differ in their compilation, and those that another one stands for."""
    groups: dict[str, Cell] = {}
    same = []
    for cell in cells:
        first = groups.setdefault(cell.group, cell)
        if first is not cell:
            reason = f"its server is the same as that of {first.model}: both are built for {cell.target}"
            same.append(LeftOut(cell=cell, reason=reason))
    return tuple(groups.values()), tuple(same)


def runnable(cells: Sequence[Cell], flags: frozenset[str] | None) -> tuple[tuple[Cell, ...], tuple[LeftOut, ...]]:
    """Return the cells that a machine can run, and the others.

    Args:
        cells: what is to be measured.
        flags: of the machine's CPUs; None if they are not known yet: then all may be runnable.

    Raises:
        StageError: the machine can run none of them.
    """
    lacking = {cell.id: emulation.lacking(cell.target, flags) if flags is not None else () for cell in cells}
    left_out = tuple(
        LeftOut(
            cell=cell,
            reason=f"this machine lacks {', '.join(lacking[cell.id])}, so {cell.target} cannot be measured here",
            lacking=lacking[cell.id],
        )
        for cell in cells
        if lacking[cell.id]
    )
    if cells and len(left_out) == len(cells):
        raise StageError(left_out[0].reason, StageFailure(stage=STAGE, label=left_out[0].cell.group))
    return tuple(cell for cell in cells if not lacking[cell.id]), left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Compiled servers, and where they run."""

    context: Context
    workspace: Workspace
    done: Report

    def result(self, node: str) -> Result:
        """Return the result of a node that has not failed."""
        result = self.done.outcomes[node].result
        assert result is not None  # who asks has looked at the exit status before
        return result

    def runtime(self, cell: Cell) -> str:
        """Return the image in which the cell's server runs."""
        node = next(node for node in cell.image_nodes if node in self.done.outcomes)
        return self.result(node).read(ImageStageFacts).runtime

    def cpu_flags(self, cell: Cell) -> frozenset[str]:
        """Return the flags of the CPUs on which the cell's server runs."""
        return self.workspace.engine.cpu_flags(self.runtime(cell))

    def place(self, cell: Cell) -> ServerPlace:
        """Return where and how a server of a cell runs."""
        server = server_of(self.context)
        tree = self.result(f"compile:{cell.group}").files["tree.tar"]
        return ServerPlace(
            engine=self.workspace.engine,
            server=server,
            image=self.runtime(cell),
            stem=STAGE,
            group=cell.group,
            tree=Input(folder="tree", archive=tree),
            conf=read_conf(tree, server.conf),
            log_path=self.workspace.log_path(cell.group, STAGE),
            connect=Connection,
            allocator=self.context.spec.allocators[cell.allocator].kind,
            bounds=self.workspace.bounds,
        )

    @contextmanager
    def serve(self, cell: Cell, *, kept: str = "") -> Iterator[RunningServer]:
        """Start a server, and wait until it answers; it is ended when the block is left.

        Args:
            cell: whose server it is.
            kept: the name of its data, if they outlive it; else it begins with empty data.

        Raises:
            StageError: it does not answer.
        """
        place = self.place(cell)
        with place.serve(log=place.log_path, kept=kept) as running:
            check_ready(place, running)
            yield running


def check_ready(place: ServerPlace, running: RunningServer) -> None:
    """Wait until a server answers; raise StageError if it does not."""
    _, problem = place.ready(running)
    if problem:
        raise StageError(problem, StageFailure(stage=STAGE, label=place.group, log=str(place.log_path)))


def compiled(context: Context, engine: Engine, cells: Sequence[Cell]) -> Servers:
    """Compile what is missing. Nothing is tested or packed."""
    workspace = context.workspace(engine).sized()
    engine.sweep(output.note)
    whole = expand(context.spec, cells, engine=engine.kind)
    wanted = {f"compile:{cell.group}" for cell in cells} | {node for cell in cells for node in cell.image_nodes}
    plan = Plan(cells=whole.cells, nodes=_needed(whole, wanted), warnings=whole.warnings)
    for warning in whole.warnings:
        output.show(f"warning: {warning}")
    with part_reporting(context) as reporter:
        workspace = replace(workspace, on_log=reporter.log_begun)
        pipeline = context.pipeline(workspace)
        pipeline.identify_source()
        done = pipeline.execute(plan, reporter)
    return Servers(context=context, workspace=workspace, done=done)


def _needed(plan: Plan, wanted: set[str]) -> tuple[Node, ...]:
    """Return the wanted nodes of a plan and all nodes that they need."""
    for node in reversed(plan.nodes):
        if node.id in wanted:
            wanted.update(node.needs)
    return tuple(node for node in plan.nodes if node.id in wanted)


def resident(server: RunningServer) -> Callable[[], int | None]:
    """Return a function that returns the server's resident memory in bytes; None if it cannot be read."""

    def read() -> int | None:
        try:
            held: Mapping[str, int] = server.resources()
            return held["rss_kib"] << 10
        except (HostError, KeyError, IndexError, ValueError):
            return None

    return read
