"""ELF files made by hand, so that unit tests need no compiler: one writable description, laid out by `make`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PAGE = 0x1000
FUNC, OBJECT, NOTYPE, IFUNC = 2, 1, 0, 10

RET = b"\xc3"
NOP = b"\x90"
AVX2 = bytes.fromhex("c5fdfec1")  # vpaddd %ymm1,%ymm0,%ymm0
AVX = bytes.fromhex("c5fc58c1")  # vaddps %ymm1,%ymm0,%ymm0
LZCNT = bytes.fromhex("f30fbdc7")  # lzcnt %edi,%eax
TZCNT = bytes.fromhex("f30fbcc7")  # tzcnt %edi,%eax
FMA = bytes.fromhex("c4e271b8c2")  # vfmadd231ps %xmm2,%xmm1,%xmm0
CPUID = bytes.fromhex("0fa2")
XGETBV = bytes.fromhex("0f01d0")
RDSSP = bytes.fromhex("f3480f1ec8")  # rdsspq %rax
INCSSP = bytes.fromhex("f3480faee8")  # incsspq %rax
ENDBR = bytes.fromhex("f30f1efa")
PREFETCHW = bytes.fromhex("0f0d0f")
LONG_NOP = bytes.fromhex("660f1f840000000000")
BROADCAST_REGISTER = bytes.fromhex("c4e27918c1")  # vbroadcastss %xmm1,%xmm0: AVX2
BROADCAST_MEMORY = bytes.fromhex("c4e2791807")  # vbroadcastss (%rdi),%xmm0: AVX
AVX512 = bytes.fromhex("62f1fd486f07")  # vmovdqa64 (%rdi),%zmm0
BAD = b"\x06"  # push %es, gone in 64-bit mode


@dataclass
class Elf:
    """What a file shall be."""

    text: bytes = RET
    address: int = 0x401000
    kind: int = 3
    machine: int = 62
    bits: int = 64
    symbols: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Name, offset in the text, size, type."""
    frames: list[tuple[int, int]] = field(default_factory=list)
    """Offset in the text, size."""
    needed: list[str] = field(default_factory=list)
    soname: str = ""
    rpath: str = ""
    runpath: str = ""
    versions: dict[str, list[str]] = field(default_factory=dict)
    defines: list[str] = field(default_factory=list)
    interpreter: str = ""
    flags_1: int = 0
    stack: int | None = 6
    """Flags of PT_GNU_STACK: 6 is rw-, 7 rwx; None: no such segment."""
    relro: bool = False
    text_flags: int = 5
    extra: bytes = b""
    """Bytes of .rodata."""
    debug: dict[str, bytes] = field(default_factory=dict)
    """Contents of debug sections by name."""
    sections: bool = True
    data: bytes = b""
    """Bytes of .data, in the page behind .text."""
    data_address: int = 0
    """Where that is; `make` puts it there by itself."""
    exports: list[tuple[str, int]] = field(default_factory=list)
    """Name, offset to the text's address."""
    imports: list[tuple[str, int]] = field(default_factory=list)
    """Symbols of other files, each with the place where the loader writes its address, as an offset to the text's."""
    relocations: list[tuple[int, int, int]] = field(default_factory=list)
    """Place as an offset to the text's address, type, and addend as such an offset."""
    starters: tuple[int, int] | None = None
    """The array of functions that the loader calls: offset to the text's address, and bytes."""


class _Strings:
    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode() + b"\0"
        return at


