"""Decide conditions of branches, as far as the operands of the instruction that set the flags are known."""

from __future__ import annotations

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.values import Value

Flags = tuple[str, Value, Value, int] | None
"""The last instruction that set the CPU's flags: its kind, one or two values, and their size in bytes; None if unknown.

Kinds are `result` (of a logical operation), `sum`, `compare` (of two values), and `bit` (which is in the carry flag).
"""


def holds(condition: str, flags: Flags) -> bool | None:
    """Return whether a condition (`e`, `ne`, `b`, …) holds; None if that is not known."""
    if flags is None:
        return None
    found = _holds(POSITIVE.get(condition, condition), flags)
    return not found if found is not None and condition in POSITIVE else found


POSITIVE = {"ne": "e", "ae": "b", "a": "be", "ns": "s", "ge": "l", "g": "le", "no": "o", "np": "p"}
"""Conditions by their opposites, which are those that `_holds` decides."""


def _holds(condition: str, flags: tuple[str, Value, Value, int]) -> bool | None:
    kind, a, b, size = flags
    if kind == "compare":
        return _compares(condition, a, b, size)
    zero, sign = v.is_zero(a, size), v.sign_of(a, size)
    if kind == "bit":
        return not zero if condition == "b" and zero is not None else None
    known = {"e": zero, "s": sign}
    if kind == "result":  # a logical operation clears carry and overflow; those of a sum are not tracked
        known |= {"b": False, "o": False, "be": zero, "l": sign, "le": _either(sign, zero)}
    return known.get(condition)


def _either(a: bool | None, b: bool | None) -> bool | None:
    return True if a or b else None if a is None or b is None else False


def _compares(condition: str, a: Value, b: Value, size: int) -> bool | None:
    first, second = v.known_number(a, size), v.known_number(b, size)
    known: dict[str, bool | None]
    if first is not None and second is not None:
        x, y = v.signed(first, size), v.signed(second, size)
        known = {
            "e": x == y,
            "b": first < second,
            "be": first <= second,
            "l": x < y,
            "le": x <= y,
            "s": bool((first - second) >> (8 * size - 1) & 1),
        }
    else:
        differ = a[0] is None and b[0] is None and (a[2] ^ b[2]) & a[1] & b[1] & v.mask(size)
        low, high = (v.least(a, size), v.least(b, size)), (v.most(a, size), v.most(b, size))
        known = {
            "e": False if differ else None,
            "b": True if high[0] < low[1] else False if low[0] >= high[1] else None,
            "be": True if high[0] <= low[1] else False if low[0] > high[1] else None,
        }
    return known.get(condition)
