"""Runs: what is made, what is taken from the store, and what a failure stops."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from unit.cell_results import FACTS, SMOKED
from unit.cell_results import result as stage_result
from unit.helpers import FakeEngine, make_spec

from pikaforge.cli.commands.build import status
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import ConfigError, ForgeError, FullDiskError, HostError, PublishError, StageError, StageFailure
from pikaforge.host import process, store
from pikaforge.host.hashing import digest
from pikaforge.host.job import JobResult
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import audit, package
from pikaforge.pipeline.expected import EarlierTimes
from pikaforge.pipeline.image import image
from pikaforge.pipeline.outcomes import Events, NodeOutcome, Report, View
from pikaforge.pipeline.package import CellResults
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.smoke import smoke
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.source.facts import PatchFacts, SeriesFacts, SourceFacts
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.stage import Material, Request
from pikaforge.plan.plan import Node, Plan, expand
from pikaforge.plan.selectors import Selection, select


class Log(Events):
    """What a run told, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: list[str] = []
        self.notices: list[str] = []

    def started(self, node: Node) -> None:
        self.begun.append(node.id)

    def ended(self, outcome: NodeOutcome) -> None:
        self.ends.append(outcome.node.id)

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Scripted(Pipeline):
    """A pipeline whose stages do as the test says: the keys, the order and the store are the real ones."""

    def __init__(self, workspace: Workspace, spec: Spec) -> None:
        origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
        super().__init__(workspace, Request(spec=spec, origin=origin, series=None))
        self.store = workspace.store
        self.material: dict[str, Any] = {}
        """What the key of a node has beside its id, by the node's id."""
        self.identity: dict[str, str] = {}
        """By node id; else it follows the node's key."""
        self.facts: dict[str, dict[str, Any]] = {}
        """What of the facts of a node is another than in `FACTS`, by node id."""
        self.acts: dict[str, Callable[[], object]] = {}
        """Done while the node is made."""
        self.unknown: set[str] = set()
        """Nodes whose material only the network knows."""
        self.made: list[str] = []

    def _material(self, node: Node, *, offline: bool) -> Material:
        facts = {"id": node.id, "more": self.material.get(node.id)}
        return Material(facts=facts, pinned=not (offline and node.id in self.unknown))

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        assert set(inputs) == set(node.needs), "a node gets what it needs, and nothing else"
        self.made.append(node.id)
        self.acts.get(node.id, lambda: None)()
        identity = self.identity.get(node.id, digest(f"result of {key}"))
        with self.store.scratch() as scratch:
            path = scratch / "file"
            path.write_text(identity)
            facts = FACTS[node.stage].model_dump(mode="json") | self.facts.get(node.id, {})
            return self.store.put(node.stage, key, identity=identity, facts=facts, files={"file": path})


SANDY, SKY = "debian12-sandybridge-none", "debian12-skylake_avx512-none"


@pytest.fixture
def plan() -> Plan:
    """Three models, of which two share a target, on one image."""
    spec = make_spec()
    return expand(spec, select(spec, Selection(selectors=("all",))))


@pytest.fixture
def pipe(workspace: Workspace) -> Scripted:
    return Scripted(workspace, make_spec())


@pytest.fixture
def again(workspace: Workspace) -> Callable[[], Scripted]:
    """A pipeline of the next run, with the same store."""
    return lambda: Scripted(workspace, make_spec())


def _statuses(report: Report) -> dict[str, str]:
    return {node: outcome.status for node, outcome in report.outcomes.items()}


def _after(plan: Plan, start: str) -> set[str]:
    """The nodes that depend on one, by way of others too; itself among them."""
    found = {start}
    for node in plan.nodes:
        if found & set(node.needs):
            found.add(node.id)
    return found


