"""Lengths by tables, starts by jumps, and kinds are what iced says of each instruction by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import iced_x86
import numpy as np
import pytest
from iced_x86 import Code, Decoder

from pikaforge.audit.isa.swept.kinds import NEAR8, NEAR32, ODD, Kinds
from pikaforge.audit.isa.swept.lengths import PREFIXES, REX, SLACK, lengths, words
from pikaforge.audit.isa.swept.walks import jumps, starts

STRIDE = 24
"""Bytes for each instruction of a test, with what follows it."""
LEADS = (b"", *(bytes((one,)) for one in (*PREFIXES, 0x41, 0x44, 0x48, 0x4F)), *map(bytes.fromhex, (
    "6648", "6641", "f348", "f244", "66662e", "6667", "f266", "f366", "4866", "4048", "f0", "f2f3", "66666666662e",
)))  # fmt: skip
MAPS = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
MODULE = next(Path(iced_x86.__file__).parent.glob("*.so"))
ADDRESS_SIZE = {Code.MOV_AL_MOFFS8, Code.MOV_EAX_MOFFS32, Code.MOV_RAX_MOFFS64, Code.MOV_AX_MOFFS16} | {
    Code.MOV_MOFFS8_AL, Code.MOV_MOFFS32_EAX, Code.MOV_MOFFS64_RAX, Code.MOV_MOFFS16_AX}  # fmt: skip
SYSTEM = {Code.MOV_CR_R64, Code.MOV_R64_CR, Code.MOV_DR_R64, Code.MOV_R64_DR}
"""Kinds whose length the tables do not have in each case: all of them are odd, or are compared."""


def legacy(chance: random.Random) -> Iterator[bytes]:
    """Yield each opcode of the maps of 8086 to SSE4 behind prefixes, with some ModRM of each kind."""
    for lead in LEADS:
        for escape in MAPS:
            for opcode in range(256):
                for modrm in (*chance.choices(range(0xC0), k=2), chance.randrange(0xC0, 0x100)):
                    yield lead + escape + bytes((opcode, modrm))
    for escape in MAPS[:2]:
        for opcode in range(256):
            for modrm in range(256):
                yield escape + bytes((opcode, modrm))


def vex(chance: random.Random) -> Iterator[bytes]:
    """Yield each opcode behind VEX and XOP."""
    for opcode in range(256):
        for _ in range(100):
            some = chance.randbytes(4)
            middle = some[1] | (0x78 if some[3] & 1 else 0)
            yield bytes((0xC5, middle, opcode, some[2]))
            yield from (bytes((0xC4, some[0] & 0xE0 | place, middle, opcode, some[2])) for place in (1, 2, 3))
            yield bytes((0x8F, some[0] & 0xE0 | chance.choice((8, 9, 10)), middle, opcode, some[2]))


def evex(chance: random.Random) -> Iterator[bytes]:
    """Yield each opcode behind EVEX."""
    for opcode in range(256):
        for place in (1, 2, 3, 5, 6):
            for bits in range(4):
                for _ in range(16):
                    some = chance.randbytes(5)
                    middle = some[1] & 0x80 | (0x78 if some[4] & 1 else some[1] & 0x78) | 4 | bits
                    last = (some[2] if some[4] & 2 else some[2] & 0x78) | (8 if some[4] & 4 else 0)
                    yield bytes((0x62, some[0] & 0xF0 | place, middle, last, opcode, some[3]))


@pytest.mark.parametrize("encoding", (legacy, vex, evex))
def test_kinds_are_what_iced_says_of_each_instruction(encoding: Callable[[random.Random], Iterator[bytes]]) -> None:
    chance = random.Random(encoding.__name__)
    heads = list(encoding(chance))
    chance.shuffle(heads)  # the first one of a kind is not always of the same form
    compared = 0
    kinds = Kinds(frozenset())
    for first in range(0, len(heads), 20_000):
        part = heads[first : first + 20_000]
        raw = b"".join(head + chance.randbytes(STRIDE - len(head)) for head in part) + bytes(SLACK)
        compared += compare(raw, range(0, len(part) * STRIDE, STRIDE), kinds)
    # Of XOP iced is asked always; of EVEX so many kinds are tried that it is asked of most.
    assert compared > len(heads) * (0.25 if encoding is evex else 0.7)


def compare(raw: bytes, at: range, kinds: Kinds) -> int:
    """Compare the kinds at some offsets with what iced says; return how many iced was not asked of."""
    held = np.frombuffer(raw, np.uint8)
    both = words(held)
    found = lengths(held, both)
    swept = kinds.look(held, both, found, np.array(at), Decoder(64, raw))
    decoder = Decoder(64, raw)
    compared = 0
    for place, kind, flags in zip(at, swept.kinds.tolist(), swept.flags.tolist(), strict=True):
        if flags & ODD:
            continue
        compared += 1
        decoder.position, decoder.ip = place, place
        one = decoder.decode()
        assert one.code == kinds.codes[kind], raw[place : place + 15].hex()
        if one.code:
            assert one.len == found[place], raw[place : place + 15].hex()
            assert bool(flags & (NEAR8 | NEAR32)) == (one.near_branch_target != 0), raw[place : place + 15].hex()
    return compared


@pytest.mark.parametrize("dense", (False, True))
def test_lengths_at_each_byte(dense: bool) -> None:
    chance = random.Random(dense)
    special = bytes((*PREFIXES, *REX, 0x0F, 0x0F, 0x0F, 0xC4, 0xC5, 0x62, 0x8F, 0xF6, 0xF7))
    raw = bytes(
        chance.choice(special) if dense and chance.random() < 0.4 else chance.randrange(256) for _ in range(60_000)
    )
    held = np.frombuffer(raw, np.uint8)
    found = lengths(held, words(held))
    decoder = Decoder(64, raw)
    valid = 0
    for at in range(len(found)):
        decoder.position = at
        one = decoder.decode()
        if one.code and one.code not in ADDRESS_SIZE | SYSTEM:
            valid += 1
            assert one.len == found[at], raw[at : at + 15].hex()
    assert valid > 40_000


def test_starts_are_those_of_a_linear_sweep() -> None:
    chance = random.Random(5)
    raw = MODULE.read_bytes()[200_000:500_000]
    held = np.frombuffer(raw, np.uint8)
    found = lengths(held, words(held))
    borders = sorted({0, len(found), *(chance.randrange(len(found)) for _ in range(3000))})
    borders += [border + 1 for border in borders[5:40]]
    borders = sorted(set(borders))
    begin, end = np.array(borders[:-1]), np.array(borders[1:])
    begun = starts(jumps(found, end), begin, end)
    for low, high in pairwise(borders):
        at, expected = low, []
        while at < high:
            expected.append(at)
            at += int(found[at])
        assert (np.flatnonzero(begun[low:high]) + low).tolist() == expected
