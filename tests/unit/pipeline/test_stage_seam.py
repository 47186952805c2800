"""The seam of stages: one that counts files, registered; planned, keyed, run and taken from the store as others."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from unit.cell_results import FACTS
from unit.helpers import make_spec

from pikaforge.cli import main
from pikaforge.config.registry import STAGES
from pikaforge.config.scalars import Strict
from pikaforge.host.hashing import digest
from pikaforge.host.job import files
from pikaforge.host.store import Result, sealed
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.outcomes import Events
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, Request, RunContext
from pikaforge.plan.plan import Node, Plan, expand
from pikaforge.plan.selectors import Selection, select
from pikaforge.plan.stages import Needs, Scope, Slot

COUNT = "count:debian12-sandybridge-none"
COMPILED = "compile:debian12-sandybridge-none"


class Count(Strict):
    """The facts of a count."""

    files: int


class CountStage(BaseStage):
    """How many files a tree has."""

    name = "count"
    scope: Scope = "group"
    facts = Count
    reads = frozenset({"compile"})

    def __init__(self) -> None:
        self.made: list[str] = []

    def needs(self, slot: Slot) -> Needs:
        return Needs(ids=(f"compile:{slot.label}",), cells=slot.own)

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        return Material(facts={"count": 1})

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        self.made.append(inputs.node.id)
        with tarfile.open(inputs.of("compile").files["tree.tar"]) as tree:
            number = sum(member.isfile() for member in tree)
        return run.workspace.store.put(self.name, key, identity=str(number), facts=Count(files=number), files={})

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        return [f"{result.read(Count).files} files"] if fresh else []


class Compiled(Pipeline):
    """A pipeline that has a tree without a compiler; the stage under test is the real one."""

    tree: Mapping[str, bytes] = {"bin/demo": b"x", "conf/demo.conf": b"y"}
    note = "gcc 12.2"

    def _material(self, node: Node, *, offline: bool) -> Material:
        return super()._material(node, offline=offline) if node.stage == "count" else Material(facts={"id": node.id})

    def _make(self, node: Node, key: str, inputs: Mapping[str, Result], material: Material) -> Result:
        if node.stage == "count":
            return super()._make(node, key, inputs, material)
        with self._workspace.store.scratch() as scratch:
            path = scratch / "tree.tar"
            path.write_bytes(files(self.tree))
            held = {"tree.tar": path}
            facts = FACTS[node.stage].model_dump(mode="json")
            if node.stage == "compile":
                facts["compiler"] = [self.note]
            return self._workspace.store.put(node.stage, key, identity=digest(key), facts=facts, files=held)


class Log(Events):
    """What the user is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture(autouse=True)
def stage() -> Iterator[CountStage]:
    made = CountStage()
    with STAGES.registered("count", made):
        yield made


def the_plan() -> Plan:
    spec = make_spec()
    return expand(spec, select(spec, Selection(selectors=("R620-debian12-none",))))


def run(workspace: Workspace, log: Log) -> dict[str, str]:
    """Run the plan; the status of each node."""
    origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
    pipeline = Compiled(workspace, Request(spec=make_spec(), origin=origin, series=None))
    return {name: outcome.status for name, outcome in pipeline.execute(the_plan(), log).outcomes.items()}


def test_it_is_planned_behind_what_it_needs() -> None:
    ids = [node.id for node in the_plan().nodes]
    assert ids.index(COMPILED) < ids.index(COUNT) < ids.index("package:R620-debian12-none")
    (node,) = (node for node in the_plan().nodes if node.id == COUNT)
    assert node.needs == (COMPILED,)
    assert [cell.id for cell in node.cells] == ["R620-debian12-none"]


def test_it_is_run_once_and_tells(workspace: Workspace, stage: CountStage) -> None:
    log = Log()
    assert run(workspace, log)[COUNT] == "done"
    assert log.notices == [f"{COUNT}: 2 files"]
    again = Log()
    assert run(workspace, again)[COUNT] == "cached"
    assert (stage.made, again.notices) == ([COUNT], [])


def test_the_facts_that_it_reads_are_part_of_its_key(
    workspace: Workspace, stage: CountStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace, Log())
    for path in (workspace.out / "store" / "compile").iterdir():  # made anew, with the same files and other facts
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    monkeypatch.setattr(Compiled, "note", "gcc 12.3")
    assert run(workspace, Log())[COUNT] == "done"
    assert len(stage.made) == 2


def test_facts_of_another_version_are_no_result(workspace: Workspace, stage: CountStage) -> None:
    run(workspace, Log())
    [path] = (workspace.out / "store" / "count").glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["facts"].pop("files") == 2
    path.write_text(json.dumps(sealed(record)))
    log = Log()
    assert run(workspace, log)[COUNT] == "done"
    reason = "the facts of a stored result cannot be read: files: Field required"
    assert log.notices == [f"the stored result of {COUNT} is made anew: {reason}", f"{COUNT}: 2 files"]
    assert run(workspace, Log())[COUNT] == "cached"


def test_the_command_line_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["plan", "R620", "--os", "debian12", "--out", str(tmp_path / "out")])
    assert "count" in capsys.readouterr().out
