"""Facts of ELF files: what is read, and that no broken file ends in a traceback."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import free
from pikaforge.audit.elf.dwarf import read_debug
from pikaforge.audit.elf.facts import ElfFacts, facts_of, find_paths, read_facts
from pikaforge.audit.elf.frames import read_frames
from pikaforge.audit.elf.layout import read_layout
from pikaforge.audit.isa.decode import CodeSource, scan
from pikaforge.audit.isa.ranges import read_map
from pikaforge.errors import EXIT_STAGE, AuditError

RICH = ef.Elf(
    text=ef.AVX2 + ef.RET + ef.NOP * 11 + ef.LZCNT + ef.RET,
    symbols=[("first", 0, 5, ef.FUNC), ("second", 16, 5, ef.FUNC), ("__stack_chk_fail", 0, 0, ef.NOTYPE)],
    frames=[(0, 5), (16, 5)],
    needed=["liba.so.1", "libc.so.6"],
    runpath="$ORIGIN/../lib:/opt/lib",
    versions={"libc.so.6": ["GLIBC_2.17", "GLIBC_2.34"], "liba.so.1": ["A_1.0"]},
    defines=["self.so", "SELF_1.0"],
    interpreter="/lib64/ld-linux-x86-64.so.2",
    flags_1=0x08000001,
    relro=True,
    debug=ef.dwarf([("GNU C17 12.2.0 -march=sandybridge -g", "a.c"), ("GNU AS 2.40", "b.S")]),
)


def facts(elf: ef.Elf, *forbidden: str) -> ElfFacts:
    return facts_of(ef.make(elf), "x", forbidden=forbidden)


def test_a_program() -> None:
    found = facts(RICH)
    assert (found.bits, found.machine, found.kind, found.pie, found.program) == (64, 62, "dyn", True, True)
    assert found.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert found.needed == ("liba.so.1", "libc.so.6")
    assert found.runpath == ("$ORIGIN/../lib", "/opt/lib") == found.run_path
    assert dict(found.version_needs) == {"libc.so.6": ("GLIBC_2.17", "GLIBC_2.34"), "liba.so.1": ("A_1.0",)}
    assert found.version_definitions == ("self.so", "SELF_1.0")
    assert (found.relro, found.canary, found.executable_stack, found.writable_code) == ("full", True, False, ())
    assert [r.name for r in found.regions] == [".text"]
    assert found.has_symbols


def test_a_library_with_rpath() -> None:
    found = facts(ef.Elf(soname="liba.so.1", rpath="/x"))
    assert (found.soname, found.rpath, found.run_path, found.pie, found.program) == (
        "liba.so.1",
        ("/x",),
        ("/x",),
        0,
        0,
    )
    assert (found.relro, found.canary) == ("none", False)


def test_a_fixed_program_is_no_pie() -> None:
    found = facts(ef.Elf(kind=2))
    assert (found.kind, found.pie, found.program) == ("exec", False, True)


@pytest.mark.parametrize(("flags", "executable"), [(6, False), (7, True), (None, True)])
def test_the_stack(flags: int | None, executable: bool) -> None:
    found = facts(ef.Elf(stack=flags))
    assert found.executable_stack is executable
    assert found.stack_header is (flags is not None)


def test_writable_code() -> None:
    assert facts(ef.Elf(text_flags=7)).writable_code == ("segment 0x401000+0x1",)


def test_partial_relro() -> None:
    assert facts(ef.Elf(relro=True)).relro == "partial"


def test_a_file_without_sections_is_its_segments() -> None:
    found = facts(ef.Elf(sections=False, text=ef.AVX2))
    assert [(r.address, r.size) for r in found.regions] == [(0x401000, 4)]


@pytest.mark.parametrize("version", [4, 5])
def test_producers(version: int) -> None:
    units = [("GNU C17 12.2.0 -march=sandybridge", f"{n}.c") for n in "abc"] + [("GNU AS 2.40", "x.S")]
    found = facts(ef.Elf(debug=ef.dwarf(units, version=version))).debug
    assert [(p.text, p.units, p.example) for p in found.producers] == [
        ("GNU C17 12.2.0 -march=sandybridge", 3, "a.c"),
        ("GNU AS 2.40", 1, "x.S"),
    ]
    assert not found.problem


def test_compressed_debug_sections() -> None:
    plain = ef.dwarf([("GNU C17 -march=x", "a.c")])
    old = {f".z{n[1:]}": b"ZLIB" + struct.pack(">Q", len(c)) + zlib.compress(c) for n, c in plain.items()}
    assert facts(ef.Elf(debug=old)).debug.producers[0].text == "GNU C17 -march=x"
    bomb = {**old, ".zdebug_info": b"ZLIB" + struct.pack(">Q", 1 << 40) + zlib.compress(b"")}
    assert "claims" in facts(ef.Elf(debug=bomb)).debug.problem


def test_unreadable_debug_information_is_a_problem_and_no_error() -> None:
    broken = {**ef.dwarf([("GNU C17", "a.c")]), ".debug_abbrev": b"\0"}
    assert "abbreviation 1 is missing" in facts(ef.Elf(debug=broken)).debug.problem


def test_separate_debug_information(tmp_path: Path) -> None:
    stripped, debug = tmp_path / "a", tmp_path / "a.debug"
    stripped.write_bytes(ef.make(replace(RICH, debug={})))
    debug.write_bytes(ef.make(RICH))
    assert not read_facts(stripped).debug.present
    assert [p.units for p in read_facts(stripped, debug=debug).debug.producers] == [1, 1]


def test_frames() -> None:
    data = ef.make(RICH)
    found = read_frames(data, read_layout(data, "x"))
    assert found.ranges == ((0x401000, 0x401005), (0x401010, 0x401015))
    assert not found.problem


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"\0/forge/src/a.c\0", 1),
        (b"file:/forge/src/a.c\0/forge\0", 2),
        (b"x/forge/a\0/forgery/a\0/opt/forge/a\0../forge/a", 0),
        (b"\0/home/me/a:/home/me/b\0", 2),
    ],
)
def test_build_paths(text: bytes, count: int) -> None:
    assert find_paths(text, ["/forge", "/home/"]).count == count


def test_examples_of_build_paths_are_few_and_whole() -> None:
    found = find_paths(b"\0".join(b"/forge/src/%d.c" % n for n in range(9)), ["/forge"])
    assert (found.count, found.examples[0], len(found.examples)) == (9, "/forge/src/0.c", 5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an ELF"),
        (b"#!/bin/sh\n", "not an ELF"),
        (b"\x7fELF", "no valid class"),
        (b"\x7fELF\x02\x01\x01", "no valid class"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 20, "truncated or corrupt"),
        (b"\x7fELF\x09\x01\x01" + b"\0" * 80, "no valid class"),
    ],
)
def test_what_is_no_elf_file(data: bytes, words: str) -> None:
    with pytest.raises(AuditError, match=words) as caught:
        facts_of(data, "some/file")
    assert (caught.value.where, caught.value.exit_code) == ("some/file", EXIT_STAGE)


def test_sections_that_overlap_are_refused() -> None:
    data = bytearray(ef.make(replace(RICH, debug={})))
    layout = read_layout(bytes(data), "x")
    (table,) = struct.unpack_from("<Q", data, 40)
    for index in range(1, 3):  # .text and .eh_frame both executable, at one place
        struct.pack_into("<Q", data, table + 64 * index + 8, 6)
        struct.pack_into("<Q", data, table + 64 * index + 24, layout.sections[1].offset)
    with pytest.raises(AuditError, match="overlaps"):
        facts_of(bytes(data), "x")


def examine(data: bytes, path: Path) -> None:
    """All that reads a file; only AuditError may come of it."""
    try:
        found = facts_of(data, "x", forbidden=["/forge"])
        layout = read_layout(data, "x")
        read_debug(data, layout)
        read_map(data, layout, found.regions, "x")
        path.write_bytes(data)
        scan([CodeSource(file="x", path=path)], free(), workers=1)
    except AuditError as error:
        assert error.message


def test_truncated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    data = ef.make(RICH)
    for end in [*range(400), *range(400, len(data), 211)]:
        examine(data[:end], tmp_path / "x")


def test_flipped_bytes_never_end_in_a_traceback(tmp_path: Path) -> None:
    data = ef.make(RICH)
    dice = random.Random(620)
    filled = [i for i, byte in enumerate(data) if byte]  # zero pages would take nearly all of the flips
    for _ in range(1500):
        copy = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            copy[dice.choice(filled)] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        examine(bytes(copy), tmp_path / "x")
