"""What gcc makes of counts of trailing zeros: for any CPU, and for CPUs with BMI1."""

from __future__ import annotations

import ctypes
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from thorough import whole

from pikaforge.audit.allowed_features import free
from pikaforge.audit.isa import tzcnt
from pikaforge.audit.isa.decode import CodeSource, scan

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

ANY_CPU = """
int known(unsigned x) { return x ? __builtin_ctz(x) : 32; }
int guarded(unsigned long x) { if (!x) return -1; return __builtin_ctzl(x); }
int bits(unsigned long m, int *o) { int n = 0; while (m) { o[n++] = __builtin_ctzl(m); m &= m - 1; } return n; }
int made(unsigned x) { return __builtin_ctz(x | 256); }
int differ(const unsigned long *a, const unsigned long *b) {
  return *a != *b ? __builtin_ctzl(*a ^ *b) >> 3 : 8; }
int cases(int k, unsigned x, unsigned *o) {
  switch (k) {
    case 0: return x ? __builtin_ctz(x) : 1;
    case 1: *o = x; return 7;
    case 2: *o = x + 3; return 9;
    case 3: *o = x ^ 3; return x ? __builtin_ctz(x) + 2 : 2;
    case 4: *o = x * 3; return 11;
    case 5: *o = x - 3; return 13;
    default: return 0; } }
int place(const unsigned *p) { return *p ? __builtin_ctz(*p) : 32; }
int field(const unsigned long *p, unsigned long *o) {
  if (!p[1]) return 5; *o = p[1]; return __builtin_ctzl(*o); }
int written(const unsigned *p, unsigned *o) { if (!*p) return 5; *o = 7; return __builtin_ctz(*p); }
int unknown(unsigned x) { return __builtin_ctz(x); }
int fall(int k, unsigned x, unsigned *o) {
  if (!x) return 0;
  switch (k) {
    case 0: *o = 1; break;
    case 1: *o = x; return 7;
    case 2: *o = x + 3; return 9;
    case 3: x = *o; break;
    case 4: *o = x * 3; return 11;
    case 5: *o = x - 3; return 13; }
  return __builtin_ctz(x); }
"""
ANSWERS = dict.fromkeys(("known", "guarded", "bits", "made", "differ", "cases", "place", "field"), "harmless")
ANSWERS |= dict.fromkeys(("unknown", "fall", "written"), "open")
BMI = """
#include <immintrin.h>
int carry(unsigned x) { unsigned n = _tzcnt_u32(x); return n == 32 ? 7 : n; }
int plain(unsigned x) { return _tzcnt_u32(x); }
int stored(unsigned x, unsigned *p) { *p = _tzcnt_u32(x); return x == 0 ? 5 : 6; }
"""
BMI_ANSWERS = {"carry": "needs", "plain": "open", "stored": "open"}


