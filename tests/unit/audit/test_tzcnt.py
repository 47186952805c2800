"""TZCNT in files that others built: what stands for BSF, what needs BMI1, and what cannot be told apart."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.isa import tzcnt

CASES = {
    # The value is not zero, or nothing uses the result where it is.
    "tested": ("85ff7405f30fbcc7c331c0c3", "harmless"),  # test edi,edi; je; tzcnt edi,eax; ret
    "copied": ("89fa85d27405f30fbcc7c3c3", "harmless"),  # mov edi,edx; test edx,edx; je; tzcnt edi,eax
    "loop": ("4885ff7410488d4ffff3480fbcc789064821cf75f0c3", "harmless"),  # while (m) { ctz(m); m &= m - 1; }
    "made": ("81cf00010000f30fbcc7c3", "harmless"),  # or $256,edi; tzcnt edi,eax
    "constant": ("bf08000000f30fbcc7c3", "harmless"),
    "selected": ("31c0ba20000000f30fbcc785ff0f44c2c3", "harmless"),  # gcc's x ? ctz(x) : 32, with cmove
    "selected, other": ("b82000000031d2f30fbcd785ff0f45c231d2c3", "harmless"),  # with cmovne
    "tested later": ("f30fbcc785ff750231c0c3", "harmless"),  # tzcnt edi,eax; test edi,edi; jne 1f; xor eax,eax
    "above": ("83ff037605f30fbcc7c3c3", "harmless"),  # cmp $3,edi; jbe
    "negative": ("85ff7905f30fbcc7c3c3", "harmless"),  # test edi,edi; jns
    "equal": ("4883ff407505f3480fbcc7c3", "harmless"),  # cmp $64,rdi; jne
    "narrow": ("4084ff7404f30fbcc7c3", "harmless"),  # test dil,dil; je
    "extended": ("400fb6d785d27408400fb6fff30fbcc2c3", "harmless"),  # movzbl dil,edx; test edx,edx; je
    "joined": ("85ff740b83fe057402ffc6f30fbcc7c3", "harmless"),  # two ways meet, with the same value on both
    "negated": ("85ff7406f7dff30fbcc7c3", "harmless"),
    "masked": ("f7c7f00000007404f30fbcc7c3", "harmless"),  # test $240,edi; je
    "shifted": ("85ff7409f30fbccfd3ef750190c3", "harmless"),  # the branch is on the flags of a shift
    "differing": ("4839f774084831f7f3480fbcc7c3", "harmless"),  # cmp rsi,rdi; je; xor rsi,rdi; tzcnt rdi,rax
    "differing, by sub": ("488b07488b164839d07501c34829d0f3480fbcc0c3", "harmless"),
    "differing, narrow": ("39f77501c34831f7f3480fbcc7c3", "harmless"),  # cmp esi,edi, and 64 bits later
    "behind padding": ("85ff7507c390660f1f0400f30fbcc7c3", "harmless"),  # nothing runs into a NOP after ret
    "counted": ("ba02000000f30fbcc683c00285f60f44c2c3", "harmless"),  # x ? ctz(x) + 2 : 2
    "carry changed": ("f30fbccaf7d94183c1010f92c0b905000000eb0090b90600000044890f0f0b", "harmless"),  # add, setb
    "bit tested": ("85ff740af30fbcc70fa3c1720190c3", "harmless"),
    "probe": ("b800000000f30fbcc00f95c089c6b8010000000fa2c3", "harmless"),
    "compared first": ("f30fbcc783ff087f0585ff0f44c2c3", "harmless"),
    "in memory": ("48833f007406f3480fbc07c3c3", "harmless"),  # cmp $0,(rdi); je; tzcnt (rdi),rax
    "loaded again": ("48837f08007409488b4708f3480fbcc0c3", "harmless"),  # cmp $0,8(rdi); je; mov 8(rdi),rax
    "in memory, copied": ("4889f848833f007406f3480fbc00c3c3", "harmless"),  # mov rdi,rax first, and (rax)
    # That cannot be seen.
    "in memory, written": ("48833f00740989d6893ef3480fbc07c3c3", "open"),  # mov edi,(rsi) between
    "in memory, elsewhere": ("48833f007407f3480fbc4708c3c3", "open"),  # and 8(rdi)
    "in memory, moved": ("48833f00740a4883c708f3480fbc07c3c3", "open"),  # add $8,rdi between
    "in memory, called": ("48833f00740be8000000f0f3480fbc07c3c3", "open"),
    "in memory, wider": (
        "833f007406f3480fbc07c3c3",
        "open",
    ),  # 4 bytes are not zero: so are the 8, but that is not seen
    "plain": ("31c0f30fbcc7c3", "open"),  # __builtin_ctz(x), or _tzcnt_u32(x)
    "wide": ("4885ff7404f30fbcc7c3", "open"),  # test rdi,rdi; je; tzcnt edi,eax
    "other": ("85f67404f30fbcc7c3", "open"),  # test esi,esi
    "wrong side": ("85ff7504f30fbcc7c3", "open"),
    "one way": ("85f6740485ff7404f30fbcc7c3", "open"),  # another way leads round the test
    "overwritten": ("85ff740689f7f30fbcc7c3", "open"),
    "called": ("85db7406ffd0f30fbcc3c3", "open"),  # a call between
    "partial": ("85ff74074088f7f30fbcc7c3", "open"),  # mov sil,dil between
    "stored": ("f30fbcc7890685ff740190c3", "open"),  # stored before the test
    "selected wrongly": ("ba20000000f30fbcc785ff0f45c2c3", "open"),  # the result is kept for zero
    "stepped": ("85ff7406ffcff30fbcc7c3", "open"),  # dec edi between
    "below": ("83ff037704f30fbcc7c3", "open"),  # cmp $3,edi; ja
    "returned": ("85ff7405f30fbcc7c3ffd6ebf7", "open"),  # unlikely code for zero that comes back
    "looped": ("4885ff7412f3480fbcc78906488d4fff4821cfffce75eec3", "open"),  # the next round has another value
    "memory": ("f30fbc07c3", "open"),
    "through a table": ("85ff740c83fe057703ff24f2f30fbcc7c3", "open"),  # a jump that may lead anywhere
    "differing, wide": ("4839f77501c331f7f30fbcc7c3", "open"),  # cmp rsi,rdi, and only 32 bits later
    "differing, changed": ("4839f7740c4883c6014831f7f3480fbcc7c3", "open"),  # add $1,rsi between
    "differing, equal": ("4839f775084831f7f3480fbcc7c3", "open"),  # where they are equal
    "behind code": ("85ff7505c390ffc690f30fbcc7c3", "open"),  # code that nothing leads to is no padding
    "counted, flags": ("ba02000000f30fbcc683c0fb780685f60f44c2c331c0c3", "open"),  # add $-5,eax; js
    "counted, address": ("ba02000000f30fbcc68a040785f60f44c2c3", "open"),  # mov (rdi,rax),al
    "counted, kept": ("ba02000000f30fbcc68d480285f60f44c201c8c3", "open"),  # lea 2(rax),ecx, which is used
    "same place": ("85ff7400f30fbcc7c3", "open"),  # a branch to the next instruction says nothing
    "partly written": ("31c9f30fbcc688c885f67400c3", "open"),  # mov cl,al leaves the rest of eax
    "perhaps moved": ("f30fbcc939fe0f47cac3", "open"),  # cmova edx,ecx after a comparison of others
    "carry kept": ("f30fbccaf7d941ffc90f92c0b905000000c3", "open"),  # neg ecx; dec r9d, which leaves CF; setb
    "made compared": ("f30fbcc783c00383f8200f94c0c3", "open"),
    # CPUs without BMI1 do something else.
    "carry": ("f30fbcc77201c331c0c3", "needs"),  # jc
    "carry moved": ("f30fbcc7ba070000000f42c2c3", "needs"),  # cmovc
    "zero flag": ("85ff7406f30fbcc77401c331c0c3", "needs"),  # je, also where the value is not zero
    "compared": ("f30fbcc783f8207401c331c0c3", "needs"),  # cmp $32,eax
    "compared, wide": ("f3480fbcc74889c24883fa400f94c0c3", "needs"),  # mov rax,rdx; cmp $64,rdx
    "borrowed": ("f30fbcc719d2c3", "needs"),  # sbb
    "bit tested zero": ("85ff740af30fbcc70fa3c1740190c3", "needs"),
    "probe without cpuid": ("b800000000f30fbcc00f95c0c3", "needs"),
}


def library(path: Path, functions: dict[str, bytes]) -> Path:
    text, symbols = b"", []
    for name, code in functions.items():
        symbols.append((name, len(text), len(code), ef.FUNC))
        text += code
    path.write_bytes(ef.make(ef.Elf(text=text, symbols=symbols)))
    return path


def audited(path: Path, *, strict: bool = False) -> AuditResult:
    allowed = from_macros(["#define __AVX__ 1"], "sandybridge", source="test")
    [found] = audit_paths(
        [path],
        path.parent / "scratch",
        target="sandybridge",
        today=date(2026, 6, 15),
        allowed=allowed,
        workers=1,
        rules=Rules(strict=strict),
    )
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_use_is_told_by_its_function(case: str, tmp_path: Path) -> None:
    code, answer = CASES[case]
    raw = bytes.fromhex(code)
    path = library(tmp_path / "x", {"work": raw})
    [use] = tzcnt.look(path, "x", [(0x401000, 0x401000 + len(raw))]).values()
    assert use.answer == answer, use.why


def test_the_verdict_on_a_foreign_file(tmp_path: Path) -> None:
    by_answer = {
        a: {n: bytes.fromhex(c) for n, (c, b) in CASES.items() if b == a} for a in ("harmless", "open", "needs")
    }
    good = audited(library(tmp_path / "good", by_answer["harmless"]), strict=True)
    assert good.passed
    assert not good.isa.warnings
    doubtful = audited(library(tmp_path / "doubtful", by_answer["open"]))
    assert (doubtful.passed, doubtful.summaries[0].verdict) == (True, "not proven")
    assert doubtful.summaries[0].unproven == len(by_answer["open"])
    assert not audited(tmp_path / "doubtful", strict=True).passed
    bad = audited(library(tmp_path / "bad", by_answer["needs"]))
    assert {v.what.partition(":")[0] for v in bad.violations} == by_answer["needs"].keys()
    assert all("sandybridge runs tzcnt as bsf" in v.what for v in bad.violations)


def test_a_jump_into_the_function_from_a_part_of_it_elsewhere_counts(tmp_path: Path) -> None:
    """The hot part tests the value; its unlikely part, after another function, comes back with a zero."""
    hot = bytes.fromhex("85ff740af30fbcc7c3") + b"\xcc" * 5  # test; je cold; L: tzcnt; ret
    cold = bytes.fromhex("ebf4")  # jmp L
    assert len(hot) == 14
    path = library(tmp_path / "x", {"work": hot, "work.cold": cold})
    [use] = tzcnt.look(path, "x", [(0x401000, 0x40100E)]).values()
    assert use.answer == "open"


def test_a_function_that_is_too_long_is_open(tmp_path: Path) -> None:
    raw = bytes.fromhex("81cf00010000f30fbcc7") + b"\x90" * (40 << 10) + ef.RET
    path = library(tmp_path / "x", {"work": raw})
    [use] = tzcnt.look(path, "x", [(0x401000, 0x401000 + len(raw))]).values()
    assert use.answer == "open"


def test_bytes_that_are_no_code_are_open(tmp_path: Path) -> None:
    path = library(tmp_path / "x", {"work": b"\x06" * 40})
    assert [u.answer for u in tzcnt.look(path, "x", [(0x401000, 0x401028), (0x10, 0x20)]).values()] == ["open", "open"]
