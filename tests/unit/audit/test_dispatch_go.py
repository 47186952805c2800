"""Go programs: functions by `.gopclntab`, in stripped files, too."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from unit import code as c
from unit import elf_files as ef

from pikaforge.audit.elf import gopclntab
from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.gopclntab import read_functions
from pikaforge.audit.elf.layout import Layout, read_layout
from pikaforge.audit.isa import piece_scan, ranges
from pikaforge.audit.isa.decode import CodeSource, scan
from pikaforge.audit.isa.dispatch import go, go_references
from pikaforge.audit.isa.dispatch.rows import Rows
from pikaforge.audit.isa.ranges import FUNCTION, read_map

START = 0x401000
CODE = ef.RET + b"\xcc" * 15 + ef.AVX2 + ef.RET + b"\xcc" * 11
FUNCTIONS = [(0, 16, b"main.main"), (16, 32, b"crypto/sha256.block")]


def table(version: str, *, start: int = START) -> bytes:
    """A table of functions, as a version of Go writes it."""
    names = b"".join(name + b"\0" for _, _, name in FUNCTIONS)
    offsets = [names.index(name) for _, _, name in FUNCTIONS]
    magic = {"1.2": 0xFFFFFFFB, "1.16": 0xFFFFFFFA, "1.18": 0xFFFFFFF0, "1.20": 0xFFFFFFF1}[version]
    head = struct.pack("<I4s", magic, b"\0\0\x01\x08")
    count = len(FUNCTIONS)
    if version == "1.2":
        at = len(head) + 8 + 16 * count + 8
        first = at + 12 * count
        entries = b"".join(struct.pack("<QQ", START + low, at + 12 * i) for i, (low, _, _) in enumerate(FUNCTIONS))
        records = b"".join(
            struct.pack("<Qi", START + low, first + offset)
            for (low, _, _), offset in zip(FUNCTIONS, offsets, strict=True)
        )
        return head + struct.pack("<Q", count) + entries + struct.pack("<Q", START + FUNCTIONS[-1][1]) + records + names
    wide = version == "1.16"
    entry, word, base = ("<QQ", "<Q", START) if wide else ("<II", "<I", 0)
    size = struct.calcsize(entry) * count + struct.calcsize(word)
    entries = b"".join(
        struct.pack(entry, base + low, size + (12 if wide else 8) * i) for i, (low, _, _) in enumerate(FUNCTIONS)
    )
    entries += struct.pack(word, base + FUNCTIONS[-1][1])
    records = b"".join(
        struct.pack("<Qi" if wide else "<Ii", base + low, offset)
        for (low, _, _), offset in zip(FUNCTIONS, offsets, strict=True)
    )
    words = 7 if wide else 8
    names_at = len(head) + 8 * words
    functions_at = names_at + len(names)
    numbers = [count, 1, *([] if wide else [start]), names_at, 0, 0, 0, functions_at]
    return head + struct.pack(f"<{words}Q", *numbers) + names + entries + records


def program(content: bytes, *, sections: bool = True) -> bytes:
    """A stripped program; the table is in .rodata, or in a section of its name, which debug sections stand for."""
    if sections:
        return ef.make(ef.Elf(text=CODE, debug={".gopclntab": content}))
    return ef.make(ef.Elf(text=CODE, data=content, sections=False))


@pytest.mark.parametrize("sections", [True, False])
@pytest.mark.parametrize("version", ["1.2", "1.16", "1.18", "1.20"])
def test_functions_of_a_stripped_program(version: str, sections: bool, tmp_path: Path) -> None:
    data = program(table(version), sections=sections)
    found = read_functions(data, read_layout(data, "x"))
    assert found.problem == ""
    assert [(low - START, high - START) for low, high, _ in found.ranges] == [f[:2] for f in FUNCTIONS]
    path = tmp_path / "program"
    path.write_bytes(data)
    [judged] = scan([CodeSource(file="x", path=path)], frozenset({"avx"}), workers=1)
    assert [h.function for h in judged.hits if h.feature == "avx2"] == ["crypto/sha256.block"]


def test_a_start_that_the_loader_writes() -> None:
    """Position-independent programs have zero in the header: .text's start is taken."""
    data = program(table("1.20", start=0))
    assert [r[0] for r in read_functions(data, read_layout(data, "x")).ranges] == [START, START + 16]


