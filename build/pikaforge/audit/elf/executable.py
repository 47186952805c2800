"""What of a file a CPU may execute: the pages of its executable segments.

Only the program headers decide that. Sections, which neither Linux nor the loader reads, help: a section that lies in
an executable segment at the very place of which its header speaks says what the bytes there are for. Linux and the
loader map whole pages, so that bytes before and behind a segment can be executed, too (fs/binfmt_elf.c, elf_map).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pikaforge.audit.elf.layout import (
    EM_X86_64,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    PF_X,
    PT_GNU_STACK,
    PT_LOAD,
    SHF_ALLOC,
    SHF_EXECINSTR,
    Buffer,
    Layout,
    Section,
    Segment,
    piece,
)
from pikaforge.errors import AuditError

PAGE = 4096
"""Bytes of the smallest page of x86-64."""
PADDING = b"\x00\x90\xcc"
"""Bytes that fill gaps: zeros, NOP, INT3."""
HEADERS = {32: 52, 64: 64}
"""Bytes of a file's header, by its bits."""
CODE_NAMES = re.compile(r"\.(?:text|stub|gnu\.linkonce\.t|init|fini|plt)(?:\.|$)")
"""Names of sections that GNU ld's scripts put into .text, .init, .fini and .plt, whatever their flags."""
SEGMENTS = 64
"""Executable segments of a file; linkers make one."""
Span = tuple[int, int]
"""A range [start, end) of virtual addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of the file that the CPU may execute."""

    name: str
    address: int
    """Its virtual address."""
    offset: int
    """Its offset in the file."""
    size: int
    """In bytes."""
    claim: str = ""
    """What says that it is no code; empty for code. A claim is no proof."""


def regions(data: Buffer, layout: Layout, where: str) -> tuple[Region, ...]:
    """Return those parts of `executable` of which nothing says that they are no code."""
    return tuple(r for r in executable(data, layout, where) if not r.claim)


def executable(data: Buffer, layout: Layout, where: str) -> tuple[Region, ...]:
    """Return all that a CPU may execute, in the order of addresses.

    A file without executable segments has what its sections say.

    Raises:
        AuditError: sections or segments overlap, so the table is wrong.
    """
    sections = executable_sections(data, layout, where)
    segments = _executable_segments(layout)
    if len(segments) > SEGMENTS:
        raise AuditError(f"the ELF file is corrupt: it has {len(segments)} executable segments", where=where)
    if not segments:
        found = [Region(name=s.name, address=s.address, offset=s.offset, size=s.size) for s in sections]
        if layout.type == ET_REL:
            found += _linked_as_code(layout)
        return tuple(sorted(found, key=lambda r: r.address))
    _check_overlaps(segments, where)
    shown = _shown(segments)
    out: list[Region] = []
    ends: dict[int, int] = {}  # of the pages that are done, by the shift of what is there
    ordered = sorted(segments, key=lambda s: (s.address, not s.flags & PF_X))
    for number, segment in enumerate(ordered):
        following = (s.address for s in ordered[number + 1 :] if s.shift == segment.shift)
        part = _SegmentParts(data, layout, segment, ends.get(segment.shift, 0))
        out += _clipped(part.pages(next(following, 1 << 64)), shown[segment])
        ends[segment.shift] = part.end
    return tuple(sorted(out, key=lambda r: r.address))


def _check_overlaps(segments: Iterable[Segment], where: str) -> None:
    """Raise AuditError if segments that are code by their headers overlap."""
    end = 0
    for segment in sorted((s for s in segments if s.flags & PF_X), key=lambda s: s.address):
        if segment.address < end:
            raise AuditError(
                f"the ELF file is corrupt: the segment at {segment.address:#x} overlaps another one", where=where
            )
        end = segment.address + segment.file_size


