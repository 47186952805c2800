"""Runs: what is made, what is taken from the store, and what a failure stops."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import FakeEngine, make_spec

from pikaforge.errors import ConfigError, ForgeError, HostError, PublishError, StageError, StageFailure
from pikaforge.host import process
from pikaforge.host.store import Result
from pikaforge.keys import digest
from pikaforge.model import Spec
from pikaforge.pipeline import WORKERS, Events, Outcome, Pipeline, Report, Request
from pikaforge.plan import Node, Plan, Selection, expand, select
from pikaforge.stages import image
from pikaforge.stages.origin import Origin
from pikaforge.verbs.build import status
from pikaforge.workshop import Workshop


class Log(Events):
    """What a run told, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: list[str] = []
        self.notices: list[str] = []

    def started(self, node: Node) -> None:
        self.begun.append(node.id)

    def ended(self, outcome: Outcome) -> None:
        self.ends.append(outcome.node.id)

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Scripted(Pipeline):
    """A pipeline whose stages do as the test says: the keys, the order and the store are the real ones."""

    def __init__(self, workshop: Workshop, spec: Spec) -> None:
        origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
        super().__init__(workshop, Request(spec=spec, origin=origin, series=None))
        self.store = workshop.store
        self.material: dict[str, Any] = {}
        """What the key of a node has beside its id, by the node's id."""
        self.identity: dict[str, str] = {}
        """By node id; else it follows the node's key."""
        self.acts: dict[str, Callable[[], object]] = {}
        """Done while the node is made."""
        self.unknown: set[str] = set()
        """Nodes whose material only the network knows."""
        self.made: list[str] = []

    def _material(self, node: Node, *, offline: bool) -> tuple[dict[str, Any], bool]:
        return {"id": node.id, "more": self.material.get(node.id)}, not (offline and node.id in self.unknown)

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result]) -> Result:
        assert set(inputs) == set(node.needs), "a node gets what it needs, and nothing else"
        self.made.append(node.id)
        self.acts.get(node.id, lambda: None)()
        identity = self.identity.get(node.id, digest(f"result of {key}"))
        with self.store.scratch() as scratch:
            path = scratch / "file"
            path.write_text(identity)
            return self.store.put(node.stage, key, identity=identity, facts={}, files={"file": path})


SANDY, SKY = "debian12-sandybridge-none", "debian12-skylake_avx512-none"


@pytest.fixture
def plan() -> Plan:
    """Three models, of which two share a target, on one image."""
    spec = make_spec()
    return expand(spec, select(spec, Selection(selectors=("all",))))


@pytest.fixture
def pipe(workshop: Workshop) -> Scripted:
    return Scripted(workshop, make_spec())


@pytest.fixture
def again(workshop: Workshop) -> Callable[[], Scripted]:
    """A pipeline of the next run, with the same store."""
    return lambda: Scripted(workshop, make_spec())


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
        report.outcomes[node.id] = Outcome(node=node, status="failed", error=error)
    report.outcomes["blocked"] = Outcome(node=plan.nodes[-1], status="blocked")
    assert status(report) == code


def test_a_mistake_in_the_tool_itself_ends_the_run_and_is_not_hidden(
    pipe: Scripted, plan: Plan, fake: FakeEngine
) -> None:
    pipe.acts["source:v1.0"] = _raise(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pipe.execute(plan, Events())
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
    assert fake.aborted == 1
    assert sorted(pipe.made) == ["image:debian12", "image:tools", "source:v1.0"]
    assert not [t for t in threading.enumerate() if t.name.startswith("node")], "no thread outlives the run"
    with pytest.raises(HostError, match="interrupted"), process._registered(_Dead()):  # type: ignore[arg-type]
        pass


class _Dead:
    """A program that has ended."""

    pid = 2**22 + 1

    def poll(self) -> int:
        return 0


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
    monkeypatch.setattr(image, "usable", lambda result, workshop: False)
    second, log = again(), Log()
    second.execute(plan, log)
    assert sorted(second.made) == ["image:debian12", "image:tools"]
    assert sorted(log.notices) == [
        "the engine does not hold image:debian12 any more: it is made anew",
        "the engine does not hold image:tools any more: it is made anew",
    ]


def test_new_pins_are_told_once(pipe: Scripted, plan: Plan, workshop: Workshop) -> None:
    pipe.acts["source:v1.0"] = lambda: workshop.lock.check("sources", "x", "commit", "abc")
    log = Log()
    pipe.execute(plan, log)
    assert log.notices == ["sources.lock: x: commit pinned to abc"]


# ---- in parallel


def test_one_compilation_at_a_time_and_a_limit_on_all(workshop: Workshop) -> None:
    spec = make_spec(
        hardware={f"M{n}": {"cpus": [cpu]} for n, cpu in enumerate(("nehalem", "haswell", "zen2", "icelake", "zen3"))}
    )
    plan = expand(spec, select(spec, Selection(selectors=("all",))))
    pipe = Scripted(workshop, spec)
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
    assert most["compile"] == 1
    assert 1 < most["all"] <= WORKERS


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
    monkeypatch.setattr(image, "usable", lambda result, workshop: False)
    lost = _views(again(), plan)
    assert lost["image:debian12"] == (False, "the engine does not hold it any more")


def test_looking_changes_nothing(pipe: Scripted, plan: Plan, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    _views(pipe, plan)
    assert sorted(tmp_path.rglob("*")) == before
