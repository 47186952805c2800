"""Find the calls by which a library asks for a variable of the environment that forces code on a CPU.

`OPENBLAS_CORETYPE=Haswell` makes OpenBLAS take code for AVX2 on each CPU: a user wants that. The table of known
dispatchers names such variables, and what is done only where one is set counts as what a user does.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from pikaforge.audit.elf.pointers import import_places
from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.dispatch.steps import ARGUMENTS, RIP, Body

GETTERS = frozenset({"getenv", "secure_getenv"})
"""Functions of libc that return the text of a variable, and 0 if it is not set (getenv(3))."""
CALLERS = 64
"""Functions that are looked at."""
BACK = 8
"""Instructions before a call in which its argument is looked for."""


def asking_for(library: Library, names: Set[str], where: str) -> frozenset[int]:
    """Return the addresses of the calls that return 0 unless one of some variables is set."""
    if not names:
        return frozenset()
    places = import_places(library.data, library.layout, where, GETTERS)
    stubs = {stub for stub, place in library.graph.stubs.items() if place in places}
    callers = sorted(library.graph.references.naming(places | stubs))[:CALLERS]
    texts = {name.encode() + b"\0" for name in names}
    found: set[int] = set()
    for caller in callers:
        code = library.body(caller)
        for number, address in _calls(code, places, stubs):
            text = _argument(code, number)
            offset = None if text is None else library.layout.offset_of(text)
            if offset is not None and any(library.data[offset : offset + len(t)] == t for t in texts):
                found.add(address)
    return frozenset(found)


def _calls(code: Body, places: Set[int], stubs: Set[int]) -> Iterator[tuple[int, int]]:
    for number, step in enumerate(code.steps):
        through = step.flow == "call?" and any(o.kind == "m" and o.value in places for o in step.operands)
        if through or (step.flow == "call" and step.target in stubs):
            yield number, step.address


def _argument(code: Body, number: int) -> int | None:
    """Return the address that the last instruction before a call gives it; None if it gives something else."""
    for step in reversed(code.steps[max(number - BACK, 0) : number]):
        if step.flow != "next":
            return None
        if ARGUMENTS[0] in step.writes:
            source = step.operands[-1]
            return source.value if step.name == "LEA" and source.register == RIP else None
    return None
