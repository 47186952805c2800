"""Every byte that a CPU could execute: structures that hide an instruction, each with a control that hides none."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.elf.executable import executable
from pikaforge.audit.elf.facts import facts_of
from pikaforge.audit.elf.layout import EM_386, read_layout
from pikaforge.audit.isa import decode
from pikaforge.audit.isa.decode import CodeSource, FileScan, code_regions, scan
from pikaforge.audit.isa.ranges import PIECE_LIMIT
from pikaforge.cpu.features import INVALID
from pikaforge.errors import AuditError

ALLOWED = from_macros([f"#define {m} 1" for m in ("__AVX__", "__XSAVE__")], "sandybridge").sure
HIDDEN = {"avx2": ef.AVX2, "lzcnt": ef.LZCNT, "fma": ef.FMA, "avx512f": ef.AVX512}
PLAIN = ef.AVX
"""What a control has in place of it."""
BASE = 0x401000
BAD = ef.BAD
DEAD = b"\xff\xff\x06\x27\xd6\xff\x0e\xea\x9a\xff\xff\x1f\x16\x62\x06\x2f"
"""Bytes that are no instruction, wherever decoding begins."""
SAVED = bytes.fromhex("554889e5")  # push %rbp; mov %rsp,%rbp
BACK = bytes.fromhex("5dc3")  # pop %rbp; ret
R, W, X = 4, 2, 1


def call(at: int, target: int) -> bytes:
    return b"\xe8" + (target - at - 5).to_bytes(4, "little", signed=True)


def jump(at: int, target: int) -> bytes:
    return b"\xe9" + (target - at - 5).to_bytes(4, "little", signed=True)


def take(at: int, target: int) -> bytes:
    """lea target(%rip),%rax"""
    return b"\x48\x8d\x05" + (target - at - 7).to_bytes(4, "little", signed=True)


def pad(code: bytes) -> bytes:
    return code.ljust(16, b"\xcc")


def lay(*parts: tuple[int, bytes], fill: bytes = b"\xcc", size: int = 0) -> bytes:
    """The text with parts at offsets."""
    out = bytearray()
    for at, part in parts:
        assert len(out) <= at, (len(out), at)
        out += fill * (at - len(out)) + part
    return bytes(out + fill * (size - len(out)))


@dataclass(frozen=True)
class Part:
    """A segment: flags, address and bytes. Its bytes lie in the file at an offset equal to its address."""

    flags: int
    address: int
    content: bytes


@dataclass(frozen=True)
class Sec:
    """A section header."""

    name: str
    address: int
    size: int
    flags: int = 6
    type: int = 1
    offset: int | None = None


@dataclass(frozen=True)
class Shape:
    """A file whose tables say what the test wants them to say."""

    parts: tuple[Part, ...]
    sections: tuple[Sec, ...] = ()
    symbols: tuple[tuple[int, int, int], ...] = ()
    """Address, size, type."""
    entry: int = 0
    outside: tuple[tuple[int, bytes], ...] = ()
    """Bytes of the file at offsets that no segment has."""
    kind: int = 2
    ident: dict[int, int] = field(default_factory=dict)
    """Bytes of e_ident that are changed."""

    def make(self) -> bytes:
        start = BASE - 0x1000
        body = bytearray(0x200)
        for at, content in (*((p.address - start, p.content) for p in self.parts), *self.outside):
            body.extend(bytes(max(0, at + len(content) - len(body))))
            body[at : at + len(content)] = content
        names, rows = b"\0", [bytes(64)]
        for sec in self.sections:
            offset = sec.address - start if sec.offset is None else sec.offset
            rows.append(
                struct.pack("<IIQQQQIIQQ", len(names), sec.type, sec.flags, sec.address, offset, sec.size, 0, 0, 1, 0)
            )
            names += sec.name.encode() + b"\0"
        if self.symbols:
            table = bytes(24) + b"".join(
                struct.pack("<IBBHQQ", 1, 0x10 | kind, 0, 1, at, size) for at, size, kind in self.symbols
            )
            rows.append(struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, len(body), len(table), len(rows) + 1, 0, 8, 24))
            body += table
            rows.append(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, len(body), 6, 0, 0, 1, 0))
            body += b"\0name\0"
        rows.append(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
        body += names
        table_at = len(body)
        if self.sections:
            body += b"".join(rows)
        body[:64] = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", self.kind, 62, 1, self.entry or BASE, 64,
            table_at if self.sections else 0, 0, 64, 56, len(self.parts) + 1, 64,
            len(rows) if self.sections else 0, len(rows) - 1 if self.sections else 0,
        )  # fmt: skip
        for at, value in self.ident.items():
            body[at] = value
        for number, part in enumerate(self.parts):
            body[64 + 56 * number : 120 + 56 * number] = struct.pack(
                "<IIQQQQQQ", 1, part.flags, part.address - start, part.address, part.address,
                len(part.content), len(part.content), 0x1000,
            )  # fmt: skip
        last = 64 + 56 * len(self.parts)
        body[last : last + 56] = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
        return bytes(body)


def run(content: bytes, tmp_path: Path, *, amd: bool = False) -> FileScan:
    path = tmp_path / "x"
    path.write_bytes(content)
    [found] = scan([CodeSource(file="x", path=path)], ALLOWED, workers=1, amd=amd)
    every = found.decoded + sum(size for _, size in found.data) + found.unclassified
    assert every == sum(region.size for region in code_regions(path, "x"))
    return found


def sure(found: FileScan) -> set[str]:
    return {hit.feature for hit in found.hits if not hit.suspect}


# --- 1: data among code -----------------------------------------------------------------------------------------
# Each function returns a file that holds an instruction.

FIRST = [("main", 0, 16, ef.FUNC)]


def called_behind_data(code: bytes) -> bytes:
    text = lay((0, call(0, 64) + ef.RET), (16, DEAD), (64, code + ef.RET), (80, DEAD))
    return ef.make(ef.Elf(text=text, symbols=FIRST))


def called_at_an_odd_place(code: bytes) -> bytes:
    text = lay((0, pad(call(0, 37) + ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST))


def jumped_over(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=b"\xeb\x02" + BAD + BAD + code + ef.RET))


def jumped_over_with_a_condition(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=b"\x74\x01" + BAD + SAVED + code + BACK))


def behind_one_bad_byte(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=ef.RET + BAD + SAVED + code + code + BACK))


def behind_many_functions(code: bytes) -> bytes:
    """A stripped program without an unwind table: one gap, with a mark among its code, as Go has it."""
    one = (SAVED + bytes.fromhex("488b4708488945f88b45f8") + BACK).ljust(32, b"\xcc")
    return ef.make(ef.Elf(text=one * 200 + DEAD + one * 50 + (code + ef.RET).ljust(32, b"\xcc") + one * 50))


def named_by_a_label(code: bytes) -> bytes:
    text = lay((0, ef.RET), (16, DEAD), (32, code + ef.RET + DEAD))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("start", 32, 0, ef.NOTYPE)]))


def exported(code: bytes) -> bytes:
    text = lay((0, pad(ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST, exports=[("f", 37)]))


def pointed_to(code: bytes) -> bytes:
    text = lay((0, pad(ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST, data=bytes(16), relocations=[(0x1000, 8, 37)]))


def started(code: bytes) -> bytes:
    text = lay((0, pad(ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    elf = ef.Elf(text=text, symbols=FIRST, data=bytes(16), relocations=[(0x1000, 8, 37)], starters=(0x1000, 8))
    return ef.make(elf)


def named_by_a_word_of_data(code: bytes) -> bytes:
    text = lay((0, pad(ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(kind=2, text=text, symbols=FIRST, data=struct.pack("<QQ", 5, BASE + 37)))


def address_taken(code: bytes) -> bytes:
    text = lay((0, pad(take(0, 37) + ef.RET)), (16, DEAD), (37, code + ef.RET), (60, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST))


def odd(first: bytes, code: bytes) -> bytes:
    """The text of a function, and of another one at 53 among bytes that are no code."""
    return lay((0, pad(first + ef.RET)), (32, DEAD), (53, SAVED + code + BACK), (80, DEAD), fill=b"\x06")


def constant_moved(code: bytes) -> bytes:
    first = b"\xb8" + struct.pack("<I", BASE + 53) + b"\xff\xd0"  # mov $...,%eax; call *%rax
    return ef.make(ef.Elf(kind=2, text=odd(first, code), symbols=FIRST))


def wide_constant_moved(code: bytes) -> bytes:
    first = b"\x48\xb8" + struct.pack("<Q", BASE + 53) + b"\xff\xd0"  # movabs $...,%rax; call *%rax
    return ef.make(ef.Elf(kind=2, text=odd(first, code), symbols=FIRST))


def constant_stored(code: bytes) -> bytes:
    first = b"\x48\xc7\x07" + struct.pack("<I", BASE + 53)  # movq $...,(%rdi)
    return ef.make(ef.Elf(kind=2, text=odd(first, code), symbols=FIRST))


def constant_pushed(code: bytes) -> bytes:
    first = b"\x68" + struct.pack("<I", BASE + 53)  # push $...; ret
    return ef.make(ef.Elf(kind=2, text=odd(first, code), symbols=FIRST))


def added_to_its_own_place(code: bytes) -> bytes:
    first = call(0, 5) + b"\x58" + b"\x48\x83\xc0\x30" + b"\xff\xe0"  # call .+5; pop %rax; add $48,%rax; jmp *%rax
    return ef.make(ef.Elf(text=odd(first, code), symbols=FIRST))


def beside_its_own_place(code: bytes) -> bytes:
    first = call(0, 5) + b"\x5b" + b"\x48\x8d\x43\x30" + b"\xff\xe0"  # call .+5; pop %rbx; lea 48(%rbx),%rax; jmp *%rax
    return ef.make(ef.Elf(text=odd(first, code), symbols=FIRST))


def taken_by_code_among_data(code: bytes) -> bytes:
    first = ((0, pad(take(0, 37) + ef.RET)), (16, DEAD), (37, SAVED + take(41, 85) + BACK), (60, DEAD))
    text = lay(*first, (85, SAVED + code + BACK), (110, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST))


SWITCH = bytes.fromhex("486304904801d0ffe0")  # movslq (%rax,%rdx,4),%rax; add %rdx,%rax; jmp *%rax


def case_of_a_switch(code: bytes) -> bytes:
    table = struct.pack("<iii", 0 - 0x1000, 53 - 0x1000, 0x7FFFFFFF)
    return ef.make(ef.Elf(text=odd(take(0, 0x1000) + SWITCH, code), symbols=FIRST, data=table))


def case_of_a_switch_in_the_text(code: bytes) -> bytes:
    text = lay(
        (0, take(0, 20) + SWITCH),
        (20, struct.pack("<iii", -20, 33, 0x7FFFFFFF)),
        (53, SAVED + code + BACK),
        (80, DEAD),
        fill=b"\x06",
    )
    return ef.make(ef.Elf(text=text, symbols=FIRST))


def behind_zeros(code: bytes) -> bytes:
    """The zero before the function is the first byte of an instruction that takes the function's first byte."""
    text = lay((0, ef.RET), (16, ef.RET), (32, SAVED + code + BACK), fill=b"\0")
    return ef.make(ef.Elf(text=text, symbols=[("main", 0, 1, ef.FUNC)]))


