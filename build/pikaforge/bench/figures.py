"""Plot a comparison: throughput, p99 latency and memory over time, and their ratios to the baseline."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING

from pikaforge.bench.load import Interval
from pikaforge.bench.summary import NO_FIGURE, Comparison, LoadRun, overlay
from pikaforge.host import extras
from pikaforge.host.durable import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import LineStyleType

SIZE = (12.0, 9.6)
"""In inches; 1200 pixels wide at 100 per inch."""
DPI = 100
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which people with any kind of colour vision can distinguish (jfly.uni-koeln.de/color)."""
STYLES: tuple[LineStyleType, ...] = ("solid", (0, (6, 2)), (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5)), (0, (9, 3)))
"""Styles of lines, which differ in black and white, too. Five styles and seven colours give 35 different lines."""
SPIKY = 30.0
"""Ratio of the greatest value to the median from which an axis is logarithmic: on a linear one, a single pause would
flatten everything else."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A quantity over time, and the metric whose ratios are shown beside it."""

    title: str
    metric: str
    ratio_title: str
    value: Callable[[Interval], float | None]
    units: tuple[tuple[float, str], ...]
    """Factor and name of each unit, the smallest unit first."""
    logarithmic: bool = False


def _p99(interval: Interval) -> float | None:
    return interval.latency.quantile(990)


