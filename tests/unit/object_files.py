"""Object files made by hand, so that unit tests need no assembler: sections, symbols and relocations as named."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PC32, PLT32, ABS64, ABS32, ABS8, SIZE32, GOTPCRELX, PC64 = 2, 4, 1, 10, 14, 32, 41, 24
ALLOC, EXEC, WRITE, COMPRESSED, GROUP = 2, 4, 1, 0x800, 0x200
PROGBITS, NOBITS, REL = 1, 8, 9
ABS, UNDEFINED = "*ABS*", ""
FUNC, OBJECT, NOTYPE, IFUNC = 2, 1, 0, 10


@dataclass(frozen=True)
class Fix:
    """A relocation: place in its section, type, name of the symbol, addend."""

    place: int
    kind: int
    symbol: str
    addend: int = 0


@dataclass(frozen=True)
class Part:
    """A section."""

    name: str
    content: bytes
    fixes: tuple[Fix, ...] = ()
    flags: int = ALLOC | EXEC
    type: int = PROGBITS
    size: int | None = None
    """What its header says; else that of its content."""
    offset: int | None = None
    """What its header says; else where its content is."""


@dataclass(frozen=True)
class Symbol:
    """A symbol in a section, which is named."""

    name: str
    section: str = ".text"
    value: int = 0
    size: int = 0
    kind: int = FUNC
    weak: bool = False


@dataclass(frozen=True)
class Object:
    """What an object file shall be."""

    parts: tuple[Part, ...]
    symbols: tuple[Symbol, ...] = ()
    machine: int = 62
    rel: bool = False
    """Whether relocations have their addends in the bytes that they change."""
    far: bool = False
    """Whether the sections of symbols are in a table of their own, as with more than 65,279 sections."""
    many: bool = False
    """Whether the number of sections is where it does not fit into the header."""
    header: dict[int, bytes] = field(default_factory=dict)
    """Bytes of the file's header that are changed, by place."""

    def make(self) -> bytes:
        body, names, rows = bytearray(64), bytearray(b"\0"), [bytes(64)]

        def add(
            name: str,
            kind: int,
            content: bytes,
            *,
            flags: int = 0,
            link: int = 0,
            info: int = 0,
            part: Part | None = None,
        ) -> None:
            body.extend(bytes(-len(body) % 16))
            at, size = len(body), len(content)
            if part is not None:
                at, size = at if part.offset is None else part.offset, size if part.size is None else part.size
            rows.append(struct.pack("<IIQQQQIIQQ", len(names), kind, flags, 0, at, size, link, info, 16, 0))
            names.extend(name.encode() + b"\0")
            body.extend(content)

        numbers = {part.name: number for number, part in enumerate(self.parts, 1)}
        for part in self.parts:
            changed = bytearray(part.content)
            if self.rel:
                for fix in part.fixes:
                    changed[fix.place : fix.place + 4] = struct.pack("<i", fix.addend)
            add(part.name, part.type, bytes(changed), flags=part.flags, part=part)
        strings = b"\0" + b"".join(s.name.encode() + b"\0" for s in self.symbols)
        table, index, far = bytearray(24), {UNDEFINED: 0}, [0]
        for number, symbol in enumerate(self.symbols, 1):
            place = {ABS: 0xFFF1, UNDEFINED: 0}.get(symbol.section, numbers.get(symbol.section, 0))
            index[symbol.name] = number
            far.append(place)
            table += struct.pack(
                "<IBBHQQ", strings.index(b"\0" + symbol.name.encode() + b"\0") + 1,
                (2 if symbol.weak else 1) << 4 | symbol.kind,
                0, 0xFFFF if self.far and 0 < place < 0xFF00 else place, symbol.value, symbol.size,
            )  # fmt: skip
        held = len(rows) + sum(1 for part in self.parts if part.fixes)
        for part in self.parts:
            if part.fixes:
                form = "<QQ" if self.rel else "<QQq"
                fixes = [(f.place, index.get(f.symbol, 0xFFFF) << 32 | f.kind, f.addend) for f in part.fixes]
                content = b"".join(struct.pack(form, *(row[:2] if self.rel else row)) for row in fixes)
                kind = REL if self.rel else 4
                add(f".rela{part.name}", kind, content, link=held, info=numbers[part.name])
        if self.symbols:
            add(".symtab", 2, bytes(table), link=held + 1, info=1)
            add(".strtab", 3, strings)
            if self.far:
                add(".symtab_shndx", 18, struct.pack(f"<{len(far)}I", *far), link=held)
        names_at = len(rows)
        body.extend(bytes(-len(body) % 16))
        at = len(body)
        names_held = bytes(names) + b".shstrtab\0"
        rows.append(struct.pack("<IIQQQQIIQQ", len(names), 3, 0, 0, at, len(names_held), 0, 0, 1, 0))
        body.extend(names_held)
        body.extend(bytes(-len(body) % 16))
        if self.many:
            rows[0] = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, len(rows), names_at, 0, 0, 0)
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, self.machine, 1, 0, 0, len(body), 0, 64, 0, 0, 64,
            0 if self.many else len(rows), 0xFFFF if self.many else names_at,
        )  # fmt: skip
        body[:64] = header
        body += b"".join(rows)
        for place, content in self.header.items():
            body[place : place + len(content)] = content
        return bytes(body)
