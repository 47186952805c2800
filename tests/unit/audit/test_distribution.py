"""Libraries of the distribution in the audit: accepted with evidence, and only they."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from unit import code as c
from unit import elf_files as ef
from unit.code import Part

from pikaforge.audit.audit import audit_compiled
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.elf.code import code_digest
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.config.waiver import Waiver

BASE = LinkageRules(base_libraries=("libc.so.*", "ld-linux-x86-64.so.*"))
MACROS = {
    "sandybridge": ("__AVX__", "__XSAVE__", "__SSE4_2__", "__SSE4_1__", "__SSSE3__", "__SSE3__", "__POPCNT__"),
    "nehalem": ("__SSE4_2__", "__SSE4_1__", "__SSSE3__", "__SSE3__", "__POPCNT__"),
    "haswell": ("__AVX__", "__AVX2__", "__BMI__", "__BMI2__", "__LZCNT__", "__XSAVE__", "__SSE3__"),
}
ASKS: Sequence[Part] = (c.LEAF_7, c.CPUID, c.HAS_AVX2, c.jne("yes"), c.RET, "yes:", c.jmp("fast"))
BLINDLY: Sequence[Part] = (c.jmp("fast"),)
FILE = "lib/liba.so.1"


def library(
    entry: Sequence[Part] = ASKS,
    fast: Sequence[Part] = (c.AVX2, c.RET),
    *,
    soname: str = "liba.so.1",
    more: Mapping[str, Sequence[Part]] | None = None,
) -> bytes:
    more = more or {}
    functions = {"sum": entry, "fast": fast, **more}
    return c.library(functions, exports=["sum", *more], soname=soname)


def program(code: bytes = ef.RET) -> bytes:
    return ef.make(
        ef.Elf(
            text=code,
            symbols=[("main", 0, len(code), ef.FUNC)],
            interpreter="/lib64/ld-linux-x86-64.so.2",
            needed=["liba.so.1"],
            runpath="$ORIGIN/../lib",
        )
    )


def packaged(data: bytes, tmp_path: Path, *, package: str = "liba1", version: str = "1.2-3") -> PackagedRecord:
    path = tmp_path / "in-the-package"
    path.write_bytes(data)
    return PackagedRecord(package=package, version=version, sha256="5" * 64, code=code_digest(path))


def judged(
    tmp_path: Path,
    tree: Mapping[str, bytes],
    distribution: Distribution | None,
    *,
    target: str = "sandybridge",
    waivers: Sequence[Waiver] = (),
) -> AuditResult:
    (tmp_path / "scratch").mkdir()
    for name, files in (("tree.tar", tree), ("debug.tar", {})):
        with tarfile.open(tmp_path / name, "w") as archive:
            for member, content in files.items():
                info = tarfile.TarInfo(f"./{member}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return audit_compiled(
        tmp_path / "tree.tar",
        [tmp_path / "debug.tar"],
        tmp_path / "scratch",
        label="debian12-x",
        target=target,
        flags_used=(f"-march={target}",),
        macros=[f"#define {name} 1" for name in MACROS[target]],
        bundled=[name for name in tree if name.startswith("lib/")],
        dropped=(),
        rules=Rules(linkage=BASE, distribution=distribution, waivers=tuple(waivers)),
        today=date(2026, 6, 15),
        workers=1,
    )


def accepted(
    tmp_path: Path, data: bytes, *, baseline: str = "x86_64", target: str = "sandybridge", **more: Any
) -> AuditResult:
    """The verdict on a tree with a program and the distribution's library."""
    known = Distribution(baseline=baseline, libraries={FILE: packaged(data, tmp_path, **more)})
    return judged(tmp_path, {"bin/x": program(), FILE: data}, known, target=target)


def test_a_library_that_asks_the_cpu_is_accepted_and_named(tmp_path: Path) -> None:
    found = accepted(tmp_path, library())
    assert found.passed, found.lines()
    [told] = found.isa.dispatched
    assert (told.file, told.package, told.version, told.sha256) == (FILE, "liba1", "1.2-3", "5" * 64)
    assert (told.functions, told.features) == (("fast",), ("avx2",))
    assert told.evidence == ("only by sum, which asks the CPU",)
    line = f"  dispatched: {FILE}, liba1 1.2-3 as its distribution has it: avx2 in fast; {told.evidence[0]}"
    assert line in found.lines()
    assert found.kernel_flags == (), "the CPU gate does not ask for what is only used where it is there"
    record = found.record()
    assert record.dispatched[0].evidence == told.evidence
    assert record.packaged[FILE].version == "1.2-3"


def test_the_same_library_of_nobody_is_refused(tmp_path: Path) -> None:
    [violation] = judged(tmp_path, {"bin/x": program(), FILE: library()}, None).violations
    assert violation.what.startswith("fast: avx2 x1; ")
    assert "only by sum, which asks the CPU" in violation.what, "what speaks for it is said, for who writes a waiver"