PANELS = (
    Panel("Throughput", "throughput", "throughput", lambda i: i.rate, ((1, "requests/s"), (1e3, "1000 requests/s"))),
    Panel("p99 latency", "p99", "p99 latency", _p99, ((1, "µs"), (1e3, "ms"), (1e6, "s")), logarithmic=True),
    Panel(
        "Resident memory",
        "resident_equal",
        "memory after equal work",
        lambda i: i.resident,
        ((1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")),
    ),
)


def library() -> ModuleType:
    """Import and return matplotlib, which takes half a second.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    module: ModuleType = extras.load("matplotlib", package="matplotlib", extra="bench")
    return module


def draw(
    runs: Sequence[LoadRun], comparison: Comparison, *, title: str, subtitle: str, folder: Path, stem: str
) -> tuple[Path, Path]:
    """Write the plot as SVG and as PNG, each atomically. The same runs give the same SVG.

    Args:
        runs: the runs.
        comparison: the comparison of these runs.
        title: product, version, target and image.
        subtitle: the load, as `Workload.describe` returns it.
        folder: for the files; it is made.
        stem: the files' name without suffix.

    Returns:
        Paths of the SVG and the PNG.

    Raises:
        HostError: see `library`.
    """
    library()
    import matplotlib  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    svg, png = folder / f"{stem}.svg", folder / f"{stem}.png"
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc changes nothing
        matplotlib.rc("svg", hashsalt="pikaforge")
        matplotlib.rc("font", size=10)
        matplotlib.rc("axes.spines", top=False, right=False)
        figure = Figure(figsize=SIZE, dpi=DPI)
        FigureCanvasAgg(figure)
        _compose(figure, runs, comparison, title, subtitle)
        for path, metadata in ((svg, {"Date": None}), (png, {"Software": None})):
            content = io.BytesIO()
            figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
            write_atomically(path, content.getvalue())
    return svg, png


def _looks(comparison: Comparison) -> dict[str, tuple[str, LineStyleType]]:
    """Return colour and line style by name; the baseline is black and solid."""
    names = [comparison.baseline, *(name for name in comparison.names if name != comparison.baseline)]
    return {name: (COLOURS[n % len(COLOURS)], STYLES[n % len(STYLES)]) for n, name in enumerate(names)}


def _compose(figure: Figure, runs: Sequence[LoadRun], comparison: Comparison, title: str, subtitle: str) -> None:
    looks = _looks(comparison)
    grid = figure.add_gridspec(
        len(PANELS), 2, width_ratios=(3, 1.25), left=0.07, right=0.975, top=0.845, bottom=0.085, hspace=0.3, wspace=0.25
    )
    figure.text(0.012, 0.975, title, fontsize=15, fontweight="bold", va="top")
    figure.text(0.012, 0.94, subtitle, fontsize=10, va="top", color="0.25")
    times: list[Axes] = []
    for row, panel in enumerate(PANELS):
        left = figure.add_subplot(grid[row, 0], sharex=times[0] if times else None)
        _over_time(left, panel, runs, comparison, looks)
        times.append(left)
        _ratios(figure.add_subplot(grid[row, 1]), panel, comparison, looks)
    for axes in times[:-1]:
        axes.tick_params(labelbottom=False)
    times[-1].set_xlabel("seconds since the load's start")
    handles, labels = times[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.006, 0.917), ncols=len(labels), frameon=False,
        handlelength=3.6, fontsize=11,
    )  # fmt: skip
    figure.text(0.012, 0.016, _legend(comparison), fontsize=8.5, color="0.35", va="bottom")


def _legend(comparison: Comparison) -> str:
    """Return the line that explains lines, bands and whiskers."""
    count = len(comparison.rounds)
    what = "One round" if count == 1 else f"Lines and bars: medians of {count} rounds; bands and whiskers: all rounds"
    warm = f"; ratios without the first {comparison.warm_up:g} s" if comparison.warm_up else ""
    return f"{what}{warm}. Equal work: as many requests as the slowest did in all."


def _over_time(
    axes: Axes,
    panel: Panel,
    runs: Sequence[LoadRun],
    comparison: Comparison,
    looks: Mapping[str, tuple[str, LineStyleType]],
) -> None:
    """Draw lines of the medians over rounds, and bands from the least to the greatest."""
    lines = {name: _line(panel, overlay(runs, name)) for name in comparison.names}
    values = [point for points in lines.values() for _, point, _, _ in points]
    factor, unit = unit_of(panel, values)
    for name, points in lines.items():
        colour, style = looks[name]
        seconds = [at for at, _, _, _ in points]
        axes.plot(
            seconds, [mid / factor for _, mid, _, _ in points], color=colour, linestyle=style, linewidth=1.7, label=name
        )
        if len(comparison.rounds) > 1:
            lows, highs = [low / factor for _, _, low, _ in points], [high / factor for _, _, _, high in points]
            axes.fill_between(seconds, lows, highs, color=colour, alpha=0.12, linewidth=0)
    axes.set_title(f"{panel.title} ({unit})", loc="left", fontsize=11)
    axes.grid(axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    if not values:
        axes.text(0.5, 0.5, NO_FIGURE, transform=axes.transAxes, ha="center", va="center", color="0.4")
    elif panel.logarithmic and median(values) > 0 and max(values) > SPIKY * median(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, max((points[-1][0] for points in lines.values() if points), default=1.0))
    if comparison.warm_up:
        axes.axvspan(0, comparison.warm_up, color="0.93", linewidth=0, zorder=0)


def _line(panel: Panel, points: Sequence[Sequence[Interval]]) -> list[tuple[float, float, float, float]]:
    """Return, for each interval with a figure, the second of its end, and median, least and greatest over rounds."""
    line = []
    for intervals in points:
        values = [value for value in map(panel.value, intervals) if value is not None]
        if values:
            line.append((intervals[0].start + intervals[0].seconds, median(values), min(values), max(values)))
    return line


def unit_of(panel: Panel, values: Sequence[float]) -> tuple[float, str]:
    """Return factor and name of the largest unit in which the greatest value is at least 4."""
    top = max(values, default=0.0)
    return next(((factor, unit) for factor, unit in reversed(panel.units) if top >= 4 * factor), panel.units[0])


def _ratios(axes: Axes, panel: Panel, comparison: Comparison, looks: Mapping[str, tuple[str, LineStyleType]]) -> None:
    """Draw bars of the medians over rounds, whiskers from the least to the greatest, and a line at 1: the baseline."""
    names = [name for name in comparison.names if name != comparison.baseline]
    tops = [1.0]
    for place, name in enumerate(names):
        ratio = comparison.ratios[name][panel.metric]
        mid, low, high = ratio.median, ratio.low, ratio.high
        if mid is None or low is None or high is None:
            axes.text(0.02, place, NO_FIGURE, va="center", ha="left", fontsize=9, color="0.4")
            continue
        colour, _ = looks[name]
        axes.barh(place, mid, height=0.52, color=colour, alpha=0.85)
        if len(ratio.known) > 1:
            axes.errorbar(
                mid, place, xerr=[[mid - low], [high - mid]], fmt="none", ecolor="black", elinewidth=1.2, capsize=4
            )
        # In a column at the right, so that neither whiskers nor the line at 1 cross it.
        axes.text(
            0.99, place, f"{mid:.2f}", transform=axes.get_yaxis_transform(), va="center", ha="right", fontweight="bold"
        )
        tops.append(high)
    axes.axvline(1.0, color=looks[comparison.baseline][0], linewidth=1.3)
    axes.set_xlim(0, 1.25 * max(tops))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    better = "more" if panel.metric == "throughput" else "less"
    axes.set_title(
        f"{panel.ratio_title}, ratio to {comparison.baseline} ({better} is better)", loc="right", fontsize=10
    )
