"""Dist folders with packages of small content, and a report of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pikaforge.formats import format as formats
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.hashing import digest
from pikaforge.pipeline.report import write
from pikaforge.pipeline.report_page.merge import FoundReport
from pikaforge.pipeline.report_record import BuildReport, CellRecord


def cell(id_: str, **changes: Any) -> CellRecord:
    """The record of a cell that was built."""
    model, image, allocator = id_.split("-")
    data: dict[str, Any] = {
        "id": id_, "model": model, "image": image, "allocator": allocator, "target": "t", "wanted": "t", "flags": (),
        "status": "done", "finished": "2026-01-01T00:00:00+00:00", "stages": (),
        "manifest": {"source_date_epoch": 1600000000},
    }  # fmt: skip
    return CellRecord.model_validate({**data, **changes})


def write_dist(
    folder: Path,
    *cells: CellRecord,
    format: str = "tar",
    version: str = "v1.0",
    content: Callable[[str], bytes] = str.encode,
) -> FoundReport:
    """Write a dist folder with a package of each cell, which `content` makes of a text; return its report."""
    suffix = ".tar.gz" if format == "tar" else formats.of(format).suffixes[0]
    records = []
    for built in cells:
        path = folder / "debian12" / f"demo-{version}-{built.model}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(f"{built.id} {version}"))
        artifact = ArtifactRecord(
            format=format,
            role="main",
            path=f"debian12/{path.name}",
            sha256=digest(path.read_bytes()),
            bytes=path.stat().st_size,
        )
        records.append(built.model_copy(update={"artifacts": (artifact,)}))
    report = BuildReport(product="demo", version=version, cells=tuple(records))
    write(folder, report)
    return FoundReport(folder=folder, report=report)
