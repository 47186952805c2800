"""What one ELF file is and needs, as frozen facts. Judgement is elsewhere (`pikaforge.audit.audit`)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pikaforge.audit.elf.dwarf import DebugInfo, read_debug
from pikaforge.audit.elf.layout import (
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    PF_W,
    PF_X,
    PT_DYNAMIC,
    PT_GNU_RELRO,
    PT_GNU_STACK,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_DYNSYM,
    SHT_NOTE,
    SHT_SYMTAB,
    Buffer,
    Layout,
    Segment,
    mapped,
    piece,
    read_layout,
    text,
)
from pikaforge.plan import allocators

Kind = Literal["rel", "exec", "dyn", "core", "other"]
KINDS: dict[int, Kind] = {ET_REL: "rel", ET_EXEC: "exec", ET_DYN: "dyn", ET_CORE: "core"}

DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_RPATH, DT_TEXTREL, DT_BIND_NOW, DT_RUNPATH, DT_FLAGS = (
    1, 5, 10, 14, 15, 22, 24, 29, 30)  # fmt: skip
DT_FLAGS_1, DT_VERDEF, DT_VERNEED = 0x6FFFFFFB, 0x6FFFFFFC, 0x6FFFFFFE
DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW, DF_1_PIE = 1, 0x08000000
NT_GNU_BUILD_ID = 3
CANARY = b"__stack_chk_fail"
FOREIGN_ALLOCATORS = {b"mallocx": "jemalloc", b"je_malloc": "jemalloc", b"mi_malloc": "mimalloc"}
"""Functions that only an allocator itself has, and which one: such a name in a program means that it is built in.
Beside those of the kinds of allocators."""
EXAMPLES = 5
"""Build paths that are kept as examples; the count covers all."""
PATH_LENGTH = 160
_PATH_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/@%~=,:#")
_WORD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A stretch of the file that the CPU may execute. Bytes, file offset and virtual address."""

    name: str
    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPaths:
    """Absolute paths below forbidden folders, found in a file's bytes."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """One ELF file."""

    name: str
    """In its tree or package, else its path."""
    bits: int
    machine: int
    kind: Kind
    pie: bool = False
    interpreter: str = ""
    """Path of the loader; empty for libraries and static programs."""
    soname: str = ""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    """Entries of DT_RUNPATH; with one, the loader ignores DT_RPATH (ld.so(8))."""
    version_needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Library, and the symbol versions needed from it."""
    version_definitions: tuple[str, ...] = ()
    build_id: str = ""
    stack_header: bool = False
    executable_stack: bool = False
    """PT_GNU_STACK asks for it, or is missing: glibc then grants it on x86-64."""
    writable_code: tuple[str, ...] = ()
    """Segments and sections that are writable and executable."""
    text_relocations: bool = False
    relro: Literal["none", "partial", "full"] = "none"
    canary: bool = False
    """Whether the stack protector's function is called anywhere in the file."""
    allocators: tuple[str, ...] = ()
    """Allocators whose own functions the symbol tables name."""
    size: int = 0
    """Bytes."""
    has_symbols: bool = False
    """Whether .symtab is there."""
    regions: tuple[Region, ...] = ()
    build_paths: BuildPaths = field(default_factory=BuildPaths)
    debug: DebugInfo = field(default_factory=DebugInfo)

    @property
    def program(self) -> bool:
        """Whether it can be started, not only loaded."""
        return self.kind == "exec" or self.pie

    @property
    def run_path(self) -> tuple[str, ...]:
        """The entries that the loader uses for this file."""
        return self.runpath or self.rpath


def read_facts(path: Path, *, name: str = "", debug: Path | None = None, forbidden: Sequence[str] = ()) -> ElfFacts:
    """Read one file.

    Args:
        path: the file.
        name: what it is called in facts and errors; else its path.
        debug: its separate debug information, used where the file itself has none.
        forbidden: folders, such as `/forge`, no path below which may be in the file.

    Raises:
        AuditError: not an ELF file, truncated, or corrupt.
    """
    where = name or str(path)
    with mapped(path) as data:
        facts = facts_of(data, where, forbidden=forbidden)
    if debug is None or facts.debug.present:
        return facts
    with mapped(debug) as data:
        layout = read_layout(data, f"{where} ({debug.name})", detached=True)
        found = read_debug(data, layout)
    return replace(facts, debug=found)


def read_build_id(path: Path) -> str:
    """The build id of a file or of its separate debug information, in hex; empty if it has none.

    Raises:
        AuditError: not an ELF file, truncated, or corrupt.
    """
    with mapped(path) as data:
        return _build_id(data, read_layout(data, str(path), detached=True))


