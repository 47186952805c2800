"""What the code of a Go program refers to, in arrays."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from unit import code as c
from unit import elf_files as ef

from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.layout import PT_LOAD, read_layout
from pikaforge.audit.isa.dispatch.go_references import (
    Asked,
    GoReferences,
    Named,
    addresses_held,
    named,
    place_of,
    with_name,
)
from pikaforge.audit.isa.ranges import FUNCTION, CodeMap, read_map
from pikaforge.audit.isa.worker_pool import chunks

TEXT = 0x401000
ABSOLUTE = bytes.fromhex("8b0425") + (TEXT + 16).to_bytes(4, "little")  # mov TEXT+16,%eax, without RIP
INDEXED = bytes.fromhex("8b0485") + (TEXT + 16).to_bytes(4, "little")  # mov TEXT+16(,%rax,4),%eax
BASED = bytes.fromhex("8b83") + (TEXT + 16).to_bytes(4, "little")  # mov TEXT+16(%rbx),%eax
WIDE = bytes.fromhex("0f1005") + (32 - 7).to_bytes(4, "little")  # movups 32 bytes further on,%xmm0


def code_map(starts: Sequence[int], ends: Sequence[int], names: Sequence[int] = (), strings: bytes = b"") -> CodeMap:
    return CodeMap(
        starts=array("Q", starts),
        ends=array("Q", ends),
        offsets=array("Q", starts),
        kinds=bytearray([FUNCTION] * len(starts)),
        names=array("q", names or [-1] * len(starts)),
        strings=strings,
        resolvers=frozenset(),
    )


def found(*rows: tuple[int, Sequence[int]]) -> Named:
    return Named(
        array("q", [piece for piece, _ in rows]),
        array("q", [len(addresses) for _, addresses in rows]),
        array("Q", [address for _, addresses in rows for address in addresses]),
    )


@pytest.mark.parametrize("parts", [[], [found()], [found(), found()]])
def test_nothing(parts: list[Named]) -> None:
    held = GoReferences(code_map([16, 32], [32, 48]), parts)
    assert held.callers(0) == frozenset()
    assert list(held.users(8)) == []
    assert list(held.data_of([0])) == []


def test_no_code() -> None:
    held = GoReferences(code_map([], []), [])
    assert held.callers(0) == frozenset()
    assert list(with_name(code_map([], []), re.compile(rb"cpu"))) == []


def test_references_of_several_chunks() -> None:
    code = code_map([16, 32, 64], [32, 48, 80])
    held = GoReferences(code, [found((0, [32, 40, 100])), found((2, [8, 32, 47, 48, 79, 100, (1 << 64) - 1]))])
    assert held.callers(1) == {(0, 32), (0, 40), (2, 32), (2, 47)}
    assert held.callers(2) == {(2, 79)}
    assert held.callers(0) == frozenset()
    assert list(held.users(48)) == [2]  # the end of a piece, which no piece holds
    assert sorted(held.users(100)) == [0, 2]
    assert list(held.users(40)) == []
    assert list(held.data_of([0])) == [100]
    assert list(held.data_of([2, 7])) == [8, 48, 100, (1 << 64) - 1]


def test_pieces_by_name() -> None:
    strings = b"\0internal/cpu.doinit\0main.main\0x/cpuid.f\0last.cpu"
    names = [strings.index(word) for word in (b"internal", b"main.main", b"x/cpuid", b"last")]
    code = code_map(range(0, 96, 16), range(16, 112, 16), [*names, -1, strings.index(b"doinit")], strings)
    assert list(with_name(code, re.compile(rb"cpu"))) == [0, 2, 3]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("raw", "fixed", "expected"),
    [
        (ABSOLUTE, True, [16]),
        (INDEXED, True, [16]),
        (BASED, True, [16]),
        (ABSOLUTE, False, []),
        (BASED, False, []),
        (WIDE, False, [32]),  # its first word only
        (bytes.fromhex("e8") + (16 - 5).to_bytes(4, "little"), False, [16]),
        (bytes.fromhex("8b4310"), True, []),  # mov 16(%rbx),%eax
        (bytes.fromhex("c4e27d588310000000") + b"", True, []),  # vpbroadcastd, with a small displacement
        (bytes.fromhex("c4e27d5805") + (16 - 9).to_bytes(4, "little"), False, [16]),
        (bytes.fromhex("06"), False, []),  # what cannot be decoded
        (bytes.fromhex("7400") + bytes.fromhex("eb0c"), False, [16]),
    ],
)
def test_both_ways_of_reading(raw: bytes, fixed: bool, expected: list[int], quick: bool, tmp_path: Path) -> None:
    text = raw + ef.NOP * (15 - len(raw)) + ef.RET + ef.NOP * 31 + ef.RET
    data = ef.make(ef.Elf(text=text, symbols=[("f", 0, 16, 2), ("g", 16, 32, 2)]))
    path = tmp_path / "program"
    path.write_bytes(data)
    layout = read_layout(data, "x")
    code = read_map(data, layout, regions(data, layout, "x"), "x")
    assert code.starts[0] == TEXT
    [chunk] = chunks(path, code)
    one = named(chunk, Asked(TEXT, TEXT + 4096, fixed, quick))
    held = [
        a - TEXT
        for piece, count in zip(one.pieces, one.counts, strict=True)
        if piece == 0
        for a in one.addresses[:count]
    ]
    assert held == expected


@pytest.mark.parametrize("shift", [0, 1, 7, 8, 57, 60, 63, 64])
def test_addresses_in_data_at_any_offset(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pikaforge.audit.isa.dispatch.go_references.BLOCK", 64)
    functions = {"f": (c.RET,), "g": (c.AVX2, c.RET)}
    data = c.library(functions, data={"table": bytes(128)})
    layout = read_layout(data, "x")
    code = read_map(data, layout, regions(data, layout, "x"), "x")
    at = data.index(bytes(128), ef.PAGE)
    target = code.starts[1]
    data = data[: at + shift] + target.to_bytes(8, "little") + data[at + shift + 8 :]
    held = addresses_held(data, layout, code.starts[0], code.ends[-1])
    assert list(held.get(target)) == [at + shift]
    assert target + 1 not in held
    [part] = (s for s in layout.segments if s.type == PT_LOAD and s.offset <= at < s.offset + s.file_size)
    assert place_of(data, layout, at + shift) == part.address + at + shift - part.offset
    assert place_of(data, layout, len(data) + 1) == -1
