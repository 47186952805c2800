"""Simulate how long a build of the whole matrix takes on 1 to 256 workers, against the shortest time that is possible.

    python benchmarks/makespan.py [--times benchmarks/data/times-redis.json] [--seeds 5]
    python benchmarks/makespan.py --record dist/report.json --machine "2 cores" --times FILE

A worker makes one node at a time, as long as a node of that stage took in a recorded run. The order of nodes is that of
the pipeline (`plan/schedule.py`, `plan/budget.py`), which expects the median of a stage; each node gets one of the
recorded times of its stage by chance, once for each seed. No run is shorter than its longest way (nodes that need one
another), nor than all work divided by the number of workers. A line says the longest of the simulated runs, that
bound, and the smallest share of the two. Below 85 % on up to 64 workers, the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "build")]

from pikaforge.config import load  # noqa: E402
from pikaforge.pipeline import report_file  # noqa: E402
from pikaforge.pipeline.stage import stage_of  # noqa: E402
from pikaforge.plan.budget import Allotter, Budget, Demand  # noqa: E402
from pikaforge.plan.matrix import all_cells  # noqa: E402
from pikaforge.plan.plan import Node, Plan, expand  # noqa: E402
from pikaforge.plan.schedule import Queue, least_seconds, simulate, ways  # noqa: E402

TIMES = HERE / "benchmarks" / "data" / "times-redis.json"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
WANTED, UP_TO = 0.85, 64
ONE = Demand(cores=1)
"""What a node takes of the workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Recorded seconds."""

    machine: str
    command: str
    stages: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, path: Path) -> Times:
        """Read a file that `--record` has written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def of(self, node: Node) -> Sequence[float]:
        """Return the times of a node's stage; one that was never recorded takes what the stage itself says."""
        return self.stages.get(node.stage) or [stage_of(node).seconds]


@dataclass(frozen=True, slots=True, kw_only=True)
class Makespan:
    """Runs on so many workers."""

    workers: int
    seconds: float
    """Of the longest run."""
    least: float
    """That no such run can undercut."""
    share: float
    """The smallest one of least and simulated time."""
    way: float
    """The longest way of that run."""


def whole_matrix() -> Plan:
    """Return the plan of all cells of matrix.yaml that can be built."""
    spec = load.load(HERE / "matrix.yaml")
    return expand(spec, [cell for cell in all_cells(spec) if not cell.problem])


def makespans(plan: Plan, times: Times, *, seeds: int, workers: Sequence[int] = WORKERS) -> Iterator[Makespan]:
    """Yield what the simulations say, by the number of workers."""
    expected = {node.id: median(times.of(node)) for node in plan.nodes}
    chances = [random.Random(seed) for seed in range(seeds)]  # noqa: S311
    drawn = [{node.id: chance.choice(times.of(node)) for node in plan.nodes} for chance in chances]
    for count in workers:
        runs = [one_run(plan, expected, took, count) for took in drawn]
        yield min(runs, key=lambda run: run.share)


def one_run(plan: Plan, expected: Mapping[str, float], took: Mapping[str, float], workers: int) -> Makespan:
    """Simulate a run."""
    allotter = Allotter(Budget(cores=workers), lambda _: ONE)
    seconds = simulate(Queue(plan.nodes, expected), allotter, lambda node, _: took[node.id]).seconds
    least = least_seconds(plan.nodes, took, workers)
    way = max(ways(plan.nodes, took).values())
    return Makespan(workers=workers, seconds=seconds, least=least, share=least / seconds, way=way)


def record(reports: Sequence[Path], machine: str, command: str, target: Path) -> None:
    """Write the times of nodes that were made in reports, by stage."""
    found: dict[tuple[str, str], float] = {}
    for path in reports:
        made = report_file.parsed(path.read_bytes())
        assert made is not None, path
        for cell in made.cells:
            for stage in cell.stages:
                if stage.status in ("done", "cached") and stage.seconds > 0:
                    found[stage.stage, stage.label] = stage.seconds
    stages: dict[str, list[float]] = {}
    for (name, _), seconds in sorted(found.items()):
        stages.setdefault(name, []).append(round(seconds, 1))
    data = {"machine": machine, "command": command, "stages": stages}
    target.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=Path, default=TIMES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--record", type=Path, nargs="+", metavar="REPORT")
    parser.add_argument("--machine", default="")
    parser.add_argument("--command", default="")
    given = parser.parse_args()
    if given.record:
        record(given.record, given.machine, given.command, given.times)
        return 0
    plan, times = whole_matrix(), Times.read(given.times)
    print(f"{len(plan.cells)} cells, {len(plan.nodes)} nodes; times of `{times.command}` on {times.machine}")
    print("workers    seconds      least   share  longest way")
    low = 0
    for each in makespans(plan, times, seeds=given.seeds):
        print(f"{each.workers:7} {each.seconds:10.0f} {each.least:10.0f} {each.share:6.1%} {each.way:12.0f}")
        low += each.share < WANTED and each.workers <= UP_TO
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