@pytest.mark.parametrize("version", ["1.2", "1.16", "1.18", "1.20"])
def test_a_cut_table_is_a_problem_and_no_error(version: str) -> None:
    whole = table(version)
    for length in range(8, len(whole), 3):
        data = program(whole[:length] + b"\xff" * (len(whole) - length))
        found = read_functions(data, read_layout(data, "x"))
        assert all(START <= low < high <= START + len(CODE) for low, high, _ in found.ranges)


def test_numbers_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table("1.20")
    huge = program(whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:])
    assert "functions" in read_functions(huge, read_layout(huge, "x")).problem
    monkeypatch.setattr(gopclntab, "NAMES", 10)
    data = program(whole)
    assert read_functions(data, read_layout(data, "x")).problem.endswith("its names are too long")


def test_other_programs_have_none() -> None:
    data = ef.make(ef.Elf(text=CODE, extra=b"\xf1\xff\xff\xff\0\0\x01\x08" + bytes(64)))
    assert read_functions(data, read_layout(data, "x")) == gopclntab.GoFunctions()


# ---- internal/cpu's flags

SET_FLAG, OWN_FLAG = c.Ref(b"\x88\x05", "flag"), c.Ref(b"\x88\x05", "own")  # mov %al,flag(%rip)
LOAD_FLAG, LOAD_OWN = c.Ref(b"\x0f\xb6\x05", "flag"), c.Ref(b"\x0f\xb6\x05", "own")  # movzbl flag(%rip),%eax
TEST_AL = bytes.fromhex("84c0")
COMPARE_OWN = (c.Ref(b"\x80\x3d", "own"), b"\x01")  # cmpb $1,own+1(%rip)
SET_OWN_BY_NUMBER = (c.Ref(b"\xc6\x05", "own"), b"\x01")  # movb $1,own+1(%rip)
ASK: tuple[c.Part, ...] = (c.LEAF_7, c.CPUID, c.HAS_AVX2, c.SETNE_EAX, SET_FLAG, c.RET)
BASE: dict[str, tuple[c.Part, ...]] = {
    "internal/cpu.doinit": ASK,
    "crypto/sha256.init": (LOAD_FLAG, OWN_FLAG, c.RET),
}
INSIDE: tuple[c.Part, ...] = (LOAD_OWN, TEST_AL, c.je("no"), c.AVX2, "no:", c.RET)
FAST: tuple[c.Part, ...] = (c.AVX2, c.RET)


def proven(
    functions: dict[str, tuple[c.Part, ...]],
    tmp_path: Path,
    *,
    pointers: dict[str, str] | None = None,
    nameless: Sequence[str] = (),
    beyond: int = 0,
) -> bool:
    """Return whether AVX2 in a program is proven; its data point to functions, or `beyond` bytes into them."""
    variables = {"flag": bytes(8), "own": bytes(8), "table": bytes(8)}
    data = c.library(functions, data=variables, pointers=pointers, nameless=nameless)
    if pointers:
        at = next(s.offset for s in read_layout(data, "x").sections if s.name == ".data")  # as in a program
        place = next(i for i, n in enumerate(functions) if n == pointers["table"])
        starts = [s for s, _ in _places(data)]
        data = data[: at + 16] + (starts[place] + beyond).to_bytes(8, "little") + data[at + 24 :]
    path = tmp_path / "program"
    path.write_bytes(data[:16] + b"\x02\0" + data[18:])
    [found] = scan([CodeSource(file="x", path=path)], frozenset(), workers=1)
    hit = next(h for h in found.hits if h.feature == "avx2")
    assert not hit.evidence or hit.evidence.startswith("Go: only after a look at what internal/cpu has kept")
    return bool(hit.evidence)


