"""An allocator is built into a file that defines its functions, and not into one that calls them."""

from __future__ import annotations

import struct

import pytest
from unit import elf_files as ef

from pikaforge.audit.elf.facts import facts_of
from pikaforge.audit.elf.layout import SHT_SYMTAB, read_layout

NAMES = {"tc_malloc": "tcmalloc", "mallocx": "jemalloc", "mi_malloc": "mimalloc"}


def program(name: str, *, section: int = 1, skip: int = 0) -> bytes:
    """A program with a symbol in a section (0: it is imported), whose name begins some letters later."""
    data = bytearray(ef.make(ef.Elf(text=ef.NOP * 8, symbols=[("main", 0, 8, ef.FUNC), (name, 0, 0, ef.NOTYPE)])))
    table = next(s for s in read_layout(bytes(data), "x").sections if s.type == SHT_SYMTAB)
    row = table.offset + 2 * 24
    at, info, other, _, value, size = struct.unpack_from("<IBBHQQ", data, row)
    struct.pack_into("<IBBHQQ", data, row, at + skip, info, other, section, value, size)
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_that_calls_an_allocator_has_it_elsewhere(name: str) -> None:
    assert facts_of(program(name, section=0), "x").allocators == ()
    assert facts_of(program(name), "x").allocators == (NAMES[name],), "the control: it defines the function"


@pytest.mark.parametrize("section", [1, 0xFFF1, 0xFFF2])
def test_a_definition_may_be_in_any_section_or_in_none(section: int) -> None:
    assert facts_of(program("tc_malloc", section=section), "x").allocators == ("tcmalloc",)


def test_a_name_may_be_the_end_of_a_longer_one() -> None:
    """Linkers store `tc_malloc` in `__wrap_tc_malloc`."""
    assert facts_of(program("__wrap_tc_malloc", skip=7), "x").allocators == ("tcmalloc",)
    assert facts_of(program("__wrap_tc_malloc"), "x").allocators == ()
    assert facts_of(program("__wrap_tc_malloc", skip=7, section=0), "x").allocators == ()
