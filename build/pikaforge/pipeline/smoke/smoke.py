"""The smoke stage: the tree in the clean runtime image does what it should, asked over real connections from outside.

Up to twice: on this machine's CPU, if that has all that the target has, and under emulation of the target. What was
not made says why, and never counts as passed. Where neither is possible, the plan names a twin (`twins`), whose verdict
is adopted and says so; without one the stage fails, because a package that was never started must not be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pikaforge.config.schema import Spec
from pikaforge.config.smoke_checks import Check
from pikaforge.cpu import emulation
from pikaforge.cpu.emulation import EmulatedCpu
from pikaforge.errors import StageError, StageFailure
from pikaforge.host import hashing, process
from pikaforge.host.job import Input, files
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.smoke.expectations import CheckOutcome
from pikaforge.pipeline.smoke.resp import Connection
from pikaforge.pipeline.smoke.runner import Session
from pikaforge.pipeline.smoke.server import ServerPlace, describe_end, log_tail, read_conf, settle
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import EMULATOR_NODE, Node
from pikaforge.plan.stages import Needs, Scope, Slot

__all__ = ["describe_end", "host_emulator", "make", "material", "remarks", "settle"]

STAGE_NAME = "smoke"
EMULATOR = "qemu-x86_64"
"""The emulator's file, in the result of the emulator's image and beside the tree."""
EMULATORS = ("qemu-x86_64-static", EMULATOR)
"""What it is called on machines that have it, for the host engine."""
TAIL = 60
"""Lines of logs in an error, those of a check's own servers included."""
FORMAT = 5


def material(spec: Spec, target: str = "", *, allocator: str = "none", emulator: str = "") -> dict[str, Any]:
    """Key material: how the server is started, the checks, the emulated CPU, and this module's own version.

    The CPU of this machine is not among it: it decides how the tree is tested, which the facts tell, and not whether
    the tree is good.

    Args:
        spec: the specification.
        target: of the tree.
        allocator: kind of the tree's allocator.
        emulator: digest of the emulator, where it is no result of another node.
    """
    return {
        "format": FORMAT,
        "server": spec.product.server.model_dump(mode="json"),
        "allocator": allocator,
        "checks": [
            check.model_dump(mode="json", exclude_unset=True) for check in spec.product.smoke if check.serves(allocator)
        ],
        "emulation": [asdict(emulation.stand_for(target)) if target else {}, emulator],
    }


def host_emulator() -> Path | None:
    """The emulator that this machine has, for the host engine."""
    found = next((path for name in EMULATORS if (path := process.find(name))), None)
    return Path(found) if found is not None else None


def make(
    workspace: Workspace,
    spec: Spec,
    cell: Cell,
    compiled: Result,
    image: Result,
    *,
    key: str,
    emulator: Result | None = None,
) -> Result:
    """Run the stage.

    Its facts: `target`, and `tried`, the target that was run, which is the same; `native` and `emulated`, each with
    `ran`, the `reason` if not, and its `checks`; what the server holds at `rest` in the former, the `cpu` in the
    latter; and `checks`, those that passed natively (under emulation, if that is all there is), for the package's
    manifest.

    Raises:
        StageError: a required check failed, the server died, or nothing can be tried here. The exchange and the
            logs' last lines are in it.
    """
    stage = _Stage(workspace, spec, cell, compiled, str(image.facts["runtime"]))
    checks = [check for check in spec.product.smoke if check.serves(stage.allocator)]
    native = _Way(reason=stage.missing())
    emulated, program, inputs = stage.emulated(emulator)
    if native.reason and emulated.reason:
        raise StageError(
            f"{cell.target} cannot be tested here: not natively, {native.reason}; not emulated, {emulated.reason}",
            StageFailure(stage=STAGE_NAME, label=cell.group),
            hint="build on a machine whose CPUs have all of it, or reach one with DOCKER_HOST",
        )
    try:
        if not native.reason:
            stage.make(native, checks)
        if not emulated.reason:
            chosen = tuple(check for check in checks if check.runs_emulated)
            stage.make(emulated, chosen, program=program, inputs=inputs)
    except StageError as error:
        if not emulated.ran and not emulated.reason:
            emulated.reason = "the native run has failed"
        raise error.with_facts(_facts(native, emulated)) from None
    counted = [o for o in (native if native.ran else emulated).outcomes if o.passed]
    facts = {"checks": [asdict(outcome) for outcome in counted], **_facts(native, emulated)}
    return _put(workspace, key, {**facts, "target": cell.target, "tried": cell.target})


