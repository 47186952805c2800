"""Tell a TZCNT that stands for BSF from one that needs BMI1, by a look at its function.

TZCNT is encoded as `rep bsf`, and CPUs without BMI1 run it as BSF. Both give the same result for a value that is not
zero; for zero TZCNT gives the number of bits, and BSF leaves its target as it is. Their flags differ (Intel SDM vol. 2,
BSF and TZCNT). gcc writes `rep bsf` for any CPU, where the language does not define the result for zero, because it is
faster on CPUs of AMD (gcc/config/i386/i386.md, ctz<mode>2). So there are three answers:

- harmless: no flags of it are used, and the value is surely not zero (`nonzero`), or nothing uses the result where the
  value is zero.
- needs: what follows uses its flags, or compares the result with the number of bits.
- open: neither can be seen. `__builtin_ctz(x)` and `_tzcnt_u32(x)` may be the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from pikaforge.audit.elf.executable import executable
from pikaforge.audit.elf.layout import mapped, read_layout
from pikaforge.audit.isa.dispatch.steps import InstructionStep
from pikaforge.audit.isa.function_graph import Code, FunctionGraph, following, read_graph
from pikaforge.audit.isa.nonzero import NEGATIONS, SHIFTS, ZERO, Knowledge, states, value_of
from pikaforge.audit.isa.opcodes import blank

WORK = 200_000
"""Instructions that are read in one file. Behind that, all is open."""
WAYS = 3000
"""Steps of a search."""
NAME = "TZCNT"
COUNTED = SHIFTS | {"SHLD", "SHRD"}
"""Instructions that leave the flags alone only where they shift by nothing; for gcc they always change them."""
PLAIN = frozenset(
    {"ADD", "SUB", "AND", "OR", "XOR", "NEG", "NOT", "INC", "DEC", "SHL", "SHR", "SAR", "LEA", "IMUL"}
    | {"MOVZX", "MOVSX", "MOVSXD", "CDQE"}
)
KEEPING = frozenset({"CMOV", "BSF", "BSR"})
"""Instructions that may leave their first register as it is."""
WHOLE = 4
"""Bytes of the smallest operand with which an instruction changes the whole register (Intel SDM vol. 1, 3.4.1.1)."""
Answer = Literal["harmless", "open", "needs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TzcntUse:
    """What a function uses TZCNT for."""

    answer: Answer
    why: str
    """For people."""


HARMLESS = TzcntUse(
    answer="harmless", why="each TZCNT stands for BSF: its value is not zero, or its result is not used for zero"
)
PROBE = TzcntUse(answer="harmless", why="its TZCNT of a constant 0, beside CPUID, asks whether the CPU has it")
OPEN = TzcntUse(answer="open", why="not proven that its value is never zero, for which an older CPU gives no result")
FLAGS = TzcntUse(answer="needs", why="the flags of TZCNT are used, and BSF sets others")
BITS = TzcntUse(answer="needs", why="the result of TZCNT is compared with the number of bits, which BSF never gives")
_WORST: Mapping[Answer, int] = {"harmless": 0, "open": 1, "needs": 2}
Piece = tuple[int, int]
"""Addresses of the first byte of a piece of code and of the first byte behind it."""


def worst(uses: Iterable[TzcntUse]) -> TzcntUse:
    """Return the use that asks most of the CPU."""
    return max(uses, key=lambda use: _WORST[use.answer], default=OPEN)


def look(path: Path, where: str, pieces: Iterable[Piece], *, work: int = WORK) -> dict[Piece, TzcntUse]:
    """Return what pieces of a file's code use TZCNT for.

    Args:
        path: the file.
        where: its name, for errors.
        pieces: the pieces.
        work: the number of instructions that are read.

    Raises:
        AuditError: the file is no ELF file, truncated, or corrupt.
    """
    found: dict[Piece, TzcntUse] = {}
    with mapped(path) as data:
        layout = read_layout(data, where)
        code = Code(data, layout, executable(data, layout, where))
        for start, end in dict.fromkeys(pieces):
            if work <= 0:
                found[start, end] = OPEN
                continue
            graph = read_graph(code, start, end)
            work -= len(graph.steps)
            found[start, end] = _judged(graph, start, end)
    return found


def _judged(graph: FunctionGraph, start: int, end: int) -> TzcntUse:
    wanted = {a: step for a, step in graph.steps.items() if step.name == NAME and start <= a < end}
    held = states(graph, wanted)
    return worst(_use(graph, step, held.get(address)) for address, step in wanted.items())


def _use(graph: FunctionGraph, step: InstructionStep, state: Knowledge | None) -> TzcntUse:
    target, source = step.operands
    value = value_of(source, state) if state is not None else None
    if value is not None and value.name == ZERO and any(s.name == "CPUID" for s in graph.steps.values()):
        return PROBE
    if _flags_read(graph, step):
        return FLAGS
    if state is None:
        return OPEN
    bits = 8 * target.size
    if value is None:
        return _search(graph, step, {}, bits)
    if state.sure(value, bits):
        return HARMLESS
    known = min(bits, value.bits)
    zero = {
        number: 64 if held.bits <= known else known
        for number, held in enumerate(state.registers)
        if held.name == value.name and number != target.register
    }
    return _search(graph, step, zero, bits)


# --- its flags --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _read_and_changed(code: int) -> tuple[int, int]:
    """Return the flags that an opcode reads, and those that it changes, as iced's RflagsBits."""
    instruction = blank(code)
    return instruction.rflags_read, instruction.rflags_modified


