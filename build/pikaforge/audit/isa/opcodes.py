"""Tables of iced's opcodes and the features that they need, made once in each process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pikaforge.cpu.features import INVALID, table

if TYPE_CHECKING:
    from iced_x86 import Instruction

LONGEST = 15
"""Bytes of the longest x86 instruction (Intel SDM vol. 2A ch. 2.3.11)."""
ENDING = ("RETURN", "UNCONDITIONAL_BRANCH", "INDIRECT_BRANCH", "EXCEPTION")
"""Kinds of instructions, by iced, after which the next one does not run."""
CALLS = ("CALL", "INDIRECT_CALL")
"""Kinds of instructions after which the next one runs only if what they call returns."""
DETECTING = ("CPUID", "XGETBV")
"""Instructions by which a program asks the CPU for its features."""
_EXTENSIBLE = re.compile(rb"[\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3]*[\x40-\x4f]?[\x0f\x62\x8f\xc4\xc5\xd5]", re.DOTALL)
"""Prefixes, REX, and the first byte of all opcodes that CPUs got since the first x86-64 one: two bytes, EVEX, XOP, VEX,
REX2. Other bytes that are no instruction are none on any CPU."""


@lru_cache(maxsize=1)
def features_by_code() -> tuple[tuple[str, ...], ...]:
    """Return the ids of the features that each opcode needs, indexed by iced's Code; it needs all of them."""
    from iced_x86 import Code, CpuidFeature  # noqa: PLC0415

    names = _constants(Code)
    labels = {number: name for name, number in _constants(CpuidFeature).items()}
    special = [(f.iced, f.instruction, f.id) for f in table().values() if f.instruction]
    found: list[tuple[str, ...]] = [()] * (max(names.values()) + 1)
    for name, number in names.items():
        ids = []
        for feature in blank(number).cpuid_features():
            label = labels[feature]
            own = [
                i for iced, begin, i in special if iced == label and re.match(rf"{begin}([A-Z]?|_.*|[DQ]_.*)$", name)
            ]
            ids.append(own[0] if own else label.lower())
        found[number] = (INVALID,) if name == "INVALID" else tuple(ids)
    return tuple(found)


def blank(code: int) -> Instruction:
    """Return an instruction of an opcode, without operands."""
    from iced_x86 import Instruction  # noqa: PLC0415

    instruction = Instruction()
    instruction.code = code  # type: ignore[assignment]  # an IntEnum for mypy, an int at run time
    return instruction


def _constants(holder: object) -> dict[str, int]:
    return {
        name: value for name in dir(holder) if name[0].isupper() and isinstance(value := getattr(holder, name), int)
    }


@dataclass(frozen=True, slots=True)
class Tables:
    """Sets of opcodes for a scan."""

    allowed: frozenset[str]
    """Ids of the allowed features."""
    bad: frozenset[int]
    """Opcodes with a feature that is not allowed, and the invalid opcode."""
    detecting: frozenset[int]
    """Opcodes of the instructions in `DETECTING`."""


@lru_cache(maxsize=4)
def tables(allowed: frozenset[str]) -> Tables:
    """Return the tables for a set of allowed features."""
    from iced_x86 import Code  # noqa: PLC0415

    by_code = features_by_code()
    bad = frozenset(code for code, ids in enumerate(by_code) if not allowed.issuperset(ids))
    return Tables(allowed, bad, frozenset(getattr(Code, name) for name in DETECTING))


def could_be_newer(raw: bytes) -> bool:
    """Return whether bytes that the decoder does not know may be an instruction of a CPU that is newer than it."""
    return _EXTENSIBLE.match(raw) is not None


@lru_cache(maxsize=1)
def calls() -> frozenset[int]:
    """Return iced's numbers of `CALLS`."""
    from iced_x86 import FlowControl  # noqa: PLC0415

    return frozenset(int(getattr(FlowControl, name)) for name in CALLS)


@lru_cache(maxsize=1)
def flows() -> frozenset[int]:
    """Return iced's numbers of `ENDING`."""
    from iced_x86 import FlowControl  # noqa: PLC0415

    return frozenset(int(getattr(FlowControl, name)) for name in ENDING)


@lru_cache(maxsize=1)
def _near() -> frozenset[int]:
    """Return iced's kinds of the operand of a direct branch."""
    from iced_x86 import OpKind  # noqa: PLC0415

    return frozenset((int(OpKind.NEAR_BRANCH16), int(OpKind.NEAR_BRANCH32), int(OpKind.NEAR_BRANCH64)))


def is_near_branch(one: Instruction) -> bool:
    """Return whether an instruction is a direct branch. Its target may be any address, 0 as well."""
    return one.op_count > 0 and one.op_kind(0) in _near()
