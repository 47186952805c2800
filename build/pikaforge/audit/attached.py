"""Find what a file carries: archives behind a program or script, programs in its data, a zip archive at its end."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pikaforge.audit.elf.layout import ET_DYN, ET_EXEC, MAGIC, PT_LOAD, SHT_NOBITS, is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.host.archive_kinds import START, unreadable
from pikaforge.host.archives import is_tar
from pikaforge.host.raw import joined
from pikaforge.host.streams import BLOCK, Window
from pikaforge.host.zips import LOCAL

SCRIPT_LIMIT = 1 << 20
"""Bytes behind the first one of a script that is no text in which its payload begins."""
_LINE = 512
"""Bytes of the first line of a script: the shell takes a file with such a line for one, with or without `#!`."""
_TEXT = bytes([*range(0x07, 0x0E), 0x1B, *range(0x20, 0x7F), *range(0x80, 0x100)])
_NO_TEXT = re.compile(rb"[^\x07-\x0d\x1b\x20-\x7e\x80-\xff]")
_BEFORE = 4096
"""Bytes before the first one that is no text in which a payload may begin: tar and cpio have text in their headers."""
_MARK = re.compile(
    rb"(?s)(?=\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04]|\xfd7zXZ\x00|BZh[1-9]1AY&SY|\x28\xb5\x2f\xfd"
    rb"|[\x50-\x5f]\x2a\x4d\x18|\x7fELF|PK\x03\x04[\x00-\x3f][\x00-\x13]|\x04\x22\x4d\x18|\x02\x21\x4c\x18|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|LZIP[\x00\x01]|\x89LZO\x00|(?:hsqs|sqsh)[^\n]{0,7}\x00)"
    rb"|(?<=\n)(?=[\x00-\xe0]\x00[\x00\x10\x20\x30\x40\x60\x80\xc0]..(?:\xff{8}|.{5}\x00{3})\x00|07070[127]|\xc7\x71"
    rb"|!<arch>\n)|(?<=[0-7 ]{6}[0-7\x00 ]{2}.{101})ustar"
)
"""The begin of a payload: a mark that no text has, or, behind the end of a line, one that a text may have. A tar
archive has its mark at `_USTAR` of its header."""
_USTAR = 257
_PROGRAM = re.compile(rb"\x7fELF(?s:.{12})[\x02\x03]\0\x3e\0")
"""The begin of a program or library for x86-64, as far as Linux looks at it (fs/binfmt_elf.c: load_elf_binary)."""
_PROGRAM_BYTES = 20
SEARCH_LIMIT = 4 << 30
"""Bytes of a file of an unknown kind that are searched for programs."""
PLACES_LIMIT = 64
"""Places in a file that look like programs or archives. No program or library of Debian has one."""
SEGMENTS_LIMIT = 65536
"""Bytes of program headers with which Linux starts a program (fs/binfmt_elf.c: load_elf_phdrs)."""
REST = "(rest)"
"""The name of what is behind the end of a file."""
SIGNATURE, _DER = b"~Module signature appended~\n", b"\x30"
"""What is behind the signature of a module of Linux (scripts/sign-file.c), and how the signature begins."""
PACKED = b"UPX!"
"""The mark of programs that were packed by UPX, behind their program headers."""
I386, I486 = 3, 6
"""Machines whose code Linux runs in 32-bit mode (arch/x86/include/asm/elf.h)."""
_HEADER = struct.Struct("<16xH14xQQ6xHHHH2x")
"""Type, offsets of program and section headers, size and number of either: of an ELF file of 64 bits."""
_SEGMENT, _SECTION = struct.Struct("<I4xQ16xQ16x"), struct.Struct("<4xI16xQQ24x")


def is_script(start: bytes) -> bool:
    """Return whether a shell takes a file for a script, by its first bytes: its first line is text."""
    line, end, _ = start[:_LINE].partition(b"\n")
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return bool(end) and not line.translate(None, _TEXT)


def payload(start: bytes, rest: IO[bytes]) -> IO[bytes] | None:
    """Return the archive or program that follows a script in its file; None if none does.

    Args:
        start: the first bytes of the file.
        rest: all others.

    Raises:
        AuditError: too much in it looks like a payload.
    """
    script, first = start, True
    while not script.translate(None, _TEXT):
        block = rest.read(BLOCK)
        if not block:
            return None
        script, first = script[-_BEFORE:] + block, False
    found = _NO_TEXT.search(script)
    begin = max(0, found.start() - _BEFORE) if found is not None else 0
    script, first = script[begin:] + rest.read(SCRIPT_LIMIT), first and begin == 0
    for number, mark in enumerate(_MARK.finditer(script)):
        if number >= PLACES_LIMIT:
            raise AuditError(f"more than {PLACES_LIMIT} places in it look like the begin of an archive")
        begin = mark.start() - _USTAR if mark.group() else mark.start()
        head = script[max(begin, 0) : begin + START]
        if begin >= first and (is_tar(head) if mark.group() else is_known(head)):
            return joined(script[begin:], rest)
    return None


def carried(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Return the programs within an ELF file, by their places, and what follows it.

    What is within it is data for the file itself, such as a helper that it writes to disk and starts. Each can be read
    until the next one is asked for.

    Raises:
        AuditError: too much in it looks like a program.
    """
    size = path.stat().st_size
    with path.open("rb") as program:
        end = _extent(program, 0, size) or size
        yield from _programs(program, path, 1, end)
        program.seek(end)
        if start := program.read(BLOCK).lstrip(b"\0"):
            yield REST, joined(start, program)


