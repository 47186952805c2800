"""From a specification and a selection to cells and the distinct stage nodes that they need. Pure.

A cell is model x image x allocator. Cells whose models have the same target share every node but packing: each node
is listed once, with the cells that need it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pikaforge.config import families
from pikaforge.config.scalars import EVERYTHING
from pikaforge.config.schema import Rule, Spec
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine, stand_for
from pikaforge.host import hashing
from pikaforge.host.hostos import os_release
from pikaforge.plan import allocators, twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.stages import Scope, Slot, in_scope

GITHUB_JOB_LIMIT = 256
"""Jobs of one matrix that GitHub Actions accepts (docs: Usage limits for workflows)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One run of one stage, needed by one or more cells."""

    stage: str
    label: str
    """`debian12-sandybridge-none` for a compilation; unique within the stage."""
    needs: tuple[str, ...]
    """Ids of the nodes whose results it takes; they come earlier in the plan."""
    cells: tuple[Cell, ...]
    """All that need it; those that it is a twin for come last."""
    subject: Cell | None = None
    """Of nodes behind source and image: the image, target, flags and allocator that it is about are this cell's."""
    twin: str = ""
    """Of a smoke node whose target cannot be run: the node among `needs` whose verdict counts for it."""

    @property
    def cell(self) -> Cell:
        """The cell whose image, target and allocator the node is about."""
        return self.subject or self.cells[0]

    @property
    def id(self) -> str:
        """`compile:debian12-sandybridge-none`."""
        return f"{self.stage}:{self.label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a selection comes to."""

    cells: tuple[Cell, ...]
    nodes: tuple[Node, ...]
    """In an order in which every node follows those it needs."""
    warnings: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Cell, ...]:
        """The cells that cannot be built."""
        return tuple(cell for cell in self.cells if cell.problem)


@dataclass(slots=True)
class Combinations:
    """The matrix, expanded, in the order of the axes: model, image and allocator; and what its rules leave out."""

    triples: dict[tuple[str, str, str], None] = field(default_factory=dict)
    excluded: dict[tuple[str, str, str], Rule] = field(default_factory=dict)


def _matches(rule: Rule, triple: tuple[str, str, str]) -> bool:
    return all(
        fnmatch.fnmatchcase(value, pattern)
        for value, pattern in zip(triple, (rule.model, rule.image, rule.allocator), strict=True)
    )


def _axis(values: Sequence[str], everything: Iterable[str]) -> list[str]:
    return list(everything) if EVERYTHING in values else list(values)


def combinations(spec: Spec) -> Combinations:
    """Expand the matrix."""
    axes = spec.matrix.axes
    found = Combinations()
    everything = [(m, i, a) for m in spec.hardware for i in spec.images for a in spec.allocators]
    models = set(_axis(axes.model, spec.hardware))
    images = set(_axis(axes.image, spec.images))
    allocators = set(_axis(axes.allocator, spec.allocators))
    for triple in everything:
        inside = triple[0] in models and triple[1] in images and triple[2] in allocators
        if any(_matches(rule, triple) for rule in spec.matrix.include):
            found.triples[triple] = None
            continue
        if not inside:
            continue
        rule = next((rule for rule in spec.matrix.exclude if _matches(rule, triple)), None)
        if rule is None:
            found.triples[triple] = None
        else:
            found.excluded[triple] = rule
    return found


def cell_of(spec: Spec, triple: tuple[str, str, str]) -> Cell:
    """The cell of a model, an image and an allocator, with its target and flags."""
    model, image, allocator = triple
    wanted = microarch.common_target(spec.hardware[model].cpus)
    entry = spec.images[image]
    built = microarch.resolve(wanted, entry.gcc)
    target, problem, remark = wanted, "", ""
    if not built.possible and entry.fallback == "nearest":
        remark = f"{built.reason}; built for the nearest, {built.nearest}"
        target, built = built.nearest, microarch.resolve(built.nearest, entry.gcc)
    elif not built.possible:
        problem = (
            f"{built.reason}; the nearest it can produce is {built.nearest} "
            f"(`fallback: nearest` at images.{image} accepts it)"
        )
    return Cell(
        model=model,
        image=image,
        allocator=allocator,
        wanted=wanted,
        target=target,
        flags=built.flags,
        problem=_joined(problem, allocators.problem(spec, image, allocator)),
        remark=_joined(remark, allocators.remark(spec, image, allocator)),
    )


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def all_cells(spec: Spec) -> tuple[Cell, ...]:
    """Every cell of the matrix, in the order of the axes."""
    return tuple(cell_of(spec, triple) for triple in combinations(spec).triples)


@dataclass(slots=True, kw_only=True)
class _CompileGroup:
    """The cells of one compilation."""

    subject: Cell
    own: list[Cell] = field(default_factory=list)
    """Those whose packages hold it."""
    twins: list[Cell] = field(default_factory=list)
    """Those whose own target cannot be run, so that this one is."""