def behind_a_short_symbol(code: bytes) -> bytes:
    """The symbol ends within the function."""
    text = SAVED + b"\x90" + code + BACK + DEAD
    return ef.make(ef.Elf(text=text, symbols=[("main", 0, 5, ef.FUNC)]))


def reached_from_data(code: bytes) -> bytes:
    first = ((0, pad(call(0, 37) + ef.RET)), (16, DEAD), (37, jump(37, 77)), (50, DEAD))
    text = lay(*first, (77, code + ef.RET), (90, DEAD), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=FIRST))


def over_a_cut(code: bytes) -> bytes:
    """Gaps are decoded in parts; here a part ends within the instruction."""
    before = ef.NOP * (PIECE_LIMIT - 2)
    return ef.make(ef.Elf(text=before + code + ef.RET, symbols=[("main", PIECE_LIMIT + 20, 1, ef.FUNC)], data=b"x"))


def behind_a_cut(code: bytes) -> bytes:
    """A part ends within a constant of eight bytes whose rest is no instruction."""
    before = ef.NOP * (PIECE_LIMIT - 3) + b"\x48\xb8\x01" + BAD * 7
    return ef.make(ef.Elf(text=before + code + ef.RET))


# --- 2: symbols that declare data -------------------------------------------------------------------------------