def _raise(error: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


def _stage_error(node: str) -> StageError:
    stage, _, label = node.partition(":")
    return StageError("it failed", StageFailure(stage=stage, label=label))


# ---- the tools image alone


def test_the_tools_image_is_made_alone(pipe: Scripted) -> None:
    pipe.facts["image:tools"] = {"build": "pikaforge/tools-build:1"}
    assert pipe.tools_image(Log()) == "pikaforge/tools-build:1"
    assert pipe.made == ["image:tools"]


def test_a_tools_image_that_cannot_be_made(pipe: Scripted) -> None:
    pipe.acts["image:tools"] = _raise(HostError("no registry answers"))
    with pytest.raises(HostError, match="no registry answers"):
        pipe.tools_image(Log())


# ---- twins

TRIED, NOT_RUN = "smoke:debian12-sandybridge-none", f"smoke:{SKY}"


@pytest.fixture
def twins() -> Plan:
    """One model whose target this machine cannot run."""
    spec = make_spec()
    machine = Machine(flags=microarch.kernel_flags("sandybridge"), emulates=False)
    return expand(spec, select(spec, Selection(selectors=("R640-debian12-none",))), machine=machine)


def _key_of_its_own(pipe: Scripted, plan: Plan) -> str:
    """The key of the verdict from a machine that can run the target: in its plan there is no twin."""
    spec = make_spec()
    able = expand(spec, select(spec, Selection(selectors=tuple(cell.id for cell in plan.cells))))
    return next(view.key for view in pipe.views(able, engine_answers=lambda: True) if view.node.id == NOT_RUN)


def test_the_verdict_on_a_twin_counts_for_what_cannot_be_run(
    twins: Plan, pipe: Scripted, again: Callable[[], Scripted]
) -> None:
    report = pipe.execute(twins, Log())
    assert report.outcomes[NOT_RUN].key != report.outcomes[TRIED].key
    assert set(_statuses(report).values()) == {"done"}
    assert set(_statuses(again().execute(twins, Log())).values()) == {"cached"}
    other = again()
    other.identity[TRIED] = "another verdict"
    other.material[TRIED] = "a check more"
    redone = other.execute(twins, Log())
    assert {"smoke", "package"} == {node.partition(":")[0] for node in other.made}, _statuses(redone)


def test_a_twin_that_failed_keeps_the_package_back(twins: Plan, pipe: Scripted) -> None:
    pipe.acts[TRIED] = _raise(_stage_error(TRIED))
    report = pipe.execute(twins, Log())
    assert (report.outcomes[NOT_RUN].status, report.outcomes[NOT_RUN].blocked_by) == ("blocked", TRIED)
    assert report.outcomes["package:R640-debian12-none"].status == "blocked"


def test_the_verdict_of_a_machine_that_can_run_it_takes_the_twins_place(
    twins: Plan, pipe: Scripted, again: Callable[[], Scripted]
) -> None:
    before = pipe.execute(twins, Log())
    own = _key_of_its_own(again(), twins)
    assert own != before.outcomes[NOT_RUN].key
    pipe.store.put("smoke", own, identity="run", facts=SMOKED, files={})
    after = again().execute(twins, Log())
    found = after.outcomes[NOT_RUN]
    assert (found.key, found.status) == (own, "cached")
    assert found.result is not None
    assert found.result.identity == "run"
    assert after.outcomes["package:R640-debian12-none"].status == "done", "its manifest tells of it"
    views = {view.node.id: view for view in again().views(twins, engine_answers=lambda: True)}
    assert (views[NOT_RUN].key, views[NOT_RUN].cached) == (own, True)


def test_a_damaged_verdict_of_a_machine_that_can_run_it_is_no_verdict(
    twins: Plan, pipe: Scripted, again: Callable[[], Scripted]
) -> None:
    before = pipe.execute(twins, Log()).outcomes[NOT_RUN]
    own = _key_of_its_own(again(), twins)
    pipe.store.put("smoke", own, identity="run", facts=SMOKED, files={})
    (pipe.store.root / "smoke" / own / "result.json").write_text("{", encoding="utf-8")
    found = again().execute(twins, Log()).outcomes[NOT_RUN]
    assert (found.key, found.status) == (before.key, "cached")


def test_a_verdict_of_another_version_of_this_program_is_no_verdict(
    twins: Plan, pipe: Scripted, again: Callable[[], Scripted]
) -> None:
    before = pipe.execute(twins, Log()).outcomes[NOT_RUN]
    own = _key_of_its_own(again(), twins)
    pipe.store.put("smoke", own, identity="run", facts={"native": {"ran": True}}, files={})
    found = again().execute(twins, Log()).outcomes[NOT_RUN]
    assert (found.key, found.status) == (before.key, "cached")


def test_adopting_tells_which_target_was_tried(workspace: Workspace, twins: Plan) -> None:
    node = next(node for node in twins.nodes if node.id == NOT_RUN)
    result = smoke.adopt(workspace, node.cell, stage_result("smoke", SMOKED), key="5" * 32)
    facts = result.read(SmokeFacts)
    assert facts == SMOKED.model_copy(update={"target": "skylake_avx512"})
    assert smoke.remarks(facts) == ["function tried as sandybridge; AVX-512 code audited, not run"]
    other = stage_result("smoke", SMOKED.model_copy(update={"tried": "skylake_avx512"}))
    own = smoke.adopt(workspace, node.cell, other, key="6" * 32)
    assert own.identity != result.identity, "the package tells of it"


# ---- what is run


def test_everything_is_made_once_and_after_what_it_needs(pipe: Scripted, plan: Plan) -> None:
    log = Log()
    report = pipe.execute(plan, log)
    assert _statuses(report) == {node.id: "done" for node in plan.nodes}
    assert Counter(pipe.made) == Counter(node.id for node in plan.nodes)
    for node in plan.nodes:
        assert all(pipe.made.index(need) < pipe.made.index(node.id) for need in node.needs)
    assert sorted(log.begun) == sorted(log.ends) == sorted(pipe.made)
    assert (report.errors, status(report)) == ([], 0)
    assert [o.node.label for o in report.of("package")] == [cell.id for cell in plan.cells]


def test_what_is_cached_is_not_made(pipe: Scripted, plan: Plan, again: Callable[[], Scripted]) -> None:
    first = pipe.execute(plan, Events())
    second, log = again(), Log()
    report = second.execute(plan, log)
    assert _statuses(report) == {node.id: "cached" for node in plan.nodes}
    assert (second.made, log.begun, log.notices) == ([], [], [])
    assert sorted(log.ends) == sorted(node.id for node in plan.nodes)
    assert {n: o.result for n, o in report.outcomes.items()} == {n: o.result for n, o in first.outcomes.items()}


@pytest.mark.parametrize(
    "changed",
    ["image:tools", "source:v1.0", "image:debian12", f"compile:{SANDY}", f"smoke:{SKY}", "package:R640-debian12-none"],
)
def test_a_change_remakes_only_what_depends_on_it(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], changed: str
) -> None:
    pipe.execute(plan, Events())
    second = again()
    second.material[changed] = "changed"
    report = second.execute(plan, Events())
    assert set(second.made) == _after(plan, changed)
    assert {n for n, s in _statuses(report).items() if s == "done"} == _after(plan, changed)


