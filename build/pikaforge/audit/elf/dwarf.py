"""How each compile unit was compiled: DW_AT_producer of its first entry, which holds gcc's command line.

Only headers and first entries of units are read, so that 500 MB of debug information cost no more than a walk over the
headers. Format: DWARF 4 chapter 7, DWARF 5 chapter 7; GNU extensions: dwz(1).
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass

from pikaforge.audit.elf.frames import uleb
from pikaforge.audit.elf.layout import SHF_COMPRESSED, Buffer, Layout, Section, text

DW_TAG_COMPILE_UNIT, DW_TAG_SKELETON_UNIT = 0x11, 0x4A
DW_AT_NAME, DW_AT_PRODUCER = 0x03, 0x25
DW_UT_TYPE, DW_UT_SKELETON, DW_UT_SPLIT_COMPILE, DW_UT_SPLIT_TYPE = 2, 4, 5, 6
ELFCOMPRESS_ZLIB = 1
UNPACKED_LIMIT = 64 << 20
"""Bytes of all compressed sections of a file, unpacked. The tool's own packages do not compress them."""
PRODUCERS_LIMIT = 1000
"""Compilers with their flags. A program has one for each language and library that is linked into it."""
COMPRESSION_LIMIT = 1100
"""Deflate makes at most 1,032 bytes of one (zlib's technical details); a header that claims more is corrupt."""

_STRING, _STRP, _LINE_STRP, _ALT = 0x08, 0x0E, 0x1F, 0x1F21
_STRX = {0x1A: 0, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x1F02: 0}
_FIXED = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x19: 0, 0x1E: 16,
          0x20: 8, 0x21: 0, 0x24: 8, 0x1C: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4}  # fmt: skip
_OFFSETS = {0x17, 0x10, 0x1D, 0x1F20}  # as wide as the unit's format
_NUMBERS = {0x0D, 0x0F, 0x15, 0x1B, 0x22, 0x23, 0x1F01}  # LEB128
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4, 0x09: 0, 0x18: 0}
_ADDRESS, _INDIRECT, _IMPLICIT = 0x01, 0x16, 0x21


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """The text of DW_AT_producer of some compile units."""

    text: str
    """Empty for units without one."""
    units: int
    """The number of units."""
    example: str
    """The name of one of the units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugInfo:
    """The compilers and flags that a file's debug information records."""

    present: bool = False
    producers: tuple[Producer, ...] = ()
    problem: str = ""
    """Why it could not be read to its end; empty if it was."""


class _DwarfError(ValueError):
    pass


def read_debug(data: Buffer, layout: Layout) -> DebugInfo:
    """Return the producers of a file's compile units, those of most units first.

    Malformed debug information is a `problem` of the result, and never an error.
    """
    if layout.section(".debug_info") is None and layout.section(".zdebug_info") is None:
        return DebugInfo()
    units: Counter[str] = Counter()
    examples: dict[str, str] = {}
    problem = ""
    try:
        _walk(_Sections(data, layout), units, examples)
    except (_DwarfError, struct.error, IndexError, ValueError, zlib.error) as error:
        problem = f"its debug information cannot be read: {error}"
    found = [
        Producer(text=t, units=n, example=examples[t]) for t, n in sorted(units.items(), key=lambda i: (-i[1], i[0]))
    ]
    return DebugInfo(present=bool(found) or bool(problem), producers=tuple(found), problem=problem)


