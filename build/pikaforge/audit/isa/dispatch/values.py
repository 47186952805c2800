"""Values of registers as far as they are known: bit by bit, or as an offset to what a pointer points to.

A value is a tuple, because there are a million of them in a run: base, known bits, bits, addresses. With a base (the
stack, an argument of the function) the bits are an offset to it. The addresses are those that code has taken with
`lea` and that the value may still be; they stay with it until they are used, stored or overwritten.
"""

from __future__ import annotations

from collections.abc import Hashable

ALL = (1 << 64) - 1
NO_ADDRESSES: frozenset[int] = frozenset()
Value = tuple[Hashable, int, int, frozenset[int]]
"""Base (None for a number), mask of the bits that are known, those bits, addresses that it may be."""
UNKNOWN: Value = (None, 0, 0, NO_ADDRESSES)
ZERO: Value = (None, ALL, 0, NO_ADDRESSES)
STACK = "stack"
"""Base of addresses in the function's own frame; offset 0 is where its return address is."""


def number(value: int, addresses: frozenset[int] = NO_ADDRESSES) -> Value:
    """A number that is known."""
    return (None, ALL, value & ALL, addresses)


def pointer(base: Hashable, offset: int = 0) -> Value:
    """An address relative to something."""
    return (base, ALL, offset & ALL, NO_ADDRESSES)


def unknown(addresses: frozenset[int]) -> Value:
    """Anything, perhaps one of these addresses."""
    return (None, 0, 0, addresses) if addresses else UNKNOWN


def mask(size: int) -> int:
    """The bits of `size` bytes."""
    return ALL if size >= 8 else (1 << 8 * size) - 1


def signed(value: int, size: int = 8) -> int:
    """The number that the low `size` bytes are in two's complement."""
    value &= mask(size)
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value


def known_number(value: Value, size: int = 8) -> int | None:
    """The low `size` bytes, if all of them are known."""
    base, known, bits, _ = value
    low = mask(size)
    return bits & low if base is None and known & low == low else None


def offset(value: Value) -> int | None:
    """The signed distance of a pointer to its base, if it has one and that is known."""
    base, known, bits, _ = value
    return signed(bits) if base is not None and known == ALL else None


def join(a: Value, b: Value) -> Value:
    """What is known of a value that may be either."""
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
    """The low `size` bytes, extended by zeros."""
    if size >= 8:
        return value
    base, known, bits, addresses = value
    part = mask(size)
    if base is not None:
        return (None, ALL & ~part, 0, addresses)
    return (None, known & part | ALL & ~part, bits & part, addresses)


def extended(value: Value, size: int) -> Value:
    """The low `size` bytes, extended by their sign."""
    base, known, bits, addresses = value
    part, sign = mask(size), 1 << (8 * size - 1)
    if size >= 8:
        return value
    if base is not None or not known & sign:
        return (None, known & (sign - 1) if base is None else 0, bits & (sign - 1) if base is None else 0, addresses)
    upper = ALL & ~part if bits & sign else 0
    return (None, known & part | ALL & ~part, bits & part | upper, addresses)


def merged(old: Value, new: Value, size: int, shift: int = 0) -> Value:
    """A register after `size` bytes of it, `shift` bits up, were replaced."""
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
    """a & b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    ones = a[2] & b[2]
    zeros = a[1] & ~a[2] | b[1] & ~b[2]
    return (None, ones | zeros, ones, a[3] | b[3])


def or_(a: Value, b: Value) -> Value:
    """a | b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    ones = a[2] | b[2]
    zeros = a[1] & ~a[2] & b[1] & ~b[2]
    return (None, ones | zeros, ones, a[3] | b[3])


def xor(a: Value, b: Value) -> Value:
    """a ^ b."""
    if not _plain(a, b):
        return unknown(a[3] | b[3])
    known = a[1] & b[1]
    return (None, known, (a[2] ^ b[2]) & known, a[3] | b[3])


def not_(a: Value) -> Value:
    """~a."""
    return (None, a[1], ~a[2] & a[1], a[3]) if a[0] is None else unknown(a[3])


def add(a: Value, b: Value) -> Value:
    """a + b; with a pointer and a known number a pointer."""
    if a[0] is not None and b[0] is not None:
        return unknown(a[3] | b[3])
    if a[1] == ALL and b[1] == ALL:
        return (a[0] if a[0] is not None else b[0], ALL, (a[2] + b[2]) & ALL, a[3] | b[3])
    if a[0] is not None or b[0] is not None:
        return unknown(a[3] | b[3])
    # A carry goes up only: below the lowest bit that is not known, all is.
    both = a[1] & b[1]
    run = (both ^ both + 1) >> 1
    return (None, run & ALL, (a[2] + b[2]) & run & ALL, a[3] | b[3])


def negative(a: Value) -> Value:
    """-a."""
    return add(not_(a), number(1)) if a[0] is None else unknown(a[3])


def sub(a: Value, b: Value) -> Value:
    """a - b; of two pointers into the same thing a number."""
    if a[0] is not None and a[0] == b[0] and a[1] == ALL and b[1] == ALL:
        return (None, ALL, (a[2] - b[2]) & ALL, a[3] | b[3])
    if b[0] is not None:
        return unknown(a[3] | b[3])
    return add(a, negative(b))


def shifted_left(a: Value, count: int) -> Value:
    """a << count, in 64 bits."""
    if a[0] is not None:
        return unknown(a[3])
    return (None, (a[1] << count | (1 << count) - 1) & ALL, a[2] << count & ALL, a[3])


def shifted_right(a: Value, count: int, size: int, *, sign: bool) -> Value:
    """The low `size` bytes >> count, zeros or copies of the sign coming in."""
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
    """a * b, where both are known or one is zero."""
    for one, other in ((a, b), (b, a)):
        if one[0] is None and one[1] == ALL and one[2] == 0:
            return (None, ALL, 0, a[3] | b[3])
        if one[0] is None and one[1] == ALL and one[2] == 1:
            return (other[0], other[1], other[2], a[3] | b[3])
    if _plain(a, b) and a[1] == ALL and b[1] == ALL:
        return (None, ALL, a[2] * b[2] & ALL, a[3] | b[3])
    return unknown(a[3] | b[3])


def least(value: Value, size: int) -> int:
    """The least number that the low `size` bytes may be, unsigned."""
    return value[2] & mask(size) if value[0] is None else 0


def most(value: Value, size: int) -> int:
    """The greatest one."""
    part = mask(size)
    return (value[2] | ~value[1]) & part if value[0] is None else part


def is_zero(value: Value, size: int) -> bool | None:
    """Whether the low `size` bytes are zero; None if that is not known."""
    if value[0] is not None:
        return None
    part = mask(size)
    if value[2] & part:
        return False
    return True if value[1] & part == part else None


def sign_of(value: Value, size: int) -> bool | None:
    """Whether the low `size` bytes are negative; None if that is not known."""
    bit = 1 << (8 * size - 1)
    return bool(value[2] & bit) if value[0] is None and value[1] & bit else None