def test_keys_of_what_is_stored_are_computed_once(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.execute(plan, Log())
    computed: list[str] = []
    key_of = Pipeline._key

    def counted(self: Pipeline, node: Node, known: Mapping[str, str], *, offline: bool) -> tuple[str, Material]:
        computed.append(node.id)
        return key_of(self, node, known, offline=offline)

    monkeypatch.setattr(Pipeline, "_key", counted)
    run = again()
    views = run.views(plan, engine_answers=lambda: True)
    done = run.execute(plan, Log())
    assert set(_statuses(done).values()) == {"cached"}
    assert computed == [node.id for node in plan.nodes]
    assert {view.node.id: view.key for view in views} == {id_: out.key for id_, out in done.outcomes.items()}
    run.execute(plan, Log())
    assert len(computed) == 2 * len(plan.nodes), "what was found then counts for one run"


def test_what_has_changed_since_it_was_viewed_is_decided_again(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], workspace: Workspace
) -> None:
    pipe.execute(plan, Log())
    run = again()
    views = {view.node.id: view for view in run.views(plan, engine_answers=lambda: True)}
    lost = next(view for id_, view in views.items() if id_.startswith("compile:"))
    workspace.store.drop("compile", lost.key)
    statuses = _statuses(run.execute(plan, Log()))
    assert statuses[lost.node.id] == "done"
    assert _statuses(again().execute(plan, Log()))[lost.node.id] == "cached"


def test_a_result_that_comes_out_the_same_cuts_off_early(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted]
) -> None:
    node = f"compile:{SANDY}"
    pipe.identity[node] = "the same tree"
    pipe.execute(plan, Events())
    second = again()
    second.material[node] = "a comment in the recipe"
    second.identity[node] = "the same tree"
    second.execute(plan, Events())
    assert second.made == [node]


def test_a_changed_key_back_again_finds_the_old_result(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted]
) -> None:
    pipe.execute(plan, Events())
    second = again()
    second.material["source:v1.0"] = "changed"
    second.execute(plan, Events())
    third = again()
    third.execute(plan, Events())
    assert third.made == []


# ---- what is told of files


