"""Decode the code of files: which features its instructions need, and in which functions.

`ranges` cuts a file's code into pieces: functions, and the gaps between them. Each piece is decoded from its start. In
iced, the features of an instruction depend on its opcode only, so one table gives them by opcode (`opcodes`). First the
set of a piece's opcodes is made, in C (`set(map(attrgetter("code"), decoder))`, which takes 6 M instructions/s; a
Python loop takes 3 M/s). Only if one of them is not allowed, the piece is decoded again, instruction by instruction.

Worker processes decode the pieces in chunks. A worker maps the file, so the size of a chunk limits its memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

from pikaforge.audit.elf.facts import Region, regions
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.isa.dispatch.evidence import Evidence, find_evidence
from pikaforge.audit.isa.dispatch.hints import find_hints
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.opcodes import Tables, features_by_code, tables
from pikaforge.audit.isa.ranges import GAP, NOWHERE, CodeMap, read_map
from pikaforge.audit.isa.worker_pool import Chunk, WorkerPool, chunks, cores
from pikaforge.cpu.features import INVALID

ALONE_BYTES = 4 << 20
"""Bytes of code that one process decodes while others would start (0.2 s for Python and iced)."""
LONGEST = 15
"""Bytes of the longest x86 instruction (Intel SDM vol. 2A ch. 2.3.11)."""
PADDING = b"\x00\x90\xcc"
"""Bytes that fill gaps: zeros, NOP, INT3."""
SHORT_GAP = 32
"""Bytes of the longest gap whose content is remembered as clean: files have the same short gaps again and again."""
UNDISPATCHED = frozenset({"tzcnt"})
"""Findings for which no evidence is looked for, because no library dispatches them by CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureHit:
    """A feature that is not allowed, in one piece of code. Worker processes send it back."""

    feature: str
    count: int
    """The number of instructions that need it."""
    address: int
    """Virtual address of the first one."""
    code: bytes
    """Bytes of the first one."""
    text: str
    """The first one in AT&T syntax, as objdump shows it."""
    suspect: bool
    """Whether it follows a byte in a gap that cannot be decoded: then it is most likely data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit(FeatureHit):
    """A feature that is not allowed, in one function of a file."""

    file: str
    function: str
    kind: int
    """FUNCTION, FRAME or GAP (`isa.ranges`)."""
    hints: tuple[str, ...] = ()
    """Signs that it runs only on CPUs that have the feature; never a proof."""
    evidence: str = ""
    """The proof that it does (`isa.dispatch.evidence`), for people; empty without one."""
    doubt: str = ""
    """Why no proof was found, if one was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScan:
    """The features that the code of one file needs."""

    file: str
    features: frozenset[str]
    """Ids of the features of all instructions that are not in a hit."""
    hits: tuple[Hit, ...]
    size: int
    """The number of decoded bytes."""
    pieces: int
    """The number of pieces."""
    named: int
    """The number of pieces with a symbol's name."""
    problem: str = ""
    """Why its unwind table could not be read to its end; empty if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSource:
    """A file to decode."""

    file: str
    """Its name in findings."""
    path: Path
    debug: Path | None = None
    """Its separate debug information, for the names of functions."""
    allowed: frozenset[str] | None = None
    """Features that are no finding in this file; None: those of the scan."""
    known: Dispatcher | None = None
    """The entry for it in the table of known dispatchers, if it is a distribution's library with an entry."""


# --- the work on one chunk --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Yield:
    """The result for one chunk."""

    codes: set[int] = field(default_factory=set)
    """Opcodes that are allowed."""
    found: list[tuple[int, tuple[FeatureHit, ...]]] = field(default_factory=list)
    """The findings in a piece, with the piece's index."""
    detecting: list[int] = field(default_factory=list)
    """Indexes of the pieces that run cpuid or xgetbv."""


def _scan(chunk: Chunk, allowed: frozenset[str]) -> _Yield:
    """Decode a chunk; worker processes run this."""
    from iced_x86 import Decoder  # noqa: PLC0415

    known = tables(allowed)
    bad, detecting = known.bad, known.detecting
    opcode = attrgetter("code")
    out = _Yield()
    every = out.codes
    clean_gaps: set[bytes] = set()
    with mapped(Path(chunk.path)) as data:
        for index, (start, end, offset, kind) in enumerate(
            zip(chunk.starts, chunk.ends, chunk.offsets, chunk.kinds, strict=True), chunk.first
        ):
            raw = data[offset : offset + end - start]
            if kind == GAP and (raw in clean_gaps or not raw.strip(PADDING)):
                continue
            codes = set(map(opcode, Decoder(64, raw, ip=start)))
            if not codes.isdisjoint(detecting):
                out.detecting.append(index)
            if codes.isdisjoint(bad):
                every |= codes
                if kind == GAP and len(raw) <= SHORT_GAP:
                    clean_gaps.add(raw)
                continue
            slack = data[offset + len(raw) : offset + len(raw) + LONGEST]
            found, good = _inspect(raw, slack, start, kind == GAP, known)
            every |= good
            if found:
                out.found.append((index, found))
    return out


