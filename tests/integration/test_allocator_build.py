"""docker/guest/allocator.sh with the real thing: Debian's sources of gperftools and libunwind, in the build image.

Both ways of walking the stack, for a target each; for two targets each with PIKAFORGE_TEST_ALL=allocators. What the
script says of a library is held against the library here: what it needs, what its code may use, and what it does when a
program runs with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from thorough import whole

from pikaforge.audit.allowed_features import from_gcc, from_macros
from pikaforge.audit.audit import audit_paths
from pikaforge.audit.audit_result import Rules
from pikaforge.audit.elf.facts import read_facts
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import lacking
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, files
from pikaforge.host.source_tarball import without_top

if TYPE_CHECKING:
    from integration.conftest import Warm

REPOSITORY = Path(__file__).resolve().parents[2]
GUEST = REPOSITORY / "docker" / "guest"
SCRIPTS = ("lib.sh", "run.sh", "allocator.sh", "toolchain.sh", "cc", "ccache.conf")
EPOCH = 1600000000
METHODS = {"libunwind": "libunwind", "frame-pointers": "generic_fp"}
"""As gperftools 2.10 calls them."""
PAIRS = [("libunwind", "sandybridge"), ("frame-pointers", "haswell")]
"""What is built. The other two are combinations of what these show."""
if whole("allocators"):
    PAIRS += [("libunwind", "haswell"), ("frame-pointers", "sandybridge")]
LIBRARIES = ("tcmalloc", "profiler", "tcmalloc_and_profiler")

# One worker, so that each library is built once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("allocator-build"), pytest.mark.long(130)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What allocator.sh left, unpacked."""

    folder: Path
    digests: Mapping[str, str]
    """Of the archives prefix.tar and debug.tar."""
    log: str
    seconds: float

    @property
    def prefix(self) -> Path:
        return self.folder / "prefix"

    @property
    def facts(self) -> dict[str, list[str]]:
        """unwinder.tsv."""
        lines = self.text("unwinder.tsv").splitlines()
        return {key: values for key, *values in (line.split("\t") for line in lines)}

    def text(self, name: str) -> str:
        return (self.folder / "facts" / name).read_text(encoding="utf-8")

    def library(self, name: str) -> Path:
        return (self.prefix / "lib" / f"lib{name}.so").resolve()


class Builder:
    """Builds in the build image of the finished build, each variant once."""

    def __init__(self, image: str, gcc: str, folder: Path, sources: Mapping[str, Path], release: Path) -> None:
        self.image = image
        self.engine = DockerEngine()
        self._gcc = gcc
        self._folder = folder
        self._sources = sources
        self._release = release
        self._built: dict[tuple[str, ...], Built] = {}

    def run(self, job: Job, into: Path) -> Mapping[str, Path]:
        done = self.engine.run(job, into)
        assert done.status == 0, f"exit status {done.status}\n{job.log.read_text(encoding='utf-8')[-5000:]}"
        return done.outputs

    def flags(self, target: str) -> tuple[str, ...]:
        resolution = microarch.resolve(target, self._gcc)
        assert resolution.possible, resolution.reason
        return resolution.flags

    def __call__(self, unwinder: str, target: str, *, own: bool = False, ccache: bool = True) -> Built:
        """Build gperftools.

        Args:
            unwinder: libunwind or frame-pointers.
            target: archspec name.
            own: whether libunwind's source is given; both sources are then trees without configure.
            ccache: whether the compiler cache is used.
        """
        name = (unwinder, target, "own" if own else "", "" if ccache else "anew")
        if name not in self._built:
            self._built[name] = self._build(self._folder / "-".join(filter(None, name)), unwinder, target, own, ccache)
        return self._built[name]

    def _build(self, folder: Path, unwinder: str, target: str, own: bool, ccache: bool) -> Built:
        folder.mkdir()
        scripts = {name: GUEST / name for name in SCRIPTS}
        parts = {"src": "google-perftools", **({"libunwind": "libunwind"} if own else {})}
        archives = {part: self._sources[name] / f"{name}.orig.tar.gz" for part, name in parts.items()}
        if not own:
            archives["src"] = self._release
        version = (self._sources["google-perftools"] / "version").read_text(encoding="utf-8").strip()
        job = Job(
            label=f"test-allocator-{folder.name}",
            image=self.image,
            argv=("sh", "guest/run.sh", "allocator", "prefix", "debug", "facts"),
            env={
                "PIKAFORGE_UNWINDER": unwinder,
                "PIKAFORGE_PRODUCT": "gperftools",
                "PIKAFORGE_VERSION": version.rpartition("-")[0],
                "PIKAFORGE_TARGET_FLAGS": " ".join(self.flags(target)),
                "PIKAFORGE_JOBS": "2",
                "PIKAFORGE_CCACHE": str(int(ccache)),
                "SOURCE_DATE_EPOCH": str(EPOCH),
            },
            inputs=(
                Input(folder="guest", archive=files(scripts, executable=scripts)),
                *(
                    Input(folder=part, archive=without_top(path, folder / f"{part}.tar").path)
                    for part, path in archives.items()
                ),
            ),
            outputs=("packed/prefix.tar", "packed/debug.tar", "packed/facts.tar"),
            log=folder / "log",
            cache="ccache" if ccache else "",
            timeout=900,
        )
        start = time.monotonic()
        outputs = self.run(job, folder)
        seconds = time.monotonic() - start
        for path in outputs.values():
            with tarfile.open(path) as tar:
                tar.extractall(folder / path.stem, filter="tar")  # ours: made by run.sh
        print(f"{folder.name}: {seconds:.0f} s", file=sys.stderr)  # for --durations to be understood
        return Built(
            folder=folder,
            digests={p.name: sha256(p.read_bytes()).hexdigest() for p in outputs.values() if p.stem != "facts"},
            log=job.log.read_text(encoding="utf-8", errors="replace"),
            seconds=seconds,
        )