def adopt(workspace: Workspace, cell: Cell, twin: Result, *, key: str) -> Result:
    """Take the verdict on a twin's tree for a target that cannot be run; its facts say which target was tried."""
    return _put(workspace, key, {**twin.facts, "target": cell.target, "tried": twin.facts["tried"]})


def _put(workspace: Workspace, key: str, facts: Mapping[str, Any]) -> Result:
    """Store a verdict. Its identity is what packages tell: the target that was tried, and the checks that it passed."""
    told = [facts["tried"], *(check["name"] for check in facts["checks"])]
    return workspace.store.put(STAGE_NAME, key, identity=hashing.digest(" ".join(told)), facts=facts, files={})


def _facts(native: _Way, emulated: _Way) -> dict[str, Any]:
    return {
        "native": {**native.facts(), "rest": native.rest},
        "emulated": {**emulated.facts(), "cpu": emulated.cpu},
    }


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What a person should hear of a stage that passed: what was not tried, and advice that was not followed."""
    if told := twins.sentence(facts.get("target", ""), facts.get("tried", "")):
        return [told]  # the twin's own node has said the rest
    said = []
    for name, word in (("native", "natively"), ("emulated", "emulated")):
        way = facts.get(name, {})
        if not way.get("ran", True):
            said.append(f"not run {word}: {way['reason']}" if name == "native" else f"not emulated: {way['reason']}")
        for check in way.get("checks", ()):
            if check["skipped"]:
                said.append(f"check {check['name']} was skipped {word}: {check['skipped']}")
            elif not check["passed"]:
                said.append(f"check {check['name']} failed {word}, which is only advice: {check['detail']}")
    return said


@dataclass(slots=True, kw_only=True)
class _Way:
    """One of the two ways to run the server, and what came of it."""

    reason: str = ""
    """Why it is not gone."""
    cpu: str = ""
    """The emulated CPU; empty natively."""
    ran: bool = False
    problem: str = ""
    """Why it is refused; empty if it passed."""
    outcomes: list[CheckOutcome] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {
            "ran": self.ran,
            "reason": self.reason,
            "problem": self.problem,
            "checks": [asdict(outcome) for outcome in self.outcomes],
        }


class _Stage:
    """The inputs of the stage, and its errors."""

    def __init__(self, workspace: Workspace, spec: Spec, cell: Cell, compiled: Result, image: str) -> None:
        self._workshop = workspace
        self._server = spec.product.server
        self._cell = cell
        self.allocator = spec.allocators[cell.allocator].kind
        self._image = image
        self._tree = compiled.files["tree.tar"]

    def missing(self) -> str:
        """Why the tree cannot run on the engine's machine; empty if it can."""
        flags = self._workshop.engine.cpu_flags(self._image)
        lacking = emulation.lacking(self._cell.target, flags)
        return f"this machine lacks {', '.join(lacking)}" if lacking else ""

    def emulated(self, emulator: Result | None) -> tuple[_Way, tuple[str, ...], tuple[Input, ...]]:
        """The emulated way, the emulator's command, and what it needs beside the tree."""
        stand: EmulatedCpu = emulation.stand_for(self._cell.target)
        if stand.reason:
            return _Way(reason=stand.reason), (), ()
        if self._workshop.engine.kind == "host":
            path = host_emulator()
            if path is None:
                return (
                    _Way(reason=f"this machine has no {EMULATORS[0]} (package qemu-user-static or qemu-user)"),
                    (),
                    (),
                )
            return _Way(cpu=stand.cpu), (str(path), "-cpu", stand.cpu), ()
        if emulator is None:
            return _Way(reason="defaults.emulator names no image to take one from"), (), ()
        archive = files({EMULATOR: emulator.files[EMULATOR]}, executable=[EMULATOR])
        program = (f"emulator/{EMULATOR}", "-cpu", stand.cpu)
        return _Way(cpu=stand.cpu), program, (Input(folder="emulator", archive=archive),)

    def make(
        self, way: _Way, checks: Sequence[Check], *, program: tuple[str, ...] = (), inputs: tuple[Input, ...] = ()
    ) -> None:
        """Make the checks; a failure that counts is raised."""
        stem = f"{STAGE_NAME}-emulated" if way.cpu else STAGE_NAME
        place = ServerPlace(
            engine=self._workshop.engine,
            server=self._server,
            image=self._image,
            stem=stem,
            group=self._cell.group,
            tree=Input(folder="tree", archive=self._tree),
            conf=read_conf(self._tree, self._server.conf.path),
            log_path=self._workshop.log_path(self._cell.group, stem),
            connect=_connect,
            emulator=program,
            inputs=inputs,
            allocator=self.allocator,
        )
        session = Session(self._workshop, place, checks)
        problem, status = session.run()
        way.outcomes, way.rest, way.ran = session.outcomes, session.rest, True
        failed = [outcome for outcome in way.outcomes if outcome.failed and outcome.required]
        if not problem and failed:
            made = sum(not outcome.skipped for outcome in way.outcomes)
            problem = f"{len(failed)} of {made} smoke checks failed: {', '.join(o.name for o in failed)}"
        way.problem = problem
        if problem:
            raise self._error(way, problem, failed, status, session)

    def _error(
        self, way: _Way, problem: str, failed: Sequence[CheckOutcome], status: int | None, session: Session
    ) -> StageError:
        tail = [] if failed and {o.name for o in failed} <= session.own else list(log_tail(session.place.log_path))
        tail += session.tails
        hint = ""
        if way.cpu:
            problem = f"under emulation of {way.cpu}: {problem}"
            if "SIGILL" in problem or any("SIGILL" in outcome.detail for outcome in failed):
                hint = f"it holds an instruction that {self._cell.target} lacks: the audit names it and its function"
        return StageError(
            problem,
            StageFailure(
                stage=STAGE_NAME,
                label=self._cell.group,
                status=status,
                log=str(session.place.log_path),
                tail=tuple(tail[-TAIL:]),
                findings=tuple(f"check {o.name}: {o.detail}" for o in failed),
            ),
            hint=hint,
        )


