"""Decode the code of files: which features its instructions need, and in which functions.

`executable` says what of a file may be executed. `ranges` cuts it into pieces, which are functions and the gaps between
them, and into areas, which claim to be no code. Each piece is decoded from its start (`piece_scan`). Areas, and gaps
with bytes that are no instruction, are judged by what leads to them and by what they hold (`areas`). So each byte that
a CPU may execute is decoded, or data with evidence, or counted as unclassified.

Worker processes decode the pieces in chunks. A worker maps the file, so the size of a chunk limits its memory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from pikaforge.audit.elf.executable import Region, executable
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.isa.chunk_scan import scan_pieces, warm
from pikaforge.audit.isa.dispatch.evidence import find_evidence
from pikaforge.audit.isa.dispatch.hints import find_hints
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.dispatch.search import Evidence
from pikaforge.audit.isa.doubtful import Leads, judge_doubtful
from pikaforge.audit.isa.leads import given_of
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.piece_scan import look_inside
from pikaforge.audit.isa.ranges import GAP, NOWHERE, TABLE, CodeMap, read_map
from pikaforge.audit.isa.scan_facts import FeatureHit, Given
from pikaforge.audit.isa.swept import QUICK_BYTES
from pikaforge.audit.isa.worker_pool import Chunk, WorkerPool, chunks, cores
from pikaforge.cpu.features import INVALID, SHORT_OPERAND
from pikaforge.errors import AuditError

ALONE_BYTES = 4 << 20
"""Bytes of code that one process decodes while others would start (0.2 s for Python and iced)."""
UNDISPATCHED = frozenset({SHORT_OPERAND, "tzcnt"})
"""Findings for which no evidence is looked for, because no library dispatches them by CPU."""
INSIDE_ROUNDS = 64
"""Functions, one after the other, through the middle of whose instructions jumps are followed."""


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
    pieces: tuple[tuple[int, int], ...] = ()
    """The pieces of code with such instructions: addresses of their first byte and of the one behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScan:
    """The features that the code of one file needs."""

    file: str
    features: frozenset[str]
    """Ids of the features of all instructions that are not in a hit."""
    hits: tuple[Hit, ...]
    size: int
    """The number of bytes in pieces."""
    pieces: int
    """The number of pieces."""
    named: int
    """The number of pieces with a symbol's name."""
    problem: str = ""
    """Why its unwind table or Go's table of functions could not be read to its end; empty if they were."""
    decoded: int = 0
    """Executable bytes that are decoded. These, `data` and `unclassified` are all executable bytes."""
    data: tuple[tuple[str, int], ...] = ()
    """Executable bytes that are no code, by the evidence for it."""
    unclassified: int = 0
    """Executable bytes of which nothing says what they are."""


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


# --- many files, several processes ------------------------------------------------------------------------------


