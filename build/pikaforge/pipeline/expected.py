"""How long nodes and a whole run are expected to take, and what nodes need, by build reports of earlier runs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import median

from pikaforge.pipeline.report_record import BuildReport, StageRecord
from pikaforge.pipeline.scheduler import demand_of
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan.budget import Allotter, Budget, Demand, Share, learnt
from pikaforge.plan.plan import Node, Plan
from pikaforge.plan.schedule import Queue, simulate


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTimes:
    """Seconds and memory that nodes took in earlier runs."""

    nodes: dict[tuple[str, str], float]
    """By stage and label."""
    stages: dict[str, float]
    """The median of each stage, for nodes that were never run here."""
    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many processes a node could start then, by stage and label."""
    memory: dict[tuple[str, str], int] = field(default_factory=dict)
    """Bytes that a node needed at most, as build reports have it, by stage and label."""
    killed: frozenset[tuple[str, str]] = frozenset()
    """What was killed for lack of memory in its last run, by stage and label."""

    @classmethod
    def of(cls, reports: Iterable[BuildReport]) -> EarlierTimes:
        """Return the times in build reports. What failed or was blocked says nothing but how much memory it needed."""
        found: dict[tuple[str, str], StageRecord] = {}
        memory: dict[tuple[str, str], StageRecord] = {}
        for report in reports:
            for cell in report.cells:
                for record in cell.stages:
                    if record.memory:
                        memory[record.stage, record.label] = record
                    if record.status in ("done", "cached") and record.seconds > 0:
                        found[record.stage, record.label] = record
        by_stage: dict[str, list[float]] = {}
        for record in found.values():
            by_stage.setdefault(record.stage, []).append(record.seconds)
        return cls(
            nodes={name: record.seconds for name, record in found.items()},
            stages={stage: median(seconds) for stage, seconds in by_stage.items()},
            jobs={name: record.jobs for name, record in found.items() if record.jobs},
            memory={name: record.memory for name, record in memory.items()},
            killed=frozenset(name for name, record in memory.items() if record.out_of_memory),
        )

    def expected(self, node: Node) -> float | None:
        """Return how long a node is expected to take; None if nothing is known of its stage."""
        return self.nodes.get((node.stage, node.label), self.stages.get(node.stage))

    def demand(self, node: Node) -> Demand:
        """Return what a node needs while it is made: what its stage says, or what it was seen to use."""
        name = (node.stage, node.label)
        return learnt(demand_of(node), self.memory.get(name, 0), killed=name in self.killed)

    def scale(self, node: Node, share: Share) -> float:
        """Return by how much a node takes longer with a share than it took before.

        It is so only for a node that takes as many cores as it gets; it is taken to do the same work on each.
        """
        before = self.jobs.get((node.stage, node.label), share.jobs)
        return before / share.jobs if share.elastic else 1.0


def seconds_of(plan: Plan, cached: Collection[str], times: EarlierTimes) -> dict[str, float]:
    """Return how long each node is expected to take, by id; where no time is known, what its stage says.

    Args:
        plan: the plan.
        cached: ids of nodes whose results are stored; they take no time.
        times: those of earlier runs.
    """
    found: dict[str, float] = {}
    for node in plan.nodes:
        known = times.expected(node)
        found[node.id] = 0.0 if node.id in cached else stage_of(node).seconds if known is None else known
    return found


def run_seconds(plan: Plan, cached: Collection[str], times: EarlierTimes, budget: Budget) -> tuple[float | None, int]:
    """Return how long a run is expected to take, and of how many of its nodes nothing is known.

    The pipeline's own decisions are simulated: which nodes begin when, and with how many cores.

    Args:
        plan: the plan.
        cached: ids of nodes whose results are stored; they take no time.
        times: those of earlier runs.
        budget: what nodes may use together.

    Returns:
        Seconds, in which the nodes that are not known take no time; None if none is known.
    """
    known = {
        node.id: seconds
        for node in plan.nodes
        if node.id not in cached and (seconds := times.expected(node)) is not None
    }
    left = sum(node.id not in cached for node in plan.nodes)
    if left and not known:
        return None, left

    def took(node: Node, share: Share) -> float:
        return known.get(node.id, 0.0) * times.scale(node, share)

    queue = Queue(plan.nodes, seconds_of(plan, cached, times))
    return simulate(queue, Allotter(budget, times.demand), took).seconds, left - len(known)
