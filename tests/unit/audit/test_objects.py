"""Object files: structures that hide an instruction, each with a control that hides none, and headers that lie."""

from __future__ import annotations

import cProfile
import lzma
import struct
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef
from unit import object_files as of
from unit.nested_files import ar
from unit.object_files import Fix, Object, Part, Symbol

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.elf.facts import read_facts
from pikaforge.audit.isa.decode import CodeSource, FileScan, code_regions, scan
from pikaforge.errors import AuditError

ALLOWED = from_macros([f"#define {m} 1" for m in ("__AVX__", "__XSAVE__")], "sandybridge")
HIDDEN = {"avx2": ef.AVX2, "fma": ef.FMA}
PLAIN = ef.AVX
DEAD = b"\xff\xff\x06\x27\xd6\xff\x0e\xea\x9a\xff\xff\x1f\x16\x62\x06\x2f"
"""Bytes that are no instruction, wherever decoding begins."""
CALL, JUMP, TAKE = b"\xe8" + bytes(4), b"\xe9" + bytes(4), b"\x48\x8d\x05" + bytes(4)
"""Instructions whose distance the linker writes; the last one is lea (%rip),%rax."""
MAIN = Symbol("main", size=16)


def pad(code: bytes, size: int = 16) -> bytes:
    return code.ljust(size, b"\xcc")


def hidden(code: bytes, at: int = 37) -> bytes:
    """A text with a function at the start, and code among data."""
    return pad(CALL + ef.RET) + DEAD + b"\x06" * (at - 32) + code + ef.RET + DEAD + DEAD


def audit(tmp_path: Path, name: str, content: bytes) -> AuditResult:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    [found] = audit_paths(
        [path], tmp_path / "scratch", target="sandybridge", today=date(2026, 1, 1), allowed=ALLOWED, workers=1
    )
    return found


def run(content: bytes, tmp_path: Path) -> FileScan:
    path = tmp_path / "x.o"
    path.write_bytes(content)
    [found] = scan([CodeSource(file="x.o", path=path)], ALLOWED.sure, workers=1)
    every = found.decoded + sum(size for _, size in found.data) + found.unclassified
    assert every == sum(region.size for region in code_regions(path, "x.o"))
    return found


def sure(found: FileScan) -> set[str]:
    return {hit.feature for hit in found.hits if not hit.suspect}


# --- structures --------------------------------------------------------------------------------------------------
# Each function returns a file that holds an instruction.


def plain(code: bytes) -> bytes:
    return Object((Part(".text", code + ef.RET),), (MAIN,)).make()


def stripped(code: bytes) -> bytes:
    return Object((Part(".text", code + ef.RET),)).make()


def nameless_sections(code: bytes) -> bytes:
    return Object((Part(".text", code + ef.RET),), header={62: b"\0\0"}).make()


def a_section_for_each_function(code: bytes) -> bytes:
    parts = [Part(f".text.f{n}", ef.RET) for n in range(500)]
    return Object((*parts, Part(".text.hidden", code + ef.RET))).make()


def more_sections_than_a_header_counts(code: bytes) -> bytes:
    """From 65,280 sections on the first section's header has their number."""
    return Object((Part(".text.f", ef.RET), Part(".text", code + ef.RET)), many=True).make()


def in_a_group(code: bytes) -> bytes:
    """A COMDAT group: the linker keeps one of those with the same name."""
    group = Part(".group", struct.pack("<II", 1, 2), flags=0, type=17)
    return Object((group, Part(".text._Z1fv", code + ef.RET, flags=of.ALLOC | of.EXEC | of.GROUP))).make()


def in_a_section_of_any_name(code: bytes) -> bytes:
    return Object((Part(".text", ef.RET), Part("__tracepoints", code + ef.RET))).make()


def in_replacements_of_the_kernel(code: bytes) -> bytes:
    return Object((Part(".text", ef.RET), Part(".altinstr_replacement", code))).make()


def writable(code: bytes) -> bytes:
    return Object((Part(".text", code + ef.RET, flags=of.ALLOC | of.EXEC | of.WRITE),)).make()


