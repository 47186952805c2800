"""Find out by what waivers may name the files and functions of a tree."""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pikaforge.audit.waivers import FileIdentity, paths_of
from pikaforge.config.scalars import Strict

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts
    from pikaforge.audit.inputs import ElfTree

NAMED = 4096
"""Functions that a manifest may name."""
NAME_LIMIT = 1024
"""Letters of such a name, as in waivers."""
ADDRESSES = 1 << 63
_FUNCTION = 0x12
"""A global symbol of type STT_FUNC (gABI, chapter 4)."""


class WaivedRecord(Strict):
    """A function that a waiver covers. Packages have no symbols, so their manifest says where it is."""

    file: str = Field(description="In the tree.")
    build_id: str = Field(description="The file's.")
    function: str = Field(description="The name of its symbol.")
    features: tuple[str, ...] = Field(description="The features beyond the target that it needs.")
    code: tuple[tuple[int, int], ...] = Field(
        description="Its code with such instructions: addresses of the first byte and of the one behind it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCode:
    """The name of some code, by a manifest that is believed."""

    file: str
    build_id: str
    function: str
    code: tuple[tuple[int, int], ...]


def identities(tree: ElfTree, facts: Iterable[ElfFacts], top: str | None) -> dict[str, FileIdentity]:
    """Return what waivers may name the files of a tree by.

    Args:
        tree: the files.
        facts: of those that are judged.
        top: the folder in it that the paths of waivers are relative to; None if it is not known.
    """
    folder, outside = common_folder(tree), _outside(tree)  # once: an archive may have thousands of members
    return {
        fact.name: FileIdentity(
            paths=paths_of(fact.name, folder, outside)
            if top is None
            else (fact.name.removeprefix(f"{top}/" if top else ""),),
            build_id=fact.build_id,
            place=tree.elves[fact.name],
        )
        for fact in facts
    }


def common_folder(tree: ElfTree) -> str:
    """Return the innermost folder that holds all files of a tree; empty if it is the tree's top."""
    folders = [posixpath.dirname(name) for name in tree.elves]
    return posixpath.commonpath(folders) if tree.whole and folders and all(folders) else ""


def _outside(tree: ElfTree) -> str:
    """Return the path of the folder that was named, or that a named file is in; empty for packages."""
    path = Path(tree.title).absolute()
    if not tree.whole:
        return path.parent.as_posix()
    return path.as_posix() if path.is_dir() else ""


def symbol_files(
    tree: ElfTree, named: Iterable[NamedCode], build_ids: Mapping[str, str], into: Path
) -> dict[str, Path]:
    """Write files with nothing but the symbols of some functions, as separate debug information has them.

    Args:
        tree: the files that the functions are in.
        named: the functions; those of other builds of a file are left out.
        build_ids: of the files, by path in the tree.
        into: a folder for them.

    Returns:
        The files by path in the tree of the file that they are for.
    """
    wanted: dict[str, list[tuple[str, int, int]]] = {}
    for entry in named:
        if entry.file in tree.elves and entry.build_id and entry.build_id == build_ids.get(entry.file):
            good = [(a, b) for a, b in entry.code if 0 <= a < b < ADDRESSES]
            if len(entry.function) <= NAME_LIMIT and "\0" not in entry.function:
                wanted.setdefault(entry.file, []).extend((entry.function, a, b) for a, b in good)
    found = {}
    for number, (file, functions) in enumerate(wanted.items()):
        into.mkdir(parents=True, exist_ok=True)
        found[file] = into / f"{number}.symbols"
        found[file].write_bytes(_symbol_file(functions[:NAMED]))
    return found


def _symbol_file(functions: Iterable[tuple[str, int, int]]) -> bytes:
    """Return an ELF file with a symbol table, and nothing else (gABI, chapter 4)."""
    from pikaforge.audit.elf.layout import EM_X86_64, ET_DYN, MAGIC, SHT_STRTAB, SHT_SYMTAB  # noqa: PLC0415

    strings = bytearray(b"\0")
    rows = [bytes(24)]
    for name, start, end in functions:
        rows.append(struct.pack("<IBBHQQ", len(strings), _FUNCTION, 0, 1, start, end - start))
        strings += name.encode("utf-8", "surrogateescape") + b"\0"
    table = b"".join(rows)
    head = 64
    sections = [
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 0, SHT_SYMTAB, 0, 0, head, len(table), 2, 1, 8, 24),
        struct.pack("<IIQQQQIIQQ", 0, SHT_STRTAB, 0, 0, head + len(table), len(strings), 0, 0, 1, 0),
    ]
    at = head + len(table) + len(strings)
    header = MAGIC + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", ET_DYN, EM_X86_64, 1, 0, 0, at, 0, head, 56, 0, 64, len(sections), 0)
    return header + table + bytes(strings) + b"".join(sections)