def object_called(code: bytes) -> bytes:
    text = lay((0, call(0, 32) + ef.RET), (32, code + ef.RET), (64, ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("table", 32, 16, ef.OBJECT)]))


def object_run_on_into(code: bytes) -> bytes:
    text = SAVED + code + BACK
    return ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC), ("table", 4, len(code), ef.OBJECT)]))


def object_pointed_to(code: bytes) -> bytes:
    text = lay((0, ef.RET), (32, code + ef.RET))
    elf = ef.Elf(text=text, symbols=[*FIRST, ("t", 32, 16, ef.OBJECT)], data=bytes(8), relocations=[(0x1000, 8, 32)])
    return ef.make(elf)


def object_with_a_likely_run(code: bytes) -> bytes:
    text = lay((0, ef.RET), (32, SAVED + code * 3 + BACK))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("table", 32, 32, ef.OBJECT)]))


def object_over_a_function(code: bytes) -> bytes:
    text = lay((0, ef.RET), (32, code + ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[("f", 32, 9, ef.FUNC), ("table", 16, 64, ef.OBJECT)]))


def object_over_a_frame(code: bytes) -> bytes:
    text = lay((0, ef.RET), (32, code + ef.RET))
    return ef.make(ef.Elf(text=text, frames=[(32, 8)], symbols=[("table", 16, 64, ef.OBJECT)]))


def object_over_all(code: bytes) -> bytes:
    text = code + ef.RET
    return ef.make(ef.Elf(kind=2, text=text, symbols=[("table", 0, len(text), ef.OBJECT)]))


def object_from_object(code: bytes) -> bytes:
    text = lay((0, call(0, 32) + ef.RET), (32, jump(32, 64)), (64, code + ef.RET))
    symbols = [*FIRST, ("one", 32, 16, ef.OBJECT), ("two", 64, 16, ef.OBJECT)]
    return ef.make(ef.Elf(text=text, symbols=symbols))


def objects_side_by_side(code: bytes) -> bytes:
    text = lay((0, call(0, 32) + ef.RET), (32, b"\x90" * 8 + code + ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("one", 32, 4, ef.OBJECT), ("two", 36, 16, ef.OBJECT)]))


# --- 3: executable bytes outside of executable sections ----------------------------------------------------------

TEXT = Sec(".text", BASE, 16)
RODATA = Sec(".rodata", BASE + 0x100, 0x100, flags=2)


def with_rodata(main: bytes, data: bytes) -> tuple[Part, ...]:
    return (Part(R | X, BASE, lay((0, main), (0x100, data), size=0x200, fill=b"\0")),)


def rodata_called(code: bytes) -> bytes:
    parts = with_rodata(call(0, 0x100) + ef.RET, code + ef.RET)
    return Shape(parts, (TEXT, RODATA), symbols=((BASE, 6, 2),)).make()


def rodata_with_a_symbol(code: bytes) -> bytes:
    parts = with_rodata(ef.RET, DEAD + code + ef.RET)
    return Shape(parts, (TEXT, RODATA), symbols=((BASE, 1, 2), (BASE + 0x110, 9, 2))).make()


def rodata_with_a_likely_run(code: bytes) -> bytes:
    parts = with_rodata(ef.RET, DEAD + SAVED + code * 3 + BACK)
    return Shape(parts, (TEXT, RODATA), symbols=((BASE, 1, 2),)).make()


def rodata_with_a_long_function(code: bytes) -> bytes:
    """Only at its end is something of interest, and far away there is more that is none."""
    body = (bytes.fromhex("488b07") + bytes.fromhex("e8f8ffffff") + bytes.fromhex("4885c0")) * 400  # mov, call, test
    parts = with_rodata(ef.RET, bytes(3000) + DEAD + SAVED + body + code * 3 + BACK + bytes(70_000))
    return Shape(parts, (TEXT, replace(RODATA, size=len(parts[0].content) - 0x100)), symbols=((BASE, 1, 2),)).make()


def rodata_named_by_code(code: bytes) -> bytes:
    """A function that is too short to be likely, in much data, whose address code takes."""
    at = 0x100 + 9000 + 5
    parts = with_rodata(take(0, at) + ef.RET, bytes(9000) + DEAD[:5] + SAVED + code + BACK + DEAD + bytes(9000))
    return Shape(parts, (TEXT, replace(RODATA, size=len(parts[0].content) - 0x100)), symbols=((BASE, 8, 2),)).make()


def rodata_with_a_case_of_a_switch(code: bytes) -> bytes:
    far = 9000
    table = struct.pack("<iii", 0x100 + far - 0x100, -0x100, 0x7FFFFFFF)
    parts = with_rodata(
        take(0, 0x100) + SWITCH + ef.RET, lay((0, table), (far, SAVED + code + BACK + DEAD), fill=b"\6")
    )
    return Shape(parts, (TEXT, replace(RODATA, size=len(parts[0].content) - 0x100)), symbols=((BASE, 17, 2),)).make()


def rodata_at_the_entry(code: bytes) -> bytes:
    parts = with_rodata(ef.RET, DEAD + code + ef.RET)
    return Shape(parts, (TEXT, RODATA), symbols=((BASE, 1, 2),), entry=BASE + 0x110).make()


def section_too_short(code: bytes) -> bytes:
    parts = with_rodata(ef.RET + b"\xcc" * 15 + code + ef.RET, b"")
    return Shape(parts, (TEXT, RODATA)).make()


def section_too_short_and_called(code: bytes) -> bytes:
    parts = with_rodata(call(0, 0x51) + ef.RET, b"")
    content = bytearray(parts[0].content)
    content[0x40 : 0x51 + len(code) + 1] = DEAD + b"\x06" + code + ef.RET
    return Shape((replace(parts[0], content=bytes(content)),), (TEXT, RODATA)).make()


def section_read_elsewhere(code: bytes) -> bytes:
    """The header's place in the file holds harmless bytes, but Linux loads others."""
    return Shape(
        (Part(R | X, BASE, code + ef.RET),),
        (replace(TEXT, size=len(code) + 1, offset=0x3000),),
        outside=((0x3000, ef.NOP * 16),),
    ).make()


