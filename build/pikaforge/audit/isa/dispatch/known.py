"""Known dispatchers: libraries that keep the CPU's answer where no reading of the file can follow it.

`dispatchers.csv` names them by package, range of upstream versions and soname, with the features, what makes sure that
they ask the CPU, and the source of that. An entry vouches for what a flag means, not for every function: each way into
code that needs the features must still be decided by a flag, one way or the other.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

from packaging.version import Version

from pikaforge.audit.isa.dispatch.steps import Body, InstructionStep
from pikaforge.cpu import features

TABLE = "dispatchers.csv"
UPSTREAM = re.compile(r"(?:\d+:)?(\d{1,9}(?:\.\d{1,9})*)(?:[-+].*)?")
"""Of a package's version: epoch, what upstream calls it, and the distribution's revision (deb-version(7), rpm)."""
FLAG_BYTES = 4
"""Of a flag at most: what has eight is a pointer or a size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """One line of the table."""

    packages: frozenset[str]
    """Names of the distributions' packages."""
    since: Version
    until: Version
    """The first and the last upstream version for which it was shown."""
    soname: str
    features: frozenset[str]
    shown: str
    """What makes sure that the CPU is asked first."""
    source: str
    """Where that is written, and how it was tried."""

    @property
    def text(self) -> str:
        """The evidence in words."""
        return f"known dispatcher ({self.soname} {self.since} to {self.until}): {self.shown}"

    def covers(self, package: str, version: str, soname: str) -> bool:
        """Whether a library is the one that is meant."""
        found = UPSTREAM.fullmatch(version)
        name = package.partition(":")[0]  # dpkg puts the architecture behind it
        return (
            found is not None
            and name in self.packages
            and soname == self.soname
            and self.since <= Version(found[1]) <= self.until
        )


@lru_cache(maxsize=1)
def table() -> tuple[Dispatcher, ...]:
    """All known dispatchers."""
    return tuple(
        Dispatcher(
            packages=frozenset(row["packages"].split()),
            since=Version(row["since"]),
            until=Version(row["until"]),
            soname=row["soname"],
            features=frozenset(row["features"].split()),
            shown=row["shown"],
            source=row["source"],
        )
        for row in features.rows(TABLE)
    )


def known(package: str, version: str, soname: str) -> Dispatcher | None:
    """The entry for a library of a package, if there is one."""
    return next((entry for entry in table() if entry.covers(package, version, soname)), None)


def decided(code: Body, targets: Set[int], entries: Set[int], *, loose: bool) -> set[int]:
    """Those of the addresses that a function leads to which a flag keeps it from, one way or the other.

    Two players: whoever sets the flags chooses how branches on them go, and somebody else how all others do. An
    address is decided if the first one can keep the function from coming to any instruction that names it.

    Args:
        code: the function.
        targets: the addresses to look for.
        entries: addresses in it at which it is entered, beside its start.
        loose: whether blocks to which nothing leads are entered from outside.
    """
    if not code.sound:
        return set()
    starts = {0, *(code.block_at(entry) for entry in entries)}
    if loose or not _jumps(code):
        starts |= set(code.loose)
    out = set()
    for target in targets:
        naming = {
            index
            for index, block in enumerate(code.blocks)
            if any(_names(step, target) for step in code.steps[block.first : block.last])
        }
        own = {i for i in naming if _leaves_by_flag(code, i, target)}
        if naming and not starts & _forced(code, naming - own):
            out.add(target)
    return out


def _jumps(code: Body) -> list[int]:
    return [i for i, b in enumerate(code.blocks) if code.steps[b.last - 1].flow == "jump?"]


def _names(step: InstructionStep, address: int) -> bool:
    return step.target == address or any(o.kind == "m" and o.value == address for o in step.operands)


def _leaves_by_flag(code: Body, index: int, target: int) -> bool:
    """Whether a block names an address only in a branch on a flag at its end."""
    block = code.blocks[index]
    steps = code.steps[block.first : block.last]
    return (
        steps[-1].target == target
        and _on_flag(code, index)
        and not any(_names(step, target) for step in steps[:-1])
        and code.following[index] != ()
    )


def _forced(code: Body, wanted: Set[int]) -> set[int]:
    """The blocks from which one of some blocks is come to, however the branches on flags go."""
    before: dict[int, set[int]] = {}
    following = {index: set(targets) for index, targets in enumerate(code.following)}
    for index in _jumps(code):
        following[index] |= set(code.loose)
    for index, targets in following.items():
        for target in targets:
            before.setdefault(target, set()).add(index)
    forced, waiting = set(wanted), list(wanted)
    while waiting:
        for index in before.get(waiting.pop(), ()):
            if index not in forced and (not _on_flag(code, index) or following[index] <= forced):
                forced.add(index)
                waiting.append(index)
    return forced


def _on_flag(code: Body, index: int) -> bool:
    """Whether a block ends with a branch on a flag: on whether a number of few bytes, or bits of it, are zero."""
    block = code.blocks[index]
    last = code.steps[block.last - 1]
    if last.flow != "branch" or last.condition not in ("e", "ne"):
        return False
    for step in reversed(code.steps[block.first : block.last - 1]):
        if step.flags:
            return _tests_flag(step)
    return False


def _tests_flag(step: InstructionStep) -> bool:
    if len(step.operands) != 2 or step.operands[0].size > FLAG_BYTES:
        return False
    first, second = step.operands
    if step.name == "TEST":
        return first == second or second.kind == "i"
    return second.kind == "i" and (step.name == "AND" or (step.name == "CMP" and second.value == 0))
