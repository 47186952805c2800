"""Decode pieces of code: the features that they need, and where they jump to. Worker processes run this.

In iced, the features of an instruction depend on its opcode only, so one table gives them by opcode (`opcodes`). A
piece's instructions are decoded to a list, from which C code (`map`, `attrgetter`) takes opcodes, lengths and targets:
a Python loop is four times slower. Only if an opcode is not allowed, the piece is looked at instruction by instruction.

A jump may lead into another instruction, as in `jmp 1f+2`. Targets in a piece that are no instruction of it are
followed there; those in other pieces are returned, and `look_inside` follows them.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.audit.elf.executable import PADDING
from pikaforge.audit.elf.layout import Buffer, mapped
from pikaforge.audit.isa.opcodes import LONGEST, Tables, features_by_code, flows, is_near_branch, tables
from pikaforge.audit.isa.ranges import GAP, PIECE_LIMIT, TABLE
from pikaforge.audit.isa.scan_facts import Addresses, FeatureHit, Given, Scanned, Unit
from pikaforge.audit.isa.table_pieces import runs_on, tables_in
from pikaforge.audit.isa.worker_pool import Chunk
from pikaforge.cpu.features import SHORT_OPERAND

if TYPE_CHECKING:
    from iced_x86 import Instruction

SHORT_GAP = 32
"""Bytes of the longest gap whose content is remembered as clean: files have the same short gaps again and again."""
BEGUN = tuple(b"\1" + bytes(length - 1) if length else b"" for length in range(LONGEST + 1))
"""A byte for each byte of an instruction, 1 for the first, by the instruction's length."""
ALIGNED = 8
"""Bytes to which functions are aligned behind padding."""
BRANCH_66 = re.compile(rb"\x66[\x26\x2e\x36\x3e\x64-\x66\xf2\xf3]*(?:\x0f[\x80-\x8f]|[\xe8\xe9])")


def units(chunk: Chunk, data: Buffer, *, wanted: frozenset[int] | None = None) -> Iterator[Unit]:
    """Yield the parts of a chunk, but for gaps that are only padding, and tables. Decoding goes on over cuts of gaps.

    Args:
        chunk: the pieces.
        data: the file.
        wanted: indexes of the pieces that are of interest, with all pieces of their gaps; None: all.
    """
    from iced_x86 import Decoder  # noqa: PLC0415

    after = 0
    for index, (start, end, offset, kind) in enumerate(
        zip(chunk.starts, chunk.ends, chunk.offsets, chunk.kinds, strict=True), chunk.first
    ):
        if kind == TABLE if wanted is None else index not in wanted:
            continue
        at = max(start, after) if index in chunk.cuts else start
        while at < end:
            stop = min(at + PIECE_LIMIT, end)
            place = offset + at - start
            raw = data[place : place + stop - at]
            if kind == GAP and not raw.strip(PADDING):
                at = after = stop
                continue
            instructions = list(Decoder(64, raw, ip=at))
            after = stop
            slack = b""
            if instructions[-1].code == 0:
                slack = data[place + len(raw) : place + len(raw) + LONGEST]
                if stop < end or index + 1 in chunk.cuts:  # a cut within an instruction
                    last = instructions[-1].ip
                    whole = Decoder(64, raw[last - at :] + slack, ip=last).decode()
                    if whole.code and whole.next_ip > stop:
                        instructions[-1], after = whole, whole.next_ip
            yield Unit(index, at, stop, raw, slack, kind == GAP, instructions)
            at = after


def scan_units(chunk: Chunk, data: Buffer, given: Given, out: Scanned, *, only: frozenset[int] | None = None) -> None:
    """Decode a chunk, and add what is found to a result.

    Args:
        chunk: the pieces.
        data: the file.
        given: what else is needed.
        out: the result.
        only: indexes of the pieces that are decoded; None: all.
    """
    known = tables(given.allowed)
    bad, detecting = known.bad, known.detecting
    opcode, branch = attrgetter("code"), attrgetter("near_branch_target")
    every = out.codes
    outward = set(out.outward)
    clean_gaps: set[bytes] = set()
    tables_at = tables_in(chunk, data, given.allowed, out.tables)
    for unit in units(chunk, data, wanted=None if only is None else chunk.with_gaps(only)):
        index, start, end, raw, slack, gap, instructions = unit
        if only is not None and index not in only:
            continue
        if end in tables_at and runs_on(unit):
            out.tables.append(index + 1)
            outward.add(end)
        if gap and raw in clean_gaps:
            continue
        codes = set(map(opcode, instructions))
        if gap and (0 in codes or b"\0\0" in raw) and is_mixed(unit, known):
            out.mixed.append((index, start))
            continue
        if not codes.isdisjoint(detecting):
            out.detecting.append(index)
        targets = set(map(branch, instructions))
        targets.discard(0)  # what iced gives for instructions that are no branches
        outward |= _behind_cut(unit)
        if targets:
            inner = {target for target in targets if start <= target < end}
            outward |= targets - inner
            odd = _within(unit, inner)
            if hits := odd and follow(_with_slack(unit, data, chunk), odd, known, outward=outward):
                out.found.append((index, hits))
        if given.amd and BRANCH_66.search(raw) and (hits := _short_operands(unit)):
            out.found.append((index, hits))
        if codes.isdisjoint(bad):
            every |= codes
            if gap and not targets and len(raw) <= SHORT_GAP:
                clean_gaps.add(raw)
            continue
        found, good = inspect(raw, slack or data_after(data, chunk, unit), start, known)
        every |= good
        if found:
            out.found.append((index, found))
    out.outward = array("Q", sorted(outward))