def not_loaded(code: bytes) -> bytes:
    """ld gives the flags of all its parts to a section."""
    return Object((Part(".text", ef.RET), Part(".text.x", code + ef.RET, flags=of.EXEC))).make()


def code_by_its_name_only(code: bytes) -> bytes:
    """ld puts it into .text, whatever its flags."""
    part = Part(".text.unlikely", code + ef.RET, flags=of.ALLOC)
    return Object((Part(".text", ef.RET), part), (MAIN, Symbol("f", ".text.unlikely", 0, 5))).make()


def called_by_its_name_only(code: bytes) -> bytes:
    fixes = (Fix(1, of.PLT32, "data", -4),)
    part = Part(".text.x", DEAD + code + ef.RET, flags=of.ALLOC)
    return Object(
        (Part(".text", CALL + ef.RET, fixes), part), (MAIN, Symbol("data", ".text.x", 16, 0, of.NOTYPE))
    ).make()


def called_behind_data(code: bytes) -> bytes:
    part = Part(".text", hidden(code), (Fix(1, of.PLT32, ".Lx", -4),))
    return Object((part,), (MAIN, Symbol(".Lx", value=37, kind=of.NOTYPE))).make()


def called_by_place_in_a_section(code: bytes) -> bytes:
    part = Part(".text", hidden(code), (Fix(1, of.PC32, "start", 37 - 4),))
    return Object((part,), (MAIN, Symbol("start", kind=3))).make()


def called_with_addends_in_the_code(code: bytes) -> bytes:
    part = Part(".text", hidden(code), (Fix(1, of.PC32, "start", 37 - 4),))
    return Object((part,), (MAIN, Symbol("start", kind=3)), rel=True).make()


def called_by_a_far_symbol(code: bytes) -> bytes:
    part = Part(".text", hidden(code), (Fix(1, of.PLT32, ".Lx", -4),))
    return Object((part,), (MAIN, Symbol(".Lx", value=37, kind=of.NOTYPE)), far=True).make()


def jump_into_an_instruction_elsewhere(code: bytes) -> bytes:
    """mov of a constant of eight bytes, which holds the instruction and a jump over the rest."""
    constant = (code + b"\xeb").ljust(8, b"\0")
    first = Part(".text", JUMP, (Fix(1, of.PC32, "f", 2 - 4),))
    second = Part(".text.f", b"\x48\xb8" + constant + ef.RET)
    return Object((first, second), (Symbol("main", size=5), Symbol("f", ".text.f", 0, 11))).make()


def pointed_to_by_data(code: bytes) -> bytes:
    data = Part(".data", bytes(8), (Fix(0, of.ABS64, "start", 37),), flags=of.ALLOC | of.WRITE)
    return Object((Part(".text", hidden(code)), data), (MAIN, Symbol("start", kind=3))).make()


def address_taken(code: bytes) -> bytes:
    text = pad(TAKE + ef.RET) + hidden(code)[16:]
    return Object((Part(".text", text, (Fix(3, of.PC32, ".Lx", -4),)),), (MAIN, Symbol(".Lx", value=37))).make()


def led_to_by_a_jump_table(code: bytes) -> bytes:
    """Two of its entries lead to the code: distances from the table, which the linker writes."""
    table = Part(".rodata", bytes(8), (Fix(0, of.PC32, "s", 37), Fix(4, of.PC32, "s", 41)), flags=of.ALLOC)
    text = Part(".text", pad(TAKE + ef.RET) + hidden(code)[16:], (Fix(3, of.PC32, ".Lt", -4),))
    return Object((text, table), (MAIN, Symbol("s", kind=3), Symbol(".Lt", ".rodata", 0, 0, of.NOTYPE))).make()


def declared_to_be_data(code: bytes) -> bytes:
    part = Part(".text", pad(CALL + ef.RET) + code + ef.RET, (Fix(1, of.PLT32, "table", -4),))
    return Object((part,), (MAIN, Symbol("table", value=16, size=8, kind=of.OBJECT))).make()


