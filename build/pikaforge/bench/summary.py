"""Compare several servers under one load, in several rounds: the figures of each, and their ratios to a baseline.

The noise of a machine changes over time. So the servers take turns (A B C, A B C, ...), ratios are made within a round,
where the noise is similar, and the median over the rounds is reported, with the least and the greatest value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from pikaforge.bench.histogram import Histogram
from pikaforge.bench.load import QUANTILES, Interval, Samples
from pikaforge.errors import UsageError

BASELINE = "none"
NO_FIGURE = "no figure"
MIB = 1 << 20
BUSY = 0.9
"""From this share of time on, a load process counts as being at its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRun:
    """One load on one server."""

    name: str
    """The server's name: its allocator, or its model."""
    round: int
    samples: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a run."""

    name: str
    title: str
    unit: str
    better: str
    """`higher` or `lower`."""


METRICS = (
    Metric(name="throughput", title="throughput", unit="requests/s", better="higher"),
    Metric(name="p50", title="p50 latency", unit="us", better="lower"),
    Metric(name="p99", title="p99 latency", unit="us", better="lower"),
    Metric(name="p999", title="p99.9 latency", unit="us", better="lower"),
    Metric(name="resident_peak", title="memory at its peak", unit="bytes", better="lower"),
    Metric(name="resident_end", title="memory at the end", unit="bytes", better="lower"),
    Metric(name="resident_equal", title="memory after equal work", unit="bytes", better="lower"),
)
"""`resident_equal` is the resident memory after as many requests as the slowest run of the round has made in all. A
faster server has stored more at the end, so only this figure of memory compares equal work."""
SHOWN = ("throughput", "p99", "resident_peak", "resident_equal")
"""The metrics in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure for each round."""

    values: tuple[float | None, ...]
    """By round; None where there is no figure."""

    @property
    def known(self) -> tuple[float, ...]:
        """The figures of the rounds that have one."""
        return tuple(value for value in self.values if value is not None)

    @property
    def median(self) -> float | None:
        """The median; None without any figure."""
        return median(self.known) if self.known else None

    @property
    def low(self) -> float | None:
        """The least figure; None without any."""
        return min(self.known, default=None)

    @property
    def high(self) -> float | None:
        """The greatest figure; None without any."""
        return max(self.known, default=None)

    def json(self) -> dict[str, object]:
        """Return it as JSON data."""
        return {"rounds": list(self.values), "median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The figures of runs, and their ratios to the baseline."""

    baseline: str
    warm_up: float
    names: tuple[str, ...]
    """In the order in which they ran first."""
    rounds: tuple[int, ...]
    figures: Mapping[str, Mapping[str, Spread]]
    """By name and metric, in the metric's unit."""
    ratios: Mapping[str, Mapping[str, Spread]]
    """By name and metric: the figure divided by the baseline's of the same round."""
    busy: Mapping[str, float]
    """By name: the share of time in which the busiest load process used its CPU; the greatest of the rounds."""
    axis: str = "allocator"
    """What differs between the servers: the head of the table's first column."""

    def header(self) -> tuple[str, ...]:
        """Return the heads of the table's columns."""
        heads = [self.axis]
        for metric in METRICS:
            if metric.name in SHOWN:
                heads += [f"{metric.title}, {_shown_unit(metric)}", f"x {self.baseline}"]
        return tuple(heads)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's rows, one for each name: medians, and ratios as `median (least-greatest)`."""
        rows = []
        for name in self.names:
            row = [name]
            for metric in METRICS:
                if metric.name in SHOWN:
                    row.append(_figure(self.figures[name][metric.name].median, metric))
                    row.append(_ratio(self.ratios[name][metric.name]))
            rows.append(tuple(row))
        return rows

    def notes(self) -> list[str]:
        """Return what a reader of the figures must know; may be empty."""
        limited = [name for name in self.names if self.busy[name] >= BUSY]
        if not limited:
            return []
        who = ", ".join(limited)
        what = "these servers may be faster than shown, and their ratios further from 1"
        return [f"the load itself was at its limit ({who}): {what}; use more processes, and cores to spare"]

    def json(self) -> dict[str, object]:
        """Return JSON data: by name and metric, the figures and ratios of all rounds; null where there is none."""
        return {
            "baseline": self.baseline,
            "warm_up": self.warm_up,
            "rounds": list(self.rounds),
            "units": {metric.name: metric.unit for metric in METRICS},
            "better": {metric.name: metric.better for metric in METRICS},
            "series": {
                name: {
                    "busy": round(self.busy[name], 3),
                    **{
                        metric.name: {
                            **self.figures[name][metric.name].json(),
                            "ratio": self.ratios[name][metric.name].json(),
                        }
                        for metric in METRICS
                    },
                }
                for name in self.names
            },
            "notes": self.notes(),
        }


