"""The seam of stages: what the pipeline needs to know of one.

A member is listed in `config.registry.STAGES`, behind the stages whose results it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol, cast

from pikaforge.audit.audit_result import today
from pikaforge.config.patch_series import Series
from pikaforge.config.registry import STAGES
from pikaforge.config.schema import Spec
from pikaforge.formats import payload
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.source.origin import Origin
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import TOOLS_NODE, Node
from pikaforge.plan.stages import PlannedStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be built from what; with a plan, all that a run needs to know."""

    spec: Spec
    origin: Origin
    series: Series | None
    today: date = field(default_factory=today)
    """Decides which waivers hold; nothing else asks the clock."""


class RunContext:
    """What the stages of a run have in common."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self.workspace = workspace
        self.request = request
        self.spec = request.spec
        self.pins: dict[str, object] = {}
        """What a stage has looked up for its key and takes again to make the result, by node id."""
        self.series_folder = workspace.base
        if request.spec.product.patches is not None:
            self.series_folder = (workspace.base / request.spec.product.patches).parent
        self._offers = payload.all_offers(request.spec)

    @property
    def home(self) -> Path:
        """The checkout."""
        return self.workspace.home

    def others(self, cell: Cell) -> Mapping[str, tuple[str, ...]]:
        """Return models by target: what else there is for the image and allocator of a cell."""
        return self._offers.get((cell.image, cell.allocator), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The results that a node takes, found by what they are."""

    node: Node
    results: Mapping[str, Result]
    """By node id."""
    version: str
    """Of the product: the label of the source's node."""

    @property
    def source(self) -> Result:
        """The source tree."""
        return self.results[f"source:{self.version}"]

    @property
    def image(self) -> Result:
        """The image that the node's subject is built on."""
        return self.results[f"image:{self.node.cell.image}"]

    @property
    def allocator(self) -> Result | None:
        """The allocator that was built for the subject, if any was."""
        return self.results.get(f"allocator:{self.node.cell.group}")

    def of(self, stage: str) -> Result:
        """Return the result of a stage for the subject's compilation."""
        return self.results[f"{stage}:{self.node.cell.group}"]

    @property
    def tools(self) -> str:
        """What the engine calls the tools image; empty with the host engine, which has none."""
        return str(self.results[TOOLS_NODE].facts["build"]) if TOOLS_NODE in self.results else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a node's key is made of, beside the results that it takes."""

    facts: dict[str, Any]
    pinned: bool = True
    """Whether it is what the result will be made of; else only the network can tell that."""


class Stage(PlannedStage, Protocol):
    """A stage."""

    alone: bool
    """Whether it takes all jobs of the machine: only one such node runs at a time."""
    reads: frozenset[str]
    """Stages whose facts are part of what it makes. Of all others it takes the files alone, so that its key does not
    change where theirs is made anew with the same files."""

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return a node's key material.

        Raises:
            HostError: it has to be looked up, and that cannot be done.
        """

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Make a node's result and store it.

        Raises:
            ForgeError: it cannot be made.
        """

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return why a stored result cannot be used, because what it names is not there any more; "" if it can."""

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return what the user should know of a result; `fresh` if this run has made it."""


class BaseStage:
    """What most stages answer."""

    adopts = False
    alone = False
    reads: frozenset[str] = frozenset()

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return "": files of the store are verified when they are read."""
        return ""

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return nothing."""
        return ()


def stage_of(node: Node) -> Stage:
    """Return the stage of a node."""
    return cast(Stage, STAGES.get(node.stage))
