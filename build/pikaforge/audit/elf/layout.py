"""The layout of an ELF file: header, sections, segments. Every read is checked against the file's bounds.

It is read with `struct` and not with pyelftools, which takes 14 s for 78,000 symbols (`iter_unpack` takes 0.1 s), and
raises its parser's own errors for a truncated file. Field names and values: System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pikaforge.errors import AuditError

Buffer = bytes | mmap.mmap

MAGIC = b"\x7fELF"
EM_386 = 3
EM_486 = 6
EM_X86_64 = 62
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_RELRO = 0x6474E550, 0x6474E551, 0x6474E552
PF_X, PF_W = 1, 2
SEGMENT_64 = 56
"""Bytes of a program header of a 64-bit file."""
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 7, 8, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 1, 2, 4, 0x800
PN_XNUM = 0xFFFF
"""The number of program headers of a core dump that has more of them: its first section has the number."""
ENTRIES_LIMIT, OBJECT_LIMIT = 1 << 16, 1 << 18
"""Sections or segments of what is linked, and sections of an object file, which may have one for each function."""
TABLE_LIMIT = 256 << 20
"""Bytes of a table that is copied, such as names of symbols."""
NAME_LIMIT, TEXT_LIMIT = 1024, 64 << 10
"""Bytes of a name in a table that may lead to itself many times, and of any other text, such as a command line."""

WINDOW = 4 << 20
"""Bytes of a file that are searched before they are given back."""

_HEADER = {64: struct.Struct("<HHIQQQIHHHHHH"), 32: struct.Struct("<HHIIIIIHHHHHH")}
_SECTION = {64: struct.Struct("<IIQQQQIIQQ"), 32: struct.Struct("<IIIIIIIIII")}
_SEGMENT = {64: struct.Struct("<IIQQQQQQ"), 32: struct.Struct("<IIIIIIII")}

MACHINES = {EM_386: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", EM_X86_64: "x86-64",
            183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section header with its name. Offsets and sizes are in bytes."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int = 0

    @property
    def in_file(self) -> bool:
        """Whether the section has bytes in the file."""
        return self.type not in (0, SHT_NOBITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int

    @property
    def shift(self) -> int:
        """What is added to an address in it for the place in the file."""
        return self.offset - self.address


class Loaded(NamedTuple):
    """A range of addresses that a program has when it runs."""

    address: int
    offset: int
    file_size: int
    memory_size: int
    executable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Header, sections and segments of one file."""

    bits: int
    machine: int
    type: int
    entry: int
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...]
    headers: tuple[int, int] | None = None
    """Offset and size of the program header table."""

    def section(self, name: str) -> Section | None:
        """Return the first section of a name; None if there is none."""
        return next((s for s in self.sections if s.name == name), None)

    def segment(self, kind: int) -> Segment | None:
        """Return the first segment of a type; None if there is none."""
        return next((s for s in self.segments if s.type == kind), None)

    def offset_of(self, address: int) -> int | None:
        """Return the offset in the file of a virtual address; None if the file has no byte for it."""
        for part in self.segments:
            if part.type == PT_LOAD and part.address <= address < part.address + part.file_size:
                return address - part.address + part.offset
        return None

    def address_of(self, offset: int) -> int | None:
        """Return the virtual address of a byte of the file; None if it is not loaded."""
        for part in self.segments:
            if part.type == PT_LOAD and part.offset <= offset < part.offset + part.file_size:
                return offset - part.shift
        return None

    def loaded(self) -> tuple[Loaded, ...]:
        """Return what is loaded: the segments that headers name; of an object file sections, as a linker takes them."""
        if self.type == ET_REL:
            return tuple(
                Loaded(s.address, s.offset, s.size, s.size, executable=bool(s.flags & SHF_EXECINSTR))
                for s in self.sections
                if s.flags & (SHF_ALLOC | SHF_EXECINSTR) and s.in_file
            )
        return tuple(
            Loaded(s.address, s.offset, s.file_size, s.memory_size, executable=bool(s.flags & PF_X))
            for s in self.segments
            if s.type == PT_LOAD
        )


def machine_name(machine: int) -> str:
    """Return the name of a machine (`e_machine`), for messages."""
    return MACHINES.get(machine, f"machine {machine}")


