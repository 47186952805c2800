"""Measure what the tool itself costs with 10 to 10,000 cells: CPU seconds, memory, and bytes of the build report.

    python benchmarks/scale.py [--cells 10,100,1000,10000] [--store out/store] [--keys] [--to FILE]

Each size is measured in a process of its own. A matrix of so many models, images and allocators is made, and a run of
it, whose stages do nothing but store a result: what compiles and tests in a real run is not measured. The facts in
those results are small ones; with --store, those of a real build, so that reports are as large as real ones: each
compilation and each image has digests of its own in them. Keys are hashes of the nodes' ids and of what they need; with
--keys, of all that stages say. Nothing is described and signed in dist/. What is measured:

- load: matrix.yaml is read, checked, and expanded to a plan;
- plan: keys of all nodes are computed, and results looked for (`nox -s plan`);
- run: all nodes are run, and their results stored;
- again: all nodes are taken from the store;
- report: packages of a few bytes are put into dist/, and report.json is made of the run, written and read;
- page: report.html is written.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build"), str(HERE / "tests"), str(HERE / "benchmarks")]

from pydantic import BaseModel  # noqa: E402
from unit.cell_results import FACTS  # noqa: E402
from unit.helpers import BASE, FakeEngine, make_spec, make_workspace  # noqa: E402

from pikaforge.cli.faces.blocks import Blocks  # noqa: E402
from pikaforge.cli.faces.reporter import Reporter  # noqa: E402
from pikaforge.config.schema import Spec  # noqa: E402
from pikaforge.formats.artifact import ArtifactRecord  # noqa: E402
from pikaforge.host.hashing import digest  # noqa: E402
from pikaforge.host.store import Result  # noqa: E402
from pikaforge.host.workspace import Workspace  # noqa: E402
from pikaforge.pipeline import report  # noqa: E402
from pikaforge.pipeline.dist_folder import put_package, write_sums  # noqa: E402
from pikaforge.pipeline.expected import EarlierTimes, seconds_of  # noqa: E402
from pikaforge.pipeline.outcomes import Report  # noqa: E402
from pikaforge.pipeline.package import PackageFacts  # noqa: E402
from pikaforge.pipeline.pipeline import Pipeline, budget_of  # noqa: E402
from pikaforge.pipeline.report_page import page  # noqa: E402
from pikaforge.pipeline.source.origin import Origin  # noqa: E402
from pikaforge.pipeline.stage import Material, Request  # noqa: E402
from pikaforge.plan.matrix import all_cells  # noqa: E402
from pikaforge.plan.plan import Node, Plan, expand  # noqa: E402

SIZES = (10, 100, 1000, 10_000)
CPUS = (
    "nehalem",
    "sandybridge",
    "ivybridge",
    "haswell",
    "broadwell",
    "zen",
    "zen2",
    "zen3",
    "skylake_avx512",
    "icelake",
)
SHAPES = {10: (5, 2, 1), 100: (25, 4, 1), 1000: (50, 10, 2), 10_000: (250, 20, 2)}
"""Models, images and allocators by the number of cells."""


def matrix(cells: int) -> Spec:
    """Return the specification of a matrix with so many cells."""
    models, images, allocators = SHAPES[cells]
    image = {**BASE["images"]["debian12"], "formats": ["tar"]}
    kinds = {"none": {"kind": "none"}, "system": {"kind": "system"}}
    return make_spec(
        hardware={f"M{n}": {"cpus": [CPUS[n % len(CPUS)]]} for n in range(models)},
        images={f"os{n}": {**image, "os": {"id": "debian", "version": str(12 + n)}} for n in range(images)},
        allocators=dict(list(kinds.items())[:allocators]),
        defaults__image="os0",
        defaults__tools="os0",
    )


def facts_in(store: Path) -> dict[str, str]:
    """Return facts of a real build as JSON: those of the largest result of each stage."""
    found: dict[str, str] = {}
    for stage in FACTS:
        files = sorted((store / stage).glob("*/result.json"), key=lambda path: path.stat().st_size)
        if files:
            found[stage] = json.dumps(json.loads(files[-1].read_text(encoding="utf-8"))["facts"])
    return found


class Idle(Pipeline):
    """A pipeline whose stages only store facts. Keys and order are the real ones."""

    given: Mapping[str, str] = {}
    keys = False

    def _material(self, node: Node, *, offline: bool) -> Material:
        """With --keys, take what needs no network from the stages."""
        if not self.keys or node.stage in ("source", "image"):
            return Material(facts={"id": node.id})
        return super()._material(node, offline=offline)

    def _make(self, node: Node, key: str, results: Mapping[str, Result], material: Material) -> Result:
        facts = self._own(node) if node.stage in self.given else _plain(FACTS[node.stage])
        files: dict[str, Path] = {}
        with self._workspace.store.scratch() as scratch:
            if node.stage == "package":
                name = f"demo-v1.0-{node.label}.tar.gz"
                files = {name: scratch / name}
                files[name].write_text(node.label)
                artifact = ArtifactRecord(
                    format="tar", role="main", path=name, sha256=digest(node.label.encode()), bytes=len(node.label)
                )
                facts["artifacts"] = [artifact.model_dump(mode="json")]
            return self._workspace.store.put(node.stage, key, identity=key, facts=facts, files=files)

    def _own(self, node: Node) -> dict[str, object]:
        """Return facts of a real build with digests and build ids that are those of this node.

        In a manifest they are those of the image and of the compilation, which other cells have, too.
        """
        text = self.given[node.stage]
        facts = _marked(text, node.id)
        if node.stage == "package":
            cell = node.cells[0]
            own, image = _marked(text, cell.group)["manifest"], _marked(text, cell.image)["manifest"]
            assert isinstance(own, dict)
            assert isinstance(image, dict)
            facts["manifest"] = {**own, "image": image["image"]}
        return facts


_DIGEST = re.compile(r"(?<=[\"/:])[0-9a-f]{16,64}\b")


def _marked(text: str, mark: str) -> dict[str, object]:
    """Return JSON with other digests."""
    found: dict[str, object] = json.loads(_DIGEST.sub(lambda old: digest(mark + old[0])[: len(old[0])], text))
    return found


def _plain(model: BaseModel) -> dict[str, object]:
    found: dict[str, object] = model.model_dump(mode="json")
    return found


class Clock:
    """Measures CPU seconds and the largest memory of this process by the names of its parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        began = time.process_time()
        yield
        self.seconds[name] = round(time.process_time() - began, 3)
        self.memory[name] = peak()


