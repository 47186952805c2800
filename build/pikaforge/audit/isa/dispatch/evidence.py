"""The evidence that code which needs a feature runs only where the CPU has said that it has it.

For each feature, the library is looked at as a CPU without it runs it: what asks the CPU is run by `flow`, with an
answer in which the feature's bits are not set (nor those of features that no CPU has without it); everything else may
do all that it refers to. What is not reached from outside then is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from pikaforge.audit.elf.layout import ET_DYN, mapped, read_layout
from pikaforge.audit.elf.pointers import read_pointers
from pikaforge.audit.isa.dispatch import known as known_table
from pikaforge.audit.isa.dispatch.graph import Reach, read_graph
from pikaforge.audit.isa.dispatch.known import Dispatcher
from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.dispatch.world import WORK, World
from pikaforge.audit.isa.opcodes import features_by_code
from pikaforge.audit.isa.ranges import CodeMap
from pikaforge.audit.isa.worker_pool import WorkerPool
from pikaforge.errors import AuditError

LIMIT = 64 << 20
"""Bytes of code above which no evidence is looked for: it costs another pass or two."""
SHOWN = 3
"""Functions that are named in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found for one piece of code and one feature."""

    proven: bool
    text: str
    """How it is made sure; where it is not, by which way it is reached."""


def find_evidence(
    path: Path,
    code: CodeMap,
    wanted: Mapping[int, frozenset[str]],
    asking: Iterable[int],
    team: WorkerPool,
    *,
    known: Dispatcher | None = None,
) -> dict[tuple[int, str], Evidence]:
    """Look for evidence in one library.

    Args:
        path: the file.
        code: its pieces.
        wanted: features by the index of the piece with code that needs them.
        asking: indexes of the pieces that run cpuid or xgetbv.
        team: does the work.
        known: what is known of the library, if it is that of a package.

    Returns:
        by piece and feature; empty where the file is no library, too large, or cannot be followed.
    """
    if not wanted or code.size > LIMIT:
        return {}
    try:
        with mapped(path) as data:
            layout = read_layout(data, str(path))
            if layout.type != ET_DYN:
                return {}
            graph = read_graph(path, data, layout, code, read_pointers(data, layout, str(path)), team=team)
            return _Search(Library(data, layout, graph, frozenset(asking))).look(wanted, known)
    except AuditError as error:
        return {
            (piece, feature): Evidence(proven=False, text=f"its references cannot be read: {error.message}")
            for piece, names in wanted.items()
            for feature in names
        }


class _Search:
    """The evidence in one library."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def look(self, wanted: Mapping[int, frozenset[str]], known: Dispatcher | None) -> dict[tuple[int, str], Evidence]:
        """The evidence by piece and feature."""
        found = {}
        work = WORK
        for feature in sorted({name for names in wanted.values() for name in names}):
            pieces = {piece for piece, names in wanted.items() if feature in names}
            world = World(self._library, feature, pieces, work=work)
            world.settle()
            work = max(world.work, 0)
            reach = self._library.graph.reach(world.open)
            for piece in pieces:
                found[piece, feature] = self._judged(piece, feature, world, reach)
        if known is not None and self._library.asking:
            self._vouched(wanted, known, found)
        return found

    def _vouched(
        self, wanted: Mapping[int, frozenset[str]], known: Dispatcher, found: dict[tuple[int, str], Evidence]
    ) -> None:
        """Take the word of the table for what a flag keeps the library from."""
        pieces = {piece for piece, names in wanted.items() if names & known.features}
        doors = {source for piece in pieces for source, _ in self._library.graph.callers.get(piece, ())} - pieces
        kept = {door: self._kept_from(door, pieces) for door in doors}
        reach = self._library.graph.reach(
            lambda piece: set(self._library.graph.targets(piece)) - kept[piece] if piece in kept else None
        )
        for (piece, feature), old in found.items():
            if not old.proven and feature in known.features and piece not in reach.pieces and self._doors(piece, reach):
                found[piece, feature] = Evidence(proven=True, text=known.text)

    def _kept_from(self, door: int, pieces: Set[int]) -> set[int]:
        """The addresses in some pieces that a flag keeps a function from."""
        named = {address for address in self._library.graph.targets(door) if self._library.code.at(address) in pieces}
        loose = self._library.code.starts[door] not in self._library.code.plain
        return known_table.decided(self._library.body(door), named, set(self._library.entries(door)), loose=loose)

    def _judged(self, piece: int, feature: str, world: World, reach: Reach) -> Evidence:
        if world.problem:
            return Evidence(proven=False, text=world.problem)
        if piece not in reach.pieces:
            doors = self._doors(piece, reach)
            if not doors:
                return Evidence(proven=False, text="nothing in the file leads to it")
            return Evidence(proven=True, text=self._told(doors))
        done = world.done(piece)
        if done is not None and not self._comes_to(piece, feature, done):
            return Evidence(proven=True, text="it asks the CPU before it comes there")
        way = " -> ".join(self._library.code.name(p) for p in reach.way(piece)) or "from outside"
        return Evidence(proven=False, text=f"reached without a question to the CPU: {way}")

    def _comes_to(self, piece: int, feature: str, done: Set[int]) -> bool:
        by_code = features_by_code()
        return any(step.address in done and feature in by_code[step.code] for step in self._library.body(piece).steps)

    def _doors(self, piece: int, reach: Reach) -> list[int]:
        """The functions that are reached, and lead to a piece only with the CPU's yes."""
        doors: dict[int, None] = {}
        seen, waiting = {piece}, [piece]
        while waiting:
            at = waiting.pop()
            sources = {source for source, _ in self._library.graph.callers.get(at, ())}
            for start in self._library.holders.get(at, ()):
                sources |= self._library.graph.users.get(start, frozenset())
            for source in sorted(sources - seen):
                seen.add(source)
                if source in reach.pieces:
                    doors[source] = None
                else:
                    waiting.append(source)
        return list(doors)

    def _told(self, doors: Sequence[int]) -> str:
        """Evidence in words."""
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