def _connect(host: str, port: int, *, timeout: float = 10.0) -> Connection:
    return Connection(host, port, timeout=timeout)


class SmokeStage(BaseStage):
    """The checks of a server that runs, on the target's CPU or on that of a twin."""

    name = STAGE_NAME
    scope: Scope = "group"
    adopts = True

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs tree, image and emulator."""
        return Needs(ids=(f"compile:{slot.label}", slot.image, *slot.emulator))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return checks, CPU and, with the host engine, the emulator, which is a node's result otherwise."""
        path = host_emulator() if run.workspace.engine.kind == "host" else None
        emulator = hashing.file_digest(path) if path is not None else ""
        kind = run.spec.allocators[node.cell.allocator].kind
        return Material(facts=material(run.spec, node.cell.target, allocator=kind, emulator=emulator))

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Run the checks, or take the verdict on the twin."""
        node = inputs.node
        if node.twin:
            return adopt(run.workspace, node.cell, inputs.results[node.twin], key=key)
        emulator = inputs.results.get(EMULATOR_NODE)
        return make(run.workspace, run.spec, node.cell, inputs.of("compile"), inputs.image, key=key, emulator=emulator)

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return what was not run; once, when it was tried."""
        return remarks(result.facts) if fresh else ()


STAGE = SmokeStage()
