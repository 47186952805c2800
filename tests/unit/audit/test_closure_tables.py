"""Tables of data before functions, as GHC has them: they are told from code, and hide none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.isa.decode import CodeSource, FileScan, code_regions, scan
from pikaforge.audit.isa.doubtful import TABLE_CLAIM

ALLOWED = from_macros([f"#define {m} 1" for m in ("__AVX__", "__XSAVE__")], "sandybridge").sure
BASE = 0x401000
PLAIN = ef.AVX
JUMP = bytes.fromhex("ff6500")  # jmp *(%rbp)
BODY = bytes.fromhex("488d45f04c39f8488b4308")  # lea -16(%rbp),%rax; cmp %r15,%rax; mov 8(%rbx),%rax
THUNK, FRAME, FUN, CON, STATIC = 15, 30, 14, 1, 21


def table(kind: int, layout: int = 0, far: int = 0) -> bytes:
    """What precedes a piece of code."""
    before = {FUN: struct.pack("<II", 5, 2), CON: struct.pack("<q", -64)}.get(kind, b"")
    return before + struct.pack("<QIi", layout, kind, far)


class Program:
    """Closures: each has a table, code, and a word of data that names the code."""

    def __init__(self) -> None:
        self.text = bytearray(ef.NOP * 61 + JUMP)
        self.words: list[int] = []

    def add(self, code: bytes, *, kind: int = THUNK, layout: int = 0, far: int = 0, end: bytes = JUMP) -> int:
        """Add one; return the offset of its code."""
        self.text += table(kind, layout, far)
        at = len(self.text)
        self.words.append(BASE + at)
        self.text += code + end
        self.text += ef.NOP * (-len(self.text) % 8)
        return at

    def add_many(self, count: int = 150) -> Program:
        for n in range(count):
            kind = (THUNK, FRAME, FUN, CON)[n % 4]
            self.add(BODY + b"\xb8" + struct.pack("<i", n * 7919), kind=kind, layout=n << 6 if kind == FRAME else n % 3)
        return self

    def make(self, *, relocated: bool = False, more: int = 0) -> bytes:
        data = b"".join(struct.pack("<QQ", word, 0) for word in self.words) + bytes(more)
        text = bytes(self.text)
        if not relocated:
            return ef.make(ef.Elf(kind=2, text=text, address=BASE, data=data))
        place = -(-len(text) // 4096) * 4096
        rows = [(place + 16 * n, 8, word - BASE) for n, word in enumerate(self.words)]
        return ef.make(ef.Elf(text=text, address=BASE, data=bytes(len(data)), relocations=rows))


def run(content: bytes, tmp_path: Path) -> FileScan:
    path = tmp_path / "x"
    path.write_bytes(content)
    [found] = scan([CodeSource(file="x", path=path)], ALLOWED, workers=1)
    every = found.decoded + sum(size for _, size in found.data) + found.unclassified
    assert every == sum(region.size for region in code_regions(path, "x"))
    return found


def sure(found: FileScan) -> set[str]:
    return {hit.feature for hit in found.hits if not hit.suspect}


def in_a_function(code: bytes) -> bytes:
    program = Program().add_many()
    program.add(BODY + code)
    return program.make()


def in_a_function_of_a_library(code: bytes) -> bytes:
    program = Program().add_many()
    program.add(code, kind=FUN)
    return program.make(relocated=True)


def called_in_a_table(code: bytes) -> bytes:
    """The bitmap of a frame may have any value."""
    program = Program().add_many()
    at = program.add(BODY, kind=FRAME, layout=int.from_bytes((code + ef.RET).ljust(8, b"\0"), "little"))
    call = len(program.text) + len(table(THUNK))
    program.add(b"\xe8" + struct.pack("<i", at - 16 - call - 5))
    return program.make()


def called_within_a_table(code: bytes) -> bytes:
    program = Program().add_many()
    at = program.add(BODY, kind=FRAME, layout=int.from_bytes((b"\x06" + code + ef.RET).ljust(8, b"\0"), "little"))
    call = len(program.text) + len(table(THUNK))
    program.add(b"\xe8" + struct.pack("<i", at - 15 - call - 5))
    return program.make()


def run_on_into_a_table(code: bytes) -> bytes:
    """The bytes before the table end as a jump does, and are the constant of another instruction."""
    program = Program().add_many()
    program.add(BODY, end=b"\x05\x90" + JUMP)  # add $0x65ff90..,%eax
    program.text = program.text[: -(len(program.text) % 8) or None]
    layout = int.from_bytes((code + ef.RET).ljust(8, b"\0"), "little")
    program.text = bytearray(bytes(program.text).rstrip(ef.NOP))
    program.text = program.text[:-5]
    program.text += ef.NOP * ((-len(program.text) - 5) % 8) + b"\x05\x90" + JUMP
    program.add(BODY, kind=FRAME, layout=layout)
    return program.make()


STRUCTURES = [
    in_a_function,
    in_a_function_of_a_library,
    called_in_a_table,
    called_within_a_table,
    run_on_into_a_table,
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("feature", ["avx2", "fma"])
def test_what_hides_among_tables_is_found(structure: Callable[[bytes], bytes], feature: str, tmp_path: Path) -> None:
    code = {"avx2": ef.AVX2, "fma": ef.FMA}[feature]
    assert feature in sure(run(structure(code), tmp_path))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.__name__)
def test_the_program_alone_is_no_finding(structure: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert sure(run(structure(PLAIN), tmp_path)) == set()


FALSE = {
    "femms": 0x0E0F,
    "vpaddd": int.from_bytes(ef.AVX2, "little"),
    "fisttp": 0x08DD,
    "lzcnt": int.from_bytes(ef.LZCNT, "little"),
}


@pytest.mark.parametrize("name", FALSE)
@pytest.mark.parametrize("relocated", [False, True])
def test_a_table_is_no_code(name: str, relocated: bool, tmp_path: Path) -> None:
    program = Program().add_many()
    for n in range(20):
        program.add(BODY + b"\xb8" + struct.pack("<i", n), kind=FRAME, layout=FALSE[name] << 8 * (n % 4))
    found = run(program.make(relocated=relocated), tmp_path)
    assert found.hits == () and found.unclassified == 0
    tables = sum(len(table(kind)) for kind in (THUNK, FRAME, FUN, CON)) * 150 // 4 + 20 * 16
    assert abs(dict(found.data)[TABLE_CLAIM] - tables) <= 16
    assert "bytes that are no instruction" not in dict(found.data)


def test_few_tables_are_no_evidence(tmp_path: Path) -> None:
    """Another compiler's program may have words that look like a table."""
    found = run(Program().add_many(40).make(), tmp_path)
    assert TABLE_CLAIM not in dict(found.data)


