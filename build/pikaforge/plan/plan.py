"""The plan: the distinct stage nodes that cells need, in an order in which they can run. Pure.

A cell is model x image x allocator. Cells whose models have the same target share every node but packing: each node
is listed once, with the cells that need it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Literal

from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine, stand_for, too_old
from pikaforge.plan import twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.stages import Scope, Slot, in_scope

TOOLS = "tools"
"""Label of the image with git, tar and the packers; not an image of the matrix."""
TOOLS_NODE = f"image:{TOOLS}"
EMULATOR = "emulator"
"""Label of the image that the emulator is taken from; not an image of the matrix."""
EMULATOR_NODE = f"image:{EMULATOR}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One run of one stage, needed by one or more cells."""

    stage: str
    label: str
    """`debian12-sandybridge-none` for a compilation; unique within the stage."""
    needs: tuple[str, ...]
    """Ids of the nodes whose results it takes; they come earlier in the plan."""
    cells: tuple[Cell, ...]
    """The cells that need it; those that it is a twin for come last."""
    subject: Cell | None = None
    """The cell whose image, target, flags and allocator the node is for; None of the scopes `run` and `image`."""
    twin: str = ""
    """Of a smoke node whose target cannot be run: the node among `needs` whose verdict counts for it."""

    @property
    def cell(self) -> Cell:
        """The cell whose image, target and allocator the node is for."""
        return self.subject or self.cells[0]

    @property
    def id(self) -> str:
        """`compile:debian12-sandybridge-none`."""
        return f"{self.stage}:{self.label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells to build and the nodes that make them."""

    cells: tuple[Cell, ...]
    nodes: tuple[Node, ...]
    """Every node follows those it needs."""
    warnings: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Cell, ...]:
        """The cells that cannot be built."""
        return tuple(cell for cell in self.cells if cell.problem)


@dataclass(slots=True, kw_only=True)
class _CompileGroup:
    """The cells of one compilation."""

    subject: Cell
    own: list[Cell] = field(default_factory=list)
    """The cells whose packages hold it."""
    twins: list[Cell] = field(default_factory=list)
    """The cells whose own target cannot be run: this one is run in its place."""


def expand(
    spec: Spec,
    cells: Sequence[Cell],
    *,
    engine: Literal["docker", "host"] = "docker",
    machine: Machine | None = None,
    require_run: bool = False,
) -> Plan:
    """Return the plan for cells; those with a problem get no nodes.

    With a container engine the source and package stages run in the tools image, which is a node of its own, and the
    emulator for the smoke stage is fetched once for all targets that it can stand in for.

    Args:
        spec: the specification.
        cells: the selected ones.
        engine: where nodes run.
        machine: what decides which targets can be run; those that cannot get a twin. None: all can, as far as the
            plan knows.
        require_run: whether a cell that would need a twin has a problem instead.

    Raises:
        graphlib.CycleError: stages need one another.
    """
    placed = tuple(_placed(spec, cells, machine, require_run=require_run))
    buildable = tuple(cell for cell in placed if not cell.problem)
    tools = (TOOLS_NODE,) if engine == "docker" else ()
    groups = _groups(spec, buildable)
    emulates = engine == "docker" and spec.defaults.emulator is not None
    emulated = {label for label, group in groups.items() if emulates and not stand_for(group.subject.target).reason}
    planner = _Planner(spec=spec, tools=tools, emulated=frozenset(emulated))
    if buildable:
        if tools:
            planner.nodes.append(Node(stage="image", label=TOOLS, needs=(), cells=buildable))
        planner.fill("run", spec.product.version, buildable)
    by_image: dict[str, list[Cell]] = {}
    for cell in buildable:
        by_image.setdefault(cell.image, []).append(cell)
    for image, of_image in by_image.items():
        planner.fill("image", image, tuple(of_image))
    if emulated:
        of = tuple(c for c in buildable if c.group in emulated or _twin_label(c) in emulated)
        planner.nodes.append(Node(stage="image", label=EMULATOR, needs=(), cells=of))
    for label, group in groups.items():
        planner.fill("group", label, tuple(group.own), twins=tuple(group.twins), subject=group.subject)
    for cell in buildable:
        planner.fill("cell", cell.id, (cell,), subject=cell)
    warnings = (*_warnings(spec, placed), *(_of_emulator(spec) if emulated else ()))
    return Plan(cells=placed, nodes=tuple(_ordered(planner.nodes)), warnings=warnings)


def _ordered(nodes: Sequence[Node]) -> Iterable[Node]:
    """Yield each node behind those that it needs, and otherwise in the given order.

    `TopologicalSorter.static_order` alone would begin all compilations before the first audit.
    """
    places = {node.id: place for place, node in enumerate(nodes)}
    sorter = TopologicalSorter({node.id: [need for need in node.needs if need in places] for node in nodes})
    sorter.prepare()
    ready: list[int] = []
    while sorter.is_active():
        for id_ in sorter.get_ready():
            heapq.heappush(ready, places[id_])
        node = nodes[heapq.heappop(ready)]
        yield node
        sorter.done(node.id)


