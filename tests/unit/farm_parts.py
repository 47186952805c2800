"""What tests of farms share: a pipeline without jobs, and a cluster whose one worker is this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from pydantic import BaseModel
from unit.cell_results import FACTS
from unit.helpers import BASE, FakeEngine, make_workspace
from unit.sharing_parts import MarkSeals, MemoryObjects

from pikaforge.config import load
from pikaforge.farm import node as nodes
from pikaforge.farm.cluster import FarmTask
from pikaforge.farm.node import FarmWorker
from pikaforge.farm.project import ProjectOptions, ProjectPlace, text_of
from pikaforge.farm.resources import FarmSeen
from pikaforge.farm.runner import FarmProject, FarmRunner
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.hashing import digest
from pikaforge.host.job import files
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline.outcomes import Events, Report
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.pipeline import Pipeline
from pikaforge.pipeline.source.origin import Origin
from pikaforge.pipeline.stage import Inputs, Material, Request
from pikaforge.plan.plan import Node, Plan, expand
from pikaforge.plan.selectors import Selection, select
from pikaforge.sharing.results import SharedResults

PACKED = "demo.tar.gz"
CELL = "R620-debian12-none"
ORIGIN = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")


class Quick(Pipeline):
    """A pipeline whose results are their nodes' names. `does` is called before each is made, `made` has them."""

    made: list[str] = []
    does: dict[str, Callable[[Node, Workspace], object]] = {}

    def _material(self, node: Node, *, offline: bool) -> Material:
        return Material(facts={"id": node.id})

    def _make(self, node: Node, key: str, results: Mapping[str, Result], material: Material) -> Result:
        Inputs(node=node, results=results, version="v1.0")
        self.made.append(node.id)
        if (does := self.does.get(node.stage)) is not None:
            does(node, self._workspace)
        store = self._workspace.store
        with store.scratch() as scratch:
            if node.stage == "package":
                path = scratch / PACKED
                path.write_bytes(node.id.encode() * 1000)
                record = ArtifactRecord(format="tar", role="main", path=PACKED, sha256=sha256(path), bytes=1)
                facts: BaseModel = PackageFacts(artifacts=(record,), manifest={})
                return store.put(node.stage, key, identity=digest(node.id), facts=facts, files={PACKED: path})
            tree = files({"bin/demo": node.id.encode() * 1000})
            held = {
                "source": {"source.tar": tree},
                "compile": {"tree.tar": tree, "debug.tar": files({}), "compiler-cache": b"none\n"},
            }.get(node.stage, {})
            for name, data in held.items():
                (scratch / name).write_bytes(data)
            paths = {name: scratch / name for name in held}
            return store.put(node.stage, key, identity=digest(node.id), facts=FACTS[node.stage], files=paths)

    def _lost(self, node: Node, result: Result, *, engine_answers: Callable[[], bool]) -> str:
        return self._unreadable(node, result)


class Done:
    """A task that has ended."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self._answer = answer

    def add_done_callback(self, fn: Callable[[FarmTask], object]) -> None:
        fn(self)

    def result(self) -> object:
        return self._answer()


@dataclass
class HereCluster:
    """A cluster whose one worker is this process; `answer` stands for it, if a test says so."""

    worker: FarmWorker
    submitted: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    needs: dict[str, int] = field(default_factory=dict)
    cancelled: list[FarmTask] = field(default_factory=list)
    answer: Callable[[str, str], object] | None = None

    def submit(
        self, text: str, needs: Sequence[FarmTask], *, key: str, asks: Mapping[str, float], priority: int
    ) -> FarmTask:
        self.submitted.append((key, dict(asks)))
        self.needs[key.partition("-")[0]] = len(needs)
        answer = self.answer
        if answer is not None:
            return Done(lambda: answer(text, key))
        reply = nodes.reply_to(text, self.worker, []).model_dump_json()
        return Done(lambda: reply)

    def cancel(self, tasks: Sequence[FarmTask]) -> None:
        self.cancelled += tasks


class Log(Events):
    """What a run says."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.begun: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def started(self, node: Node) -> None:
        self.begun.append(node.id)


class Field:
    """A client, a worker and their shared store, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = MemoryObjects()
        self.log = Log()
        engine = FakeEngine()
        self.client = replace(make_workspace(folder / "client", engine), shared=self.shared())
        self.matrix = self.client.base / "matrix.yaml"
        self.matrix.write_text(yaml.safe_dump(BASE), encoding="utf-8")
        self.spec = load.load(self.matrix)
        self.worker = FarmWorker(
            engine=engine, out=folder / "worker", shared=self.shared(), home=self.client.home, name="w1"
        )
        self.cluster = HereCluster(worker=self.worker)
        self.seen = FarmSeen(cores=(4,), memory=(8 << 30,))
        cells = select(self.spec, Selection(selectors=(CELL,)))
        self.plan: Plan = expand(self.spec, cells)

    def shared(self) -> SharedResults:
        return SharedResults(self.objects, MarkSeals(), write=True, file_limit=1 << 20, notice=self.log.notice)

    def runner(self) -> FarmRunner:
        request = Request(spec=self.spec, origin=ORIGIN, series=None)
        pipeline = Quick(self.client, request)
        place = ProjectPlace(base=self.client.base, matrix=self.matrix, spec=self.spec, series=None, sample=False)
        options = ProjectOptions(today="2026-01-01", source="https://example.org/x.git#v1")
        assert self.client.shared is not None
        project = FarmProject(lambda: text_of(place, options), self.client, self.client.shared)
        self.pipeline = pipeline
        return FarmRunner(
            pipeline, self.client, self.cluster, self.client.shared, self.log, project=project, seen=self.seen
        )

    def run(self) -> Report:
        """Run the plan."""
        runner = self.runner()
        return self.pipeline.execute(self.plan, self.log, runner=runner)


def stages(report: Report) -> dict[str, str]:
    """Status of each node."""
    return {name: outcome.status for name, outcome in report.outcomes.items()}
