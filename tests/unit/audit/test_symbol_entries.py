"""The table of dynamic symbols in an executable segment: data by its form, which one wrong entry ends."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.elf.symbol_entries import symbol_entries
from pikaforge.audit.isa.decode import CodeSource, scan

ENTRY = 24
SIZE, COUNT = 16, 40
PLAIN = (1, 0x12, 0, 1, 0x401000, 0)


def exporting(change: bytes = b"", at: int = ENTRY, text: bytes = ef.RET) -> bytes:
    """A library with one segment for all, with other bytes in its table of symbols."""
    text = text.ljust(SIZE * COUNT, ef.NOP)
    data = bytearray(ef.make(ef.Elf(text=text, exports=[(f"f{n}", SIZE * n) for n in range(COUNT)])))
    layout = read_layout(bytes(data), "x")
    table = next(s for s in layout.sections if s.name == ".dynsym")
    data[table.offset + at : table.offset + at + len(change)] = change
    struct.pack_into("<QQ", data, 64 + 32, len(data) - 4096, len(data) - 4096)  # the first segment has all
    struct.pack_into("<I", data, 64 + 56, 0)  # and there is no second one
    return bytes(data)


def held(data: bytes) -> bool:
    layout = read_layout(data, "x")
    table = next(s for s in layout.sections if s.name == ".dynsym")
    low, high = symbol_entries(data, layout, "x")
    assert (low, high) in ((0, 0), (table.address, table.address + table.size))
    return high > low


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (0, 1, True), (0, 0xFFFF, False),  # the place of the name
        (1, 0x11, True), (1, 0x22, True), (1, 0xAA, True), (1, 0x17, False), (1, 0x32, False), (1, 0xC5, False),
        (2, 2, True), (2, 4, False), (2, 0xFD, False),
        (3, 0xFFF1, True), (3, 0xFEFE, False),
        (4, 0, True), (4, 0xC1FEFDC5, False),
        (5, 64, True), (5, 0xC1FEFDC5, False),
    ],
)  # fmt: skip
def test_each_field_has_a_value_that_a_linker_gives(field: int, value: int, expected: bool) -> None:
    values = [*PLAIN[:field], value, *PLAIN[field + 1 :]]
    assert held(exporting(struct.pack("<IBBHQQ", *values))) is expected


def test_names_must_be_in_the_file() -> None:
    data = exporting()
    assert held(data)
    size = next(s for s in read_layout(data, "x").sections if s.name == ".dynstr").size
    assert not held(data.replace(struct.pack("<QQ", 10, size), struct.pack("<QQ", 10, 1 << 24)))


@pytest.mark.parametrize(("change", "refused"), [(b"", False), (ef.AVX * 12, False), (ef.AVX2 * 12, True)])
def test_code_in_the_table_is_found(change: bytes, refused: bool, tmp_path: Path) -> None:
    """It is judged as other data, if its entries are none; it says nothing then."""
    body = bytes.fromhex("5548 89e5 5348 83ec08".replace(" ", ""))  # push %rbp; mov %rsp,%rbp; push %rbx; sub $8,%rsp
    path = tmp_path / "x"
    path.write_bytes(exporting(body + change + ef.RET if change else b"", at=10 * ENTRY))
    [found] = scan([CodeSource(file="x", path=path)], of_baseline("x86_64") | {"avx"}, workers=1)
    assert bool(found.hits) is refused


@pytest.mark.parametrize(("at", "refused"), [(0, True), (None, False)])
def test_a_call_into_the_table_is_followed(at: int | None, refused: bool, tmp_path: Path) -> None:
    """The name of this symbol, its type and its visibility are FEMMS at the place that is called."""
    entry = struct.pack("<IBBHQQ", 0x0E0F, 0x12, 0, 1, 0x401000, 0)
    layout = read_layout(exporting(), "x")
    table = next(s for s in layout.sections if s.name == ".dynsym")
    call = b"\xe8" + struct.pack("<i", table.address + 10 * ENTRY - 0x401005) if at is not None else b""
    data = exporting(entry, at=10 * ENTRY, text=call + ef.RET)
    names = next(s for s in layout.sections if s.name == ".dynstr")
    longer = data + bytes(0x1000)
    longer = longer.replace(struct.pack("<QQ", 10, names.size), struct.pack("<QQ", 10, 0x1000))
    struct_size = len(longer) - 4096
    grown = bytearray(longer)
    struct.pack_into("<QQ", grown, 64 + 32, struct_size, struct_size)
    assert held(bytes(grown))
    path = tmp_path / "x"
    path.write_bytes(grown)
    [found] = scan([CodeSource(file="x", path=path)], of_baseline("x86_64"), workers=1)
    assert bool([hit for hit in found.hits if hit.feature == "d3now"]) is refused