def make(elf: Elf) -> bytes:  # noqa: PLR0912  # one branch per part of a file
    """The bytes of the file. Every section has a page of its own, at an address equal to `address` + its offset."""
    names, strings, dynamic = _Strings(), _Strings(), _Strings()
    body = bytearray(PAGE)
    base = elf.address - PAGE
    sections: list[tuple[int, ...]] = [(0,) * 10]
    places: dict[str, tuple[int, int]] = {}

    def add(name: str, kind: int, flags: int, content: bytes, *, link: int = 0, entry: int = 0) -> int:
        body.extend(b"\0" * (-len(body) % PAGE))
        offset = len(body)
        body.extend(content)
        places[name] = (offset, len(content))
        address = base + offset if flags & 2 else 0
        sections.append((names.add(name), kind, flags, address, offset, len(content), link, 0, 16, entry))
        return len(sections) - 1

    add(".text", 1, 6, elf.text)
    if elf.data:
        add(".data", 1, 3, elf.data)
    if elf.frames:
        frame_at = base + len(body) + (-len(body) % PAGE)
        add(".eh_frame", 1, 2, eh_frame(frame_at, [(elf.address + o, s) for o, s in elf.frames]))
    if elf.extra:
        add(".rodata", 1, 2, elf.extra)
    if elf.interpreter:
        add(".interp", 1, 2, elf.interpreter.encode() + b"\0")
    if elf.symbols:
        rows = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
        for name, at, size, kind in elf.symbols:
            rows.append(struct.pack("<IBBHQQ", strings.add(name), 0x10 | kind, 0, 1, elf.address + at, size))
        add(".symtab", 2, 0, b"".join(rows), link=len(sections) + 1, entry=24)
        add(".strtab", 3, 0, strings.data)
    tags: list[tuple[int, int]] = [(1, dynamic.add(n)) for n in elf.needed]
    tags += [(tag, dynamic.add(v)) for tag, v in ((14, elf.soname), (15, elf.rpath), (29, elf.runpath)) if v]
    if elf.flags_1:
        tags.append((0x6FFFFFFB, elf.flags_1))
    if elf.versions:
        add(".gnu.version_r", 0x6FFFFFFE, 2, _verneed(elf.versions, dynamic))
        tags.append((0x6FFFFFFE, base + places[".gnu.version_r"][0]))
    if elf.defines:
        add(".gnu.version_d", 0x6FFFFFFD, 2, _verdef(elf.defines, dynamic))
        tags.append((0x6FFFFFFC, base + places[".gnu.version_d"][0]))
    if elf.exports or elf.imports:
        rows = [bytes(24)]
        rows += [struct.pack("<IBBHQQ", dynamic.add(name), 0x11, 0, 0, 0, 0) for name, _ in elf.imports]
        rows += [
            struct.pack("<IBBHQQ", dynamic.add(name), 0x10 | FUNC, 0, 1, elf.address + at, 0)
            for name, at in elf.exports
        ]
        add(".dynsym", 11, 2, b"".join(rows), entry=24)
        add(".hash", 5, 2, struct.pack("<II", 0, len(rows)))
        tags += [(6, base + places[".dynsym"][0]), (4, base + places[".hash"][0])]
    if elf.relocations or elf.imports:
        rows = [struct.pack("<QQq", elf.address + at, kind, elf.address + to) for at, kind, to in elf.relocations]
        rows += [
            struct.pack("<QQq", elf.address + at, number << 32 | 6, 0) for number, (_, at) in enumerate(elf.imports, 1)
        ]
        add(".rela.dyn", 4, 2, b"".join(rows), entry=24)
        tags += [(7, base + places[".rela.dyn"][0]), (8, places[".rela.dyn"][1])]
    if elf.starters is not None:
        tags += [(25, elf.address + elf.starters[0]), (27, elf.starters[1])]
    if tags:
        add(".dynstr", 3, 2, dynamic.data)
        tags += [(5, base + places[".dynstr"][0]), (10, len(dynamic.data)), (0, 0)]
        add(".dynamic", 6, 3, b"".join(struct.pack("<QQ", *t) for t in tags), link=len(sections) - 1, entry=16)
    for name, content in elf.debug.items():
        add(name, 1, 0, content)
    shstr = add(".shstrtab", 3, 0, b"")
    offset = len(body)
    body.extend(names.data)
    sections[shstr] = (*sections[shstr][:4], offset, len(names.data), *sections[shstr][6:])

    segments = [(1, elf.text_flags, *places[".text"])]
    segments.append((1, 6, PAGE, len(body) - PAGE))
    for name, kind in ((".dynamic", 2), (".interp", 3)):
        if name in places:
            segments.append((kind, 6, *places[name]))
    if elf.relro:
        segments.append((0x6474E552, 4, PAGE, 1))
    if elf.stack is not None:
        segments.append((0x6474E551, elf.stack, 0, 0))
    body.extend(b"\0" * (-len(body) % 16))
    table = len(body)
    if elf.sections:
        for row in sections:
            body.extend(struct.pack("<IIQQQQIIQQ", *row))
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF" + bytes([elf.bits // 32, 1, 1]),
        elf.kind,
        elf.machine,
        1,
        elf.address,
        64,
        table if elf.sections else 0,
        0,
        64,
        56,
        len(segments),
        64,
        len(sections) if elf.sections else 0,
        shstr if elf.sections else 0,
    )
    body[: len(header)] = header
    for index, (kind, flags, at, size) in enumerate(segments):
        packed = struct.pack("<IIQQQQQQ", kind, flags, at, base + at, base + at, size, size, PAGE)
        body[64 + 56 * index : 120 + 56 * index] = packed
    return bytes(body)


