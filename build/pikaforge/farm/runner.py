"""The runner whose nodes are made by workers of a Dask cluster."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from pikaforge.errors import AnswerError, ForgeError, HostError, UnreachableError, UsageError
from pikaforge.farm import project as projects
from pikaforge.farm.cluster import Cluster, FarmTask, answer_of
from pikaforge.farm.messages import Need, NodeReply, NodeRequest, parse
from pikaforge.farm.resources import FarmSeen
from pikaforge.farm.tool import tool_digest
from pikaforge.host.hashing import digest
from pikaforge.host.run_id import RunId
from pikaforge.host.shared_store import SharedStore
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import shared as sharing
from pikaforge.pipeline.outcomes import Events, NodeOutcome
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.scheduler import PoolRunner
from pikaforge.pipeline.source.facts import SeriesFacts
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan.plan import Node

THREADS = 8
"""Threads that compute keys, and fetch results."""
WRITABLE = "a farm needs a shared store that client and workers can write"
KEPT = "package"
"""The stage whose files a client needs: it puts them into dist/."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A node that was begun, with what it takes."""

    node: Node
    inputs: Mapping[str, Result]
    key: str


class FarmRunner(PoolRunner):
    """Submits nodes as tasks. See `pipeline.scheduler.Runner`.

    The key of a task is that of the node's result: two clients that need one result share the task.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        workspace: Workspace,
        cluster: Cluster,
        shared: SharedStore,
        events: Events,
        *,
        project: FarmProject,
        seen: FarmSeen,
    ) -> None:
        """Prepare a run.

        Args:
            pipeline: computes keys.
            workspace: has the local store and the pins.
            cluster: makes nodes.
            shared: the shared store.
            events: of the run.
            project: offers the project's files to the shared store.
            seen: the workers at the start.
        """
        self._pipeline = pipeline
        self._workspace = workspace
        self._cluster = cluster
        self._store = shared
        self._project = project
        self._seen = seen
        self._tool = tool_digest(workspace.home)
        super().__init__(events, threads=THREADS, name="farm")
        self._mutex = threading.Lock()
        self._tasks: dict[str, FarmTask] = {}
        """By node id, as long as the run lasts: Dask keeps a reply while somebody has its future."""
        self._nodes: dict[str, Node] = {}
        """Nodes that have not begun, by the key of their task."""
        self._shared: set[tuple[str, str]] = set()
        """Results that the shared store has."""
        self._given: dict[str, _Given] = {}
        """By node id."""
        self._restoring = threading.RLock()
        self._restored: dict[str, bool] = {}
        """Whether a result could be put into the shared store anew, by node id: it is tried once in a run."""
        self._retried: set[tuple[str, str]] = set()
        """Nodes whose tasks were begun again, with what they lacked."""
        self._numbers = itertools.count(1)
        self._stopped = False

    def _end_nodes(self) -> None:
        """Cancel all tasks, and wait for their end."""
        with self._mutex:
            self._stopped = True
            tasks = list(self._tasks.values())
        self._cluster.cancel(tasks)

    def next(self, ready: Iterable[Node], running: Iterable[Node]) -> list[Node]:
        """Return all: the cluster's scheduler decides when a task begins."""
        return list(ready)

    def begun(self, key: str) -> None:
        """Take note that a worker has begun a task."""
        with self._mutex:
            node = self._nodes.pop(key, None)
        if node is not None:
            self._events.started(node)

    def submit(self, node: Node, inputs: Mapping[str, Result]) -> Future[NodeOutcome]:
        """Begin a node: take its stored result, or submit its task."""
        outcome: Future[NodeOutcome] = Future()
        self._pool.submit(self._begin, node, inputs, outcome)
        return outcome

    def _begin(self, node: Node, inputs: Mapping[str, Result], outcome: Future[NodeOutcome]) -> None:
        start, key = time.monotonic(), ""
        try:
            key = self._pipeline.key_of(node, inputs)
            self._given[node.id] = _Given(node=node, inputs=inputs, key=key)
            found = self._stored(node, key)
            if found is not None:
                outcome.set_result(NodeOutcome(node=node, status="cached", key=key, result=found))
                return
            self._share(inputs.values())
            task = self._task(node, self._name(node, key), self._request(node, key, inputs))
            task.add_done_callback(lambda done: self._later(node, done, outcome))
        except ForgeError as error:
            seconds = time.monotonic() - start
            outcome.set_result(NodeOutcome(node=node, status="failed", key=key, error=error, seconds=seconds))
        except BaseException as error:  # noqa: BLE001  # the scheduler's thread raises it
            outcome.set_exception(error)

    def _name(self, node: Node, key: str) -> str:
        """Return the key of a task: that of its result, and of the tool, since workers refuse another one."""
        return f"{node.stage}-{key}-{self._tool[:8]}"

    def _task(self, node: Node, name: str, text: str) -> FarmTask:
        """Submit the task of a node."""
        with self._mutex:
            if self._stopped:
                raise HostError("interrupted")
            self._nodes[name] = node
            needs = [self._tasks[need] for need in node.needs if need in self._tasks]
            self._tasks[node.id] = self._cluster.submit(
                text, needs, key=name, asks=self._asks(node), priority=int(stage_of(node).demand.elastic)
            )
            return self._tasks[node.id]

    def _share(self, results: Iterable[Result]) -> None:
        """Give the shared store what a task takes, if only this machine has it.

        Raises:
            HostError: the shared store does not take it.
        """
        for result in results:
            if (result.stage, result.key) in self._shared:
                continue
            here = all(path.is_file() for path in result.files.values())
            if here and not self._store.offer(result, replace=False):
                raise HostError(
                    "the shared store does not take a result of this machine",
                    where=f"{result.stage}/{result.key}",
                    hint=WRITABLE,
                )
            self._shared.add((result.stage, result.key))

    def _asks(self, node: Node) -> dict[str, float]:
        """Return the resources that a node asks for. The code of a tree is run by a smoke test only."""
        runs = node.subject.target if node.stage == "smoke" and node.subject is not None and not node.twin else ""
        return self._seen.asked(stage_of(node).demand, jobs=self._workspace.jobs, target=runs)

    def _request(self, node: Node, key: str, inputs: Mapping[str, Result], *, again: bool = False) -> str:
        origin = self._pipeline.context.request.origin
        if node.stage == "source" and origin.local and not origin.sample:
            raise UsageError(
                f"{origin.spec} is on this machine, and the workers of a farm do not see it",
                where="--source",
                hint="push it to a repository that they reach, and name that",
            )
        return NodeRequest(
            tool=self._tool,
            project=self._project.offered(),
            cell=node.cells[0].id,
            node=node.id,
            key=key,
            needs={need: Need(key=result.key, identity=result.identity) for need, result in inputs.items()},
            jobs=self._workspace.jobs,
            again=again,
        ).model_dump_json()

    def _stored(self, node: Node, key: str) -> Result | None:
        """Return a result that is stored here or in the shared store. Files come along only where they are needed."""
        workspace, context, stage = self._workspace, self._pipeline.context, stage_of(node)
        found, _ = workspace.store.get(node.stage, key)
        if found is None and node.stage == KEPT:
            found = sharing.fetched(node, context, key)
        elif found is None:
            into = workspace.out / "records" / node.stage / key
            found = self._store.record(node.stage, key, facts=stage.facts, into=into)
        try:
            return None if found is None or stage.lost(found, context, engine_answers=lambda: True) else found
        except HostError:  # its facts are those of another version
            return None

    def _later(self, node: Node, done: FarmTask, outcome: Future[NodeOutcome]) -> None:
        """Take the reply of a task in a thread of the pool; this one is Dask's."""
        try:
            self._pool.submit(self._take, node, done, outcome)
        except RuntimeError:  # the run has ended
            outcome.cancel()

    def _take(self, node: Node, done: FarmTask, outcome: Future[NodeOutcome]) -> None:
        try:
            outcome.set_result(self._outcome(node, done))
        except BaseException as error:  # noqa: BLE001  # the scheduler's thread raises it
            outcome.set_exception(error)

    def _outcome(self, node: Node, done: FarmTask) -> NodeOutcome:
        """Return the outcome that a task's reply says.

        Raises:
            UnreachableError: the scheduler is gone: the run ends.
        """
        try:
            reply = self._reply(node, done)
        except UnreachableError:
            raise
        except ForgeError as error:
            return NodeOutcome(node=node, status="failed", error=error)
        try:
            result = self._result(node, reply)
        except ForgeError as error:
            return NodeOutcome(node=node, status="failed", key=reply.key, error=error, seconds=reply.seconds)
        if reply.status == "done":
            for remark in stage_of(node).remarks(result, self._pipeline.context, fresh=True):
                self._events.notice(f"{node.id}: {remark}")
        status: Literal["cached", "done"] = "cached" if reply.status == "cached" else "done"
        return NodeOutcome(node=node, status=status, key=reply.key, result=result, seconds=reply.seconds)

    def _reply(self, node: Node, done: FarmTask) -> NodeReply:
        """Return the reply of a task. What it lacks is put into the shared store anew, if that can be done.

        Raises:
            UnreachableError: the scheduler is gone.
            ForgeError: there is none.
        """
        while True:
            reply = parse(NodeReply, answer_of(done), of=f"the worker of {node.id}")
            for notice in reply.notices:
                self._events.notice(notice)
            if not reply.lacks or not self._restore(node, reply.lacks):
                return reply
            done = self._anew(node.id, again=False)

    def _result(self, node: Node, reply: NodeReply) -> Result:
        """Return the result that a reply says.

        Raises:
            ForgeError: it is a failure, or is not of the node, or the shared store does not have the result.
        """
        if reply.error is not None:
            raise reply.error.error(_facts(node, reply.facts))
        given = self._given[node.id]
        if reply.node != node.id or reply.status == "failed":
            raise AnswerError(f"the worker of {node.id} has made another node")
        if reply.key not in {given.key, *self._pipeline.keys_of(node, given.inputs)}:
            raise AnswerError(f"the worker of {node.id} has made it under another key than that of what was asked for")
        if reply.status != "cached":
            self.begun(self._name(node, given.key))  # if its event was lost
        self._pin(reply)
        result = self._stored(node, reply.key)
        if result is None and self._restore_own(node.id):
            result = self._stored(node, reply.key)
        if result is None:
            raise HostError(
                f"{node.id} is made, but this machine cannot take its result from the shared store",
                where=f"{node.stage}/{reply.key}",
                hint="client and workers need the same shared store; are the keys of workers trusted here?",
            )
        return result

    # ---- what the shared store has lost, or has damaged

    def _restore(self, node: Node, lacks: str) -> bool:
        """Put into the shared store anew what a task lacks; return whether to begin the task again."""
        with self._restoring:
            if (node.id, lacks) in self._retried:
                return False
            self._retried.add((node.id, lacks))
            if lacks not in self._restored:
                self._restored[lacks] = self._put_anew(node, lacks)
            return self._restored[lacks]

    def _restore_own(self, name: str) -> bool:
        """Let a worker put a result there anew that this machine cannot take: once in a run."""
        with self._restoring:
            if name not in self._restored:
                self._restored[name] = self._make_anew(name)
            return self._restored[name]

    def _put_anew(self, node: Node, lacks: str) -> bool:
        """Put what a node takes into the shared store, whatever is there: what this machine has, or a worker makes."""
        if lacks == projects.STAGE:
            return bool(self._project.offered(again=True))
        found = self._given[node.id].inputs.get(lacks)
        if found is None:
            return False
        held, _ = self._workspace.store.get(found.stage, found.key)
        self._events.notice(f"the shared store does not have {found.stage}/{found.key} whole: it is put there anew")
        return self._store.offer(held, whole=True) if held is not None else self._make_anew(lacks)

    def _make_anew(self, name: str) -> bool:
        """Let a worker put the result of a node into the shared store, whatever is there; return whether it has."""
        return name in self._given and self._reply(self._given[name].node, self._anew(name)).error is None

    def _anew(self, name: str, *, again: bool = True) -> FarmTask:
        """Submit the task of a node once more, under a key of its own: a cluster keeps what it has under one."""
        given = self._given[name]
        return self._task(
            given.node,
            f"{self._name(given.node, given.key)}-{RunId.current().text}-{next(self._numbers)}",
            self._request(given.node, given.key, given.inputs, again=again),
        )

    def _pin(self, reply: NodeReply) -> None:
        """Write the pins of a worker.

        Raises:
            PinError: there is another one.
        """
        lock = self._workspace.lock
        for pin in reply.pins:
            if lock.pins(pin.section, pin.entry).get(pin.pin) == pin.value:
                continue
            if pin.replaced and not lock.strict:
                lock.replace(pin.section, pin.entry, pin.pin, pin.value)
            else:
                lock.check(pin.section, pin.entry, pin.pin, pin.value)
        while lock.notices:
            self._events.notice(lock.notices.pop(0))


def _facts(node: Node, text: str) -> object:
    """Return what a failed stage has found out; None if nothing of a form that is known."""
    for model in (stage_of(node).facts, SeriesFacts) if text else ():
        try:
            return model.model_validate_json(text)
        except ValidationError:
            continue
    return None


class FarmProject:
    """The project of a run, in the shared store: again whenever its pins have changed."""

    def __init__(self, text: Callable[[], str], workspace: Workspace, shared: SharedStore) -> None:
        self._text = text
        self._workspace = workspace
        self._store = shared
        self._mutex = threading.Lock()
        self._offered = ""

    def offered(self, *, again: bool = False) -> str:
        """Return the key of the project as it is now. The shared store has it; `again`: it does not have it whole.

        Raises:
            HostError: the shared store does not take it.
        """
        with self._mutex:
            text = self._text()
            if (key := digest(text)[:32]) == self._offered and not again:
                return key
            result = projects.store(text, self._workspace.store)
            if not self._store.offer(result, whole=again):
                raise HostError(
                    "the shared store does not take the project's files",
                    where="store",
                    hint=WRITABLE,
                )
            self._offered = result.key
            return result.key
