"""Look for evidence that code which needs a feature runs only on CPUs that have it.

For each feature, `LibraryRun` finds what the functions that ask the CPU do on a CPU without the feature, and `Graph`
computes what is then reached from outside of the library. Code that is not reached is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pikaforge.audit.elf.dynamic import DT_NEEDED, DynamicSection
from pikaforge.audit.elf.layout import ET_DYN, ET_EXEC, PT_INTERP, Buffer, mapped, read_layout
from pikaforge.audit.elf.pointers import import_places, read_pointers
from pikaforge.audit.isa.dispatch import known as known_table
from pikaforge.audit.isa.dispatch.fixed import with_fixed
from pikaforge.audit.isa.dispatch.flags import Answers
from pikaforge.audit.isa.dispatch.go import go_evidence, is_go
from pikaforge.audit.isa.dispatch.graph import Reach, read_graph
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.dispatch.library import BODIES, BODY, Library
from pikaforge.audit.isa.dispatch.library_run import WORK, LibraryRun
from pikaforge.audit.isa.dispatch.local import local_evidence, skipped
from pikaforge.audit.isa.dispatch.static_glibc import asking_of_others, kept_by_glibc
from pikaforge.audit.isa.dispatch.steps import body, touches
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.ranges import GAP, NOWHERE, CodeMap
from pikaforge.audit.isa.worker_pool import WorkerPool
from pikaforge.cpu.features import INVALID
from pikaforge.errors import AuditError

LIMIT = 64 << 20
"""Bytes of code above which no evidence is looked for, because it takes one or two more passes over the code."""
KEPT_BY_LOADER = frozenset(
    {"_rtld_global_ro", "_dl_x86_get_cpu_features", "__x86_get_cpu_features", "__get_cpu_features"}
)
"""What glibc's loader keeps of the CPU's answers, and functions that return it (glibc sysdeps/x86/cpu-features.c)."""
KNOWN_WORK = WORK // 4
"""Instructions that are run for a library with an entry in the table: most of those that can be shown take less."""
DEPTH = 5
"""Calls that may be between the test of a flag and the code."""
SHOWN = 3
"""The most functions that a text names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The result for one piece of code and one feature."""

    proven: bool
    text: str
    """For people: how the dispatch works; if it is not proven, the reason, or the way by which the code is reached."""


def find_evidence(
    path: Path,
    code: CodeMap,
    wanted: Mapping[int, frozenset[str]],
    asking: Iterable[int],
    pool: WorkerPool,
    *,
    known: Dispatcher | None = None,
) -> dict[tuple[int, str], Evidence]:
    """Look for evidence in one library.

    Args:
        path: the file.
        code: its pieces.
        wanted: features by the index of the piece with code that needs them.
        asking: indexes of the pieces that run cpuid or xgetbv.
        pool: the worker processes.
        known: the entry for the library in the table of known dispatchers, if there is one.

    Returns:
        The evidence by piece and feature; of a file that is no library, or is too large, only what functions themselves
        give.
    """
    if not wanted:
        return {}
    try:
        with mapped(path) as data:
            layout = read_layout(data, str(path))
            found = _locally(data, code, wanted)
            if is_go(code):
                texts = go_evidence(path, data, layout, code, wanted, pool=pool)
                return {**found, **{key: Evidence(proven=True, text=text) for key, text in texts.items()}}
            open_ = any((piece, name) not in found for piece, names in wanted.items() for name in names - {INVALID})
            if layout.type not in (ET_DYN, ET_EXEC) or code.size > LIMIT or not open_:
                return {**_trusted(wanted, known), **found}
            needs = DynamicSection(data, layout, str(path)).strings(DT_NEEDED)
            linked = layout.segment(PT_INTERP) is not None or bool(needs)
            known = known or known_table.static_glibc(data, linked=linked, resolvers=bool(code.resolvers))
            pointers = read_pointers(data, layout, str(path))
            if layout.type == ET_EXEC:
                pointers = with_fixed(pointers, data, layout, code.resolvers)
            graph = read_graph(path, data, layout, code, pointers, pool=pool)
            found = {key: evidence for key, evidence in found.items() if key[1] == INVALID}
            pieces, glibc = frozenset(asking), None
            if known is not None and known.soname == known_table.STATIC:
                glibc = kept_by_glibc(graph, pieces)
                pieces = asking_of_others(graph, pieces, glibc)
            return {**found, **_Search(Library(data, layout, graph, pieces), glibc).look(wanted, known)}
    except AuditError as error:
        return {
            (piece, feature): Evidence(proven=False, text=f"its references cannot be read: {error.message}")
            for piece, names in wanted.items()
            for feature in names
        }


def _trusted(wanted: Mapping[int, frozenset[str]], known: Dispatcher | None) -> dict[tuple[int, str], Evidence]:
    """Return the evidence for features of which people have read how code for them is taken."""
    if known is None:
        return {}
    said = Evidence(proven=True, text=known.because(known.why))
    return {(piece, name): said for piece, names in wanted.items() for name in names - {INVALID} if known.trusts(name)}


def _locally(data: Buffer, code: CodeMap, wanted: Mapping[int, frozenset[str]]) -> dict[tuple[int, str], Evidence]:
    """Return the evidence that the functions themselves give, without the references of the whole file."""
    found = {}
    spent = 0
    for piece, names in wanted.items():
        start, end, offset = code.starts[piece], code.ends[piece], code.offsets[piece]
        spent += end - start
        if code.kinds[piece] == GAP or end - start > BODY or spent > BODIES:
            continue
        raw = bytes(data[offset : offset + end - start])
        for feature in names:
            text = skipped(raw, start, INVALID, set()) if feature == INVALID else ""
            text = text or local_evidence(body(raw, start), feature, set(), loose=start not in code.plain)
            if text:
                found[piece, feature] = Evidence(proven=True, text=text)
    return found


def _open(wanted: Mapping[int, frozenset[str]], found: Mapping[tuple[int, str], Evidence]) -> dict[int, frozenset[str]]:
    """Return the features, by piece, without a proof so far."""
    left = {p: frozenset(n for n in names if (p, n) in found and not found[p, n].proven) for p, names in wanted.items()}
    return {piece: names for piece, names in left.items() if names}


class _Search:
    """The search for evidence in one library."""

    def __init__(self, library: Library, glibc: Answers | None) -> None:
        """Look for nothing yet; `glibc` is the place of the structure of a glibc that is built in (`static_glibc`)."""
        self._library = library
        self._glibc = glibc
        self._answers: Answers | None = None
        self._work = 0
        """Instructions that may still be run."""

    def look(self, wanted: Mapping[int, frozenset[str]], known: Dispatcher | None) -> dict[tuple[int, str], Evidence]:
        """Return the evidence by piece and feature.

        What the file itself shows is looked for first. The table of known dispatchers is asked for what stays open.
        """
        self._work = WORK if known is None else KNOWN_WORK
        if known is not None and self._glibc is not None:  # most of it is in glibc, and would take all the time
            self._answers = self._glibc
            of_glibc = self._by_known(wanted, known)
            rest = {piece: names - {n for p, n in of_glibc if p == piece} for piece, names in wanted.items()}
            return {**self._shown(rest), **of_glibc}
        found = self._shown(wanted)
        open_ = _open(wanted, found)
        if known is not None and open_:
            self._answers = None if known.vouched else self._library.answers
            found |= self._by_known(open_, known)
        return found

    def _shown(self, wanted: Mapping[int, frozenset[str]]) -> dict[tuple[int, str], Evidence]:
        """Return what following the library shows, by piece and feature."""
        found: dict[tuple[int, str], Evidence] = {}
        for feature in sorted({name for names in wanted.values() for name in names} - {INVALID}):
            pieces = {piece for piece, names in wanted.items() if feature in names}
            run = LibraryRun(self._library, feature, pieces, work=self._work)
            run.settle()
            self._work = max(run.work, 0)
            reach = Reach() if run.problem else self._library.graph.reach(run.open)
            for piece in pieces:
                found[piece, feature] = self._judged(piece, feature, run, reach)
        for (piece, feature), old in found.items():
            if not old.proven and (text := self._only_loaded(piece) or self._by_itself(piece, feature)):
                found[piece, feature] = Evidence(proven=True, text=text)
        return found

    def _by_itself(self, piece: int, feature: str) -> str:
        """Return the evidence that is within a piece; empty without any."""
        loose = self._library.code.starts[piece] not in self._library.code.plain
        entries = set(self._library.entries(piece))
        return local_evidence(self._library.body(piece), feature, entries, loose=loose)

    def _only_loaded(self, piece: int) -> str:
        """Return the evidence that a gap is data: code only loads what is there; empty without any."""
        callers = self._library.graph.callers.get(piece, frozenset())
        if self._library.code.kinds[piece] != GAP or piece in self._library.pointed or not callers:
            return ""
        for source, address in callers:
            held = self._library.body(source)
            loads = [step for step in held.steps if any(touches(o, address) for o in step.operands)]
            led = any(step.target == address for step in held.steps)
            if led or not loads or any(step.name == "LEA" or step.flow != "next" for step in loads):
                return ""
        names = list(dict.fromkeys(self._library.code.name(source) for source, _ in sorted(callers)))
        return f"data, which {', '.join(names[:SHOWN])} only {'load' if len(names) > 1 else 'loads'}"

    def _named(self, known: Dispatcher) -> frozenset[int]:
        """Return the addresses of exported functions whose names say for which CPUs they are."""
        code = self._library.code
        return frozenset(
            address
            for address in self._library.graph.given
            if (piece := code.at(address)) != NOWHERE and known.names(code.name(piece))
        )

    def _by_known(self, wanted: Mapping[int, frozenset[str]], known: Dispatcher) -> dict[tuple[int, str], Evidence]:
        """Return the evidence for what the table of known dispatchers vouches for."""
        if known.by == "flag":
            return self._by_flag(wanted, known, known.text) if self._library.asking or known.trusted else {}
        found = self._by_loader(wanted, known)
        if self._glibc is not None:
            places = self._glibc.places
            readers = {p for p, named in self._library.graph.references.items() if not places.isdisjoint(named)}
            rest = {piece: names - {n for p, n in found if p == piece} for piece, names in wanted.items()}
            text = known.because("glibc is built in; only after a test of what init_cpu_features has kept")
            found |= self._by_flag({p: names for p, names in rest.items() if names}, known, text, readers=readers)
        return found

    def _by_loader(self, wanted: Mapping[int, frozenset[str]], known: Dispatcher) -> dict[tuple[int, str], Evidence]:
        """Return the evidence for code that ifunc resolvers choose which read what the loader keeps of the CPU."""
        library, graph = self._library, self._library.graph
        if self._glibc is not None:
            places = self._glibc.places
        else:
            places = import_places(library.data, library.layout, known.soname, KEPT_BY_LOADER)
        resolving = {library.code.at(address) for address in graph.resolvers}
        reading = {p for p in resolving if not places.isdisjoint(graph.references.get(p, ()))}
        lone = graph.lone_above(wanted, DEPTH)
        if self._glibc is not None:
            # In a program glibc is not alone, but linked behind the program's own code.
            chosen = [address for piece in reading for address in graph.targets(piece) if library.code.at(address) >= 0]
            lone = {address for address in lone if chosen and min(chosen) < address < max(chosen)}
        reach = graph.reach(lambda piece: set() if piece in reading else None, without=self._named(known) | lone)
        found: dict[tuple[int, str], Evidence] = {}
        for piece, names in wanted.items():
            doors = [] if piece in reach.pieces else self._doors(piece, reach)
            if piece not in reach.pieces and reading.issuperset(doors):
                text = f"{known.text}; {self._text(doors) or 'nothing in the file leads to it'}"
                found |= {(piece, name): Evidence(proven=True, text=text) for name in names if known.has(name)}
            found |= {
                (piece, name): Evidence(proven=True, text=known.because(known.why))
                for name in names
                if known.trusts(name) and reading
            }
        return found

    def _by_flag(
        self,
        wanted: Mapping[int, frozenset[str]],
        known: Dispatcher,
        text: str,
        *,
        readers: Set[int] | None = None,
    ) -> dict[tuple[int, str], Evidence]:
        """Return the evidence for code that is reached only by functions which test a flag first.

        Args:
            wanted: features by piece.
            known: the entry.
            text: the evidence, for people.
            readers: the functions whose tests count; None: all.
        """
        own = self._named(known)
        named = {self._library.code.at(address) for address in own}
        pieces = {piece for piece, names in wanted.items() if any(map(known.has, names))} | named
        kept = self._doors_kept(pieces)
        if readers is not None:
            kept = {door: addresses for door, addresses in kept.items() if door in readers}
        reach = self._library.graph.reach(
            lambda piece: set(self._library.graph.targets(piece)) - kept[piece] if piece in kept else None, without=own
        )
        found: dict[tuple[int, str], Evidence] = {}
        for piece, names in wanted.items():
            led = piece not in reach.pieces and (piece in named or self._doors(piece, reach))
            for feature in names - {INVALID}:
                within = readers is None and self._decided_within(piece, feature)
                if known.has(feature) and (led or within):
                    found[piece, feature] = Evidence(proven=True, text=text)
                elif known.trusts(feature):
                    found[piece, feature] = Evidence(proven=True, text=known.because(known.why))
        return found

    def _doors_kept(self, pieces: set[int]) -> dict[int, set[int]]:
        """Return the functions that lead to some pieces, each with the addresses that it uses only after a test.

        A function of the library's own that leads there without a test is one of the pieces from then on.
        """
        graph = self._library.graph
        kept: dict[int, set[int]] = {}
        for _ in range(DEPTH):
            doors = {source for piece in pieces for source in self._namers(piece)} - pieces
            kept = {door: self._kept_from(door, pieces) for door in doors}
            weak = {
                door
                for door in doors
                if self._library.code.starts[door] not in graph.given
                and self._namers(door)
                and any(self._leads_to(a) & pieces for a in set(graph.targets(door)) - kept[door])
            }
            if not weak:
                break
            pieces |= weak
        return kept

    def _decided_within(self, piece: int, feature: str) -> bool:
        """Return whether the instructions of a piece which need a feature come only after a test of a flag."""
        held = self._library.body(piece)
        by_code = features_by_code()
        needing = {
            index
            for index, block in enumerate(held.blocks)
            if any(feature in by_code[step.code] for step in held.steps[block.first : block.last])
        }
        loose = self._library.code.starts[piece] not in self._library.code.plain
        return known_table.decided_within(held, needing, set(self._library.entries(piece)), self._answers, loose=loose)

    def _kept_from(self, door: int, pieces: Set[int]) -> set[int]:
        """Return the addresses in some pieces that a function uses only after a test of a flag."""
        named = {address for address in self._library.graph.targets(door) if self._leads_to(address) & pieces}
        named = {address for address in named if self._leads_to(address) <= pieces}
        loose = self._library.code.starts[door] not in self._library.code.plain
        return known_table.decided(
            self._library.body(door), named, set(self._library.entries(door)), self._answers, loose=loose
        )

    def _namers(self, piece: int) -> set[int]:
        """Return the pieces that refer to a piece, or to an object of data that holds a pointer to it."""
        found = {source for source, _ in self._library.graph.callers.get(piece, ())}
        for start in self._library.holders.get(piece, ()):
            found |= self._library.graph.users.get(start, frozenset())
        return found

    def _leads_to(self, address: int) -> set[int]:
        """Return the pieces that an address leads to: its own, or those to which the object there holds pointers."""
        piece = self._library.code.at(address)
        if piece != NOWHERE:
            return {piece}
        return {self._library.code.at(value) for value in self._library.graph.pointers.get(address, ())}

    def _judged(self, piece: int, feature: str, run: LibraryRun, reach: Reach) -> Evidence:
        if run.problem:
            return Evidence(proven=False, text=run.problem)
        if piece not in reach.pieces:
            doors = self._doors(piece, reach)
            if not doors:
                return Evidence(proven=False, text="nothing in the file leads to it")
            return Evidence(proven=True, text=self._text(doors))
        done = run.done(piece)
        if done is not None and not self._comes_to(piece, feature, done):
            return Evidence(proven=True, text="it asks the CPU before it comes there")
        way = " -> ".join(self._library.code.name(p) for p in reach.way(piece)) or "from outside"
        return Evidence(proven=False, text=f"reached without a question to the CPU: {way}")

    def _comes_to(self, piece: int, feature: str, done: Set[int]) -> bool:
        """Return whether a piece runs an instruction that needs a feature; `done` has the instructions that it runs."""
        by_code = features_by_code()
        return any(step.address in done and feature in by_code[step.code] for step in self._library.body(piece).steps)

    def _doors(self, piece: int, reach: Reach) -> list[int]:
        """Return the functions that are reached, and from which a piece is reached only on CPUs with the feature."""
        doors: dict[int, None] = {}
        seen, waiting = {piece}, [piece]
        while waiting:
            at = waiting.pop()
            for source in sorted(self._namers(at) - seen):
                seen.add(source)
                if source in reach.pieces:
                    doors[source] = None
                else:
                    waiting.append(source)
        return list(doors)

    def _text(self, doors: Sequence[int]) -> str:
        """Return the evidence as text for people."""
        kinds: dict[str, list[str]] = {}
        for door in doors:
            if self._library.code.starts[door] in self._library.graph.resolvers:
                what = "chosen by the ifunc resolver {}"
            elif door in self._library.asking:
                what = "only by {}, which asks the CPU"
            else:
                what = "only by {}, which looks at what the CPU has said"
            kinds.setdefault(what, []).append(self._library.code.name(door))
        return "; ".join(
            what.format(", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""))
            for what, names in kinds.items()
        )
