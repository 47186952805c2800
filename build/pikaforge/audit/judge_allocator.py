"""Judgement of which memory allocator the programs of a tree really use.

Proof, not belief: a build may have compiled its parts for an allocator and still not be linked with it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pikaforge.audit.elf.facts import ElfFacts
from pikaforge.audit.finding import Line
from pikaforge.plan import allocators
from pikaforge.plan.allocators.kind import matches

FOREIGN = ("libjemalloc*.so*", "libmimalloc*.so*", "libhoard*.so*", "libsnmalloc*.so*")
"""Sonames of libraries that take malloc over, beside those of the kinds of allocators."""
UNWIND = "libunwind.so*"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRules:
    """What was asked for."""

    kind: str = "none"
    """Of `config.registry.ALLOCATORS`."""
    programs: tuple[str, ...] = ()
    """Paths in the tree of the programs that must use it."""
    unwinder: str = ""
    """`libunwind` or `frame-pointers`: what the library must have; empty: whatever the image's has."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """Of the allocator that was built for the target: build ids by soname."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorVerdict:
    """What the programs use."""

    violations: tuple[Line, ...] = ()
    library: str = ""
    """Path in the tree of the allocator's library; empty where there is none."""
    unwinder: str = ""
    """`libunwind` if the library needs it, else `none`: which other way it goes, its NEEDED does not tell."""


def is_allocator(name: str) -> bool:
    """Whether a library, by its file name or soname, takes malloc over."""
    return matches(name, FOREIGN) or any(
        matches(name, kind.presence.libraries) for kind in allocators.every() if kind.presence is not None
    )


def judge(facts: Sequence[ElfFacts], rules: AllocatorRules) -> AllocatorVerdict:
    """Judge a tree whose needs are solved (`elf.linkage` sees to that).

    Args:
        facts: of all its programs and libraries.
        rules: what was asked for.
    """
    by_name = {fact.name.rpartition("/")[2]: fact for fact in facts}
    by_name |= {fact.soname: fact for fact in facts if fact.soname}
    programs = {fact.name: fact for fact in facts if fact.name in rules.programs}
    violations = [
        Line(where=name, what="is not among the programs that were judged", do="see product.binaries")
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
) -> tuple[list[Line], ElfFacts | None]:
    """What is wrong with the allocators of one program, and the library that it takes."""
    reached = _reached(program, by_name)
    used = [name for name in reached if is_allocator(name)]
    # A library that is an allocator has its functions by right; in any other they are hidden.
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


def _line(fact: ElfFacts, what: str, do: str) -> Line:
    return Line(where=fact.name, what=what, do=do)


def _reached(program: ElfFacts, by_name: Mapping[str, ElfFacts]) -> list[str]:
    """Sonames of everything that is loaded with a program, as far as the tree goes."""
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


def _library(library: ElfFacts, rules: AllocatorRules) -> list[Line]:
    """Whether the library is the one that was built, with the unwinder that was asked for."""
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
