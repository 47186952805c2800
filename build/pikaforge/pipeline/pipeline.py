"""Running of plans: keys of nodes, results that are stored, and nodes that are made, in parallel."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import Literal

from pikaforge.errors import ForgeError, FullDiskError, HostError, StageError
from pikaforge.host import hashing, process, watch
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.store import Model, Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.source import source
from pikaforge.pipeline.stage import Inputs, Material, Request, RunContext, stage_of
from pikaforge.plan.plan import TOOLS_NODE, Node, Plan, common_part

WORKERS = 4
"""Nodes at once. One of them at most compiles, because a compilation takes all jobs."""

WAITS = "{} waits for another run, which makes the same"

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


class Pipeline:
    """Runs the plans of a request in a workspace."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self._workspace = workspace
        self._request = request
        self._context = RunContext.of(workspace, request)

    def identify_source(self) -> None:
        """Look up the source and its patches, as far as they are not pinned.

        It is called before a run, so that an unreachable source is reported at once, and not after images are made.

        Raises:
            HostError: the source cannot be reached.
            ConfigError: a pin says otherwise, or the source has no such tag.
        """
        origin, series = self._request.origin, self._request.series
        source.identify(origin, series, workspace=self._workspace, folder=self._context.series_folder, offline=False)

    def tools_image(self, events: Events) -> str:
        """Make the tools image, unless it is there; return the engine's name for it.

        Raises:
            ForgeError: it cannot be made.
        """
        part = common_part(self._request.spec, lambda node: node.id == TOOLS_NODE, engine=self._workspace.engine.kind)
        done = self.execute(part, events)
        result = done.outcomes[TOOLS_NODE].result
        if result is None:
            raise done.errors[0]
        return result.read(ImageStageFacts).build

    # ---- keys

    def _material(self, node: Node, *, offline: bool) -> Material:
        """Return a node's key material."""
        return stage_of(node).material(node, self._context, offline=offline)

    @staticmethod
    def _stands_for(node: Node, result: Result) -> str:
        """Return what a result adds to a node's key: its identity; and its facts, if the node's stage reads them."""
        if result.stage in stage_of(node).reads:
            return hashing.digest(json.dumps([result.identity, result.facts], sort_keys=True))
        return result.identity

    def _key(self, node: Node, known: Mapping[str, str], *, offline: bool) -> tuple[str, Material]:
        """Return a node's key, and its key material.

        A smoke node with a twin has two keys. A machine that can run the target may have stored a result under the key
        without the twin. That result is better, so that key is taken if there is a result.
        """
        found = self._material(node, offline=offline)
        material = {**found.facts, "engine": self._workspace.engine.kind}
        needs = [need for need in node.needs if need != node.twin]
        key = hashing.key(node.stage, material, {need: known[need] for need in needs})
        if node.twin:
            own, _ = self._workspace.store.get(node.stage, key)
            if own is None or self._unreadable(node, own):
                key = hashing.key(node.stage, material, {need: known[need] for need in node.needs})
        return key, found

    def views(self, plan: Plan, *, engine_answers: Callable[[], bool]) -> list[View]:
        """Return the nodes of a plan with their keys, and whether their results are stored.

        Nothing is changed, and no network is needed.

        Args:
            plan: the plan.
            engine_answers: says whether the engine answers; it is called if the presence of an image matters.
        """
        results: dict[str, Result] = {}
        made: dict[str, str] = {}
        missing: set[str] = set()
        views = []
        for node in plan.nodes:
            known = {n: self._stands_for(node, results[n]) if n in results else made[n] for n in node.needs}
            key, material = self._key(node, known, offline=True)
            result = self._workspace.store.peek(node.stage, key)
            absent = [need for need in node.needs if need in missing]
            if result is not None:
                watch.note_folders(path.parent for path in result.files.values())
                lost = self._lost(node, result, engine_answers=engine_answers)
                result, why = (None, lost) if lost else (result, "its result is stored")
            elif not material.pinned:
                why = "not pinned yet; the first build looks it up"
            elif absent:
                why = f"needs {', '.join(dict.fromkeys(need.partition(':')[0] for need in absent))} first"
            else:
                why = "no result is stored under this key"
            made[node.id] = key
            if result is None:
                missing.add(node.id)
            else:
                results[node.id] = result
            views.append(View(node=node, key=key, cached=result is not None, why=why))
        return views

    # ---- running

    def execute(self, plan: Plan, events: Events) -> Report:
        """Run every node whose result is not there; a failure stops only what depends on it.

        Raises:
            KeyboardInterrupt: after everything that ran was ended and removed.
            FullDiskError: likewise.
            ValueError: a node needs one that is not in the plan, or itself.
        """
        places = {node.id: place for place, node in enumerate(plan.nodes)}
        for node in plan.nodes:
            if not places.keys() >= set(node.needs):  # nothing would ever make it ready
                raise ValueError(f"{node.id} needs what is not in the plan: {', '.join(node.needs)}")
        order = TopologicalSorter({node.id: node.needs for node in plan.nodes})
        order.prepare()
        report = Report(plan=plan)
        ready: list[Node] = []
        running: dict[Future[NodeOutcome], Node] = {}
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="node") as pool:
            try:
                while True:
                    ready += [plan.nodes[places[name]] for name in order.get_ready()]
                    ready.sort(key=lambda node: places[node.id])
                    for node in self._next(ready, running.values()):
                        ready.remove(node)
                        running[pool.submit(self._run, node, report, events)] = node
                    if not running:
                        return report
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        node, outcome = running.pop(future), future.result()
                        report.outcomes[node.id] = outcome
                        events.ended(outcome)
                        if outcome.result is not None:
                            order.done(node.id)
                    self._block(report, events)
            except BaseException:
                try:
                    events.stopping()
                finally:
                    # Nothing may outlive the run: the threads come back once their containers and programs are gone.
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._workspace.engine.abort()
                    self._workspace.downloads.abort()
                    process.end_all()
                raise

    @staticmethod
    def _next(ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return the nodes to start: as many as there are workers, and one compilation at most."""
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

    @staticmethod
    def _block(report: Report, events: Events) -> None:
        """End the nodes that need one without a result. They come behind it in the plan."""
        for node in report.plan.nodes:
            if node.id in report.outcomes:
                continue
            bad = next((n for n in node.needs if (o := report.outcomes.get(n)) is not None and o.result is None), None)
            if bad is not None:
                outcome = report.outcomes[node.id] = NodeOutcome(node=node, status="blocked", blocked_by=bad)
                events.ended(outcome)

    def _run(self, node: Node, report: Report, events: Events) -> NodeOutcome:
        start = time.monotonic()
        key = ""
        try:
            results = {need: report.outcomes[need].result for need in node.needs}
            inputs = {need: result for need, result in results.items() if result is not None}
            known = {need: self._stands_for(node, result) for need, result in inputs.items()}
            key, material = self._key(node, known, offline=False)
            waits = partial(events.notice, WAITS.format(node.id))
            with full_disk_errors(self._workspace.out), self._workspace.store.making(node.stage, key, waits):
                start = time.monotonic()
                result = self._stored(node, key, events)
                if result is not None:
                    self._notice_remarks(node, result, events, fresh=False)
                    return NodeOutcome(node=node, status="cached", key=key, result=result)
                events.started(node)
                result = self._make(node, key, inputs, material)
            self._notice_remarks(node, result, events, fresh=True)
        except FullDiskError as error:
            error.where = error.where or node.id
            raise  # it ends the run: nothing else could be written either
        except ForgeError as error:
            return NodeOutcome(node=node, status="failed", key=key, error=error, seconds=time.monotonic() - start)
        finally:
            self._notice_pins(events)
        return NodeOutcome(node=node, status="done", key=key, result=result, seconds=time.monotonic() - start)

    def _notice_remarks(self, node: Node, result: Result, events: Events, *, fresh: bool) -> None:
        for remark in stage_of(node).remarks(result, self._context, fresh=fresh):
            events.notice(remark if stage_of(node).scope == "run" else f"{node.id}: {remark}")

    def _notice_pins(self, events: Events) -> None:
        notices = self._workspace.lock.notices
        while notices:
            try:
                events.notice(notices.pop(0))
            except IndexError:  # another thread took the last one
                return

    def _stored(self, node: Node, key: str, events: Events) -> Result | None:
        """Return the stored result of a node; None if there is none that can be used."""
        result, bad = self._workspace.store.get(node.stage, key)
        if bad:
            events.notice(f"the stored result of {node.id} is bad and is made anew: {bad}")
        if result is None:
            return None
        if lost := self._lost(node, result, engine_answers=lambda: True):
            events.notice(f"the stored result of {node.id} is made anew: {lost}")
            self._workspace.store.drop(node.stage, key)
            return None
        return result

    def _lost(self, node: Node, result: Result, *, engine_answers: Callable[[], bool]) -> str:
        """Return why a stored result cannot be used; "" if it can."""
        unread = self._unreadable(node, result)
        return unread or stage_of(node).lost(result, self._context, engine_answers=engine_answers)

    @staticmethod
    def _unreadable(node: Node, result: Result) -> str:
        """Return why the facts of a result are not those of its stage, as after a change of this program; else ""."""
        try:
            result.read(stage_of(node).facts)
        except HostError as error:
            return error.message
        return ""

    def _make(self, node: Node, key: str, results: Mapping[str, Result], material: Material) -> Result:
        version = self._request.spec.product.version
        inputs = Inputs(node=node, results=results, version=version, pin=material.pin)
        return stage_of(node).make(inputs, self._context, key=key)
