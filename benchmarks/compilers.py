"""Ask the audit about programs of many compilers, and compare each verdict with what `objdump -d` shows.

    python benchmarks/compilers.py [--only TEXT] [--zig PROGRAM] [--work FOLDER] [--short] [--results FILE]

The programs in `benchmarks/programs` are compiled by gcc, clang, gfortran, rustc, Go and Zig, as far as they are here,
for each of `TARGETS`, at several levels of optimization, static and dynamic. Each file and its stripped copy are
audited for each of `MODELS`, without waivers. All groups together take hours: `--only` runs those whose names hold a
text, and `--results` keeps what was found, so that the table is of all runs with the same file. A group that is run
again replaces its old verdicts.

Zig comes from the wheel ziglang; its program is `ziglang/zig` in the folder of packages.

The expected verdict does not come from the audit's decoder. `objdump -d` lists the functions with instructions that the
model lacks (`sweep_debian.kind_of`, and the first byte of EVEX). Those of the program that is compiled for x86-64 are
libraries that ask the CPU first: that program must pass. One that has others besides must be refused, stripped or not.

The exit status is 1 if a verdict is wrong, or if there are fewer than 200.
"""

# a script: it prints, and it runs compilers
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sweep_debian import VECTORS, kind_of

from pikaforge.audit.allowed_features import Allowed, from_gcc
from pikaforge.audit.audit import audit_paths

PROGRAMS = Path(__file__).resolve().parent / "programs"
BASE = "x86-64"
TARGETS = (BASE, "x86-64-v2", "x86-64-v3", "x86-64-v4", "sandybridge", "haswell", "znver3", "skylake-avx512")
MODELS: Mapping[str, tuple[str, frozenset[str]]] = {
    "R620": ("sandybridge", frozenset()),
    "R630": ("haswell", frozenset({VECTORS, "bmi", "lzcnt", "tzcnt", "fma", "f16c", "movbe"})),
    "R6525": ("zen2", frozenset({VECTORS, "bmi", "lzcnt", "tzcnt", "fma", "f16c", "movbe", "adx", "sha", "aes"})),
}
"""The target of each model, and the kinds of instructions beyond sandybridge that its CPUs have."""
AVX512 = "avx512"
FEW = (BASE, "haswell")
"""The targets of what is linked with a static glibc: the audit looks at it for 10 s."""
ZIG = (BASE, "sandybridge", "haswell", "znver4", "skylake-avx512")
"""Zig's targets: for each one it compiles a runtime library, which takes 20 s, and a libc for `zig cc`: 60 s."""
ZIG_FEW = (BASE, "sandybridge", "haswell", "skylake-avx512")
GOAL = 200
SHOWN = 4
RENAMED = re.compile(r"\.llvm\.\d+")
"""What LLVM appends to local names: another number in each build."""
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LINE = re.compile(r"^ *[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t?(.*)$")


@dataclass(frozen=True)
class Compiler:
    """A compiler of one language."""

    name: str
    program: str
    source: str
    command: tuple[str, ...]
    """With {target}, {level}, {source}, {out} and {cache}; {how} stands for the options of the way of linking."""
    levels: tuple[str, ...]
    ways: Mapping[str, tuple[str, ...]]
    """Options for each way of linking."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Its names of targets, where they are other ones."""
    version: tuple[str, ...] = ("--version",)
    only: tuple[str, ...] = TARGETS
    slow: tuple[str, ...] = ()
    """Ways of linking that are tried at the last level and for `few` targets."""
    few: tuple[str, ...] = FEW
    variables: Mapping[str, str] = field(default_factory=dict)


C_WAYS = {"dynamic": (), "static": ("-static",)}
PIE_WAYS = {**C_WAYS, "static-pie": ("-static-pie",)}
STATIC = ("static", "static-pie")
C_COMMAND = ("{program}", "-march={target}", "-mtune=generic", "{level}", "{how}", "{source}", "-o", "{out}", "-lm")
ZIG_NAMES = {name: name.replace("-", "_") for name in ZIG}
GO_NAMES = {"x86-64": "v1", "x86-64-v2": "v2", "x86-64-v3": "v3", "x86-64-v4": "v4"}