def _shown(segments: Sequence[Segment]) -> dict[Segment, list[Span]]:
    """Return the ranges of addresses at which each segment's pages are not replaced.

    Linux and the loader map one segment after the other, in the order of their headers. Where two of them share a page,
    all of it is from the later one.
    """
    pages = [(s.address // PAGE * PAGE, -(-(s.address + s.file_size) // PAGE) * PAGE) for s in segments]
    return {
        segment: list(
            _without(
                [pages[number]],
                _merged(p for s, p in zip(segments[number:], pages[number:], strict=True) if s.shift != segment.shift),
            )
        )
        for number, segment in enumerate(segments)
    }


def _clipped(regions: Iterable[Region], spans: Sequence[Span]) -> Iterator[Region]:
    """Yield the parts of regions that lie in some ranges."""
    for region in regions:
        for low, high in spans:
            start, end = max(low, region.address), min(high, region.address + region.size)
            if start < end:
                offset = region.offset + start - region.address
                yield replace(region, address=start, offset=offset, size=end - start)


def _executable_segments(layout: Layout) -> list[Segment]:
    """Return the segments of which a CPU may execute pages.

    Before Linux 5.8, whatever a program can read is executable if it asks for an executable stack, or has no
    PT_GNU_STACK (commits 122306117afe and 9fccc5c0c99f; EL 8 has 4.18). An empty segment that does not begin at a page
    has a page all the same (elf_map before Linux 6.7, and glibc's loader).
    """
    loads = [s for s in layout.segments if s.type == PT_LOAD and (s.file_size or s.address % PAGE)]
    if layout.machine == EM_X86_64 and layout.type in (ET_EXEC, ET_DYN) and loads:
        stack = layout.segment(PT_GNU_STACK)
        if stack is None or stack.flags & PF_X:
            return loads
    return [s for s in loads if s.flags & PF_X]


def executable_sections(data: Buffer, layout: Layout, where: str) -> list[Section]:
    """Return the sections that are code by their headers, in the order of the file.

    Raises:
        AuditError: they overlap in the file, so the section table is wrong.
    """
    found = [s for s in layout.sections if s.flags & SHF_EXECINSTR and s.in_file and s.size]
    found.sort(key=lambda s: (s.offset, s.address))
    end = 0
    for section in found:
        if section.offset < end:
            piece(data, len(data), 1, f"{section.name or 'a section'}, which overlaps another one,", where)  # raises
        end = section.offset + section.size
    return found


def _linked_as_code(layout: Layout) -> Iterator[Region]:
    """Yield the sections of an object file that are no code by their headers, and that ld puts among code by name."""
    for s in layout.sections:
        if s.in_file and s.size and s.flags & (SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC and CODE_NAMES.match(s.name):
            claim = f"section {s.name} is no code by its header"
            yield Region(name=s.name, address=s.address, offset=s.offset, size=s.size, claim=claim)


class _SegmentParts:
    """One executable segment, cut by the sections that lie in it."""

    def __init__(self, data: Buffer, layout: Layout, segment: Segment, done: int) -> None:
        self._data, self._layout, self._segment = data, layout, segment
        self._high = segment.address + segment.file_size
        self._low = min(max(segment.address, done), self._high)
        self._done, self.end = done, done
        self._shift = segment.shift

    def pages(self, following: int) -> Iterator[Region]:
        """Yield its parts with the rest of its pages, as far as no other segment has that from the same place.

        Linux zeroes what is behind a writable segment that is longer in memory, but older ones not for each segment.

        Args:
            following: the address of the next segment that has the same place in the file for its pages.
        """
        yield from self.margin(max(self._done, self._low // PAGE * PAGE), self._low)
        yield from self.parts()
        tail = min(-(-self._high // PAGE) * PAGE, max(following, self._high))
        yield from self.margin(max(self._done, self._high), tail)
        self.end = max(self._done, self._high, tail)

    def parts(self) -> Iterator[Region]:
        """Yield its parts, in the order of addresses."""
        other = "" if self._segment.flags & PF_X else "a segment that its header does not call executable"
        code = list(self._held(executable=True))
        data = list(_disjoint(self._held(executable=False)))
        taken = [(low, high) for low, high, _ in code]
        found = [self._region(low, high, name) for low, high, name in code]
        spans = [(low, high) for low, high, _ in data]
        for low, high in _without(spans, taken):
            name = data[bisect_right(spans, (low, 1 << 64)) - 1][2]
            found.append(self._region(low, high, name, claim=f"section {name or '?'} is no code by its header"))
        rest = list(_without(_without([(self._low, self._high)], taken), spans))
        for low, high in self._headers(rest):
            found.append(self._region(low, high, "headers", claim="the file's headers"))
        for low, high in _without(rest, list(self._headers(rest))):
            name = f"segment {low:#x}"
            padding = bool(code) and not self._bytes(low, high).strip(PADDING)
            found.append(self._region(low, high, name, claim="padding" if padding else other))
        yield from sorted(found, key=lambda r: r.address)

    def margin(self, low: int, high: int) -> Iterator[Region]:
        """Yield the part of a page that lies outside of the segment, as far as the file has bytes for it."""
        low, high = max(low, -self._shift), min(high, len(self._data) - self._shift)
        if low < high:
            yield self._region(low, high, f"page {low:#x}", claim="it shares a page with a segment")

    def _held(self, *, executable: bool) -> Iterator[tuple[int, int, str]]:
        """Yield address range and name of the sections that are loaded from where their headers say."""
        for section in sorted(self._layout.sections, key=lambda s: s.address):
            low, high = max(section.address, self._low), min(section.address + section.size, self._high)
            if (
                section.in_file
                and low < high
                and section.flags & SHF_ALLOC
                and bool(section.flags & SHF_EXECINSTR) == executable
                and section.offset - section.address == self._shift
            ):
                yield low, high, section.name

    def _headers(self, rest: Sequence[Span]) -> Iterator[Span]:
        """Yield what of some ranges is the ELF header or the program header table."""
        size = HEADERS[self._layout.bits]
        spans = [(-self._shift, size - self._shift)]
        if self._layout.headers is not None:
            at, length = self._layout.headers
            spans.append((at - self._shift, at + length - self._shift))
        yield from _without(rest, list(_without(rest, _merged(spans))))

    def _bytes(self, low: int, high: int) -> bytes:
        return self._data[low + self._shift : high + self._shift]

    def _region(self, low: int, high: int, name: str, claim: str = "") -> Region:
        return Region(name=name, address=low, offset=low + self._shift, size=high - low, claim=claim)


def _disjoint(ranges: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Yield ascending ranges; of those that overlap, the later ones lose the common part."""
    end = 0
    for low, high, name in ranges:
        if high > max(low, end):
            yield max(low, end), high, name
            end = high


def _merged(spans: Iterable[Span]) -> list[Span]:
    out: list[Span] = []
    for low, high in sorted(spans):
        if out and low <= out[-1][1]:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


def _without(spans: Iterable[Span], holes: Sequence[Span]) -> Iterator[Span]:
    """Yield ascending, disjoint ranges without other such ranges."""
    at = 0
    for start, end in spans:
        low = start
        while at < len(holes) and holes[at][1] <= low:
            at += 1
        number = at
        while number < len(holes) and holes[number][0] < end:
            if holes[number][0] > low:
                yield low, holes[number][0]
            low = max(low, holes[number][1])
            number += 1
        if low < end:
            yield low, end
