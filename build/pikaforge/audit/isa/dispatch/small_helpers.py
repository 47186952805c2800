"""Small functions that only functions which ask the CPU call.

gcc keeps values in registers that such a function leaves alone, although the calling convention lets it change them
(-fipa-ra). So they are run, too: else the CPU's answers are lost at the call (`set_cpu_feature` of libgcc).
"""

from __future__ import annotations

from pikaforge.audit.isa.dispatch.library import Library
from pikaforge.audit.isa.opcodes import LONGEST
from pikaforge.audit.isa.ranges import NOWHERE

STEPS = 32
"""Instructions of the largest one."""


def small_helpers(library: Library) -> set[int]:
    """Return the small functions without calls that only the functions call which ask the CPU."""
    graph, code, asking = library.graph, library.code, library.asking
    named = {code.at(address) for piece in asking for address in graph.references.get(piece)}
    found = set()
    for piece in named - asking - {NOWHERE}:
        start, end = code.starts[piece], code.ends[piece]
        callers = graph.callers.get(piece)
        only = all(source in asking and address == start for source, address in callers)
        if only and not graph.is_pointed(piece) and end - start <= STEPS * LONGEST:
            body = library.body(piece)
            if body.sound and len(body.steps) <= STEPS and all(s.flow not in ("call", "call?") for s in body.steps):
                found.add(piece)
    return found