def section_at_another_address(code: bytes) -> bytes:
    text = Sec(".text", BASE + 0x100000, len(code) + 1, offset=0x1000)
    return Shape((Part(R | X, BASE, code + ef.RET),), (text,)).make()


def section_without_bytes(code: bytes) -> bytes:
    return Shape((Part(R | X, BASE, code + ef.RET),), (replace(TEXT, size=len(code) + 1, type=8),)).make()


def section_that_is_not_executable(code: bytes) -> bytes:
    return Shape((Part(R | X, BASE, code + ef.RET),), (replace(TEXT, size=len(code) + 1, flags=2),)).make()


def no_sections(code: bytes) -> bytes:
    return Shape((Part(R | X, BASE, code + ef.RET),)).make()


def second_segment(code: bytes) -> bytes:
    parts = (Part(R | X, BASE, ef.RET.ljust(16)), Part(R | X, BASE + 0x2000, code + ef.RET))
    return Shape(parts, (TEXT,)).make()


def writable_segment(code: bytes) -> bytes:
    parts = (Part(R | X, BASE, call(0, 0x2000) + ef.RET.ljust(16)), Part(R | W | X, BASE + 0x2000, code + ef.RET))
    return Shape(parts, (TEXT, Sec(".data", BASE + 0x2000, len(code) + 1, flags=3)), symbols=((BASE, 6, 2),)).make()


def behind_the_segment(code: bytes) -> bytes:
    """Whole pages are mapped: what follows the segment in the file follows it in memory."""
    main = call(0, 0x300) + ef.RET
    return Shape(
        (Part(R | X, BASE, main.ljust(16, b"\xcc")),),
        (TEXT,),
        symbols=((BASE, 6, 2),),
        outside=((0x1300, code + ef.RET + bytes(0x1000)),),
    ).make()


def before_the_segment(code: bytes) -> bytes:
    main = call(0x800, 0x400) + ef.RET
    return Shape(
        (Part(R | X, BASE + 0x800, main.ljust(16, b"\xcc")),),
        (Sec(".text", BASE + 0x800, 16),),
        symbols=((BASE + 0x800, 6, 2),),
        entry=BASE + 0x800,
        outside=((0x1400, code + ef.RET),),
    ).make()


def changed(made: bytes, *words: tuple[int, str, int], size: int = 0) -> bytes:
    """The file with some numbers at offsets, each with its form."""
    out = bytearray(made.ljust(size, b"\0"))
    for at, form, value in words:
        struct.pack_into(form, out, at, value)
    return bytes(out)


def put(made: bytes, at: int, code: bytes) -> bytes:
    return made[:at] + code + made[at + len(code) :]


HEADER = 64
"""Where the program headers are: type, flags, offset, two addresses, size in the file, size in memory, of 56 bytes."""


def page_of_a_later_segment(code: bytes) -> bytes:
    """Two segments share a page: all of it is from the place in the file that the later header names."""
    shape = Shape((Part(R | X, BASE, pad(ef.RET)), Part(R | X, BASE + 0x800, ef.RET * 16)))
    made = changed(shape.make(), (HEADER + 56 + 8, "<Q", 0x2800), size=0x3000)
    return put(put(made, 0x2000, code + ef.RET), 0x2800, ef.RET * 16)


def called_in_the_page_of_a_later_segment(code: bytes) -> bytes:
    shape = Shape((Part(R | X, BASE, pad(ef.RET)), Part(R | X, BASE + 0x800, ef.RET * 16)), entry=BASE + 0x800)
    made = changed(shape.make(), (HEADER + 56 + 8, "<Q", 0x2800), size=0x3000)
    return put(put(made, 0x2040, code + ef.RET), 0x2800, pad(call(0x800, 0x40) + ef.RET))


def page_of_an_empty_segment(code: bytes) -> bytes:
    shape = Shape((Part(R | X, BASE, pad(call(0, 0x1040) + ef.RET)), Part(R | X, BASE + 0x1800, b"")))
    return put(shape.make().ljust(0x3000, b"\0"), 0x2040, code + ef.RET)


def headers_at_the_start_of_the_file(code: bytes) -> bytes:
    """The first program header is the file's own header, whose type Linux does not know; the third one loads."""
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, BASE, 0, 0, 0, 64, 56, 3, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, R | X, 0x1000, BASE, BASE, 0x100, 0x100, 0x1000)
    return put(put(head.ljust(0x2000, b"\0"), 2 * 56, load), 0x1000, code + ef.RET)


def behind_a_writable_segment(code: bytes) -> bytes:
    """It is longer in memory; older kernels zero the rest of the page only of the last segment."""
    made = Shape((Part(R | W | X, BASE, pad(call(0, 0x300) + ef.RET)),)).make()
    return put(changed(made, (HEADER + 40, "<Q", 0x800), size=0x2000), 0x1300, code + ef.RET)


def with_data(code: bytes) -> bytes:
    main = pad(call(0, 0x2000) + ef.RET)
    return Shape((Part(R | X, BASE, main), Part(R | W, BASE + 0x2000, code + ef.RET))).make()


def data_with_an_executable_stack(code: bytes) -> bytes:
    """Before Linux 5.8, such a program can execute whatever it can read."""
    return changed(with_data(code), (HEADER + 2 * 56 + 4, "<I", R | W | X))


def data_without_a_stack_header(code: bytes) -> bytes:
    return changed(with_data(code), (HEADER + 2 * 56, "<I", 0))


def nothing_executable_but_the_stack(code: bytes) -> bytes:
    return changed(Shape((Part(R, BASE, code + ef.RET),)).make(), (HEADER + 56 + 4, "<I", R | W | X))


def entry_in_a_program_header(code: bytes) -> bytes:
    """In the field of the physical address, which nothing reads."""
    made = Shape((Part(R | X, BASE, ef.RET * 16),), entry=BASE - 0x1000 + HEADER + 24).make()
    words = [(HEADER + 8 + 8 * n, "<Q", value) for n, value in enumerate((0, BASE - 0x1000, 0, 0x1010, 0x1010))]
    return put(changed(made, *words), HEADER + 24, (code + ef.RET).ljust(8, b"\x90"))


# --- 4: what Linux runs ------------------------------------------------------------------------------------------


