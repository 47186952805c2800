"""The part of a stage that a plan needs: where it has nodes, and what they need. See `pipeline.stage.Stage`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

from pikaforge.config.registry import STAGES
from pikaforge.config.schema import Spec
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell

Scope = Literal["run", "image", "group", "cell"]
"""What a stage has a node for: the whole run, each image, each compilation, or each cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where a stage may have a node."""

    spec: Spec
    label: str
    """Of the node: the product's version, an image, a compilation or a cell."""
    own: tuple[Cell, ...]
    """Cells whose packages hold what the node makes."""
    twins: tuple[Cell, ...] = ()
    """Cells whose own target cannot be run, so that this one is."""
    tools: tuple[str, ...] = ()
    """Id of the tools image's node; nothing with the host engine."""
    emulator: tuple[str, ...] = ()
    """Id of the emulator's node; nothing where it cannot stand in for the target."""
    subject: Cell | None = None
    """The cell whose image, target and allocator the node is about; None for the scopes `run` and `image`."""

    @property
    def cell(self) -> Cell:
        """The subject of scopes that have one."""
        assert self.subject is not None, self.label
        return self.subject

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that the slot is for."""
        return (*self.own, *self.twins)

    @property
    def source(self) -> str:
        """Id of the source's node."""
        return f"source:{self.spec.product.version}"

    @property
    def image(self) -> str:
        """Id of the image's node."""
        return f"image:{self.cell.image}"

    @property
    def allocator(self) -> tuple[str, ...]:
        """Id of the node of the allocator that is built for the cell, if any is."""
        built = allocators.kind_of(self.spec, self.cell.allocator).own
        return (f"allocator:{self.cell.group}",) if built else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a stage needs in a slot."""

    ids: tuple[str, ...]
    """The nodes whose results it takes."""
    cells: tuple[Cell, ...] = field(default=())
    """Those that need it; () means all of the slot."""


class PlannedStage(Protocol):
    """A stage, as a plan sees it."""

    name: str
    scope: Scope
    adopts: bool
    """Whether the result for a twin counts where the target itself cannot be run."""

    def needs(self, slot: Slot) -> Needs | None:
        """Return what the stage needs in a slot of its scope; None if it has no node there."""


def in_scope(scope: Scope) -> Iterator[PlannedStage]:
    """Return the stages of a scope, in order."""
    for name in STAGES.names:
        stage = cast(PlannedStage, STAGES.get(name))
        if stage.scope == scope:
            yield stage