def _places(data: bytes) -> list[tuple[int, int]]:
    layout = read_layout(data, "x")
    found = read_map(data, layout, regions(data, layout, "x"), "x")
    return [(found.starts[i], found.ends[i]) for i in range(len(found)) if found.kinds[i] == FUNCTION]


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({**BASE, "crypto/sha256.block": INSIDE}, True),
        ({**BASE, "crypto/sha256.block": (LOAD_FLAG, *INSIDE[1:])}, True),  # internal/cpu's own flag
        ({**BASE, "crypto/sha256.block": (*COMPARE_OWN, c.jne("no"), c.AVX2, "no:", c.RET),
          "crypto/sha256.init": (LOAD_FLAG, *SET_OWN_BY_NUMBER, c.RET)}, True),
        ({**BASE, "crypto/sha256.block": (LOAD_OWN, TEST_AL, c.je("no"), c.call("fast"), "no:", c.RET),
          "fast": FAST}, True),
        ({**BASE, "crypto/sha256.block": (LOAD_OWN, TEST_AL, c.jne("fast"), c.RET), "fast": FAST}, True),
        ({**BASE, "a": (LOAD_OWN, TEST_AL, c.je("no"), c.call("b"), "no:", c.RET), "b": (c.call("fast"), c.RET),
          "fast": FAST}, True),
        ({**BASE, "crypto/sha256.block": FAST}, False),
        ({**BASE, "crypto/sha256.block": (c.AVX2, *INSIDE)}, False),
        ({**BASE, "crypto/sha256.block": (LOAD_OWN, TEST_AL, c.je("no"), "no:", c.AVX2, c.RET)}, False),
        ({**BASE, "crypto/sha256.block": (c.TEST_EDI, *INSIDE[2:])}, False),  # an argument and no flag
        ({**BASE, "crypto/sha256.block": INSIDE, "main.force": (OWN_FLAG, c.RET)}, False),  # others write to it
        ({**BASE, "crypto/sha256.block": INSIDE, "main.force": (c.lea_rax("own"), c.RET)}, False),
        ({**BASE, "crypto/sha256.init": (OWN_FLAG, c.RET), "crypto/sha256.block": INSIDE}, False),  # of no CPU
        ({"internal/cpu.doinit": ASK, "crypto/sha256.block": INSIDE}, False),  # nobody writes to it
        ({**BASE, "crypto/sha256.block": (LOAD_OWN, TEST_AL, c.je("no"), c.call("fast"), "no:", c.RET),
          "other": (c.call("fast"), c.RET), "fast": FAST}, False),
        ({**BASE, "fast": FAST}, False),  # nothing leads to it
    ],
)  # fmt: skip
def test_code_behind_a_flag(functions: dict[str, tuple[c.Part, ...]], expected: bool, tmp_path: Path) -> None:
    assert proven(functions, tmp_path) is expected


@pytest.mark.parametrize(
    ("taker", "place", "expected"),
    [("regexp.(*Regexp).doExecute", "flag", True), ("example.org/a/b.f", "flag", True),
     ("crypto/sha256.f", "flag", False), ("crypto/sha256.(*digest).f", "flag", False), ("regexp.f", "own", False)],
)  # fmt: skip
def test_variables_without_a_size_are_at_the_start_of_a_section(
    taker: str, place: str, expected: bool, tmp_path: Path
) -> None:
    """They have the address of the first byte there. Only that, and only in other packages: containerd has it so."""
    set_flag = c.Ref(b"\x88\x05", place)
    functions: dict[str, tuple[c.Part, ...]] = {
        "internal/cpu.doinit": (*ASK[:-2], c.Ref(b"\x88\x05", "table"), c.RET),
        "crypto/sha256.init": (c.Ref(b"\x0f\xb6\x05", "table"), set_flag, c.RET),
        "crypto/sha256.block": (c.Ref(b"\x0f\xb6\x05", place), *INSIDE[1:]),
        taker: (c.lea_rax(place), c.RET),
    }
    assert proven(functions, tmp_path) is expected


