"""Libraries in glibc-hwcaps are judged for their level, and do not reach the gate's list."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import AuditResult

SANDYBRIDGE = from_macros(
    [f"#define __{m}__ 1" for m in ("AVX", "SSE4_2", "SSE4_1", "SSSE3", "SSE3", "POPCNT")], "sandybridge"
)
V3, V4 = "lib/glibc-hwcaps/x86-64-v3/libx.so.1", "lib/glibc-hwcaps/x86-64-v4/libx.so.1"
PLAIN = "lib/libx.so.1"


def library(code: bytes, *, runpath: str = "", needed: str = "") -> bytes:
    return ef.make(
        ef.Elf(
            text=code + ef.RET,
            symbols=[("sum", 0, len(code) + 1, ef.FUNC)],
            soname="libx.so.1",
            runpath=runpath,
            needed=[needed] if needed else [],
        )
    )


def judged(tmp_path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> AuditResult:
    top = tmp_path / "tree"
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    for name, target in (links or {}).items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to(target)
    [result] = audit_paths(
        [top], tmp_path / "scratch", target="sandybridge", today=date(2026, 1, 1), allowed=SANDYBRIDGE, workers=1
    )
    return result


def refused(result: AuditResult) -> set[str]:
    return {line.where for line in result.isa.violations}


def test_a_library_is_judged_for_its_level(tmp_path: Path) -> None:
    files = {PLAIN: library(ef.AVX), V3: library(ef.AVX2), V4: library(ef.AVX512)}
    result = judged(tmp_path, files, {"lib/glibc-hwcaps/x86-64-v3/libx.so": "libx.so.1"})
    assert refused(result) == set()
    assert "avx2" not in result.isa.used
    assert "avx" in result.isa.used  # by the plain one
    assert f"{V3}: judged for x86_64_v3: the loader takes it only on such CPUs" in result.notes


def test_more_than_the_level_is_refused(tmp_path: Path) -> None:
    assert refused(judged(tmp_path, {PLAIN: library(ef.AVX), V3: library(ef.AVX512)})) == {V3}


@pytest.mark.parametrize(
    "place",
    [
        "lib/glibc-hwcaps/x86-64-v5/libx.so.1",
        "lib/glibc-hwcaps/x86-64-v3/more/libx.so.1",
        "lib/hwcaps/x86-64-v3/libx.so.1",
        "lib/notglibc-hwcaps/x86-64-v3/libx.so.1",
    ],
)
def test_other_folders_have_no_level(place: str, tmp_path: Path) -> None:
    assert refused(judged(tmp_path, {PLAIN: library(ef.AVX), place: library(ef.AVX2)})) == {place}


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({PLAIN: library(ef.AVX, runpath="$ORIGIN/glibc-hwcaps/x86-64-v3")}, {}),
        ({PLAIN: library(ef.AVX, needed="lib/glibc-hwcaps/x86-64-v3/libx.so.1")}, {}),
        ({}, {PLAIN: "glibc-hwcaps/x86-64-v3/libx.so.1"}),
        ({}, {"lib/fast": "glibc-hwcaps/x86-64-v3"}),
        ({}, {"lib/glibc-hwcaps/x86-64-v2": "x86-64-v3"}),
    ],
)
def test_a_library_that_is_found_in_another_way(
    files: Mapping[str, bytes], links: Mapping[str, str], tmp_path: Path
) -> None:
    assert V3 in refused(judged(tmp_path, {**files, V3: library(ef.AVX2)}, links))
