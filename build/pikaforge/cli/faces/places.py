"""Where in the configuration a node that failed comes from: a line of matrix.yaml, or of the patch series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pikaforge.config.yaml_words import KeyPath
from pikaforge.errors import ConfigError
from pikaforge.pipeline.outcomes import NodeOutcome
from pikaforge.pipeline.source.facts import SeriesFacts
from pikaforge.pipeline.source.patches import entry_name, patch_start
from pikaforge.plan.cells import plain
from pikaforge.plan.plan import EMULATOR, TOOLS, Node

CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPlaces:
    """The configuration files of a run."""

    matrix: Path
    series: Callable[[], Path | None]
    """The series file, once the configuration was read."""

    def of(self, outcome: NodeOutcome) -> tuple[Path, int] | None:
        """Return the file and the line, from 1, of what a node that failed is made of; None if it cannot be read."""
        from pikaforge.config import yaml_text  # noqa: PLC0415  # only a failure needs a reader of YAML

        try:
            series = self.series()
            entry = _patch(outcome, series) if series is not None else None
            path = entry if entry is not None else next(_keys(outcome.node), ("product",))
            file = self.matrix if entry is None or series is None else series
            line, _ = yaml_text.parse(yaml_text.read(file), file=str(file)).position(path, key=True)
        except ConfigError:  # it was changed while the run went on
            return None
        return file, line


def _patch(outcome: NodeOutcome, series: Path) -> KeyPath | None:
    """Return the path of the entry in the series that is in conflict."""
    facts = outcome.facts(SeriesFacts)
    bad = next((p.name for p in facts.patches if p.state == CONFLICT), None) if facts is not None else None
    if bad is None:
        return None
    from pikaforge.config import load  # noqa: PLC0415

    for place, entry in enumerate(load.load_series(series).patches):
        if bad == entry_name(entry) or (entry.quilt is not None and bad.startswith(patch_start(entry))):
            return "patches", place
    return None


def _keys(node: Node) -> Iterator[KeyPath]:
    """Yield the path in matrix.yaml of what a node is about; nothing for those that are about the product."""
    if node.stage == "image" and node.label in (TOOLS, EMULATOR):
        yield ("defaults",)
    elif node.stage == "image":
        yield "images", plain(node.label)
    elif node.stage == "allocator":
        yield "allocators", node.cell.allocator
    elif node.subject is not None:
        yield "hardware", node.cells[0].model
