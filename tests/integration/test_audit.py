"""The audit against programs that this machine's gcc makes, and against what the distribution ships."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from thorough import whole

from pikaforge.audit.allowed_features import Allowed, free, from_gcc
from pikaforge.audit.audit import audit_paths, audit_tree
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.elf.facts import facts_of, read_facts
from pikaforge.audit.elf.frames import read_frames
from pikaforge.audit.elf.layout import is_elf, read_layout
from pikaforge.audit.inputs import open_inputs
from pikaforge.audit.isa.decode import CodeSource, code_regions, scan
from pikaforge.audit.isa.worker_pool import CHUNK_BYTES
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.config.waiver import Waiver
from pikaforge.cpu import microarch
from pikaforge.cpu.features import table
from pikaforge.errors import AuditError

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

TODAY = date(2026, 6, 15)
TARGET = ("-march=sandybridge", "-mtune=sandybridge")
BASE = LinkageRules(
    base_libraries=("libc.so.*", "libm.so.*", "libstdc++.so.*", "libgcc_s.so.*", "ld-linux-x86-64.so.*")
)
LATER_MACROS = {  # gcc 13 and 14 brought these (gcc-13/changes.html, gcc-14/changes.html)
    "__AMX_COMPLEX__", "__AMX_FP16__", "__AVXIFMA__", "__AVXNECONVERT__", "__AVXVNNIINT16__", "__AVXVNNIINT8__",
    "__CMPCCXADD__", "__PREFETCHI__", "__RAOINT__", "__SHA512__", "__SM3__", "__SM4__",
}  # fmt: skip
DROPPED_MACROS = {"__MPX__", "__PCOMMIT__", "__AVX5124FMAPS__", "__AVX5124VNNIW__", "__AVX512ER__", "__AVX512PF__",
                  "__PREFETCHWT1__"}  # fmt: skip
"""gcc 9 and gcc 15 removed these."""

PLANTED: dict[str, tuple[str, str, str]] = {
    "avx2": ("avx2", "avx2", "__m256i planted(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }"),
    "lzcnt": ("lzcnt", "lzcnt", "int planted(unsigned a) { return __builtin_clz(a); }"),
    "fma": ("fma", "fma", "__m128 planted(__m128 a, __m128 b, __m128 c) { return _mm_fmadd_ps(a, b, c); }"),
    "bmi2": ("bmi2", "bmi2", "unsigned long planted(unsigned long a, unsigned long b) { return _pdep_u64(a, b); }"),
    "movbe": ("movbe", "movbe", "unsigned planted(unsigned *a) { return __builtin_bswap32(*a); }"),
    "avx512": ("avx512f", "avx512f", "__m512i planted(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }"),
    "tzcnt": ("bmi", "tzcnt", "int planted(unsigned a) { return _tzcnt_u32(a); }"),
}
"""Target attribute, feature that must be found, function."""
LARGE = 4 << 20
"""Bytes of a program that a plain run leaves out."""
MAIN = "int main(int c, char **v) { return c + (v != 0); }\n"


def planted(case: str) -> str:
    attribute, _, text = PLANTED[case]
    return f'#include <immintrin.h>\n__attribute__((noinline, used, target("{attribute}")))\n{text}\n'


def gcc(out: Path, source: str, *flags: str, march: tuple[str, ...] = TARGET, language: str = "c") -> Path:
    """Compile and link `source` to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    code = out.parent / f"{out.name}.{language}"
    code.write_text(source, encoding="utf-8")
    subprocess.run(
        ["gcc", *march, "-O2", "-g", f"-ffile-prefix-map={out.parent}=.", "-o", out, code, *flags],
        check=True,
        cwd=out.parent,
    )
    code.unlink()
    return out


@cache
def allowed() -> Allowed:
    return from_gcc("sandybridge")


def audit(root: Path, *, own: tuple[str, ...] = ("bin/x",), **more: Any) -> AuditResult:
    """The verdict on the tree below `root`, as if the files in `own` had been compiled here."""
    [tree] = open_inputs([root], root.parent / "scratch")
    rules = Rules(linkage=BASE, march="sandybridge", demand_waivers=True, image="debian12")
    return audit_tree(tree, allowed(), replace(rules, **more), today=TODAY, own=frozenset(own), workers=1)


