"""What a run reports: views of nodes before it, events while it goes, outcomes of nodes at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pikaforge.errors import ForgeError, StageError
from pikaforge.host.store import Model, Result
from pikaforge.plan.plan import Node, Plan

Status = Literal["cached", "done", "failed", "blocked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A node as `plan` shows it."""

    node: Node
    key: str
    cached: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutcome:
    """The end of a node in a run."""

    node: Node
    status: Status
    seconds: float = 0.0
    jobs: int = 0
    """How many processes it could start at once; 0: that is not known."""
    memory: int = 0
    """Bytes that its largest job has used at most; 0: that is not known."""
    out_of_memory: bool = False
    """Whether a job of it was killed for lack of memory."""
    key: str = ""
    result: Result | None = None
    error: ForgeError | None = None
    blocked_by: str = ""

    def facts(self, model: type[Model]) -> Model | None:
        """Return the facts of the node, if it has any of a model: those of its result, else those of its failure."""
        if self.result is not None:
            return self.result.read(model)
        found = self.error.failure.facts if isinstance(self.error, StageError) else None
        if found is None and self.error is not None:
            found = self.error.facts
        return found if isinstance(found, model) else None


@dataclass(slots=True)
class Report:
    """The outcomes of a run."""

    plan: Plan
    outcomes: dict[str, NodeOutcome] = field(default_factory=dict)
    """By node id."""

    @property
    def errors(self) -> list[ForgeError]:
        """Return all errors, in the order in which they came."""
        return [o.error for o in self.outcomes.values() if o.error is not None]

    def of(self, stage: str) -> Iterable[NodeOutcome]:
        """Return the outcomes of one stage, in the plan's order."""
        return (self.outcomes[n.id] for n in self.plan.nodes if n.stage == stage and n.id in self.outcomes)

    def by_cell(self) -> dict[str, list[NodeOutcome]]:
        """Return the outcomes of the nodes that each cell needs, in the plan's order, by the cell's id."""
        found: dict[str, list[NodeOutcome]] = {cell.id: [] for cell in self.plan.cells}
        for node in self.plan.nodes:
            if (outcome := self.outcomes.get(node.id)) is not None:
                for cell in node.cells:
                    found[cell.id].append(outcome)
        return found

    def facts(self, node: str, model: type[Model]) -> Model | None:
        """Return the facts of a node, if it has any of a model; see `NodeOutcome.facts`."""
        outcome = self.outcomes.get(node)
        return outcome.facts(model) if outcome is not None else None


class Events:
    """Receives the events of a run; `cli.faces.reporter` shows them. Calls come from several threads."""

    def started(self, node: Node) -> None:
        """Take note that a node is being made. It is not called for nodes whose result is stored."""

    def ended(self, outcome: NodeOutcome) -> None:
        """Take note that a node has ended."""

    def notice(self, text: str) -> None:
        """Take a text that the user should read, such as a new pin."""

    def stopping(self) -> None:
        """Take note that the run ends early: what runs is being ended and removed, which may take a while."""
