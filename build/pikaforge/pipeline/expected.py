"""How long nodes and a whole run are expected to take, by the times that build reports have of earlier runs. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median

from pikaforge.pipeline.report_record import BuildReport
from pikaforge.pipeline.scheduler import WORKERS
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan.plan import Node, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTimes:
    """Seconds that nodes took in earlier runs."""

    nodes: dict[tuple[str, str], float]
    """By stage and label."""
    stages: dict[str, float]
    """The median of each stage, for nodes that were never run here."""

    @classmethod
    def of(cls, reports: Iterable[BuildReport]) -> EarlierTimes:
        """Return the times in build reports. What failed or was blocked says nothing."""
        nodes: dict[tuple[str, str], float] = {}
        for report in reports:
            for cell in report.cells:
                for record in cell.stages:
                    if record.status in ("done", "cached") and record.seconds > 0:
                        nodes[record.stage, record.label] = record.seconds
        names = {stage for stage, _ in nodes}
        stages = {name: median(seconds for (stage, _), seconds in nodes.items() if stage == name) for name in names}
        return cls(nodes=nodes, stages=stages)

    def expected(self, node: Node) -> float | None:
        """Return how long a node is expected to take; None if nothing is known of its stage."""
        return self.nodes.get((node.stage, node.label), self.stages.get(node.stage))


def run_seconds(plan: Plan, cached: Collection[str], times: EarlierTimes) -> tuple[float | None, int]:
    """Return how long a run is expected to take, and of how many of its nodes nothing is known.

    Nodes are taken in the order of the plan, as the pipeline takes them: so many at once, and one compilation at most.

    Args:
        plan: the plan.
        cached: ids of nodes whose results are stored; they take no time.
        times: those of earlier runs.

    Returns:
        Seconds, in which the nodes that are not known take no time; None if none is known.
    """
    left = [node for node in plan.nodes if node.id not in cached]
    known = {node.id: seconds for node in left if (seconds := times.expected(node)) is not None}
    unknown = len(left) - len(known)
    if left and not known:
        return None, unknown
    ends: dict[str, float] = {}
    workers, alone = [0.0] * WORKERS, 0.0
    for node in left:
        ready = max([workers[0], *(ends.get(need, 0.0) for need in node.needs)])
        if stage_of(node).alone:
            ready = max(ready, alone)
        ends[node.id] = ready + known.get(node.id, 0.0)
        heapq.heapreplace(workers, ends[node.id])
        if stage_of(node).alone:
            alone = ends[node.id]
    return max(ends.values(), default=0.0), unknown
