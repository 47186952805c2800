"""ELF files whose tables claim more than a file has use for."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from pikaforge.audit.elf.facts import facts_of
from pikaforge.audit.elf.layout import EM_X86_64, ET_DYN, PT_DYNAMIC, PT_LOAD, read_layout, text
from pikaforge.errors import AuditError

HEADER = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def elf(dynamic: bytes = b"", *, sections: bytes = b"", count: int = 0) -> bytes:
    """A library with a dynamic section, at 0x1000 of file and memory, and a section table behind it."""
    size = 0x1000 + len(dynamic)
    head = HEADER.pack(
        b"\x7fELF", 2, 1, 1, ET_DYN, EM_X86_64, 1, 0, 64, size if sections else 0, 0, 64, 56, 2, 64, count, 0
    )
    segments = SEGMENT.pack(PT_LOAD, 4, 0, 0, 0, size, size, 1)
    segments += SEGMENT.pack(PT_DYNAMIC, 4, 0x1000, 0x1000, 0, len(dynamic), len(dynamic), 8)
    return (head + segments).ljust(0x1000, b"\0") + dynamic + sections


def entries(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", *pair) for pair in pairs)


def test_a_plain_one_is_read() -> None:
    assert facts_of(elf(entries((24, 0), (0, 0))), "x").kind == "dyn"


def test_a_section_table_of_millions() -> None:
    """The first section may hold the count, which has 64 bits."""
    first = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1 << 17, 0, 0, 0, 0)
    data = elf(sections=first + bytes(64 << 17))
    tracemalloc.start()
    with pytest.raises(AuditError, match="the section table has 131072 entries"):
        read_layout(data, "x")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


def test_a_dynamic_section_without_an_end() -> None:
    with pytest.raises(AuditError, match="its dynamic section has no end"):
        facts_of(elf(entries((1, 0)) * 20_000), "x")


def test_versions_that_lead_to_one_another() -> None:
    """One library of which 30,000 versions are needed; a file may have many such lists, of the same bytes."""
    need = struct.pack("<HHIII", 1, 0xFFFF, 0, 16, 0)
    data = elf(
        entries((0x6FFFFFFE, 0x1030), (0, 0)) + bytes(16) + need + struct.pack("<IHHII", 0, 0, 0, 0, 16) * 30_000
    )
    with pytest.raises(AuditError, match="version needs have no end"):
        facts_of(data, "x")


def test_a_name_that_has_no_end() -> None:
    assert text(b"a" * 5000, 0, 1024) == "a" * 1024
    assert text(b"a\0b\0", 2, 1024) == "b"
