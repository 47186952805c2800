"""Copies of the CPU's answers: places of data to which a library stores what functions that know the answers return.

A library may ask once and keep the answer in a variable of its own, as in `rdrand_available = has_rdrand()`. Such a
place counts if everything that is stored there by its address is a flag or a constant, and nobody takes its address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from pikaforge.audit.isa.dispatch.flags import FLAG_BYTES, Answers, FlagTests
from pikaforge.audit.isa.dispatch.steps import NONE, RIP, InstructionStep

if TYPE_CHECKING:
    from pikaforge.audit.isa.dispatch.library import Library

ROUNDS = 2
"""How often an answer may be copied."""


def with_copies(answers: Answers, library: Library) -> Answers:
    """Return where a library keeps the CPU's answers, with the places to which they are copied."""
    for _ in range(ROUNDS):
        stores = _stores(answers, library)
        found = {place for place in set(stores) - set(answers.places) if _holds_flags(place, answers, library)}
        if not found:
            break
        answers = replace(answers, places=frozenset(answers.places) | found)
    return answers


def _callers(answers: Answers, library: Library) -> set[int]:
    """Return the pieces that call functions which return answers, directly or through stubs."""
    graph, code = library.graph, library.code
    direct = (source for f in answers.functions for source, at in graph.callers.get(code.at(f)) if at == f)
    through = (source for f in answers.functions for source in graph.users.get(graph.stubs.get(f, -1)))
    return set(chain(direct, through))


def _stores(answers: Answers, library: Library) -> Iterator[int]:
    """Yield the places to which functions store a number of few bytes that call for answers."""
    for piece in sorted(_callers(answers, library)):
        if library.is_half_decoded:
            return
        for step in library.body(piece).steps:
            place = _place(step)
            if place is not None and _stored(step) and library.graph.is_writable(place):
                yield place


def _place(step: InstructionStep) -> int | None:
    """Return the fixed place that an instruction has as its first operand; None if it has another one."""
    if len(step.operands) != 2:  # what stores a flag has two
        return None
    first = step.operands[0]
    fixed = first.kind == "m" and first.register in (RIP, NONE) and first.index_register == NONE and not first.segment
    return first.value if fixed else None


def _stored(step: InstructionStep) -> bool:
    return step.name == "MOV" and step.operands[0].size <= FLAG_BYTES and step.operands[1].kind == "r"


def _holds_flags(place: int, answers: Answers, library: Library) -> bool:
    """Return whether all that functions store at a place is a flag or a constant, and none takes its address."""
    for piece in library.graph.users.get(place):
        code = library.body(piece)
        if not code.sound:
            return False
        tests = FlagTests(code, answers)
        for number, step in enumerate(code.steps):
            named = any(o.kind == "m" and o.register in (RIP, NONE) and o.value == place for o in step.operands)
            if named and (step.name == "LEA" or (_place(step) == place and not _keeps(tests, number, step))):
                return False
    return True


def _keeps(tests: FlagTests, number: int, step: InstructionStep) -> bool:
    """Return whether an instruction that names a place first leaves a flag there."""
    if step.name in ("CMP", "TEST", "BT") or step.operands[1].kind == "i":
        return True
    return _stored(step) and tests.from_flags(number, step.operands[1].register)
