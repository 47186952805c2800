"""One node, in a process of its own on a worker: `python -m pikaforge.farm.node FOLDER`.

FOLDER has `request.json`; `reply.json` is written there. Standard input is the process's life: while the worker wants
the node, a byte comes now and then. Without one, what runs is ended and removed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Literal

from pydantic import BaseModel

from pikaforge.config.limits import Limits
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import EXIT_INTERRUPTED, AnswerError, ForgeError, HostError, StageError, UsageError
from pikaforge.farm import project as projects
from pikaforge.farm.messages import LIMIT, ErrorRecord, LackError, NodeReply, NodeRequest, PinRecord, parse
from pikaforge.farm.project import UnpackedProject
from pikaforge.farm.tool import tool_digest
from pikaforge.host import hashing, interrupts, lifeline
from pikaforge.host.connection import address
from pikaforge.host.docker import DockerEngine
from pikaforge.host.download import Downloads
from pikaforge.host.durable import write_atomically
from pikaforge.host.job import Engine
from pikaforge.host.leftovers import temporary_folder
from pikaforge.host.lockfile import NAME as LOCK
from pikaforge.host.lockfile import Lock
from pikaforge.host.shared_store import SharedStore
from pikaforge.host.store import Result, Store
from pikaforge.host.workspace import HOME, Workspace
from pikaforge.pipeline import shared
from pikaforge.pipeline.outcomes import Events, NodeOutcome
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.scheduler import Runner
from pikaforge.pipeline.source import origin
from pikaforge.pipeline.stage import Request
from pikaforge.plan.plan import Node, Plan, expand
from pikaforge.plan.selectors import Selection, select
from pikaforge.sharing.opening import URL, opened

REQUEST, REPLY = "request.json", "reply.json"
OUT = "PIKAFORGE_FARM_OUT"
"""Names the folder of results, downloads and logs of a worker. Workers with one engine may share it."""


class Notices(Events):
    """Keeps what a user should read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        """Keep a text, but for those about pins: the client has its own about these."""
        if not text.startswith(f"{LOCK}: "):
            self.texts.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmWorker:
    """Where nodes are made."""

    engine: Engine
    out: Path
    shared: SharedStore
    home: Path = HOME
    name: str = ""


def reply_to(text: str, worker: FarmWorker, said: list[str]) -> NodeReply:
    """Make the node of a request.

    Args:
        text: the request.
        worker: where it is made.
        said: what the shared store has to say.

    Raises:
        KeyboardInterrupt: nobody wants it any more; what ran is removed.
    """
    node = key = ""
    outcome: NodeOutcome | None
    failed: ForgeError | None
    notices = Notices()
    start = time.monotonic()
    try:
        request = parse(NodeRequest, text, of="the client")
        node, key = request.node, request.key
        if request.tool != tool_digest(worker.home):
            raise AnswerError(
                f"the worker {worker.name} has another version of this tool than the client",
                hint="give all machines of the farm the same commit of it, and restart their workers",
            )
        with temporary_folder("node") as scratch:
            run = _NodeRun.prepare(request, worker, scratch, notices)
            outcome = run.outcome()
            pins, failed = run.pins(), outcome.error
    except ForgeError as error:
        outcome, pins, failed = None, (), error
    return NodeReply(
        node=node,
        key=key if outcome is None else outcome.key,
        status="failed" if outcome is None or failed is not None else _status(outcome),
        seconds=time.monotonic() - start,
        machine=worker.name,
        error=ErrorRecord.of(failed, machine=worker.name) if failed is not None else None,
        lacks=failed.lacks if isinstance(failed, LackError) else "",
        facts=_facts(failed),
        pins=pins,
        notices=tuple(dict.fromkeys([*notices.texts, *said]))[:1000],
    )


def _status(outcome: NodeOutcome) -> Literal["cached", "done", "failed"]:
    return "cached" if outcome.status == "cached" else "done" if outcome.status == "done" else "failed"