@pytest.mark.parametrize(
    ("text", "flags", "answers"), [(ANY_CPU, (), ANSWERS), (BMI, ("-mbmi",), BMI_ANSWERS)], ids=("any", "bmi")
)
@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_what_gcc_makes(text: str, flags: tuple[str, ...], answers: dict[str, str], level: str, tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(text, encoding="utf-8")
    path = tmp_path / "x.so"
    subprocess.run(
        ["gcc", level, *flags, "-mtune=generic", "-fPIC", "-shared", "-o", path, tmp_path / "x.c"], check=True
    )
    [found] = scan([CodeSource(file="x", path=path)], free(), workers=1)
    uses = {
        hit.function: tzcnt.worst(tzcnt.look(path, "x", hit.pieces).values()).answer
        for hit in found.hits
        if hit.feature == "tzcnt"
    }
    assert uses == {name: answer for name, answer in answers.items() if name in uses}
    assert len(uses) >= len(answers) - 1, "gcc writes nearly all of them as TZCNT"


# --- random functions, run by this machine --------------------------------------------------------------------------

WIDE, NARROW, BYTES = (
    ("rax", "rcx", "rdx", "rsi", "rdi"), ("eax", "ecx", "edx", "esi", "edi"), ("al", "cl", "dl", "sil", "dil"),
)  # fmt: skip
CONDITIONS = ("e", "ne", "a", "ae", "b", "be", "g", "ge", "l", "le", "s", "ns")
VALUES = (0, 1, 2, 5, 8, 0x100, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
LOAD = "mov (%r8),%rax; mov 8(%r8),%rcx; mov 16(%r8),%rdx; mov 24(%r8),%rsi; mov 32(%r8),%rdi"
FRAME = (
    f"mov %rdi,%r8; mov %rdi,%r10; mov $3,%r9d; {LOAD}",
    "mov %rax,(%r8); mov %rcx,8(%r8); mov %rdx,16(%r8); mov %rsi,24(%r8); mov %rdi,32(%r8); ret",
)
"""What a function begins and ends with: its argument points to the values of five registers."""


def memory(dice: random.Random) -> str:
    """A place in memory; %r10 points to one of two."""
    return f"{dice.choice((0, 0, 4, 8))}({dice.choice(('%r8', '%r10', '%r10'))})"


def count(dice: random.Random) -> str:
    names = dice.choice((WIDE, NARROW))
    if dice.random() < 0.4:
        return f"COUNT {memory(dice)},%{dice.choice(names)}"
    return f"COUNT %{dice.choice(names)},%{dice.choice(names)}"


def operation(dice: random.Random) -> str:
    names = dice.choice((WIDE, NARROW))
    a, b = dice.choice(names), dice.choice(names)
    place, number = names.index(a), dice.choice((0, 1, 2, 8, 31, 32, 64, -1, 0x100))
    if dice.random() < 0.3:
        name = dice.choice(("mov", "mov", "and", "or", "sub", "xor"))
        return dice.choice((
            f"mov {memory(dice)},%{a}", f"mov {memory(dice)},%{a}", f"{name} %{a},{memory(dice)}",
            f"{name}{dice.choice('lq')} ${number},{memory(dice)}", f"movb %{BYTES[place]},{memory(dice)}",
            f"xchg %{a},{memory(dice)}", "mov %r8,%r10", "lea 8(%r8),%r10", f"or {memory(dice)},%{a}",
        ))  # fmt: skip
    return dice.choice((
        f"mov %{b},%{a}", f"mov %{b},%{a}", f"mov ${number},%{NARROW[place]}", f"neg %{a}", f"bswap %{a}",
        f"{dice.choice(('add', 'sub', 'and', 'or', 'xor'))} %{b},%{a}", f"xor %{a},%{a}",
        f"{dice.choice(('add', 'sub', 'and', 'or', 'xor'))} ${number},%{a}", f"{dice.choice(('inc', 'dec'))} %{a}",
        f"movzbl %{BYTES[names.index(b)]},%{NARROW[place]}", f"mov %{BYTES[names.index(b)]},%{BYTES[place]}",
        f"movslq %{NARROW[names.index(b)]},%{WIDE[place]}", f"bts ${dice.choice((0, 5, 31))},%{a}",
        f"{dice.choice(('shl', 'shr', 'sar', 'rol'))} ${dice.choice((0, 1, 3, 31))},%{a}",
        f"lea {number}(%{WIDE[names.index(b)]},%{WIDE[place]}),%{a}", f"cmov{dice.choice(CONDITIONS)} %{b},%{a}",
        f"set{dice.choice(CONDITIONS)} %{BYTES[place]}",
    ))  # fmt: skip


def comparison(dice: random.Random) -> str:
    names = dice.choice((WIDE, NARROW, BYTES))
    a, b = dice.choice(names), dice.choice(names)
    if dice.random() < 0.4:
        place = memory(dice)
        return dice.choice((f"cmp{dice.choice('lqb')} $0,{place}", f"cmpq $0,{place}", f"cmp %{a},{place}",
                            f"test{dice.choice('lq')} $8,{place}"))  # fmt: skip
    return dice.choice(
        (f"test %{a},%{a}", f"test %{a},%{a}", f"cmp ${dice.choice((0, 1, 3, -1, 5))},%{a}", f"cmp %{b},%{a}",
         f"test %{b},%{a}")
    )  # fmt: skip


def function(dice: random.Random) -> list[str]:
    """The lines of a random function that ends: it goes back at most four times."""
    lines, size = ["T0:"], dice.randrange(4, 12)
    for at in range(size):
        kind = dice.random()
        if kind < 0.35:
            lines += [
                comparison(dice),
                f"j{dice.choice(('e', 'ne') * 4 + CONDITIONS)} T{dice.randrange(at + 1, size + 1)}",
            ]
        elif kind < 0.4:
            lines.append(f"jmp T{dice.randrange(at + 1, size + 1)}")
        elif kind < 0.47 and at > 1:
            lines += ["dec %r9d", f"jns T{dice.randrange(at)}"]
        else:
            lines.append(count(dice) if kind < 0.68 else operation(dice))
        lines.append(f"T{at + 1}:")
    return lines


def assembled(functions: list[list[str]], folder: Path) -> Path:
    """A library with each function twice: with TZCNT (t0, t1, …), and with BSF (b0, b1, …)."""
    text = ""
    for kind, instruction in (("t", "tzcnt"), ("b", "bsf")):
        for number, lines in enumerate(functions):
            body = "\n".join((FRAME[0], *lines, FRAME[1])).replace("COUNT", instruction)
            name = f"{kind}{number}"
            text += f".globl {name}\n.type {name},@function\n{name}:\n" + re.sub(r"\bT(\d+)", rf".L{name}_\1", body)
            text += f"\n.size {name},.-{name}\n"
    (folder / "x.s").write_text(text, encoding="utf-8")
    subprocess.run(["gcc", "-nostdlib", "-shared", "-o", folder / "x.so", folder / "x.s"], check=True)
    return folder / "x.so"


@pytest.mark.skipif("bmi1" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"), reason="needs a CPU with TZCNT")
def test_what_is_harmless_gives_the_same_with_bsf(tmp_path: Path) -> None:
    """On every input, with both instructions, in all registers."""
    dice = random.Random(14)
    functions = [function(dice) for _ in range(20_000 if whole("audit") else 400)]
    functions = [lines for lines in functions if any(line.startswith("COUNT") for line in lines)]
    path = assembled(functions, tmp_path)
    [found] = scan([CodeSource(file="x", path=path)], free(), workers=1)
    pieces = {hit.function: hit.pieces for hit in found.hits if hit.feature == "tzcnt"}
    uses = tzcnt.look(path, "x", [piece for held in pieces.values() for piece in held], work=1 << 40)
    library = ctypes.CDLL(str(path))
    inputs = [tuple(dice.choice(VALUES) for _ in range(5)) for _ in range(40)] + [(value,) * 5 for value in VALUES]
    harmless = 0
    for number, lines in enumerate(functions):
        if tzcnt.worst(uses[piece] for piece in pieces[f"t{number}"]).answer != "harmless":
            continue
        harmless += 1
        for given in inputs:
            one, two = ((ctypes.c_uint64 * 5)(*given) for _ in range(2))
            getattr(library, f"t{number}")(one)
            getattr(library, f"b{number}")(two)
            assert list(one) == list(two), (lines, given)
    assert harmless > 5