def within(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Return the programs within a file of an unknown kind, as `carried`: in some archives files are as they are."""
    with path.open("rb") as stream:
        yield from _programs(stream, path, 0, min(path.stat().st_size, SEARCH_LIMIT))


def _programs(program: IO[bytes], path: Path, first: int, end: int) -> Iterator[tuple[str, IO[bytes]]]:
    past = 0
    for number, at in enumerate(_headers(path, first, end)):
        if number >= PLACES_LIMIT:
            raise AuditError(f"more than {PLACES_LIMIT} places in it look like programs", where=str(path))
        length = _extent(program, at, end - at) if at >= past else None
        if length is not None:
            past = at + length
            program.seek(at)
            yield f"(at {at:#x})", io.BufferedReader(Window(program, length))


def search(start: bytes, rest: IO[bytes]) -> IO[bytes] | None:
    """Return what is in a stream from where a program or the member of a zip archive seems to begin; else None."""
    data, left = start, SEARCH_LIMIT
    while data and left > 0:
        places = [place for place in (_first_program(data), data.find(LOCAL)) if place >= 0]
        if places:
            return joined(data[min(places) :], rest)
        block = rest.read(BLOCK)
        left -= len(block)
        data = data[-_PROGRAM_BYTES + 1 :] + block if block else b""
    return None


def _first_program(data: bytes) -> int:
    found = _PROGRAM.search(data) if MAGIC in data else None
    return -1 if found is None else found.start()


def _headers(path: Path, first: int, end: int) -> Iterator[int]:
    """Return where headers of programs are in a part of a file."""
    kept, past = b"", 0
    with path.open("rb") as stream:
        while block := stream.read(min(1 << 20, end - past)):
            data = kept + block
            begin = past - len(kept)
            if MAGIC in data:
                yield from (at for found in _PROGRAM.finditer(data) if (at := begin + found.start()) >= first)
            past += len(block)
            kept = data[-_PROGRAM_BYTES + 1 :]


def is_packed(start: bytes) -> bool:
    """Return whether a program unpacks its own code, by its first bytes."""
    return PACKED in start[:1024]


def is_32_bit(start: bytes) -> bool:
    """Return whether Linux runs an ELF file in 32-bit mode, by its first bytes."""
    return int.from_bytes(start[18:20], "little") in (I386, I486)


def is_known(start: bytes) -> bool:
    """Return whether a file is a program, or of a kind that `archive_kinds` knows, by its first bytes."""
    return is_elf(start) or package_files.is_container(start) or bool(unreadable(start))


def follows(path: Path, start: bytes) -> str:
    """Return why what follows a program cannot be judged; empty if it can, or is a signature.

    Args:
        path: the program.
        start: the first bytes of what follows it.
    """
    if is_known(start) or (start.startswith((_DER, SIGNATURE)) and len(start) < START and _ends_with_signature(path)):
        return ""
    return "it is of no known kind: what the program takes from it when it runs is not seen"


def _ends_with_signature(path: Path) -> bool:
    with path.open("rb") as program:
        program.seek(-len(SIGNATURE), os.SEEK_END)
        return program.read() == SIGNATURE


def behind_zeros(start: bytes, rest: IO[bytes]) -> bytes:
    """Return what follows the zeros at the begin of a file: its first bytes; `rest` is at those behind them.

    Linux skips such zeros in an initramfs (init/initramfs.c: unpack_to_rootfs), and so does `tar --ignore-zeros`.
    """
    left = SEARCH_LIMIT
    while start and not start.strip(b"\0") and left > 0:
        start = rest.read(BLOCK)
        left -= len(start)
    start = start.lstrip(b"\0")
    return start + rest.read(max(0, START - len(start)))


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
