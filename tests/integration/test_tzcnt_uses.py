"""What gcc makes of counts of trailing zeros: for any CPU, and for CPUs with BMI1."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
ANSWERS = dict.fromkeys(("known", "guarded", "bits", "made", "differ", "cases"), "harmless")
ANSWERS |= dict.fromkeys(("unknown", "fall"), "open")
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
