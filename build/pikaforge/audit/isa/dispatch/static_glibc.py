"""What a program keeps of the CPU's answers that has glibc built in.

glibc keeps them in one structure of about 500 bytes (`struct cpu_features`). Its name is hidden: no other code uses it.
`init_cpu_features` fills it, and glibc's ifunc resolvers read it at fixed places. Other parts of such a program may ask
the CPU, too (`__cpu_indicator_init` of libgcc). They keep the answers beside data that is no answer.

Source: glibc sysdeps/x86/include/cpu-features.h; tried with 2.36, static and static-pie.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from pikaforge.audit.isa.dispatch.flags import Answers
from pikaforge.audit.isa.dispatch.graph import Graph

APART = 64
"""Bytes between addresses of the structure that are named, at the most."""
NAMED = 32
"""Addresses in it that functions name which ask the CPU, at the least: with glibc 2.36 there are 80."""
WORD = 8
"""Bytes of the widest number in it (`xsave_state_size`)."""


def kept_by_glibc(graph: Graph, asking: Iterable[int]) -> Answers:
    """Return the place of glibc's structure; no place if there is none.

    It is the largest run of addresses in writable data which functions name that ask the CPU, and of several such runs
    the one that most ifunc resolvers read.

    Args:
        graph: the program's references.
        asking: indexes of the pieces that run cpuid or xgetbv.
    """
    named = sorted({a for piece in asking for a in graph.references.get(piece) if graph.is_writable(a)})
    runs: list[list[int]] = []
    for address in named:
        if runs and address - runs[-1][-1] <= APART:
            runs[-1].append(address)
        else:
            runs.append([address])
    resolving = [sorted(graph.references.get(graph.code.at(address))) for address in graph.resolvers]
    best: tuple[int, range] = (0, range(0))
    for run in runs:
        places = range(run[0], run[-1] + WORD)
        readers = sum(_any_within(addresses, places) for addresses in resolving)
        if len(run) >= NAMED and readers > best[0]:
            best = readers, places
    return Answers(places=frozenset(best[1]), fields=frozenset(), functions=frozenset(), widest=WORD)


def asking_of_others(graph: Graph, asking: Iterable[int], kept: Answers) -> frozenset[int]:
    """Return the pieces that ask the CPU for another part of the program than glibc.

    glibc's are those that name its structure, and those that only these call.

    Args:
        graph: the program's references.
        asking: indexes of the pieces that run cpuid or xgetbv.
        kept: the place of glibc's structure.
    """
    others = set(asking)
    own = {piece for piece in others if not kept.places.isdisjoint(graph.references.get(piece))}
    glibc: set[int] = set()
    while own:
        glibc |= own
        others -= own
        sources = {piece: {source for source, _ in graph.callers.get(piece)} for piece in others}
        own = {piece for piece, callers in sources.items() if callers and callers <= glibc}
    return frozenset(others)


def _any_within(addresses: Sequence[int], places: range) -> bool:
    """Return whether one of some addresses, in ascending order, is in a range."""
    index = bisect_left(addresses, places.start)
    return index < len(addresses) and addresses[index] < places.stop
