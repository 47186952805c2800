"""Ranges of functions by the unwind table `.eh_frame`, which strip keeps: so functions without a symbol are found, too.

Format: LSB Core 5.0, chapter 10.6 (call frame information and pointer encodings).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pikaforge.audit.elf.layout import PT_GNU_EH_FRAME, Buffer, Layout

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# Formats of pointer encodings, by the low nibble; the high nibble says what a pointer is relative to.
_POINTER = {0x0: "<Q", 0x2: "<H", 0x3: "<I", 0x4: "<Q", 0x8: "<q", 0xA: "<h", 0xB: "<i", 0xC: "<q"}
_USUAL = 0x1B  # pcrel | sdata4, which gcc and clang use for x86-64
_PCREL = 0x10
_ADDRESS_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwindRanges:
    """The ranges of functions that an unwind table has."""

    ranges: tuple[tuple[int, int], ...] = ()
    """Ranges [start, end) of virtual addresses, in the order of the table."""
    plain: frozenset[int] = frozenset()
    """Starts of functions without exception handlers: other code enters such a function only at its start."""
    problem: str = ""
    """Why the table could not be read to its end; empty if it was."""


def read_frames(data: Buffer, layout: Layout) -> UnwindRanges:
    """Return the ranges of all FDEs of a file; none if it has no `.eh_frame`.

    A malformed table is a `problem` of the result, and never an error: code without a range is decoded as a gap.
    """
    place = _find(data, layout)
    if place is None:
        return UnwindRanges()
    offset, address, size = place
    raw = data[offset : offset + size]
    try:
        return _walk(raw, address)
    except (struct.error, IndexError, ValueError, KeyError) as error:
        return UnwindRanges(problem=f".eh_frame cannot be read: {error}")


def _find(data: Buffer, layout: Layout) -> tuple[int, int, int] | None:
    """Return file offset, address and size of `.eh_frame`; None if there is none."""
    section = layout.section(".eh_frame")
    if section is not None:
        return (section.offset, section.address, section.size) if section.in_file else None
    header = layout.segment(PT_GNU_EH_FRAME)
    if header is None or header.file_size < 8:
        return None
    raw = data[header.offset : header.offset + 8]
    if len(raw) < 8 or raw[0] != 1 or raw[1] != _USUAL:
        return None
    address = header.address + 4 + int.from_bytes(raw[4:8], "little", signed=True)
    offset = layout.offset_of(address)
    if offset is None:
        return None
    end = next(p.offset + p.file_size for p in layout.segments if p.offset <= offset < p.offset + p.file_size)
    return offset, address, end - offset


def _walk(raw: bytes, address: int) -> UnwindRanges:
    encodings: dict[int, tuple[int, bool]] = {}  # by offset of the CIE
    found: list[tuple[int, int]] = []
    plain: list[int] = []
    at, end = 0, len(raw)
    usual = struct.Struct("<iI").unpack_from
    while at + 4 <= end:
        (length,) = _U32.unpack_from(raw, at)
        start = at + 4
        if length == 0:
            break  # the terminator, which comes from crtend.o
        if length == 0xFFFFFFFF:
            (length,) = _U64.unpack_from(raw, start)
            start += 8
        following = start + length
        if following > end:
            return UnwindRanges(ranges=tuple(found), problem=f".eh_frame has an entry beyond its end at {at:#x}")
        (back,) = _U32.unpack_from(raw, start)
        if back != 0:
            cie = start - back
            if cie not in encodings:
                encodings[cie] = _encoding(raw, cie)
            encoding, handles = encodings[cie]
            if encoding == _USUAL:
                relative, size = usual(raw, start + 4)
                begin = address + start + 4 + relative
            else:
                begin, size = _pointer(raw, start + 4, encoding, address)
            if size:
                begin &= _ADDRESS_MASK
                found.append((begin, begin + size))
                if not handles:
                    plain.append(begin)
        at = following
    return UnwindRanges(ranges=tuple(found), plain=frozenset(plain))


def _pointer(raw: bytes, at: int, encoding: int, address: int) -> tuple[int, int]:
    form = struct.Struct(_POINTER[encoding & 0x0F])
    (begin,) = form.unpack_from(raw, at)
    # The size has the same width, and is neither relative nor negative.
    (size,) = struct.Struct(_POINTER[encoding & 0x07]).unpack_from(raw, at + form.size)
    if encoding & 0x70 == _PCREL:
        begin += address + at
    elif encoding & 0x70:
        raise ValueError(f"pointer encoding {encoding:#x} is not known")
    return begin, int(size)


def _encoding(raw: bytes, at: int) -> tuple[int, bool]:
    """Return the encoding of addresses in the FDEs of a CIE, and whether they name exception handlers (an LSDA)."""
    start = at + 4
    if _U32.unpack_from(raw, at)[0] == 0xFFFFFFFF:
        start += 8
    if _U32.unpack_from(raw, start)[0] != 0:
        raise ValueError(f"an FDE names {at:#x}, which is no CIE")
    version = raw[start + 4]
    stop = raw.index(b"\0", start + 5)
    augmentation = raw[start + 5 : stop].decode("ascii", "replace")
    at = stop + 1
    _, at = uleb(raw, at)  # code alignment
    _, at = uleb(raw, at)  # data alignment: signed, but as long
    at = at + 1 if version == 1 else uleb(raw, at)[1]
    if not augmentation.startswith("z"):
        return 0, bool(augmentation)
    _, at = uleb(raw, at)
    encoding = 0
    for letter in augmentation[1:]:
        if letter == "R":
            encoding = raw[at]
            at += 1
        elif letter == "P":
            form = _POINTER[raw[at] & 0x0F]
            at += 1 + struct.calcsize(form)
        elif letter == "L":
            at += 1
        elif letter not in "SB":
            raise ValueError(f"augmentation {augmentation!r} is not known")
    return encoding, "L" in augmentation


def uleb(raw: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number, and the offset behind it.

    Raises:
        IndexError: the bytes end within it.
        ValueError: it has more than ten bytes.
    """
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