def eh_frame(address: int, ranges: list[tuple[int, int]]) -> bytes:
    """A CIE with pcrel sdata4 pointers, an FDE per range, the terminator."""
    cie = b"\x01zR\0\x01\x78\x10\x01\x1b" + b"\0" * 3
    out = struct.pack("<II", len(cie) + 4, 0) + cie
    for start, size in ranges:
        at = len(out)
        out += struct.pack("<IIiI4x", 16, at + 4, start - (address + at + 8), size)
    return out + b"\0\0\0\0"


def _verneed(versions: dict[str, list[str]], strings: _Strings) -> bytes:
    out = b""
    for index, (library, names) in enumerate(versions.items()):
        size = 16 + 16 * len(names)
        last = index == len(versions) - 1
        out += struct.pack("<HHIII", 1, len(names), strings.add(library), 16, 0 if last else size)
        for number, name in enumerate(names):
            out += struct.pack("<IHHII", 0, 0, 2, strings.add(name), 0 if number == len(names) - 1 else 16)
    return out


def _verdef(names: list[str], strings: _Strings) -> bytes:
    out = b""
    for index, name in enumerate(names):
        out += struct.pack("<HHHHIII", 1, 0, index + 1, 1, 0, 20, 0 if index == len(names) - 1 else 28)
        out += struct.pack("<II", strings.add(name), 0)
    return out


def dwarf(producers: list[tuple[str, str]], *, version: int = 5) -> dict[str, bytes]:
    """Debug sections with a unit per (producer, name), as gcc writes them."""
    forms = (0x0E, 0x1F) if version == 5 else (0x0E, 0x08)  # strp, then line_strp or string
    abbrev = bytes([1, 0x11, 1, 0x25, forms[0], 0x13, 0x0B, 0x03, *_uleb(forms[1]), 0, 0, 0])
    strings, lines, info = b"\0", b"\0", b""
    for producer, name in producers:
        values = struct.pack("<I", len(strings)) + b"\x1d"
        strings += producer.encode() + b"\0"
        if version == 5:
            values += struct.pack("<I", len(lines))
            lines += name.encode() + b"\0"
            head = struct.pack("<HBBI", 5, 1, 8, 0)
        else:
            values += name.encode() + b"\0"
            head = struct.pack("<HIB", version, 0, 8)
        unit = head + b"\x01" + values
        info += struct.pack("<I", len(unit)) + unit
    found = {".debug_info": info, ".debug_abbrev": abbrev, ".debug_str": strings}
    return {**found, ".debug_line_str": lines} if version == 5 else found


def _uleb(value: int) -> list[int]:
    return [value] if value < 0x80 else [value & 0x7F | 0x80, value >> 7]


def build_id(data: bytes, value: str) -> bytes:
    """Make the section .build_id of a file, which is made of `note(value)`, one that holds notes."""
    assert note(value) in data
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    out, changed = bytearray(data), 0
    for row in range(start, start + 64 * count, 64):
        offset, size = struct.unpack_from("<QQ", data, row + 24)
        if data[offset : offset + size] == note(value):
            struct.pack_into("<I", out, row + 4, 7)  # SHT_NOTE
            changed += 1
    assert changed == 1
    return bytes(out)


def note(value: str) -> bytes:
    raw = bytes.fromhex(value)
    return struct.pack("<III", 4, len(raw), 3) + b"GNU\0" + raw


def library(value: str, *, debug: Mapping[str, bytes] | None = None, **more: Any) -> bytes:
    """A library, or its debug information, with a build id."""
    elf = Elf(text=AVX + RET, symbols=[("tc_malloc", 0, 5, FUNC)], debug={".build_id": note(value), **(debug or {})})
    return build_id(make(replace(elf, **more)), value)