@lru_cache(maxsize=1)
def _different() -> int:
    """Return the flags that TZCNT and BSF set in different ways."""
    from iced_x86 import RflagsBits  # noqa: PLC0415

    return int(RflagsBits.CF | RflagsBits.ZF)


def _flags_read(graph: FunctionGraph, step: InstructionStep) -> bool:
    """Return whether something may use the flags of an instruction."""
    seen: set[tuple[int, int]] = set()
    waiting = [(step.following, _different())]
    while waiting:
        address, flags = waiting.pop()
        at = graph.steps.get(address)
        if (address, flags) in seen or at is None:
            continue
        seen.add((address, flags))
        reads, changes = _read_and_changed(at.code)
        if reads & flags:
            return True
        left = flags & ~changes
        if left and at.name not in COUNTED and at.flow not in ("call", "call?"):
            waiting += [(target, left) for target in following(at)]
    return False


# --- what happens if its value is zero ----------------------------------------------------------------------------


class _ZeroWay(NamedTuple):
    """A place that is reached if the value is zero."""

    address: int
    spoilt: frozenset[int]
    """Registers that hold the result, which is wrong then."""
    zero: frozenset[tuple[int, int]]
    """Registers that hold the value, with the number of low bits that are zero."""
    exact: frozenset[int]
    """Those of them that hold the result itself, and no number that was made of it."""
    compared: int | None = None
    """The number with which the value was compared, if the flags are of that."""
    stained: bool = False
    """Whether the flags are those of the result."""


def _search(graph: FunctionGraph, step: InstructionStep, zero: Mapping[int, int], bits: int) -> TzcntUse:
    """Follow the ways that are taken if the value is zero, until nothing holds the result any more."""
    if not graph.known:
        return OPEN
    result = frozenset({step.operands[0].register})
    first = _ZeroWay(step.following, result, frozenset(zero.items()), result)
    seen, waiting = {first}, [first]
    answer = HARMLESS
    while waiting:
        way = waiting.pop()
        at = graph.steps.get(way.address)
        if at is None or len(seen) > WAYS or at.flow in ("call", "call?", "return", "jump?"):
            answer = worst((answer, OPEN))  # the result may be handed on
            continue
        if _compares(at, way, bits):
            return BITS
        after = _passed(at, way)
        if after is None:
            answer = worst((answer, OPEN))
            continue
        for next_ in after:
            if (next_.spoilt or next_.stained) and next_ not in seen:
                seen.add(next_)
                waiting.append(next_)
    return answer


def _compares(step: InstructionStep, way: _ZeroWay, bits: int) -> bool:
    """Return whether an instruction compares the result with the number of bits."""
    if step.name != "CMP" or len(step.operands) != 2:
        return False
    first, second = step.operands
    return first.kind == "r" and first.register in way.exact and second.kind == "i" and second.value == bits