def facts_of(data: Buffer, where: str, *, forbidden: Sequence[str] = ()) -> ElfFacts:
    """As `read_facts`, for a file's bytes."""
    layout = read_layout(data, where)
    kind = KINDS.get(layout.type, "other")
    if layout.bits != 64 or not layout.segments:  # another machine, an object file: frame only
        return ElfFacts(
            name=where,
            bits=layout.bits,
            machine=layout.machine,
            kind=kind,
            regions=regions(data, layout, where),
            debug=read_debug(data, layout),
        )
    dynamic = _Dynamic(data, layout, where)
    flags = dynamic.number(DT_FLAGS)
    flags_1 = dynamic.number(DT_FLAGS_1)
    interpreter = layout.segment(PT_INTERP)
    stack = layout.segment(PT_GNU_STACK)
    now = bool(flags & DF_BIND_NOW or flags_1 & DF_1_NOW or DT_BIND_NOW in dynamic.entries)
    relro: Literal["none", "partial", "full"] = "none"
    if layout.segment(PT_GNU_RELRO) is not None:
        relro = "full" if now else "partial"
    loader = _bytes_of(data, interpreter).rstrip(b"\0").decode("utf-8", "replace") if interpreter else ""
    return ElfFacts(
        name=where,
        bits=layout.bits,
        machine=layout.machine,
        kind=kind,
        pie=kind == "dyn" and bool(loader or flags_1 & DF_1_PIE),
        interpreter=loader,
        soname=next(iter(dynamic.strings(DT_SONAME)), ""),
        needed=dynamic.strings(DT_NEEDED),
        rpath=_paths(dynamic.strings(DT_RPATH)),
        runpath=_paths(dynamic.strings(DT_RUNPATH)),
        version_needs=dynamic.version_needs(),
        version_definitions=dynamic.version_definitions(),
        build_id=_build_id(data, layout),
        stack_header=stack is not None,
        executable_stack=stack is None or bool(stack.flags & PF_X),
        writable_code=_writable_code(layout),
        text_relocations=bool(flags & DF_TEXTREL or DT_TEXTREL in dynamic.entries),
        relro=relro,
        canary=_has_name(data, layout, CANARY),
        allocators=_allocators(data, layout),
        size=len(data),
        has_symbols=any(s.type == SHT_SYMTAB for s in layout.sections),
        regions=regions(data, layout, where),
        build_paths=find_paths(data, forbidden),
        debug=read_debug(data, layout),
    )


def regions(data: Buffer, layout: Layout, where: str) -> tuple[Region, ...]:
    """What the CPU may execute: executable sections, else (no section table) executable segments whole.

    Non-executable sections within an executable segment (ld without -z separate-code puts .rodata there) are left
    out: they are data.

    Raises:
        AuditError: the sections overlap in the file, so its table cannot be true.
    """
    found = [
        Region(name=s.name, address=s.address, offset=s.offset, size=s.size)
        for s in layout.sections
        if s.flags & SHF_EXECINSTR and s.in_file and s.size
    ]
    if not found:
        found = [
            Region(name=f"segment {p.address:#x}", address=p.address, offset=p.offset, size=p.file_size)
            for p in layout.segments
            if p.type == PT_LOAD and p.flags & PF_X and p.file_size
        ]
    found.sort(key=lambda r: (r.offset, r.address))
    end = 0
    for region in found:
        if region.offset < end:
            piece(data, len(data), 1, f"{region.name or 'a section'}, which overlaps another one,", where)  # raises
        end = region.offset + region.size
    return tuple(sorted(found, key=lambda r: r.address))


def find_paths(data: Buffer, folders: Sequence[str]) -> BuildPaths:
    """Paths below `folders` in a file's bytes, where a path begins; debug information counts, too.

    `/forge` finds `/forge/src/x.c` and `/forge`, not `/opt/forge` nor `/forgery`.
    """
    count = 0
    examples: dict[str, None] = {}
    for folder in folders:
        prefix = folder.rstrip("/").encode()
        at = data.find(prefix)
        while at >= 0 and prefix:
            before = data[at - 1] if at else 0
            after = data[at + len(prefix)] if at + len(prefix) < len(data) else 0
            if before not in _WORD_BYTES and (after == ord("/") or after not in _PATH_BYTES):
                count += 1
                if len(examples) < EXAMPLES:
                    examples[_path_at(data, at)] = None
            at = data.find(prefix, at + len(prefix))
    return BuildPaths(count=count, examples=tuple(examples))


def _path_at(data: Buffer, at: int) -> str:
    raw = data[at : at + PATH_LENGTH]
    length = next((i for i, byte in enumerate(raw) if byte not in _PATH_BYTES), len(raw))
    return raw[:length].decode("ascii")


def _paths(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for entry in texts for part in entry.split(":"))


def _bytes_of(data: Buffer, part: Segment) -> bytes:
    return data[part.offset : part.offset + part.file_size]