@pytest.fixture(scope="module")
def build(
    warm: Warm, debian_source: Callable[[str], Path], gperftools: Path, tmp_path_factory: pytest.TempPathFactory
) -> Builder:
    """The build image has libunwind-dev, because Debian's gperftools needs it; facts of the image say so, too."""
    records = [warm.store / "image" / key / "result.json" for key in warm.keys["image"]]
    facts = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in records]
    [image] = [f for f in facts if str(f.get("build")).startswith("pikaforge/debian12-build:")]
    assert "libunwind-dev:amd64" in [name for name, _ in image["packages"]["build"]]
    found = {name: debian_source(name) for name in ("google-perftools", "libunwind")}
    return Builder(image["build"], image["gcc"], tmp_path_factory.mktemp("allocator"), found, gperftools)


each_pair = pytest.mark.parametrize(("unwinder", "target"), PAIRS)
each_way = pytest.mark.parametrize(("unwinder", "target"), PAIRS[:2])


@each_pair
def test_each_way_is_what_it_is_called(build: Builder, unwinder: str, target: str) -> None:
    built = build(unwinder, target)
    facts = built.facts
    assert facts["asked"] == facts["chosen"] == [unwinder]
    assert facts["method"] == [METHODS[unwinder]]
    assert facts["gperftools"] == ["2.10"]
    assert facts["libunwind"] == (["image", "libunwind8", "1.6.2-3"] if unwinder == "libunwind" else ["none"])
    assert ("libunwind" in facts["compiled"][0].split(",")) is (unwinder == "libunwind")
    arguments = facts["configure"][0].split()
    assert ({"--enable-frame-pointers", "--disable-libunwind"} <= set(arguments)) is (unwinder == "frame-pointers")
    for name in LIBRARIES:
        fact = read_facts(built.library(name), name=name)
        assert ("libunwind.so.8" in fact.needed) is (unwinder == "libunwind")
        assert fact.soname.startswith(f"lib{name}.so.")
        assert not fact.runpath
        assert not fact.rpath
    # No feature macro of the image's own compiler slipped in, nor what the tree asked for.
    assert "#define __AVX__ 1" in built.text("macros.txt").splitlines()
    assert ("#define __AVX2__ 1" in built.text("macros.txt").splitlines()) is (target == "haswell")


