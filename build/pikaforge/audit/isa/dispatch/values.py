"""Abstract values of registers and memory: numbers that are known bit by bit, and pointers with an offset.

A value stands for all numbers that it may be. It is a tuple (base, known, bits, addresses), because a run makes a
million of them:

- Without a base (None) it is a number. A bit that is set in `known` has the value that it has in `bits`; the others may
  be 0 or 1.
- With a base it is a pointer: `bits` is its offset to the base, which is the stack or an argument of the function.
- `addresses` are those of code and data that the function has taken with `lea`, and that the value may be. They are
  reported as used when the value is used or stored, or can get out of the function.

Each operation returns a value that stands for all results that are possible.
"""

from __future__ import annotations

from collections.abc import Hashable

ALL = (1 << 64) - 1
NO_ADDRESSES: frozenset[int] = frozenset()
Value = tuple[Hashable, int, int, frozenset[int]]
"""Base (None for a number), mask of the known bits, these bits, addresses that it may be."""
UNKNOWN: Value = (None, 0, 0, NO_ADDRESSES)
ZERO: Value = (None, ALL, 0, NO_ADDRESSES)
STACK = "stack"
"""Base of addresses in the function's own frame; its return address is at offset 0."""


def number(value: int, addresses: frozenset[int] = NO_ADDRESSES) -> Value:
    """Return a known number."""
    return (None, ALL, value & ALL, addresses)


def pointer(base: Hashable, offset: int = 0) -> Value:
    """Return a pointer to an offset from a base."""
    return (base, ALL, offset & ALL, NO_ADDRESSES)


def unknown(addresses: frozenset[int]) -> Value:
    """Return an unknown value that may be one of some addresses."""
    return (None, 0, 0, addresses) if addresses else UNKNOWN


def mask(size: int) -> int:
    """Return the mask of `size` bytes."""
    return ALL if size >= 8 else (1 << 8 * size) - 1


def signed(value: int, size: int = 8) -> int:
    """Return the low `size` bytes of a number as a signed number (two's complement)."""
    value &= mask(size)
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value


def known_number(value: Value, size: int = 8) -> int | None:
    """Return the low `size` bytes of a value; None if not all bits of them are known."""
    base, known, bits, _ = value
    low = mask(size)
    return bits & low if base is None and known & low == low else None


def offset(value: Value) -> int | None:
    """Return the signed offset of a pointer to its base; None if the value is no pointer, or the offset not known."""
    base, known, bits, _ = value
    return signed(bits) if base is not None and known == ALL else None


def join(a: Value, b: Value) -> Value:
    """Return the value that stands for both values."""
    if a == b:
        return a
    addresses = a[3] | b[3] if a[3] != b[3] else a[3]
    if a[0] != b[0]:
        return unknown(addresses)
    known = a[1] & b[1] & ~(a[2] ^ b[2])
    if a[0] is not None and known != ALL:
        return unknown(addresses)
    return (a[0], known, a[2] & known, addresses)


def low(value: Value, size: int) -> Value:
    """Return the low `size` bytes of a value, extended with zeros."""
    if size >= 8:
        return value
    base, known, bits, addresses = value
    part = mask(size)
    if base is not None:
        return (None, ALL & ~part, 0, addresses)
    return (None, known & part | ALL & ~part, bits & part, addresses)


def extended(value: Value, size: int) -> Value:
    """Return the low `size` bytes of a value, extended with their sign."""
    base, known, bits, addresses = value
    part, sign = mask(size), 1 << (8 * size - 1)
    if size >= 8:
        return value
    if base is not None or not known & sign:
        return (None, known & (sign - 1) if base is None else 0, bits & (sign - 1) if base is None else 0, addresses)
    upper = ALL & ~part if bits & sign else 0
    return (None, known & part | ALL & ~part, bits & part | upper, addresses)


def merged(old: Value, new: Value, size: int, shift: int = 0) -> Value:
    """Return a register's value after the `size` bytes from bit `shift` on were replaced."""
    if size >= 8:
        return new
    part = mask(size) << shift
    addresses = old[3] | new[3]
    known = new[1] << shift & part if new[0] is None else 0
    bits = new[2] << shift & known
    if old[0] is None:
        known, bits = known | old[1] & ~part, bits | old[2] & ~part
    return (None, known, bits, addresses)


def _plain(a: Value, b: Value) -> bool:
    return a[0] is None and b[0] is None