def test_a_program_of_ours_is_never_accepted(tmp_path: Path) -> None:
    """Not even one that holds the very code of the distribution's library."""
    data = library()
    known = Distribution(baseline="x86_64", libraries={FILE: packaged(data, tmp_path)})
    found = judged(tmp_path, {"bin/x": data, FILE: data}, known)
    assert [v.where for v in found.violations] == ["bin/x"]


@pytest.mark.parametrize(
    ("entry", "more"),
    [
        (BLINDLY, {}),
        (ASKS, {"other": (c.call("fast"), c.RET)}),
        ((c.TEST_EDI, *ASKS[3:]), {}),
    ],
)
def test_without_evidence_it_is_refused_with_the_way(
    entry: Sequence[Part], more: Mapping[str, Any], tmp_path: Path
) -> None:
    [violation] = accepted(tmp_path, library(entry, more=more)).violations
    assert violation.where == FILE
    assert "sandybridge lacks avx2; reached without a question to the CPU: " in violation.what


def test_one_function_without_evidence_refuses_the_library(tmp_path: Path) -> None:
    found = accepted(tmp_path, library(more={"other": (c.BMI2, c.RET)}))
    [violation] = found.violations
    assert violation.what.startswith("other: bmi2 x1; ")
    assert [told.functions for told in found.isa.dispatched] == [("fast",)]


def test_an_altered_library_is_not_the_distributions(tmp_path: Path) -> None:
    known = Distribution(baseline="x86_64", libraries={FILE: packaged(library(), tmp_path)})
    other = library(fast=(c.AVX2, c.AVX2, c.RET))
    found = judged(tmp_path, {"bin/x": program(), FILE: other}, known)
    assert not found.passed
    assert found.packaged == {}
    assert f"{FILE}: not taken for the distribution's own: its code is not that of liba1 1.2-3" in found.notes


def test_why_a_library_is_not_the_distributions_is_said(tmp_path: Path) -> None:
    known = Distribution(baseline="x86_64", strangers={FILE: "no package has brought it", "lib/other": "x"})
    found = judged(tmp_path, {"bin/x": program(), FILE: library()}, known)
    assert not found.passed
    assert found.notes == (f"{FILE}: not taken for the distribution's own: no package has brought it",)


def test_a_target_below_the_distributions_promise(tmp_path: Path) -> None:
    found = accepted(tmp_path, library(), baseline="haswell", target="nehalem")
    assert not found.passed
    [note] = found.notes
    assert note.startswith(
        f"{FILE}: not taken for the distribution's own: its distribution is for haswell, and nehalem"
    )


def test_a_known_dispatcher_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    flagged = library(
        (c.TEST_EDI, c.jne("yes"), c.RET, "yes:", c.jmp("fast")),
        (c.BMI2, c.RET),
        soname="libzstd.so.1",
        more={"ask": (c.LEAF_7, c.CPUID, c.RET)},
    )
    for folder, (package, version, passed) in enumerate(
        (("libzstd1", "1.5.4+dfsg2-5", True), ("libzstd1", "1.6.0-1", False), ("libother1", "1.5.4", False))
    ):
        place = tmp_path / str(folder)
        place.mkdir()
        found = accepted(place, flagged, package=package, version=version)
        assert found.isa.violations == () if passed else found.isa.violations
        assert bool(found.isa.dispatched) is passed


@pytest.mark.parametrize(("entry", "flags"), [(ASKS, ()), (BLINDLY, ("avx", "avx2"))])
def test_the_gate_asks_for_what_the_target_has_only_where_it_is_used_unasked(
    entry: Sequence[Part], flags: Sequence[str], tmp_path: Path
) -> None:
    found = accepted(tmp_path, library(entry, (c.AVX2, ef.AVX, c.RET)), target="haswell")
    assert found.passed
    assert found.kernel_flags == tuple(flags)
    assert found.isa.dispatched == (), "nothing had to be accepted"


def test_what_the_distribution_promises_anyway_is_no_finding(tmp_path: Path) -> None:
    sse42 = bytes.fromhex("f20f38f1c7")  # crc32l %edi,%eax
    found = accepted(tmp_path, library(BLINDLY, (sse42, c.RET)), baseline="x86_64_v2", target="nehalem")
    assert found.passed
    assert found.kernel_flags == ("sse4_2",)


def test_tzcnt_is_judged_as_before(tmp_path: Path) -> None:
    found = accepted(tmp_path, library(BLINDLY, (ef.TZCNT, c.RET)))
    assert found.passed
    assert [w.where for w in found.isa.warnings] == [FILE]
    assert found.isa.dispatched == ()


def test_evidence_comes_before_waivers(tmp_path: Path) -> None:
    waiver = Waiver(
        file="lib/*.so.*", function="fast", features=("avx2",), reason="somebody has looked at it", expires="2027-01-01"
    )
    data = library()
    known = Distribution(baseline="x86_64", libraries={FILE: packaged(data, tmp_path)})
    found = judged(tmp_path, {"bin/x": program(), FILE: data}, known, waivers=[waiver])
    assert [v.what for v in found.violations] == ["waiver for avx2 in fast of lib/*.so.* is unused: remove it"]
