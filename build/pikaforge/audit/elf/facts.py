"""Read what one ELF file is and needs, as frozen facts. `pikaforge.audit.audit` judges them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from pikaforge.audit.elf.dwarf import DebugInfo, read_debug
from pikaforge.audit.elf.dynamic import (
    DT_BIND_NOW,
    DT_FLAGS,
    DT_FLAGS_1,
    DT_NEEDED,
    DT_RPATH,
    DT_RUNPATH,
    DT_SONAME,
    DT_TEXTREL,
    DynamicSection,
)
from pikaforge.audit.elf.executable import Region, executable
from pikaforge.audit.elf.layout import (
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    PF_W,
    PF_X,
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
    Section,
    Segment,
    mapped,
    read_layout,
)
from pikaforge.plan import allocators

Kind = Literal["rel", "exec", "dyn", "core", "other"]
KINDS: dict[int, Kind] = {ET_REL: "rel", ET_EXEC: "exec", ET_DYN: "dyn", ET_CORE: "core"}

DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW, DF_1_PIE = 1, 0x08000000
NT_GNU_BUILD_ID = 3
CANARY = b"__stack_chk_fail"
FOREIGN_ALLOCATORS = {b"mallocx": "jemalloc", b"je_malloc": "jemalloc", b"mi_malloc": "mimalloc"}
"""Functions that only an allocator has, and the allocator: a program that defines one has it built in. The kinds of
allocators have further ones."""
LATER = (".gnu.lto_", ".llvm.lto", ".llvmbc")
"""Beginnings of the names of sections with GIMPLE or LLVM bitcode (gcc's lto-section-names.h; LLVM's FatLTO)."""
NOTES, NOTE_LIMIT = 64, 64 << 10
"""Sections of notes in which the build id is looked for, and bytes of each."""
SYMBOL_TABLES = 4
"""Symbol tables whose names are looked through. A file has one of each kind (gABI, chapter 4)."""
PLACES = 4096
"""Places of one name in a table of strings that are looked at. Linkers store a name once."""
SHN_UNDEF = 0
_SYMBOL = struct.Struct("<IBBHQQ")
EXAMPLES = 5
"""Build paths that are kept as examples; all are counted."""
PATH_LENGTH = 160
_PATH_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/@%~=,:#")
_WORD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+/~")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPaths:
    """Absolute paths below forbidden folders, found in a file's bytes."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """The facts of one ELF file."""

    name: str
    """Its path in its tree or package, else its path."""
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
    """Entries of DT_RUNPATH; if there is one, the loader ignores DT_RPATH (ld.so(8))."""
    version_needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Libraries, each with the symbol versions that are needed of it."""
    version_definitions: tuple[str, ...] = ()
    build_id: str = ""
    stack_header: bool = False
    executable_stack: bool = False
    """Whether PT_GNU_STACK asks for it, or is missing: then glibc makes it executable on x86-64."""
    writable_code: tuple[str, ...] = ()
    """Segments and sections that are writable and executable."""
    text_relocations: bool = False
    relro: Literal["none", "partial", "full"] = "none"
    canary: bool = False
    """Whether any code of the file uses the stack protector."""
    allocators: tuple[str, ...] = ()
    """Allocators whose own functions are defined in it, by its symbol tables."""
    size: int = 0
    """In bytes."""
    has_symbols: bool = False
    """Whether it has a .symtab."""
    regions: tuple[Region, ...] = ()
    """Its code; if all that a CPU may execute claims to be none, that."""
    later: bool = False
    """Whether an object file holds a compiler's own form of its code, which the linker may have compiled instead."""
    build_paths: BuildPaths = field(default_factory=BuildPaths)
    debug: DebugInfo = field(default_factory=DebugInfo)

    @property
    def program(self) -> bool:
        """Whether it is a program, which can be started."""
        return self.kind == "exec" or self.pie

    @property
    def run_path(self) -> tuple[str, ...]:
        """The folders that the loader searches for the needs of this file."""
        return self.runpath or self.rpath


