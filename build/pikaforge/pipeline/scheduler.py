"""The order in which nodes of a plan are made, and the seam of what makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from pikaforge.host.store import Result
from pikaforge.pipeline.outcomes import Events, NodeOutcome, Report
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan.budget import Allotter, Budget, Demand, Share
from pikaforge.plan.plan import Node, Plan
from pikaforge.plan.schedule import Blocking, Queue

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11 on

LEAST = 0.25
"""Cores that a node holds at least: no more threads are needed than nodes with so few."""

RunNode = Callable[[Node, Mapping[str, Result], Events, Share], NodeOutcome]
"""Makes a node of the results that it needs, by node id, or takes its stored result. The share is what it may use."""


def demand_of(node: Node) -> Demand:
    """Return what a node needs while it is made: its stage says so."""
    return stage_of(node).demand


class Runner(Protocol):
    """Makes nodes: in threads of this process, or on other machines. A block of `with` is one run.

    If the block is left by an exception, nothing that it has started outlives it.
    """

    def __enter__(self) -> Self:
        """Begin a run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run."""

    def next(self, ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return those of the nodes that are ready, in their order, which may begin beside those that run."""

    def submit(self, node: Node, inputs: Mapping[str, Result]) -> Future[NodeOutcome]:
        """Begin a node; the future has its outcome, or what ends the run.

        Args:
            node: the node.
            inputs: the results of those that it needs, by node id.
        """


class PoolRunner:
    """What runners with threads have in common: the block of a run, and its end."""

    def __init__(self, events: Events, *, threads: int, name: str) -> None:
        """Prepare a run.

        Args:
            events: of the run.
            threads: how many at most.
            name: of the threads.
        """
        self._events = events
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    def __enter__(self) -> Self:
        """Begin a run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what runs; if the block was left by an exception, end it."""
        try:
            if error is not None:
                try:
                    self._events.stopping()
                finally:
                    # Nothing may outlive the run: threads come back once what they wait for is gone.
                    self._pool.shutdown(wait=False, cancel_futures=True)
                    self._end_nodes()
        finally:
            self._pool.shutdown(wait=True)

    def _end_nodes(self) -> None:
        """End everything that nodes have started."""
        raise NotImplementedError


class LocalRunner(PoolRunner):
    """Makes nodes in threads of this process, as many at once as a budget allows."""

    def __init__(
        self,
        run: RunNode,
        abort: Callable[[], None],
        events: Events,
        budget: Budget,
        demand: Callable[[Node], Demand] = demand_of,
        *,
        settle: Callable[[], None],
    ) -> None:
        """Prepare a run.

        Args:
            run: makes a node; it is called in several threads.
            abort: ends everything that nodes have started.
            events: of the run.
            budget: what nodes may use together.
            demand: says what a node needs.
            settle: waits until what nodes have left is removed.
        """
        super().__init__(events, threads=int((budget.cores + budget.beside) / LEAST), name="node")
        self._run = run
        self._abort = abort
        self._settle = settle
        self._allotter = Allotter(budget, demand)

    def _end_nodes(self) -> None:
        self._abort()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `PoolRunner`; and wait until what nodes have left is removed."""
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._settle()

    def next(self, ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return those that fit into the budget."""
        return self._allotter.next(ready, running)

    def submit(self, node: Node, inputs: Mapping[str, Result]) -> Future[NodeOutcome]:
        """Begin a node in a thread."""
        return self._pool.submit(self._run, node, inputs, self._events, self._allotter.share(node))


class Scheduler:
    """Runs a plan once."""

    def __init__(self, plan: Plan, runner: Runner, events: Events, seconds: Mapping[str, float] | None = None) -> None:
        """Prepare the run of a plan.

        Args:
            plan: the plan.
            runner: makes the nodes.
            events: of the run.
            seconds: how long nodes are expected to take, by id (`expected.seconds_of`): with them, those begin first on
                which the longest way to the end depends.

        Raises:
            ValueError: a node needs one that is not in the plan, or itself.
        """
        self._runner = runner
        self._events = events
        self._report = Report(plan=plan)
        self._queue = Queue(plan.nodes, seconds or {})
        self._blocking = Blocking(plan.nodes)

    def execute(self) -> Report:
        """Run every node; a failure stops only what depends on it."""
        queue = self._queue
        running: dict[Future[NodeOutcome], Node] = {}
        while True:
            for node in self._runner.next(queue.ready, running.values()):
                queue.take(node)
                running[self._runner.submit(node, self._inputs(node))] = node
            if not running:
                return self._report
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                node, outcome = running.pop(future), future.result()
                self._report.outcomes[node.id] = outcome
                self._events.ended(outcome)
                if outcome.result is not None:
                    queue.done(node)
                else:
                    self._block(node)

    def _inputs(self, node: Node) -> dict[str, Result]:
        results = {need: self._report.outcomes[need].result for need in node.needs}
        return {need: result for need, result in results.items() if result is not None}

    def _block(self, failed: Node) -> None:
        """End the nodes that need one without a result."""
        outcomes = self._report.outcomes
        for node in self._blocking.by(failed):
            if node.id in outcomes:  # another failure has blocked it
                continue
            bad = next(n for n in node.needs if (o := outcomes.get(n)) is not None and o.result is None)
            outcome = outcomes[node.id] = NodeOutcome(node=node, status="blocked", blocked_by=bad)
            self._events.ended(outcome)