def expand(
    spec: Spec,
    cells: Sequence[Cell],
    *,
    engine: Literal["docker", "host"] = "docker",
    machine: Machine | None = None,
    require_run: bool = False,
) -> Plan:
    """The nodes for `cells`; cells with a problem get none.

    With a container engine the source and package stages run in the tools image, which is a node of its own, and the
    emulator for the smoke stage is fetched once for all targets that it can stand in for.

    Args:
        spec: the specification.
        cells: the selected ones.
        engine: where nodes run.
        machine: what decides which targets can be run; those that cannot get a twin. None: all can, as far as the
            plan knows.
        require_run: whether a cell that would need a twin has a problem instead.
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
    for image in dict.fromkeys(cell.image for cell in buildable):
        planner.fill("image", image, tuple(cell for cell in buildable if cell.image == image))
    if emulated:
        of = tuple(c for c in buildable if c.group in emulated or _twin_label(c) in emulated)
        planner.nodes.append(Node(stage="image", label=EMULATOR, needs=(), cells=of))
    for label, group in groups.items():
        planner.fill("group", label, tuple(group.own), twins=tuple(group.twins), subject=group.subject)
    for label, group in groups.items():
        if group.own and (twin := _twin_label(group.subject)):  # behind all groups: its twin may be any of them
            planner.adopt(label, tuple(group.own), group.subject, twin=twin)
    for cell in buildable:
        planner.fill("cell", cell.id, (cell,), subject=cell)
    return Plan(cells=placed, nodes=tuple(planner.nodes), warnings=tuple(_warnings(spec, placed)))


@dataclass(slots=True, kw_only=True)
class _Planner:
    """Asks the stages of each scope for their nodes."""

    spec: Spec
    tools: tuple[str, ...]
    emulated: frozenset[str]
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
        """Add the nodes of a slot; not of a stage for which the result for a twin counts there."""
        slot = Slot(
            spec=self.spec,
            label=label,
            own=own,
            twins=twins,
            tools=self.tools,
            emulator=(EMULATOR_NODE,) if label in self.emulated else (),
            subject=subject,
        )
        for stage in in_scope(scope):
            if stage.adopts and own and subject is not None and subject.twin:
                continue
            if (found := stage.needs(slot)) is not None:
                cells = found.cells or slot.cells
                node = Node(stage=stage.name, label=label, needs=found.ids, cells=cells, subject=subject)
                self.nodes.append(node)

    def adopt(self, label: str, own: tuple[Cell, ...], subject: Cell, *, twin: str) -> None:
        """Add the nodes for which the result for a twin counts."""
        slot = Slot(spec=self.spec, label=label, own=own, tools=self.tools, subject=subject)
        for stage in in_scope("group"):
            if stage.adopts and (found := stage.needs(slot)) is not None:
                of = f"{stage.name}:{twin}"
                node = Node(stage=stage.name, label=label, needs=(*found.ids, of), cells=own, subject=subject, twin=of)
                self.nodes.append(node)


def _groups(spec: Spec, cells: Sequence[Cell]) -> dict[str, _CompileGroup]:
    """The compilations that cells need, by label: their own, then those of twins that are nobody's own."""
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
    """The cells with their twins, or with the problem that they would need one."""
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
    """The product's own, and each remark once, with the cells that it is about."""
    if spec.product.warning:
        yield spec.product.warning
    remarks: dict[str, list[str]] = {}
    for cell in cells:
        for text in (cell.remark, twins.sentence(cell.target, cell.tried)):
            if text:
                remarks.setdefault(text, []).append(cell.id)
    for text, ids in remarks.items():
        yield f"{', '.join(ids)}: {text}"


def common_part(spec: Spec, wanted: Callable[[Node], bool], *, engine: Literal["docker", "host"] = "docker") -> Plan:
    """The wanted nodes, of those that are the same for all cells: the plan is for the first that can be built."""
    cells = [cell for cell in all_cells(spec) if not cell.problem][:1]
    whole = expand(spec, cells, engine=engine)
    return replace(whole, nodes=tuple(node for node in whole.nodes if wanted(node)))


TOOLS = "tools"
"""Label of the image with git, tar and the packers; not an image of the matrix."""
TOOLS_NODE = f"image:{TOOLS}"
EMULATOR = "emulator"
"""Label of the image that the emulator is taken from; not an image of the matrix."""
EMULATOR_NODE = f"image:{EMULATOR}"


def github_matrix(
    cells: Sequence[Cell], compilations: Mapping[str, str], *, limit: int = GITHUB_JOB_LIMIT
) -> dict[str, list[dict[str, str]]]:
    """The `matrix` of a GitHub Actions job: one entry per compilation, at most `limit` of them.

    Above the limit, compilations share jobs: those of one image are neighbours, and no job has more than one
    compilation more than another.

    Args:
        cells: what is to be built; those with a problem are left out.
        compilations: by group, a hash of what decides its compilation; an entry's `key` is made of those of its groups.
        limit: how many jobs there may be.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.group, []).append(cell)
    jobs = min(len(groups), limit)
    entries: list[dict[str, str]] = []
    members = list(groups.items())
    if len(members) > limit:
        order = {image: number for number, image in enumerate(dict.fromkeys(cell.image for cell in cells))}
        members.sort(key=lambda member: order[member[1][0].image])
    for number in range(jobs):
        part = members[number * len(members) // jobs : (number + 1) * len(members) // jobs]
        of = [cell for _, group in part for cell in group]
        entries.append(
            {
                "name": part[0][0] if len(part) == 1 else f"{part[0][0]}+{len(part) - 1}",
                "image": " ".join(dict.fromkeys(cell.image for cell in of)),
                "target": " ".join(dict.fromkeys(cell.target for cell in of)),
                "allocator": " ".join(dict.fromkeys(cell.allocator for cell in of)),
                "cells": " ".join(cell.id for cell in of),
                "key": hashing.digest("\n".join(compilations[label] for label, _ in part))[:16],
            }
        )
    return {"include": entries}


def matching_image(spec: Spec, identity: tuple[str, str] | None = None) -> str:
    """The name of the image whose OS this machine runs, or ""."""
    name, version = identity or os_release()
    for image, entry in spec.images.items():
        if name in families.alike(entry.os.id) and (
            version == entry.os.version or version.startswith(f"{entry.os.version}.")
        ):
            return image
    return ""
