"""Programs with a fixed address: which numbers in them count as references to code, and which do not.

Each shape has a control in which the same code is reached without a question to the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from unit import code as c
from unit.code import Part

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.elf.executable import regions
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.isa.decode import CodeSource, scan
from pikaforge.audit.isa.dispatch.fixed import Boundaries, counting
from pikaforge.audit.isa.ranges import FRAME, CodeMap, read_map

BASELINE = of_baseline("x86_64")
ASK: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
START: Sequence[Part] = (*ASK, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
FAST: Sequence[Part] = (c.AVX2, c.AVX2, c.RET)
WHOLE, SECOND, INSIDE = 0x7F000000, 0x7F000001, 0x7F000002
"""Stand for addresses: the start of `fast`, its second instruction, and a byte within its first one."""


def number(opcode: str, value: int) -> bytes:
    """Return an instruction that ends with a number of 32 bits."""
    return bytes.fromhex(opcode) + value.to_bytes(4, "little")


def mapped(data: bytes) -> CodeMap:
    layout = read_layout(data, "x")
    return read_map(data, layout, regions(data, layout, "x"), "x")


def fast_of(data: bytes) -> int:
    """Return the address of the last function."""
    code = mapped(data)
    return max(code.starts[n] for n in range(len(code)) if code.kinds[n] == FRAME)


def program(other: Sequence[Part], word: int = 0) -> bytes:
    """Return a program with a fixed address, in which `other` runs at any time, and `word` is in its data."""
    functions = {"start": START, "other": (*other, c.RET), "fast": FAST}
    data = c.library(functions, data={"table": word.to_bytes(8, "little")}, symbols=False)
    data = data[:16] + b"\x02\0" + data[18:]
    fast = fast_of(data)
    for stand, address in ((WHOLE, fast), (SECOND, fast + len(c.AVX2)), (INSIDE, fast + 1)):
        data = data.replace(stand.to_bytes(4, "little"), address.to_bytes(4, "little"))
    return data


def proven(data: bytes, tmp_path: Path) -> bool:
    path = tmp_path / "x"
    path.write_bytes(data)
    [judged] = scan([CodeSource(file="x", path=path)], BASELINE, workers=1)
    return bool(next(hit for hit in judged.hits if hit.feature == "avx2").evidence)


@pytest.mark.parametrize(
    ("opcode", "value", "expected"),
    [
        ("b8", INSIDE, True),  # mov $number,%eax
        ("b8", SECOND, False),
        ("b8", WHOLE, False),
        ("25", SECOND, True),  # and $number,%eax: flags of open(2)
        ("25", WHOLE, True),
        ("3d", SECOND, True),  # cmp $number,%eax
        ("483d", SECOND, True),  # cmp $number,%rax: who only compares a pointer does not go there
        ("a9", SECOND, True),  # test $number,%eax
        ("69c0", SECOND, True),  # imul $number,%eax,%eax
        ("4805", SECOND, False),  # add $number,%rax
        ("68", SECOND, False),  # push $number
        ("ff2425", SECOND, False),  # jmp *number
        ("8d80", SECOND, False),  # lea number(%rax),%eax
        ("8d80", INSIDE, True),
    ],
)
def test_numbers_in_instructions(opcode: str, value: int, expected: bool, tmp_path: Path) -> None:
    assert proven(program((number(opcode, value),)), tmp_path) is expected


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ("48c1e127", True),  # shl $0x27,%rcx: a number of 64 bits
        ("89f848c1e127", True),  # mov %edi,%eax before it
        ("89c848c1e127", False),  # mov %ecx,%eax before it
        ("d3e089c8", False),  # shl %cl,%eax; mov %ecx,%eax
        ("740089c8", False),  # je: and what then?
        ("f3ab48c1e127", False),  # rep stos, which counts in %rcx
        ("89c8", False),
        ("", True),  # nobody gets it
    ],
)
def test_a_number_that_is_shifted(behind: str, expected: bool, tmp_path: Path) -> None:
    """mov $number,%ecx."""
    assert proven(program((number("b9", SECOND), bytes.fromhex(behind))), tmp_path) is expected


@pytest.mark.parametrize(
    ("word", "expected"), [(0, True), (INSIDE, True), (SECOND, False), (WHOLE, False), (INSIDE + (1 << 32), True)]
)
def test_words_in_data(word: int, expected: bool, tmp_path: Path) -> None:
    assert proven(program((), word), tmp_path) is expected


@pytest.mark.parametrize("label", ["fast", "second", "inside"])
def test_direct_jumps_count_wherever_they_lead(label: str, tmp_path: Path) -> None:
    functions = {
        "start": START,
        "other": (c.jmp(label),),
        "fast": (c.AVX2[:1], "inside:", c.AVX2[1:], "second:", c.AVX2, c.RET),
    }
    data = c.library(functions)
    assert proven(data[:16] + b"\x02\0" + data[18:], tmp_path) is False


def test_where_instructions_begin() -> None:
    data = program(())
    boundaries, fast = Boundaries(data, mapped(data)), fast_of(data)
    assert [boundaries.has(fast + n) for n in range(len(c.AVX2) + 1)] == [True, False, False, False, True]
    assert boundaries.has(fast - 1)  # padding is no function
    assert boundaries.has(1)


def test_what_is_no_code_as_a_whole_may_be_entered_anywhere() -> None:
    data = program(()).replace(c.AVX2 + c.AVX2, c.AVX2 + b"\x06\x06\x06\x06")
    assert Boundaries(data, mapped(data)).has(fast_of(data) + 1)


def test_kinds_of_instructions() -> None:
    from iced_x86 import Code

    assert {Code.AND_EAX_IMM32, Code.TEST_RM64_IMM32, Code.CMP_RM32_IMM32, Code.IMUL_R64_RM64_IMM32} <= counting()
    assert not {Code.MOV_R32_IMM32, Code.CMP_RM64_IMM32, Code.CMP_RAX_IMM32, Code.ADD_RM64_IMM32} & counting()
