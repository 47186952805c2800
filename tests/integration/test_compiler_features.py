"""This machine's gcc and the table of features agree, for every target that gcc knows."""

from __future__ import annotations

import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

from pikaforge.audit.allowed_features import from_gcc
from pikaforge.audit.audit import audit_paths
from pikaforge.config import load
from pikaforge.cpu import microarch

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 6, 15)
# Loops that compilers make vectors of, counts of bits, shifts by variables, sums and products of floating point.
PROGRAM = """
#include <stdint.h>
#include <string.h>
float sum(const float *a, const float *b, int n) {
    float s = 0;
    for (int i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}
void mix(uint64_t *a, const uint64_t *b, int n) { for (int i = 0; i < n; i++) a[i] = (a[i] << (b[i] & 63)) ^ b[i]; }
int bits(const uint64_t *a, int n) {
    int c = 0;
    for (int i = 0; i < n; i++)
        c += __builtin_popcountll(a[i]) + (a[i] ? __builtin_clzll(a[i]) : 0);
    return c;
}
void small(signed char *a, const signed char *b, int n) { for (int i = 0; i < n; i++) a[i] = a[i] * b[i] + 3; }
int main(int c, char **v) { float f[64]; memset(f, c, sizeof f); return (int)sum(f, f, 64) + (v != 0); }
"""


def known() -> list[str]:
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return sorted(name for name in microarch.known() if microarch.resolve(name, version).possible)


def test_no_macro_of_a_build_is_refused() -> None:
    """What is left to be refused is archspec's word alone, of which the compiler knows nothing."""
    targets = known()
    assert len(targets) > 15
    for target in targets:
        found = from_gcc(target)
        assert not found.warning, target
        assert found.refused.keys() <= {"fsgsbase", "pku", "amx_tile", "amx_int8", "amx_bf16"}, target


def test_what_this_compiler_makes_for_each_target_of_the_matrix_is_allowed(tmp_path: Path) -> None:
    spec = load.load(ROOT / "matrix.yaml")
    source = tmp_path / "x.c"
    source.write_text(PROGRAM, encoding="utf-8")
    targets = sorted({microarch.common_target(model.cpus) for model in spec.hardware.values()} & set(known()))
    assert targets
    for target in targets:
        allowed = from_gcc(target)
        flags = allowed.source.partition("-")[2].split()
        path = tmp_path / target
        subprocess.run(["gcc", f"-{flags[0]}", *flags[1:], "-O3", "-ffast-math", "-o", path, source], check=True)
        scratch = tmp_path / f"{target}.scratch"
        [found] = audit_paths([path], scratch, target=target, today=TODAY, allowed=allowed, workers=1)
        assert found.passed, "\n".join(found.lines())
        assert not found.isa.warnings, target