def header(place: int, value: int) -> Callable[[bytes], bytes]:
    def made(code: bytes) -> bytes:
        return Shape(
            (Part(R | X, BASE, code + ef.RET),), (replace(TEXT, size=len(code) + 1),), ident={place: value}
        ).make()

    made.__name__ = f"byte_{place}_of_the_header_is_{value}"
    return made


HEADERS = [header(place, value) for place, value in ((4, 1), (4, 0), (4, 9), (5, 2), (5, 0), (6, 0), (7, 9), (20, 7))]


# --- 9: jumps into instructions ----------------------------------------------------------------------------------


def constant(code: bytes) -> bytes:
    """movabs $...,%rax, whose constant is code that jumps out of it"""
    assert len(code) <= 6
    return b"\x48\xb8" + (code + b"\xeb" + bytes([6 - len(code)])).ljust(8, b"\x90")


def jump_into_a_constant(code: bytes) -> bytes:
    text = b"\xeb\x02" + constant(code) + ef.RET
    return ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)]))


def condition_into_a_constant(code: bytes) -> bytes:
    text = b"\x74\x02" + constant(code) + ef.RET
    return ef.make(ef.Elf(text=text, frames=[(0, len(text))]))


def jump_back_into_a_constant(code: bytes) -> bytes:
    text = constant(code) + b"\xeb\xf6" + ef.RET
    return ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)]))


def jump_in_a_gap(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=b"\xeb\x02" + constant(code) + ef.RET))


def call_into_a_constant_elsewhere(code: bytes) -> bytes:
    text = lay((0, call(0, 34) + ef.RET), (32, constant(code) + ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("g", 32, 11, ef.FUNC)]))


def leading_on(at: int, target: int) -> bytes:
    """movabs $...,%rax; ret, whose constant, 2 bytes behind its start, is a jump to another place"""
    return b"\x48\xb8" + jump(at + 2, target) + b"\x90" * 3 + ef.RET


def functions_at(*places: int) -> list[tuple[str, int, int, int]]:
    return [(f"f{at}", at, 11, ef.FUNC) for at in places]


def chain_of_constants(code: bytes) -> bytes:
    """From one function into a constant of a second one, and from there into one of a third one."""
    text = lay((0, call(0, 66) + ef.RET), (64, leading_on(64, 98)), (96, constant(code) + ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, *functions_at(64, 96)]))


def long_chain_of_constants(code: bytes) -> bytes:
    places = range(64, 64 + 32 * 9, 32)
    links = [(at, leading_on(at, at + 34)) for at in places]
    text = lay((0, call(0, 66) + ef.RET), *links, (places[-1] + 32, constant(code) + ef.RET))
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, *functions_at(*places, places[-1] + 32)]))


def constant_over_the_end_of_a_function(code: bytes) -> bytes:
    """What is hidden in one function runs on into an instruction of the next one."""
    first = b"\xeb\x02\x48\xb8" + ef.NOP * 6 + b"\x48\xb8"
    second = (ef.NOP * 6 + b"\x48\xb8" + code + ef.RET).ljust(40, ef.NOP) + ef.RET
    symbols = [("f", 0, len(first), ef.FUNC), ("g", len(first), len(second), ef.FUNC)]
    return ef.make(ef.Elf(text=first + second, symbols=symbols))


def cut_in_two(code: bytes) -> bytes:
    """An instruction of which the first two bytes lie before a border that is none."""
    return (b"\x48\xb8" + ef.NOP * 6 + b"\x48\xb8" + code + ef.RET).ljust(40, ef.NOP) + ef.RET


def cut_by_a_symbol(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=cut_in_two(code), symbols=[("f", 0, 2, ef.FUNC), ("g", 2, 39, ef.FUNC)]))


def cut_by_a_frame(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=cut_in_two(code), frames=[(0, 2), (2, 39)]))


def cut_by_a_label(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=cut_in_two(code), symbols=[("f", 0, 40, ef.FUNC), ("g", 2, 0, ef.NOTYPE)]))


def cut_by_an_object(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=cut_in_two(code), symbols=[("f", 0, 40, ef.FUNC), ("g", 2, 6, ef.OBJECT)]))


def jump_by_way_of_a_constant(code: bytes) -> bytes:
    """From one constant into the next one."""
    first = b"\x48\xb8" + b"\xeb\x08".ljust(8, b"\x90")
    text = b"\xeb\x02" + first + constant(code) + ef.RET
    return ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)]))


def jump_from_data(code: bytes) -> bytes:
    first = ((0, pad(call(0, 37) + ef.RET)), (16, DEAD), (37, jump(37, 82)), (50, DEAD))
    text = lay(*first, (80, constant(code) + ef.RET), fill=b"\x06")
    return ef.make(ef.Elf(text=text, symbols=[*FIRST, ("g", 80, 11, ef.FUNC)]))


def jump_over_a_cut(code: bytes) -> bytes:
    """The jump and the constant are in different parts of a gap."""
    far = PIECE_LIMIT + 64
    text = jump(0, far + 2) + ef.NOP * (far - 5) + constant(code) + ef.RET
    return ef.make(ef.Elf(text=text))


# --- where the loader leads into instructions ---------------------------------------------------------------------


def entry_in_a_constant(code: bytes) -> bytes:
    text = constant(code) + ef.RET
    sections = (replace(TEXT, size=len(text)),)
    return Shape((Part(R | X, BASE, text),), sections, symbols=((BASE, len(text), 2),), entry=BASE + 2).make()


def export_in_a_constant(code: bytes) -> bytes:
    text = constant(code) + ef.RET
    return ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)], exports=[("g", 2)]))


def pointer_into_a_constant(kind: int, starters: tuple[int, int] | None = None) -> Callable[[bytes], bytes]:
    def made(code: bytes) -> bytes:
        text = constant(code) + ef.RET
        symbols = [("f", 0, len(text), ef.FUNC)]
        written = [(0x1000, kind, 2)]
        return ef.make(ef.Elf(text=text, symbols=symbols, data=bytes(16), relocations=written, starters=starters))

    made.__name__ = f"relocation_{kind}{'_of_a_starter' if starters else ''}_into_a_constant"
    return made


# --- which pages Linux makes executable ---------------------------------------------------------------------------


