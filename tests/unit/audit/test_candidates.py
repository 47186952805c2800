"""Where an instruction of interest could begin, and what code names, are found in the bytes: nothing is missed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import iced_x86
import pytest
from iced_x86 import Decoder

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.elf.executable import executable
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.isa import candidates
from pikaforge.audit.isa.candidates import beginnings, harmless, windows
from pikaforge.audit.isa.opcodes import LONGEST, tables
from pikaforge.audit.isa.ranges import CodeMap, read_map
from pikaforge.audit.isa.taken import Wanted, jump_tables, taken
from pikaforge.audit.isa.worker_pool import chunks

MODULE = next(Path(iced_x86.__file__).parent.glob("*.so"))
TARGETS = ("x86_64", "sandybridge", "skylake_avx512", "zen4")
SPECIAL = bytes.fromhex("0f0f0fc4c4c5c5626262628f8f38383a3a66f2f3f2f366484941444e2e64f0")
"""Escapes, prefixes of VEX, EVEX and XOP, and legacy prefixes, the likelier ones more than once."""


def noise(number: int) -> bytes:
    """Return bytes that are random, those of text, or full of escapes and prefixes."""
    chance = random.Random(number)
    plain = chance.randbytes(40_000)
    text = bytes(chance.choice(b"eabtsr 0Pb/.\0") for _ in range(10_000))
    dense = bytes(chance.choice(SPECIAL) if chance.random() < 0.6 else chance.randrange(256) for _ in range(80_000))
    return plain + text + dense


@pytest.mark.parametrize("target", (*TARGETS, ""))
def test_candidates_are_what_each_byte_begins(target: str) -> None:
    allowed = of_baseline(target) if target else frozenset[str]()
    bad = tables(allowed).bad - {0}
    raw = noise(len(target))
    each = {at for at in range(len(raw)) if Decoder(64, raw[at : at + LONGEST]).decode().code in bad}
    assert len(each) > 40
    assert set(beginnings(raw, allowed)) == each


def test_only_the_first_bytes_are_looked_at() -> None:
    allowed = of_baseline("sandybridge")
    raw = bytes(100) + bytes.fromhex("c5fdfec0") + bytes(100)  # vpaddd %ymm0,%ymm0,%ymm0
    assert list(beginnings(raw, allowed, size=101)) == [100]
    assert list(beginnings(raw, allowed, size=100)) == []
    assert harmless(raw, allowed, starts=100)
    assert not harmless(raw, allowed)


def test_what_is_harmless() -> None:
    allowed = of_baseline("x86_64")
    assert harmless(bytes(16), allowed)
    assert harmless(bytes.fromhex("0f1f00"), allowed)  # nop
    for code in ("c5fdfec1", "62f17c4858c1", "c7f800000000", "f30fb8c7", "8fe97882c1"):
        assert not harmless(bytes.fromhex(code), allowed), code
        assert not harmless(bytes.fromhex("00" + code) + bytes(15), allowed, starts=2), code
        assert harmless(bytes.fromhex("00" + code) + bytes(15), allowed, starts=1), code


def test_allowed_instructions_that_not_every_cpu_has_are_candidates_for_the_gate() -> None:
    allowed = of_baseline("sandybridge")
    raw = bytes(5000) + bytes.fromhex("660f3800c0") + bytes(5000)  # pshufb %xmm0,%xmm0
    assert list(beginnings(raw, allowed)) == []
    assert set(beginnings(raw, allowed, beyond=True)) == {5000, 5001}  # with the prefix, and the form of MMX without
    assert windows(raw, allowed, len(raw)) == [(5000 - candidates.REACH, 5001 + candidates.REACH)]


def test_windows_that_meet_are_one() -> None:
    allowed = of_baseline("sandybridge")
    avx2 = bytes.fromhex("c5fdfec0")
    raw = avx2 + bytes(candidates.REACH) + avx2 + bytes(8 * candidates.REACH) + avx2
    assert windows(raw, allowed, len(raw)) == [
        (0, 2 * candidates.REACH + 4),
        (len(raw) - 4 - candidates.REACH, len(raw)),
    ]


# --- what code names -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module() -> CodeMap:
    with mapped(MODULE) as data:
        layout = read_layout(data, MODULE.name)
        return read_map(data, layout, executable(data, layout, MODULE.name), MODULE.name)


def everything(module: CodeMap, spans: tuple[tuple[int, int], ...], *, fixed: bool) -> set[int]:
    with mapped(MODULE) as data:
        loaded = tuple((s.address, s.address + s.file_size, s.offset) for s in read_layout(data, MODULE.name).loaded())
    sought = Wanted(spans, fixed, (module.starts[0], module.ends[-1]), loaded)
    return {address for chunk in chunks(MODULE, module) for address in taken(chunk, sought)}


def test_no_address_that_code_takes_is_missed(module: CodeMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the decoding of all code finds in some ranges of a real library, the search in its bytes finds, too."""
    chance = random.Random(7)
    with mapped(MODULE) as data:
        layout = read_layout(data, MODULE.name)
    places = [s for s in layout.sections if s.name in (".rodata", ".text", ".data.rel.ro")]
    spans = []
    for section in places:
        for low in sorted(chance.sample(range(section.address, section.address + section.size, 4096), 12)):
            spans.append((low, low + 700))
    found = everything(module, tuple(sorted(spans)), fixed=False)
    monkeypatch.setattr("pikaforge.audit.isa.taken._constants", dict)
    assert len(found) > 50
    assert found == everything(module, tuple(sorted(spans)), fixed=True)  # which decodes all


def entries(values: list[int]) -> Iterator[int]:
    data = bytes(64) + struct.pack(f"<{len(values)}i", *values)
    addresses = {0x1000 + 64, 0x1000 + 72}
    return jump_tables(data, Wanted(((0x100, 0x200),), False, (0x8000, 0x9000), ((0x1000, 0x2000, 0),)), addresses)


def test_a_jump_table_ends_where_the_next_one_begins() -> None:
    first, second = 0x1000 + 64, 0x1000 + 72
    values = [0x8000 - first, 0x180 - first, 0x8004 - second, 0x190 - second, 1 << 30, 0x8000 - second]
    assert list(entries(values)) == [0x8000, 0x180, 0x8004, 0x190]


def test_a_jump_table_ends_at_what_leads_elsewhere() -> None:
    first = 0x1000 + 64
    assert list(entries([0x8000 - first, 5, 7, 9])) == [0x8000]
