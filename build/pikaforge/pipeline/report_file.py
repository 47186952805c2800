"""The file of a build report: facts that several cells have are written once.

Cells of one compilation have the same audit and smoke test, and cells of one image have the same packages in it. In the
file, a cell names such facts by a key. Each fact and each cell is a line of its own. The file ends with the digest of
all else in it, so that a wrong bit is found: a cell of which nothing is made again is kept as it is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config.scalars import Strict
from pikaforge.host import hashing
from pikaforge.host.shared_values import SharedValues
from pikaforge.pipeline.report_record import BuildReport, CellRecord, CellState, StageRecord
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
    sha256: str = Field(
        default="",
        description="Of this file with an empty text here. Who changes the file by hand makes this text empty.",
    )


class _FactTexts:
    """The facts of a report's cells, each once. Cells that have the same object have the same key."""

    def __init__(self) -> None:
        self.texts: dict[str, dict[str, str]] = {"audits": {}, "ways": {}, "images": {}}
        self._keys: dict[int, str] = {}

    def key(self, section: str, fact: BaseModel | Image | None) -> str | None:
        """Return the key of a fact in a section, and keep its text unless it is there."""
        if fact is None:
            return None
        if id(fact) not in self._keys:  # the report has the object as long as this is used
            data = fact.model_dump(mode="json") if isinstance(fact, BaseModel) else fact
            key = hashing.digest(json.dumps(data, sort_keys=True).encode())[:KEY_DIGITS]
            self.texts[section].setdefault(key, _line(data))
            self._keys[id(fact)] = key
        return self._keys[id(fact)]

    def entry(self, cell: CellRecord) -> CellEntry:
        """Return a cell as the file has it."""
        found = cell.manifest.get(IMAGE)
        image = found if isinstance(found, dict) else None
        return CellEntry(
            **{name: getattr(cell, name) for name in CellState.model_fields},
            audit=self.key("audits", cell.audit),
            native=self.key("ways", cell.native),
            emulated=self.key("ways", cell.emulated),
            manifest={name: value for name, value in cell.manifest.items() if name != IMAGE or image is None},
            manifest_image=self.key("images", image),
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
    return b"".join(pieces(report))


def pieces(report: BuildReport) -> Iterator[bytes]:
    """Yield the text of a report's file in pieces, so that nobody has to hold all of it."""
    seal = hashlib.sha256()
    for piece in _bare_pieces(report):
        seal.update(piece)
        yield piece
    name, end = b',\n "sha256": "', b'"\n}\n'
    seal.update(name + end)
    yield name + seal.hexdigest().encode() + end


def _bare_pieces(report: BuildReport) -> Iterator[bytes]:
    """Yield all but the digest and the end of a report's file."""
    facts = _FactTexts()
    for cell in report.cells:
        for section, fact in (("audits", cell.audit), ("ways", cell.native), ("ways", cell.emulated)):
            facts.key(section, fact)
        image = cell.manifest.get(IMAGE)
        facts.key("images", image if isinstance(image, dict) else None)
    head = {"format": ReportFile.model_fields["format"].default, "product": report.product, "version": report.version}
    yield b"{\n " + ",\n ".join(f"{_line(name)}: {_line(value)}" for name, value in head.items()).encode()
    for section, texts in facts.texts.items():
        yield from _block(section, "{}", (f"{_line(key)}: {text}" for key, text in texts.items()))
    yield from _block("cells", "[]", (_line(facts.entry(cell).model_dump(mode="json")) for cell in report.cells))


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _block(name: str, brackets: str, lines: Iterable[str]) -> Iterator[bytes]:
    """Yield a member of the file whose own members have a line each."""
    yield f",\n {_line(name)}: {brackets[0]}".encode()
    comma = ""
    for line in lines:
        yield f"{comma}\n  {line}".encode()
        comma = ","
    yield f"\n {brackets[1]}".encode() if comma else brackets[1].encode()


def parsed(data: bytes) -> BuildReport | None:
    """Return the report in the bytes of a file, of this format or the one before; None if it is none."""
    return read(io.BytesIO(data))


def read(stream: IO[bytes]) -> BuildReport | None:
    """Return the report in a file, of this format or the one before; None if it is none."""
    try:
        return _by_lines(stream)
    except _DamagedError:
        return None
    except (_OtherLayoutError, ValidationError, KeyError, ValueError, RecursionError):
        stream.seek(0)
    data = stream.read()
    readers: tuple[Callable[[bytes], BuildReport], ...] = (
        _sealed,
        BuildReport.model_validate_json,
    )
    for reader in readers:
        try:
            return reader(data)
        except (ValidationError, KeyError):
            continue
    return None


def _sealed(data: bytes) -> BuildReport:
    """Return the report in the text of a file, whatever its lines are.

    Raises:
        ValidationError: it is no such file.
        KeyError: it is damaged.
    """
    file = ReportFile.model_validate_json(data)
    found = SEAL.search(data)
    bare = data if found is None else data[: found.start(1)] + data[found.end(1) :]
    if file.sha256 and (found is None or not found[1].decode() == file.sha256 == hashlib.sha256(bare).hexdigest()):
        raise KeyError("sha256")
    return unpacked(file)


# ---- a line after the other, so that of a large report only what differs between its cells takes memory


class _OtherLayoutError(Exception):
    """A file has not the lines that this version writes."""


class _DamagedError(Exception):
    """A file has another digest than it says."""


_HEAD = re.compile(rb' "([a-z0-9_]+)": (?:([{\[])|(.+?),?)\n')
_FACT = re.compile(rb'  "([0-9a-f]{16})": (.+?),?\n')
_CELL = re.compile(rb"  (.+?),?\n")
_SECTIONS: dict[bytes, type[BaseModel] | None] = {b"audits": AuditRecord, b"ways": WayRecord, b"images": None}
_CELLS = b"cells"


def _by_lines(stream: IO[bytes]) -> BuildReport:
    """Return the report in a file that `pieces` has written."""
    shared = SharedValues()
    stages: dict[StageRecord, StageRecord] = {}
    heads: dict[str, object] = {}
    facts: dict[bytes, dict[str, object]] = {section: {} for section in _SECTIONS}
    cells: list[CellRecord] = []
    section = line = b""
    cells_are_there = False
    digest = hashlib.sha256()
    for line in stream:
        digest.update(SEAL.sub(b' "sha256": ""', line))
        if section and line.startswith(b"  "):
            if section == _CELLS:
                cells.append(_record(CellEntry.model_validate_json(_part(_CELL, line)[0]), facts, shared, stages))
            else:
                key, value = _part(_FACT, line)
                model = _SECTIONS[section]
                fact = shared.of(json.loads(value)) if model is None else model.model_validate_json(value)
                facts[section][key.decode()] = fact
        elif line.startswith(b' "'):
            name, opened, value = _part(_HEAD, line)
            section = name if opened else b""
            empty = value in (b"{}", b"[]")
            if (name in (*_SECTIONS, _CELLS)) != (bool(opened) or empty):
                raise _OtherLayoutError
            cells_are_there = cells_are_there or name == _CELLS
            if not opened and not empty:
                heads[name.decode()] = json.loads(value)
        elif line not in (b"{\n", b"}\n", b" }\n", b" },\n", b" ]\n", b" ],\n"):
            raise _OtherLayoutError
    if line != b"}\n" or not cells_are_there:
        raise _OtherLayoutError
    file = ReportFile.model_validate({**heads, "cells": ()})
    if file.sha256 and file.sha256 != digest.hexdigest():
        raise _DamagedError
    return BuildReport(product=file.product, version=file.version, cells=tuple(cells))


def _part(pattern: re.Pattern[bytes], line: bytes) -> tuple[bytes, ...]:
    found = pattern.fullmatch(line)
    if found is None:
        raise _OtherLayoutError
    return found.groups()


def _record(
    cell: CellEntry,
    facts: Mapping[bytes, Mapping[str, object]],
    shared: SharedValues,
    stages: dict[StageRecord, StageRecord],
) -> CellRecord:
    """Return a cell of a file with its facts. What other cells have, too, is the same object."""

    def fact(section: bytes, key: str | None) -> object:
        return None if key is None else facts[section][key]

    manifest = shared.of(cell.manifest)
    if cell.manifest_image is not None:
        manifest = dict(sorted({**manifest, IMAGE: fact(b"images", cell.manifest_image)}.items()))
    state = {name: getattr(cell, name) for name in CellState.model_fields}
    return CellRecord.model_validate(
        {
            **state,
            "stages": tuple(stages.setdefault(stage, stage) for stage in cell.stages),
            "audit": fact(b"audits", cell.audit),
            "native": fact(b"ways", cell.native),
            "emulated": fact(b"ways", cell.emulated),
            "manifest": manifest,
        }
    )
