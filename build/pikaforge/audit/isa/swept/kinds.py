"""What iced says of instructions, asked once for each kind of them.

Instructions of a kind have the same prefixes that count, map and opcode, and the same ModRM but for registers and
addresses. iced's code for them is one and the same, so that it decodes the first one of a kind. Instructions whose code
depends on more than that are odd: iced decodes each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pikaforge.audit.isa.opcodes import is_near_branch, tables
from pikaforge.audit.isa.swept.lengths import (
    ESCAPE,
    EVEX,
    OPERAND,
    PREFIXES,
    REX,
    VEX2,
    VEX3,
    XOP,
    one_byte,
    prepare,
    two_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iced_x86 import Decoder, Instruction
    from numpy.typing import NDArray

    from pikaforge.audit.isa.swept.lengths import Bytes, Places, Words

KNOWN, ODD, BAD, NEAR8, NEAR32, DETECTING, INVALID, IDLE = 1, 2, 4, 8, 16, 32, 64, 128
"""What is known of a kind: iced was asked; iced must be asked of each; it is no instruction, or is not allowed; it is a
branch with a distance of 8 or of 32 bits; it asks the CPU for its features; it is no instruction; it is NOP or INT3."""
LONGEST = 15
CONTEXTS, VEX_CONTEXTS, VEX_KINDS, EVEX_KINDS = 8, 128, 4096, 1 << 16
NOPS, NO_OPERANDS = 0x90, 0x77
"""The opcodes of NOP, which REX makes another instruction, and of VZEROUPPER."""
LOCK, ADDRESS, REPNE, REP = 0xF0, 0x67, 0xF2, 0xF3
_ODD, _MORE, _OFFSET, _WIDE = 8, 64, 32, 4
"""Bits of `_KindTables.begin`. The lowest two are 1 behind 66, 2 behind F3, 3 behind F2."""
_FULL = {0: (*range(0xD8, 0xE0), 0xC6, 0xC7), 1: (0x01, 0xAE, 0xC7, 0x1E), 2: (), 3: (0xF0,)}
"""Opcodes, by map, of which all of ModRM counts."""
_ODD_OPCODES = {
    0: (0x8C, 0x8E, 0xF1),
    1: (0x0F, 0x1A, 0x1B, *range(0x20, 0x28), 0x36, 0x37, 0x78, 0x79, 0xA6, 0xA7),
    2: (),
    3: (),
}
"""Those of which more than that counts."""
_ODD_VEX = {
    1: (*range(0x41, 0x4C), *range(0x90, 0x94), 0x98, 0x99),
    2: (0x49, 0x4A, 0x4B, *range(0x58, 0x60), *range(0x68, 0x70), *range(0x90, 0x94)),
    3: (*range(0x30, 0x34),),
}

_ODD_EVEX = (*range(0x90, 0x94), *range(0xA0, 0xA4), 0xC6, 0xC7)


class _KindTables(NamedTuple):
    begin: Bytes
    """By the first two bytes: the bits above."""
    prefix: NDArray[np.bool_]
    legacy: NDArray[np.uint16]
    """By map, ModRM and opcode: the number of the kind; 0 is that of odd ones."""
    vex: NDArray[np.uint16]
    """By ModRM and opcode: the number of the kind."""
    odd_vex: NDArray[np.bool_]
    """By map and opcode."""
    odd_evex: NDArray[np.bool_]
    """By opcode, in map 2."""
    number: int
    """Kinds without their prefixes."""
    modrm: NDArray[np.bool_]
    """Whether there is ModRM, by the number of the kind."""


@lru_cache(maxsize=1)
def _tables() -> _KindTables:
    prefix = np.zeros(256, bool)
    prefix[[*PREFIXES, *REX]] = True
    begin = np.zeros((256, 256), np.uint8)
    for rex in REX:
        begin[:, rex] = _OFFSET | (_WIDE if rex & 8 else 0)
        begin[[NOPS, VEX2, VEX3, EVEX, XOP], rex] |= _ODD
    for one, value in {OPERAND: 1, REP: 2, REPNE: 3, LOCK: _ODD, ADDRESS: _ODD}.items():
        begin[:, one] = _OFFSET | value
    for one in (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65):
        begin[:, one] = _OFFSET
    begin[[VEX2, VEX3, EVEX, XOP]] |= np.where(prefix, _ODD, 0).astype(np.uint8)
    begin[np.ix_(prefix, prefix)] = _MORE
    legacy, modrm = _legacy()
    numbers = np.arange(256, dtype=np.uint16)
    vex = numbers[None, :] * 16 + _reduced(numbers)[:, None]
    vex[:, NO_OPERANDS] = NO_OPERANDS * 16
    odd = np.zeros((4, 256), bool)
    for place, opcodes in _ODD_VEX.items():
        odd[place, list(opcodes)] = True
    odd[0] = True
    odd_evex = np.zeros(256, bool)
    odd_evex[[*_ODD_EVEX]] = True
    return _KindTables(begin.ravel(), prefix, legacy, vex.ravel(), odd.ravel(), odd_evex, len(modrm), modrm)


def _reduced(modrm: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return what counts of ModRM: whether it names a register, and the field with the other register or the opcode."""
    return modrm >> np.uint16(3) & np.uint16(7) | (modrm >= 0xC0) * np.uint16(8)


