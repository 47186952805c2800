"""Evidence of dispatch in what a compiler makes, as C programmers write it: each way of asking the CPU, and each way of
not asking it, stripped as distributions do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from thorough import whole

from pikaforge.audit.allowed_features import of_baseline
from pikaforge.audit.isa.decode import CodeSource, Hit, scan
from pikaforge.audit.isa.dispatch.known import known_file

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here"),
    pytest.mark.xdist_group("dispatch"),  # one worker: `hits` is made once
    pytest.mark.long(20),
]

HEAD = r"""
#include <cpuid.h>
#include <pthread.h>
#include <stdlib.h>
#define SHOWN __attribute__((visibility("default")))
#define APART __attribute__((noinline, noclone))
#define FAST(name) static __attribute__((target("avx2"), noinline, noclone)) long name(const int *p, long n) { \
  long s = 0; for (long i = 0; i < n; i++) s += p[i] * 3; \
  __asm__ volatile("vpaddd %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); return s; }
typedef long work(const int *, long);
static APART long slow(const int *p, long n) { long s = 1; for (long i = 0; i < n; i++) s *= p[i]; return s; }
static APART void cpuid_of(unsigned leaf, unsigned part, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
  __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(part)); }
static APART int detect(void) {
  unsigned a, b, c, d; return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2); }
