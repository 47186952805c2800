"""A game over the blocks of a function: can the outcome of some tests keep it from other blocks, whatever else happens?

The first player chooses the way at each branch that tests something which depends on the CPU (a *decisive* branch), the
second one at all other branches. If the first player can keep the function from a block, then these tests alone decide
whether the block runs.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from pikaforge.audit.isa.dispatch.steps import Body, InstructionStep

Decisive = Callable[[Body, int], bool]
"""Returns whether the branch at the end of a block, by its index, is decisive."""


def starts_of(code: Body, entries: Set[int], *, loose: bool) -> set[int]:
    """Return the blocks at which a function is entered.

    Args:
        code: the function.
        entries: addresses in it, beside its start, at which other code enters it.
        loose: whether other code may enter blocks without a visible predecessor (exception handlers).
    """
    starts = {0, *(code.block_at(entry) for entry in entries)}
    return starts | set(code.loose) if loose or not jumps(code) else starts


def jumps(code: Body) -> list[int]:
    """Return the blocks that end with an indirect jump: to a case of a switch, or to another function."""
    return [i for i, b in enumerate(code.blocks) if code.steps[b.last - 1].flow == "jump?"]


def forced(code: Body, wanted: Set[int], decisive: Decisive) -> set[int]:
    """Return the blocks from which the second player can reach one of some blocks, whatever the first one chooses."""
    before: dict[int, set[int]] = {}
    following = {index: set(targets) for index, targets in enumerate(code.following)}
    for index in jumps(code):
        following[index] |= set(code.loose)
    for index, targets in following.items():
        for target in targets:
            before.setdefault(target, set()).add(index)
    found, waiting = set(wanted), list(wanted)
    while waiting:
        for index in before.get(waiting.pop(), ()):
            if index not in found and (not decisive(code, index) or following[index] <= found):
                found.add(index)
                waiting.append(index)
    return found


def setter(code: Body, index: int) -> InstructionStep | None:
    """Return the instruction whose flags the branch at the end of a block tests; None if it does not look at one bit.

    It tests for zero or, after BT, for the carry.
    """
    block = code.blocks[index]
    last = code.steps[block.last - 1]
    if last.flow != "branch" or last.condition not in ("e", "ne", "b", "ae"):
        return None
    step = next((step for step in reversed(code.steps[block.first : block.last - 1]) if step.flags), None)
    return step if step is None or (step.name == "BT") == (last.condition in ("b", "ae")) else None