def peak() -> int:
    """Return how many bytes of memory this process has had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def put(workspace: Workspace, spec: Spec, done: Report) -> Path:
    """Put the packages of a run into dist/, and write the build report; return its path."""
    artifacts = {}
    sums: dict[Path, dict[str, str]] = {}
    for outcome in done.of("package"):
        assert outcome.result is not None
        cell = outcome.node.cells[0]
        records = []
        for artifact in outcome.result.read(PackageFacts).artifacts:
            path, _ = put_package(outcome.result, artifact, workspace.dist / cell.image)
            sums.setdefault(path.parent, {})[path.name] = artifact.sha256
            records.append(artifact.model_copy(update={"path": f"{cell.image}/{path.name}"}))
        artifacts[cell.id] = tuple(records)
    for folder, digests in sums.items():
        write_sums(folder, digests)
    earlier = report.load(workspace.dist)
    now = datetime.now(timezone.utc)
    return report.write(
        workspace.dist, report.merge(spec, done, artifacts, earlier=earlier, dist=workspace.dist, now=now)
    )


def measure(cells: int, store: Path | None, *, keys: bool = False) -> dict[str, object]:
    """Return what a matrix with so many cells costs."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="pikaforge-bench-") as folder, ExitStack() as stack:
        stream = stack.enter_context((Path(folder) / "events").open("w", encoding="utf-8"))
        events = stack.enter_context(Reporter(Blocks(stream, {})))
        with clock.part("load"):
            spec = matrix(cells)
            plan = expand(spec, all_cells(spec))
        workspace = make_workspace(Path(folder), FakeEngine())
        origin = Origin(kind="git", spec="x", url="https://example.org/x.git", ref="v1")
        pipeline = Idle(workspace, Request(spec=spec, origin=origin, series=None))
        pipeline.given = facts_in(store) if store is not None else {}
        pipeline.keys = keys
        with clock.part("plan"):
            views = pipeline.views(plan, engine_answers=lambda: True)
        assert not any(view.cached for view in views)
        with clock.part("run"):
            run(pipeline, plan, events, EarlierTimes(nodes={}, stages={}), workspace)
        with clock.part("again"):
            done = run(pipeline, plan, events, EarlierTimes(nodes={}, stages={}), workspace)
        with clock.part("report"):
            written = put(workspace, spec, done)
            made = report.load(workspace.dist)
        assert made is not None and len(made.cells) == cells
        with clock.part("page"):
            html = page.write_beside(written, made, logs=None)
        return {
            "cells": cells,
            "nodes": len(plan.nodes),
            "seconds": clock.seconds,
            "memory": peak(),
            "memory_after": clock.memory,
            "report": written.stat().st_size,
            "page": html.stat().st_size,
        }


def run(pipeline: Pipeline, plan: Plan, events: Reporter, times: EarlierTimes, workspace: Workspace) -> Report:
    """Run a plan as `build` does."""
    views = pipeline.views(plan, engine_answers=lambda: True)
    cached = {view.node.id for view in views if view.cached}
    events.opened(pipeline._request.spec.product, plan, views, times, budget=budget_of(workspace))
    return pipeline.execute(plan, events, seconds=seconds_of(plan, cached, times))


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(map(str, SIZES)))
    parser.add_argument("--store", type=Path, help="the results of a real build, whose facts are taken")
    parser.add_argument("--keys", action="store_true", help="compute real keys of all nodes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--machine", default="", help="what is said of the machine in that file")
    parser.add_argument("--to", type=Path, help="a file for the figures, of which docs/pictures/figures.py draws")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.store, keys=given.keys)))
        return
    rows = []
    for size in map(int, given.cells.split(",")):
        words = [sys.executable, __file__, "--one", str(size), *(["--store", str(given.store)] if given.store else [])]
        words += ["--keys"] if given.keys else []
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
        if given.to:
            command = shlex.join(["python", "benchmarks/scale.py", "--cells", given.cells])
            text = json.dumps({"machine": given.machine, "command": command, "rows": rows}, indent=1)
            given.to.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
