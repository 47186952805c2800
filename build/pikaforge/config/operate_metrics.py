"""Names of a server's metrics: what its INFO says, as Prometheus gets it.

`utils/metrics.sh` reads them from a table in the package (`pikaforge.operate.metrics`). All texts are restricted, so
that they stand in a table of tabs, in awk's regular expressions, and in Prometheus' text format without quotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pikaforge.config.operate_scalars import VALUE_PATTERN
from pikaforge.config.scalars import Strict

METRIC_PATTERN = r"^[a-z][a-z0-9_]*$"
SOURCE_PATTERN = r"^(@head|@stem|@each|[*]?[A-Za-z_][A-Za-z0-9_.-]*([|][A-Za-z_][A-Za-z0-9_.-]*|\[[1-9]\])?)$"
PLACE_PATTERN = r"^[A-Za-z0-9_\[\].*+()|-]+$"
COMMAND_WORD_PATTERN = r"^[A-Za-z0-9_-]+$"
TITLE_PATTERN = r"^[A-Za-z0-9 ,()/-]+$"
SECTION_PATTERN = r"^[A-Za-z_]+$"

Metric = Annotated[str, Field(pattern=METRIC_PATTERN, max_length=64)]
"""The name of a metric without the prefix."""
Label = Annotated[str, Field(pattern=METRIC_PATTERN, max_length=64)]
Source = Annotated[str, Field(pattern=SOURCE_PATTERN, max_length=64)]
"""A field of INFO, `is_bgsaving`, or its second word, `is_bgsaving[2]`. In lines with a name: the key of a pair, the
first of two that is there, `one|other`, the first key with an end, `*_keys`, the name of the line, `@head`, the first
key without its last part, `@stem`, and the name in a value such as `(db0:17)`, `@each`."""
Help = Annotated[str, Field(pattern=VALUE_PATTERN, min_length=1, max_length=200)]
"""A line of ASCII without quotes and backslashes."""
Place = Annotated[str, Field(pattern=PLACE_PATTERN, max_length=64)]
"""An extended regular expression of few characters."""
Word = Annotated[str, Field(pattern=COMMAND_WORD_PATTERN, max_length=32)]
Title = Annotated[str, Field(pattern=TITLE_PATTERN, max_length=60)]
Limit = Annotated[float, Field(gt=0, le=1e15)]

OWN: Mapping[str, tuple[str, str]] = {
    "instances": ("gauge", "Instances that are set up on this host"),
    "up": ("gauge", "Whether the instance answers"),
    "scrape_duration_seconds": ("gauge", "How long the questions to the instance took"),
    "scrape_failed": ("gauge", "Why there is no answer, in the label"),
    "package_info": ("gauge", "The package that the instance runs"),
    "cpu_gate_passed": ("gauge", "Whether the CPUs of this host run the package"),
    "process_resident_memory_bytes": ("gauge", "Resident memory of the process"),
    "process_open_fds": ("gauge", "Open files and connections of the process"),
    "process_max_fds": ("gauge", "Limit of open files of the process"),
    "filesystem_size_bytes": ("gauge", "Size of the file system with the data"),
    "filesystem_avail_bytes": ("gauge", "Room in the file system with the data"),
    "memory_budget_bytes": ("gauge", "Memory that the configuration was made for"),
    "last_snapshot_timestamp_seconds": ("gauge", "When the newest whole backup was made"),
    "field_value": ("gauge", "A number of INFO that has no name of its own here"),
    "field_info": ("gauge", "A text of INFO that has no name of its own here"),
}
"""Type and help of the metrics that every product has, which utils/metrics.sh makes itself."""

ADDR, ALIAS = "addr", "alias"
"""Labels that every metric of an instance has."""


class _Named(Strict):
    """What every metric has."""

    help: Help = Field(description="What it is, for people.")
    same: tuple[Label, ...] = Field(default=(), description="Labels with the text of the field of their name.")
    labels: dict[Label, Source] = Field(
        default_factory=dict, description="Other labels: whose text they have. `addr` and `alias` are there anyway."
    )

    @property
    def texts(self) -> dict[str, str]:
        """All labels of its own, with their sources."""
        return {**{name: name for name in self.same}, **self.labels}

    @model_validator(mode="after")
    def _labels_are_single(self) -> _Named:
        names = [ADDR, ALIAS, *self.same, *self.labels]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the metric would have the label {twice} twice")
        return self


class InfoMetric(_Named):
    """A metric that is always 1, with texts as labels."""


class Number(_Named):
    """A metric with a number or a state. States are 0 and 1."""

    type: Literal["gauge", "counter"] = Field(default="gauge", description="A counter only grows.")
    value: Source | None = Field(default=None, description="Where its value is; null: in the field of its name.")
    scale: Limit = Field(default=1.0, description="What the value is multiplied by.")
    panel: Title | None = Field(default=None, description="The panel of the dashboard that shows it.")


class LineMetric(Number):
    """A metric of lines with a name and KEY=VALUE pairs, such as `slave0:ip=…,port=…` or `db0 Strings_keys=…`."""

    line: Place = Field(description="Regular expression of the line's name.")


class SectionMetric(Strict):
    """A metric of a section whose lines are NAME:COUNT."""

    section: Annotated[str, Field(pattern=SECTION_PATTERN, max_length=64)] = Field(description="Its name in INFO.")
    label: Label = Field(description="The label with the line's name.")
    type: Literal["gauge", "counter"] = Field(default="counter", description="A counter only grows.")
    help: Help = Field(description="What it is, for people.")
    panel: Title | None = Field(default=None, description="The panel of the dashboard that shows it.")


class Watch(Strict):
    """What alerts and the dashboard look at beside the metrics that every product has."""

    link: Metric = Field(description="1 while a replica is connected to its master.")
    lag: Metric = Field(description="How far a replica is behind, as its master sees it.")
    lag_limit: Limit = Field(description="The lag that is too much.")
    fatal: Metric | None = Field(default=None, description="Above 0 when the storage can no longer be written.")


class Metrics(Strict):
    """The metrics of an instance: what its server says of itself. What INFO says beyond these is kept as text."""

    prefix: Metric | None = Field(
        default=None, description="Begins the names of all metrics; null: the product's name."
    )
    command: tuple[Word, ...] = Field(default=("INFO",), min_length=1, description="What asks for all sections.")
    info: dict[Metric, InfoMetric] = Field(default_factory=dict, description="Texts, as labels.")
    fields: dict[Metric, Number] = Field(default_factory=dict, description="Fields with a number or a state.")
    lines: dict[Metric, LineMetric] = Field(default_factory=dict, description="Lines with a name and KEY=VALUE pairs.")
    sections: dict[Metric, SectionMetric] = Field(default_factory=dict, description="Sections of names with counts.")
    drop: tuple[Place, ...] = Field(default=(), description="Fields that say again what others say.")
    inherited: tuple[Metric, ...] = Field(
        default=(), description="Names that promtool would have otherwise, kept because people's dashboards have them."
    )
    watch: Watch = Field(description="What alerts and the dashboard look at.")

    @model_validator(mode="after")
    def _names_are_single(self) -> Metrics:
        names = [*self.info, *self.fields, *self.lines, *self.sections]
        for name in names:
            if names.count(name) > 1 or name in OWN:
                raise ValueError(f"there are two metrics {name}" + (", one of all products" if name in OWN else ""))
        for name in (self.watch.link, self.watch.lag, *filter(None, [self.watch.fatal]), *self.inherited):
            if name not in names:
                raise ValueError(f"there is no metric {name}")
        return self