def _within(unit: Unit, targets: Set[int]) -> set[int]:
    """Return the targets in a unit at which no instruction of it begins."""
    if not targets:
        return set()
    # The calls of C functions here take less time than to add up the lengths.
    begun = b"".join(map(BEGUN.__getitem__, map(len, unit.instructions)))
    return {target for target in targets if begun[target - unit.start : target - unit.start + 1] != b"\1"}


def _behind_cut(unit: Unit) -> set[int]:
    """Return the address behind the last instruction of a unit if the unit's end cuts it, and code runs on into it.

    A wrong end of a function may hide so what a CPU runs behind the cut.
    """
    last = unit.instructions[-1]
    if last.code or not unit.slack:
        return set()
    at = last.ip - unit.start
    before = unit.instructions[-2] if len(unit.instructions) > 1 else None
    ended = before is not None and (before.code == 0 or before.flow_control in flows())
    if ended or (unit.gap and unit.raw[at] == 0):
        return set()
    from iced_x86 import Decoder  # noqa: PLC0415

    whole = Decoder(64, unit.raw[at:] + unit.slack, ip=last.ip).decode()
    return {whole.next_ip} if whole.code and whole.next_ip > unit.end else set()


def _with_slack(unit: Unit, data: Buffer, chunk: Chunk) -> Unit:
    """Return a unit with the bytes that follow it."""
    return unit if unit.slack else unit._replace(slack=data_after(data, chunk, unit))


def data_after(data: Buffer, chunk: Chunk, unit: Unit) -> bytes:
    """Return the bytes that follow a unit."""
    place = unit.piece - chunk.first
    at = chunk.offsets[place] + unit.end - chunk.starts[place]
    return data[at : at + LONGEST]


