"""Evidence within functions, and addresses that leave them: in %rdx, in comparisons, behind rdssp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from unit import code as c
from unit import elf_files as ef
from unit.code import Part

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.isa.decode import CodeSource, Hit, scan

FAST: Sequence[Part] = (c.AVX2, c.RET)
ASK: Sequence[Part] = (c.SAVE_RBX, c.LEAF_7, c.CPUID, c.HAS_AVX2, c.RESTORE_RBX)
CALL_RAX, JUMP_RAX = bytes.fromhex("ffd0"), bytes.fromhex("ffe0")
CMP_RDX_RDI = bytes.fromhex("4839d7")  # cmp %rdx,%rdi
SETE_DL = bytes.fromhex("0f94c2")
EAX_FROM_EDX = bytes.fromhex("0fb6c2")  # movzbl %dl,%eax
ZERO_EDX = bytes.fromhex("31d2")
LEA_RCX = c.Ref(b"\x48\x8d\x0d", "fast")  # lea fast(%rip),%rcx


def look(data: bytes, tmp_path: Path, *, function: str = "fast", feature: str = "avx2") -> Hit:
    path = tmp_path / "library"
    path.write_bytes(data)
    [found] = scan([CodeSource(file="lib/x.so.1", path=path)], of_baseline("x86_64"), workers=1)
    return next(h for h in found.hits if (h.function, h.feature) == (function, feature))


def chosen(*choice: Part, resolvers: Sequence[str] = ()) -> bytes:
    """A library in which `choose` makes its choice after a question to the CPU that it does not heed."""
    return c.library(
        {"choose": (*ASK, *choice), "fast": FAST, "slow": (c.RET,)},
        exports=["choose"],
        data={"got": bytes(8)},
        resolvers=resolvers,
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((c.ZERO_EAX, c.lea_rdx("fast"), c.RET), False),  # the second word of a structure
        ((c.lea_rax("slow"), c.lea_rdx("fast"), c.RET), False),
        ((c.lea_rax("fast"), c.lea_rdx("slow"), c.RET), False),
        ((c.lea_rax("slow"), c.lea_rdx("slow"), c.RET, c.jmp("fast")), False),  # code behind the end
        ((c.lea_rdx("fast"), CMP_RDX_RDI, SETE_DL, EAX_FROM_EDX, c.RET), True),  # only compared
        ((c.lea_rdx("fast"), CMP_RDX_RDI, c.je("same"), c.ZERO_EAX, "same:", c.RET), True),
        ((c.lea_rdx("fast"), CMP_RDX_RDI, c.je("same"), c.ZERO_EAX, "same:", c.lea_rdx("fast"), c.RET), False),
        ((c.lea_rax("fast"), CMP_RDX_RDI, c.RET), False),  # compared, and returned
    ],
)
def test_an_address_in_the_second_register(choice: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    assert bool(look(chosen(*choice), tmp_path).evidence) is expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((LEA_RCX, b"\x51", c.RET), False),  # push %rcx
        ((LEA_RCX, bytes.fromhex("48890c24"), c.RET), False),  # mov %rcx,(%rsp): over the return address
        ((LEA_RCX, b"\x51\x59", c.RET), True),  # push and pop
        ((LEA_RCX, bytes.fromhex("48894c24f8"), c.RET), True),  # mov %rcx,-8(%rsp): that is nothing to return to
    ],
)
def test_an_address_that_it_returns_to(choice: Sequence[Part], expected: bool, tmp_path: Path) -> None:
    assert bool(look(chosen(*choice), tmp_path).evidence) is expected


def test_a_resolver_returns_one_word(tmp_path: Path) -> None:
    heeded: Sequence[Part] = (c.lea_rdx("fast"), c.lea_rax("slow"), c.RET)
    assert look(chosen(*heeded, resolvers=["choose"]), tmp_path).evidence
    assert not look(chosen(*heeded), tmp_path).evidence


def test_who_only_compares_with_an_address_does_not_use_it(tmp_path: Path) -> None:
    """As std::random_device does, which looks later which way it has chosen."""
    functions: dict[str, Sequence[Part]] = {
        "choose": (*ASK, c.lea_rax("slow"), c.je("no"), c.lea_rax("fast"), "no:", c.store_rax("table"), c.RET),
        "chosen": (c.lea_rdx("fast"), CMP_RDX_RDI, SETE_DL, EAX_FROM_EDX, c.RET),
        "fast": FAST,
        "slow": (c.RET,),
    }
    data = {"table": bytes(8)}
    assert look(c.library(functions, exports=["choose", "chosen"], data=data), tmp_path).evidence
    functions["chosen"] = (c.lea_rax("fast"), CALL_RAX, c.RET)
    assert not look(c.library(functions, exports=["choose", "chosen"], data=data), tmp_path).evidence


@pytest.mark.parametrize("leaving", [CALL_RAX + c.RET, JUMP_RAX])
def test_an_address_that_is_called_in_a_register(leaving: bytes, tmp_path: Path) -> None:
    assert not look(chosen(c.lea_rax("fast"), leaving), tmp_path).evidence
    assert look(chosen(c.lea_rax("slow"), c.je("no"), c.lea_rax("fast"), "no:", leaving), tmp_path).evidence


# ---- shadow stacks

TEST_RAX, TEST_RCX = bytes.fromhex("4885c0"), bytes.fromhex("4885c9")
THREAD = bytes.fromhex("64f704254800000002000000")  # testl $2,%fs:0x48
THREAD_IBT = bytes.fromhex("64f704254800000001000000")
THREAD_OTHER = bytes.fromhex("64f704254000000002000000")
ANSWERED: Sequence[Part] = (c.ZERO_EAX, ef.RDSSP, TEST_RAX, c.je("no"), ef.INCSSP, "no:", c.RET)


@pytest.mark.parametrize("program", [False, True])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ANSWERED, True),
        ((THREAD, c.je("no"), ef.INCSSP, "no:", c.RET), True),
        ((c.ZERO_EAX, ef.RDSSP, TEST_RAX, c.jne("yes"), ef.INCSSP, "yes:", c.RET), True),  # some test decides it
        ((c.ZERO_EAX, ef.RDSSP, TEST_RCX, c.je("no"), ef.INCSSP, "no:", c.RET), False),  # another register
        ((c.ZERO_EAX, ef.RDSSP, c.ZERO_EAX, TEST_RAX, c.je("no"), ef.INCSSP, "no:", c.RET), False),  # lost
        ((ef.INCSSP, *ANSWERED), False),
        ((*ANSWERED[:-1], ef.INCSSP, c.RET), False),
        ((c.ZERO_EAX, ef.RDSSP, TEST_RAX, ef.INCSSP, c.RET), False),  # asked and not heeded
        ((THREAD_IBT, c.je("no"), ef.INCSSP, "no:", c.RET), False),
        ((THREAD_OTHER, c.je("no"), ef.INCSSP, "no:", c.RET), False),
        ((THREAD[1:], c.je("no"), ef.INCSSP, "no:", c.RET), False),  # not the thread's block
    ],
)
def test_shadow_stacks_behind_a_look_at_them(
    code: Sequence[Part], expected: bool, program: bool, tmp_path: Path
) -> None:
    data = c.library({"unwind": code}, exports=["unwind"])
    if program:  # ET_EXEC, in which no references are read
        data = data[:16] + b"\x02\0" + data[18:]
    assert bool(look(data, tmp_path, function="unwind", feature="cet_ss").evidence) is expected


def test_a_stripped_program(tmp_path: Path) -> None:
    data = c.library({"unwind": ANSWERED}, symbols=False)
    name = f"range@{ef.Elf().address:#x}"
    assert look(data[:16] + b"\x02\0" + data[18:], tmp_path, function=name, feature="cet_ss").evidence
