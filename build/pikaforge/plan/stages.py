"""The part of a stage that a plan uses: where it has nodes, and what they need. See `pipeline.stage.Stage`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from pikaforge.config.registry import STAGES
from pikaforge.config.schema import Spec
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell

Scope = Literal["run", "image", "group", "cell"]
"""A stage has one node for the whole run, or one for each image, each compilation (group) or each cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place where a stage may have a node: the run, an image, a group or a cell."""

    spec: Spec
    label: str
    """Of the node: the product's version, an image, a group or a cell."""
    own: tuple[Cell, ...]
    """Cells whose packages hold what the node makes."""
    twins: tuple[Cell, ...] = ()
    """Cells whose own target cannot be run: this one is run in its place."""
    tools: tuple[str, ...] = ()
    """Id of the tools image's node; empty with the host engine."""
    emulator: tuple[str, ...] = ()
    """Id of the emulator's node; empty where the target is not emulated."""
    subject: Cell | None = None
    """The cell whose image, target and allocator the node is for; None for the scopes `run` and `image`."""

    @property
    def cell(self) -> Cell:
        """The subject, in scopes that have one."""
        assert self.subject is not None, self.label
        return self.subject

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells of the slot."""
        return (*self.own, *self.twins)

    @property
    def source(self) -> str:
        """Id of the source's node."""
        return f"source:{self.spec.product.version}"

    @property
    def image(self) -> str:
        """Id of the image's node: the one with the packages of the allocator, if it needs any."""
        extended, plain = self.cell.image_nodes
        return extended if allocators.adds_packages(self.spec, self.cell.image, self.cell.allocator) else plain

    @property
    def allocator(self) -> tuple[str, ...]:
        """Id of the node that builds the cell's allocator; empty if none is built."""
        built = allocators.kind_of(self.spec, self.cell.allocator).own
        return (f"allocator:{self.cell.group}",) if built else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a stage needs in a slot."""

    ids: tuple[str, ...]
    """Ids of the nodes whose results it takes."""
    cells: tuple[Cell, ...] = ()
    """Cells that need the node, if these are not all of the slot."""


class PlannedStage(Protocol):
    """A stage, as far as a plan uses it."""

    name: str
    scope: Scope
    adopts: bool
    """Whether a twin's result counts where the target itself cannot be run."""

    def needs(self, slot: Slot) -> Needs | None:
        """Return what the stage needs in a slot of its scope; None if it has no node there."""


def in_scope(scope: Scope) -> Iterator[PlannedStage]:
    """Yield the stages of a scope, in order."""
    for name in STAGES.names:
        stage = cast(PlannedStage, STAGES.get(name))
        if stage.scope == scope:
            yield stage
