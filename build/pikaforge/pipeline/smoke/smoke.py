"""The smoke stage: servers or tools of the tree run in the clean runtime image; servers are asked over connections.

They run natively, if this machine's CPU has all features of the target, and under emulation of the target. A check that
was not made says why, and never counts as passed. If neither is possible, the plan names a twin (`plan.twins`), whose
result is taken, and says so. Without a twin the stage fails, because a package that never ran must not be published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.config.product import Product
from pikaforge.config.scalars import plain
from pikaforge.config.schema import Spec
from pikaforge.config.smoke_checks import Check
from pikaforge.cpu import emulation
from pikaforge.errors import StageError, StageFailure
from pikaforge.host import hashing, process
from pikaforge.host.job import Input, files
from pikaforge.host.memo import for_last
from pikaforge.host.store import Result
from pikaforge.host.text import clean
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.smoke.record import CheckRecord, SmokeFacts, WayRecord
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import twins
from pikaforge.plan.budget import Demand
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import EMULATOR_NODE, Node
from pikaforge.plan.stages import Needs, Scope, Slot

if TYPE_CHECKING:
    from pikaforge.pipeline.smoke.resp import Connection
    from pikaforge.pipeline.smoke.runner import SmokeRunner
    from pikaforge.pipeline.smoke.server import TreePlace

STAGE_NAME = "smoke"
EMULATOR = "qemu-x86_64"
"""The emulator's file in the result of its image, and beside the tree."""
EMULATORS = ("qemu-x86_64-static", EMULATOR)
"""Its names on machines that have it, for the host engine."""
TAIL = 60
"""Lines of logs in an error, with those of multi-server checks."""
FORMAT = 7


def material(spec: Spec, target: str = "", *, allocator: str = "none", emulator: str = "") -> dict[str, object]:
    """Return the key material: how the server is started, the checks, the emulated CPU, and the version of this module.

    The CPU of this machine is not among it. It decides how the tree is tried, and not whether the tree is good.

    Args:
        spec: the specification.
        target: the target of the tree.
        allocator: the kind of the tree's allocator.
        emulator: the digest of the emulator, if it is no result of another node.
    """
    return {
        "format": FORMAT,
        "server": _server(spec.product),
        "allocator": allocator,
        "checks": _checks(spec.product)(allocator),
        "emulation": [_stand_in(target), emulator],
    }


@cache
def _stand_in(target: str) -> hashing.Encoded:
    """Return how a target's CPU is emulated."""
    return hashing.Encoded(asdict(emulation.stand_for(target)) if target else {})


@for_last
def _server(product: Product) -> hashing.Encoded:
    """Return how the server is started, which all trees have in common."""
    return hashing.Encoded(plain(product.server))


@for_last
def _checks(product: Product) -> Callable[[str], hashing.Encoded]:
    """Return what returns the checks of trees with a kind of allocator."""
    data = [(check, plain(check, only_given=True)) for check in product.smoke]

    @cache
    def of(kind: str) -> hashing.Encoded:
        return hashing.Encoded([each for check, each in data if check.serves(kind)])

    return of


def host_emulator() -> Path | None:
    """Return the path of this machine's emulator, for the host engine; None if it has none."""
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
    """Run the checks natively and under emulation, as far as the machine can; store `SmokeFacts`.

    Args:
        workspace: where servers run.
        spec: the specification.
        cell: what is tried.
        compiled: the result with the tree.
        image: the result of the OS image; servers run in its runtime image.
        key: of the node.
        emulator: the result with the emulator; not for the host engine, which takes the one of this machine.

    Raises:
        StageError: a required check failed, the server died, or nothing can be tried here. The failed exchange and the
            last lines of the logs are in it, and `SmokeFacts` without `tried` and `checks`.
        FullDiskError: a check failed, and the engine's disk is full.
    """
    run = _SmokeRun(workspace, spec, cell, compiled, image.read(ImageStageFacts).runtime)
    native, emulated = run.native_way(), run.emulated_way(emulator)
    if native.reason and emulated.reason:
        raise StageError(
            f"{cell.target} cannot be tested here: not natively, {native.reason}; not emulated, {emulated.reason}",
            StageFailure(stage=STAGE_NAME, label=cell.group),
            hint="build on a machine whose CPUs have all of it, or reach one with DOCKER_HOST",
        )
    checks = [check for check in spec.product.smoke if check.serves(run.allocator)]
    first, error = run.checked(native, checks)
    if error is not None:
        emulated = replace(emulated, reason=emulated.reason or "the native run has failed")
    second, later = run.checked(emulated, [check for check in checks if check.runs_emulated])
    facts = SmokeFacts(target=cell.target, native=first, emulated=second)
    if (failed := error or later) is not None:
        raise failed.with_facts(facts)
    passed = tuple(check for check in (first if first.ran else second).checks if check.passed)
    return _put(workspace, key, facts.model_copy(update={"tried": cell.target, "checks": passed}))


