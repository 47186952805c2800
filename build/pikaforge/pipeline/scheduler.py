"""The order in which nodes of a plan are made, and the seam of what makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from types import TracebackType
from typing import Protocol, Self

from pikaforge.host.store import Result
from pikaforge.pipeline.outcomes import Events, NodeOutcome, Report
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan.plan import Node, Plan

WORKERS = 4
"""Nodes at once. One of them at most compiles, because a compilation takes all jobs."""

RunNode = Callable[[Node, Mapping[str, Result], Events], NodeOutcome]
"""Makes a node of the results that it needs, by node id, or takes its stored result."""


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


class LocalRunner:
    """Makes nodes in threads of this process."""

    def __init__(self, run: RunNode, abort: Callable[[], None], events: Events) -> None:
        """Prepare a run.

        Args:
            run: makes a node; it is called in several threads.
            abort: ends everything that nodes have started.
            events: of the run.
        """
        self._run = run
        self._abort = abort
        self._events = events
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="node")

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
                    # Nothing may outlive the run: threads come back once their containers and programs are gone.
                    self._pool.shutdown(wait=False, cancel_futures=True)
                    self._abort()
        finally:
            self._pool.shutdown(wait=True)

    def next(self, ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return as many nodes as there are workers, and one compilation at most."""
        at_work = list(running)
        chosen: list[Node] = []
        for node in ready:
            if len(at_work) >= WORKERS:
                break
            if stage_of(node).alone and any(stage_of(other).alone for other in at_work):
                continue
            at_work.append(node)
            chosen.append(node)
        return chosen

    def submit(self, node: Node, inputs: Mapping[str, Result]) -> Future[NodeOutcome]:
        """Begin a node in a thread."""
        return self._pool.submit(self._run, node, inputs, self._events)


class Scheduler:
    """Runs a plan once."""

    def __init__(self, plan: Plan, runner: Runner, events: Events) -> None:
        """Prepare the run of a plan.

        Raises:
            ValueError: a node needs one that is not in the plan.
        """
        self._plan = plan
        self._runner = runner
        self._events = events
        self._report = Report(plan=plan)
        self._places = {node.id: place for place, node in enumerate(plan.nodes)}
        for node in plan.nodes:
            if not self._places.keys() >= set(node.needs):  # nothing would ever make it ready
                raise ValueError(f"{node.id} needs what is not in the plan: {', '.join(node.needs)}")

    def execute(self) -> Report:
        """Run every node; a failure stops only what depends on it.

        Raises:
            ValueError: a node needs itself.
        """
        order = TopologicalSorter({node.id: node.needs for node in self._plan.nodes})
        order.prepare()
        ready: list[Node] = []
        running: dict[Future[NodeOutcome], Node] = {}
        while True:
            ready += [self._plan.nodes[self._places[name]] for name in order.get_ready()]
            ready.sort(key=lambda node: self._places[node.id])
            for node in self._runner.next(ready, running.values()):
                ready.remove(node)
                running[self._runner.submit(node, self._inputs(node))] = node
            if not running:
                return self._report
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                node, outcome = running.pop(future), future.result()
                self._report.outcomes[node.id] = outcome
                self._events.ended(outcome)
                if outcome.result is not None:
                    order.done(node.id)
            self._block()

    def _inputs(self, node: Node) -> dict[str, Result]:
        results = {need: self._report.outcomes[need].result for need in node.needs}
        return {need: result for need, result in results.items() if result is not None}

    def _block(self) -> None:
        """End the nodes that need one without a result. They come behind it in the plan."""
        outcomes = self._report.outcomes
        for node in self._plan.nodes:
            if node.id in outcomes:
                continue
            bad = next((n for n in node.needs if (o := outcomes.get(n)) is not None and o.result is None), None)
            if bad is not None:
                outcome = outcomes[node.id] = NodeOutcome(node=node, status="blocked", blocked_by=bad)
                self._events.ended(outcome)