class _Sections:
    """The debug sections of a file, decompressed when they are needed."""

    def __init__(self, data: Buffer, layout: Layout) -> None:
        self._data, self._layout = data, layout
        self._loaded: dict[str, bytes] = {}
        self._unpacked = 0

    def get(self, name: str) -> bytes:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> bytes:
        section = self._layout.section(f".{name}")
        if section is not None:
            if not section.in_file:
                return b""
            raw = self._data[section.offset : section.offset + section.size]
            return self._inflate(section, raw) if section.flags & SHF_COMPRESSED else raw
        old = self._layout.section(f".z{name}")
        if old is None or not old.in_file:
            return b""
        raw = self._data[old.offset : old.offset + old.size]
        if raw[:4] != b"ZLIB":
            raise _DwarfError(f"section .z{name} is not compressed as its name says")
        return self._unpack(raw[12:], int.from_bytes(raw[4:12], "big"), name)

    def _inflate(self, section: Section, raw: bytes) -> bytes:
        head = struct.Struct("<IIQQ" if self._layout.bits == 64 else "<III")
        fields = head.unpack_from(raw)
        size = fields[2] if self._layout.bits == 64 else fields[1]
        if fields[0] != ELFCOMPRESS_ZLIB:
            raise _DwarfError(
                f"section {section.name} is compressed by method {fields[0]}, only zlib (1) is known here"
            )
        return self._unpack(raw[head.size :], size, section.name)

    def _unpack(self, raw: bytes, size: int, name: str) -> bytes:
        self._unpacked += size
        if size > COMPRESSION_LIMIT * (len(raw) + 1):
            raise _DwarfError(f"section {name} claims {size} bytes from {len(raw)} compressed ones")
        if self._unpacked > UNPACKED_LIMIT:
            raise _DwarfError(f"section {name} unpacks to {size} bytes, which is too much")
        return zlib.decompressobj().decompress(raw, max(size, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    wide: int
    """Bytes of an offset, 4 or 8."""
    address: int
    """Bytes of an address."""
    abbreviations: int
    """Offset of its table of abbreviations."""
    first: int
    """Offset of its first entry."""


def _walk(sections: _Sections, units: Counter[str], examples: dict[str, str]) -> None:
    info = sections.get("debug_info")
    tables: dict[tuple[int, int], tuple[int, tuple[tuple[int, int], ...]]] = {}
    at, end = 0, len(info)
    while at + 11 <= end:
        unit, at = _unit(info, at)
        if unit is None:
            continue
        code, first = uleb(info, unit.first)
        if code == 0:
            continue
        key = (unit.abbreviations, code)
        if key not in tables:
            tables[key] = _abbreviation(sections.get("debug_abbrev"), *key)
        tag, attributes = tables[key]
        if tag not in (DW_TAG_COMPILE_UNIT, DW_TAG_SKELETON_UNIT):
            continue  # partial units (dwz) name no compiler
        producer, name = _texts(sections, unit, first, attributes)
        units[producer] += 1
        if len(units) > PRODUCERS_LIMIT:
            raise _DwarfError(f"it names more than {PRODUCERS_LIMIT} compilers and flags")
        examples.setdefault(producer, name)


def _unit(info: bytes, at: int) -> tuple[_Unit | None, int]:
    """Return the unit at `at`, or None for one without code, and the offset of the next unit."""
    (length,) = struct.unpack_from("<I", info, at)
    wide, start = 4, at + 4
    if length == 0xFFFFFFFF:
        (length,) = struct.unpack_from("<Q", info, start)
        wide, start = 8, start + 8
    following = start + length
    if length < 7 or following > len(info):
        raise _DwarfError(f"the unit at {at:#x} goes beyond its section")
    (version,) = struct.unpack_from("<H", info, start)
    offset = "<I" if wide == 4 else "<Q"
    if version == 5:
        kind, address = info[start + 2], info[start + 3]
        if kind in (DW_UT_TYPE, DW_UT_SPLIT_TYPE):
            return None, following
        first = start + 4 + wide + (8 if kind in (DW_UT_SKELETON, DW_UT_SPLIT_COMPILE) else 0)
        (abbreviations,) = struct.unpack_from(offset, info, start + 4)
    elif version in (2, 3, 4):
        (abbreviations,) = struct.unpack_from(offset, info, start + 2)
        address, first = info[start + 2 + wide], start + 3 + wide
    else:
        raise _DwarfError(f"the unit at {at:#x} has version {version}")
    return _Unit(wide=wide, address=address, abbreviations=abbreviations, first=first), following


def _abbreviation(raw: bytes, at: int, wanted: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return tag and (attribute, form) pairs of an abbreviation."""
    while True:
        code, at = uleb(raw, at)
        if code == 0:
            raise _DwarfError(f"abbreviation {wanted} is missing")
        tag, at = uleb(raw, at)
        at += 1
        pairs = []
        while True:
            attribute, at = uleb(raw, at)
            form, at = uleb(raw, at)
            if form == _IMPLICIT:
                _, at = uleb(raw, at)
            if attribute == 0 and form == 0:
                break
            pairs.append((attribute, form))
        if code == wanted:
            return tag, tuple(pairs)


def _texts(sections: _Sections, unit: _Unit, at: int, attributes: tuple[tuple[int, int], ...]) -> tuple[str, str]:
    """Return producer and name of the entry whose values begin at `at`."""
    info = sections.get("debug_info")
    found: dict[int, str] = {}
    for attribute, given in attributes:
        form = given
        if form == _INDIRECT:
            form, at = uleb(info, at)
        if attribute in (DW_AT_PRODUCER, DW_AT_NAME):
            found[attribute] = _string(sections, unit, at, form)
            if len(found) == 2:
                break
        at = _skip(info, unit, at, form)
    return found.get(DW_AT_PRODUCER, ""), found.get(DW_AT_NAME, "")


def _string(sections: _Sections, unit: _Unit, at: int, form: int) -> str:
    info = sections.get("debug_info")
    if form == _STRING:
        return text(info, at)
    if form in (_STRP, _LINE_STRP):
        table = sections.get("debug_str" if form == _STRP else "debug_line_str")
        return text(table, int.from_bytes(info[at : at + unit.wide], "little"))
    return ""  # strx needs the split file, and strp_alt the file that dwz made; neither is at hand


def _skip(info: bytes, unit: _Unit, at: int, form: int) -> int:  # noqa: PLR0911  # one return per family of forms
    if form in _FIXED:
        return at + _FIXED[form]
    if form in _OFFSETS or form in (_STRP, _LINE_STRP, _ALT):
        return at + unit.wide
    if form == _ADDRESS:
        return at + unit.address
    if form == _STRING:
        return info.index(b"\0", at) + 1
    if form in _NUMBERS or _STRX.get(form) == 0:
        return uleb(info, at)[1]
    if form in _STRX:
        return at + _STRX[form]
    if form in _BLOCKS:
        width = _BLOCKS[form]
        if width == 0:
            size, at = uleb(info, at)
            return at + size
        return at + width + int.from_bytes(info[at : at + width], "little")
    raise _DwarfError(f"form {form:#x} is not known")
