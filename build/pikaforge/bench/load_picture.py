"""Plot a load test: requests per second, p99 latency and resident memory over time, and what the allocator said."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pikaforge.bench.figures import COLOURS, DPI, PANELS, SPIKY, Panel, library, unit_of
from pikaforge.bench.histogram import Histogram
from pikaforge.bench.journal import AllocatorText
from pikaforge.bench.load import Interval
from pikaforge.bench.summary import NO_FIGURE
from pikaforge.host.durable import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, PANEL_HEIGHT, LINE_HEIGHT, HEAD = 12.0, 2.15, 0.145, 1.1
"""In inches."""
MOST_POINTS = 1200
"""Points of a line, one for each pixel; a longer test has several intervals in one point."""
MOST_LINES, MOST_COLUMNS = 24, 84
"""Of a text of the allocator that are drawn; the report has the whole."""
TIMES = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"))
LEFT, RIGHT = 0.07, 0.985


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPicture:
    """What is drawn."""

    title: str
    subtitle: str
    footer: str
    """The line at the bottom: what the server has in the end."""
    intervals: tuple[Interval, ...]
    pauses: tuple[float, ...]
    """Seconds of the load after which it was interrupted."""
    before: tuple[AllocatorText, ...]
    after: tuple[AllocatorText, ...]


def joined(intervals: Sequence[Interval], most: int = MOST_POINTS) -> list[Interval]:
    """Return intervals of which each stands for several ones, so that there are at most so many."""
    size = -(-len(intervals) // most)
    if size <= 1:
        return list(intervals)
    parts = [intervals[place : place + size] for place in range(0, len(intervals), size)]
    return [
        Interval(
            start=part[0].start,
            seconds=sum(interval.seconds for interval in part),
            latency=Histogram.of(*(interval.latency for interval in part)),
            resident=max((i.resident for i in part if i.resident is not None), default=None),
        )
        for part in parts
    ]


def draw_load(picture: LoadPicture, *, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write the plot as SVG and as PNG, each atomically. The same figures give the same SVG.

    Returns:
        Paths of the SVG and the PNG.

    Raises:
        HostError: see `figures.library`.
    """
    library()
    import matplotlib  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    svg, png = folder / f"{stem}.svg", folder / f"{stem}.png"
    lines = max((_height(texts) for texts in (picture.before, picture.after)), default=0)
    height = HEAD + PANEL_HEIGHT * len(PANELS) + (0.75 + LINE_HEIGHT * lines if lines else 0.35)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc changes nothing
        matplotlib.rc("svg", hashsalt="pikaforge")
        matplotlib.rc("font", size=10)
        matplotlib.rc("axes.spines", top=False, right=False)
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        FigureCanvasAgg(figure)
        _compose(figure, picture, height, lines)
        for path, metadata in ((svg, {"Date": None}), (png, {"Software": None})):
            content = io.BytesIO()
            figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
            write_atomically(path, content.getvalue())
    return svg, png


def _compose(figure: Figure, picture: LoadPicture, height: float, lines: int) -> None:
    bottom = (0.95 + LINE_HEIGHT * lines + 0.3 if lines else 0.85) / height
    grid = figure.add_gridspec(
        len(PANELS), 1, left=LEFT, right=RIGHT, top=1 - (HEAD - 0.1) / height, bottom=bottom, hspace=0.32
    )
    figure.text(0.012, 1 - 0.18 / height, picture.title, fontsize=15, fontweight="bold", va="top", parse_math=False)
    figure.text(0.012, 1 - 0.52 / height, picture.subtitle, fontsize=10, va="top", color="0.25")
    figure.text(0.012, 0.1 / height, picture.footer, fontsize=9.5, va="bottom", color="0.25")
    points = joined(picture.intervals)
    end = points[-1].start + points[-1].seconds if points else 1.0
    scale, name = next(((s, n) for s, n in reversed(TIMES) if end >= 3 * s), TIMES[0])
    axes: list[Axes] = []
    for row, panel in enumerate(PANELS):
        axes.append(figure.add_subplot(grid[row, 0], sharex=axes[0] if axes else None))
        _over_time(axes[-1], panel, points, scale, COLOURS[row + 1])
        for pause in picture.pauses:
            axes[-1].axvline(pause / scale, color="0.45", linewidth=1, linestyle=(0, (2, 2)))
    if picture.pauses:  # at the right, where no title is
        axes[0].text(
            1.0, 1.03, "dotted: interrupted, and went on", transform=axes[0].transAxes, fontsize=9, color="0.35",
            ha="right", va="bottom",
        )  # fmt: skip
    axes[0].set_xlim(0, end / scale)
    for each in axes[:-1]:
        each.tick_params(labelbottom=False)
    axes[-1].set_xlabel(f"{name} of load")
    for place, when, texts in ((LEFT - 0.05, "before", picture.before), (0.51, "after", picture.after)):
        _texts(figure, place, (0.42 + LINE_HEIGHT * lines) / height, when, texts)


def _over_time(axes: Axes, panel: Panel, points: Sequence[Interval], scale: float, colour: str) -> None:
    """Draw a line, and the area below it."""
    line = [
        ((interval.start + interval.seconds / 2) / scale, value)
        for interval in points
        if (value := panel.value(interval)) is not None
    ]
    values = [value for _, value in line]
    factor, unit = unit_of(panel, values)
    times, heights = [at for at, _ in line], [value / factor for value in values]
    axes.plot(times, heights, color=colour, linewidth=1.5, marker="." if len(line) < 3 else None)
    axes.set_title(f"{panel.title} ({unit})", loc="left", fontsize=11)
    axes.grid(axis="y", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    if not values:
        axes.text(0.5, 0.5, NO_FIGURE, transform=axes.transAxes, ha="center", va="center", color="0.4")
    elif panel.logarithmic and median(values) > 0 and max(values) > SPIKY * median(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.fill_between(times, heights, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylim(bottom=0)


def _shown(texts: Sequence[AllocatorText]) -> list[str]:
    """Return the lines that are drawn, each cut where the column ends."""
    lines = []
    for text in texts:
        told = text.text.splitlines()
        lines += [text.title, *told[:MOST_LINES]]
        if len(told) > MOST_LINES:
            lines.append(f"… and {len(told) - MOST_LINES} more lines, in the report")
    return [line if len(line) <= MOST_COLUMNS else f"{line[: MOST_COLUMNS - 1]}…" for line in lines]


def _height(texts: Sequence[AllocatorText]) -> int:
    return len(_shown(texts))


def _texts(figure: Figure, left: float, top: float, when: str, texts: Sequence[AllocatorText]) -> None:
    lines = _shown(texts)
    if not lines:
        return
    figure.text(left, top, f"The allocator {when} the load", fontsize=10.5, va="bottom")
    figure.text(
        left, top - 0.006, "\n".join(lines), fontsize=7, family="monospace", va="top", linespacing=1.25, color="0.2",
        parse_math=False,
    )  # fmt: skip
