"""Libraries that wheels bring along: copies under names of their own, and OpenBLAS with its tables of functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from unit import code as c
from unit.code import Part, Ref

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.isa.dispatch import known
from pikaforge.cpu import features

ALLOWED = from_macros(["#define __SSE3__ 1"], "sandybridge")


def passes(data: bytes, tmp_path: Path) -> bool:
    path = tmp_path / "library.so"
    path.write_bytes(data)
    [result] = audit_paths(
        [path], tmp_path / "scratch", target="sandybridge", today=date(2026, 1, 1), allowed=ALLOWED, workers=1
    )
    return result.passed


# ---- names

TESTED: Sequence[Part] = (c.TEST_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))


@pytest.mark.parametrize(
    ("soname", "version", "entry", "expected"),
    [
        ("libzstd-40ad5e7e.so.1", b"1.5.4\0", TESTED, True),
        ("libzstd-40ad5e7e.so.1.5.4", b"1.5.4\0", TESTED, True),
        ("libzstd-040039e1-0352e75f.so.1.5.4", b"1.5.4\0", TESTED, True),
        ("libzstd-40ad5e7e.so.1.5.4", b"1.5.8\0", TESTED, False),
        ("libzstd-40ad5e7e.so.1.5.4", b"1.5.4\0", (c.jmp("fast"),), False),
        ("libzstd-40ad5e7e.so.12", b"1.5.4\0", TESTED, False),
        ("libzstd-40ad5e7.so.1", b"1.5.4\0", TESTED, False),
        ("libzstd-40ad5e7x.so.1", b"1.5.4\0", TESTED, False),
        ("libmyzstd-40ad5e7e.so.1", b"1.5.4\0", TESTED, False),
        ("libzstd.so.1.5.4", b"1.5.4\0", TESTED, False),
        ("-40ad5e7e.so.1", b"1.5.4\0", TESTED, False),
    ],
)
def test_a_copy_has_the_name_of_its_file_with_a_digest(
    soname: str, version: bytes, entry: Sequence[Part], expected: bool, tmp_path: Path
) -> None:
    functions = {"sum": entry, "ask": (c.LEAF_7, c.CPUID, c.RET), "fast": (c.BMI2, c.RET)}
    data = c.library(functions, exports=["sum", "ask"], soname=soname, extra=version)
    assert passes(data, tmp_path) is expected


# ---- OpenBLAS

LEA_RDI, CALL_GOT = b"\x48\x8d\x3d", Ref(b"\xff\x15", "getenv")
TEST_RAX, LOAD_RAX = bytes.fromhex("4885c0"), Ref(b"\x48\x8b\x05", "gotoblas")
JUMP_16 = bytes.fromhex("ff6010")  # jmp *16(%rax)
ONE_OF_EBX = bytes.fromhex("83e320")  # and $0x20,%ebx
COMPARE, TAKE = Ref(b"\x48\x3b\x15", "slot"), Ref(b"\x48\x8b\x15", "slot")  # cmp or mov slot(%rip),%rdx
HAS: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.SETNE_EAX, c.RESTORE_RBX, c.RET)
BY_CALL: Sequence[Part] = (c.call("has"), c.TEST_EAX)
BY_ITSELF: Sequence[Part] = (c.LEAF_7, c.CPUID, ONE_OF_EBX)
GETENV: Sequence[Part] = (Ref(LEA_RDI, "variable"), CALL_GOT, TEST_RAX)


def openblas(
    *,
    asked: Sequence[Part] = GETENV,
    test: Sequence[Part] = BY_CALL,
    variable: bytes = b"OPENBLAS_CORETYPE\0",
    more: Mapping[str, Sequence[Part]] | None = None,
    pointers: Mapping[str, str] | None = None,
    getter: str = "getenv",
    slot: bool = False,
    also: Sequence[str] = (),
    **options: Any,
) -> bytes:
    """OpenBLAS as gcc compiles it: a user may force a table of functions; one field of it looks like an object."""
    init: Sequence[Part] = (
        *asked, c.je("auto"), "force:", c.lea_rax("gotoblas_HASWELL"), c.jmp("store"),
        "auto:", *test, c.je("no"), c.lea_rax("gotoblas_HASWELL"), c.jmp("store"),
        "no:", c.lea_rax("slow_table"), "store:", c.store_rax("gotoblas"), c.RET,
    )  # fmt: skip
    functions = {
        "init": init, "has": HAS, "dgemm": (LOAD_RAX, JUMP_16),
        "small": (c.store_eax("field"), c.RET), "fast": (c.AVX2, c.RET), "slow": (c.RET,), **(more or {}),
    }  # fmt: skip
    data = {"variable": variable, "getenv": bytes(8), "gotoblas": bytes(8)}
    data |= {
        name: bytes(8) for name in ("gotoblas_HASWELL", "field", "third", "slow_table", "slow_field", "slow_third")
    }
    data |= {"slot": bytes(8)} if slot else {}
    at = {"gotoblas_HASWELL": "small", "third": "fast", "slow_table": "slow", "slow_third": "slow"}
    at |= {"slot": "gotoblas_HASWELL"} if slot else {}
    settings: dict[str, Any] = {
        "soname": "libscipy_openblas64_-4b78795a.so",
        "extra": b"OpenBLAS 0.3.34.237.2  USE64BITINT DYNAMIC_ARCH\0",
        "tables": {"gotoblas_HASWELL": 24, "slow_table": 24},
    }
    return c.library(
        functions,
        exports=["init", "dgemm", *(more or {}), *also],
        data=data,
        pointers={**at, **(pointers or {})},
        imports={"getenv": getter},
        **{**settings, **options},
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"test": BY_ITSELF},
        {"getter": "secure_getenv"},
        {"slot": True, "more": {"name": (COMPARE, c.RET)}},
        {"soname": "libscipy_openblas-6cdc3b4a.so"},
        {"also": ["gotoblas_HASWELL"]},
        {"tables": {}},  # what writes to a field is in the table's first part
    ],
)
def test_a_table_that_is_taken_only_after_a_test(change: Mapping[str, Any], tmp_path: Path) -> None:
    assert passes(openblas(**change), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"variable": b"HOME\0"},
        {"variable": b"OPENBLAS_CORETYPES\0"},
        {"getter": "something"},
        {"asked": (Ref(LEA_RDI, "variable"), CALL_GOT, bytes.fromhex("4885f6"))},  # test %rsi,%rsi
        {"asked": (Ref(LEA_RDI, "variable"), CALL_GOT, bytes.fromhex("4889d8"), TEST_RAX)},  # mov %rbx,%rax
        {"asked": (c.TEST_RDI,)},
        {"test": (c.TEST_EAX,)},
        {"test": (c.LEAF_7, c.CPUID, bytes.fromhex("83e020"), bytes.fromhex("83e620"))},  # and $0x20,%esi
        {"more": {"list": (c.lea_rax("third"), c.RET)}},
        {"more": {"set": (c.store_eax("field"), c.RET)}},  # what it names may be any part of the table
        {"more": {"list": (c.lea_rax("gotoblas_HASWELL"), c.RET)}},
        {"slot": True, "more": {"list": (TAKE, c.RET)}},
        {"slot": True, "more": {"list": (COMPARE, TAKE, c.RET)}},
        {"more": {"list": (c.call("fast"), c.RET)}},
        {"pointers": {"slow_third": "fast"}},
        {"pointers": {"slow_table": "third"}},
        {"also": ["gotoblas_HASWELL"], "tables": {}},
        {"also": ["third"]},
        {"also": ["fast"]},
        {"pointers": {"gotoblas_HASWELL": "fast"}},  # then nothing but itself leads to what writes to a field
        {"soname": "libopenblas64_-4b78795a.so"},
        {"soname": "libscipy_openblas64_.so.1"},
        {"extra": b"OpenBLAS 0.4.1 DYNAMIC_ARCH\0"},
        {"extra": b""},
    ],
)
def test_a_table_that_may_be_taken_in_another_way(change: Mapping[str, Any], tmp_path: Path) -> None:
    assert not passes(openblas(**change), tmp_path)


def test_each_variable_is_one_of_an_entry() -> None:
    for row in features.rows(known.FORCING):
        assert row["soname"] in {entry.soname for entry in known.table()}
        assert row["variables"] and row["source"]


# ---- OpenSSL

LOAD_FIRST, LOAD_SECOND = Ref(b"\x44\x8b\x15", "features"), Ref(b"\x4c\x8b\x1d", "features")  # mov to %r10d, %r11
BIT_61 = bytes.fromhex("490fbae33d")  # bt $61,%r11
AND_R11D, AND_R10D = bytes.fromhex("4181e300000010"), bytes.fromhex("4181e200000040")  # of $0x10000000, $0x40000000
OR_BOTH, OR_MEMORY = bytes.fromhex("4509da"), bytes.fromhex("440b17")  # or %r11d,%r10d; or (%rdi),%r10d
ALL_BITS, ONE_BIT = bytes.fromhex("4181fa00000050"), bytes.fromhex("4181fa00000040")  # cmp $…,%r10d
JB, JMP_SLOW = Ref(b"\x0f\x82", "fast"), c.jmp("slow")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ((LOAD_SECOND, BIT_61, JB, JMP_SLOW), True),
        ((LOAD_FIRST, LOAD_SECOND, AND_R11D, AND_R10D, OR_BOTH, ALL_BITS, c.je("fast"), JMP_SLOW), True),
        ((LOAD_SECOND, BIT_61, c.je("fast"), JMP_SLOW), False),  # the carry, and not zero, is the bit
        ((bytes.fromhex("4c8b1f"), BIT_61, JB, JMP_SLOW), False),  # mov (%rdi),%r11: another number
        ((LOAD_FIRST, LOAD_SECOND, AND_R11D, OR_BOTH, ALL_BITS, c.je("fast"), JMP_SLOW), False),
        ((LOAD_FIRST, LOAD_SECOND, AND_R10D, OR_BOTH, ALL_BITS, c.je("fast"), JMP_SLOW), False),
        ((LOAD_FIRST, LOAD_SECOND, AND_R11D, AND_R10D, OR_BOTH, ONE_BIT, c.je("fast"), JMP_SLOW), False),
        ((LOAD_FIRST, LOAD_SECOND, AND_R11D, AND_R10D, OR_MEMORY, ALL_BITS, c.je("fast"), JMP_SLOW), False),
        ((LOAD_FIRST, LOAD_SECOND, ALL_BITS, c.je("fast"), JMP_SLOW), False),
        ((LOAD_SECOND, BIT_61, JB, c.jmp("fast")), False),
    ],
)
def test_bits_of_several_words(entry: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    ask = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.store_eax("features"), c.RESTORE_RBX, c.RET)
    functions = {"sum": entry, "ask": ask, "fast": (c.AVX2, c.RET), "slow": (c.RET,)}
    settings: dict[str, Any] = {"soname": "libcrypto-fb8d5b21.so.3", "extra": b"OpenSSL 3.5.1 1 Jul 2025\0"}
    data = c.library(functions, exports=["sum", "ask"], data={"features": bytes(64)}, **settings)
    assert passes(data, tmp_path) is expected