def and_(a: Value, b: Value) -> Value:
    """Return a & b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    ones = a[2] & b[2]
    zeros = a[1] & ~a[2] | b[1] & ~b[2]
    return (None, ones | zeros, ones, a[3] | b[3])


def or_(a: Value, b: Value) -> Value:
    """Return a | b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    ones = a[2] | b[2]
    zeros = a[1] & ~a[2] & b[1] & ~b[2]
    return (None, ones | zeros, ones, a[3] | b[3])


def xor(a: Value, b: Value) -> Value:
    """Return a ^ b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    known = a[1] & b[1]
    return (None, known, (a[2] ^ b[2]) & known, a[3] | b[3])


def not_(a: Value) -> Value:
    """Return ~a."""
    return (None, a[1], ~a[2] & a[1], a[3]) if a[0] is None else unknown(a[3])


def add(a: Value, b: Value) -> Value:
    """Return a + b; a pointer plus a known number is a pointer."""
    if a[0] is not None and b[0] is not None:
        return unknown(a[3] | b[3])
    if a[1] == ALL and b[1] == ALL:
        return (a[0] if a[0] is not None else b[0], ALL, (a[2] + b[2]) & ALL, a[3] | b[3])
    if a[0] is not None or b[0] is not None:
        return unknown(a[3] | b[3])
    # The sums with all unknown bits 0 and with all of them 1 differ where a carry is unknown, and in no other place.
    least_sum = a[2] + b[2]
    spread = least_sum + (ALL & ~a[1]) + (ALL & ~b[1]) ^ least_sum
    known = a[1] & b[1] & ~spread
    return (None, known, least_sum & known, a[3] | b[3])


def negative(a: Value) -> Value:
    """Return -a."""
    return add(not_(a), number(1)) if a[0] is None else unknown(a[3])


def sub(a: Value, b: Value) -> Value:
    """Return a - b; the difference of two pointers with one base is a number."""
    if a[0] is not None and a[0] == b[0] and a[1] == ALL and b[1] == ALL:
        return (None, ALL, (a[2] - b[2]) & ALL, a[3] | b[3])
    if b[0] is not None:
        return unknown(a[3] | b[3])
    return add(a, negative(b))


def shifted_left(a: Value, count: int) -> Value:
    """Return a << count, in 64 bits."""
    if a[0] is not None:
        return unknown(a[3])
    return (None, (a[1] << count | (1 << count) - 1) & ALL, a[2] << count & ALL, a[3])


def shifted_right(a: Value, count: int, size: int, *, sign: bool) -> Value:
    """Return the low `size` bytes of a value >> count, filled with zeros, or with copies of the sign if `sign`."""
    part = extended(a, size) if sign else low(a, size)
    if part[0] is not None:
        return unknown(a[3])
    upper = ALL & ~(ALL >> count)
    if not sign:
        return (None, part[1] >> count | upper, part[2] >> count, a[3])
    if part[1] >> 63:
        return (None, part[1] >> count | upper, part[2] >> count | (upper if part[2] >> 63 else 0), a[3])
    return (None, part[1] >> count, part[2] >> count, a[3])


def product(a: Value, b: Value) -> Value:
    """Return a * b, which is known if both factors are, or if one of them is 0."""
    for one, other in ((a, b), (b, a)):
        if one[0] is None and one[1] == ALL and one[2] == 0:
            return (None, ALL, 0, a[3] | b[3])
        if one[0] is None and one[1] == ALL and one[2] == 1:
            return (other[0], other[1], other[2], a[3] | b[3])
    if _plain(a, b) and a[1] == ALL and b[1] == ALL:
        return (None, ALL, a[2] * b[2] & ALL, a[3] | b[3])
    return unknown(a[3] | b[3])


def least(value: Value, size: int) -> int:
    """Return the least unsigned number that the low `size` bytes may be."""
    return value[2] & mask(size) if value[0] is None else 0


def most(value: Value, size: int) -> int:
    """Return the greatest unsigned number that the low `size` bytes may be."""
    part = mask(size)
    return (value[2] | ~value[1]) & part if value[0] is None else part


def is_zero(value: Value, size: int) -> bool | None:
    """Return whether the low `size` bytes are zero; None if that is not known."""
    if value[0] is not None:
        return None
    part = mask(size)
    if value[2] & part:
        return False
    return True if value[1] & part == part else None


def sign_of(value: Value, size: int) -> bool | None:
    """Return whether the low `size` bytes are negative; None if that is not known."""
    bit = 1 << (8 * size - 1)
    return bool(value[2] & bit) if value[0] is None and value[1] & bit else None