@each_way
def test_what_is_delivered(build: Builder, unwinder: str, target: str) -> None:
    prefix = build(unwinder, target).prefix
    names = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    libraries = {name for name in names if re.fullmatch(r"lib/[^/]*", name)}
    pattern = re.compile(r"lib/lib(tcmalloc|profiler|tcmalloc_and_profiler)\.(a|so(\.\d+){0,3})")
    assert {m.group(1) for name in libraries if (m := pattern.fullmatch(name))} == set(LIBRARIES)
    assert [name for name in libraries if not pattern.fullmatch(name)] == []
    assert {name for name in names if name.endswith(".pc")} == {
        "lib/pkgconfig/libtcmalloc.pc",
        "lib/pkgconfig/libprofiler.pc",
    }
    assert {"include/gperftools/tcmalloc.h", "include/gperftools/malloc_extension.h"} <= names
    assert not [name for name in names if "unwind" in name or "minimal" in name or name.endswith(".la")]
    assert {name for name in names if not name.startswith(("lib/", "include/"))} == {"share/doc/gperftools/COPYING"}


@each_way
def test_no_path_of_the_build_is_in_it(build: Builder, unwinder: str, target: str) -> None:
    """What the prefix maps make of it, /usr/src/forge, is not one."""
    leak = re.compile(rb"(?<![\w.-])/forge(?![\w.-])")
    prefix = build(unwinder, target).prefix
    searched = 0
    for path in prefix.rglob("*"):
        if path.is_file():
            searched += 1
            assert not leak.search(path.read_bytes()), path
    assert searched > 20


@each_pair
def test_no_instruction_above_the_target(build: Builder, unwinder: str, target: str, tmp_path: Path) -> None:
    built = build(unwinder, target)
    rules = Rules(forbidden=("/forge",))
    macros = built.text("macros.txt").splitlines()
    [found] = audit_paths(
        [built.prefix / "lib"],
        tmp_path,
        target=target,
        rules=rules,
        allowed=from_macros(macros, target, source="the build image's compiler"),
        today=date.today(),
    )
    assert found.passed, "\n".join(found.lines())
    assert len([facts for facts in found.files if facts.kind == "dyn"]) == len(LIBRARIES)
    assert len(found.files) > 10 * len(LIBRARIES), "the members of static libraries are judged, too"


@pytest.mark.parametrize("unwinder", [unwinder for unwinder, target in PAIRS if target == "haswell"])
def test_code_of_the_later_target_is_refused_for_the_earlier(build: Builder, unwinder: str, tmp_path: Path) -> None:
    """So the audit above had something to find: what is right for haswell is wrong for sandybridge."""
    late = build(unwinder, "haswell")
    allowed = from_gcc("sandybridge")
    [found] = audit_paths([late.prefix / "lib"], tmp_path, target="sandybridge", allowed=allowed, today=date.today())
    assert found.isa.violations


def test_the_same_bytes_when_built_again(build: Builder) -> None:
    """Once through the compiler cache, once without."""
    first, second = (build("frame-pointers", "haswell", ccache=ccache) for ccache in (True, False))
    assert first.digests == second.digests
    assert first.text("unwinder.tsv") == second.text("unwinder.tsv")