def compilers(zig: str) -> list[Compiler]:
    """Return the compilers that are here."""
    rust = ("{program}", "-Ctarget-cpu={target}", "{level}", "{how}", "-o", "{out}", "{source}")
    cache = ("--cache-dir", "{cache}/zig", "--global-cache-dir", "{cache}/zig-global")
    musl = {"musl": ("-target", "x86_64-linux-musl"), "dynamic": ("-target", "x86_64-linux-gnu")}
    zig_cc = {"ZIG_LOCAL_CACHE_DIR": "{cache}/zig", "ZIG_GLOBAL_CACHE_DIR": "{cache}/zig-global"}
    found = [
        Compiler("gcc", "gcc", "work.c", C_COMMAND, ("-O0", "-O3", "-O2"), PIE_WAYS, slow=STATIC),
        Compiler("g++", "g++", "work.cpp", C_COMMAND, ("-O1", "-O3"), C_WAYS, slow=STATIC),
        Compiler("clang", "clang", "work.c", C_COMMAND, ("-O0", "-O3", "-O2"), C_WAYS, slow=STATIC),
        Compiler("clang++", "clang++", "work.cpp", C_COMMAND, ("-Os", "-O3"), C_WAYS, slow=STATIC),
        Compiler("gfortran", "gfortran", "work.f90", C_COMMAND, ("-O2", "-Ofast"), PIE_WAYS, slow=STATIC),
        Compiler("rustc", "rustc", "work.rs", rust, ("-Copt-level=0", "-Copt-level=3"),
                 {"dynamic": (), "static": ("-Ctarget-feature=+crt-static",)}, slow=STATIC),
        Compiler("zig", zig, "work.zig",
                 ("{program}", "build-exe", "-mcpu={target}", "{level}", "{how}", *cache, "-femit-bin={out}",
                  "{source}"),
                 ("-OReleaseSafe", "-OReleaseFast"), {"static": (), "dynamic": ("-lc",)}, names=ZIG_NAMES,
                 version=("version",), only=ZIG, slow=("dynamic",), few=ZIG_FEW),
        Compiler("zig cc", zig, "work.c",
                 ("{program}", "cc", "-mcpu={target}", "{level}", "{how}", "{source}", "-o", "{out}", "-lm"),
                 ("-O2",), musl, names=ZIG_NAMES, version=("version",), only=FEW, variables=zig_cc),
        Compiler("go", "go", "work.go", ("{program}", "build", "{how}", "-o", "{out}", "{source}"), ("",),
                 {"static": (), "pie": ("-buildmode=pie",)}, names=GO_NAMES, version=("version",),
                 only=tuple(GO_NAMES),
                 variables={"GOAMD64": "{target}", "CGO_ENABLED": "0", "GOCACHE": "{cache}/go", "GOFLAGS": "-p=1"}),
    ]  # fmt: skip
    return [compiler for compiler in found if compiler.program and shutil.which(compiler.program)]


@dataclass(frozen=True)
class Group:
    """Programs of a compiler at one level, linked in one way, for some targets; the first is `BASE`."""

    compiler: Compiler
    level: str
    way: str
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join(word for word in (self.compiler.name, self.level, self.way) if word)


@dataclass
class Verdict:
    """The verdict on one file for one model."""

    compiler: str
    group: str
    what: str
    model: str
    refuse: bool
    refused: bool
    why: tuple[str, ...]


def build(group: Group, target: str, out: Path, cache: Path) -> str:
    """Compile a program; return what the compiler says if it cannot."""
    compiler = group.compiler
    values = {
        "program": compiler.program,
        "target": compiler.names.get(target, target),
        "level": group.level,
        "source": str(PROGRAMS / compiler.source),
        "out": str(out),
        "cache": str(cache),
    }
    argv: list[str] = []
    for word in compiler.command:
        argv += compiler.ways[group.way] if word == "{how}" else [word.format(**values)]
    env = {**os.environ, **{name: value.format(**values) for name, value in compiler.variables.items()}}
    done = subprocess.run([w for w in argv if w], capture_output=True, text=True, env=env, cwd=out.parent, check=False)
    return "" if done.returncode == 0 and out.is_file() else f"{' '.join(argv)}: {done.stderr[-400:]}"


def beyond(path: Path) -> dict[str, Counter[str]]:
    """Return the kinds of instructions beyond sandybridge that objdump shows in each function, with their number."""
    found: dict[str, Counter[str]] = {}
    name = ""
    with subprocess.Popen(["objdump", "-d", "-w", str(path)], stdout=subprocess.PIPE, text=True) as dump:
        assert dump.stdout is not None
        for line in dump.stdout:
            if match := LINE.match(line):
                # In 64-bit mode a first byte of 62 is EVEX and nothing else.
                kind = AVX512 if match[1].startswith("62 ") else kind_of(match[2].strip())
                if kind:
                    found.setdefault(name, Counter())[kind] += 1
            elif match := FUNCTION.match(line):
                name = RENAMED.sub("", match[1])
    return found


def own(
    found: Mapping[str, Counter[str]], base: Mapping[str, Counter[str]], has: frozenset[str]
) -> set[tuple[str, str]]:
    """Return functions and kinds that a model lacks, and that the program for x86-64 does not have as well."""
    return {
        (name, kind)
        for name, kinds in found.items()
        for kind, number in kinds.items()
        if kind not in has and number > base.get(name, Counter())[kind]
    }


@lru_cache(maxsize=8)
def _allowed(target: str) -> Allowed:
    return from_gcc(target)