@dataclass(slots=True, kw_only=True)
class _Planner:
    """Asks the stages of each scope for their nodes."""

    spec: Spec
    tools: tuple[str, ...]
    emulated: frozenset[str]
    """Labels of the groups whose target is also run under emulation."""
    nodes: list[Node] = field(default_factory=list)

    def fill(
        self,
        scope: Scope,
        label: str,
        own: tuple[Cell, ...],
        *,
        twins: tuple[Cell, ...] = (),
        subject: Cell | None = None,
    ) -> None:
        """Add the nodes of a slot.

        Where its cells have a twin, a stage for which the twin's result counts also needs the twin's node.
        """
        slot = Slot(
            spec=self.spec,
            label=label,
            own=own,
            twins=twins,
            tools=self.tools,
            emulator=(EMULATOR_NODE,) if label in self.emulated else (),
            subject=subject,
        )
        twin = _twin_label(subject) if own and subject is not None else ""
        for stage in in_scope(scope):
            adopts = stage.adopts and bool(twin)
            found = stage.needs(replace(slot, twins=(), emulator=()) if adopts else slot)
            if found is None:
                continue
            adopted = f"{stage.name}:{twin}" if adopts else ""
            needs = (*found.ids, adopted) if adopts else found.ids
            cells = found.cells or slot.cells
            node = Node(stage=stage.name, label=label, needs=needs, cells=cells, subject=subject, twin=adopted)
            self.nodes.append(node)


def _groups(spec: Spec, cells: Sequence[Cell]) -> dict[str, _CompileGroup]:
    """Return the compilations that cells need, by label: the cells' own, then further ones of their twins."""
    groups: dict[str, _CompileGroup] = {}
    for cell in cells:
        groups.setdefault(cell.group, _CompileGroup(subject=cell)).own.append(cell)
    for cell in cells:
        if label := _twin_label(cell):
            flags = microarch.resolve(cell.twin, spec.images[cell.image].gcc).flags
            subject = replace(cell, wanted=cell.twin, target=cell.twin, flags=flags, twin="", remark="")
            groups.setdefault(label, _CompileGroup(subject=subject)).twins.append(cell)
    return groups


def _twin_label(cell: Cell) -> str:
    return f"{cell.image}-{cell.twin}-{cell.allocator}" if cell.twin else ""


def _placed(spec: Spec, cells: Sequence[Cell], machine: Machine | None, *, require_run: bool) -> Iterable[Cell]:
    """Yield the cells with their twins; with `require_run`, a cell that needs one gets a problem instead."""
    usual: dict[str, set[str]] = {}
    if machine is not None and any(not machine.runs(cell.target) for cell in cells):
        for cell in all_cells(spec):
            if not cell.problem:
                usual.setdefault(cell.image, set()).add(cell.target)
    for cell in cells:
        if machine is None or cell.problem:
            yield cell
            continue
        gcc = spec.images[cell.image].gcc
        twin = twins.twin_of(cell.target, gcc=gcc, machine=machine, usual=usual.get(cell.image, ()))
        if twin and require_run:
            problem = (
                f"{cell.target} can be run neither by this machine's CPU nor by the emulator; without --require-run, "
                f"{twin} is tried in its place"
            )
            yield replace(cell, problem=problem)
        else:
            yield replace(cell, twin=twin)


def _warnings(spec: Spec, cells: Sequence[Cell]) -> Iterable[str]:
    """Yield the product's warning, then each remark once, with the cells that it is for."""
    if spec.product.warning:
        yield spec.product.warning
    remarks: dict[str, list[str]] = {}
    for cell in cells:
        for text in (cell.remark, twins.sentence(cell.target, cell.tried)):
            if text:
                remarks.setdefault(text, []).append(cell.id)
    for text, ids in remarks.items():
        yield f"{', '.join(ids)}: {text}"


def _of_emulator(spec: Spec) -> Iterable[str]:
    """Yield a warning if the emulator is older than it may be."""
    image = spec.images.get(spec.defaults.emulator or "")
    if image is None:
        return
    os = image.os
    if since := too_old(os.id, os.version):
        yield (
            f"defaults.emulator: the emulator of {os.id} {os.version} lets more instructions through that an emulated "
            f"CPU does not have than that of {os.id} {since}: name an image of {os.id} {since} or later"
        )


def common_part(spec: Spec, wanted: Callable[[Node], bool], *, engine: Literal["docker", "host"] = "docker") -> Plan:
    """Return a plan of the wanted nodes, which must be such that all cells share them.

    The nodes are those of the first cell that can be built.
    """
    cells = [cell for cell in all_cells(spec) if not cell.problem][:1]
    whole = expand(spec, cells, engine=engine)
    return replace(whole, nodes=tuple(node for node in whole.nodes if wanted(node)))
