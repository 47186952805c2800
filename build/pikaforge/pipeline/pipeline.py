"""Running of plans: keys of nodes, results that are stored, and nodes that are made, in parallel."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pikaforge.errors import ForgeError, FullDiskError, HostError
from pikaforge.host import hashing, process, watch
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.store import Result
from pikaforge.host.store_uses import keys
from pikaforge.host.workspace import UsedMemory, Workspace
from pikaforge.pipeline import shared
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.outcomes import Events, NodeOutcome, Report, View
from pikaforge.pipeline.scheduler import LocalRunner, Runner, Scheduler, demand_of
from pikaforge.pipeline.source import source
from pikaforge.pipeline.stage import Inputs, Material, Request, RunContext, stage_of
from pikaforge.plan.budget import BESIDE, Budget, Demand, Share
from pikaforge.plan.plan import TOOLS_NODE, Node, Plan, common_part

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11 on

WAITS = "{} waits for another run, which makes the same"


def budget_of(workspace: Workspace) -> Budget:
    """Return what the nodes of a run may use together."""
    return Budget(cores=max(1, workspace.jobs), memory=workspace.memory, each=workspace.bounds.memory, beside=BESIDE)


class Pipeline:
    """Runs the plans of a request in a workspace."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self._workspace = workspace
        self._request = request
        self._context = RunContext.of(workspace, request)
        self._viewed: dict[str, tuple[str, Mapping[str, str]]] = {}
        """Of nodes whose results were stored when `views` was called: the key, and what stood for their needs then."""

    @property
    def context(self) -> RunContext:
        """What the stages have in common."""
        return self._context

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
            store = self._workspace.store
            own, _ = store.verified(node.stage, key) if offline else store.get(node.stage, key)
            if own is None and not offline:
                own = shared.fetched(node, self._context, key)
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
        with hashing.looking_once():
            return list(self._views(plan, engine_answers))

    def _views(self, plan: Plan, engine_answers: Callable[[], bool]) -> Iterator[View]:
        store, stored = self._workspace.store, dict[str, frozenset[str]]()
        results: dict[str, Result] = {}
        made: dict[str, str] = {}
        missing: set[str] = set()
        standing: dict[tuple[str, bool], str] = {}  # hundreds of packages ask for the same

        def stands_for(need: str, node: Node) -> str:
            if need not in results:
                return made[need]
            place = (need, results[need].stage in stage_of(node).reads)
            if place not in standing:
                standing[place] = self._stands_for(node, results[need])
            return standing[place]

        for node in plan.nodes:
            known = {need: stands_for(need, node) for need in node.needs}
            key, material = self._key(node, known, offline=True)
            if node.stage not in stored:  # to look at thousands of entries that are not there takes longer
                stored[node.stage] = keys(store.root / node.stage)
            result = store.peek(node.stage, key) if key in stored[node.stage] else None
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
                if not node.twin:
                    self._viewed[node.id] = key, known
            yield View(node=node, key=key, cached=result is not None, why=why)

    # ---- running

    def key_of(self, node: Node, inputs: Mapping[str, Result]) -> str:
        """Return a node's key, once all results that it takes are there. What is not pinned is looked up.

        Raises:
            ForgeError: that cannot be done.
        """
        known = {need: self._stands_for(node, result) for need, result in inputs.items()}
        return self._key(node, known, offline=False)[0]

    def keys_of(self, node: Node, inputs: Mapping[str, Result]) -> frozenset[str]:
        """Return the keys under which a node's result may be: a node with a twin has two, whatever is stored now.

        Raises:
            ForgeError: as `key_of`.
        """
        known = {need: self._stands_for(node, result) for need, result in inputs.items()}
        material = {**self._material(node, offline=False).facts, "engine": self._workspace.engine.kind}
        own = {need: known[need] for need in node.needs if need != node.twin}
        all_needs = {need: known[need] for need in node.needs}
        return frozenset(hashing.key(node.stage, material, needs) for needs in (own, all_needs))

    def local_runner(self, events: Events, demand: Callable[[Node], Demand] = demand_of) -> LocalRunner:
        """Return what makes nodes in threads of this process; `demand` says what each needs."""
        shop = self._workspace
        return LocalRunner(self._run_in, self._abort, events, budget_of(shop), demand, settle=shop.engine.settle)

    def execute(
        self,
        plan: Plan,
        events: Events,
        *,
        runner: Runner | None = None,
        seconds: Mapping[str, float] | None = None,
        demand: Callable[[Node], Demand] = demand_of,
    ) -> Report:
        """Run every node whose result is not there; a failure stops only what depends on it.

        Args:
            plan: the plan.
            events: take what happens.
            runner: what makes nodes; without one, this process.
            seconds: how long nodes are expected to take, by id; see `Scheduler`.
            demand: says what a node needs of this machine.

        Raises:
            KeyboardInterrupt: after everything that ran was ended and removed.
            FullDiskError: likewise.
            ValueError: a node needs one that is not in the plan, or itself.
        """
        with runner or self.local_runner(events, demand) as at_work:
            return Scheduler(plan, at_work, events, seconds).execute()

    def _abort(self) -> None:
        """End everything that nodes have started."""
        self._workspace.engine.abort()
        self._workspace.downloads.abort()
        process.end_all()

    def _with_jobs(self, jobs: int) -> Self:
        """Return this pipeline with another number of processes that a node may start."""
        pipeline = copy(self)
        pipeline._workspace = replace(self._workspace, jobs=jobs, used=UsedMemory())
        pipeline._context = replace(self._context, workspace=pipeline._workspace)
        return pipeline

    def _run_in(self, node: Node, inputs: Mapping[str, Result], events: Events, share: Share) -> NodeOutcome:
        """Make a node, or take its stored result, in its share of the budget."""
        own = self._with_jobs(share.jobs)
        outcome = own._run(node, inputs, events)
        used = own._workspace.used
        return replace(outcome, jobs=share.jobs, memory=used.bytes, out_of_memory=used.out)

    def _run(self, node: Node, inputs: Mapping[str, Result], events: Events) -> NodeOutcome:
        start = time.monotonic()
        key = ""
        try:
            known = {need: self._stands_for(node, result) for need, result in inputs.items()}
            if (found := self._as_viewed(node, known, events)) is not None:
                return found
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

    def _as_viewed(self, node: Node, known: Mapping[str, str], events: Events) -> NodeOutcome | None:
        """Return the outcome with the result that `views` has found stored; None if it cannot be taken any more.

        The key is the one of then, if what the node needs is what it was.
        """
        key, needs = self._viewed.pop(node.id, ("", {}))
        if not key or needs != known:
            return None
        result, _ = self._workspace.store.get(node.stage, key)
        if result is None or self._lost(node, result, engine_answers=lambda: True):
            return None  # it is made anew, and that is said there
        self._notice_remarks(node, result, events, fresh=False)
        return NodeOutcome(node=node, status="cached", key=key, result=result)

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
        if result is not None and self._is_kept(node, result, events):
            return result
        result = shared.fetched(node, self._context, key)
        return result if result is not None and self._is_kept(node, result, events) else None

    def _is_kept(self, node: Node, result: Result, events: Events) -> bool:
        """Return whether a stored result can be used; if not, remove it."""
        lost = self._lost(node, result, engine_answers=lambda: True)
        if lost:
            events.notice(f"the stored result of {node.id} is made anew: {lost}")
            self._workspace.store.drop(node.stage, result.key)
        return not lost

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
        result = stage_of(node).make(inputs, self._context, key=key)
        shared.offered(node, self._context, result)
        return result