def waiver(**more: Any) -> Waiver:
    fields = {"file": "bin/x", "function": "planted", "features": ("avx2",), "reason": "only after a check of the CPU",
              "expires": "2026-12-31"}  # fmt: skip
    return Waiver.model_validate({**fields, **more})


def told(found: AuditResult) -> str:
    return "\n".join(found.lines(limit=1000))


NAMED = {"lzcnt": "lzcnt", "tzcnt": "tzcnt"} | dict.fromkeys(
    ("bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"), "bmi2"
)


# --- what must fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PLANTED)
def test_planted_instructions_are_found_by_function_and_feature(case: str, tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", planted(case) + MAIN)
    found = audit(tmp_path / "t")
    [finding] = [f for f in found.isa.findings if f.level == "fail"]
    assert finding.function == "planted"
    assert PLANTED[case][1] in dict(finding.features)
    [line] = found.violations
    assert line.what.startswith("planted: ")


@pytest.mark.parametrize("case", PLANTED)
def test_planted_instructions_are_found_in_a_stripped_file(case: str, tmp_path: Path) -> None:
    path = gcc(tmp_path / "t/bin/x", planted(case) + MAIN)
    subprocess.run(["strip", path], check=True)
    [finding] = [f for f in audit(tmp_path / "t").isa.findings if f.level == "fail"]
    assert finding.function.startswith("range@0x")
    assert PLANTED[case][1] in dict(finding.features)


def test_a_stripped_file_takes_its_names_from_its_debug_information(tmp_path: Path) -> None:
    path = gcc(tmp_path / "x", planted("avx2") + MAIN)
    debug = tmp_path / "x.debug"
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    [before] = scan([CodeSource(file="x", path=path)], allowed().sure)
    subprocess.run(["strip", path], check=True)
    [after] = scan([CodeSource(file="x", path=path, debug=debug)], allowed().sure)
    assert [h.function for h in after.hits] == ["planted"]
    assert after == before


def test_planted_instructions_are_found_without_symbols_frames_and_sections(tmp_path: Path) -> None:
    path = gcc(tmp_path / "t/bin/x", planted("avx2") + MAIN, "-fno-asynchronous-unwind-tables")
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:62] = data[62:64] = bytes(2)  # e_shnum, e_shstrndx
    path.write_bytes(data)
    found = audit(tmp_path / "t")
    assert "avx2" in {n for f in found.isa.findings for n, _ in f.features if f.level == "fail"}


@pytest.mark.parametrize("case", ["avx2", "lzcnt"])
def test_offending_code_only_in_a_bundled_library(case: str, tmp_path: Path) -> None:
    root = tmp_path / "t"
    gcc(root / "lib/liba.so.1", planted(case), "-shared", "-fPIC", "-Wl,-soname,liba.so.1")
    gcc(root / "bin/x", MAIN, "-Wl,--no-as-needed", f"{root}/lib/liba.so.1", "-Wl,-rpath,$ORIGIN/../lib")
    found = audit(root)
    assert [v.where for v in found.violations] == ["lib/liba.so.1"], told(found)


def test_native_is_caught_by_the_flags(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", MAIN, march=("-march=native",))
    found = audit(tmp_path / "t")
    assert any("compiled for the machine that built them" in v.what for v in found.flags.violations), told(found)


def test_another_march_is_caught_by_the_flags_even_without_such_an_instruction(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", MAIN, march=("-march=haswell",))
    [line] = audit(tmp_path / "t").violations
    assert "-march=haswell instead of sandybridge" in line.what


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-Wl,-rpath,/build/lib"], "its RUNPATH has /build/lib"),
        (["-Wl,-z,execstack"], "asks for an executable stack"),
        (["-nostdlib", "-static", "-Wl,-N", "-Wl,-e,main"], "writable and executable"),
        (['-DPLACE="/forge/src"'], "holds paths of the build: /forge/src"),
    ],
)
def test_linkage(flags: list[str], words: str, tmp_path: Path) -> None:
    text = MAIN + "#ifdef PLACE\nconst char *place = PLACE;\n#endif\n"
    gcc(tmp_path / "t/bin/x", text, *flags)
    found = audit(tmp_path / "t", forbidden=("/forge",))
    assert any(words in str(v) for v in found.linkage.violations), told(found)