def header_of(made: bytes, number: int, **changed: int) -> bytes:
    """The file with other values in a program header."""
    names = ("type", "flags", "offset", "address", "physical", "file_size", "memory_size", "align")
    at = 64 + 56 * number
    row = dict(zip(names, struct.unpack_from("<IIQQQQQQ", made, at), strict=True)) | changed
    return made[:at] + struct.pack("<IIQQQQQQ", *row.values()) + made[at + 56 :]


def data_called(code: bytes) -> bytes:
    parts = (Part(R | X, BASE, call(0, 0x2000) + ef.RET.ljust(16)), Part(R | W, BASE + 0x2000, code + ef.RET))
    return Shape(parts, (TEXT, Sec(".data", BASE + 0x2000, len(code) + 1, flags=3)), symbols=((BASE, 6, 2),)).make()


def data_called_without_a_stack_header(code: bytes) -> bytes:
    """Before Linux 5.8 all that can be read is executable then."""
    return header_of(data_called(code), 2, type=0)


def data_called_with_an_executable_stack(code: bytes) -> bytes:
    return header_of(data_called(code), 2, flags=R | W | X)


def code_over_data(code: bytes) -> bytes:
    """The later segment replaces the page of the earlier one."""
    parts = (Part(R | W, BASE, ef.NOP * 64), Part(R | X, BASE, b""))
    made = Shape(parts, (Sec(".data", BASE, 64, flags=3),), outside=((0x3000, code + ef.RET),)).make()
    return header_of(made, 1, offset=0x3000, file_size=len(code) + 1, memory_size=len(code) + 1)


def code_over_code(code: bytes) -> bytes:
    """They do not overlap, but they share a page, which is from the later one."""
    parts = (Part(R | X, BASE, ef.RET * 64), Part(R | X, BASE + 0x800, b""))
    made = Shape(parts, (TEXT,), outside=((0x3000, code + ef.RET + bytes(0x900)),)).make()
    return header_of(made, 1, offset=0x3800, file_size=5, memory_size=5)


def segment_without_bytes(code: bytes) -> bytes:
    """It has a page all the same."""
    made = Shape((Part(R | X, BASE + 8, ef.NOP * 8 + code + ef.RET),), entry=BASE + 16).make()
    return header_of(made, 0, file_size=0)


def entry_in_the_header(code: bytes) -> bytes:
    """Eight bytes of it mean nothing to Linux."""
    made = header_of(Shape((Part(R | X, BASE - 0x1000, b""),), entry=BASE - 0x1000 + 8).make(), 0, file_size=0x200)
    return made[:8] + (code + ef.RET).ljust(8, b"\0") + made[16:]


def call_into_a_program_header(code: bytes) -> bytes:
    """The physical address means nothing to Linux."""
    made = Shape((Part(R | X, BASE, call(0, 64 + 24 - 0x1000) + ef.RET.ljust(64, b"\xcc")),)).make()
    hidden = int.from_bytes((code + ef.RET).ljust(8, b"\0"), "little")
    return header_of(made, 0, offset=0, address=BASE - 0x1000, physical=hidden, file_size=0x1020, memory_size=0x1020)


PAGES = [
    *(data_called_without_a_stack_header, data_called_with_an_executable_stack, code_over_data, code_over_code),
    *(segment_without_bytes, entry_in_the_header, call_into_a_program_header),
]
LOADER = [
    *(entry_in_a_constant, export_in_a_constant, pointer_into_a_constant(8), pointer_into_a_constant(37)),
    pointer_into_a_constant(8, (0x1000, 8)),
]

STRUCTURES = [
    *(chain_of_constants, long_chain_of_constants, constant_over_the_end_of_a_function),
    *(cut_by_a_symbol, cut_by_a_frame, cut_by_a_label, cut_by_an_object),
    *PAGES,
    *LOADER,
    *(called_behind_data, called_at_an_odd_place, jumped_over, jumped_over_with_a_condition, behind_one_bad_byte),
    *(behind_many_functions, named_by_a_label, exported, pointed_to, started, named_by_a_word_of_data, address_taken),
    *(constant_moved, wide_constant_moved, constant_stored, constant_pushed, added_to_its_own_place),
    *(taken_by_code_among_data, beside_its_own_place, case_of_a_switch, case_of_a_switch_in_the_text),
    *(behind_zeros, behind_a_short_symbol, reached_from_data, over_a_cut, behind_a_cut),
    *(object_called, object_run_on_into, object_pointed_to, object_with_a_likely_run, object_over_a_function),
    *(rodata_with_a_long_function, rodata_named_by_code, rodata_with_a_case_of_a_switch),
    *(object_over_a_frame, object_over_all, object_from_object, objects_side_by_side),
    *(rodata_called, rodata_with_a_symbol, rodata_with_a_likely_run, rodata_at_the_entry, section_too_short),
    *(section_too_short_and_called, section_read_elsewhere, section_at_another_address, section_without_bytes),
    *(section_that_is_not_executable, no_sections, second_segment, writable_segment, behind_the_segment),
    *(page_of_a_later_segment, called_in_the_page_of_a_later_segment, page_of_an_empty_segment),
    *(headers_at_the_start_of_the_file, behind_a_writable_segment, data_with_an_executable_stack),
    *(data_without_a_stack_header, nothing_executable_but_the_stack, entry_in_a_program_header),
    *(before_the_segment, *HEADERS, jump_into_a_constant, condition_into_a_constant, jump_back_into_a_constant),
    *(jump_in_a_gap, call_into_a_constant_elsewhere, jump_by_way_of_a_constant, jump_from_data, jump_over_a_cut),
]  # fmt: skip
LARGE = {over_a_cut, behind_a_cut, jump_over_a_cut, behind_many_functions}
CASES = [(s, f) for s in STRUCTURES for f in HIDDEN if f == "avx2" or s not in LARGE]


@pytest.mark.parametrize(("structure", "feature"), CASES, ids=[f"{s.__name__}-{f}" for s, f in CASES])
def test_what_a_structure_hides_is_found(structure: Callable[[bytes], bytes], feature: str, tmp_path: Path) -> None:
    assert feature in sure(run(structure(HIDDEN[feature]), tmp_path))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.__name__)