def _inspect(raw: bytes, slack: bytes, start: int, gap: bool, known: Tables) -> tuple[tuple[FeatureHit, ...], set[int]]:
    """Return the findings of one piece, and its opcodes that are allowed.

    Args:
        raw: the bytes of the piece.
        slack: the bytes that follow it: a wrong end of the piece may cut an instruction.
        start: its virtual address.
        gap: whether the piece has no known start; then bytes that cannot be decoded are no finding.
        known: tables for the allowed features.
    """
    from iced_x86 import Decoder, DecoderError, Formatter, FormatterSyntax, Instruction  # noqa: PLC0415

    by_code, bad, allowed = features_by_code(), known.bad, known.allowed
    formatter = Formatter(FormatterSyntax.GAS)
    decoder = Decoder(64, raw, ip=start)
    instruction = Instruction()
    found: dict[tuple[str, bool], FeatureHit] = {}
    counts: Counter[tuple[str, bool]] = Counter()
    good: set[int] = set()
    suspect = False
    while decoder.can_decode:
        decoder.decode_out(instruction)
        code = instruction.code
        if code not in bad:
            if not suspect:
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
            if code == 0 and gap:
                suspect = True
                continue
        for feature in by_code[code]:
            if feature in allowed:
                continue
            counts[feature, suspect] += 1
            if (feature, suspect) not in found:
                found[feature, suspect] = FeatureHit(
                    feature=feature,
                    count=1,
                    address=instruction.ip,
                    code=(raw + slack)[at : at + size],
                    text="(bad)" if code == 0 else formatter.format(instruction),
                    suspect=suspect,
                )
    return tuple(replace(hit, count=counts[key]) for key, hit in found.items()), good


# --- many files, several processes ------------------------------------------------------------------------------


def scan(sources: Sequence[CodeSource], allowed: frozenset[str], *, workers: int | None = None) -> list[FileScan]:
    """Decode all code of some x86-64 files.

    Args:
        sources: the files.
        allowed: ids of the features that are no finding (`Allowed.sure`), for sources that do not name their own.
        workers: number of processes; else one for each CPU if there is much code, and only this one if there is little.

    Raises:
        AuditError: a file is no ELF file, truncated or corrupt, or cannot be read.
    """
    total = sum(r.size for s in sources for r in code_regions(s.path, s.file))
    if workers is None:
        workers = 1 if total < ALONE_BYTES else max(1, min(cores(), total // (ALONE_BYTES // 2)))
    with WorkerPool(workers) as pool:
        return [_scan_file(s, allowed if s.allowed is None else s.allowed, pool) for s in sources]


def code_regions(path: Path, name: str) -> tuple[Region, ...]:
    """Return the executable regions of a file."""
    with mapped(path) as data:
        return regions(data, read_layout(data, name), name)


def _code_map(source: CodeSource) -> CodeMap:
    with mapped(source.path) as data:
        layout = read_layout(data, source.file)
        code = regions(data, layout, source.file)
        if source.debug is None:
            return read_map(data, layout, code, source.file)
        with mapped(source.debug) as apart:
            held = (apart, read_layout(apart, f"{source.file} ({source.debug.name})", detached=True))
            return read_map(data, layout, code, source.file, debug=held)


def _scan_file(source: CodeSource, allowed: frozenset[str], pool: WorkerPool) -> FileScan:
    code = _code_map(source)
    codes: set[int] = set()
    found: list[tuple[int, tuple[FeatureHit, ...]]] = []
    detecting: set[int] = set()
    for part in pool.each(_scan, chunks(source.path, code), allowed):
        codes |= part.codes
        found += part.found
        detecting.update(part.detecting)
    by_code = features_by_code()
    hits = [
        Hit(**asdict(entry), file=source.file, function=code.name(index), kind=code.kinds[index])
        for index, entries in found
        for entry in entries
    ]
    wanted = {
        index: names
        for index, entries in found
        if (names := frozenset(e.feature for e in entries if e.feature not in UNDISPATCHED and not e.suspect))
    }
    proofs = find_evidence(source.path, code, wanted, detecting, pool, known=source.known)
    hits = [_with(hit, code, detecting, proofs) for hit in hits]
    return FileScan(
        file=source.file,
        features=frozenset(chain.from_iterable(by_code[c] for c in codes)),
        hits=tuple(_joined(hits)),
        size=code.size,
        pieces=len(code),
        named=sum(1 for n in code.names if n != NOWHERE),
        problem=code.problem,
    )


def _with(hit: Hit, code: CodeMap, asking: Set[int], proofs: Mapping[tuple[int, str], Evidence]) -> Hit:
    """Return a hit with its hints, and with its evidence or the doubt."""
    piece = code.at(hit.address)
    if hit.feature in UNDISPATCHED or hit.suspect:
        return hit
    found = proofs.get((piece, hit.feature))
    return replace(
        hit,
        hints=() if hit.feature == INVALID else find_hints(code, piece, asking),
        evidence=found.text if found is not None and found.proven else "",
        doubt=found.text if found is not None and not found.proven else "",
    )


def _joined(hits: Iterable[Hit]) -> list[Hit]:
    """Return one hit for each function and feature: a function may have several pieces. Suspect hits stay apart."""
    found: dict[tuple[str, str, bool], Hit] = {}
    for hit in hits:
        key = (hit.function, hit.feature, hit.suspect)
        old = found.get(key)
        found[key] = hit if old is None else replace(
            old,
            count=old.count + hit.count,
            hints=tuple(dict.fromkeys((*old.hints, *hit.hints))),
            # Without a proof for one of its pieces the function has none.
            evidence=old.evidence and hit.evidence and "; ".join(dict.fromkeys((old.evidence, hit.evidence))),
            doubt=old.doubt or hit.doubt,
        )  # fmt: skip
    return list(found.values())
