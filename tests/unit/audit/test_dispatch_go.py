"""Go programs: functions by `.gopclntab`, in stripped files, too."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.elf import gopclntab
from pikaforge.audit.elf.gopclntab import read_functions
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.isa.decode import CodeSource, scan

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