def test_pointers_elsewhere_are_evidence_against(tmp_path: Path) -> None:
    program = Program().add_many()
    program.words += [BASE + 64 + 3 + 8 * n for n in range(150)]
    assert TABLE_CLAIM not in dict(run(program.make(), tmp_path).data)


FAR = int.from_bytes(b"\xb8\x0f\x0e\0", "little")
"""A distance whose bytes hold FEMMS; with the first bytes of the code behind it they are instructions to their end."""
BEHIND = ef.NOP * 5 + (BODY + b"\xb8\0\0\0\0") * 6
ENOUGH = 1 << 20
"""Bytes of data so that the distance leads to one of them."""


@pytest.mark.parametrize(("far", "more", "found"), [(FAR, ENOUGH, False), (FAR, 0, True), (FAR + 4, ENOUGH, True)])
def test_a_distance_to_a_closure_is_no_code(far: int, more: int, found: bool, tmp_path: Path) -> None:
    """What leads elsewhere, or to no word, is no distance to a closure."""
    program = Program().add_many()
    for _ in range(4):
        program.add(BEHIND, kind=STATIC, far=far)
    assert ("d3now" in sure(run(program.make(more=more), tmp_path))) is found


@pytest.mark.parametrize(("at", "found"), [(-3, True), (0, False)])
def test_a_jump_into_a_distance_is_followed(at: int, found: bool, tmp_path: Path) -> None:
    program = Program().add_many()
    code = program.add(BEHIND, kind=STATIC, far=FAR)
    call = len(program.text) + len(table(THUNK))
    program.add(b"\xe8" + struct.pack("<i", code + at - call - 5))
    assert ("d3now" in sure(run(program.make(more=ENOUGH), tmp_path))) is found


def test_a_jump_by_a_table_ends_code_before_a_table(tmp_path: Path) -> None:
    """The table after it is no part of the function: its kind would be no instruction."""
    program = Program().add_many()
    at = len(program.text)
    program.add(BODY, kind=FRAME, end=bytes.fromhex("ff24dda8ae6809"))  # jmp *0x968aea8(,%rbx,8)
    program.add(BODY, kind=FRAME)
    made = program.make()
    assert at and run(made, tmp_path).hits == ()