def written_by_an_absolute_symbol(code: bytes) -> bytes:
    fixes = tuple(Fix(at, of.ABS8, "code", byte) for at, byte in enumerate(code))
    return Object((Part(".text", bytes(len(code)) + ef.RET, fixes),), (MAIN, Symbol("code", of.ABS))).make()


def written_by_a_weak_symbol(code: bytes) -> bytes:
    """It is 0 where nothing defines it."""
    fixes = tuple(Fix(at, of.ABS8, "code", byte) for at, byte in enumerate(code))
    symbols = (MAIN, Symbol("code", of.UNDEFINED, weak=True, kind=of.NOTYPE))
    return Object((Part(".text", bytes(len(code)) + ef.RET, fixes),), symbols).make()


def written_by_the_size_of_a_symbol(code: bytes) -> bytes:
    fix = Fix(0, of.SIZE32, "code", 0)
    size = int.from_bytes(code[:4], "little")
    part = Part(".text", bytes(4) + code[4:] + ef.RET, (fix,))
    return Object((part,), (MAIN, Symbol("code", of.UNDEFINED, size=size))).make()


def written_by_a_distance(code: bytes) -> bytes:
    """Two places of one section: the distance is known before it is linked."""
    fix = Fix(0, of.PC32, "here", int.from_bytes(code[:4], "little", signed=True))
    return Object((Part(".text", bytes(4) + code[4:] + ef.RET, (fix,)),), (Symbol("here"),)).make()


def with_code_for_the_linker(code: bytes) -> bytes:
    """A fat object: machine code, and what the linker may compile instead."""
    return Object((Part(".text", code + ef.RET), Part(".gnu.lto_main.0", b"\1" * 40, flags=0))).make()


STRUCTURES = [
    plain, stripped, nameless_sections, a_section_for_each_function, more_sections_than_a_header_counts, in_a_group,
    in_a_section_of_any_name, in_replacements_of_the_kernel, writable, not_loaded, code_by_its_name_only,
    called_by_its_name_only, called_behind_data, called_by_place_in_a_section, called_with_addends_in_the_code,
    called_by_a_far_symbol, jump_into_an_instruction_elsewhere, pointed_to_by_data, address_taken,
    led_to_by_a_jump_table, declared_to_be_data,
    written_by_an_absolute_symbol, written_by_a_weak_symbol, written_by_the_size_of_a_symbol, written_by_a_distance,
    with_code_for_the_linker,
]  # fmt: skip
CASES = [(s, f) for s in STRUCTURES for f in HIDDEN]


@pytest.mark.parametrize(("structure", "feature"), CASES, ids=[f"{s.__name__}-{f}" for s, f in CASES])
def test_what_an_object_file_hides_is_found(structure: Callable[[bytes], bytes], feature: str, tmp_path: Path) -> None:
    assert feature in sure(run(structure(HIDDEN[feature]), tmp_path))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.__name__)