"""
GOOD: Mapping[str, str] = {
    "by_builtin": "SHOWN long by_builtin(const int *p, long n) "
    '{ return __builtin_cpu_supports("avx2") ? F(p, n) : slow(p, n); }',
    "by_two_builtins": "SHOWN long by_two_builtins(const int *p, long n) "
    '{ return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx2") ? F(p, n) : slow(p, n); }',
    "by_cpuid": "SHOWN long by_cpuid(const int *p, long n) { unsigned a, b, c, d; "
    "if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2)) return F(p, n); return slow(p, n); }",
    "by_a_function": "SHOWN long by_a_function(const int *p, long n) { return detect() ? F(p, n) : slow(p, n); }",
    "by_helpers": "static unsigned seen; static APART unsigned get(void) { unsigned a, b, c, d, most, f = 1u << 31; "
    "cpuid_of(0, 0, &most, &b, &c, &d); if (most >= 7) { cpuid_of(7, 0, &a, &b, &c, &d); "
    "if (b & bit_AVX2) f |= 2; if (b & bit_BMI2) f |= 4; } seen = f; return f; } "
    "SHOWN long by_helpers(const int *p, long n) { return (seen ? seen : get()) & 2 ? F(p, n) : slow(p, n); }",
    "by_first_use": "static int known = -1; SHOWN long by_first_use(const int *p, long n) "
    "{ if (known < 0) known = detect(); return known ? F(p, n) : slow(p, n); }",
    "by_ifunc": "static work *choose(void) { __builtin_cpu_init(); "
    'return __builtin_cpu_supports("avx2") ? F : slow; } '
    'SHOWN long by_ifunc(const int *, long) __attribute__((ifunc("choose")));',
    "by_start": "static work *table[2] = {slow, slow}; __attribute__((constructor)) static void fill(void) "
    '{ __builtin_cpu_init(); if (__builtin_cpu_supports("avx2")) { table[0] = F; table[1] = F; } } '
    "SHOWN long by_start(const int *p, long n) { return table[n & 1](p, n); }",
    "by_once": "static pthread_once_t once; static work *chosen; static void pick(void) "
    '{ __builtin_cpu_init(); chosen = __builtin_cpu_supports("avx2") ? F : slow; } '
    "SHOWN long by_once(const int *p, long n) { pthread_once(&once, pick); return chosen(p, n); }",
    "by_record": "struct ops { work *a, *b; }; static const struct ops quick = {F, F}, plain = {slow, slow}; "
    'static APART const struct ops *which(void) { return __builtin_cpu_supports("avx2") ? &quick : &plain; } '
    "static const struct ops *now; SHOWN long by_record(const int *p, long n) "
    "{ if (!now) now = which(); return now->a(p, n); }",
    "by_level": "enum level { NONE, SOME, ALL }; static enum level level; "
    "__attribute__((constructor)) static void measure(void) { unsigned a, b, c, d; "
    "if (__get_cpuid_max(0, 0) >= 7) { __cpuid_count(7, 0, a, b, c, d); "
    "level = b & bit_AVX2 ? ALL : b & bit_BMI ? SOME : NONE; } } "
    "SHOWN long by_level(const int *p, long n) { return level >= ALL ? F(p, n) : slow(p, n); }",
    "by_argument": "static APART long inner(const int *p, long n, int fast) { return fast ? F(p, n) : slow(p, n); } "
    'SHOWN long by_argument(const int *p, long n) { return inner(p, n, __builtin_cpu_supports("avx2")); }',
}
"""Functions that run F only where the CPU has AVX2."""
BAD: Mapping[str, str] = {
    "at_once": "SHOWN long at_once(const int *p, long n) { return F(p, n); }",
    "twice": "SHOWN long twice(const int *p, long n) "
    '{ return __builtin_cpu_supports("avx2") ? F(p, n) : slow(p, n); } '
    "SHOWN long twice_again(const int *p, long n) { return F(p, n) + 1; }",
    "wrong_bit": "SHOWN long wrong_bit(const int *p, long n) "
    '{ return __builtin_cpu_supports("sse4.2") ? F(p, n) : slow(p, n); }',
    "wrong_way": "SHOWN long wrong_way(const int *p, long n) "
    '{ return __builtin_cpu_supports("avx2") ? slow(p, n) : F(p, n); }',
    "afterwards": "static volatile int x; SHOWN long afterwards(const int *p, long n) "
    '{ x = __builtin_cpu_supports("avx2") ? 1 : 2; return F(p, n); }',
    "or_if_told": "static int told; SHOWN void tell(int x) { told = x; } SHOWN long or_if_told(const int *p, long n) "
    '{ return __builtin_cpu_supports("avx2") || told ? F(p, n) : slow(p, n); }',
    "or_by_environment": "SHOWN long or_by_environment(const int *p, long n) { int has = "
    '!!__builtin_cpu_supports("avx2"); if (getenv("FAST")) has = 1; return has ? F(p, n) : slow(p, n); }',
    "always_by_ifunc": "static work *always(void) { __builtin_cpu_init(); return F; } "
    'SHOWN long always_by_ifunc(const int *, long) __attribute__((ifunc("always")));',
    "always_at_start": "static work *p1 = slow, *p2 = slow; __attribute__((constructor)) static void begin(void) "
    '{ __builtin_cpu_init(); p1 = __builtin_cpu_supports("avx2") ? F : slow; p2 = F; } '
    "SHOWN long always_at_start(const int *p, long n) { return n & 1 ? p1(p, n) : p2(p, n); }",
    "offered": "SHOWN work *const offered[] = {slow, F};",
    "leaked": "SHOWN long leaked(const int *p, long n) "
    '{ return __builtin_cpu_supports("avx2") ? F(p, n) : slow(p, n); } SHOWN work *leak(void) { return F; }',
    "enabled": "static int on = -1; SHOWN void enable(void) { on = 1; } SHOWN long enabled(const int *p, long n) "
    '{ if (on < 0) on = !!__builtin_cpu_supports("avx2"); return on ? F(p, n) : slow(p, n); }',
    "given": "static APART long taken(const int *p, long n, int fast) { return fast ? F(p, n) : slow(p, n); } "
    'SHOWN long given(const int *p, long n) { return taken(p, n, __builtin_cpu_supports("avx2")); } '
    "SHOWN long given_other(const int *p, long n) { return taken(p, n, n > 3); }",
    "by_choice": 'SHOWN long by_choice(const int *p, long n, int k) { int has = __builtin_cpu_supports("avx2"); '
    "switch (k) { case 0: return slow(p, n); case 1: return n; case 2: return F(p, n); case 3: return n * 2; "
    "case 4: return slow(p, n) + 2; case 5: return n * 3; } return has; }",
}
"""Functions that may run F without the CPU's word."""


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Hit]:
    """What is found in one library with all of them, by the name that F has in each."""
    folder = tmp_path_factory.mktemp("dispatch")
    names = [*GOOD, *BAD]
    texts = [f"FAST(fast_{n})\n#define F fast_{n}\n{text}\n#undef F\n" for n, text in {**GOOD, **BAD}.items()]
    (folder / "all.c").write_text(HEAD + "".join(texts), encoding="utf-8")
    built, stripped = folder / "built.so", folder / "stripped.so"
    command: list[str | Path] = ["gcc", "-O2", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-ipa-icf"]
    subprocess.run([*command, "-o", built, folder / "all.c"], check=True)
    subprocess.run(["strip", "--strip-unneeded", "-o", stripped, built], check=True)
    found = {}
    for path in (built, stripped):
        [seen] = scan([CodeSource(file=path.name, path=path)], of_baseline("x86_64"), workers=1)
        found[path] = {h.address: h for h in seen.hits if h.feature == "avx2"}
    by_name = {h.function.removeprefix("fast_"): h for h in found[built].values() if h.function.startswith("fast_")}
    assert sorted(by_name) == sorted(names)
    # Without names the same is found: they prove nothing.
    assert {a: bool(h.evidence) for a, h in found[stripped].items()} == {
        a: bool(h.evidence) for a, h in found[built].items()
    }
    return by_name


@pytest.mark.parametrize("name", GOOD)
def test_what_asks_the_cpu_is_proven(name: str, hits: Mapping[str, Hit]) -> None:
    assert hits[name].evidence, hits[name].doubt


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_ask_is_not(name: str, hits: Mapping[str, Hit]) -> None:
    assert not hits[name].evidence
    assert hits[name].doubt


def test_the_evidence_says_who_asks(hits: Mapping[str, Hit]) -> None:
    assert hits["by_cpuid"].evidence == "only by by_cpuid, which asks the CPU"
    assert hits["by_builtin"].evidence == "only by by_builtin, which looks at what the CPU has said"
    assert hits["by_start"].evidence == "only by fill, which looks at what the CPU has said"
    assert hits["by_ifunc"].evidence.startswith("chosen by the ifunc resolver ")
    assert hits["twice"].doubt == "reached without a question to the CPU: twice_again"


# ---- libraries with the names of known dispatchers, compiled for a newer CPU

NAMED = r"""
#include <cpuid.h>
static const char version[] __attribute__((used)) = "\0OpenSSL 3.0.1 x\0001.5.4\0GLIBC_2.36\0" "001.0.18";
static unsigned caps[4];
__attribute__((constructor)) void setup(void) {
  unsigned a, b, c, d; if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) caps[2] = b; }
"""
WORK: Mapping[str, str] = {
    "length": "unsigned f(unsigned n, const unsigned *a) { unsigned s = 0; for (unsigned i = 0; i < n; i++) "
    "s += a[i] << (a[i] & 31); return s; }",
    "number": "unsigned f(unsigned n, unsigned *a) { if (n == 0) return 0; for (unsigned i = 0; i < 1024; i++) "
    "a[i] = (a[i] << (i & 31)) + n; return 1; }",
    "field": "int f(const int *p, unsigned *a) { if (!p[3]) return 0; for (unsigned i = 0; i < 1024; i++) "
    "a[i] = a[i] << (i & 31); return 1; }",
    "result": "int g(const void *); int f(const int *p, unsigned *a) { if (!g(p)) return 0; "
    "for (unsigned i = 0; i < 1024; i++) a[i] = a[i] << (i & 31); return 1; }",
}
"""Loops behind a test of something that is no flag of a CPU."""


INNER = "APART unsigned g(unsigned n, unsigned *a, int flag) { return flag ? fast(n, a) : slow(n, a); } "


def _named(soname: str, text: str, folder: Path, *flags: str) -> Path:
    (folder / "x.c").write_text(NAMED + text, encoding="utf-8")
    path = folder / "x.so"
    command: list[str | Path] = [
        "gcc",
        "-O3",
        *flags,
        "-fPIC",
        "-shared",
        f"-Wl,-soname,{soname}",
        "-o",
        path,
        folder / "x.c",
    ]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize(
    "soname", ["libcrypto.so.3", "libzstd.so.1", "libsodium.so.23", "libdeflate.so.0", "libm.so.6"]
)
@pytest.mark.parametrize("name", WORK)
def test_a_name_does_not_vouch_for_what_a_compiler_makes(soname: str, name: str, tmp_path: Path) -> None:
    """Compiled for haswell it is refused, and compiled for any CPU it passes."""
    for flags, expected in ((("-march=haswell",), False), ((), True)):
        path = _named(soname, WORK[name], tmp_path, *flags)
        [found] = scan(
            [CodeSource(file="x", path=path, known=known_file(path, soname))], of_baseline("x86_64"), workers=1
        )
        assert all(hit.evidence for hit in found.hits) is expected, flags


@pytest.mark.parametrize(
    "text",
    [
        "F unsigned f(unsigned n, unsigned *a) { return (caps[2] & bit_BMI2) ? fast(n, a) : slow(n, a); }",
        "F unsigned f(unsigned n, unsigned *a) { unsigned *p = caps; return p[2] & 256 ? fast(n, a) : slow(n, a); }",
        INNER + "F unsigned f(unsigned n, unsigned *a) { return g(n, a, caps[2] >> 8 & 1); }",
    ],
    ids=["place", "pointer", "argument"],
)
def test_a_flag_that_is_kept_decides(text: str, tmp_path: Path) -> None:
    """What the table vouches for is found where the flag is from."""
    text = text.replace("F ", "").replace("APART", "static __attribute__((noinline))")
    work = (
        "(unsigned n, unsigned *a) "
        "{ unsigned s = 0; for (unsigned i = 0; i < n; i++) s += a[i] << (a[i] & 31); return s; }\n"
    )
    head = f'__attribute__((noinline, target("bmi2"))) static unsigned fast{work}'
    path = _named("libzstd.so.1", f"{head}__attribute__((noinline)) static unsigned slow{work}{text}", tmp_path)
    [found] = scan(
        [CodeSource(file="x", path=path, known=known_file(path, "libzstd.so.1"))], of_baseline("x86_64"), workers=1
    )
    assert [bool(hit.evidence) for hit in found.hits] == [True]


# ---- programs with glibc built in

OWN = "__attribute__((noinline))"
LINKED: Mapping[str, str] = {
    "c": r"""
#include <stdio.h>
volatile int flags;
OWN static long own_work(const int *p, long n) { long s = 0; for (long i = 0; i < n; i++) s += p[i] * i; return s; }
OWN static long own_flagged(const int *p, long n) { long s = 1; for (long i = 0; i < n; i++) s ^= p[i] * i; return s; }
static long (*volatile chosen)(const int *, long) = own_work;
int main(int count, char **words) { static int p[8]; flags = count * 3; if (!__builtin_cpu_supports("sse4.2")) return 1;
  printf("%ld\n", chosen(p, count)); return flags & 8 ? own_flagged(p, count) : 0; }
""",
    "cpp": r"""
#include <algorithm>
#include <iostream>
#include <map>
#include <vector>
OWN static long own_work(const std::vector<int> &p) { long s = 0; for (int i : p) s += i << (i & 31); return s; }
int main(int count, char **words) { std::vector<int> p(1000 + count, count); std::map<std::string, long> m;
  m[words[0]] = own_work(p); std::cout << m.begin()->first << m.begin()->second; return 0; }
""",
    "f90": r"""
program main
  real(8) :: a(64, 64), b(64, 64)
  call random_number(a)
  b = a * a + sqrt(a) + matmul(a, a)
  print *, sin(b(1, 1)), maxval(b)
end program
""",
}
"""A function `own_flagged` runs if a number has a bit that says nothing of the CPU; it is beside the CPU's answers."""
COMPILERS = {"c": "gcc", "cpp": "g++", "f90": "gfortran"}


def _functions(path: Path) -> dict[str, range]:
    """Return the addresses of the functions in a file, by name."""
    symbols = subprocess.run(["readelf", "-sW", path], check=True, capture_output=True, text=True).stdout
    found = re.findall(r": (\w+) +(\d+) FUNC .* \d+ (\S+)$", symbols, re.MULTILINE)
    return {name: range(int(start, 16), int(start, 16) + int(size)) for start, size, name in found}


@pytest.mark.parametrize(
    ("language", "link", "march"),
    [
        ("c", "-static-pie", "haswell"),
        ("c", "-static", "x86-64"),
        ("cpp", "-static", "haswell"),
        pytest.param("f90", "-static-pie", "haswell", marks=pytest.mark.thorough(whole("audit"))),
        pytest.param("c", "-static", "haswell", marks=pytest.mark.thorough(whole("audit"))),
    ],
)
def test_a_program_with_glibc_in_it_is_no_part_of_glibc(language: str, link: str, march: str, tmp_path: Path) -> None:
    """Code of the libraries for newer CPUs is found to be dispatched, and the program's own code is not."""
    if shutil.which(COMPILERS[language]) is None:
        pytest.skip(f"no {COMPILERS[language]} here")
    source, part, built, stripped = (tmp_path / name for name in (f"x.{language}", "x.o", "built", "stripped"))
    source.write_text(LINKED[language].replace("OWN", OWN), encoding="utf-8")
    command: list[str | Path] = [COMPILERS[language], "-O3", f"-march={march}", "-fPIE", "-c", "-o", part, source]
    subprocess.run(command, check=True)
    subprocess.run([COMPILERS[language], link, "-o", built, part], check=True)
    subprocess.run(["strip", "-o", stripped, built], check=True)
    names = set(_functions(part))
    own = {name: addresses for name, addresses in _functions(built).items() if name in names}
    [seen] = scan(
        [CodeSource(file="x", path=stripped, known=known_file(stripped, ""))], of_baseline("x86_64"), workers=1
    )
    beyond = [hit for hit in seen.hits if not hit.evidence and hit.feature not in {"tzcnt", "xgetbv"}]
    refused = {name for name, addresses in own.items() if any(hit.address in addresses for hit in beyond)}
    assert not [hit for hit in beyond if not any(hit.address in own[name] for name in refused)]
    assert (
        {name for name in own if "own_" in name or name == "MAIN__"} <= refused if march == "haswell" else not refused
    )
