"""The order in which nodes begin: those first on which the longest way to the end depends. Pure.

`Queue` has the nodes that are ready, in that order. The pipeline makes nodes of it, and `simulate` says how long that
would take: both use what `budget` decides.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from pikaforge.plan.budget import Allotter, Share
from pikaforge.plan.plan import Node


def followers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """Return the nodes that need each node, in the order of the plan, by its id."""
    found: dict[str, list[Node]] = {node.id: [] for node in nodes}
    for node in nodes:
        for need in dict.fromkeys(node.needs):
            found[need].append(node)
    return found


def ways(nodes: Sequence[Node], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds from the begin of each node to the end of the last one that needs it, by id.

    Args:
        nodes: of the plan.
        seconds: how long each takes, by id; nothing if it is not there.

    Raises:
        graphlib.CycleError: a node needs itself.
    """
    behind = followers(nodes)
    found: dict[str, float] = {}
    for name in reversed(list(TopologicalSorter({node.id: node.needs for node in nodes}).static_order())):
        found[name] = seconds.get(name, 0.0) + max((found[node.id] for node in behind[name]), default=0.0)
    return found


class Queue:
    """The nodes of a plan that are ready, those with the longest way to the end first, and else as in the plan."""

    def __init__(self, nodes: Sequence[Node], seconds: Mapping[str, float]) -> None:
        """Prepare a run.

        Args:
            nodes: of the plan.
            seconds: how long each is expected to take, by id.

        Raises:
            ValueError: a node needs one that is not in the plan, or itself.
        """
        self._nodes = {node.id: node for node in nodes}
        for node in nodes:
            if not self._nodes.keys() >= set(node.needs):  # nothing would ever make it ready
                raise ValueError(f"{node.id} needs what is not in the plan: {', '.join(node.needs)}")
        far = ways(nodes, seconds)
        self._places = {node.id: (-far[node.id], place) for place, node in enumerate(nodes)}
        self._order = TopologicalSorter({node.id: node.needs for node in nodes})
        self._order.prepare()
        self.ready: list[Node] = []
        self._fill()

    def _place(self, node: Node) -> tuple[float, int]:
        return self._places[node.id]

    def _fill(self) -> None:
        for name in self._order.get_ready():
            insort(self.ready, self._nodes[name], key=self._place)

    def take(self, node: Node) -> None:
        """Remove a node that begins."""
        del self.ready[bisect_left(self.ready, self._place(node), key=self._place)]

    def done(self, node: Node) -> None:
        """Take note of a node's result, by which others may be ready."""
        self._order.done(node.id)
        self._fill()


class Blocking:
    """Finds what cannot be made any more."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._behind = followers(nodes)
        self._places = {node.id: place for place, node in enumerate(nodes)}

    def by(self, node: Node) -> Iterator[Node]:
        """Yield what needs a node that has no result, and what needs that, each once and in the order of the plan."""
        found = {self._places[each.id]: each for each in self._behind[node.id]}
        left = list(found)
        heapq.heapify(left)
        while left:
            each = found[heapq.heappop(left)]
            yield each
            for other in self._behind[each.id]:
                if self._places[other.id] not in found:
                    found[self._places[other.id]] = other
                    heapq.heappush(left, self._places[other.id])


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A run that was not made."""

    begins: Mapping[str, float]
    """Seconds by node id."""
    ends: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Return how long it takes."""
        return max(self.ends.values(), default=0.0)


def simulate(queue: Queue, allotter: Allotter, took: Callable[[Node, Share], float]) -> Simulated:
    """Return when each node begins and ends, if all nodes have a result.

    Args:
        queue: of the plan, from which nothing was taken.
        allotter: decides which begin.
        took: says how many seconds a node takes with its share.
    """
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    running: dict[str, Node] = {}
    events: list[tuple[float, int, Node]] = []
    now = 0.0
    while True:
        for node in allotter.next(queue.ready, running.values()):
            queue.take(node)
            running[node.id] = node
            begins[node.id] = now
            heapq.heappush(events, (now + took(node, allotter.share(node)), len(begins), node))
        if not events:
            return Simulated(begins=begins, ends=ends)
        now = events[0][0]
        for node in _until(now, events):
            ends[node.id] = now
            del running[node.id]
            queue.done(node)


def _until(now: float, events: list[tuple[float, int, Node]]) -> Iterable[Node]:
    while events and events[0][0] <= now:
        yield heapq.heappop(events)[2]


def least_seconds(nodes: Sequence[Node], seconds: Mapping[str, float], workers: int) -> float:
    """Return how long a run takes at least: as its longest way, and as all work divided by the number of workers."""
    return max([sum(seconds.values()) / workers, *ways(nodes, seconds).values()])
