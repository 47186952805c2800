"""Measure a build with nothing to do beside `nox -l`, in turns: CPU and wall time, and their ratios.

python benchmarks/nothing_to_do.py [--rounds N] [--model R620]

It builds the sample first, if it is not up to date. Exit status 1: a figure is above its limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
NOX = (sys.executable, "-m", "nox")
TOOL = HERE / ".nox" / "tool" / "bin" / "python"
RATIO, OWN, PLAN = 2.0, 0.25, 0.6
"""Limits: of the build to `nox -l`, in CPU and in wall time; CPU seconds of the tool's own part; of a plan of all,
whether it is a kept one or is computed."""
COMPLETION = 0.2
"""Likewise, CPU seconds of bash for the names at a TAB, where the list of names is there."""
COMPLETE = 'eval "$1"; _pikaforge_selector "$2"'
ANSWERS = HERE / "out" / "answers"


@dataclass(slots=True)
class Series:
    """What one command has cost, each time."""

    name: str
    argv: Sequence[str]
    computed: bool = False
    """Whether it has no kept answer; what was parsed before is there."""
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Run it once; exit if it fails."""
        for file in ANSWERS.glob("*.json") if self.computed else ():
            file.unlink()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(self.argv, cwd=HERE, capture_output=True, check=False)
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 2):  # 2: a plan has cells that cannot be built
            sys.exit(f"{' '.join(self.argv)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        self.wall.append(wall)

    def line(self) -> str:
        """Return its best CPU and wall time. Other work on a machine only adds to both."""
        return f"{self.name:<28} {min(self.cpu):6.3f} s CPU {min(self.wall):7.3f} s"


def completions() -> list[Series]:
    """Return completions of a model and of a cell in bash; none without shtab (the extra `shell`)."""
    argv = [str(TOOL), "-m", "pikaforge", "completion", "bash"]
    done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"completion is not measured: {done.stderr.strip()}")
        return []
    words = {"completion of a model": "R6", "completion of a cell": "R620-"}
    return [Series(name, ["bash", "-c", COMPLETE, "bash", done.stdout, word]) for name, word in words.items()]


def main() -> int:
    """Run all commands in turns, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", default="R620")
    given = parser.parse_args()
    os.environ.pop("COLUMNS", None)
    sample = [given.model, "--source", "sample"]
    everything = ["all", "--os", "all", "--allocator", "all", "--source", "sample"]
    listed = Series("nox -l", [*NOX, "-l"])
    built = Series("nox -s build, nothing to do", [*NOX, "-s", "build", "--", *sample])
    own = Series("  of it the tool", [str(TOOL), "-m", "pikaforge", "build", *sample])
    planned = Series("plan of all cells", [str(TOOL), "-m", "pikaforge", "plan", *everything])
    computed = Series("  computed", planned.argv, computed=True)
    for series in (built, own, planned):  # makes what is missing, and then keeps its answer
        for _ in range(2):
            series.run()
        series.cpu.clear()
        series.wall.clear()
    for _ in range(given.rounds):
        for series in (listed, built, own, planned):
            series.run()
    for _ in range(given.rounds):  # at the end, because it removes the answers of the others
        for series in (listed, computed):
            series.run()
    completed = completions()
    for series in completed:
        series.run()  # makes the list of names, if that is not there
        series.cpu.clear()
        series.wall.clear()
        for _ in range(given.rounds):
            series.run()
    for series in (listed, built, own, planned, computed, *completed):
        print(series.line())
    cpu, wall = min(built.cpu) / min(listed.cpu), min(built.wall) / min(listed.wall)
    print(f"the build is {cpu:.2f} times nox -l in CPU, {wall:.2f} times in wall time")
    print(f"the computed plan is {min(computed.cpu) / min(listed.cpu):.2f} times nox -l in CPU")
    plans = max(min(planned.cpu), min(computed.cpu))
    good = max(cpu, wall) <= RATIO and min(own.cpu) <= OWN and plans <= PLAN
    good = good and all(min(series.cpu) <= COMPLETION for series in completed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