def _legacy() -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the numbers of kinds by map, ModRM and opcode, and whether there is ModRM, by number."""
    out = np.zeros((4, 256, 256), np.uint16)
    modrm = np.arange(256, dtype=np.uint16)
    count = 1
    modrm_of = np.zeros(4 * 256 * 256, bool)
    has = (one_byte().modrm, two_bytes().modrm, np.ones(256), np.ones(256))
    for place in range(4):
        for opcode in range(256):
            if opcode in _ODD_OPCODES[place]:
                continue
            if opcode in _FULL[place]:
                out[place, :, opcode], size = count + modrm, 256
                modrm_of[count : count + size] = True
            elif has[place][opcode]:
                out[place, :, opcode], size = count + _reduced(modrm), 16
                modrm_of[count : count + size] = True
            else:
                out[place, :, opcode], size = count, 1
            count += size
    return out.ravel(), modrm_of[:count].copy()


class Swept(NamedTuple):
    """Instructions of a block, with what is known of their kinds."""

    places: Places
    """Their offsets."""
    kinds: NDArray[np.int32]
    """The number of the kind of each."""
    flags: Bytes
    """What is known of each."""
    opcodes: Places
    """The offsets of their opcodes; of those that are odd, any."""


class Kinds:
    """What is known of kinds of instructions in this process, for a set of allowed features."""

    def __init__(self, allowed: frozenset[str]) -> None:
        """Know nothing yet."""
        from iced_x86 import MemorySizeExt, Mnemonic  # noqa: PLC0415

        known = tables(allowed)
        prepare()
        self._idle = {int(Mnemonic.NOP), int(Mnemonic.INT3)}
        self._size = MemorySizeExt.size
        self._bad, self._detecting = known.bad, known.detecting
        self._legacy = CONTEXTS * _tables().number
        count = self._legacy + VEX_CONTEXTS * VEX_KINDS + EVEX_KINDS
        self._numbers: dict[int, int] = {}  # of kinds with EVEX
        self.flags = np.zeros(count, np.uint8)
        """What is known, by number."""
        self.codes = np.zeros(count, np.uint16)
        """iced's codes, by number."""
        self.flags[: self._legacy : _tables().number] = KNOWN | ODD
        self.sizes = np.zeros(count, np.uint16)
        """Bytes of the operand in memory, by number; 0 if it has no size."""
        self.flows = np.zeros(count, np.uint8)
        """iced's FlowControl, by number."""

    def look(self, raw: Bytes, words: Words, lengths: Bytes, places: Places, decoder: Decoder) -> Swept:
        """Return the kinds of the instructions at some offsets.

        Args:
            raw: the bytes of the block.
            words: the word at each of them.
            lengths: the lengths of instructions.
            places: the offsets, ascending.
            decoder: a decoder of the bytes, at the address of the first one.
        """
        known = _tables()
        begin = known.begin[words[places]]
        odd = (begin & _ODD) != 0
        opcodes = places + ((begin >> 5) & 1)
        context = begin & 7
        more = np.flatnonzero(begin & _MORE)
        if len(more):
            at, bits, strange = _prefixes(raw, places[more])
            opcodes[more], context[more] = at, bits
            odd[more] = strange | (lengths[places[more]] > LONGEST)
        first = raw[opcodes]
        kinds = np.zeros(len(places), np.int32)
        escaped = np.flatnonzero(first == ESCAPE)
        second = raw[opcodes[escaped] + 1]
        third = (second == 0x38) | (second == 0x3A)
        opcodes[escaped] += 1 + third
        index = words[opcodes].astype(np.intp)
        index[escaped] += np.where(third, 2 + (second == 0x3A), 1) << 16
        kinds += context
        kinds *= known.number
        kinds += known.legacy[index]
        self._vex(raw, words, places, np.flatnonzero((first == VEX2) | (first == VEX3)), (kinds, opcodes, odd))
        odd |= (first == XOP) & (raw[opcodes + 1] & 31 >= 8)
        self._evex(raw, places, np.flatnonzero((first == EVEX) & ~odd), (kinds, opcodes, odd))
        kinds[odd] = 0
        flags = self.flags[kinds]
        unknown = np.flatnonzero(flags == 0)
        if len(unknown):
            numbers, firsts = np.unique(kinds[unknown], return_index=True)
            self._ask(lengths, decoder, zip(numbers.tolist(), places[unknown[firsts]].tolist(), strict=True))
            flags[unknown] = self.flags[kinds[unknown]]
        return Swept(places, kinds, flags, opcodes)

    def _vex(
        self,
        raw: Bytes,
        words: Words,
        places: Places,
        some: Places,
        out: tuple[NDArray[np.int32], Places, NDArray[np.bool_]],
    ) -> None:
        """Set the kinds of instructions with VEX."""
        kinds, opcodes, odd = out
        known = _tables()
        at = places[some]
        short = raw[at] == VEX2
        fields = raw[at + 1] & 31
        fields[short] = 1
        last = raw[at + 2 - short]
        wide = (last >> 7) & ~short
        at = at + 3 - short
        opcodes[some] = at
        far = fields > 3
        fields[far] = 0
        bits = ((last & 0x78) == 0x78) | (last & 4) >> 1 | wide << 2 | (last & 3) << 3
        context = bits | fields << 5
        kinds[some] = self._legacy + context.astype(np.int32) * VEX_KINDS + known.vex[words[at]]
        odd[some] |= known.odd_vex[fields.astype(np.intp) << 8 | raw[at]]

    def _evex(
        self, raw: Bytes, places: Places, some: Places, out: tuple[NDArray[np.int32], Places, NDArray[np.bool_]]
    ) -> None:
        """Set the kinds of instructions with EVEX. There are few of the many that could be, so each gets a number."""
        if not len(some):
            return
        kinds, opcodes, odd = out
        at = places[some]
        opcodes[some] = at + 4
        head, middle, last = (raw[at + number].astype(np.int64) for number in (1, 2, 3))
        opcode = raw[at + 4].astype(np.int64)
        unused = ((middle & 0x78) == 0x78) & ((last & 8) != 0)
        key = (head & 0x9F) | (middle & 0x87) << 8 | unused << 11 | (last & 0xF0) << 12 | ((last & 7) != 0) << 20
        key |= opcode << 21 | _reduced(raw[at + 5].astype(np.uint16)).astype(np.int64) << 29
        keys, places_of = np.unique(key, return_inverse=True)
        numbers = np.array([self._number(one) for one in keys.tolist()], np.int32)
        kinds[some] = numbers[places_of]
        odd[some] |= (kinds[some] == 0) | (((head & 7) == 2) & _tables().odd_evex[opcode])

    def _number(self, key: int) -> int:
        """Return the number of a kind of instructions with EVEX; 0 if there are too many."""
        if key not in self._numbers:
            if len(self._numbers) == EVEX_KINDS:
                return 0
            self._numbers[key] = len(self.flags) - EVEX_KINDS + len(self._numbers)
        return self._numbers[key]

    def _ask(self, lengths: Bytes, decoder: Decoder, firsts: Iterable[tuple[int, int]]) -> None:
        """Have iced decode the first instruction of each new kind; `firsts` has the kinds' numbers and its offset."""
        start = decoder.ip - decoder.position
        for number, place in firsts:
            decoder.position, decoder.ip = place, start + place
            one = decoder.decode()
            self.codes[number], self.flows[number] = one.code, one.flow_control
            self.sizes[number] = self._size(one.memory_size)
            self.flags[number] = KNOWN | self._flags(one, int(lengths[place]), decoder)

    def _flags(self, one: Instruction, length: int, decoder: Decoder) -> int:
        """Return the flags of a kind, by its first instruction: by what all of the kind have, and not by its target."""
        if one.code and one.len != length:
            return ODD
        flags = BAD if one.code in self._bad else 0
        flags |= DETECTING if one.code in self._detecting else 0
        flags |= IDLE if one.mnemonic in self._idle else 0
        if one.code == 0:
            return BAD | INVALID
        if not is_near_branch(one):
            return flags
        distance = {1: NEAR8, 4: NEAR32}.get(decoder.get_constant_offsets(one).immediate_size, ODD)
        return ODD if distance == ODD else flags | distance

    def with_modrm(self, kinds: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return whether instructions of some kinds, which are not odd, have ModRM."""
        known = _tables()
        legacy = kinds < self._legacy
        has = known.modrm[np.where(legacy, kinds % known.number, 0)]
        vex = ~legacy & (kinds < len(self.flags) - EVEX_KINDS)
        plain = (kinds - self._legacy) % VEX_KINDS == NO_OPERANDS * 16
        return np.where(legacy, has, ~(vex & plain))

    def codes_of(self, kinds: Iterable[int]) -> set[int]:
        """Return iced's codes of those of some kinds that are allowed and not odd."""
        return {int(self.codes[kind]) for kind in kinds if not self.flags[kind] & (BAD | ODD)}


def _prefixes(raw: Bytes, places: Places) -> tuple[Places, Bytes, NDArray[np.bool_]]:
    """Return of instructions with several prefixes where the opcode is, the bits of the prefixes, and what is odd."""
    prefix = _tables().prefix
    at = places.copy()
    operand = np.zeros(len(at), bool)
    odd, rep, repne = operand.copy(), operand.copy(), operand.copy()
    rex = np.zeros(len(at), np.uint8)
    active = np.arange(len(at))
    for _ in range(LONGEST):
        one = raw[at[active]]
        active, one = active[prefix[one]], one[prefix[one]]
        if not len(active):
            break
        odd[active] |= (rex[active] != 0) | (one == LOCK) | (one == ADDRESS)
        operand[active] |= one == OPERAND
        rep[active] |= one == REP
        repne[active] |= one == REPNE
        is_rex = (one & 0xF0) == 0x40
        rex[active[is_rex]] = one[is_rex]
        at[active] += 1
    odd[active] = True
    odd |= (operand & (rep | repne)) | (rep & repne)
    last = raw[at]
    odd |= (last == VEX2) | (last == VEX3) | (last == EVEX) | (last == XOP) | ((last == NOPS) & (rex != 0))
    bits = operand + 2 * rep + np.uint8(3) * repne + np.uint8(4) * ((rex & 8) != 0)
    return at, bits.astype(np.uint8), odd