def _writable_code(layout: Layout) -> tuple[str, ...]:
    found = [
        f"segment {p.address:#x}+{p.memory_size:#x}"
        for p in layout.segments
        if p.type == PT_LOAD and p.flags & PF_X and p.flags & PF_W
    ]
    found += [
        f"section {s.name}" for s in layout.sections if s.flags & SHF_EXECINSTR and s.flags & SHF_WRITE and s.size
    ]
    return tuple(found)


def _allocators(data: Buffer, layout: Layout) -> tuple[str, ...]:
    """Return the allocators whose functions are among the names of symbols."""
    known = {symbol: p.title for kind in allocators.every() if (p := kind.presence) for symbol in p.symbols}
    names = {**known, **FOREIGN_ALLOCATORS}
    return tuple(dict.fromkeys(tool for name, tool in names.items() if _has_name(data, layout, b"\0" + name + b"\0")))


def _has_name(data: Buffer, layout: Layout, name: bytes) -> bool:
    """Whether the names of symbols hold some bytes."""
    for section in layout.sections:
        if section.type in (SHT_SYMTAB, SHT_DYNSYM) and section.link < len(layout.sections):
            strings = layout.sections[section.link]
            if strings.in_file and data.find(name, strings.offset, strings.offset + strings.size) >= 0:
                return True
    return False


def _build_id(data: Buffer, layout: Layout) -> str:
    places: list[tuple[int, int]] = [(s.offset, s.size) for s in layout.sections if s.type == SHT_NOTE]
    places = places or [(p.offset, p.file_size) for p in layout.segments if p.type == PT_NOTE]
    for offset, size in places:
        raw = data[offset : offset + size]
        at = 0
        with contextlib.suppress(struct.error):
            while at + 12 <= len(raw):
                name_size, size_, kind = struct.unpack_from("<III", raw, at)
                name = raw[at + 12 : at + 12 + name_size].rstrip(b"\0")
                start = at + 12 + (name_size + 3 & ~3)
                if name == b"GNU" and kind == NT_GNU_BUILD_ID:
                    return raw[start : start + size_].hex()
                at = start + (size_ + 3 & ~3)
    return ""


class _Dynamic:
    """The dynamic section, by tag."""

    def __init__(self, data: Buffer, layout: Layout, where: str) -> None:
        self._data, self._layout, self._where = data, layout, where
        self.entries: dict[int, list[int]] = {}
        self._strings = b""
        place = layout.segment(PT_DYNAMIC)
        if place is None:
            return
        raw = piece(data, place.offset, place.file_size, "the dynamic section", where)
        for tag, value in struct.iter_unpack("<QQ", raw[: len(raw) // 16 * 16]):
            if tag == 0:
                break
            self.entries.setdefault(tag, []).append(value)
        table = layout.offset_of(self.number(DT_STRTAB))
        if table is not None:
            self._strings = piece(data, table, self.number(DT_STRSZ), "the dynamic string table", where)

    def number(self, tag: int) -> int:
        """The value of a tag, 0 if absent."""
        return self.entries.get(tag, [0])[0]

    def strings(self, tag: int) -> tuple[str, ...]:
        """The strings of all entries of a tag."""
        return tuple(text(self._strings, value) for value in self.entries.get(tag, ()))

    def _chain(self, tag: int) -> int | None:
        return self._layout.offset_of(self.number(tag)) if tag in self.entries else None

    def _at(self, form: str, offset: int, what: str) -> tuple[int, ...]:
        return struct.unpack(form, piece(self._data, offset, struct.calcsize(form), what, self._where))

    def version_needs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Elf64_Verneed with its Elf64_Vernaux entries. Links only lead forward, so the walk ends."""
        found: dict[str, dict[str, None]] = {}
        at = self._chain(DT_VERNEED)
        while at is not None:
            _, count, library, first, following = self._at("<HHIII", at, "the version needs")
            names = found.setdefault(text(self._strings, library), {})
            entry = at + first
            for _ in range(count):
                _, _, _, name, onward = self._at("<IHHII", entry, "the version needs")
                names[text(self._strings, name)] = None
                if not onward:
                    break
                entry += onward
            at = at + following if following else None
        return tuple((library, tuple(names)) for library, names in found.items())

    def version_definitions(self) -> tuple[str, ...]:
        """Names of Elf64_Verdef; the first one is the file's own name."""
        found: dict[str, None] = {}
        at = self._chain(DT_VERDEF)
        while at is not None:
            _, _, _, _, _, first, following = self._at("<HHHHIII", at, "the version definitions")
            name, _ = self._at("<II", at + first, "the version definitions")
            found[text(self._strings, name)] = None
            at = at + following if following else None
        return tuple(found)
