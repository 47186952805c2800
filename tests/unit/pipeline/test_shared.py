"""Two machines with one shared store: what one has made, the other does not make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from unit.cell_results import FACTS, SMOKED
from unit.helpers import FakeEngine, make_spec, make_workspace, tar_of
from unit.sharing_parts import MarkSeals, MemoryObjects, fails

from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.host.hashing import digest
from pikaforge.host.shared_store import SharedStore
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import compiler_cache, shared
from pikaforge.pipeline.allocator import STAGE as ALLOCATOR
from pikaforge.pipeline.compile import STAGE as COMPILE
from pikaforge.pipeline.outcomes import Events
from pikaforge.pipeline.package import STAGE as PACKAGE
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.smoke.record import SmokeFacts, WayRecord
from pikaforge.pipeline.smoke.smoke import STAGE as SMOKE
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.source.source import STAGE as SOURCE
from pikaforge.pipeline.stage import Material, Request, RunContext, Stage
from pikaforge.plan.plan import Node, Plan, expand
from pikaforge.plan.selectors import Selection, select
from pikaforge.sharing.results import SharedResults

ORIGIN = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
COMPILED = "compile:debian12-sandybridge-none"
OWN = "smoke:debian12-skylake_avx512-none"
FILES: Mapping[str, tuple[str, ...]] = {
    "source": ("source.tar",),
    "allocator": ("prefix.tar", "debug.tar", compiler_cache.FILE),
    "compile": ("tree.tar", "debug.tar", compiler_cache.FILE),
}
"""The files that a stage leaves."""


class Log(Events):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


class Scripted(Pipeline):
    """A pipeline whose stages make small results of the right form."""

    cache = b"none\n"

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace, Request(spec=make_spec(), origin=ORIGIN, series=None))
        self.made: list[str] = []

    def _material(self, node: Node, *, offline: bool) -> Material:
        return Material(facts={"id": node.id})

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        self.made.append(node.id)
        store = self._workspace.store
        with store.scratch() as scratch:
            files = {}
            for name in FILES.get(node.stage, ()):
                files[name] = scratch / name
                files[name].write_bytes(tar_of({"./bin/demo": node.id}) if name.endswith(".tar") else self.cache)
            facts = FACTS[node.stage].model_dump(mode="json")
            if node.stage == "package":
                facts["artifacts"] = []
            result = store.put(node.stage, key, identity=digest(key), facts=facts, files=files)
        shared.offered(node, self._context, result)
        return result


def a_plan(*selectors: str, machine: Machine | None = None) -> Plan:
    spec = make_spec()
    return expand(spec, select(spec, Selection(selectors=selectors or ("R620-debian12-none",))), machine=machine)


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def workspaces(tmp_path: Path, objects: MemoryObjects) -> Callable[[str], Workspace]:
    """A workspace by its name: out/ of its own, and the shared store."""

    def make(name: str) -> Workspace:
        (tmp_path / name).mkdir(exist_ok=True)
        workspace = make_workspace(tmp_path / name, FakeEngine())
        store = SharedResults(
            objects, MarkSeals(), write=True, file_limit=1 << 20, notice=workspace.lock.notices.append
        )
        return replace(workspace, shared=store)

    return make


def stages(ids: list[str]) -> set[str]:
    return {name.partition(":")[0] for name in ids}


def test_the_second_machine_makes_images_and_nothing_else(
    workspaces: Callable[[str], Workspace], objects: MemoryObjects
) -> None:
    first, second = Scripted(workspaces("a")), Scripted(workspaces("b"))
    plan = a_plan("all")
    assert set(first.execute(plan, Log()).outcomes) == set(first.made)
    log = Log()
    done = second.execute(plan, log)
    assert stages(second.made) == {"image"}
    statuses = {name: outcome.status for name, outcome in done.outcomes.items()}
    assert {name for name, status in statuses.items() if status == "cached"} == set(first.made) - set(second.made)
    assert [line for line in log.notices if "shared" in line] == []
    assert not [path for _, path in objects.asked if path.startswith("results/image/")]
    third = Scripted(workspaces("b"))
    objects.asked.clear()
    third.execute(plan, Log())
    assert (stages(third.made), objects.asked) == (set(), []), "what is here is not asked for there"


def test_a_store_out_of_reach_is_one_notice_and_stops_nothing(
    workspaces: Callable[[str], Workspace], objects: MemoryObjects
) -> None:
    objects.fails["read"] = fails(ends=True, reason="nobody answers")
    pipeline, log = Scripted(workspaces("a")), Log()
    done = pipeline.execute(a_plan("all"), log)
    assert {outcome.status for outcome in done.outcomes.values()} == {"done"}
    assert log.notices.count("the shared store memory://store is not used in this run: nobody answers") == 1
    assert len([line for line in log.notices if "shared" in line]) == 1


class WithCache(Scripted):
    """A pipeline whose compilations use a compiler cache."""

    cache = b"sha256:" + b"0" * 64


def test_what_cannot_be_used_is_made_and_takes_its_place(workspaces: Callable[[str], Workspace]) -> None:
    """A release takes nothing that was made with a compiler cache."""
    WithCache(workspaces("usual")).execute(a_plan(), Log())
    log, release = Log(), Scripted(replace(workspaces("release"), compiler_cache=False))
    release.execute(a_plan(), log)
    assert stages(release.made) == {"image", "compile"}
    assert [line for line in log.notices if line.startswith("the stored result of compile")] == [
        f"the stored result of {COMPILED} is made anew: a compiler cache may have been used, and this run uses none"
    ]
    other = Scripted(replace(workspaces("another"), compiler_cache=False))
    other.execute(a_plan(), Log())
    assert stages(other.made) == {"image"}


def test_the_host_engine_shares_nothing(workspaces: Callable[[str], Workspace], objects: MemoryObjects) -> None:
    workspace = workspaces("a")
    workspace.engine.kind = "host"
    Scripted(workspace).execute(a_plan(), Log())
    assert objects.asked == []


def test_a_verdict_of_a_machine_that_can_run_it_comes_before_a_twins(
    workspaces: Callable[[str], Workspace],
) -> None:
    Scripted(workspaces("able")).execute(a_plan("R640-debian12-none"), Log())
    weak = Machine(flags=microarch.kernel_flags("sandybridge"), emulates=False)
    pipeline = Scripted(workspaces("weak"))
    plan = a_plan("R640-debian12-none", machine=weak)
    assert next(node for node in plan.nodes if node.id == OWN).twin
    outcome = pipeline.execute(plan, Log()).outcomes[OWN]
    assert outcome.status == "cached"
    assert OWN not in pipeline.made


# ---- what stages do not take


def result(stage: str, tmp_path: Path, files: Mapping[str, bytes]) -> Result:
    paths = {}
    for name, data in files.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(data)
    facts = FACTS[stage].model_dump(mode="json") if stage in FACTS else {}
    return Result(stage=stage, key="0" * 32, identity="i", facts=facts, files=paths)


@pytest.fixture
def run(workspace: Workspace) -> RunContext:
    return RunContext.of(workspace, Request(spec=make_spec(), origin=ORIGIN, series=None))


GOOD = tar_of({"./bin/demo": "x"})


@pytest.mark.parametrize("stage", [COMPILE, ALLOCATOR, SOURCE])
def test_a_stage_takes_its_own_files_and_no_others(stage: Stage, tmp_path: Path, run: RunContext) -> None:
    good = dict.fromkeys(FILES[stage.name], GOOD)
    assert stage.unfit(result(stage.name, tmp_path, good), run) == ""
    assert stage.unfit(result(stage.name, tmp_path, {**good, "more": b""}), run) != ""
    good.popitem()
    assert stage.unfit(result(stage.name, tmp_path, good), run) != ""


@pytest.mark.parametrize("stage", [COMPILE, ALLOCATOR])
@pytest.mark.parametrize(
    ("tree", "why"),
    [
        (tar_of({"../escape": "x"}), "'../escape' is outside of the tree"),
        (b"no archive", "corrupt"),
    ],
)
def test_a_stage_looks_into_trees(stage: Stage, tree: bytes, why: str, tmp_path: Path, run: RunContext) -> None:
    for bad in FILES[stage.name][:2]:
        files = dict.fromkeys(FILES[stage.name], GOOD) | {bad: tree}
        assert why in stage.unfit(result(stage.name, tmp_path, files), run)


def test_a_source_has_to_fit_the_pins_of_submodules(tmp_path: Path, run: RunContext) -> None:
    found = result("source", tmp_path, {"source.tar": GOOD})
    assert SOURCE.unfit(found, run) == ""
    assert run.workspace.lock.pins("sources", ORIGIN.entry)["submodule third/x"] == "f" * 40
    other = replace(found, facts={**found.facts, "submodules": {"third/x": "0" * 40}})
    assert "third/x" in SOURCE.unfit(other, run)
    none = replace(found, facts={**found.facts, "submodules": {"third/y": "; rm -rf /"}})
    assert SOURCE.unfit(none, run) == "the commit of a submodule is none"


def test_a_package_has_to_be_what_its_facts_list(tmp_path: Path, run: RunContext) -> None:
    listed = {"path": "a.tar.gz", "sha256": digest(b"x"), "bytes": 1, "format": "tar", "role": "main"}
    found = result("package", tmp_path, {"a.tar.gz": b"x"})
    good = replace(found, facts={**found.facts, "artifacts": [listed]})
    assert PACKAGE.unfit(good, run) == ""
    for bad in ([], [{**listed, "path": "../a.tar.gz"}], [{**listed, "sha256": digest(b"y")}]):
        assert PACKAGE.unfit(replace(found, facts={**found.facts, "artifacts": bad}), run) != ""


def test_a_verdict_without_a_native_run_is_no_verdict_where_one_can_be_made(run: RunContext) -> None:
    emulated = SMOKED.model_copy(update={"native": WayRecord(ran=False, reason="this machine lacks avx")})

    def lost(facts: SmokeFacts) -> str:
        found = Result(stage="smoke", key="0" * 32, identity="i", facts=facts.model_dump(mode="json"), files={})
        return SMOKE.lost(found, run, engine_answers=lambda: True)

    assert lost(SMOKED) == ""
    assert lost(emulated) == "it was not run natively, which this machine can do"
    newer = emulated.model_copy(update={"target": "skylake_avx512", "tried": "skylake_avx512"})
    assert lost(newer) == "", "this machine cannot either"
    assert lost(emulated.model_copy(update={"target": "skylake_avx512"})) == "", "that is a twin's"


def test_the_seam_is_what_pipelines_use(workspaces: Callable[[str], Workspace]) -> None:
    store: SharedStore | None = workspaces("a").shared
    assert store is not None
    assert store.where == "memory://store"