def test_frame_pointers_are_in_the_libraries_themselves(build: Builder) -> None:
    """Nearly every function of tcmalloc begins with the frame that the walk follows, and few do otherwise."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed here")

    def framed(unwinder: str, target: str) -> int:
        done = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", str(build(unwinder, target).library("tcmalloc"))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        return len(re.findall(r"mov +%rsp,%rbp", done.stdout))

    without, with_frames = (framed(unwinder, target) for unwinder, target in PAIRS[:2])
    assert with_frames > 4 * without


# --- at run time ------------------------------------------------------------------------------------------------

PROGRAM = r"""
#include <gperftools/malloc_extension.h>
#include <gperftools/stacktrace.h>
#include <stdio.h>
#include <string.h>
static void *seen[32];
__attribute__((noinline)) static int inner() { int n = GetStackTrace(seen, 32, 0); asm volatile(""); return n; }
__attribute__((noinline)) static int outer() { int n = inner(); asm volatile(""); return n; }
int main() {
    char *block = new char[1 << 20];
    memset(block, 1, 1 << 20);
    asm volatile("" : : "r"(block) : "memory");  // else new and delete are left out
    size_t bytes = 0;
    MallocExtension::instance()->GetNumericProperty("generic.current_allocated_bytes", &bytes);
    printf("allocated: %zu\nframes: %d\n", bytes, outer());
    delete[] block;
}
"""
# As a recipe would use it: by pkg-config, and with the folder on the run path.
PROVE = """#!/bin/sh
set -eu
cd "$PIKAFORGE_ROOT"
g++ -O1 $PIKAFORGE_FLAGS prove.cc -o prove \
$(PKG_CONFIG_PATH=$PIKAFORGE_ROOT/prefix/lib/pkgconfig pkg-config --cflags --libs libtcmalloc) \
-Wl,-rpath,"$PIKAFORGE_ROOT/prefix/lib"
ldd prove
TCMALLOC_STACKTRACE_METHOD_VERBOSE=t ./prove
"""


def prove(build: Builder, built: Built, unwinder: str, target: str) -> str:
    """What a program prints that runs with the library in the build image."""
    missing = lacking(target, build.engine.cpu_flags(build.image))
    if missing:
        pytest.skip(f"the engine's CPU cannot run code for {target}: it has no {', '.join(missing)}")
    log = built.folder / "prove.log"
    job = Job(
        label=f"test-allocator-prove-{built.folder.name}",
        image=build.image,
        argv=("sh", "prove.sh"),
        env={"PIKAFORGE_FLAGS": "-fno-omit-frame-pointer" if unwinder == "frame-pointers" else ""},
        inputs=(
            Input(folder="", archive=files({"prove.sh": PROVE.encode(), "prove.cc": PROGRAM.encode()})),
            Input(folder="prefix", archive=built.folder / "prefix.tar"),
        ),
        log=log,
        timeout=120,
    )
    build.run(job, built.folder)
    return log.read_text(encoding="utf-8")


@each_pair
def test_a_running_program_walks_the_stack_in_that_way(build: Builder, unwinder: str, target: str) -> None:
    said = prove(build, build(unwinder, target), unwinder, target)
    assert f"Chosen stacktrace method is {METHODS[unwinder]}\n" in said.replace("\r", "")
    # What the program holds is known to the library, so malloc is its own; main, outer and inner are on the stack.
    assert int(re.findall(r"allocated: (\d+)", said)[0]) >= 1 << 20
    assert int(re.findall(r"frames: (\d+)", said)[0]) >= 3
    assert re.search(r"libtcmalloc\.so\.\d+ => /forge/prefix/lib/", said)


def test_own_libunwind_travels_beside_the_libraries(build: Builder) -> None:
    """For images that have none; here the image's is there and must not be taken."""
    built = build("libunwind", "sandybridge", own=True)
    assert built.facts["chosen"] == ["libunwind"]
    assert built.facts["libunwind"] == ["built", "-", "1.6.2"]
    libraries = sorted(path.name for path in (built.prefix / "lib").glob("libunwind*"))
    assert libraries == ["libunwind.so", "libunwind.so.8", "libunwind.so.8.0.1"]
    for name in LIBRARIES:
        fact = read_facts(built.library(name), name=name)
        assert "libunwind.so.8" in fact.needed
        assert fact.runpath == ("$ORIGIN",)
    unwind = read_facts(built.library("unwind"), name="libunwind.so.8")
    assert set(unwind.needed) <= {"libc.so.6", "ld-linux-x86-64.so.2", "libgcc_s.so.1"}
    assert not unwind.runpath
    # Its unwind.h would hide the compiler's.
    assert not list((built.prefix / "include").rglob("*unwind*"))
    assert (built.prefix / "share/doc/libunwind/COPYING").stat().st_size > 0
    assert (built.folder / "debug/lib/libunwind.so.8.0.1.debug").is_file()
    said = prove(build, built, "libunwind", "sandybridge")
    assert "libunwind.so.8 => /forge/prefix/lib/libunwind.so.8" in said
    assert "Chosen stacktrace method is libunwind\n" in said.replace("\r", "")