def _told(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], changed: str, *, kept: Sequence[str] = ()
) -> list[str]:
    """What is made anew when a node's files come out the same, and other facts are told of them.

    Results of `kept` come out the same, too, so that they do not hide what stands behind them.
    """
    for node in (changed, *kept):
        pipe.identity[node] = f"the same {node}"
    field = {"source": "origin", "image": "gcc", "audit": "title", "smoke": "target"}.get(changed.partition(":")[0])
    pipe.facts[changed] = {field: "sandybridge"} if field else {"compiler": ["gcc 12.2"]}
    pipe.execute(plan, Events())
    second = again()
    second.identity = dict(pipe.identity)
    second.material[changed] = "made anew"
    second.facts[changed] = {field: "haswell"} if field else {"compiler": ["gcc 12.3"]}
    report = second.execute(plan, Events())
    assert {node.id: view.key for node, view in zip(plan.nodes, _views_after(second, again(), plan), strict=True)} == {
        node: outcome.key for node, outcome in report.outcomes.items()
    }, "a plan sees the same keys"
    return sorted(second.made)


def _views_after(run: Scripted, pipe: Scripted, plan: Plan) -> list[View]:
    """What a plan says after a run."""
    pipe.material = dict(run.material)
    return pipe.views(plan, engine_answers=lambda: True)


def test_what_the_compiler_says_of_itself_counts_for_audit_and_package_alone(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted]
) -> None:
    changed = f"compile:{SANDY}"
    assert _told(pipe, plan, again, changed, kept=[f"audit:{SANDY}"]) == [
        f"audit:{SANDY}", changed, "package:R620-debian12-none", "package:R720-debian12-none",
    ]  # fmt: skip


def test_what_is_told_of_the_source_counts_for_packages_alone(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted]
) -> None:
    packages = sorted(node.id for node in plan.nodes if node.stage == "package")
    assert len(packages) == 3
    assert _told(pipe, plan, again, "source:v1.0") == [*packages, "source:v1.0"]


@pytest.mark.parametrize("changed", ["image:debian12", f"audit:{SANDY}", f"smoke:{SANDY}"])
def test_what_is_told_of_other_results_counts_for_nothing(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], changed: str
) -> None:
    assert _told(pipe, plan, again, changed) == [changed]


def test_facts_that_come_out_the_same_cut_off_early(pipe: Scripted, plan: Plan, again: Callable[[], Scripted]) -> None:
    changed = "source:v1.0"
    pipe.identity[changed] = "the same tree"
    pipe.facts[changed] = {"epoch": 1, "submodules": {"x": "1", "y": "2"}}
    pipe.execute(plan, Events())
    second = again()
    second.identity[changed] = "the same tree"
    second.facts[changed] = {"submodules": {"y": "2", "x": "1"}, "epoch": 1}
    second.material[changed] = "made anew"
    second.execute(plan, Events())
    assert second.made == [changed], "their order is no fact"


# ---- the real stages


TODAY = date(2026, 6, 15)


class Call:
    """Stands for a stage's `run`, and takes down what it was given."""

    def __init__(self) -> None:
        self.given: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}
        self.result = Result(stage="s", key="k", identity="i", facts={}, files={})

    def __call__(self, *given: Any, **named: Any) -> Result:
        self.given, self.named = given, named
        return self.result


def _real(workspace: Workspace, spec: Spec, day: date = TODAY) -> Pipeline:
    origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
    return Pipeline(workspace, Request(spec=spec, origin=origin, series=None, today=day))


def _inputs(node: Node) -> dict[str, Result]:
    return {
        need: Result(
            stage=need.partition(":")[0], key="k", identity=need, facts={"base": "x", "build": f"{need}:tag"}, files={}
        )
        for need in node.needs
    }


def _node(plan: Plan, name: str) -> Node:
    return next(node for node in plan.nodes if node.id == name)


def test_the_audit_gets_tree_image_and_the_day_of_the_request(
    workspace: Workspace, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, spec, node = Call(), make_spec(), _node(plan, f"audit:{SANDY}")
    monkeypatch.setattr(audit, "make", call)
    inputs = _inputs(node)
    assert _real(workspace, spec)._make(node, "the key", inputs, Material(facts={})) is call.result
    assert call.given == (workspace, spec, node.cells[0], inputs[f"compile:{SANDY}"], inputs["image:debian12"])
    assert call.named == {"key": "the key", "today": TODAY, "allocator": None}


@pytest.mark.parametrize("emulator", [None, "debian12"])
def test_the_smoke_stage_gets_tree_image_and_the_emulator_if_there_is_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, emulator: str | None
) -> None:
    call, spec = Call(), make_spec(defaults__emulator=emulator)
    node = _node(expand(spec, select(spec, Selection(selectors=("R620",)))), f"smoke:{SANDY}")
    monkeypatch.setattr(smoke, "make", call)
    inputs = _inputs(node)
    assert _real(workspace, spec)._make(node, "the key", inputs, Material(facts={})) is call.result
    assert call.given == (workspace, spec, node.cells[0], inputs[f"compile:{SANDY}"], inputs["image:debian12"])
    assert call.named == {"key": "the key", "emulator": inputs.get("image:emulator")}
    assert (call.named["emulator"] is None) is (emulator is None)