def compare(
    runs: Sequence[LoadRun], baseline: str = BASELINE, *, warm_up: float = 0.0, axis: str = "allocator"
) -> Comparison:
    """Compare runs.

    Args:
        runs: in the order in which they were made; a name at most once in a round.
        baseline: the name of the server that others are compared with.
        warm_up: seconds from the start; intervals that begin earlier count for memory only.
        axis: what differs between the servers.

    Raises:
        ConfigError: no run is of the baseline, or a name ran twice in a round.
    """
    names = tuple(dict.fromkeys(run.name for run in runs))
    rounds = tuple(sorted({run.round for run in runs}))
    if baseline not in names:
        raise UsageError(
            f"there is no run of `{baseline}`, to which ratios would be made",
            hint=f"runs are of {', '.join(names)}" if names else "there are no runs at all",
        )
    table = {(run.name, run.round): run.samples for run in runs}
    if len(table) < len(runs):
        raise UsageError("a server ran twice in one round")
    least = {
        number: min(_counted(samples) for (_, other), samples in table.items() if other == number) for number in rounds
    }
    measured = {key: _measure(samples, warm_up, least[key[1]]) for key, samples in table.items()}
    figures: dict[str, dict[str, Spread]] = {}
    ratios: dict[str, dict[str, Spread]] = {}
    for name in names:
        figures[name], ratios[name] = {}, {}
        for metric in METRICS:
            own = [measured.get((name, number), {}).get(metric.name) for number in rounds]
            base = [measured.get((baseline, number), {}).get(metric.name) for number in rounds]
            figures[name][metric.name] = Spread(values=tuple(own))
            ratios[name][metric.name] = Spread(values=tuple(map(_divide, own, base)))
    return Comparison(
        baseline=baseline,
        warm_up=warm_up,
        names=names,
        rounds=rounds,
        figures=figures,
        ratios=ratios,
        busy={name: max(run.samples.busy for run in runs if run.name == name) for name in names},
        axis=axis,
    )


def _divide(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _counted(samples: Samples) -> int:
    return sum(interval.requests for interval in samples.intervals)


def _measure(samples: Samples, warm_up: float, work: int) -> dict[str, float | None]:
    """Return a run's figures by metric; None where there is none."""
    # The tolerance is for the conversion of nanoseconds to floats.
    warm = [interval for interval in samples.intervals if interval.start >= warm_up - 1e-6]
    latency = Histogram.of(*(interval.latency for interval in warm), *([samples.late] if warm else []))
    memory = [interval.resident for interval in samples.intervals if interval.resident is not None]
    return {
        "throughput": median(interval.rate for interval in warm) if warm else None,
        **{name: latency.quantile(per_thousand) for name, per_thousand in QUANTILES.items()},
        "resident_peak": max(memory, default=None),
        "resident_end": samples.intervals[-1].resident if samples.intervals else None,
        "resident_equal": _resident_after(samples.intervals, work),
    }


def _resident_after(intervals: Sequence[Interval], work: int) -> float | None:
    """Return the memory after a number of requests, interpolated between the samples before and after it."""
    points = [
        (done, interval.resident)
        for done, interval in zip(accumulate(interval.requests for interval in intervals), intervals, strict=True)
        if interval.resident is not None
    ]
    before: tuple[int, int] | None = None
    for done, resident in points:
        if done >= work:
            if before is None or done == before[0]:
                return float(resident)
            share = (work - before[0]) / (done - before[0])
            return before[1] + share * (resident - before[1])
        before = done, resident
    return None


def overlay(runs: Sequence[LoadRun], name: str) -> list[tuple[Interval, ...]]:
    """Return the intervals of a name's runs, one tuple for each point in time; as many as the shortest run has."""
    return list(zip(*(run.samples.intervals for run in runs if run.name == name), strict=False))


def _shown_unit(metric: Metric) -> str:
    return "MiB" if metric.unit == "bytes" else metric.unit


def _figure(value: float | None, metric: Metric) -> str:
    if value is None:
        return NO_FIGURE
    return f"{value / MIB:,.1f}" if metric.unit == "bytes" else f"{value:,.0f}"


def _ratio(ratio: Spread) -> str:
    if ratio.median is None:
        return NO_FIGURE
    if len(ratio.known) < 2:
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
