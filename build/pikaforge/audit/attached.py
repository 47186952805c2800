"""Find what is attached to a program or script: archives behind its end, which it unpacks when it runs."""

from __future__ import annotations

import os
import re
import struct
from typing import IO

from pikaforge.audit.elf.layout import ET_DYN, ET_EXEC, PT_LOAD, SHT_NOBITS, is_elf
from pikaforge.config import package_files
from pikaforge.host.archive_kinds import START
from pikaforge.host.archives import is_tar
from pikaforge.host.raw import joined
from pikaforge.host.streams import BLOCK

SHEBANG = b"#!"
SCRIPT_LIMIT = 1 << 20
"""Bytes of a script in which its payload begins. The script of makeself has 20 kB."""
_MARK = re.compile(
    rb"\n(?=\x1f\x8b\x08|\xfd7zXZ\x00|BZh[1-9]|\x28\xb5\x2f\xfd|\x5d\0\0|\x7fELF|PK\x03\x04|07070|\xc7\x71|!<arch>\n)"
    rb"|ustar"
)
"""The begin of a payload, behind a line of the script. A tar archive has its mark at `_USTAR` of its header."""
_USTAR = 257
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
    """
    for found in _MARK.finditer(script):
        begin = found.start() - _USTAR if found.group() == b"ustar" else found.end()
        start = script[max(begin, 0) : begin + START]
        if begin > 0 and (is_tar(start) if found.group() == b"ustar" else _is_program_or_archive(start)):
            return joined(script[begin:], rest)
    return None


def behind(program: IO[bytes]) -> IO[bytes] | None:
    """Return the archive or program that follows an ELF file in its file; None if none does."""
    end = _end(program)
    if end is None:
        return None
    program.seek(end)
    start = program.read(BLOCK).lstrip(b"\0")
    return joined(start, program) if start else None


def is_packed(start: bytes) -> bool:
    """Return whether a program unpacks its own code, by its first bytes."""
    return PACKED in start[:1024]


def is_32_bit(start: bytes) -> bool:
    """Return whether Linux runs an ELF file in 32-bit mode, by its first bytes."""
    return int.from_bytes(start[18:20], "little") in (I386, I486)


def _is_program_or_archive(start: bytes) -> bool:
    return is_elf(start) or package_files.is_container(start)


def _end(program: IO[bytes]) -> int | None:
    """Return where a program or library ends by its own headers; None if nothing follows, or it is damaged."""
    size = program.seek(0, os.SEEK_END)
    program.seek(0)
    header = program.read(_HEADER.size)
    if len(header) != _HEADER.size:
        return None
    kind, segments, sections, segment_size, segment_number, section_size, section_number = _HEADER.unpack(header)
    end = max(segments + segment_size * segment_number, sections + section_size * section_number)
    if kind not in (ET_EXEC, ET_DYN) or segment_size != _SEGMENT.size or not _HEADER.size <= end <= size:
        return None
    program.seek(segments)
    for type_, offset, length in _SEGMENT.iter_unpack(program.read(segment_size * segment_number)):
        end = max(end, offset + length) if type_ == PT_LOAD else end
    if section_size == _SECTION.size:
        program.seek(sections)
        for type_, offset, length in _SECTION.iter_unpack(program.read(section_size * section_number)):
            end = max(end, offset + length) if type_ not in (0, SHT_NOBITS) else end
    return end if end < size else None