def test_a_package_gets_every_result_in_its_place(
    workspace: Workspace, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, spec, node = Call(), make_spec(), _node(plan, "package:R720-debian12-none")
    monkeypatch.setattr(package, "make", call)
    inputs = _inputs(node)
    assert _real(workspace, spec)._make(node, "the key", inputs, Material(facts={})) is call.result
    parts = CellResults(
        source=inputs["source:v1.0"],
        image=inputs["image:debian12"],
        compiled=inputs[f"compile:{SANDY}"],
        audited=inputs[f"audit:{SANDY}"],
        smoked=inputs[f"smoke:{SANDY}"],
    )
    assert call.given == (workspace, spec, node.cells[0], parts)
    assert node.cells[0].id == "R720-debian12-none"
    assert call.named.pop("others")
    assert call.named == {
        "key": "the key",
        "tools": "image:tools:tag",
    }


def test_the_day_of_the_request_decides_the_key_of_the_audit_alone(workspace: Workspace, plan: Plan) -> None:
    waiver = {
        "file": "bin/x", "function": "f", "features": ["avx2"], "reason": "asks the CPU", "expires": "2026-06-15",
    }  # fmt: skip
    spec = make_spec(waivers=[waiver])
    before, last, after = (_real(workspace, spec, date(2026, 6, day)) for day in (1, 15, 16))
    for stage, follows in (("audit", True), ("smoke", False)):
        node = _node(plan, f"{stage}:{SANDY}")
        known = dict.fromkeys(node.needs, "identity")
        keys = [pipeline._key(node, known, offline=True) for pipeline in (before, last, after)]
        assert keys[0] == keys[1]
        assert (keys[2] != keys[1]) is follows, stage
        assert all(real for _, real in keys)


# ---- failures


def test_a_failure_blocks_only_what_depends_on_it(pipe: Scripted, plan: Plan) -> None:
    node = f"compile:{SANDY}"
    error = _stage_error(node)
    pipe.acts[node] = _raise(error)
    report = pipe.execute(plan, Events())
    after = _after(plan, node)
    assert {n for n, s in _statuses(report).items() if s in ("failed", "blocked")} == after
    assert _statuses(report)[node] == "failed"
    assert report.outcomes[node].error is error
    assert report.errors == [error]
    for other in after - {node}:
        assert report.outcomes[other].status == "blocked"
        assert report.outcomes[other].blocked_by in after
    assert _statuses(report)["package:R640-debian12-none"] == "done"
    assert not set(pipe.made) & (after - {node})
    assert status(report) == 4


def test_after_a_failure_the_next_run_goes_on_there(pipe: Scripted, plan: Plan, again: Callable[[], Scripted]) -> None:
    node = f"smoke:{SANDY}"
    pipe.acts[node] = _raise(_stage_error(node))
    pipe.execute(plan, Events())
    second = again()
    assert _statuses(second.execute(plan, Events())) == {
        n.id: "done" if n.id in _after(plan, node) else "cached" for n in plan.nodes
    }


def test_a_failure_at_the_start_blocks_everything(pipe: Scripted, plan: Plan) -> None:
    pipe.acts["image:tools"] = _raise(HostError("no engine"))
    report = pipe.execute(plan, Events())
    statuses = Counter(_statuses(report).values())
    assert statuses == {"failed": 1, "done": 1, "blocked": len(plan.nodes) - 2}
    assert _statuses(report)["image:debian12"] == "done", "it does not need the tools"
    assert status(report) == 3


def test_all_failures_of_a_run_are_told(pipe: Scripted, plan: Plan) -> None:
    failing = [f"compile:{SANDY}", f"smoke:{SKY}"]
    for node in failing:
        pipe.acts[node] = _raise(_stage_error(node))
    report = pipe.execute(plan, Events())
    assert sorted(e.where for e in report.errors) == [f"stage compile, {SANDY}", f"stage smoke, {SKY}"]


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([ConfigError("x")], 2),
        ([HostError("x")], 3),
        ([_stage_error("smoke:x")], 4),
        ([PublishError("x")], 5),
        ([HostError("x"), HostError("y")], 3),
        ([ConfigError("x"), ConfigError("y")], 2),
        ([HostError("x"), _stage_error("smoke:x")], 4),
        ([ConfigError("x"), HostError("y")], 4),
        ([PublishError("x"), HostError("y"), ConfigError("z")], 4),
    ],
)
def test_the_exit_status_of_a_run(plan: Plan, errors: list[ForgeError], code: int) -> None:
    report = Report(plan=plan)
    for node, error in zip(plan.nodes, errors, strict=False):
        report.outcomes[node.id] = NodeOutcome(node=node, status="failed", error=error)
    report.outcomes["blocked"] = NodeOutcome(node=plan.nodes[-1], status="blocked")
    assert status(report) == code


