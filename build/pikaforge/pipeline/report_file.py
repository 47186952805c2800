"""The file of a build report: facts that several cells have are written once.

Cells of one compilation have the same audit and smoke test, and cells of one image have the same packages in it. In the
file, a cell names such facts by a key. Each fact and each cell is a line of its own. The file has the digest of all
else in it, so that a wrong bit is found: a cell of which nothing is made again is kept as it is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config.scalars import Strict
from pikaforge.host import hashing
from pikaforge.pipeline.report_record import BuildReport, CellRecord, CellState
from pikaforge.pipeline.smoke.record import WayRecord

KEY_DIGITS = 16
SEAL = re.compile(rb'^ "sha256": "([0-9a-f]{64})"', re.MULTILINE)
"""The member of the file that has the digest of all else in it."""
IMAGE = "image"
"""The part of a manifest that says what was in the images: by far the longest."""

Fact = TypeVar("Fact")
Image = dict[str, object]


class CellEntry(CellState):
    """A cell in the file."""

    audit: str | None = Field(default=None, description="Key in `audits`; null where it did not come so far.")
    native: str | None = Field(default=None, description="Key in `ways`; null where it did not come so far.")
    emulated: str | None = Field(default=None, description="Key in `ways`; null where it did not come so far.")
    manifest: dict[str, object] = Field(
        default_factory=dict, description="The package's manifest.json without its `image`: source, patches, compiler."
    )
    manifest_image: str | None = Field(default=None, description="Key in `images`; null where there is no manifest.")


class ReportFile(Strict):
    """dist/report.json. Keys say only which facts are the same."""

    format: Literal[2] = Field(default=2, description="Version of this file's layout.")
    sha256: str = Field(
        default="",
        description="Of this file with an empty text here. Who changes the file by hand makes this text empty.",
    )
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    audits: dict[str, AuditRecord] = Field(default_factory=dict, description="The audit's verdicts.")
    ways: dict[str, WayRecord] = Field(
        default_factory=dict, description="The smoke checks, natively or under emulation."
    )
    images: dict[str, Image] = Field(
        default_factory=dict, description="`image` of manifests: base, and the packages in the images."
    )
    cells: tuple[CellEntry, ...] = Field(description="Sorted by id.")


def _shared(into: dict[str, Fact], fact: Fact | None, data: object) -> str | None:
    """Put a fact among those of a file, unless it is there; return its key."""
    if fact is None:
        return None
    key = hashing.digest(json.dumps(data, sort_keys=True).encode())[:KEY_DIGITS]
    into.setdefault(key, fact)
    return key


def packed(report: BuildReport) -> ReportFile:
    """Return a report as its file has it."""
    audits: dict[str, AuditRecord] = {}
    ways: dict[str, WayRecord] = {}
    images: dict[str, Image] = {}

    def data(fact: BaseModel | None) -> object:
        return None if fact is None else fact.model_dump(mode="json")

    def entry(cell: CellRecord) -> CellEntry:
        found = cell.manifest.get(IMAGE)
        image = found if isinstance(found, dict) else None
        manifest = {name: value for name, value in cell.manifest.items() if name != IMAGE or image is None}
        return CellEntry(
            **{name: getattr(cell, name) for name in CellState.model_fields},
            audit=_shared(audits, cell.audit, data(cell.audit)),
            native=_shared(ways, cell.native, data(cell.native)),
            emulated=_shared(ways, cell.emulated, data(cell.emulated)),
            manifest=manifest,
            manifest_image=_shared(images, image, image),
        )

    cells = tuple(map(entry, report.cells))
    return ReportFile(
        product=report.product, version=report.version, audits=audits, ways=ways, images=images, cells=cells
    )


def unpacked(file: ReportFile) -> BuildReport:
    """Return the report of a file.

    Raises:
        KeyError: a cell names a fact that the file does not have.
    """

    def fact(facts: Mapping[str, Fact], key: str | None) -> Fact | None:
        return None if key is None else facts[key]

    def record(cell: CellEntry) -> CellRecord:
        image = fact(file.images, cell.manifest_image)
        return CellRecord(
            **{name: getattr(cell, name) for name in CellState.model_fields},
            audit=fact(file.audits, cell.audit),
            native=fact(file.ways, cell.native),
            emulated=fact(file.ways, cell.emulated),
            manifest=cell.manifest if image is None else dict(sorted({**cell.manifest, IMAGE: image}.items())),
        )

    return BuildReport(product=file.product, version=file.version, cells=tuple(map(record, file.cells)))


def text(report: BuildReport) -> bytes:
    """Return the text of a report's file."""
    file = packed(report)
    data = ("".join(_lines(file.model_dump(mode="json"))) + "\n").encode()
    return data.replace(b'"sha256": ""', f'"sha256": "{hashlib.sha256(data).hexdigest()}"'.encode(), 1)


def _is_whole(data: bytes, file: ReportFile) -> bool:
    """Return whether a file has the digest that is in it, if there is one."""
    found = SEAL.search(data)
    if found is None:
        return not file.sha256
    bare = data[: found.start(1)] + data[found.end(1) :]
    return found[1].decode() == file.sha256 == hashlib.sha256(bare).hexdigest()


def _lines(data: Mapping[str, object]) -> Iterator[str]:
    """Yield a JSON object with each of its members, and of their members, on a line of its own."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    yield "{"
    for number, (name, value) in enumerate(data.items()):
        yield f"{',' if number else ''}\n {line(name)}: "
        if isinstance(value, dict):
            yield _block("{}", [f"{line(key)}: {line(member)}" for key, member in value.items()])
        elif isinstance(value, list):
            yield _block("[]", list(map(line, value)))
        else:
            yield line(value)
    yield "\n}"


def _block(brackets: str, lines: list[str]) -> str:
    inner = "".join(f"\n  {line}{',' if number < len(lines) else ''}" for number, line in enumerate(lines, 1))
    return f"{brackets[0]}{inner}\n {brackets[1]}" if lines else brackets


def parsed(data: bytes) -> BuildReport | None:
    """Return the report in the bytes of a file, of this format or the one before; None if it is none."""

    def sealed(content: bytes) -> BuildReport:
        file = ReportFile.model_validate_json(content)
        if not _is_whole(content, file):
            raise KeyError("sha256")
        return unpacked(file)

    readers: tuple[Callable[[bytes], BuildReport], ...] = (sealed, BuildReport.model_validate_json)
    for read in readers:
        try:
            return read(data)
        except (ValidationError, KeyError):
            continue
    return None