def test_a_function_whose_address_is_in_data(tmp_path: Path) -> None:
    functions = {**BASE, "a": (LOAD_OWN, TEST_AL, c.je("no"), c.call("fast"), "no:", c.RET), "fast": FAST}
    assert proven(functions, tmp_path) is True
    assert proven(functions, tmp_path, pointers={"table": "fast"}) is False


@pytest.mark.parametrize(("before", "expected"), [*((n, False) for n in range(48, 56)), (None, True)])
def test_a_call_over_a_cut(before: int | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long gap is cut into pieces, here within or near a call that goes around the test."""
    for module in (ranges, piece_scan):
        monkeypatch.setattr(module, "PIECE_LIMIT", 64)
    around: tuple[c.Part, ...] = () if before is None else (ef.NOP * before, c.call("fast"))
    inside = (LOAD_OWN, TEST_AL, c.je("no"), c.call("fast"), "no:", c.RET)
    functions = {**BASE, "crypto/sha256.block": inside, "fast": FAST, "gap": (*around, ef.NOP * 60 + c.RET)}
    assert proven(functions, tmp_path, nameless=["gap"]) is expected


# ---- what Go 1.24 and later do

LEA_RSI, LEA_RBX = c.Ref(b"\x48\x8d\x35", "own"), c.Ref(b"\x48\x8d\x1d", "own")  # lea own(%rip),%rsi; …,%rbx
REGISTER, SELECT = "crypto/internal/impl.Register", "crypto/internal/impl.Select"
HAND_ON: tuple[c.Part, ...] = (LEA_RSI, ef.NOP, c.call(REGISTER), c.RET)


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({"crypto/sha256.init.1": HAND_ON, REGISTER: (c.RET,)}, True),
        ({"crypto/sha256.init.1": (*HAND_ON[:3], *HAND_ON), REGISTER: (c.RET,)}, True),
        ({"crypto/sha256.init.1": HAND_ON, REGISTER: (c.RET,), SELECT: (c.RET,)}, False),  # which sets the flag
        ({"crypto/sha256.init.1": HAND_ON, REGISTER: (c.RET,), "crypto/internal/impl.Reset": (c.RET,)}, False),
        ({"crypto/sha256.init.1": (LEA_RSI, c.call("other"), c.RET), REGISTER: (c.RET,), "other": (c.RET,)}, False),
        ({"crypto/sha256.init.1": (LEA_RBX, c.call(REGISTER), c.RET), REGISTER: (c.RET,)}, False),  # of the name
        ({"crypto/sha256.init.1": (LEA_RSI, bytes.fromhex("488937"), c.call(REGISTER), c.RET),  # mov %rsi,(%rdi)
          REGISTER: (c.RET,)}, False),
        ({"crypto/sha256.init.1": (LEA_RSI, bytes.fromhex("31f6"), c.call(REGISTER), c.RET),  # xor %esi,%esi
          REGISTER: (c.RET,)}, False),
        ({"crypto/sha256.init.1": (LEA_RSI, c.je("no"), c.call(REGISTER), "no:", c.RET), REGISTER: (c.RET,)}, False),
        ({"crypto/sha256.init.1": (LEA_RSI, c.RET), REGISTER: (c.RET,)}, False),
        ({"crypto/sha256.init.1": (*HAND_ON[:3], LEA_RBX, c.RET), REGISTER: (c.RET,)}, False),  # and to others
    ],
)  # fmt: skip
def test_a_flag_whose_address_is_registered(
    functions: dict[str, tuple[c.Part, ...]], expected: bool, tmp_path: Path
) -> None:
    assert proven({**BASE, "crypto/sha256.block": INSIDE, **functions}, tmp_path) is expected


THROUGH = bytes.fromhex("ff10")  # call *(%rax)


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({"scan": (LOAD_OWN, TEST_AL, c.je("no"), c.lea_rax("table"), THROUGH, "no:", c.RET)}, True),
        ({"scan": (c.lea_rax("table"), THROUGH, c.RET),
          "chosen": (LOAD_OWN, TEST_AL, c.je("no"), c.call("scan"), "no:", c.RET)}, True),
        ({"scan": (c.lea_rax("table"), THROUGH, c.RET)}, False),
        ({"scan": (LOAD_OWN, TEST_AL, c.je("no"), c.lea_rax("table"), THROUGH, "no:", c.RET),
          "other": (c.lea_rax("table"), THROUGH, c.RET)}, False),
        ({"scan": (LOAD_OWN, TEST_AL, c.je("no"), "no:", c.lea_rax("table"), THROUGH, c.RET)}, False),
        ({"scan": (LOAD_OWN, TEST_AL, c.je("no"), c.lea_rax("table"), THROUGH, "no:", c.RET),
          "direct": (c.call("fast"), c.RET)}, False),
    ],
)  # fmt: skip
def test_a_table_of_functions(functions: dict[str, tuple[c.Part, ...]], expected: bool, tmp_path: Path) -> None:
    assert proven({**BASE, **functions, "fast": FAST}, tmp_path, pointers={"table": "fast"}) is expected


def test_a_table_to_which_data_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_: tuple[c.Part, ...] = (LOAD_OWN, TEST_AL, c.je("no"), c.lea_rax("table"), THROUGH, "no:", c.RET)
    functions = {**BASE, "scan": scan_, "fast": FAST}
    assert proven(functions, tmp_path, pointers={"table": "fast"}) is True
    held = go_references.addresses_held

    def with_another(data: bytes, layout: Layout, low: int, high: int) -> Rows:
        within = any(s.name == ".data" and s.address <= low < s.address + s.size for s in layout.sections)
        found = np.array([low], np.uint64), np.array([layout.sections[1].offset], np.uint64)
        return Rows(*found) if within else held(data, layout, low, high)

    monkeypatch.setattr(go, "addresses_held", with_another)
    assert proven(functions, tmp_path, pointers={"table": "fast"}) is False


DEAD: tuple[c.Part, ...] = (c.jmp("end"), "dead:", c.AVX2, "end:", c.RET)


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ({"runtime.asyncPreempt": DEAD}, True),
        ({"runtime.asyncPreempt": (c.je("dead"), *DEAD)}, False),
        ({"runtime.asyncPreempt": (bytes.fromhex("ffe0"), *DEAD)}, False),  # jmp *%rax
        ({"runtime.asyncPreempt": (bytes.fromhex("ffe0"), "dead:", c.AVX2, c.RET)}, False),
    ],
)
def test_blocks_to_which_nothing_leads(
    functions: dict[str, tuple[c.Part, ...]], expected: bool, tmp_path: Path
) -> None:
    assert proven({**BASE, **functions}, tmp_path) is expected


def test_a_pointer_into_a_function(tmp_path: Path) -> None:
    """It may be a jump table's, so that any block may be entered."""
    functions = {**BASE, "runtime.asyncPreempt": DEAD, "other": (c.RET,)}
    assert proven(functions, tmp_path, pointers={"table": "other"}) is True
    assert proven(functions, tmp_path, pointers={"table": "runtime.asyncPreempt"}, beyond=2) is False


SIGNATURE = bytes.fromhex("eb06") + b"\x06\xf4\x48\xf4\x4b\xf4" + ef.RET
"""As crypto/internal/boring/sig has it: a jump over bytes that are no instructions."""


@pytest.mark.parametrize(
    ("code", "expected"),
    [(SIGNATURE, True), (b"\x90" + SIGNATURE[2:], False), (b"\x74" + SIGNATURE[1:], False),
     (b"\xeb\x00" + SIGNATURE[2:], False), (bytes.fromhex("ffe0") + SIGNATURE, False)],
)  # fmt: skip
def test_bytes_that_a_function_jumps_over(code: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "program"
    data = c.library({"crypto/internal/boring/sig.StandardCrypto": (code,)})
    path.write_bytes(data[:16] + b"\x02\0" + data[18:])
    [found] = scan([CodeSource(file="x", path=path)], frozenset(), workers=1)
    hits = [h for h in found.hits if h.feature == "invalid"]
    assert [bool(h.evidence) for h in hits] in ([expected], [] if code[:1] == b"\xff" else [expected])
