"""Search a whole file for evidence that code which needs a feature runs only on CPUs that have it.

For each feature, `LibraryRun` finds what the functions that ask the CPU do on a CPU without the feature, and `Graph`
computes what is then reached from outside of the library. Code that is not reached is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

from pikaforge.audit.elf.pointers import import_places
from pikaforge.audit.isa.dispatch import known as known_table
from pikaforge.audit.isa.dispatch.flags import Answers
from pikaforge.audit.isa.dispatch.graph import Reach
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.dispatch.library_run import WORK, LibraryRun
from pikaforge.audit.isa.dispatch.local import TESTED, local_evidence
from pikaforge.audit.isa.dispatch.steps import touches
from pikaforge.audit.isa.dispatch.tables import DataTables
from pikaforge.audit.isa.dispatch.variables import asking_for
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.ranges import GAP, NOWHERE, CodeMap
from pikaforge.cpu.features import INVALID

KEPT_BY_LOADER = frozenset(
    {"_rtld_global_ro", "_dl_x86_get_cpu_features", "__x86_get_cpu_features", "__get_cpu_features"}
)
"""What glibc's loader keeps of the CPU's answers, and functions that return it (glibc sysdeps/x86/cpu-features.c)."""
KNOWN_WORK = WORK // 4
"""Instructions that are run for a library with an entry in the table: most of those that can be shown take less."""
DEPTH = 5
"""Calls that may be between the test of a flag and the code."""
TABLES = 3
"""Objects of data by whose pointers code comes from one to the other and then to a function: a description of a module,
its table of methods."""
SHOWN = 3
"""The most functions that a text names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The result for one piece of code and one feature."""

    proven: bool
    text: str
    """For people: how the dispatch works; if it is not proven, the reason, or the way by which the code is reached."""


def _open(wanted: Mapping[int, frozenset[str]], found: Mapping[tuple[int, str], Evidence]) -> dict[int, frozenset[str]]:
    """Return the features, by piece, without a proof so far."""
    left = {p: frozenset(n for n in names if (p, n) in found and not found[p, n].proven) for p, names in wanted.items()}
    return {piece: names for piece, names in left.items() if names}


def text_of(code: CodeMap, doors: Iterable[int], resolvers: Set[int], asking: Set[int]) -> str:
    """Return evidence as text for people: the functions by which alone some code is reached, and what they do."""
    kinds: dict[str, list[str]] = {}
    for door in doors:
        if code.starts[door] in resolvers:
            what = "chosen by the ifunc resolver {}"
        elif door in asking:
            what = "only by {}, which asks the CPU"
        else:
            what = "only by {}, which looks at what the CPU has said"
        kinds.setdefault(what, []).append(code.name(door))
    return "; ".join(
        what.format(", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""))
        for what, names in kinds.items()
    )


class WholeSearch:
    """The search for evidence in one library."""

    def __init__(self, library: Library, glibc: Answers | None) -> None:
        """Look for nothing yet; `glibc` is the place of the structure of a glibc that is built in (`static_glibc`)."""
        self._library = library
        self._glibc = glibc
        self._answers: Answers | None = None
        self._led: dict[int, set[int]] = {}
        """The pieces to which addresses of data lead, as far as it was asked for."""
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
            self._answers = None if known.vouched else self._answers_for(known)
            found |= self._by_known(open_, known)
        return found

    @cached_property
    def _tables(self) -> DataTables:
        library = self._library
        return DataTables(library.data, library.layout, library.graph, "the library")

    def _in_table(self, address: int) -> bool:
        return self._answers is not None and self._tables.lead(address)

    def _answers_for(self, known: Dispatcher) -> Answers:
        """Return where the library keeps the CPU's answers, and which calls ask for variables that an entry names."""
        unset = asking_for(self._library, known.variables, known.soname)
        return replace(self._library.answers, unset=unset)

    def _shown(self, wanted: Mapping[int, frozenset[str]]) -> dict[tuple[int, str], Evidence]:
        """Return what following the library shows, by piece and feature."""
        found: dict[tuple[int, str], Evidence] = {}
        for feature in sorted({name for names in wanted.values() for name in names} - {INVALID}):
            pieces = {piece for piece, names in wanted.items() if feature in names}
            run = LibraryRun(self._library, feature, pieces, work=self._work)
            run.settle()
            self._work = max(run.work, 0)
            reach = Reach() if run.problem else self._library.graph.reach(run.open())
            for piece in pieces:
                found[piece, feature] = self._judged(piece, feature, run, reach)
        for (piece, feature), old in found.items():
            if not old.proven and (text := self._only_loaded(piece) or self._by_itself(piece, feature)):
                found[piece, feature] = Evidence(proven=True, text=text)
        return found

    def _by_itself(self, piece: int, feature: str) -> str:
        """Return the evidence that is within a piece; empty without any."""
        if feature not in TESTED:
            return ""
        loose = self._library.code.starts[piece] not in self._library.code.plain
        entries = set(self._library.entries(piece))
        return local_evidence(self._library.body(piece), feature, entries, loose=loose)

    def _only_loaded(self, piece: int) -> str:
        """Return the evidence that a gap is data: code only loads what is there; empty without any."""
        callers = self._library.graph.callers.get(piece)
        if self._library.code.kinds[piece] != GAP or self._library.graph.is_pointed(piece) or not callers:
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
        """Return the addresses of functions whose names say for which CPUs they are, and that nobody is seen to use.

        These are those that the file exports, and those that a compiler has left in it without a use.
        """
        code, graph = self._library.code, self._library.graph
        functions = {
            address
            for address in {*graph.unused().tolist(), *graph.given}
            if (piece := code.at(address)) != NOWHERE and known.names(code.name(piece))
        }
        return frozenset(functions | {t.start for t in self._tables if known.names(t.name) and t.start in graph.given})

    def _by_known(self, wanted: Mapping[int, frozenset[str]], known: Dispatcher) -> dict[tuple[int, str], Evidence]:
        """Return the evidence for what the table of known dispatchers vouches for."""
        if known.by == "flag":
            return self._by_flag(wanted, known, known.text) if self._library.asking or known.trusted else {}
        found = self._by_loader(wanted, known)
        if self._glibc is not None:
            places = self._glibc.places
            readers = self._library.graph.references.naming(places)
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
        reading = {p for p in resolving if not places.isdisjoint(graph.references.get(p))}
        lone = graph.lone_above(wanted, DEPTH)
        if self._glibc is not None:
            # In a program glibc is not alone, but linked behind the program's own code.
            chosen = [address for piece in reading for address in graph.targets(piece) if library.code.at(address) >= 0]
            lone = {address for address in lone if chosen and min(chosen) < address < max(chosen)}
        reach = graph.reach({piece: set() for piece in reading}, without=self._named(known) | lone)
        found: dict[tuple[int, str], Evidence] = {}
        for piece, names in wanted.items():
            doors = [] if piece in reach else self._doors(piece, reach)
            if piece not in reach and reading.issuperset(doors):
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
        graph = self._library.graph
        open_ = {door: set(graph.targets(door)) - held for door, held in kept.items()}
        reach = self._tables.reach(open_, own)
        found: dict[tuple[int, str], Evidence] = {}
        for piece, names in wanted.items():
            led = piece not in reach and (piece in named or self._doors(piece, reach, named))
            for feature in names - {INVALID}:
                held = led or (readers is None and self._decided_within(piece, feature))
                if known.has(feature) and held:
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
        """Return the addresses in some pieces that a function uses only after a test of a flag.

        Where it calls by a stub, the code names the stub, and the graph the place of the function's address.
        """
        graph, held = self._library.graph, self._library.body(door)
        named = {address for address in graph.targets(door) if self._leads_to(address) & pieces}
        # A table has functions without newer code, too.
        named = {address for address in named if self._leads_to(address) <= pieces or self._in_table(address)}
        stubs = {stub: place for stub, place in graph.stubs.items() if place in named}
        loose = self._library.code.starts[door] not in self._library.code.plain
        entries = set(self._library.entries(door))
        return known_table.decided(held, named, entries, self._answers, loose=loose, stubs=stubs)

    def _namers(self, piece: int) -> set[int]:
        """Return the pieces that refer to a piece, or to data by whose pointers code comes to it."""
        found = {source for source, _ in self._library.graph.callers.get(piece)}
        objects = self._library.graph.holders_of(piece)
        seen: set[int] = set()
        for _ in range(TABLES):
            objects = {part for start in objects for part in self._tables.parts(start)}
            seen |= objects
            for start in objects:
                found |= set(self._library.graph.users.get(start))
            objects = {holder for start in objects for holder in self._library.graph.table_holders(start)} - seen
        return found

    def _leads_to(self, address: int) -> set[int]:
        """Return the pieces that an address leads to: its own, or those to which pointers in data there lead."""
        code, graph = self._library.code, self._library.graph
        if address in self._led:
            return self._led[address]
        if (piece := code.at(address)) != NOWHERE:
            return {piece}
        found: set[int] = set()
        places, seen = {address}, set[int]()
        for _ in range(TABLES):
            places = {part for place in places for part in self._tables.parts(place)}
            values = {value for place in places for value in graph.pointers.get(place)}
            seen |= places
            found |= {code.at(value) for value in values} - {NOWHERE}
            places = {o for v in values if code.at(v) == NOWHERE and (o := graph.object_at(v)) is not None} - seen
        self._led[address] = found
        return found

    def _judged(self, piece: int, feature: str, run: LibraryRun, reach: Reach) -> Evidence:
        if run.problem:
            return Evidence(proven=False, text=run.problem)
        if piece not in reach:
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

    def _doors(self, piece: int, reach: Reach, ends: Set[int] = frozenset()) -> list[int]:
        """Return the functions that are reached, and from which a piece is reached only on CPUs with the feature.

        With those that are not reached but end a way backwards, because nobody is seen to use them.
        """
        doors: dict[int, None] = {}
        seen, waiting = {piece}, [piece]
        while waiting:
            at = waiting.pop()
            for source in sorted(self._namers(at) - seen):
                seen.add(source)
                if source in reach or source in ends:
                    doors[source] = None
                else:
                    waiting.append(source)
        return list(doors)

    def _text(self, doors: Sequence[int]) -> str:
        return text_of(self._library.code, doors, self._library.graph.resolvers, self._library.asking)