def test_a_mistake_in_the_tool_itself_ends_the_run_and_is_not_hidden(
    pipe: Scripted, plan: Plan, fake: FakeEngine
) -> None:
    pipe.acts["source:v1.0"] = _raise(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pipe.execute(plan, Events())
    assert fake.aborted == 1


def test_a_reader_that_cannot_be_reached_stops_no_clean_end(pipe: Scripted, plan: Plan, fake: FakeEngine) -> None:
    class Deaf(Events):
        def stopping(self) -> None:
            raise ConnectionResetError

    pipe.acts["source:v1.0"] = _raise(ZeroDivisionError("a bug"))
    with pytest.raises(ConnectionResetError):
        pipe.execute(plan, Deaf())
    assert fake.aborted == 1


@pytest.mark.parametrize(
    "error",
    [FullDiskError("no space left in /out"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))],
    ids=["said", "of the system"],
)
def test_a_full_disk_ends_the_run_at_once(error: Exception, pipe: Scripted, plan: Plan, fake: FakeEngine) -> None:
    """Whatever else runs would meet it, too."""
    pipe.acts["source:v1.0"] = _raise(error)
    with pytest.raises(FullDiskError) as caught:
        pipe.execute(plan, Events())
    assert caught.value.message.startswith("no space left in ")
    assert caught.value.where == "source:v1.0"
    assert caught.value.exit_code == 3
    assert fake.aborted == 1


