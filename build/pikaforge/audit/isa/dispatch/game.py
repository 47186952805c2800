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


class Game:
    """The game in one function, for many sets of blocks that the first player wants to avoid."""

    def __init__(self, code: Body, decisive: Decisive) -> None:
        """Read the function's control flow once."""
        self._following = {index: set(targets) for index, targets in enumerate(code.following)}
        for index in jumps(code):
            self._following[index] |= set(code.loose)
        self._before: dict[int, set[int]] = {}
        for index, targets in self._following.items():
            for target in targets:
                self._before.setdefault(target, set()).add(index)
        self._code, self._decisive = code, decisive
        self._known: dict[int, bool] = {}

    def decisive(self, index: int) -> bool:
        """Return whether the branch at the end of a block is decisive."""
        if index not in self._known:
            self._known[index] = self._decisive(self._code, index)
        return self._known[index]

    def forced(self, wanted: Set[int]) -> set[int]:
        """Return the blocks from which the second player can reach one of some blocks, whatever the first one does."""
        found, waiting = set(wanted), list(wanted)
        while waiting:
            for index in self._before.get(waiting.pop(), ()):
                if index not in found and (not self.decisive(index) or self._following[index] <= found):
                    found.add(index)
                    waiting.append(index)
        return found


def forced(code: Body, wanted: Set[int], decisive: Decisive) -> set[int]:
    """Return the result of one game; see `Game.forced`."""
    return Game(code, decisive).forced(wanted)


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