def is_mixed(unit: Unit, known: Tables) -> bool:
    """Return whether a gap is not code from its start to its end: bytes are no instruction, or zeros hide one.

    A zero is the first byte of an instruction of two bytes, so that it can take the first byte of a function.
    """
    from iced_x86 import Decoder  # noqa: PLC0415

    invalid = [i for i in unit.instructions if i.code == 0]
    if invalid and (len(invalid) > 1 or invalid[0].ip + invalid[0].len < unit.end):
        return True
    if invalid and not Decoder(64, unit.raw[invalid[0].ip - unit.start :] + unit.slack).decode().code:
        return True
    begun = set(accumulate(map(len, unit.instructions), initial=unit.start))
    at = -(-unit.start // ALIGNED) * ALIGNED
    places = [
        place
        for place in range(at + ALIGNED, unit.end, ALIGNED)
        if place not in begun
        and unit.raw[place - unit.start]
        and unit.raw[place - unit.start - 2 : place - unit.start] == b"\0\0"
    ]
    return bool(places and follow(unit, places, known))


def look_inside(
    part: tuple[Chunk, array[int]], allowed: frozenset[str]
) -> tuple[list[tuple[int, tuple[FeatureHit, ...]]], set[int]]:
    """Return the findings behind jumps from elsewhere that lead into an instruction, and where these lead elsewhere.

    Args:
        part: a chunk, and the targets of jumps in it, ascending.
        allowed: ids of the features that are no finding.
    """
    chunk, targets = part
    known = tables(allowed)
    wanted = chunk.with_gaps(
        index
        for index, (start, end) in enumerate(zip(chunk.starts, chunk.ends, strict=True), chunk.first)
        if bisect_left(targets, start) < bisect_left(targets, end)
    )
    out = []
    outward: set[int] = set()
    with mapped(Path(chunk.path)) as data:
        for unit in units(chunk, data, wanted=wanted):
            inner = set(targets[bisect_left(targets, unit.start) : bisect_left(targets, unit.end)])
            inner.difference_update(accumulate(map(len, unit.instructions), initial=unit.start))
            if hits := inner and follow(_with_slack(unit, data, chunk), inner, known, outward=outward):
                out.append((unit.piece, hits))
    return out, outward


def follow(
    unit: Unit,
    targets: Iterable[int],
    known: Tables,
    *,
    begun: Addresses | None = None,
    outward: set[int] | None = None,
) -> tuple[FeatureHit, ...]:
    """Return the findings in the instructions that begin at some addresses within other ones of a unit.

    Bytes that are no instruction there are no finding: a CPU stops at them.

    Args:
        unit: the unit.
        targets: the addresses.
        known: tables for the allowed features.
        begun: where its instructions begin and the last one ends, if the unit has no list of them; more are added.
        outward: gets the addresses elsewhere to which the instructions lead.
    """
    from iced_x86 import Decoder  # noqa: PLC0415

    if begun is None:
        begun = set(accumulate(map(len, unit.instructions), initial=unit.start))
    ending = flows()
    raw = unit.raw + unit.slack
    waiting = list(targets)
    elsewhere = set() if outward is None else outward
    found: dict[int, tuple[int, Instruction]] = {}
    while waiting:
        at = waiting.pop()
        decoder = Decoder(64, raw, ip=unit.start)
        decoder.position, decoder.ip = at - unit.start, at
        for instruction in decoder:
            if instruction.ip >= unit.end:
                elsewhere.add(instruction.ip)
                break
            if instruction.ip in begun or instruction.code == 0:
                break
            begun.add(instruction.ip)
            if instruction.code in known.bad:
                found[instruction.ip] = (instruction.code, instruction)
            target = instruction.near_branch_target
            if target and not unit.start <= target < unit.end:
                elsewhere.add(target)
            elif target and target not in begun:
                waiting.append(target)
            if instruction.flow_control in ending:
                break
    return hits_of([i for _, i in found.values()], raw, unit.start, known.allowed)


def hits_of(
    instructions: Sequence[Instruction], raw: bytes, start: int, allowed: frozenset[str], *, suspect: bool = False
) -> tuple[FeatureHit, ...]:
    """Return a hit for each feature of some instructions that is not allowed."""
    from iced_x86 import Formatter, FormatterSyntax  # noqa: PLC0415

    by_code = features_by_code()
    formatter = Formatter(FormatterSyntax.GAS)
    counts: Counter[str] = Counter()
    found: dict[str, FeatureHit] = {}
    for instruction in instructions:
        for feature in by_code[instruction.code]:
            if feature in allowed:
                continue
            counts[feature] += 1
            if feature not in found or instruction.ip < found[feature].address:
                at = instruction.ip - start
                found[feature] = FeatureHit(
                    feature=feature,
                    count=1,
                    address=instruction.ip,
                    code=raw[at : at + instruction.len],
                    text=formatter.format(instruction),
                    suspect=suspect,
                )
    return tuple(replace(hit, count=counts[name]) for name, hit in found.items())


def _short_operands(unit: Unit) -> tuple[FeatureHit, ...]:
    """Return the branches of a unit that CPUs of AMD take in another way than those of Intel."""
    from iced_x86 import Decoder, DecoderOptions, Formatter, FormatterSyntax  # noqa: PLC0415

    formatter = Formatter(FormatterSyntax.GAS)
    found = []
    for instruction in unit.instructions:
        if is_near_branch(instruction):
            at = instruction.ip - unit.start
            raw = (unit.raw + unit.slack)[at : at + instruction.len]
            other = Decoder(64, raw, DecoderOptions.AMD, ip=instruction.ip).decode()
            if (other.len, other.near_branch_target) != (instruction.len, instruction.near_branch_target):
                found.append((instruction, raw))
    if not found:
        return ()
    first, code = found[0]
    text = f"{formatter.format(first)}, which CPUs of AMD take for a branch within 16 bits"
    return (FeatureHit(feature=SHORT_OPERAND, count=len(found), address=first.ip, code=code, text=text, suspect=False),)


def inspect(raw: bytes, slack: bytes, start: int, known: Tables) -> tuple[tuple[FeatureHit, ...], set[int]]:
    """Return the findings of a piece that is code, and its opcodes that are allowed.

    Args:
        raw: the bytes of the piece.
        slack: the bytes that follow it: a wrong end of the piece may cut an instruction.
        start: its virtual address.
        known: tables for the allowed features.
    """
    from iced_x86 import Decoder, DecoderError, Formatter, FormatterSyntax, Instruction  # noqa: PLC0415

    by_code, bad, allowed = features_by_code(), known.bad, known.allowed
    formatter = Formatter(FormatterSyntax.GAS)
    decoder = Decoder(64, raw, ip=start)
    instruction = Instruction()
    found: dict[str, FeatureHit] = {}
    counts: Counter[str] = Counter()
    good: set[int] = set()
    while decoder.can_decode:
        decoder.decode_out(instruction)
        code = instruction.code
        if code not in bad:
            good.add(code)
            continue
        at = instruction.ip - start
        size = instruction.len
        if code == 0:
            if decoder.last_error == DecoderError.NO_MORE_BYTES:
                again = Decoder(64, raw[at:] + slack, ip=start + at).decode()
                if again.code not in bad:
                    good.add(again.code)
                    continue
                instruction, code, size = again, again.code, again.len
            if code == 0:
                # iced may have read several bytes. The next instruction may begin at the next one.
                decoder.position, decoder.ip, size = at + 1, start + at + 1, 1
        for feature in by_code[code]:
            if feature in allowed:
                continue
            counts[feature] += 1
            if feature not in found:
                found[feature] = FeatureHit(
                    feature=feature,
                    count=1,
                    address=instruction.ip,
                    code=(raw + slack)[at : at + size],
                    text="(bad)" if code == 0 else formatter.format(instruction),
                    suspect=False,
                )
    return tuple(replace(hit, count=counts[name]) for name, hit in found.items()), good