def audit(path: Path, target: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether the audit refuses a file, and why."""
    with tempfile.TemporaryDirectory() as scratch:
        [found] = audit_paths(
            [path], Path(scratch), target=target, today=date.today(), allowed=_allowed(target), workers=1
        )
    return not found.passed, tuple(line.what for line in found.violations)


def judge(group: Group, work: Path) -> list[Verdict | str]:
    """Return the verdicts on a group; texts are failures."""
    out: list[Verdict | str] = []
    base: dict[str, Counter[str]] | None = None
    for target in group.targets:
        label = f"{group.name} {target}"
        path = work / re.sub(r"[^A-Za-z0-9+.-]+", "_", label)
        if problem := build(group, target, path, work):
            out.append(problem)
            continue
        found = beyond(path)
        base = found if base is None else base
        stripped = path.with_name(f"{path.name}.stripped")
        subprocess.run(["strip", "-o", str(stripped), str(path)], check=True)
        for model, (march, has) in MODELS.items():
            wanted = own(found, base, has)
            for file, what in ((path, label), (stripped, f"{label} stripped")):
                refused, why = audit(file, march)
                shown = (*(f"objdump: {name}: {kind}" for name, kind in sorted(wanted)[:SHOWN]), *why[:SHOWN])
                out.append(Verdict(group.compiler.name, group.name, what, model, bool(wanted), refused, shown))
        stripped.unlink()
        path.unlink()
    return out


def groups(found: Sequence[Compiler], only: str, *, short: bool) -> Iterator[Group]:
    """Yield the groups of programs."""
    for compiler in found:
        for level in compiler.levels:
            for way in compiler.ways:
                few = way in compiler.slow
                left_out = (few or short) and level != compiler.levels[-1]
                group = Group(compiler, level, way, compiler.few if few else compiler.only)
                if only in group.name and not left_out and not (few and short):
                    yield group


def version(compiler: Compiler) -> str:
    """Return what a compiler says of its version."""
    done = subprocess.run([compiler.program, *compiler.version], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return found[0] if found else "?"


def kept(path: Path | None, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return verdicts with those of groups that were run before, which a file keeps; write all of them to it."""
    if path is None:
        return list(verdicts)
    new = {verdict.group for verdict in verdicts}
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    before = [Verdict(**{**row, "why": tuple(row["why"])}) for row in rows if row["group"] not in new]
    path.write_text(json.dumps([asdict(verdict) for verdict in (*before, *verdicts)], indent=1) + "\n", "utf-8")
    return [*before, *verdicts]


def report(verdicts: Sequence[Verdict], failures: Sequence[str], found: Sequence[Compiler]) -> int:
    """Print the table and what is wrong; return the exit status."""
    print("| compiler | version | how | verdicts | refused | passed | wrong |\n|---|---|---|---|---|---|---|")
    for compiler in found:
        for name in dict.fromkeys(v.group for v in verdicts if v.compiler == compiler.name):
            mine = [verdict for verdict in verdicts if verdict.group == name]
            refused = sum(v.refused for v in mine)
            wrong = sum(v.refuse != v.refused for v in mine)
            how = name.removeprefix(compiler.name).strip()
            numbers = f"{len(mine)} | {refused} | {len(mine) - refused} | {wrong}"
            print(f"| {compiler.name} | {version(compiler)} | {how} | {numbers} |")
    wrong_ones = [v for v in verdicts if v.refuse != v.refused]
    for verdict in wrong_ones:
        print(f"wrong: {verdict.what} for {verdict.model}: {'refused' if verdict.refused else 'passed'}")
        for line in verdict.why:
            print(f"    {line[:200]}")
    for failure in failures:
        print(f"not compiled: {failure}")
    print(f"{len(verdicts)} verdicts, {len(wrong_ones)} wrong, {len(failures)} programs not compiled")
    return int(bool(wrong_ones) or len(verdicts) < GOAL)


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="only groups whose name (COMPILER LEVEL WAY) holds this text")
    parser.add_argument("--zig", default=shutil.which("zig") or "", help="the program zig, or python-zig of its wheel")
    parser.add_argument("--work", type=Path, help="keep the caches of Go and Zig there")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--short", action="store_true", help="the last level only, and nothing static with glibc")
    parser.add_argument("--results", type=Path, help="a file that keeps the verdicts of several runs, for one table")
    given = parser.parse_args()
    found = compilers(given.zig)
    verdicts: list[Verdict] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(given.workers) as pool:
        work = (given.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        running = [pool.submit(judge, group, work) for group in groups(found, given.only, short=given.short)]
        for task in as_completed(running):
            results = task.result()
            verdicts += [result for result in results if isinstance(result, Verdict)]
            failures += [result for result in results if isinstance(result, str)]
            if sys.stderr.isatty():
                print(f"\r{len(verdicts)}", end="", file=sys.stderr)
    verdicts = kept(given.results, verdicts)
    return report(sorted(verdicts, key=lambda v: (v.what, v.model)), failures, found)


if __name__ == "__main__":
    sys.exit(main())
