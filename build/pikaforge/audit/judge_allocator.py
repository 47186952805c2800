"""Judge which memory allocator the programs of a tree really use.

A build can compile its parts for an allocator, and then not link the program with it. So the files are the proof.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pikaforge.audit.finding import LineRecord
from pikaforge.plan import allocators
from pikaforge.plan.allocators.kind import matches

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts

FOREIGN = ("libjemalloc*.so*", "libmimalloc*.so*", "libhoard*.so*", "libsnmalloc*.so*")
"""Globs of the sonames of further libraries that replace malloc, beside those of the kinds of allocators."""
UNWIND = "libunwind.so*"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRules:
    """The allocator that the programs of a tree must use."""

    kind: str = "none"
    """One of `config.registry.ALLOCATORS`."""
    programs: tuple[str, ...] = ()
    """Paths in the tree of the programs that must use it."""
    unwinder: str = ""
    """The unwinder that the library must have, `libunwind` or `frame-pointers`; empty: any."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """If the allocator was built for the target: the build ids of its libraries, by soname."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorVerdict:
    """The allocator that the programs use, and what is wrong with that."""

    violations: tuple[LineRecord, ...] = ()
    library: str = ""
    """Path in the tree of the allocator's library; empty if there is none."""
    unwinder: str = ""
    """`libunwind` if the library needs it, else `none`: other unwinders do not show in DT_NEEDED."""


def is_allocator(name: str) -> bool:
    """Return whether a library replaces malloc, by its file name or soname."""
    return matches(name, FOREIGN) or any(
        matches(name, kind.presence.libraries) for kind in allocators.every() if kind.presence is not None
    )


def judge(facts: Sequence[ElfFacts], rules: AllocatorRules) -> AllocatorVerdict:
    """Judge a tree in which the loader finds every library (`judge_linkage` judges that).

    Args:
        facts: all its programs and libraries.
        rules: the allocator that they must use.
    """
    by_name = {fact.name.rpartition("/")[2]: fact for fact in facts}
    by_name |= {fact.soname: fact for fact in facts if fact.soname}
    programs = {fact.name: fact for fact in facts if fact.name in rules.programs}
    violations = [
        LineRecord(where=name, what="is not among the programs that were judged", do="see product.binaries")
        for name in rules.programs
        if name not in programs
    ]
    libraries: dict[str, ElfFacts] = {}
    for program in programs.values():
        wrong, library = _program(program, by_name, rules)
        violations += wrong
        if library is not None:
            libraries.setdefault(library.name, library)
    for library in libraries.values():
        violations += _library(library, rules)
    first = next(iter(libraries.values()), None)
    unwinder = "" if first is None else "libunwind" if _has_unwind(first) else "none"
    return AllocatorVerdict(
        violations=tuple(violations), library=first.name if first is not None else "", unwinder=unwinder
    )


def _program(
    program: ElfFacts, by_name: Mapping[str, ElfFacts], rules: AllocatorRules
) -> tuple[list[LineRecord], ElfFacts | None]:
    """Return what is wrong with the allocators of one program, and the allocator's library that it uses."""
    reached = _reached(program, by_name)
    used = [name for name in reached if is_allocator(name)]
    # Only an allocator's own library may have the allocator's functions; in any other file they hide an allocator.
    holders = [program, *(by_name[name] for name in reached if name in by_name and name not in used)]
    hidden = [(holder, name) for holder in holders for name in holder.allocators]
    presence = allocators.of(rules.kind).presence
    if presence is None:
        asked = f"though the allocator is {rules.kind}"
        wrong = [_line(program, f"uses {name}, {asked}", _NONE) for name in used]
        return [*wrong, *(_line(holder, f"has {name} built in, {asked}", _NONE) for holder, name in hidden)], None
    link = (
        f"link the product with {presence.link} in the recipe (PIKAFORGE_ALLOCATOR), "
        "and keep the linker from dropping it"
    )
    whole = [name for name in used if presence.is_whole(name)]
    wrong = [
        _line(program, f"also uses {name}: two allocators in one process", _ONE)
        for name in used
        if name not in whole[:1]
    ]
    wrong += [
        _line(holder, f"has {name} built in: two allocators in one process", _ONE)
        for holder, name in hidden
        if whole or name != presence.title
    ]
    if not whole:
        return [*wrong, _line(program, f"{presence.unused}: it needs no {presence.library}", link)], None
    library = by_name.get(whole[0])
    if library is None:
        wrong.append(_line(program, f"takes {whole[0]} from the host and not from the tree", link))
    return wrong, library


_NONE = "leave the allocator out of the recipe's link, or choose another allocator for the cell"
_ONE = "link one of them only"


def _line(fact: ElfFacts, what: str, do: str) -> LineRecord:
    return LineRecord(where=fact.name, what=what, do=do)


def _reached(program: ElfFacts, by_name: Mapping[str, ElfFacts]) -> list[str]:
    """Return the sonames of all libraries that are loaded with a program, as far as the tree has them."""
    reached: dict[str, None] = dict.fromkeys(program.needed)
    queue = list(program.needed)
    for soname in queue:
        fact = by_name.get(soname)
        for name in fact.needed if fact is not None else ():
            if name not in reached:
                reached[name] = None
                queue.append(name)
    return list(reached)


def _has_unwind(library: ElfFacts) -> bool:
    return any(fnmatch.fnmatchcase(name, UNWIND) for name in library.needed)


def _library(library: ElfFacts, rules: AllocatorRules) -> list[LineRecord]:
    """Return what is wrong with the library: it must be the one that was built, with the unwinder of the rules."""
    found = []
    if allocators.of(rules.kind).own:
        wanted = rules.ours.get(library.soname, "")
        if not wanted or library.build_id != wanted:
            what = "is not the one that was built for the target: the recipe has linked the image's own"
            found.append(
                _line(library, what, "give the recipe's link $PIKAFORGE_ALLOCATOR_DIR/lib before all other folders")
            )
    has = _has_unwind(library)
    if rules.unwinder and has != (rules.unwinder == "libunwind"):
        what = f"{'needs' if has else 'does not need'} libunwind, though the unwinder is {rules.unwinder}"
        found.append(_line(library, what, "see the log of the allocator stage: configure has chosen another one"))
    return found
