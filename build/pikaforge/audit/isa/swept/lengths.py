"""The length of the instruction that begins at each byte, by tables.

All offsets of a block are computed together. An instruction is prefixes, an opcode, and what follows that: ModRM with
its displacement, and an immediate (Intel SDM vol. 2A ch. 2 and vol. 2D app. A; AMD APM vol. 3 app. A). The first two
bytes say where ModRM is and how long the rest is, but for a few that are computed apart: prefixes, VEX, EVEX and XOP,
and F6 and F7 behind REX.

Of bytes that are no instruction, the length is any number. Whoever uses a length has iced confirm it (`kinds`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Words = NDArray[np.uint16]
    Places = NDArray[np.intp]

SLACK = 32
"""Bytes that must follow those of which the lengths are asked."""
PREFIXES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)
REX = tuple(range(0x40, 0x50))
OPERAND = 0x66
ESCAPE = 0x0F
VEX2, VEX3, EVEX, XOP = 0xC5, 0xC4, 0x62, 0x8F
TEST8, TEST = 0xF6, 0xF7
"""Opcodes of which some have an immediate, by ModRM."""
CHAIN = 14
"""The most prefixes of an instruction."""
_PREFIX, _LONG, _REX_TEST = 15, 14, 13
"""Values in place of a length, for what is computed apart."""
_MODRM_0F38, _MODRM_0F3A = 0x38, 0x3A


class Rest(NamedTuple):
    """What follows the opcodes of a map, by opcode."""

    modrm: Bytes
    """1: ModRM."""
    immediate: Bytes
    """Bytes of the immediate."""
    shrinks: Bytes
    """1: the immediate has two bytes less behind 66."""


@lru_cache(maxsize=1)
def one_byte() -> Rest:
    """Return what follows opcodes of one byte."""
    rest = _empty()
    for low in range(0, 0x40, 8):
        rest.modrm[low : low + 4] = 1
        rest.immediate[low + 4] = 1
        rest.immediate[low + 5], rest.shrinks[low + 5] = 4, 1
    for opcode in (0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD0, 0xD4)):
        rest.modrm[opcode] = 1
    rest.modrm[0xD8:0xE0] = 1
    rest.modrm[[TEST8, TEST, 0xFE, 0xFF]] = 1
    for opcode in (0x6A, 0x6B, *range(0x70, 0x84), 0xA8, *range(0xB0, 0xB8), 0xC0, 0xC1, 0xC6, 0xCD, 0xD4, 0xD5, 0xEB):
        rest.immediate[opcode] = 1
    rest.immediate[0xE0:0xE8] = 1
    for opcode in (0x68, 0x69, 0x81, 0xA9, *range(0xB8, 0xC0), 0xC7):
        rest.immediate[opcode], rest.shrinks[opcode] = 4, 1
    rest.immediate[0xA0:0xA4] = 8
    rest.immediate[[0xE8, 0xE9]] = 4
    rest.immediate[[0xC2, 0xCA]] = 2
    rest.immediate[0xC8] = 3
    return rest


@lru_cache(maxsize=1)
def two_bytes() -> Rest:
    """Return what follows opcodes behind 0F; VEX and EVEX have the same ones in map 1."""
    rest = _empty()
    rest.modrm[:] = 1
    for low, high in ((0x05, 0x0A), (0x30, 0x38), (0x80, 0x90), (0xA0, 0xA3), (0xA8, 0xAB), (0xC8, 0xD0)):
        rest.modrm[low:high] = 0
    rest.modrm[[0x0B, 0x0E, 0x77]] = 0
    rest.immediate[[0x0F, 0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6]] = 1
    rest.immediate[0x80:0x90] = 4
    return rest


def _empty() -> Rest:
    return Rest(*(np.zeros(256, np.uint8) for _ in range(3)))


class _Tables(NamedTuple):
    first: Bytes
    """By the first two bytes: the length without ModRM and displacement (4 bits), the offset of ModRM (2 bits), and
    whether an immediate has two bytes less behind 66."""
    memory: Bytes
    """By ModRM and the byte behind: the length of ModRM, SIB and displacement."""
    prefix: NDArray[np.bool_]
    vex: Bytes
    """By map of VEX (0 to 31) and opcode: twice the bytes of the immediate, and whether there is ModRM."""


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    one, two = one_byte(), two_bytes()
    first = np.zeros((256, 256), np.uint8)  # by second byte, then by first byte: as words of little-endian bytes
    plain = (1 + one.immediate) | one.modrm << 4 | one.shrinks << 6
    plain[[VEX2, VEX3, EVEX, XOP]] = _LONG
    plain[[*PREFIXES]] = _PREFIX
    first[:] = plain
    tested = (np.arange(256) & 0x30) == 0
    first[tested, TEST8] = 2 | 1 << 4
    first[tested, TEST] = 5 | 1 << 4 | 1 << 6
    escaped = (2 + two.immediate) | two.modrm << 5
    escaped[_MODRM_0F38], escaped[_MODRM_0F3A] = 3 | 3 << 4, 4 | 3 << 4
    first[:, ESCAPE] = escaped
    behind = (2 + one.immediate) | one.modrm << 5 | one.shrinks << 6
    behind[[VEX2, VEX3, EVEX, XOP, ESCAPE, *PREFIXES, *REX]] = _PREFIX
    behind[[TEST8, TEST]] = _REX_TEST
    wide = behind & 0x3F
    wide[0xB8:0xC0] = 10
    for rex in REX:
        first[:, rex] = wide if rex & 8 else behind
    modrm, sib = np.arange(256, dtype=np.uint8)[None, :], np.arange(256, dtype=np.uint8)[:, None]
    mode, register = modrm >> 6, modrm & 7
    memory = np.ones((256, 256), np.uint8) + ((mode != 3) & (register == 4)) + (mode == 1) + 4 * (mode == 2)
    memory += 4 * ((mode == 0) & ((register == 5) | ((register == 4) & (sib & 7 == 5))))
    prefix = np.zeros(256, bool)
    prefix[[*PREFIXES]] = True
    vex = np.ones((32, 256), np.uint8)
    vex[1] = 2 * two.immediate * (np.arange(256) < 0xD0) * (np.arange(256) & 0xF0 != 0x80) | 1
    vex[1, 0x77] = 0
    vex[3] = vex[8] = 2 | 1
    vex[10] = 8 | 1
    return _Tables(first.ravel(), memory.astype(np.uint8).ravel(), prefix, vex.ravel())


def prepare() -> None:
    """Make the tables, which are made once in a process."""
    _tables()


def words(raw: Bytes) -> Words:
    """Return the word of two bytes at each byte; that of the last one is any."""
    out = raw.astype(np.uint16)
    out[:-1] |= out[1:] << 8
    return out


def lengths(raw: Bytes, words: Words) -> Bytes:
    """Return the length of the instruction at each byte but the last `SLACK`, if one begins there.

    Args:
        raw: the bytes.
        words: the word at each of them.
    """
    known = _tables()
    size = len(raw) - SLACK
    first = known.first.take(words[: size + CHAIN + 2])
    memory = known.memory.take(words)
    count = len(first)
    out = first & np.uint8(15)
    where = (first >> 4) & 3
    for offset in (1, 2, 3):
        out += memory[offset : offset + count] * (where == offset)
    shrinks = first >> np.uint8(5) & np.uint8(2)
    kind = first & 15
    special = np.flatnonzero(kind >= _REX_TEST)
    kinds = kind[special]
    _tests(raw, memory, out, shrinks, special[kinds == _REX_TEST])
    _long_forms(raw, memory, out, special[kinds == _LONG])
    chain = kind == _PREFIX
    at = special[kinds == _PREFIX]
    at = at[at < count - 1]
    for depth in range(1, CHAIN):
        operand = raw[at] == OPERAND
        out[at] = 1 + out[at + 1] - shrinks[at + 1] * operand
        shrinks[at] = shrinks[at + 1] * ~operand
        at = at[at < size + CHAIN - depth]
        at = at[chain[at + depth]]
        if not len(at):
            break
    return out[:size]


def _tests(raw: Bytes, memory: Bytes, out: Bytes, shrinks: Bytes, at: Places) -> None:
    """Set the lengths of F6 and F7 behind REX."""
    wide = raw[at + 1] == TEST
    tested = (raw[at + 2] & 0x30) == 0
    out[at] = 2 + memory[at + 2] + tested * (1 + 3 * wide.astype(np.uint8))
    shrinks[at] = 2 * (tested & wide & ((raw[at] & 8) == 0))


def _long_forms(raw: Bytes, memory: Bytes, out: Bytes, at: Places) -> None:
    """Set the lengths of what begins with VEX, EVEX or XOP, or is a POP with ModRM."""
    vex = _tables().vex
    lead, second = raw[at], raw[at + 1]
    fields = second & 31
    fields[lead == VEX2] = 1
    fields[lead == EVEX] &= 7
    skip = np.full(len(at), 3, np.uint8)  # bytes before the opcode
    skip[lead == VEX2] = 2
    skip[lead == EVEX] = 4
    place = at + skip
    rest = vex[fields.astype(np.intp) << 8 | raw[place]]
    found = 1 + skip + memory[place + 1] * (rest & 1) + (rest >> 1)
    pop = (lead == XOP) & (fields < 8)
    out[at] = np.where(pop, 1 + memory[at + 1], found)