def test_the_structure_alone_is_no_finding(structure: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert sure(run(structure(PLAIN), tmp_path)) == set()


def test_a_chain_that_is_too_long_refuses_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "INSIDE_ROUNDS", 5)
    with pytest.raises(AuditError, match="in 5 functions, one after the other"):
        run(long_chain_of_constants(PLAIN), tmp_path)


def test_a_chain_that_is_a_circle_ends(tmp_path: Path) -> None:
    text = lay((0, call(0, 66) + ef.RET), (64, leading_on(64, 98)), (96, leading_on(96, 66)))
    content = ef.make(ef.Elf(text=text, symbols=[*FIRST, *functions_at(64, 96)]))
    assert sure(run(content, tmp_path)) == set()


def test_data_that_linux_does_not_make_executable_is_not_judged(tmp_path: Path) -> None:
    assert sure(run(data_called(ef.AVX2), tmp_path)) == set()


# --- instructions that are newer than the decoder -----------------------------------------------------------------

NEWER = {"apx, EVEX": "62f47c180101", "apx, REX2": "d50089c8", "user_msr": "f20f38f8c1", "movrs": "0f388b07"}
NEVER = {"push of ES": "06", "DAA behind a prefix": "6627", "far call": "9a0102030405", "salc": "d6"}
"""What is no instruction in 64-bit mode, and never will be one of the spaces that CPUs extend."""


def at_the_entry(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=code + ef.RET))


def called_in_a_gap(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=lay((0, pad(call(0, 32) + ef.RET)), (32, code + ef.RET)), symbols=FIRST))


def behind_a_call(code: bytes) -> bytes:
    return ef.make(ef.Elf(text=lay((0, call(0, 32) + code + ef.RET), (32, ef.RET))))


@pytest.mark.parametrize("name", [*NEWER, *NEVER])
@pytest.mark.parametrize("structure", [at_the_entry, called_in_a_gap], ids=lambda s: s.__name__)
def test_what_only_newer_cpus_may_know_is_found(structure: Callable[[bytes], bytes], name: str, tmp_path: Path) -> None:
    found = run(structure(bytes.fromhex((NEWER | NEVER)[name])), tmp_path)
    assert sure(found) == ({INVALID} if name in NEWER else set())


@pytest.mark.parametrize("name", NEWER)
def test_what_is_behind_a_call_may_be_data(name: str, tmp_path: Path) -> None:
    """The call may not return."""
    found = run(behind_a_call(bytes.fromhex(NEWER[name])), tmp_path)
    assert [(hit.feature, hit.suspect) for hit in found.hits] == [(INVALID, True)]


# --- data is no code ---------------------------------------------------------------------------------------------


def words_of(values: Iterator[int], form: str) -> bytes:
    return b"".join(struct.pack(form, value) for value in values)


DATA = {
    "random bytes": random.Random(14).randbytes(40_000),
    "other random bytes": random.Random(2).randbytes(40_000),
    "text": b"usage: %s [OPTION]... FILE\0no such file or directory\0cannot open\0" * 300,
    "numbers": words_of(iter(range(5000)), "<i"),
    "squares": words_of((n * n * 7919 for n in range(2000)), "<Q"),
    "fractions": b"".join(struct.pack("<d", 1 / n) for n in range(1, 2000)),
    "single fractions": b"".join(struct.pack("<f", n**0.5) for n in range(1, 4000)),
    "masks": bytes(range(15, -1, -1)) * 64 + bytes(range(16)) * 64,
    "powers": words_of((pow(5, n, 1 << 32) for n in range(4000)), "<I"),
    "jump table": words_of((-n * 48 - 4096 for n in range(500)), "<i"),
    "wide text": "The quick brown fox".encode("utf-16-le") * 100,
    "zeros and ones": b"\0" * 500 + b"\xff" * 500 + b"\0\1" * 500,
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("claim", ["gap", "object", "section"])
def test_data_is_not_taken_for_code(name: str, claim: str, tmp_path: Path) -> None:
    """Code takes its address, too."""
    data = DEAD + DATA[name]
    text = take(0, 0x100) + ef.RET
    if claim == "section":
        content = lay((0, text), (0x100, data), fill=b"\0")
        rodata = Sec(".rodata", BASE + 0x100, len(data), flags=2)
        made = Shape((Part(R | X, BASE, content),), (TEXT, rodata), symbols=((BASE, 8, 2),)).make()
    else:
        symbols = [("main", 0, 8, ef.FUNC)] + ([("t", 0x100, len(data), ef.OBJECT)] if claim == "object" else [])
        made = ef.make(ef.Elf(text=lay((0, text), (0x100, data)), symbols=symbols, exports=[("t", 0x100)]))
    found = run(made, tmp_path)
    assert sure(found) == set(), found.hits
    assert sum(size for _, size in found.data) > len(data) // 2, found.data


NAMES = b"bufR_closure\0bufL_closure\0\\egroup \0egroup\0global\0\\iftrue\0attern match failure\0" * 60
NAME = NAMES.index(b"bufL_cl")
"""Where the text is an instruction of AVX-512 by its bytes, as in the names that Haskell's programs export."""


@pytest.mark.parametrize(("main", "refused"), [
    (ef.RET, False),
    (take(0, 0x100 + NAME) + ef.RET, False),  # the address of a text
    (call(0, 0x100 + NAME) + ef.RET, True),
    (call(0, 0x100 + NAMES.index(b"bal\0\\if")) + ef.RET, True),
])  # fmt: skip
def test_text_is_code_only_where_code_jumps_to_it(main: bytes, refused: bool, tmp_path: Path) -> None:
    content = lay((0, main), (0x100, NAMES), fill=b"\0")
    rodata = Sec(".rodata", BASE + 0x100, len(NAMES), flags=2)
    made = Shape((Part(R | X, BASE, content),), (TEXT, rodata), symbols=((BASE, 8, 2),)).make()
    assert bool({"avx512f", "avx512_fp16"} & sure(run(made, tmp_path))) is refused


@pytest.mark.parametrize("code", [ef.AVX2, bytes.fromhex("62f17c485803")])  # vaddps (%rbx),%zmm0,%zmm0
def test_code_among_text_is_found(code: bytes, tmp_path: Path) -> None:
    """One instruction of a function may be text by its bytes; the others show that it is code."""
    data = NAMES + DEAD + SAVED + code * 5 + BACK + NAMES
    content = lay((0, ef.RET), (0x100, data), fill=b"\0")
    rodata = Sec(".rodata", BASE + 0x100, len(data), flags=2)
    made = Shape((Part(R | X, BASE, content),), (TEXT, rodata), symbols=((BASE, 8, 2),)).make()
    assert {"avx2", "avx512f"} & sure(run(made, tmp_path))


def test_what_is_suspect_counts_among_the_features(tmp_path: Path) -> None:
    found = run(ef.make(ef.Elf(text=ef.RET + BAD + ef.AVX + BAD)), tmp_path)
    assert "avx" in found.features


def test_bytes_are_counted_by_what_they_are(tmp_path: Path) -> None:
    text = lay((0, ef.RET), (16, random.Random(3).randbytes(2000)))
    found = run(ef.make(ef.Elf(text=text, symbols=[("main", 0, 1, ef.FUNC), ("t", 16, 2000, ef.OBJECT)])), tmp_path)
    assert dict(found.data) == {"padding": 4096 - 2016, "a symbol declares it to be data": 2000}
    assert (found.decoded, found.unclassified) == (16, 0)


@pytest.mark.parametrize(("length", "refused"), [(20, False), (60, True)])
def test_data_that_leads_to_data(length: int, refused: bool, tmp_path: Path) -> None:
    """Each link is judged again; a long chain is refused, and takes no time."""
    links = [(32 * n, jump(32 * n, 32 * n + 32)) for n in range(1, length)]
    text = lay((0, call(0, 32) + ef.RET), *links, (32 * length, ef.AVX2 + ef.RET))
    symbols = [*FIRST, *((f"t{n}", 32 * n, 16, ef.OBJECT) for n in range(1, length + 1))]
    made = ef.make(ef.Elf(text=text, symbols=symbols))
    if refused:
        with pytest.raises(AuditError, match="from data to data without end"):
            run(made, tmp_path)
    else:
        assert "avx2" in sure(run(made, tmp_path))


def test_a_short_gap_is_padding(tmp_path: Path) -> None:
    found = run(ef.make(ef.Elf(text=ef.RET + bytes(15), symbols=[("f", 0, 1, ef.FUNC)])), tmp_path)
    assert (sure(found), found.decoded) == (set(), 16)


# --- the tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [3, 6])
@pytest.mark.parametrize("ident", [{}, {4: 2}, {5: 2}, {4: 7, 5: 9}])
def test_linux_runs_32_bit_programs_of_any_class(machine: int, ident: dict[int, int]) -> None:
    """EM_486 is run, too (arch/x86/include/asm/elf.h)."""
    head = bytearray(struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0))
    head += struct.pack("<IIIIIIII", 1, 0, 0, 0, 84, 84, 5, 0x1000)
    for at, value in ident.items():
        head[at] = value
    found = facts_of(bytes(head), "x")
    assert (found.machine, found.bits, found.kind) == (EM_386, 32, "exec")


