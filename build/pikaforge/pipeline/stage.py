"""The seam of stages: the protocol that the pipeline uses.

Members are listed in `config.registry.STAGES`. A stage comes behind those whose results it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol, cast

from pydantic import BaseModel

from pikaforge.audit.audit_result import today
from pikaforge.config.patch_series import Series
from pikaforge.config.registry import STAGES
from pikaforge.config.schema import Spec
from pikaforge.formats import payload
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.source.origin import Origin
from pikaforge.plan.budget import Demand
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import TOOLS_NODE, Node
from pikaforge.plan.stages import PlannedStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run is about, beside its plan."""

    spec: Spec
    origin: Origin
    series: Series | None
    today: date = field(default_factory=today)
    """It decides which waivers hold. Nothing else depends on the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What the stages of a run have in common."""

    workspace: Workspace
    request: Request
    offers: Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]]
    """Models by target, for each image and allocator (`formats.payload.all_offers`)."""

    @classmethod
    def of(cls, workspace: Workspace, request: Request) -> RunContext:
        """Return the context of a request's run."""
        return cls(workspace=workspace, request=request, offers=payload.all_offers(request.spec))

    @property
    def spec(self) -> Spec:
        """Return the specification."""
        return self.request.spec

    @property
    def home(self) -> Path:
        """Return the checkout."""
        return self.workspace.home

    @property
    def series_folder(self) -> Path:
        """Return the folder of the series file; without one, that of matrix.yaml."""
        base, series = self.workspace.base, self.spec.product.patches
        return base if series is None else (base / series).parent

    def others(self, cell: Cell) -> Mapping[str, tuple[str, ...]]:
        """Return models by target: the other packages that there are for the image and allocator of a cell."""
        return self.offers.get((cell.image, cell.allocator), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a node's result is made from."""

    node: Node
    results: Mapping[str, Result]
    """The results that it takes, by node id."""
    version: str
    """The version of the product, which is the label of the source's node."""
    pin: object = None
    """`Material.pin` of the node: what its stage has looked up."""

    @property
    def source(self) -> Result:
        """Return the source tree."""
        return self.results[f"source:{self.version}"]

    @property
    def image(self) -> Result:
        """Return the image that the node's subject is built on."""
        extended, plain = self.node.cell.image_nodes
        return self.results.get(extended) or self.results[plain]

    @property
    def allocator(self) -> Result | None:
        """Return the allocator that was built for the subject, if any was."""
        return self.results.get(f"allocator:{self.node.cell.group}")

    def of(self, stage: str) -> Result:
        """Return the result of a stage for the subject's compilation."""
        return self.results[f"{stage}:{self.node.cell.group}"]

    @property
    def tools(self) -> str:
        """Return the engine's name of the tools image; "" with the host engine, which has none."""
        tools = self.results.get(TOOLS_NODE)
        return tools.read(ImageStageFacts).build if tools is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The key material of a node, beside the results that it takes."""

    facts: Mapping[str, object]
    pinned: bool = True
    """Whether it says what the result will be made from. If not, that has to be looked up in the network."""
    pin: object = None
    """What the stage has looked up for it, and needs again to make the result."""


class Stage(PlannedStage, Protocol):
    """A stage."""

    demand: Demand
    """What one of its nodes needs of a machine while it is made."""
    seconds: float
    """About how long one of its nodes takes, where no earlier run says so. It decides the order of nodes alone."""
    reads: frozenset[str]
    """Stages whose facts are part of its result. Of the others it takes only the files: if those come out the same when
    they are made anew, its key does not change."""

    shared: bool
    """Whether other machines may take its results, from a shared store."""

    @property
    def facts(self) -> type[BaseModel]:
        """Return the model of its facts. A stored result whose facts are not of it is made anew."""

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
        """Return why a stored result cannot be used any more, such as images that are gone; "" if it can."""

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return why a result that another machine has made cannot be taken; "" if it can.

        Its facts are of the stage's model, and its files have their digests. Nothing else of it is trusted. So a stage
        says here what it would never have left itself: other files, or what must not be in them.
        """

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return what the user should know of a result; `fresh` if this run has made it."""


class BaseStage:
    """The answers that most stages give."""

    adopts = False
    demand = Demand()
    seconds = 10.0
    reads: frozenset[str] = frozenset()
    shared = True

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return "": files of the store are verified when they are read."""
        return ""

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return "": there is nothing beside the facts."""
        return f"it has files: {', '.join(sorted(result.files))}" if result.files else ""

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return nothing."""
        return ()


def stage_of(node: Node) -> Stage:
    """Return the stage of a node."""
    return cast(Stage, STAGES.get(node.stage))
