"""Draws the figures of docs/benchmarks.md: `python docs/pictures/figures.py DIR`.

`scale.svg` is drawn of `benchmarks/data/scale.json`, which `benchmarks/scale.py --to` has measured. `makespan.svg` is
simulated of the recorded times in `benchmarks/data`, and is the same each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build"), str(ROOT)]

import matplotlib as mpl  # noqa: E402
from benchmarks import makespan  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from pikaforge.bench.figures import COLOURS, STYLES  # noqa: E402

DATA = ROOT / "benchmarks" / "data"
SIZE = (9.6, 3.9)
MARKS = "osD^v*P"
SEEDS = 5
PARTS = {
    "load": "read matrix.yaml, make the plan",
    "plan": "look for all results",
    "run": "run: store all results",
    "again": "run: take all from the store",
    "report": "write packages and report.json",
    "page": "write report.html",
}
"""What the parts that were measured do."""


@contextmanager
def picture(target: Path) -> Iterator[list[Axes]]:
    """Yield two plots; write them as an SVG, whose bytes depend on what is drawn alone."""
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "pikaforge", "font.size": 9, "font.family": "sans-serif"}
    )
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = list(figure.subplots(1, 2))
    yield axes
    for axis in axes:
        axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(target.with_suffix(".png"), dpi=100, metadata={"Software": None})


def scale(target: Path) -> None:
    """Draw what the tool costs by the number of cells."""
    measured = json.loads((DATA / "scale.json").read_text(encoding="utf-8"))
    rows = measured["rows"]
    cells = [row["cells"] for row in rows]
    with picture(target) as (left, right):
        for number, (part, text) in enumerate(PARTS.items()):
            seconds = [row["seconds"][part] for row in rows]
            left.plot(cells, seconds, color=COLOURS[number], marker=MARKS[number], markersize=4, label=text)
        last = sum(rows[-1]["seconds"].values())
        left.plot(cells, [last * count / cells[-1] for count in cells], color="#999999", ls=":", label="in proportion")
        left.set(title="CPU seconds", xlabel="cells", xscale="log", yscale="log")
        left.legend(fontsize=7.5, frameon=False)
        kinds = (("memory", "memory of the process"), ("report", "report.json"), ("page", "report.html"))
        for number, (name, text) in enumerate(kinds):
            size = [row[name] / (1 << 20) for row in rows]
            right.plot(cells, size, color=COLOURS[number], marker=MARKS[number], markersize=4, label=text)
        right.set(title="MiB", xlabel="cells", xscale="log", yscale="log")
        right.legend(fontsize=7.5, frameon=False)


def makespans(target: Path) -> None:
    """Draw simulated runs of the whole matrix by the number of workers, and how near to the bound they are."""
    plan = makespan.whole_matrix()
    with picture(target) as (left, right):
        for number, name in enumerate(("redis", "sample")):
            times = makespan.Times.read(DATA / f"times-{name}.json")
            found = list(makespan.makespans(plan, times, seeds=SEEDS))
            workers = [each.workers for each in found]
            left.plot(workers, [each.least / 60 for each in found], color="#999999", ls=":")
            for axis, values in (
                (left, [each.seconds / 60 for each in found]),
                (right, [each.share * 100 for each in found]),
            ):
                axis.plot(
                    workers,
                    values,
                    color=COLOURS[number + 1],
                    marker=MARKS[number],
                    markersize=4,
                    ls=STYLES[number],
                    label=f"times of {name}",
                )
        right.axhline(makespan.WANTED * 100, color="#999999", ls=":")
        right.axvline(makespan.UP_TO, color="#999999", ls=":")
        left.set(title=f"minutes for {len(plan.cells)} cells", xlabel="workers", yscale="log")
        right.set(title="% of the bound", xlabel="workers", ylim=(0, 103))
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_xticks(workers, [str(count) for count in workers], fontsize=7)
            axis.minorticks_off()
        left.legend(fontsize=7.5, frameon=False)
        right.legend(fontsize=7.5, frameon=False, loc="lower left")


def main(folder: Path) -> None:
    """Write the figures into a folder."""
    scale(folder / "scale")
    makespans(folder / "makespan")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