def test_the_object_file_alone_is_no_finding(structure: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert sure(run(structure(PLAIN), tmp_path)) == set()


# --- what is not there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [of.PLT32, of.PC32, of.GOTPCRELX])
@pytest.mark.parametrize("addend", [-4, 0x20 - 4, -0x20])
def test_a_distance_to_others_leads_nowhere(kind: int, addend: int, tmp_path: Path) -> None:
    """The bytes of the distance are zeros, as if what follows were called."""
    text = DEAD + CALL + DEAD + ef.AVX2 + DEAD
    made = Object((Part(".text", text, (Fix(17, kind, "abort", addend),)),), (Symbol("main", value=16, size=5),))
    made = Object(made.parts, (*made.symbols, Symbol("abort", of.UNDEFINED, kind=of.NOTYPE)))
    assert sure(run(made.make(), tmp_path)) == set()
    led = Object((Part(".text", text),), (Symbol("main", value=16, size=5),))
    assert "avx2" not in sure(run(led.make(), tmp_path)), "nothing runs on behind a call"


def test_a_call_without_a_relocation_is_followed(tmp_path: Path) -> None:
    text = pad(b"\xe8" + struct.pack("<i", 32) + ef.RET, 37) + ef.AVX2 + ef.RET + DEAD
    assert "avx2" in sure(run(Object((Part(".text", text),), (MAIN,)).make(), tmp_path))


def test_addresses_are_places_in_the_file(tmp_path: Path) -> None:
    made = Object((Part(".text", ef.RET), Part(".text.f", ef.RET + ef.AVX2)), (Symbol("f", ".text.f", 0, 5),)).make()
    [hit] = run(made, tmp_path).hits
    assert (hit.function, made[hit.address : hit.address + 4]) == ("f", ef.AVX2)


def test_data_of_an_object_file_is_no_code(tmp_path: Path) -> None:
    made = Object((Part(".text", ef.RET), Part(".rodata", (ef.AVX2 + ef.RET) * 9, flags=of.ALLOC)), (MAIN,)).make()
    assert sure(run(made, tmp_path)) == set()


# --- headers that lie --------------------------------------------------------------------------------------------

TEXT = Part(".text", ef.AVX2 + ef.RET)
REFUSED = {
    "sections that overlap": Object((TEXT, Part(".data", b"x", flags=3, offset=64))).make(),
    "a table of symbols in the code": Object((TEXT, Part(".s", b"", flags=0, type=2, size=24, offset=64))).make(),
    "code in the header": Object((Part(".text", b"", size=32, offset=32),)).make(),
    "compressed code": Object((Part(".text", ef.RET, flags=of.ALLOC | of.EXEC | of.COMPRESSED),)).make(),
    "a section beyond the end": Object((Part(".text", ef.RET, size=1 << 40),)).make(),
    "more sections than bytes": Object((TEXT,), header={60: b"\xff\xfe"}).make(),
    "small entries": Object((TEXT,), header={58: b"\x20\0"}).make(),
    "no entries": Object((TEXT,), header={58: b"\0\0"}).make(),
    "a huge .bss": Object((TEXT, Part(".bss", b"", flags=3, type=of.NOBITS, size=1 << 63))).make(),
}
FOUND = {
    "a symbol that is not there": Object((Part(".text", TEXT.content, (Fix(0, of.PC64, "none", 0),)),), ()).make(),
    "a place that is not there": Object((Part(".text", TEXT.content, (Fix(1 << 60, 2, ""), Fix(3, 2, ""))),)).make(),
    "an unknown relocation": Object((Part(".text", TEXT.content, (Fix(0, 77, ""),)),)).make(),
    "a symbol beyond its section": Object((TEXT,), (Symbol("f", value=1 << 62, size=1 << 63),)).make(),
    "data beyond all": Object((TEXT,), (Symbol("t", value=5, size=(1 << 64) - 1, kind=of.OBJECT),)).make(),
    "a symbol of a section that is not there": Object((TEXT,), (Symbol("f", ".none", 3),), far=True).make(),
    "code without bytes": Object((TEXT, Part(".text.x", b"", type=of.NOBITS, size=1 << 20))).make(),
    "a claimed address": Object((TEXT,), header={24: b"\xff" * 8}).make(),
    "segments": Object((TEXT,), header={32: struct.pack("<Q", 64), 54: struct.pack("<HH", 56, 1)}).make(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_object_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"corrupt|compressed"):
        run(REFUSED[name], tmp_path)
    result = audit(tmp_path, "libx.a", ar([("x.o/", REFUSED[name]), ("y.o/", plain(PLAIN))]))
    assert [line.where for line in result.unreadable] == ["x.o"]


@pytest.mark.parametrize("name", FOUND)
def test_an_object_file_that_lies_hides_nothing(name: str, tmp_path: Path) -> None:
    assert "avx2" in sure(run(FOUND[name], tmp_path))


def test_relocations_that_overlap_take_no_time(tmp_path: Path) -> None:
    made = bytearray(Object((Part(".text", bytes(4096), (Fix(0, 2, ""),) * 100),) + (TEXT,) * 3).make())
    [table] = struct.unpack_from("<Q", made, 40)
    rows = [at for at in range(table, len(made), 64) if struct.unpack_from("<I", made, at + 4) == (4,)]
    made[table + 64 * 2 : table + 64 * 3] = made[rows[0] : rows[0] + 64]
    with pytest.raises(AuditError, match="overlap"):
        run(bytes(made), tmp_path)


# --- archives, and what is not judged ----------------------------------------------------------------------------


def test_members_of_a_static_library(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    library = ar([("good.o/", plain(PLAIN)), ("bad.o/", plain(ef.AVX2)), ("bad.o/", stripped(ef.FMA))])
    (folder / "libx.a").write_bytes(library)
    (folder / "x.ko.xz").write_bytes(lzma.compress(in_a_section_of_any_name(ef.AVX2)))
    (folder / "y.o").write_bytes(plain(PLAIN))
    [result] = audit_paths(
        [folder], tmp_path / "s", target="sandybridge", today=date(2026, 1, 1), allowed=ALLOWED, workers=1
    )
    refused = sorted({v.where for v in result.violations})
    assert refused == ["libx.a!/bad.o", "libx.a!/bad.o#2", "x.ko.xz!/x.ko"]
    verdicts = {s.file: s.verdict for s in result.summaries}
    assert verdicts["libx.a!/good.o"] == verdicts["y.o"] == "passed"
    assert result.linkage.hardening == () and not result.not_judged


def test_the_work_for_a_member_does_not_grow_with_their_number(tmp_path: Path) -> None:
    calls = []
    for count in (40, 120):
        members = [(f"m{n}.o/", plain(PLAIN + b"\xb8" + struct.pack("<i", n))) for n in range(count)]
        profile = cProfile.Profile()
        result = profile.runcall(audit, tmp_path / str(count), "libx.a", ar(members))
        assert [s.verdict for s in result.summaries] == ["passed"] * count
        calls.append(sum(entry.callcount for entry in profile.getstats()))
    assert calls[1] < 3.5 * calls[0]


def small(machine: int) -> bytes:
    """An object file of 32 bits: i386, or x32."""
    header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 1, machine, 1, 0, 0, 0, 0, 52, 0, 0, 0, 0, 0)
    return header + ef.AVX2


LTO_ONLY = Object((Part(".gnu.lto_main.0", b"\1" * 40, flags=0), Part(".text", b""))).make()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (LTO_ONLY, "becomes code when it is linked, and no code"),
        (b"BC\xc0\xde" + bytes(40), "LLVM bitcode"),
        (Object((TEXT,), machine=183).make(), "AArch64"),
        (small(3), "32-bit code"),
        (small(62), "32-bit code"),
        (
            Object((Part(".text", ef.RET), Part(".gnu.lto_main.0", b"\1" * 40, flags=0))).make(),
            "its own code is judged",
        ),
    ],
)
def test_what_is_not_judged_is_listed(content: bytes, why: str, tmp_path: Path) -> None:
    result = audit(tmp_path, "libx.a", ar([("x.o/", content), ("y.o/", plain(PLAIN))]))
    [line] = result.not_judged
    assert line.where == "x.o" and why in line.what, line


def test_an_object_file_without_code_is_fine(tmp_path: Path) -> None:
    data = Object((Part(".rodata", b"text\0", flags=of.ALLOC),), (Symbol("t", ".rodata", 0, 5, of.OBJECT),)).make()
    result = audit(tmp_path, "libx.a", ar([("x.o/", data), ("y.o/", plain(PLAIN))]))
    assert result.passed and not result.not_judged
    assert {s.file: s.decoded for s in result.summaries} == {"x.o": 0, "y.o": 5}


def test_the_facts_of_an_object_file(tmp_path: Path) -> None:
    note = struct.pack("<III4s4s", 4, 4, 3, b"GNU\0", b"\1\2\3\4")
    made = Object((TEXT, Part(".note.gnu.build-id", note, flags=of.ALLOC, type=7)), (MAIN,)).make()
    (tmp_path / "x.ko").write_bytes(made)
    facts = read_facts(tmp_path / "x.ko")
    assert (facts.kind, facts.build_id, facts.has_symbols, facts.later) == ("rel", "01020304", True, False)
    assert [r.name for r in facts.regions] == [".text"]