def adopt(workspace: Workspace, cell: Cell, twin: Result, *, key: str) -> Result:
    """Store the facts of a twin for a target that cannot be run; they say which target was tried."""
    return _put(workspace, key, twin.read(SmokeFacts).model_copy(update={"target": cell.target}))


def _put(workspace: Workspace, key: str, facts: SmokeFacts) -> Result:
    """Store facts. The identity is what packages say: the target that was tried, and the checks that it passed."""
    words = [facts.tried, *(check.name for check in facts.checks)]
    return workspace.store.put(STAGE_NAME, key, identity=hashing.digest(" ".join(words)), facts=facts, files={})


def remarks(facts: SmokeFacts) -> list[str]:
    """Return what a person should know of a stage that passed: what was not tried, and advice that failed."""
    if sentence := twins.sentence(facts.target, facts.tried):
        return [sentence]  # the rest is among the remarks on the twin's own node
    found = []
    for way, word, missing in (
        (facts.native, "natively", "not run natively"),
        (facts.emulated, "emulated", "not emulated"),
    ):
        if not way.ran:
            found.append(f"{missing}: {way.reason}")
        for check in way.checks:
            if check.skipped:
                found.append(f"check {check.name} was skipped {word}: {check.skipped}")
            elif not check.passed:
                found.append(f"check {check.name} failed {word}, which is only advice: {check.detail}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One of the two ways to run a server: natively or under emulation."""

    reason: str = ""
    """Why it cannot be taken; empty if it can."""
    cpu: str = ""
    """The emulated CPU; empty natively."""
    program: tuple[str, ...] = ()
    """The emulator and its arguments; the program that it runs comes behind them."""
    inputs: tuple[Input, ...] = ()
    """What the emulator needs beside the tree."""


class _SmokeRun:
    """One run of the stage."""

    def __init__(self, workspace: Workspace, spec: Spec, cell: Cell, compiled: Result, image: str) -> None:
        self._workspace = workspace
        self._server = spec.product.server
        self._cell = cell
        self.allocator = spec.allocators[cell.allocator].kind
        self._image = image
        self._tree = compiled.files["tree.tar"]

    def native_way(self) -> _Way:
        """Return the native way."""
        flags = self._workspace.engine.cpu_flags(self._image)
        lacking = emulation.lacking(self._cell.target, flags)
        return _Way(reason=f"this machine lacks {', '.join(lacking)}" if lacking else "")

    def emulated_way(self, emulator: Result | None) -> _Way:
        """Return the emulated way."""
        stand_in = emulation.stand_for(self._cell.target)
        if stand_in.reason:
            return _Way(reason=stand_in.reason)
        options = ("-cpu", stand_in.cpu)
        if self._workspace.engine.kind == "host":
            path = host_emulator()
            if path is None:
                return _Way(reason=f"this machine has no {EMULATORS[0]} (package qemu-user-static or qemu-user)")
            return _Way(cpu=stand_in.cpu, program=(str(path), *options))
        if emulator is None:
            return _Way(reason="defaults.emulator names no image to take one from")
        archive = files({EMULATOR: emulator.files[EMULATOR]}, executable=[EMULATOR])
        return _Way(
            cpu=stand_in.cpu,
            program=(f"emulator/{EMULATOR}", *options),
            inputs=(Input(folder="emulator", archive=archive),),
        )

    def checked(self, way: _Way, checks: Sequence[Check]) -> tuple[WayRecord, StageError | None]:
        """Make the checks in one way, if it can be taken; return the record, and the error if they fail the stage."""
        if way.reason:
            return WayRecord(ran=False, reason=way.reason, cpu=way.cpu), None
        from pikaforge.pipeline.smoke.runner import SmokeRunner  # noqa: PLC0415  # keys need none of it

        runner = SmokeRunner(self._workspace, self._place(way), checks)
        problem, status = runner.run()
        failed = [check for check in runner.records if check.failed and check.required]
        if problem or failed:
            self._workspace.engine.refuse_full()  # which is not the product's fault
        if not problem and failed:
            made = sum(not check.skipped for check in runner.records)
            problem = f"{len(failed)} of {made} smoke checks failed: {', '.join(check.name for check in failed)}"
        record = WayRecord(
            ran=True,
            problem=problem,
            cpu=way.cpu,
            machine="" if way.cpu else clean(self._workspace.engine.cpu_model(self._image)),
            checks=tuple(runner.records),
            rest=dict(runner.at_rest),
        )
        return record, self._error(record, failed, status, runner) if problem else None

    def _place(self, way: _Way) -> TreePlace:
        from pikaforge.pipeline.smoke.server import TreePlace, read_conf  # noqa: PLC0415

        stem = f"{STAGE_NAME}-emulated" if way.cpu else STAGE_NAME
        place = TreePlace(
            engine=self._workspace.engine,
            image=self._image,
            stem=stem,
            group=self._cell.group,
            tree=Input(folder="tree", archive=self._tree),
            log_path=self._workspace.log_path(self._cell.group, stem),
            emulator=way.program,
            inputs=way.inputs,
            allocator=self.allocator,
            bounds=self._workspace.bounds,
        )
        if self._server is None:
            return place
        return place.of_server(self._server, read_conf(self._tree, self._server.conf), _connect)

    def _error(
        self, way: WayRecord, failed: Sequence[CheckRecord], status: int | None, runner: SmokeRunner
    ) -> StageError:
        from pikaforge.pipeline.smoke.server import log_tail  # noqa: PLC0415

        log = runner.place.log_path
        # If only multi-server checks have failed, the log of the shared server does not help.
        tail = [] if failed and {check.name for check in failed} <= runner.own else list(log_tail(log))
        problem, hint = way.problem, ""
        if way.cpu:
            problem = f"under emulation of {way.cpu}: {problem}"
            if "SIGILL" in problem or any("SIGILL" in check.detail for check in failed):
                hint = f"it holds an instruction that {self._cell.target} lacks: the audit names it and its function"
        return StageError(
            problem,
            StageFailure(
                stage=STAGE_NAME,
                label=self._cell.group,
                status=status,
                log=str(log),
                tail=tuple([*tail, *runner.tails][-TAIL:]),
                findings=tuple(f"check {check.name}: {check.detail}" for check in failed),
            ),
            hint=hint,
        )


def _connect(host: str, port: int, *, timeout: float = 10.0) -> Connection:
    from pikaforge.pipeline.smoke.resp import Connection  # noqa: PLC0415

    return Connection(host, port, timeout=timeout)


class SmokeStage(BaseStage):
    """Makes the checks of a tree, or takes the result of a twin."""

    name = STAGE_NAME
    scope: Scope = "group"
    facts = SmokeFacts
    adopts = True
    demand = Demand(memory=512 << 20)
    seconds = 30.0

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs tree, image and emulator."""
        return Needs(ids=(f"compile:{slot.label}", slot.image, *slot.emulator))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return checks and CPU as key material; with the host engine the emulator, too, which is a need otherwise."""
        path = host_emulator() if run.workspace.engine.kind == "host" else None
        emulator = hashing.file_digest(path) if path is not None else ""
        kind = run.spec.allocators[node.cell.allocator].kind
        return Material(facts=material(run.spec, node.cell.target, allocator=kind, emulator=emulator))

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return that another machine could not run natively what this one can: a better result can be had."""
        facts = result.read(SmokeFacts)
        if facts.native.ran or facts.tried != facts.target or not engine_answers():
            return ""
        flags = run.workspace.engine.known_cpu_flags()
        if flags is None or emulation.lacking(facts.target, flags):
            return ""
        return "it was not run natively, which this machine can do"

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Run the checks, or take the result of the twin."""
        node = inputs.node
        if node.twin:
            return adopt(run.workspace, node.cell, inputs.results[node.twin], key=key)
        emulator = inputs.results.get(EMULATOR_NODE)
        return make(run.workspace, run.spec, node.cell, inputs.of("compile"), inputs.image, key=key, emulator=emulator)

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return what was not run, in the run that tried it."""
        return remarks(result.read(SmokeFacts)) if fresh else ()


STAGE = SmokeStage()
