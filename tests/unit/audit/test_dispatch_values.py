"""Arithmetic on values of which only some bits are known: never more is known than holds for every value."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pikaforge.audit.isa.dispatch import values as v
from pikaforge.audit.isa.dispatch.values import ALL, NO_ADDRESSES, Value

RANDOM = random.Random(7)


def some(number: int) -> Value:
    """A value of which some bits are known, and that may be this number."""
    known = RANDOM.choice((0, ALL, RANDOM.getrandbits(64), RANDOM.getrandbits(64) | RANDOM.getrandbits(64)))
    return (None, known, number & known, NO_ADDRESSES)


def may_be(value: Value, number: int) -> bool:
    return value[0] is None and (value[2] ^ number) & value[1] == 0 and value[2] & ~value[1] == 0


NUMBERS = [0, 1, 2, 0x20, 0x7F, 0x80, 0xFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, ALL]
NUMBERS += [RANDOM.getrandbits(64) for _ in range(40)]


@pytest.mark.parametrize(
    ("abstract", "concrete"),
    [
        (v.and_, lambda a, b: a & b),
        (v.or_, lambda a, b: a | b),
        (v.xor, lambda a, b: a ^ b),
        (v.add, lambda a, b: a + b & ALL),
        (v.sub, lambda a, b: a - b & ALL),
        (v.product, lambda a, b: a * b & ALL),
    ],
)
def test_two_operands(abstract: Callable[[Value, Value], Value], concrete: Callable[[int, int], int]) -> None:
    for a in NUMBERS:
        for b in NUMBERS:
            assert may_be(abstract(some(a), some(b)), concrete(a, b))
            exact = abstract(v.number(a), v.number(b))
            if abstract is not v.product:
                assert v.known_number(exact) == concrete(a, b)


def test_a_sum_has_every_bit_that_all_sums_share() -> None:
    width = range(16)
    values = [(known, bits) for known in width for bits in width if not bits & ~known]
    for known, bits in values:
        for others, more in values:
            sums = [a + b for a in width if a & known == bits for b in width if b & others == more]
            ones, zeros = ALL, ALL
            for number in sums:
                ones, zeros = ones & number, zeros & ~number
            upper = ALL & ~0xF
            first, second = (None, known | upper, bits, NO_ADDRESSES), (None, others | upper, more, NO_ADDRESSES)
            assert v.add(first, second) == (None, ones | zeros, ones, NO_ADDRESSES)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_one_operand(size: int) -> None:
    part = v.mask(size)
    for a in NUMBERS:
        assert may_be(v.low(some(a), size), a & part)
        assert may_be(v.extended(some(a), size), v.signed(a, size) & ALL)
        assert may_be(v.not_(some(a)), ~a & ALL)
        assert may_be(v.negative(some(a)), -a & ALL)
        for count in (0, 1, 5, 8 * size - 1):
            assert may_be(v.shifted_left(some(a), count), a << count & ALL)
            assert may_be(v.shifted_right(some(a), count, size, sign=False), (a & part) >> count)
            assert may_be(v.shifted_right(some(a), count, size, sign=True), (v.signed(a, size) >> count) & ALL)
        for b in NUMBERS:
            both = v.join(some(a), some(b))
            assert may_be(both, a)
            assert may_be(both, b)
            merged = v.merged(some(a), some(b), size)
            assert may_be(merged, a & ~part | b & part)


def test_bounds_and_signs() -> None:
    for a in NUMBERS:
        for size in (1, 4, 8):
            value, part = some(a), a & v.mask(size)
            assert v.least(value, size) <= part <= v.most(value, size)
            assert v.is_zero(value, size) in (None, part == 0)
            assert v.sign_of(value, size) in (None, v.signed(a, size) < 0)


def test_pointers_keep_their_base_only_with_a_known_distance() -> None:
    here = v.pointer(v.STACK, 16)
    assert v.offset(v.add(here, v.number(-24))) == -8
    assert v.offset(v.add(here, (None, 0, 0, NO_ADDRESSES))) is None
    assert v.known_number(v.sub(v.pointer(v.STACK, 24), here)) == 8
    assert v.sub(v.pointer("other"), here)[0] is None
    assert v.known_number(here) is None
    assert v.is_zero(here, 4) is None
    assert v.offset(v.join(here, v.pointer(v.STACK, 8))) is None


def test_addresses_stay_with_what_they_may_be() -> None:
    a, b = v.number(0x10, frozenset({0x10})), v.number(0x20, frozenset({0x20}))
    assert v.join(a, b)[3] == {0x10, 0x20}
    assert v.add(a, v.number(8))[3] == {0x10}
    assert v.xor(a, b)[3] == {0x10, 0x20}
    assert v.unknown(frozenset()) == v.UNKNOWN