def is_elf(start: bytes) -> bool:
    """Return whether a file is an ELF file, by its first bytes, at least 4."""
    return start[:4] == MAGIC


@dataclass(frozen=True, slots=True)
class RunAs:
    """What an x86-64 Linux runs a file as."""

    machine: int
    """`EM_X86_64` or `EM_386`."""
    bits: int


def run_as(data: Buffer) -> RunAs | None:
    """Return what an x86-64 Linux runs a file as, by the fields of the header that it looks at; None if it does not.

    Those are magic, type, machine and the size of a program header, in this order, and nothing else: a file of any
    class, byte order, version and ABI is run (fs/binfmt_elf.c, load_elf_binary and load_elf_phdrs; elf_check_arch and
    elf_check_arch_ia32 in arch/x86/include/asm/elf.h, which takes EM_486, too).
    """
    head = data[:64]
    if len(head) < 52 or not is_elf(head):
        return None
    kind, machine = struct.unpack_from("<HH", head, 16)
    if kind not in (ET_EXEC, ET_DYN):
        return None
    if machine in (EM_386, EM_486):
        return RunAs(EM_386, 32)
    if machine == EM_X86_64 and len(head) >= 56 and struct.unpack_from("<H", head, 54)[0] == SEGMENT_64:
        return RunAs(EM_X86_64, 64)
    return None


@contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """Map a file into memory, so that the kernel reads its pages when they are needed.

    An object file for x86-64 is given as it would be linked alone (`relocated`).

    Raises:
        AuditError: the file cannot be opened, or it is an object file that is truncated or corrupt.
    """
    from pikaforge.audit.elf.relocated import is_object, relocated  # noqa: PLC0415  # it reads layouts, too

    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                yield b""
                return
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield relocated(path, data) if is_object(data[:20]) else data
    except OSError as error:
        raise AuditError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error


def release(data: Buffer) -> None:
    """Give the pages of a file back that were read so far: else they count as memory of this process."""
    if isinstance(data, mmap.mmap):
        data.madvise(mmap.MADV_DONTNEED)


def find(data: Buffer, wanted: bytes, start: int = 0, end: int | None = None) -> int:
    """Return the first offset of some bytes between two others, as `bytes.find` does, without keeping what was read."""
    end = len(data) if end is None else min(end, len(data))
    for at in range(start, end, WINDOW):
        found = data.find(wanted, at, min(at + WINDOW + len(wanted) - 1, end))
        if found >= 0:
            return found
        if at > start:
            release(data)
    return -1


def piece(data: Buffer, offset: int, size: int, what: str, where: str) -> bytes:
    """Return a copy of `size` bytes at `offset`.

    Raises:
        AuditError: the file ends before; `what` names the bytes in the message.
    """
    if offset < 0 or size < 0 or offset + size > len(data):
        raise AuditError(
            f"the ELF file is truncated or corrupt: {what} lies at {offset:#x}+{size:#x}, the file ends at "
            f"{len(data):#x}",
            where=where,
            hint="fetch or build the file anew",
        )
    if size > TABLE_LIMIT:
        raise AuditError(f"the ELF file is corrupt: {what} has {size} bytes", where=where)
    return data[offset : offset + size]


def text(table: bytes, offset: int, limit: int = TEXT_LIMIT) -> str:
    """Return the string at `offset` of a string table, of at most `limit` bytes; empty if the offset is outside."""
    if not 0 <= offset < len(table):
        return ""
    end = table.find(b"\0", offset, offset + limit)
    return table[offset : end if end >= 0 else offset + limit].decode("utf-8", "backslashreplace")