def _passed(step: InstructionStep, way: _ZeroWay) -> list[_ZeroWay] | None:
    """Return the ways behind an instruction; None if it uses the result."""
    spoilt, zero = set(way.spoilt), dict(way.zero)
    reads = {*step.reads, *(o.register for o in step.operands[:1] if step.name in KEEPING)}
    used = bool(spoilt & reads) and not _cleared(step)
    if way.stained and _read_and_changed(step.code)[0]:
        return None
    exact = way.exact - set(step.writes)
    moved = _moved(step, way)
    if moved is not None:  # a copy of the result is not yet a use of it
        target, source, happens = moved
        if happens:
            spoilt = spoilt | {target} if source in spoilt else spoilt - {target}
            exact |= {target} if source in way.exact else set()
            zero.pop(target, None)
    else:
        if used and not _plain(step):
            return None
        spoilt = spoilt | set(step.writes) if used else spoilt - _overwritten(step)
        for number in step.writes:
            zero.pop(number, None)
    compared = _compared(step, way) if step.flags else way.compared
    # INC and DEC leave the carry flag as it was.
    stained = (step.flags and used) or (way.stained and bool(_different() & ~_read_and_changed(step.code)[1]))
    targets = following(step)
    if step.flow == "branch" and (holds := _holds(step.condition, way.compared)) is not None:
        targets = targets[:1] if holds else targets[1:]
    left = frozenset(spoilt), frozenset(zero.items()), frozenset(exact), compared, stained
    return [_ZeroWay(target, *left) for target in targets]


def _overwritten(step: InstructionStep) -> set[int]:
    """Return the registers that an instruction writes as a whole; one of 8 or 16 bits leaves the others."""
    return {o.register for o in step.operands[:1] if o.kind == "r" and o.size >= WHOLE and o.register in step.writes}


def _plain(step: InstructionStep) -> bool:
    """Return whether an instruction only computes a number from registers: then the use is what follows."""
    computed = step.operands[1:] if step.name == "LEA" else ()
    return step.name in PLAIN and all(o.kind in ("r", "i") or o in computed for o in step.operands)


def _cleared(step: InstructionStep) -> bool:
    """Return whether an instruction clears its register, whatever that holds."""
    return step.name in ("XOR", "SUB") and len(step.operands) == 2 and step.operands[0] == step.operands[1]


def _moved(step: InstructionStep, way: _ZeroWay) -> tuple[int, int, bool] | None:
    """Return target and source of a move between registers, and whether it is done; None if that is not known."""
    if step.name not in ("MOV", "CMOV") or len(step.operands) != 2:
        return None
    target, source = step.operands
    if target.kind != "r" or target.size < WHOLE or source.kind != "r":
        return None
    if step.name == "MOV":
        return target.register, source.register, True
    holds = _holds(step.condition, way.compared)
    return None if holds is None else (target.register, source.register, holds)


def _compared(step: InstructionStep, way: _ZeroWay) -> int | None:
    """Return the number with which an instruction compares the value; None if it does something else."""
    if len(step.operands) != 2:
        return None
    first, second = step.operands
    bits = 8 * first.size
    if first.kind != "r" or first.shift or dict(way.zero).get(first.register, 0) < bits:
        return None
    if step.name == "TEST" and first == second:
        return 0
    if step.name != "CMP" or second.kind != "i":
        return None
    number = second.value & ((1 << bits) - 1)
    return number - (1 << bits) if number >> (bits - 1) else number


def _holds(condition: str, number: int | None) -> bool | None:
    """Return whether a condition holds after a comparison of zero with a number; None if that is not known."""
    if number is None:
        return None
    truth = {
        "e": number == 0,
        "ae": number == 0,
        "be": True,
        "ge": number <= 0,
        "le": number >= 0,
    }
    if number == 0:
        truth |= {"ns": True, "no": True, "o": False}
    if condition in truth:
        return truth[condition]
    other = NEGATIONS.get(condition, "")
    return not truth[other] if other in truth else None
