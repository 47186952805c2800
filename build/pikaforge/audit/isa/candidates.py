"""Find the places at which an instruction of interest could begin, without decoding all bytes.

Such an instruction has bytes that few others have: the prefix of VEX, EVEX or XOP, or 0F and its opcode. These are
looked for at every byte, by a regular expression, and what begins there, or at the prefixes before, is decoded. So the
answer is complete for every alignment, and takes a hundredth of the time of trying each byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.audit.elf.layout import mapped
from pikaforge.audit.isa.opcodes import LONGEST, blank, features_by_code, tables
from pikaforge.cpu.features import table

if TYPE_CHECKING:
    from iced_x86 import OpCodeInfo

    from pikaforge.audit.isa.worker_pool import Chunk

REACH = 512
"""Bytes around such a place in which code is looked for. 200 are enough for a likely run: it takes 40 instructions."""

_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
"""Prefixes of operands, segments, repetition and locks, and REX (Intel SDM vol. 2A ch. 2.1.1 and 2.2.1)."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    pattern: re.Pattern[bytes]
    codes: frozenset[int]


def beginnings(raw: bytes, allowed: frozenset[str], *, size: int | None = None, beyond: bool = False) -> Iterator[int]:
    """Yield offsets at which an instruction begins that is not allowed; those of one place from the last prefix on.

    Args:
        raw: the bytes.
        allowed: ids of the features that are allowed.
        size: how many of the bytes are places to begin at; None: all.
        beyond: look also for allowed instructions that not every x86-64 CPU has. Those without an escape byte, as SAHF,
            are left out: such bytes are everywhere.
    """
    from iced_x86 import Decoder  # noqa: PLC0415

    wanted = _wanted(allowed, beyond)
    end = len(raw) if size is None else size
    decoder = Decoder(64, raw)
    for found in wanted.pattern.finditer(raw):
        first = at = found.start()
        while at >= 0 and first - at < LONGEST and (at == first or raw[at] in _PREFIXES):
            if at < end:
                decoder.position = at
                if decoder.decode().code in wanted.codes:
                    yield at
            at -= 1


def harmless(raw: bytes, allowed: frozenset[str], *, starts: int | None = None) -> bool:
    """Return whether no instruction that is not allowed begins at any byte, or at any of the first `starts` bytes."""
    return next(beginnings(raw, allowed, size=starts), None) is None


def windows(raw: bytes, allowed: frozenset[str], size: int) -> list[tuple[int, int]]:
    """Return the ranges of offsets around the places where an instruction could begin that not every CPU has.

    Args:
        raw: the bytes.
        allowed: ids of the features that are allowed.
        size: how many of the bytes are places to begin at.
    """
    out: list[tuple[int, int]] = []
    for at in sorted(beginnings(raw, allowed, size=size, beyond=True)):
        low, high = max(at - REACH, 0), min(at + REACH, size)
        if out and low <= out[-1][1]:
            low = out.pop()[0]
        out.append((low, high))
    return out


def windows_in(chunk: Chunk, allowed: frozenset[str]) -> list[tuple[int, int]]:
    """Return the ranges of addresses around such places in some areas. Worker processes run this."""
    out: list[tuple[int, int]] = []
    with mapped(Path(chunk.path)) as data:
        for start, end, offset in zip(chunk.starts, chunk.ends, chunk.offsets, strict=True):
            raw = bytes(data[offset : offset + end - start + LONGEST])
            out += ((start + low, start + high) for low, high in windows(raw, allowed, end - start))
    return out


@lru_cache(maxsize=8)
def _wanted(allowed: frozenset[str], beyond: bool) -> _Wanted:  # a part of the key
    infos = {code: blank(code).op_code() for code in range(1, len(features_by_code()))}
    codes = set(tables(allowed).bad - {0})
    if beyond:
        free = frozenset(f.id for f in table().values() if f.free)
        by_code = features_by_code()
        codes |= {code for code, info in infos.items() if not free.issuperset(by_code[code]) and _escaped(info)}
    marks = {mark for code in codes if infos[code].mode64 for mark in _marks(infos[code])}
    return _Wanted(_pattern(marks), frozenset(codes))


def _pattern(marks: Set[bytes]) -> re.Pattern[bytes]:
    """Return a pattern for the first byte of each of some marks. Marks overlap: 0F 0F AA has two."""
    rests: dict[bytes, set[bytes]] = {}
    for mark in marks:
        rests.setdefault(mark[:1], set()).add(mark[1:])
    alone = sorted(first for first, held in rests.items() if b"" in held)
    parts = [b"[" + b"".join(map(re.escape, alone)) + b"]"] if alone else []
    for first, held in sorted(rests.items()):
        if b"" not in held:
            parts.append(re.escape(first) + b"(?=" + b"|".join(map(re.escape, sorted(held))) + b")")
    return re.compile(b"|".join(parts), re.DOTALL)


def _escaped(info: OpCodeInfo) -> bool:
    from iced_x86 import EncodingKind, OpCodeTableKind  # noqa: PLC0415

    return info.encoding != EncodingKind.LEGACY or info.table != OpCodeTableKind.NORMAL


def _marks(info: OpCodeInfo) -> tuple[bytes, ...]:
    """Return the bytes of which an instruction has one behind its prefixes."""
    from iced_x86 import EncodingKind, OpCodeTableKind  # noqa: PLC0415

    held = {
        EncodingKind.VEX: (b"\xc4", b"\xc5"),
        EncodingKind.EVEX: (b"\x62",),
        EncodingKind.MVEX: (b"\x62",),
        EncodingKind.XOP: (b"\x8f",),
        EncodingKind.D3NOW: (b"\x0f\x0f",),
    }
    if info.encoding in held:
        return held[info.encoding]
    escape = {
        OpCodeTableKind.NORMAL: b"",
        OpCodeTableKind.T0F: b"\x0f",
        OpCodeTableKind.T0F38: b"\x0f\x38",
        OpCodeTableKind.T0F3A: b"\x0f\x3a",
    }
    opcode = info.op_code.to_bytes(info.op_code_len, "big")
    # A second byte behind 0F is that of the operands, and iced takes others for it, too (XSTORE as 0F A7 C4).
    opcode = opcode[:1] if info.table == OpCodeTableKind.T0F else opcode
    # The last three bits of some opcodes are a register.
    named = any(info.op_kind(number) in _registers() for number in range(info.op_count))
    return tuple(escape[info.table] + opcode[:-1] + bytes((opcode[-1] + n,)) for n in range(8 if named else 1))


@lru_cache(maxsize=1)
def _registers() -> frozenset[int]:
    """Return iced's numbers of the kinds of operands that are in an opcode."""
    from iced_x86 import OpCodeOperandKind  # noqa: PLC0415

    return frozenset(number for name, number in vars(OpCodeOperandKind).items() if name.endswith("_OPCODE"))