def _facts(error: ForgeError | None) -> str:
    """Return what a failed stage has found out, as JSON; "" if nothing, or more than fits."""
    facts = error.failure.facts if isinstance(error, StageError) else None
    facts = facts or (error.facts if error is not None else None)
    text = facts.model_dump_json() if isinstance(facts, BaseModel) else ""
    return text if len(text) < LIMIT // 2 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeRun:
    """A node that is to be made here."""

    request: NodeRequest
    worker: FarmWorker
    workspace: Workspace
    pipeline: Pipeline
    plan: Plan
    events: Notices
    before: frozenset[tuple[str, str, str, str]]
    """The pins of the client."""

    @classmethod
    def prepare(cls, request: NodeRequest, worker: FarmWorker, scratch: Path, events: Notices) -> _NodeRun:
        """Read the project, and plan the node again, as the client has done."""
        store = Store(worker.out / "store")
        found = store.get(projects.STAGE, request.project)[0]
        found = found or worker.shared.fetch(
            projects.STAGE, request.project, into=store, facts=projects.ProjectFacts, unfit=lambda _result: ""
        )
        if found is None:
            raise LackError(
                f"the worker {worker.name} does not find the project in the shared store",
                lacks=projects.STAGE,
                where=f"{projects.STAGE}/{request.project}",
                hint="client and workers need the same shared store, which both can read and write",
            )
        project = projects.unpack(found, worker.out / "projects")
        workspace = _workspace(project, worker, store, scratch, request.jobs)
        where = origin.parse(
            project.spec.product, project.options.source, base=project.base, cwd=scratch, out=worker.out
        )
        wanted = Request(
            spec=project.spec, origin=where, series=project.series, today=date.fromisoformat(project.options.today)
        )
        return cls(
            request=request,
            worker=worker,
            workspace=workspace,
            pipeline=Pipeline(workspace, wanted),
            plan=_plan(project, request.cell),
            events=events,
            before=frozenset(workspace.lock.all()),
        )

    def outcome(self) -> NodeOutcome:
        """Make what the node needs in this engine, then the node; give the shared store its result."""
        nodes = {node.id: node for node in self.plan.nodes}
        node = nodes.get(self.request.node)
        if node is None or set(node.needs) != self.request.needs.keys():
            raise AnswerError(f"the node {self.request.node} is not what its cell needs: {self.request.cell}")
        with self.pipeline.local_runner(self.events) as runner:
            inputs = {need: self._need(nodes[need], runner) for need in node.needs}
            key = self.pipeline.key_of(node, inputs)
            if key != self.request.key and not node.twin:  # a twin's node has two keys
                raise AnswerError(
                    f"{node.id} has another key on {self.worker.name} than for the client",
                    hint="do both have the same commit of this tool?",
                )
            done = _made(runner, node, inputs)
        # Also one that was here before; and images, of which the client needs the facts.
        again = self.request.again
        if done.result is not None and not self.worker.shared.offer(done.result, replace=again, whole=again):
            raise HostError(
                f"{node.id} is made, but the shared store does not take its result",
                where=f"worker {self.worker.name}",
                hint="workers need a store that they can write",
            )
        return done

    def _need(self, node: Node, runner: Runner) -> Result:
        """Return a result that the node takes. Images are made here, if this engine does not have them."""
        wanted = self.request.needs[node.id]
        store = self.workspace.store
        found = store.get(node.stage, wanted.key)[0] or shared.fetched(node, self.pipeline.context, wanted.key)
        if not node.needs:
            outcome = _made(runner, node, {})
            if outcome.error is not None:
                raise outcome.error
            found = outcome.result
        if found is None:
            raise LackError(
                f"the shared store does not have the result of {node.id}",
                lacks=node.id,
                where=f"{node.stage}/{wanted.key}",
                hint="run this again: what is missing is made anew",
            )
        if found.identity != wanted.identity:
            raise HostError(
                f"{node.id} comes out otherwise on {self.worker.name} than where it was made first",
                hint="the distribution has published other packages meanwhile: remove the image from that engine\n"
                "(invoke images.remove), or take bases from a registry, pinned by digest",
            )
        return found

    def pins(self) -> tuple[PinRecord, ...]:
        """Return the pins that were written here."""
        old = {pin[:3] for pin in self.before}
        new = sorted(set(self.workspace.lock.all()) - self.before)
        return tuple(
            PinRecord(
                section="images" if section == "images" else "sources",
                entry=entry,
                pin=pin,
                value=value,
                replaced=(section, entry, pin) in old,
            )
            for section, entry, pin, value in new
        )