def scan(
    sources: Sequence[CodeSource], allowed: frozenset[str], *, workers: int | None = None, amd: bool = False
) -> list[FileScan]:
    """Decode all code of some x86-64 files.

    Args:
        sources: the files.
        allowed: ids of the features that are no finding (`Allowed.sure`), for sources that do not name their own.
        workers: number of processes; else one for each CPU if there is much code, and only this one if there is little.
        amd: whether CPUs of AMD run the code: they read some branches in another way than those of Intel.

    Raises:
        AuditError: a file is no ELF file, truncated or corrupt, or cannot be read.
    """
    total = sum(r.size for s in sources for r in code_regions(s.path, s.file))
    if workers is None:
        workers = 1 if total < ALONE_BYTES else max(1, min(cores(), total // (ALONE_BYTES // 2)))
    with WorkerPool(workers) as pool:
        given = Given(allowed, amd, total >= QUICK_BYTES)
        pool.warm(warm, given)
        maps = pool.ahead(_code_map, sources)
        return [
            _scan_file(source, code, given if source.allowed is None else given._replace(allowed=source.allowed), pool)
            for source, code in zip(sources, maps, strict=True)
        ]


def code_regions(path: Path, name: str) -> tuple[Region, ...]:
    """Return what of a file may be executed."""
    with mapped(path) as data:
        return executable(data, read_layout(data, name), name)


def _code_map(source: CodeSource) -> CodeMap:
    with mapped(source.path) as data:
        layout = read_layout(data, source.file)
        code = executable(data, layout, source.file)
        if source.debug is None:
            return read_map(data, layout, code, source.file)
        with mapped(source.debug) as apart:
            held = (apart, read_layout(apart, f"{source.file} ({source.debug.name})", detached=True))
            return read_map(data, layout, code, source.file, debug=held)


def _scan_file(source: CodeSource, code: CodeMap, given: Given, pool: WorkerPool) -> FileScan:
    codes: set[int] = set()
    found: list[tuple[int, tuple[FeatureHit, ...]]] = []
    detecting: set[int] = set()
    mixed: list[tuple[int, int]] = []
    outward: set[int] = set()
    tables: list[int] = []
    for part in pool.each(scan_pieces, chunks(source.path, code), given):
        codes |= part.codes
        found += part.found
        detecting.update(part.detecting)
        mixed += part.mixed
        outward.update(part.outward)
        tables += part.tables
    doubtful = judge_doubtful(source.path, code, Leads(mixed, outward, tables), given.allowed, pool)
    outward |= doubtful.outward
    if len(code):
        outward |= given_of(source.path, source.file, ((code.starts[0], code.ends[-1]),))
    elsewhere = {index for index, _ in mixed}
    found += _inside((source, code, elsewhere), outward, given.allowed, pool)
    doubtful.outward.clear()
    found += [(index, (hit,)) for index, _, hit in doubtful.hits if index != NOWHERE]
    hits = [
        Hit(
            **asdict(entry),
            file=source.file,
            function=code.name(index),
            kind=code.kinds[index],
            pieces=((code.starts[code.begin(index)], code.ends[index]),),
        )
        for index, entries in found
        for entry in entries
    ]
    wanted: dict[int, frozenset[str]] = {}
    for index, entries in found:
        names = {e.feature for e in entries if e.feature not in UNDISPATCHED and not e.suspect}
        if names:
            wanted[index] = wanted.get(index, frozenset()) | names
    proofs = find_evidence(source.path, code, wanted, detecting, pool, known=source.known)
    hits = [_with(hit, code, detecting, proofs) for hit in hits]
    hits += [Hit(**asdict(h), file=source.file, function=n, kind=GAP) for i, n, h in doubtful.hits if i == NOWHERE]
    return FileScan(
        file=source.file,
        features=frozenset(chain.from_iterable(features_by_code()[c] for c in codes | doubtful.codes)),
        hits=tuple(_joined(hits)),
        size=code.size,
        pieces=len(code),
        named=len(code) - code.names.count(NOWHERE),
        problem=code.problem,
        decoded=code.size - _not_decoded(code, mixed) + doubtful.decoded,
        data=tuple(sorted(doubtful.data.items())),
        unclassified=doubtful.unclassified,
    )


def _inside(
    part: tuple[CodeSource, CodeMap, Set[int]], outward: set[int], allowed: frozenset[str], pool: WorkerPool
) -> list[tuple[int, tuple[FeatureHit, ...]]]:
    """Return the findings behind jumps into instructions of other pieces, and behind those that are found there.

    Args:
        part: a file, its pieces, and the indexes of those that are judged elsewhere.
        outward: targets of jumps in other pieces; it is changed.
        allowed: ids of the features that are no finding.
        pool: the worker processes.

    Raises:
        AuditError: there is a chain of more than `INSIDE_ROUNDS` functions.
    """
    source, code, mixed = part
    found: list[tuple[int, tuple[FeatureHit, ...]]] = []
    seen: set[int] = set()
    for _ in range(INSIDE_ROUNDS):
        further: set[int] = set()
        for hits, targets in pool.each(look_inside, _entered(source.path, code, outward, mixed), allowed):
            found += hits
            further |= targets
        outward.clear()  # there may be a million
        outward |= further - seen
        if not outward:
            return found
        seen |= outward
    raise AuditError(
        f"jumps lead through the middle of instructions in {INSIDE_ROUNDS} functions, one after the other",
        where=source.file,
    )


def _not_decoded(code: CodeMap, mixed: Iterable[tuple[int, int]]) -> int:
    """Return the bytes of the pieces that are judged by `judge_doubtful`."""
    numbers = (n for n, kind in enumerate(code.kinds) if kind == TABLE) if TABLE in code.kinds else ()
    tables = sum(code.ends[n] - code.starts[n] for n in numbers)
    return tables + sum(code.ends[index] - start for index, start in mixed)


def _entered(path: Path, code: CodeMap, outward: set[int], mixed: Set[int]) -> Iterator[tuple[Chunk, array[int]]]:
    """Yield the chunks into which other code or the loader leads elsewhere than to a start, each with those targets."""
    targets = array("Q", sorted(outward.difference(code.starts)))
    held = {code.at(target) for target in targets} - {NOWHERE} - mixed
    for chunk in chunks(path, code) if held else ():
        if not held.isdisjoint(range(chunk.first, chunk.first + len(chunk.starts))):
            yield chunk, targets[bisect_left(targets, chunk.starts[0]) : bisect_left(targets, chunk.ends[-1])]


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
            pieces=(*old.pieces, *hit.pieces),
        )  # fmt: skip
    return list(found.values())
