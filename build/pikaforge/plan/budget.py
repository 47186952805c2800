"""What nodes may use at once: a budget of cores and memory, and which of those that are ready begin in it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from pikaforge.plan.plan import Node

BESIDE = 1.0
"""Cores beyond the budget for nodes that are not elastic: compilations wait for disks, and the others for servers."""
COMPILER = 916 << 20
"""Bytes of memory of one process of the C++ compiler at its largest; docs/doctor.md says how it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a node needs while it is made."""

    cores: float = 0.5
    """Cores that it keeps busy; of an elastic node at least."""
    memory: int = 256 << 20
    """Bytes; of an elastic node for each core."""
    least: int = 0
    """Bytes of an elastic node, however few cores it gets."""
    elastic: bool = False
    """Whether it takes further cores that are free when it begins, as a compilation does. Its cores are whole ones."""


COMPILES = Demand(cores=1, memory=COMPILER, elastic=True)
"""What a compilation needs."""


MARGIN, AFTER_KILL = 1.25, 2.0
"""What a node gets, as a multiple of the memory that it was seen to use, because samples miss peaks; and as a multiple
of that in which it was killed."""


def learnt(usual: Demand, memory: int, *, killed: bool = False) -> Demand:
    """Return what a node needs by the memory that it has used before.

    An elastic one still gets what is usual for one core: on fewer cores than before, each may be a larger part of it.

    Args:
        usual: what its stage says.
        memory: bytes that it has used at most; of an elastic node for each core. 0: that is not known.
        killed: whether it was killed for lack of memory then.
    """
    if not memory:
        return usual
    needs = math.ceil(memory * (AFTER_KILL if killed else MARGIN))
    return replace(usual, memory=needs, least=usual.memory if usual.elastic else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What nodes may use together."""

    cores: int
    """Elastic nodes use no more than these."""
    memory: int = 0
    """Bytes; 0: it is not known, and bounds nothing."""
    each: int = 0
    """Bytes that one node may use; 0: as many as all."""
    beside: float = 0.0
    """Cores beyond that, for other nodes while elastic ones run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a node has got of a budget for as long as it is made."""

    cores: float
    memory: int
    jobs: int
    """Processes that it may start at once: an elastic node one for each of its cores. The others share what is free
    when they begin."""
    elastic: bool = False


@dataclass(slots=True)
class _HeldShares:
    """What the nodes that run have together."""

    elastic: float = 0.0
    others: float = 0.0
    memory: int = 0

    @property
    def cores(self) -> float:
        return self.elastic + self.others

    def add(self, share: Share, sign: int = 1) -> None:
        """Count a share; with the sign -1, count it no more."""
        if share.elastic:
            self.elastic += sign * share.cores
        else:
            self.others += sign * share.cores
        self.memory += sign * share.memory


class Allotter:
    """Decides which nodes begin, and what they get. Its answers depend on what it was asked before, and on no clock.

    Nodes that are ready come in the order in which they should begin. One that does not fit is overtaken by those
    behind it that do, but not more often than there are cores. Then all wait for it, so that it does not wait for ever.
    """

    def __init__(self, budget: Budget, demand: Callable[[Node], Demand]) -> None:
        """Prepare a run, in which nothing runs yet.

        Args:
            budget: what there is.
            demand: says what a node needs.
        """
        self._budget = budget
        self._demand = demand
        self._shares: dict[str, Share] = {}
        self._held = _HeldShares()
        self._overtaken: dict[str, int] = {}
        self._window = 2 * budget.cores + 16

    def share(self, node: Node) -> Share:
        """Return what a node has got that `next` has chosen."""
        return self._shares[node.id]

    def next(self, ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return those of the nodes that are ready which begin now beside those that run.

        No more than the first ones are looked at, so that a call takes as long with ten thousand as with a hundred.
        """
        for gone in self._shares.keys() - {node.id for node in running}:
            self._held.add(self._shares.pop(gone), -1)
        window = list(islice(ready, self._window))
        left = Counter(self._demand(node).elastic for node in window)
        begun: list[Node] = []
        first: Node | None = None
        for node in window:
            if self._all_held() or (first is not None and self._overtaken[first.id] >= self._budget.cores):
                break
            demand = self._demand(node)
            fit = self._elastic if demand.elastic else self._plain
            share = fit(demand, left[demand.elastic])
            if share is None:
                first = first or node
                self._overtaken.setdefault(first.id, 0)
                continue
            if first is not None:
                self._overtaken[first.id] += 1
            left[share.elastic] -= 1
            self._shares[node.id] = share
            self._held.add(share)
            begun.append(node)
        return begun

    def _all_held(self) -> bool:
        return self._held.cores >= self._budget.cores + self._budget.beside

    def _memory(self) -> float:
        """Return the bytes that are left."""
        return self._budget.memory - self._held.memory if self._budget.memory else math.inf

    def _elastic(self, demand: Demand, left: int) -> Share | None:
        """Return what an elastic node gets; None if it has to wait. If nothing runs, it gets one core at least.

        Args:
            demand: of the node.
            left: such nodes that are ready, itself among them: what is free is for all of them.
        """
        room = self._budget.cores + min(0, self._budget.beside - self._held.others) - self._held.elastic
        cores = min(math.ceil(room / left), math.floor(room))
        memory = min(self._memory(), self._budget.each or math.inf)
        if demand.memory and math.isfinite(memory):
            cores = min(cores, int(memory // demand.memory)) if memory >= demand.least else 0
        if cores < 1 and self._shares:
            return None
        cores = max(cores, 1)
        needs = max(cores * demand.memory, demand.least)
        return Share(cores=cores, memory=int(min(needs, self._memory())), jobs=cores, elastic=True)

    def _plain(self, demand: Demand, left: int) -> Share | None:
        """Return what any other node gets, likewise."""
        budget, held = self._budget, self._held
        room = min(budget.cores + budget.beside - held.cores, budget.cores - held.others)
        if self._shares and (demand.cores > room or demand.memory > self._memory()):
            return None
        jobs = max(1, math.floor((budget.cores - held.cores) / left))
        return Share(cores=min(demand.cores, budget.cores), memory=int(min(demand.memory, self._memory())), jobs=jobs)
