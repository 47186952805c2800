"""Find what a program or script carries: archives behind its end, and programs in its data."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pikaforge.audit.elf.layout import ET_DYN, ET_EXEC, PT_LOAD, SHT_NOBITS, is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.host.archive_kinds import START
from pikaforge.host.archives import is_tar
from pikaforge.host.raw import joined
from pikaforge.host.streams import BLOCK, Window

SHEBANG = b"#!"
SCRIPT_LIMIT = 1 << 20
"""Bytes of a script in which its payload begins. The script of makeself has 20 kB."""
_MARK = re.compile(
    rb"\n(?=\x1f\x8b\x08|\xfd7zXZ\x00|BZh[1-9]1AY&SY|\x28\xb5\x2f\xfd|\x5d\0\0|\x7fELF|PK\x03\x04|07070[127]|\xc7\x71"
    rb"|!<arch>\n)|(?<=[0-7 ]{6}[0-7\0 ]{2}(?s:.{101}))ustar"
)
"""The begin of a payload, behind a line of the script. A tar archive has its mark at `_USTAR` of its header."""
_USTAR = 257
_PROGRAM = re.compile(rb"\x7fELF(?s:.{12})[\x02\x03]\0\x3e\0")
"""The begin of a program or library for x86-64, as far as Linux looks at it (fs/binfmt_elf.c: load_elf_binary)."""
_PROGRAM_BYTES = 20
PLACES_LIMIT = 64
"""Places in a file that look like programs or archives. No program or library of Debian has one."""
SEGMENTS_LIMIT = 65536
"""Bytes of program headers with which Linux starts a program (fs/binfmt_elf.c: load_elf_phdrs)."""
REST = "(rest)"
"""The name of what is behind the end of a file."""
PACKED = b"UPX!"
"""The mark of programs that were packed by UPX, behind their program headers."""
I386, I486 = 3, 6
"""Machines whose code Linux runs in 32-bit mode (arch/x86/include/asm/elf.h)."""
_HEADER = struct.Struct("<16xH14xQQ6xHHHH2x")
"""Type, offsets of program and section headers, size and number of either: of an ELF file of 64 bits."""
_SEGMENT, _SECTION = struct.Struct("<I4xQ16xQ16x"), struct.Struct("<4xI16xQQ24x")


def payload(script: bytes, rest: IO[bytes]) -> IO[bytes] | None:
    """Return the archive or program that follows a script in its file; None if none does.

    Args:
        script: the first bytes of the file, at most `SCRIPT_LIMIT`.
        rest: all others.

    Raises:
        AuditError: too much in it looks like a payload.
    """
    for number, found in enumerate(_MARK.finditer(script)):
        if number >= PLACES_LIMIT:
            raise AuditError(f"more than {PLACES_LIMIT} places in it look like the begin of an archive")
        begin = found.start() - _USTAR if found.group() == b"ustar" else found.end()
        start = script[max(begin, 0) : begin + START]
        if begin > 0 and (is_tar(start) if found.group() == b"ustar" else _is_program_or_archive(start)):
            return joined(script[begin:], rest)
    return None


def carried(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Return the programs within an ELF file, by their places, and the archive or program that follows it.

    What is within it is data for the file itself, such as a helper that it writes to disk and starts. Each can be read
    until the next one is asked for.

    Raises:
        AuditError: too much in it looks like a program.
    """
    size = path.stat().st_size
    with path.open("rb") as program:
        end = _extent(program, 0, size) or size
        past = 0
        for number, at in enumerate(_headers(path, end)):
            if number >= PLACES_LIMIT:
                raise AuditError(f"more than {PLACES_LIMIT} places in it look like programs", where=str(path))
            length = _extent(program, at, end - at) if at >= past else None
            if length is not None:
                past = at + length
                program.seek(at)
                yield f"(at {at:#x})", io.BufferedReader(Window(program, length))
        program.seek(end)
        if start := program.read(BLOCK).lstrip(b"\0"):
            yield REST, joined(start, program)


def _headers(path: Path, end: int) -> Iterator[int]:
    """Return where headers of programs are in a file, but for its own."""
    kept, at = b"", 0
    with path.open("rb") as stream:
        while block := stream.read(min(1 << 20, end - at)):
            data = kept + block
            begin = at - len(kept)
            yield from (begin + found.start() for found in _PROGRAM.finditer(data) if begin + found.start() > 0)
            at += len(block)
            kept = data[-_PROGRAM_BYTES + 1 :]


def is_packed(start: bytes) -> bool:
    """Return whether a program unpacks its own code, by its first bytes."""
    return PACKED in start[:1024]


def is_32_bit(start: bytes) -> bool:
    """Return whether Linux runs an ELF file in 32-bit mode, by its first bytes."""
    return int.from_bytes(start[18:20], "little") in (I386, I486)


def _is_program_or_archive(start: bytes) -> bool:
    return is_elf(start) or package_files.is_container(start)


def _extent(program: IO[bytes], at: int, size: int) -> int | None:
    """Return how many bytes a program or library has by its own headers; None for others, and for a damaged one.

    Args:
        program: the file that it is in.
        at: where it begins.
        size: bytes from there to the end of the file.
    """
    program.seek(at)
    header = program.read(_HEADER.size)
    if len(header) != _HEADER.size:
        return None
    kind, segments, sections, segment_size, segment_number, section_size, section_number = _HEADER.unpack(header)
    end = max(segments + segment_size * segment_number, sections + section_size * section_number)
    if kind not in (ET_EXEC, ET_DYN) or segment_size != _SEGMENT.size or not _HEADER.size <= end <= size:
        return None
    if segment_size * segment_number > SEGMENTS_LIMIT:
        return None
    program.seek(at + segments)
    for type_, offset, length in _SEGMENT.iter_unpack(program.read(segment_size * segment_number)):
        end = max(end, offset + length) if type_ == PT_LOAD else end
    if section_size == _SECTION.size:
        program.seek(at + sections)
        for type_, offset, length in _SECTION.iter_unpack(program.read(section_size * section_number)):
            end = max(end, offset + length) if type_ not in (0, SHT_NOBITS) else end
    return end if end <= size else None