def test_an_interrupt_ends_what_runs_and_starts_nothing_more(pipe: Scripted, plan: Plan, fake: FakeEngine) -> None:
    running, aborted = threading.Event(), threading.Event()

    def wait_for_the_end() -> None:
        running.set()
        assert aborted.wait(10), "the engine was never told"
        raise HostError("interrupted")

    def interrupt() -> None:
        assert running.wait(10)
        raise KeyboardInterrupt

    def abort() -> None:
        fake.aborted += 1
        aborted.set()

    fake.abort = abort  # type: ignore[method-assign]
    pipe.acts["image:debian12"] = wait_for_the_end
    pipe.acts["source:v1.0"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        pipe.execute(plan, Events())
    assert (fake.aborted, fake.settled) == (1, 1)
    assert sorted(pipe.made) == ["image:debian12", "image:tools", "source:v1.0"]
    assert not [t for t in threading.enumerate() if t.name.startswith("node")], "no thread outlives the run"
    with pytest.raises(HostError, match="interrupted"):
        process.run(["true"])


# ---- the store


def test_a_bad_result_is_said_aloud_and_made_anew(pipe: Scripted, plan: Plan, again: Callable[[], Scripted]) -> None:
    node = f"compile:{SANDY}"
    first = pipe.execute(plan, Events())
    result = first.outcomes[node].result
    assert result is not None
    path = result.files["file"]
    path.write_text("damaged")
    second, log = again(), Log()
    report = second.execute(plan, log)
    assert log.notices == [
        f"the stored result of {node} is bad and is made anew: {path} does not have the digest it was stored with"
    ]
    assert second.made == [node], "it came out the same, so nothing after it was made"
    assert report.outcomes[node].status == "done"
    assert path.read_text() == result.identity


def test_an_image_that_the_engine_lost_is_made_anew(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.execute(plan, Events())
    monkeypatch.setattr(image, "usable", lambda result, workspace: False)
    second, log = again(), Log()
    second.execute(plan, log)
    assert sorted(second.made) == ["image:debian12", "image:tools"]
    assert sorted(log.notices) == [
        "the stored result of image:debian12 is made anew: the engine does not hold it any more",
        "the stored result of image:tools is made anew: the engine does not hold it any more",
    ]


def test_new_pins_are_told_once(pipe: Scripted, plan: Plan, workspace: Workspace) -> None:
    pipe.acts["source:v1.0"] = lambda: workspace.lock.check("sources", "x", "commit", "abc")
    log = Log()
    pipe.execute(plan, log)
    assert log.notices == ["sources.lock: x: commit pinned to abc"]


# ---- in parallel


class Counted(Scripted):
    """Takes note of how many processes each compilation may start, and lets two begin before one ends."""

    def __init__(self, workspace: Workspace, spec: Spec) -> None:
        super().__init__(workspace, spec)
        self.both = threading.Barrier(2)
        self.jobs: dict[str, int] = {}

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        if node.stage == "compile":
            self.jobs[node.id] = self._workspace.jobs
            self.both.wait(30)
        return super()._make(node, key, inputs, material)


@pytest.mark.parametrize(("cores", "each"), [(2, 1), (8, 4), (9, 5)])
def test_two_compilations_at_once_share_the_cores(cores: int, each: int, workspace: Workspace, plan: Plan) -> None:
    pipe = Counted(replace(workspace, jobs=cores), make_spec())
    report = pipe.execute(plan, Events())
    assert set(_statuses(report).values()) == {"done"}
    assert max(pipe.jobs.values()) == each
    assert sum(pipe.jobs.values()) == cores
    assert {report.outcomes[node].jobs for node in pipe.jobs} == set(pipe.jobs.values())


class Hungry(Scripted):
    """A pipeline whose compilations say how much memory their job has used."""

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        if node.stage == "compile":
            self._workspace.used.note(JobResult(status=0, memory=len(node.label)))
        return super()._make(node, key, inputs, material)


def test_each_node_has_the_memory_of_its_own_jobs(workspace: Workspace, plan: Plan) -> None:
    done = Hungry(replace(workspace, jobs=8), make_spec()).execute(plan, Events())
    assert done.errors == []
    used = {outcome.node.label: outcome.memory for outcome in done.of("compile")}
    assert used == {label: len(label) for label in used}
    assert {outcome.memory for outcome in done.of("package")} == {0}


@pytest.mark.parametrize(("memory", "jobs"), [(1 << 20, 4), (4 << 30, 1)])
def test_what_earlier_runs_have_seen_of_the_memory_decides_how_many_processes(
    memory: int, jobs: int, workspace: Workspace, plan: Plan
) -> None:
    pipe = Scripted(replace(workspace, jobs=8, memory=4 << 30), make_spec())
    seen = EarlierTimes(nodes={}, stages={}, memory={(n.stage, n.label): memory for n in plan.nodes})
    done = pipe.execute(plan, Events(), demand=seen.demand)
    assert done.errors == []
    assert [outcome.jobs for outcome in done.of("compile")] == [jobs, jobs]


def test_the_number_of_jobs_is_in_no_key(workspace: Workspace, plan: Plan) -> None:
    Scripted(replace(workspace, jobs=1), make_spec()).execute(plan, Events())
    more = Scripted(replace(workspace, jobs=64, memory=1 << 40), make_spec())
    assert set(_statuses(more.execute(plan, Events())).values()) == {"cached"}


def test_what_the_longest_way_depends_on_begins_first(workspace: Workspace, plan: Plan) -> None:
    first, second = SKY, SANDY
    for slow, fast in ((first, second), (second, first)):
        pipe = Scripted(replace(workspace, jobs=1, out=workspace.out / slow), make_spec())
        pipe.material = {node.id: slow for node in plan.nodes}
        pipe.execute(plan, Events(), seconds={f"compile:{slow}": 100.0, f"compile:{fast}": 10.0})
        assert pipe.made.index(f"compile:{slow}") < pipe.made.index(f"compile:{fast}")


def test_as_many_nodes_at_once_as_the_budget_has_room_for(workspace: Workspace) -> None:
    spec = make_spec(
        hardware={f"M{n}": {"cpus": [cpu]} for n, cpu in enumerate(("nehalem", "haswell", "zen2", "icelake", "zen3"))}
    )
    plan = expand(spec, select(spec, Selection(selectors=("all",))))
    pipe = Scripted(replace(workspace, jobs=2), spec)
    lock = threading.Lock()
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    pause = threading.Event()

    def act(stage: str) -> Callable[[], object]:
        def work() -> None:
            with lock:
                now[stage] += 1
                now["all"] += 1
                for name in (stage, "all"):
                    most[name] = max(most[name], now[name])
            pause.wait(0.02)
            with lock:
                now[stage] -= 1
                now["all"] -= 1

        return work

    for node in plan.nodes:
        pipe.acts[node.id] = act(node.stage)
    report = pipe.execute(plan, Events())
    assert set(_statuses(report).values()) == {"done"}
    assert 1 < most["compile"] <= 2
    assert 2 < most["all"] <= 5, "a compilation on one core leaves two for four others"


# ---- views


def _views(pipe: Scripted, plan: Plan, answers: bool = True) -> dict[str, tuple[bool, str]]:
    return {view.node.id: (view.cached, view.why) for view in pipe.views(plan, engine_answers=lambda: answers)}


STORED = (True, "its result is stored")
ABSENT = (False, "no result is stored under this key")


def test_a_first_plan_has_everything_to_do(pipe: Scripted, plan: Plan, fake: FakeEngine) -> None:
    found = _views(pipe, plan)
    assert list(found) == [node.id for node in plan.nodes]
    assert found["image:tools"] == found["image:debian12"] == ABSENT
    assert found["source:v1.0"] == (False, "needs image first")
    assert found[f"compile:{SANDY}"] == (False, "needs source, image first")
    assert (fake.verified, pipe.made) == (0, [])


def test_a_plan_after_a_run_has_nothing_to_do(pipe: Scripted, plan: Plan, again: Callable[[], Scripted]) -> None:
    report = pipe.execute(plan, Events())
    views = again().views(plan, engine_answers=lambda: True)
    assert {view.why for view in views} == {"its result is stored"}
    assert all(view.cached for view in views)
    assert {view.node.id: view.key for view in views} == {n: o.key for n, o in report.outcomes.items()}


def test_the_keys_of_a_plan_follow_results_where_there_are_some(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted]
) -> None:
    pipe.execute(plan, Events())
    second = again()
    second.material[f"compile:{SKY}"] = "changed"
    found = _views(second, plan)
    assert found[f"compile:{SKY}"] == ABSENT
    assert found["package:R640-debian12-none"][0] is False
    assert {n for n, (cached, _) in found.items() if not cached} == _after(plan, f"compile:{SKY}")


def test_what_is_not_pinned_is_not_known(pipe: Scripted, plan: Plan) -> None:
    pipe.unknown.add("source:v1.0")
    assert _views(pipe, plan)["source:v1.0"] == (False, "not pinned yet; the first build looks it up")


def test_images_are_there_only_if_the_engine_has_them(
    pipe: Scripted, plan: Plan, again: Callable[[], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.execute(plan, Events())
    silent = _views(again(), plan, answers=False)
    assert silent["image:debian12"] == (False, "no engine answers that could hold it")
    monkeypatch.setattr(image, "usable", lambda result, workspace: False)
    lost = _views(again(), plan)
    assert lost["image:debian12"] == (False, "the engine does not hold it any more")


def test_looking_changes_nothing(pipe: Scripted, plan: Plan, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    _views(pipe, plan)
    assert sorted(tmp_path.rglob("*")) == before


# ---- two runs at the same time


def test_two_runs_make_what_both_need_once(
    plan: Plan, again: Callable[[], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    first, second = again(), again()
    node, begun, go_on = f"compile:{SANDY}", threading.Event(), threading.Event()
    log = Log()

    def act() -> None:
        begun.set()
        assert go_on.wait(30)

    first.acts[node] = act
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.execute, plan, Log())
        assert begun.wait(30)
        two = pool.submit(second.execute, plan, log)
        for _ in range(600):
            if any(node in text for text in log.notices):
                break
            time.sleep(0.05)
        go_on.set()
        reports = [one.result(60), two.result(60)]
    assert f"{node} waits for another run, which makes the same" in log.notices
    assert not any(report.errors for report in reports)
    made = Counter([*first.made, *second.made])
    assert set(made.values()) == {1}
    assert set(made) == {each.id for each in plan.nodes}


@pytest.mark.parametrize("own", [True, False])
def test_facts_of_a_node_that_failed(plan: Plan, own: bool) -> None:
    """A failure has facts of its own, or an error of any kind those that were found out before."""
    first = SeriesFacts(patches=())
    second = SeriesFacts(patches=(PatchFacts(name="x", sha256="0" * 64, state="applied"),))
    error: ForgeError = HostError("out of reach")
    if own:
        error = StageError("it says no", StageFailure(stage="source", label="x", facts=first))
    outcome = NodeOutcome(node=plan.nodes[0], status="failed", error=error)
    assert outcome.facts(SeriesFacts) == (first if own else None)
    error.facts = second
    assert outcome.facts(SeriesFacts) == (first if own else second)
    assert outcome.facts(SourceFacts) is None