def read_layout(data: Buffer, where: str, *, detached: bool = False) -> Layout:
    """Return header, sections and segments of a file.

    Args:
        data: the whole file.
        where: its name, for errors.
        detached: whether it is a file of debug information, in which segments have no bytes.

    Raises:
        AuditError: the file is no ELF file, of an unknown class or byte order, truncated, or corrupt.
    """
    ident = data[:16]
    if not is_elf(ident):
        raise AuditError("this is not an ELF file", where=where)
    run = run_as(data)
    bits = run.bits if run is not None else {1: 32, 2: 64}.get(ident[4] if len(ident) > 4 else 0)
    if len(ident) < 16 or bits is None:
        raise AuditError("the ELF file is truncated or corrupt: no valid class", where=where)
    if run is not None:
        pass  # Linux looks at neither class nor byte order
    elif ident[5] == 2:  # big-endian, so not for x86: only the machine is of interest
        machine = int.from_bytes(piece(data, 18, 2, "the header", where), "big")
        return Layout(bits=bits, machine=machine, type=0, entry=0, sections=(), segments=())
    elif ident[5] != 1:
        raise AuditError("the ELF file is truncated or corrupt: no valid byte order", where=where)
    header = _HEADER[bits]
    fields = header.unpack(piece(data, 16, header.size, "the header", where))
    kind, machine, _, entry, segments_at, sections_at, _, _, segment_size, segments, section_size, sections, names = (
        fields
    )
    limit = OBJECT_LIMIT if kind == ET_REL else ENTRIES_LIMIT
    place = (sections_at, section_size, sections)
    table = _table(data, _SECTION[bits], place, "the section table", where) if sections_at else []
    if sections_at and table and sections == 0:  # more than 65,279 sections: the first one holds the count
        place = (sections_at, section_size, table[0][5])
        table = _table(data, _SECTION[bits], place, "the section table", where, limit=limit)
    if names == PN_XNUM and table:
        names = table[0][6]
    if segments == PN_XNUM and table and run is None:  # neither Linux nor the loader knows such a number
        segments = table[0][7]
    found = _sections(data, table, names, where)
    if segments_at == 0 and run is None:
        segments = 0
    loads = _segments(data, bits, (segments_at, segment_size, segments), where, detached=detached)
    machine = run.machine if run is not None else machine
    return Layout(
        bits=bits,
        machine=machine,
        type=kind,
        entry=entry,
        sections=found,
        segments=loads,
        headers=(segments_at, segment_size * segments),
    )


def _table(
    data: Buffer,
    form: struct.Struct,
    place: tuple[int, int, int],
    what: str,
    where: str,
    *,
    limit: int = ENTRIES_LIMIT,
) -> list[tuple[int, ...]]:
    at, size, count = place
    count = max(count, 1)
    if count > limit:
        raise AuditError(f"the ELF file is corrupt: {what} has {count} entries", where=where)
    if size < form.size:
        raise AuditError(f"the ELF file is truncated or corrupt: {what} has entries of {size} bytes", where=where)
    raw = piece(data, at, size * count, what, where)
    return [form.unpack_from(raw, start) for start in range(0, len(raw), size)]


def _sections(data: Buffer, table: list[tuple[int, ...]], names: int, where: str) -> tuple[Section, ...]:
    strings = b""
    if 0 < names < len(table) and table[names][1] == SHT_STRTAB:
        strings = piece(data, table[names][4], table[names][5], "the table of section names", where)
    found = []
    for name, kind, flags, address, offset, size, link, info, _, _ in table:
        section = Section(
            name=text(strings, name, NAME_LIMIT),
            type=kind,
            flags=flags,
            address=address,
            offset=offset,
            size=size,
            link=link,
            info=info,
        )
        if section.in_file and offset + size > len(data):
            piece(data, offset, size, f"section {section.name or '?'}", where)  # raises
        found.append(section)
    return tuple(found)


def _segments(
    data: Buffer, bits: int, place: tuple[int, int, int], where: str, *, detached: bool
) -> tuple[Segment, ...]:
    if place[2] == 0:
        return ()
    found = []
    for fields in _table(data, _SEGMENT[bits], place, "the program header table", where):
        if bits == 64:
            kind, flags, offset, address, _, file_size, memory_size, _ = fields
        else:
            kind, offset, address, _, file_size, memory_size, flags, _ = fields
        if not detached and kind in (PT_LOAD, PT_DYNAMIC, PT_INTERP) and offset + file_size > len(data):
            piece(data, offset, file_size, "a segment", where)  # raises
        found.append(
            Segment(
                type=kind, flags=flags, offset=offset, address=address, file_size=file_size, memory_size=memory_size
            )
        )
    return tuple(found)