def _made(runner: Runner, node: Node, inputs: Mapping[str, Result]) -> NodeOutcome:
    """Make a node, alone."""
    runner.next([node], [])
    return runner.submit(node, inputs).result()


def _workspace(project: UnpackedProject, worker: FarmWorker, store: Store, scratch: Path, jobs: int) -> Workspace:
    """Return the workspace of a node; its pins are written to a copy of the client's."""
    options, spec = project.options, project.spec
    path = scratch / LOCK
    if (given := project.base / LOCK).is_file():
        write_atomically(path, given.read_bytes())
    lock = Lock(path, strict=options.locked)
    return Workspace(
        base=project.base,
        matrix=project.base / projects.MATRIX,
        out=worker.out,
        dist=scratch / "dist",
        engine=worker.engine,
        store=store,
        lock=lock,
        jobs=jobs or worker.engine.cores(),
        downloads=Downloads(
            worker.out / "downloads", mirrors=spec.mirrors, notice=lock.notices.append, option="--farm"
        ),
        compiler_cache=options.compiler_cache,
        bounds=spec.limits.bounds(),
        shared=worker.shared,
        home=worker.home,
    )


def _plan(project: UnpackedProject, cell: str) -> Plan:
    """Return the plan of one cell, as the client has it."""
    options = project.options
    cells = select(project.spec, Selection(selectors=(cell,)), host_image="")
    machine = Machine(flags=frozenset(), emulates=options.emulates, others=frozenset(options.targets))
    return expand(project.spec, cells, machine=machine, require_run=options.require_run)


def out_folder() -> Path:
    """Return the folder of results of this worker: one for each engine, because images are in the engine.

    Raises:
        HostError: it cannot be made, or is somebody else's.
    """
    given = os.environ.get(OUT, "")
    place = hashing.digest(address())[:8]
    usual = Path.home() / ".cache" / "pikaforge" / "farm" / f"{socket.gethostname()}-{place}"
    folder = Path(given) if given else usual
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"cannot make the folder of a worker, {folder}: {error.strerror}", hint=f"{OUT} names another one"
        ) from error
    return folder


def shared_store(notice: Callable[[str], None]) -> SharedStore:
    """Return the shared store of this worker: that of its own environment, whatever a client's project says.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    limit = Limits().bounds().file
    found = opened(None, os.environ, base=Path.cwd(), cwd=Path.cwd(), file_limit=limit, notice=notice)
    if found is None:
        raise UsageError(
            f"the worker on {socket.gethostname()} has no shared store",
            where=URL,
            hint=f"start it with {URL}, and with credentials and keys if the store has them",
        )
    return found


def main(folder: Path) -> int:
    """Answer a request; return the exit status: 0 if there is a reply, 130 if nobody wants it any more."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        interrupts.deliver(KeyboardInterrupt())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupt)
    lifeline.follow(sys.stdin.fileno())
    try:
        engine = DockerEngine()
        notices: list[str] = []
        worker = FarmWorker(
            engine=engine, out=out_folder(), shared=shared_store(notices.append), name=socket.gethostname()
        )
        engine.verify()
        engine.sweep(lambda _text: None)
        reply = reply_to((folder / REQUEST).read_text(encoding="utf-8"), worker, notices)
    except ForgeError as error:
        record = ErrorRecord.of(error, machine=socket.gethostname())
        reply = NodeReply(node="", status="failed", machine=socket.gethostname(), error=record)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    write_atomically(folder / REPLY, reply.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