def read_facts(path: Path, *, name: str = "", debug: Path | None = None, forbidden: Sequence[str] = ()) -> ElfFacts:
    """Return the facts of one file.

    Args:
        path: the file.
        name: its name in facts and errors; else its path.
        debug: its separate debug information, which is read if the file itself has none.
        forbidden: folders, such as `/forge`; the file may hold no path below them.

    Raises:
        AuditError: the file is no ELF file, truncated, or corrupt.
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
    """Return the build id of a file or of its separate debug information, in hex; empty if it has none.

    Raises:
        AuditError: the file is no ELF file, truncated, or corrupt.
    """
    with mapped(path) as data:
        return _build_id(data, read_layout(data, str(path), detached=True))


def read_defined(path: Path, names: frozenset[bytes]) -> frozenset[bytes]:
    """Return which of some symbols a file defines.

    Raises:
        AuditError: the file is no ELF file, truncated, or corrupt.
    """
    with mapped(path) as data:
        return _defined(data, read_layout(data, str(path), detached=True), names)


def facts_of(data: Buffer, where: str, *, forbidden: Sequence[str] = ()) -> ElfFacts:
    """Return the facts of a file by its bytes; see `read_facts`."""
    layout = read_layout(data, where)
    kind = KINDS.get(layout.type, "other")
    if kind == "rel" and layout.bits == 64:
        return _object_facts(data, layout, where)
    if layout.bits != 64 or not layout.segments:  # 32 bits, another machine: only the layout is read
        return ElfFacts(
            name=where,
            bits=layout.bits,
            machine=layout.machine,
            kind=kind,
            regions=_regions(data, layout, where),
            debug=read_debug(data, layout),
        )
    dynamic = DynamicSection(data, layout, where)
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
        regions=_regions(data, layout, where),
        build_paths=find_paths(data, forbidden),
        debug=read_debug(data, layout),
    )


def _object_facts(data: Buffer, layout: Layout, where: str) -> ElfFacts:
    """Return the facts of an object file. Its debug information is not read: its relocations are not applied."""
    return ElfFacts(
        name=where,
        bits=layout.bits,
        machine=layout.machine,
        kind="rel",
        build_id=_build_id(data, layout),
        writable_code=_writable_code(layout),
        size=len(data),
        has_symbols=any(s.type == SHT_SYMTAB for s in layout.sections),
        regions=_regions(data, layout, where),
        later=any(s.name.startswith(LATER) for s in layout.sections),
    )


def _regions(data: Buffer, layout: Layout, where: str) -> tuple[Region, ...]:
    found = executable(data, layout, where)
    return tuple(r for r in found if not r.claim) or found


def find_paths(data: Buffer, folders: Sequence[str]) -> BuildPaths:
    """Return the paths below `folders` in a file's bytes, in debug information, too.

    `/forge` finds `/forge/src/x.c` and `/forge`, but neither `/opt/forge` nor `/forgery`.
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
    return data[part.offset : part.offset + min(part.file_size, 4096)]


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
    """Return the allocators whose own functions are defined in the file: a program that calls one has it elsewhere."""
    known = {symbol: p.title for kind in allocators.every() if (p := kind.presence) for symbol in p.symbols}
    names = {**known, **FOREIGN_ALLOCATORS}
    defined = _defined(data, layout, frozenset(names))
    return tuple(dict.fromkeys(tool for name, tool in names.items() if name in defined))


def _defined(data: Buffer, layout: Layout, names: frozenset[bytes]) -> frozenset[bytes]:
    """Return which symbols are defined in a file.

    First the names are looked for, which few files have. A name may be the end of a longer one, as linkers store both
    at one place.
    """
    found = set()
    for table in [s for s in layout.sections if s.type in (SHT_SYMTAB, SHT_DYNSYM) and s.in_file][:SYMBOL_TABLES]:
        strings = layout.sections[table.link] if table.link < len(layout.sections) else None
        if strings is None or not strings.in_file:
            continue
        places = {
            at - strings.offset: name for name in names for at in islice(_places(data, strings, name + b"\0"), PLACES)
        }
        if places:
            size = table.size // _SYMBOL.size * _SYMBOL.size
            for name, _, _, section, _, _ in _SYMBOL.iter_unpack(data[table.offset : table.offset + size]):
                if name in places and section != SHN_UNDEF:
                    found.add(places[name])
    return frozenset(found)


def _places(data: Buffer, section: Section, text: bytes) -> Iterator[int]:
    """Yield the offsets in the file at which a section has some bytes."""
    end = section.offset + section.size
    at = data.find(text, section.offset, end)
    while at >= 0:
        yield at
        at = data.find(text, at + 1, end)


def _has_name(data: Buffer, layout: Layout, name: bytes) -> bool:
    """Return whether the string tables of symbols hold some bytes."""
    tables = [section for section in layout.sections if section.type in (SHT_SYMTAB, SHT_DYNSYM)]
    for section in tables[:SYMBOL_TABLES]:
        if section.link < len(layout.sections):
            strings = layout.sections[section.link]
            if strings.in_file and data.find(name, strings.offset, strings.offset + strings.size) >= 0:
                return True
    return False


def _build_id(data: Buffer, layout: Layout) -> str:
    places: list[tuple[int, int]] = [(s.offset, s.size) for s in layout.sections if s.type == SHT_NOTE]
    places = places or [(p.offset, p.file_size) for p in layout.segments if p.type == PT_NOTE]
    for offset, size in places[:NOTES]:
        raw = data[offset : offset + min(size, NOTE_LIMIT)]
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