@pytest.mark.parametrize(("word", "doubted"), [("main", True), ("0", False)])
def test_text_relocations_are_not_proven(word: str, doubted: bool, tmp_path: Path) -> None:
    """The loader may make code of data by them."""
    gcc(tmp_path / "t/bin/x", f'{MAIN}asm(".text\\n.quad {word}");', "-fPIE", "-pie", "-Wl,-z,notext")
    lines = [str(line) for line in audit(tmp_path / "t").unproven]
    assert any("text relocations change its code" in line for line in lines) is doubted


def test_a_library_that_is_not_in_the_tree(tmp_path: Path) -> None:
    library = gcc(tmp_path / "elsewhere/libgone.so", "int gone;", "-shared", "-fPIC")
    gcc(tmp_path / "t/bin/x", MAIN, "-Wl,--no-as-needed", f"-L{library.parent}", "-lgone")
    [line] = audit(tmp_path / "t").violations
    assert "needs libgone.so" in line.what


def test_a_glibc_that_is_too_new_for_the_image(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", MAIN)
    rules = replace(BASE, maxima={"GLIBC": "2.17"})
    [line] = audit(tmp_path / "t", linkage=rules).violations
    assert "the image has at most GLIBC_2.17" in line.what


def test_expired_and_unused_waivers(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", planted("avx2") + MAIN)
    found = audit(tmp_path / "t", waivers=(waiver(expires="2026-06-14"), waiver(function="absent")))
    assert [v.where for v in found.violations] == ["bin/x", "waivers", "waivers"]


# --- what must pass ---------------------------------------------------------------------------------------------

VECTOR = """
float sum(const float *restrict a, float *restrict b, int n) {
  float s = 0;
  for (int i = 0; i < n; i++) { b[i] = a[i] * 2 + b[i]; s += b[i]; }
  return s;
}
int zeros(unsigned long v) { return v ? __builtin_ctzl(v) + __builtin_clzl(v) : 0; }
int main(int c, char **v) { static float a[1024], b[1024]; a[c] = c; return sum(a, b, 1024) + zeros(c) + (v != 0); }
"""


def test_a_vectorising_program_for_the_target(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", VECTOR, "-O3", "-ffast-math", "-fcf-protection")
    found = audit(tmp_path / "t")
    assert found.passed, told(found)
    assert found.kernel_flags == ("avx",)
    units = next(u for u in found.flags.units if u.example.endswith("x.c"))
    assert (units.march, units.mtune, units.native) == ("sandybridge", "sandybridge", False)


def test_what_old_cpus_take_for_no_operation(tmp_path: Path) -> None:
    text = """
    void nothing(char *p) {
      __asm__ volatile("endbr64; .byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0; prefetchw (%0); prefetcht0 (%0); pause;"
                       "rdsspq %%rax; .byte 0x0f,0x1c,0x07" : : "r"(p) : "rax");
    }
    """
    gcc(tmp_path / "t/bin/x", text + MAIN)
    found = audit(tmp_path / "t")
    assert found.passed, told(found)
    assert found.kernel_flags == ()


def test_data_in_text(tmp_path: Path) -> None:
    # A table is data with a symbol and without one; vpaddd %ymm1,%ymm0,%ymm0 is code, whatever a symbol says.
    text = """
    __asm__(".text\\n.globl mine\\n.type mine,@object\\n.size mine,16\\nmine: .fill 4,4,WORD\\n"
            ".fill 8,1,0x06\\n .octa 0x0f0e0d0c0b0a09080706050403020100\\n.fill 8,1,0x06\\n");
    """
    gcc(tmp_path / "t/bin/x", MAIN + text.replace("WORD", "0x01020306"))
    found = audit(tmp_path / "t")
    assert found.passed, told(found)
    for kind in ("@object", "@notype"):
        gcc(tmp_path / "u/bin/x", MAIN + text.replace("WORD", "0xc1fefdc5").replace("@object", kind))
        assert not audit(tmp_path / "u").passed


def test_constants_that_share_a_segment_with_code(tmp_path: Path) -> None:
    """As linkers before binutils 2.31 laid programs out: what is called there is code, whatever its section is."""
    text = """
    __asm__(".section .rodata\\nhidden: INSTRUCTION\\n ret\\n.fill 8,1,0x06\\n.text\\n");
    static const double some[] = {1.5, 2.25, 1e300, 3.14159};
    extern void hidden(void);
    int main(int c, char **v) { hidden(); return (int)some[c & 3] + (v != 0); }
    """
    shared = "-Wl,-z,noseparate-code"
    gcc(tmp_path / "t/bin/x", text.replace("INSTRUCTION", "vpaddd %ymm1,%ymm0,%ymm0"), shared, "-no-pie")
    assert not audit(tmp_path / "t").passed
    gcc(tmp_path / "u/bin/x", text.replace("INSTRUCTION", "vaddps %ymm1,%ymm0,%ymm0"), shared, "-no-pie")
    found = audit(tmp_path / "u")
    assert found.passed, told(found)


DISPATCHED = """
__attribute__((target("avx2"))) static int sum_avx2(const int *a, int n) {
  int s = 0; for (int i = 0; i < n; i++) s += a[i]; return s; }
static int sum_plain(const int *a, int n) { int s = 0; for (int i = 0; i < n; i++) s += a[i] ^ 1; return s; }
typedef int sum_type(const int *, int);
static sum_type *choose(void) { __builtin_cpu_init(); return __builtin_cpu_supports("avx2") ? sum_avx2 : sum_plain; }
int sum(const int *, int) __attribute__((ifunc("choose")));
int main(int c, char **v) { int a[64]; for (int i = 0; i < 64; i++) a[i] = c + i; return sum(a, 64) + (v != 0); }
"""


def test_dispatched_code_passes_with_a_waiver_and_fails_without(tmp_path: Path) -> None:
    gcc(tmp_path / "t/bin/x", DISPATCHED, "-O3")
    found = audit(tmp_path / "t")
    [finding] = [f for f in found.isa.findings if f.level == "fail"]
    assert finding.function == "sum_avx2"
    assert finding.hints == ("named for a CPU: avx2", "chosen by the ifunc resolver sum")
    again = audit(tmp_path / "t", waivers=(waiver(function="sum_avx2"),))
    assert again.passed, told(again)
    assert "avx2" not in again.kernel_flags


def test_a_static_pie_of_its_own_code(tmp_path: Path) -> None:
    text = 'void _start(void) { __asm__ volatile("syscall" : : "a"(60), "D"(0)); }'
    gcc(tmp_path / "t/bin/x", text, "-nostdlib", "-static-pie", "-fPIE")
    found = audit(tmp_path / "t")
    assert found.passed, told(found)
    assert found.files[0].pie
    assert not found.files[0].interpreter


def test_a_static_program_with_glibc_passes_with_waivers_by_name(tmp_path: Path) -> None:
    try:
        gcc(tmp_path / "t/bin/x", MAIN, "-static-pie")
    except subprocess.CalledProcessError:
        pytest.skip("no static glibc here")
    found = audit(tmp_path / "t")
    assert not found.passed
    dispatched = [f for f in found.isa.findings if f.level == "fail" and f.hints]
    assert len(dispatched) > 50
    features = tuple(sorted({n for f in found.isa.findings if f.level == "fail" for n, _ in f.features}))
    functions = {f.function for f in found.isa.findings if f.level == "fail"}
    if not whole("audit"):
        return  # a second audit of all of glibc
    by_name = tuple(
        waiver(function=function, features=features, reason="glibc's string functions, chosen by ifunc")
        for function in sorted(functions)
    )
    assert audit(tmp_path / "t", waivers=by_name).passed


# --- facts against other readers --------------------------------------------------------------------------------


def elves(folder: str, count: int) -> list[Path]:
    """ELF programs of this machine, spread over the alphabet."""
    found = []
    for path in sorted(Path(folder).iterdir()):
        try:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and is_elf(path.open("rb").read(4)):
                found.append(path)
        except OSError:
            continue
    return found[:: max(1, len(found) // count)][:count]


@pytest.mark.parametrize("path", elves("/usr/bin", 8), ids=lambda p: p.name)
def test_facts_are_those_of_pyelftools(path: Path) -> None:
    found = read_facts(path)
    with path.open("rb") as stream:
        other: Any = ELFFile(stream)
        dynamic: Any = other.get_section_by_name(".dynamic")
        needed = [t.needed for t in dynamic.iter_tags("DT_NEEDED")] if dynamic is not None else []
        versions = other.get_section_by_name(".gnu.version_r")
        wanted = {}
        if versions is not None:
            wanted = {v.name: tuple(a.name for a in entries) for v, entries in versions.iter_versions()}
        frames = set()
        if other.get_section_by_name(".eh_frame") is not None:
            for entry in other.get_dwarf_info().EH_CFI_entries():
                if isinstance(entry, FDE) and entry.header["address_range"]:
                    start = entry.header["initial_location"]
                    frames.add((start, start + entry.header["address_range"]))
    assert list(found.needed) == needed
    assert dict(found.version_needs) == wanted
    data = path.read_bytes()
    read = read_frames(data, read_layout(data, str(path)))
    assert set(read.ranges) == frames
    assert not read.problem


@pytest.mark.parametrize("flags", [["-gdwarf-4"], ["-gdwarf-5"], ["-gz"], ["-gdwarf-4", "-gz"], ["-gdwarf-5", "-gz"]])
def test_producers_of_a_file_and_of_its_debug_file(flags: list[str], tmp_path: Path) -> None:
    path = gcc(tmp_path / "x", MAIN, *flags)
    debug = tmp_path / "x.debug"
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    stripped = tmp_path / "y"
    subprocess.run(["strip", "--strip-debug", "-o", stripped, path], check=True)
    whole, apart = read_facts(path), read_facts(stripped, debug=debug)
    assert whole.debug == apart.debug
    assert [p.units for p in whole.debug.producers] == [1]
    assert "-march=sandybridge" in whole.debug.producers[0].text
    assert whole.debug.producers[0].example.endswith("x.c")
    assert not read_facts(stripped).debug.present
    assert read_facts(stripped).build_id == whole.build_id != ""


def test_hardening_is_reported(tmp_path: Path) -> None:
    text = "void use(char *); int main(void) { char a[64]; use(a); return a[0]; } void use(char *a) { a[1] = 1; }"
    hard = read_facts(gcc(tmp_path / "hard", text, "-fstack-protector-all", "-pie", "-fPIE", "-Wl,-z,relro,-z,now"))
    soft = read_facts(gcc(tmp_path / "soft", text, "-fno-stack-protector", "-no-pie", "-Wl,-z,norelro"))
    assert (hard.pie, hard.relro, hard.canary) == (True, "full", True)
    assert (soft.pie, soft.relro, soft.canary, soft.kind) == (False, "none", False, "exec")


def test_no_broken_file_ends_in_a_traceback(tmp_path: Path) -> None:
    data = gcc(tmp_path / "x", planted("avx2") + VECTOR, "-gz").read_bytes()
    dice = random.Random(720)
    broken = tmp_path / "broken"
    lengths = [dice.randrange(len(data)) for _ in range(60)]
    copies = [data[:length] for length in lengths]
    tables = [*range(64, 900), *range(len(data) - 3000, len(data))]  # headers decide more than code
    for _ in range(240):
        copy = bytearray(data)
        for place in dice.choices([*tables, dice.randrange(len(data))], k=3):
            copy[place] = dice.randrange(256)
        copies.append(bytes(copy))
    for content in copies:
        broken.write_bytes(content)
        try:
            facts_of(content, "broken", forbidden=("/forge",))
            scan([CodeSource(file="broken", path=broken)], free(), workers=1)
        except AuditError as error:
            assert error.message


def test_a_real_debian_package(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    root = tmp_path / "root"
    gcc(root / "usr/bin/x", planted("fma") + MAIN)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: x\n", encoding="utf-8"
    )
    for method in ("xz", "gzip", "none"):
        package = tmp_path / f"x_{method}.deb"
        subprocess.run(["dpkg-deb", f"-Z{method}", "-b", root, package], check=True, stdout=subprocess.DEVNULL)
        [found] = audit_paths([package], tmp_path / method, target="sandybridge", today=TODAY)
        assert [v.where for v in found.violations] == ["usr/bin/x"]


# --- the table against the compiler -----------------------------------------------------------------------------


def test_every_macro_of_the_table_is_the_compilers() -> None:
    def macros(*flags: str) -> set[str]:
        done = subprocess.run(
            ["gcc", *flags, "-dM", "-E", "-x", "c", "/dev/null"], capture_output=True, text=True, check=False
        )
        return {line.split()[1] for line in done.stdout.splitlines()}

    listed = subprocess.run(
        ["gcc", "-march=none", "-E", "-x", "c", "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},  # else the quotes are other ones
    )
    names = listed.stderr.partition("valid arguments to '-march=' switch are: ")[2].partition("\n")[0].split(";")[0]
    known: set[str] = set()
    for name in names.split():
        known |= macros(f"-march={name}")
    for option in ("rtm", "shstk", "widekl", "kl", "hreset", "3dnowa", "lwp", "tbm", "fma4"):
        known |= macros(f"-m{option}")  # one by one: an old gcc refuses some
    wanted = {f.gcc for f in table().values() if f.gcc}
    assert len(known & wanted) > 60
    assert wanted - known - LATER_MACROS - DROPPED_MACROS == set()


@pytest.mark.parametrize("target", ["nehalem", "sandybridge", "haswell", "skylake_avx512", "zen2", "x86_64_v3"])
def test_what_the_compiler_makes_for_a_target_is_allowed_for_it(target: str, tmp_path: Path) -> None:
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    resolution = microarch.resolve(target, version)
    if not resolution.possible:
        pytest.skip(resolution.reason)
    path = gcc(tmp_path / "x", VECTOR, "-O3", "-ffast-math", march=resolution.flags)
    [found] = audit_paths([path], tmp_path / "scratch", target=target, today=TODAY)
    assert found.passed, told(found)
    assert not found.isa.warnings


# --- what the distribution ships --------------------------------------------------------------------------------


def test_system_programs_are_read_without_a_hitch() -> None:
    paths = [path for path in elves("/usr/bin", 100) if whole("audit") or path.stat().st_size < LARGE]
    found = scan([CodeSource(file=str(p), path=p) for p in paths], allowed().sure)
    assert sum(f.size for f in found) > 5_000_000
    # Go jumps over a mark in these (src/crypto/internal/boring/sig): the one known case of bytes that are no code.
    invalid = {h.function for f in found for h in f.hits if h.feature == "invalid" and "boring/sig." not in h.function}
    assert invalid == set()


def test_two_processes_find_what_one_finds() -> None:
    """A program with enough code that both have some, and no more than that."""
    sizes = {path: sum(r.size for r in code_regions(path, path.name)) for path in elves("/usr/bin", 100)}
    enough = [path for path in sizes if sizes[path] >= 4 * CHUNK_BYTES]
    path = min(enough, key=sizes.__getitem__) if enough else max(sizes, key=sizes.__getitem__)
    one, two = (scan([CodeSource(file="x", path=path)], allowed().sure, workers=n) for n in (1, 2))
    assert one == two
    assert one[0].size


def test_counts_are_those_of_objdump() -> None:
    """Every LZCNT, TZCNT and BMI2 instruction of glibc, which has hundreds in functions without symbols."""
    where = subprocess.run(["gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True).stdout
    path = Path(where.strip()).resolve()
    listing = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    seen: Counter[str] = Counter()
    for line in listing.splitlines():
        mnemonic = [*line.split("\t"), "", "", ""][2].split(" ")[0].rstrip("lq")
        seen[NAMED.get(mnemonic, "")] += 1
    [found] = scan([CodeSource(file="libc", path=path)], allowed().sure, workers=1)
    ours: Counter[str] = Counter()
    for hit in found.hits:
        ours[hit.feature] += hit.count
    for feature in ("lzcnt", "tzcnt", "bmi2"):
        assert ours[feature] == seen[feature] > 20, feature