@pytest.mark.parametrize(("place", "value"), [(18, 0x16), (16, 1), (16, 4)])
def test_other_files_of_a_wrong_byte_order_are_not_run(place: int, value: int) -> None:
    made = bytearray(no_sections(ef.AVX2))
    made[place], made[5] = value, 2
    assert facts_of(bytes(made), "x").regions == ()


def test_segments_that_overlap() -> None:
    shape = Shape((Part(R | X, BASE, ef.RET * 64), Part(R | X, BASE + 32, ef.RET * 64)))
    with pytest.raises(AuditError, match="overlaps another one"):
        facts_of(shape.make(), "x")


def test_thousands_of_executable_segments() -> None:
    shape = Shape(tuple(Part(R | X, BASE + 0x1000 * n, ef.RET) for n in range(65)))
    made = bytearray(shape.make())
    with pytest.raises(AuditError, match="65 executable segments"):
        facts_of(bytes(made), "x")


def test_a_program_has_no_more_headers_than_its_own_header_says() -> None:
    """A core dump may have more; what Linux or the loader takes has as many as the field says."""
    made = Shape((Part(R | X, BASE, ef.AVX2),), (TEXT,)).make()
    table = struct.unpack_from("<Q", made, 40)[0]
    hidden = changed(made, (56, "<H", 0xFFFF), (table + 44, "<I", 1))
    with pytest.raises(AuditError, match="truncated or corrupt"):
        facts_of(hidden, "x")


def test_regions_cover_the_pages_of_a_segment_once() -> None:
    sections = (TEXT, Sec(".a", BASE + 32, 64, flags=2), Sec(".b", BASE + 64, 64, flags=2), Sec(".c", BASE + 200, 8))
    shape = Shape((Part(R | X, BASE, bytes(range(256))), Part(R | W, BASE + 0x1000, bytes(64))), sections)
    made = shape.make()
    found = executable(made, read_layout(made, "x"), "x")
    assert [(r.name, r.address - BASE, r.size, bool(r.claim)) for r in found] == [
        (".text", 0, 16, False),
        ("segment 0x401010", 16, 16, False),
        (".a", 32, 64, True),
        (".b", 96, 32, True),
        ("segment 0x401080", 128, 72, False),
        (".c", 200, 8, False),
        ("segment 0x4010d0", 208, 48, False),
        ("page 0x401100", 256, 4096 - 256, True),
    ]


# --- 10: branches that AMD reads in another way ------------------------------------------------------------------

SHORT = {"condition": "660f8410000000", "jump": "66e910000000", "call": "66e810000000", "more": "662e0f8510000000"}


@pytest.mark.parametrize("name", SHORT)
def test_branches_with_an_operand_size_prefix(name: str, tmp_path: Path) -> None:
    text = bytes.fromhex(SHORT[name]) + ef.NOP * 32 + ef.RET
    made = ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)]))
    assert sure(run(made, tmp_path, amd=True)) == {"branch66"}
    assert sure(run(made, tmp_path)) == set()


def test_calls_of_the_thread_local_model_are_the_same_everywhere(tmp_path: Path) -> None:
    text = bytes.fromhex("666648e810000000") + ef.NOP * 32 + ef.RET
    made = ef.make(ef.Elf(text=text, symbols=[("f", 0, len(text), ef.FUNC)]))
    assert sure(run(made, tmp_path, amd=True)) == set()
