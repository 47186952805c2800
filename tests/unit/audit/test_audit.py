"""The audit as a whole: which verdict each kind of finding leads to, and how it is told."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from unit import elf_files as ef

from pikaforge.audit.allowed_features import Allowed, from_macros
from pikaforge.audit.audit import audit_compiled, audit_paths
from pikaforge.audit.audit_result import AuditResult, Rules, demangled, material
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.config.waiver import Waiver
from pikaforge.errors import AuditError
from pikaforge.host import process

TODAY = date(2026, 6, 15)
LOADER = "/lib64/ld-linux-x86-64.so.2"
MACROS = [f"#define {m} 1" for m in ("__AVX__", "__XSAVE__", "__SSE4_2__")]
BASE = LinkageRules(base_libraries=("libc.so.*", "ld-linux-x86-64.so.*"))
FLAGS = ("-march=sandybridge", "-mtune=sandybridge")
AES = bytes.fromhex("660f38dcc1")  # aesenc %xmm1,%xmm0


def program(code: bytes, *, name: str = "work", **more: Any) -> ef.Elf:
    text = code + ef.RET
    return ef.Elf(text=text, symbols=[(name, 0, len(text), ef.FUNC)], interpreter=LOADER, **more)


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def compiled(
    tmp_path: Path, tree: Mapping[str, ef.Elf | bytes], *, debug: dict[str, ef.Elf] | None = None, **more: Any
) -> AuditResult:
    rules = Rules(linkage=BASE, forbidden=("/forge",), waivers=more.pop("waivers", ()), image="debian12")
    fields: dict[str, Any] = {
        "target": "sandybridge",
        "flags_used": FLAGS,
        "macros": MACROS,
        "bundled": (),
        "dropped": (),
    }
    return audit_compiled(
        tar(tmp_path / "tree.tar", {n: e if isinstance(e, bytes) else ef.make(e) for n, e in tree.items()}),
        [tar(tmp_path / "debug.tar", {f"{n}.debug": ef.make(e) for n, e in (debug or {}).items()})],
        tmp_path / "scratch",
        label="debian12-sandybridge-none",
        rules=rules,
        today=TODAY,
        workers=1,
        **{**fields, **more},
    )


def waiver(**more: Any) -> Waiver:
    fields = {
        "file": "bin/x",
        "function": "work",
        "features": ("avx2",),
        "reason": "asks the CPU first",
        "expires": "2026-12-31",
    }
    return Waiver.model_validate({**fields, **more})


def test_a_tree_that_passes(tmp_path: Path) -> None:
    found = compiled(
        tmp_path, {"bin/x": program(ef.AVX + ef.ENDBR + ef.LONG_NOP + ef.PREFETCHW + ef.RDSSP), "conf": b"a"}
    )
    assert found.passed, found.lines()
    assert found.kernel_flags == ("avx",)
    assert found.lines()[0].startswith("debian12-sandybridge-none: passed for sandybridge (1 ELF file, ")
    assert "  needs of the CPU: avx" in found.lines()


@pytest.mark.parametrize(
    ("code", "feature"),
    [(ef.AVX2, "avx2"), (ef.LZCNT, "lzcnt"), (ef.TZCNT, "tzcnt"), (ef.FMA, "fma"), (ef.AVX512, "avx512f"),
     (ef.INCSSP, "cet_ss"), (ef.BAD, "invalid"), (ef.BROADCAST_REGISTER, "avx2")],
)  # fmt: skip
def test_what_the_target_lacks_is_refused(code: bytes, feature: str, tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(code)})
    [line] = found.violations
    assert line.where == "bin/x"
    assert line.what.startswith(f"work: {feature} x1; first at 0x401000: {code.hex(' ')}  ")
    assert line.do
    assert not set(found.kernel_flags) & {"avx2", "abm", "bmi1", "fma"}


def test_the_silent_ones_say_so(tmp_path: Path) -> None:
    [line] = compiled(tmp_path, {"bin/x": program(ef.LZCNT)}).violations
    assert "sandybridge runs lzcnt as bsr: no trap, a wrong result" in line.what


def test_tzcnt_only_warns_in_prebuilt_libraries_and_lzcnt_never(tmp_path: Path) -> None:
    library = replace(program(ef.TZCNT), interpreter="", soname="liba.so.1")
    tree = {"bin/x": program(ef.AVX, needed=["liba.so.1"], runpath="$ORIGIN/../lib"), "lib/liba.so.1": library}
    found = compiled(tmp_path, tree, bundled=["lib/liba.so.1"])
    assert found.passed
    assert "tzcnt" in found.isa.warnings[0].what
    assert not compiled(tmp_path, tree).passed
    tree["lib/liba.so.1"] = replace(library, text=ef.LZCNT + ef.RET)
    [line] = compiled(tmp_path, tree, bundled=["lib/liba.so.1"]).violations
    assert line.where == "lib/liba.so.1"


def test_what_only_archspec_allows_is_a_warning_and_wanted_by_the_gate(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(AES)})
    assert found.passed
    assert "aes" in found.kernel_flags
    assert "not all of these CPUs have it" in found.isa.warnings[0].what


def test_guarded_functions_are_noted(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.INCSSP, name="_Unwind_Resume")})
    assert found.passed
    assert "guarded (cet_ss)" in found.isa.notes[0]
    assert found.kernel_flags == ()


def test_a_waiver_lets_pass_and_its_features_are_not_asked_of_the_cpu(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.AVX2)}, waivers=(waiver(),))
    assert found.passed
    assert found.kernel_flags == ()
    assert "waived (avx2): asks the CPU first (until 2026-12-31)" in found.isa.notes[0]


def test_an_expired_waiver_fails_twice(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.AVX2)}, waivers=(waiver(expires="2026-06-14"),))
    assert [v.where for v in found.violations] == ["bin/x", "waivers"]


def test_an_unused_waiver_fails(tmp_path: Path) -> None:
    [line] = compiled(tmp_path, {"bin/x": program(ef.AVX)}, waivers=(waiver(),)).violations
    assert str(line) == "waivers: waiver for avx2 in work of bin/x is unused: remove it"


def test_flags_come_from_the_separate_debug_information(tmp_path: Path) -> None:
    good = program(ef.AVX)
    debug = replace(good, debug=ef.dwarf([("GNU C17 -march=native", "a.c"), ("GNU C17 -march=sandybridge", "b.c")]))
    found = compiled(tmp_path, {"bin/x": good}, debug={"bin/x": debug}, dropped=[(7, "-march=native")])
    [line] = found.violations
    assert "1 units, such as a.c, were compiled for the machine that built them" in line.what
    assert found.record().dropped_flags == ((7, "-march=native"),)


def test_build_paths_and_missing_libraries_are_refused(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.AVX, needed=["libgone.so"], runpath="/forge/lib")})
    assert len(found.violations) == 3
    assert {v.where for v in found.violations} == {"bin/x"}


def test_a_broken_file_in_a_tree_is_a_violation(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.AVX), "lib/broken.so": ef.make(ef.Elf())[:300]})
    [line] = found.violations
    assert (line.where, "truncated or corrupt" in line.what) == ("lib/broken.so", True)


def test_32_bit_code_is_a_violation_and_other_machines_are_noted(tmp_path: Path) -> None:
    arm = ef.make(ef.Elf(machine=183))
    found = compiled(tmp_path, {"bin/x": program(ef.AVX), "lib/arm.so": arm, "lib/i386.so": elf32()})
    assert ["32-bit" in v.what for v in found.violations] == [True]
    assert ["AArch64" in line.what for line in found.not_judged] == [True]


def elf32() -> bytes:
    """The header of a 32-bit i386 library, with one segment of code."""
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 3, 3, 1, 0x1000, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    return head + struct.pack("<IIIIIIII", 1, 0, 0x1000, 0x1000, 100, 100, 5, 4096) + b"\xc3" * 100


def test_no_macros_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no compiler macros"):
        compiled(tmp_path, {"bin/x": program(ef.AVX)}, macros=[])


def test_nothing_to_judge_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no x86-64 program"):
        compiled(tmp_path, {"conf": b"a"})


def allowed() -> Allowed:
    return from_macros(MACROS, "sandybridge", source="test")


def test_foreign_files_are_judged_each_for_itself(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(ef.make(program(ef.TZCNT, needed=["libany.so.3"])))
    bad.write_bytes(ef.make(program(ef.FMA)))
    results = audit_paths(
        [good, bad], tmp_path / "scratch", target="sandybridge", today=TODAY, allowed=allowed(), workers=1,
        rules=Rules(waivers=(waiver(),)),
    )  # fmt: skip
    assert [(r.title, r.passed) for r in results] == [(str(good), True), (str(bad), False)]
    assert results[0].linkage.system == ("libany.so.3",)


def test_a_broken_foreign_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(ef.make(ef.Elf())[:200])
    with pytest.raises(AuditError, match="truncated"):
        audit_paths([path], tmp_path / "scratch", target="sandybridge", today=TODAY, allowed=allowed(), workers=1)


def test_the_facts_are_plain_data(tmp_path: Path) -> None:
    found = compiled(tmp_path, {"bin/x": program(ef.AVX2 + ef.AVX)}, dropped=[(1, "-O9")])
    plain = found.record().model_dump(mode="json")
    assert (plain["passed"], plain["target"], plain["kernel_flags"]) == (False, "sandybridge", ["avx"])
    assert plain["findings"][0]["function"] == "work"
    assert plain["findings"][0]["code"] == ef.AVX2.hex()
    assert plain["hardening"] == [{"file": "bin/x", "pie": "pie", "relro": "none", "canary": False}]


def test_long_verdicts_are_cut_and_counted(tmp_path: Path) -> None:
    text = (ef.AVX2 + ef.RET) * 9
    elf = replace(program(b""), text=text, symbols=[(f"f{i}", 5 * i, 5, ef.FUNC) for i in range(9)])
    lines = compiled(tmp_path, {"bin/x": elf}).lines(limit=4)
    assert sum(line.startswith("  violation: bin/x: f") for line in lines) == 4
    assert "  violation: … and 5 more" in lines
    assert sum("to do:" in line for line in lines) == 1


def test_the_key_changes_with_what_decides_the_verdict() -> None:
    def made(day: date = TODAY, **more: Any) -> dict[str, Any]:
        rules = replace(Rules(linkage=BASE, waivers=(waiver(),)), **more)
        return json.loads(json.dumps(material(rules, target="sandybridge", flags_used=FLAGS, today=day)))  # type: ignore[no-any-return]

    assert made() == made(date(2026, 12, 31))
    assert made() != made(date(2027, 1, 1))
    assert made() != made(forbidden=("/forge",))
    assert made() != made(linkage=replace(BASE, maxima={"GLIBC": "2.17"}))
    assert made() != made(waivers=())


def test_names_are_demangled_where_something_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], **more: Any) -> process.Completed:
        assert more["stdin"] == b"_Z1fv\n_Z1gi"
        return process.Completed(argv=tuple(argv), status=0, stdout=b"f()\ng(int)\n", stderr=b"")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "find", lambda _name: "/usr/bin/c++filt")
    assert demangled(["a: _Z1gi: x", "b", "_Z1fv"]) == ["a: g(int) [_Z1gi]: x", "b", "f() [_Z1fv]"]
    monkeypatch.setattr(process, "find", lambda _name: None)
    assert demangled(["_Z1fv"]) == ["_Z1fv"]
