"""The data of a report's page: an overview, and facts that the page reads when somebody opens the cell that has them.

Facts of several cells are there once, under a key that is a digest of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from pikaforge.host import hashing
from pikaforge.host.logs import last_lines
from pikaforge.pages.notation import moment, natural
from pikaforge.pipeline.report_file import IMAGE, KEY_DIGITS
from pikaforge.pipeline.report_page import states
from pikaforge.pipeline.report_page.changes import ChangeLine
from pikaforge.pipeline.report_record import BuildReport, CellRecord, StageRecord
from pikaforge.plan.cells import Cell

LOG_LINES, LOG_LETTERS = 40, 4000
"""Of the end of a log."""
LONG = 160
"""Letters of a member of a manifest above which it is a fact of its own."""
FACT, CELL = "fact:", "cell:"
"""What ids of elements with facts and cells begin with. No cell's id has a colon."""

Beside = Callable[[str], tuple[tuple[str, str], ...] | None]
"""Returns label and path of each file beside a package, by the package's path; None if it is not there to be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPageSources:
    """What a page shows beside its report."""

    beside: Beside
    changes: Mapping[str, Sequence[ChangeLine]] | None = None
    """By cell; None where there is nothing to compare with."""
    since: str = ""
    """Where the report is from that it was compared with."""
    unseen: int = 0
    """Cells of that report that are not in this one."""
    planned: Sequence[Cell] = ()
    """Cells of the matrix."""
    logs: Path | None = None
    """The folder with the logs of these builds, if they are on this machine."""
    way_to_logs: str = ""
    """The way to it, relative to the page."""


@dataclass(slots=True)
class ReportPageData:
    """The data, by the id of the element that will hold them."""

    report: BuildReport
    sources: ReportPageSources
    elements: dict[str, object] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)
    _node_entries: list[dict[str, object]] = field(default_factory=list)
    _keys: dict[int, str] = field(default_factory=dict)
    """Keys of facts by the identity of the object: cells of one report share them."""

    @classmethod
    def of(cls, report: BuildReport, sources: ReportPageSources) -> ReportPageData:
        """Return the data of a report."""
        made = cls(report=report, sources=sources)
        rows = sorted([*map(made._row, report.cells), *made._absent()], key=order)
        overview = {"product": report.product, "version": report.version, "since": sources.since, "cells": rows}
        made.elements = {"data": {**overview, "nodes": made._node_entries}, **made.elements}
        return made

    @property
    def rows(self) -> list[dict[str, object]]:
        """The cells of the overview."""
        overview = self.elements["data"]
        assert isinstance(overview, dict)
        rows: list[dict[str, object]] = overview["cells"]
        return rows

    def _fact(self, value: object) -> str:
        """Put a fact among the elements, unless it is there; return its key."""
        data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        key = hashing.digest(json.dumps(data, sort_keys=True).encode())[:KEY_DIGITS]
        self.elements.setdefault(FACT + key, value)  # not the data of a record, which take more memory than it does
        return key

    def _record(self, fact: BaseModel | None) -> str | None:
        """Put a record of the report among the elements; return its key."""
        if fact is None:
            return None
        if id(fact) not in self._keys:
            self._keys[id(fact)] = self._fact(fact)
        return self._keys[id(fact)]

    def _image(self, image: object) -> str | None:
        if image is None:
            return None
        if id(image) not in self._keys:
            self._keys[id(image)] = self._fact(image)
        return self._keys[id(image)]

    def _row(self, cell: CellRecord) -> dict[str, object]:
        """Return what the overview has of a cell, and put the rest among the elements."""
        state = states.state_of(cell)
        changed = (self.sources.changes or {}).get(cell.id, ())
        self.elements[CELL + cell.id] = self._details(cell, changed)
        return {
            **_place(cell),
            "state": state,
            "error": states.first_error(cell)[:400],
            "finished": moment(cell.finished),
            "files": [each.path for each in cell.artifacts],
            "sha256": [each.sha256 for each in cell.artifacts],
            "changed": len(changed),
        }

    def _absent(self) -> Iterator[dict[str, object]]:
        """Yield the cells of the matrix that no report has."""
        there = {cell.id for cell in self.report.cells}
        for cell in self.sources.planned:
            if cell.id not in there:
                yield {
                    **_place(cell),
                    "state": "absent",
                    "error": cell.problem[:400],
                    "finished": "",
                    "files": [],
                    "sha256": [],
                    "changed": 0,
                }

    def _details(self, cell: CellRecord, changed: Sequence[ChangeLine]) -> dict[str, object]:
        return {
            "remarks": states.remarks(cell),
            "flags": cell.flags,
            "tried": cell.tried,
            "adaptations": [each.model_dump(mode="json") for each in cell.adaptations],
            "keepWerror": cell.keep_werror,
            "nodes": [self._node(stage) for stage in cell.stages],
            "leftOut": cell.findings_left_out,
            "audit": self._record(cell.audit),
            "native": self._record(cell.native),
            "emulated": self._record(cell.emulated),
            "packages": [
                {
                    **each.model_dump(mode="json"),
                    "beside": self.sources.beside(each.path),
                }
                for each in cell.artifacts
            ],
            "manifest": {name: self._member(value) for name, value in cell.manifest.items() if name != IMAGE},
            "image": self._image(cell.manifest.get(IMAGE)),
            "changes": list(changed),
        }

    def _member(self, value: object) -> dict[str, object]:
        """Return a member of a manifest, or the key of the fact that it is."""
        return {"fact": self._fact(value)} if len(json.dumps(value)) > LONG else {"value": value}

    def _node(self, stage: StageRecord) -> int:
        """Return the number of a node; cells that share it have the same."""
        entry = stage.model_dump(mode="json")
        text = json.dumps(entry, sort_keys=True)
        if text not in self._nodes:
            self._nodes[text] = len(self._node_entries)
            self._node_entries.append({**entry, "cells": 0, "logs": self._logs(stage)})
        number = self._nodes[text]
        count = self._node_entries[number]["cells"]
        assert isinstance(count, int)
        self._node_entries[number]["cells"] = count + 1
        return number

    def _logs(self, stage: StageRecord) -> list[dict[str, object]]:
        """Return the logs of a node, with the last lines of each."""
        folder = self.sources.logs
        if folder is None or stage.status == "blocked":
            return []
        found = sorted((folder / stage.label).glob(f"{stage.stage}*.log"))
        return [
            {
                "name": f"{stage.label}/{path.name}",
                "path": f"{self.sources.way_to_logs}/{stage.label}/{path.name}",
                "end": self._fact(_end(path)),
            }
            for path in found
            if path.is_file()
        ]


def _place(cell: CellRecord | Cell) -> dict[str, object]:
    """Return what says which cell a row is, whether it was built or not."""
    return {
        "id": cell.id,
        "model": cell.model,
        "image": cell.image,
        "allocator": cell.allocator,
        "target": cell.target,
        "wanted": cell.wanted,
    }


def _end(log: Path) -> str:
    """Return the last lines of a log."""
    try:
        lines = last_lines(log, LOG_LETTERS * 4)
    except OSError:
        return ""
    return "\n".join(lines[-LOG_LINES:])[-LOG_LETTERS:]


def order(row: Mapping[str, object]) -> tuple[object, ...]:
    """Return a sort key: models as people count, then images and allocators."""
    return tuple(natural(str(row[name])) for name in ("model", "image", "allocator"))
