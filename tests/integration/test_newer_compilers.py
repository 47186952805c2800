"""The sample's libraries, written with gcc 4.8 and -Werror, under the compilers of Debian 11, 12 and 13.

What each of gcc 10, 12 and 14 refuses in them when -Werror counts and nothing is added, file by file; and that with the
compiler wrapper and matrix.yaml's `product.compilers` all of them build both.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pikaforge.config import compilers, load
from pikaforge.config.schema import Spec
from pikaforge.host.docker import DockerEngine
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Store

if TYPE_CHECKING:
    from conftest import Done, Project

ROOT = Path(__file__).resolve().parents[2]
GUEST = ROOT / "docker" / "guest"
SAMPLE = ROOT / "tests" / "sample"
SCRIPTS = ("lib.sh", "run.sh", "compile.sh", "toolchain.sh", "bundle.sh", "licences.sh", "cc", "ccache.conf")
LIBRARIES = ("pink", "rocksdb")
IMAGES = {"debian11": 10, "debian12": 12, "debian13": 14}

# What, the first gcc that has it, and the files that have it: of pink and of rocksdb.
TRAITS = (
    ("class-memaccess", 8, "src/redis_server.cc", "src/db.cc"),
    ("deprecated-copy", 9, "src/redis_server.cc", "src/db.cc"),
    ("pessimizing-move", 9, "src/redis_server.cc", "src/batch.cc"),
    ("array-bounds", 10, "src/socket.cc", "src/format.h"),  # as inlined into src/file.cc
    ("range-loop-construct", 11, "src/redis_server.cc", "src/db.cc"),
    ("no <limits>", 11, "src/redis_parser.cc", "src/segment_name.cc"),
    ("no <cstdint>", 13, "include/pink/redis_parser.h", "include/rocksdb/checksum.h"),
)
MISSING = {
    "no <limits>": "numeric_limits",
    "no <cstdint>": "(ParseResult' has not been declared|uint32_t' does not name)",
}
WARNING = re.compile(r"\[-Werror=([a-z-]+)=?\]$")

BUILD = """#!/bin/sh
set -eu
export PORTABLE=1
status=0
for library in pink rocksdb; do
    echo "== $library"
    make -k -C "third/$library" -j"$JOBS" static_lib || status=1
done
[ "$status" -eq 0 ] || exit "$status"
echo "== others"
"""
# A program of a time when functions needed no declaration and numbers were pointers, and each switch that
# `product.compilers` may hold.
OTHERS = """
printf 'int f(void) { return g(1); }\\nint h(int *p) { int i = p; return i; }\\n' >old.c
says() { if "$@" >said 2>&1; then echo yes; else echo no; fi; }
echo "plain: $(PIKAFORGE_EXTRA_CFLAGS='' says gcc -c old.c)"
echo "permissive: $(PIKAFORGE_EXTRA_CFLAGS=-fpermissive says gcc -c old.c)"
named='-Wno-error=implicit-function-declaration -Wno-error=int-conversion'
echo "named: $(PIKAFORGE_EXTRA_CFLAGS=$named says gcc -c old.c)"
echo "asked for by the tree: $(PIKAFORGE_EXTRA_CFLAGS='' says gcc -Werror $named -c old.c)"
: >empty.c
: >empty.cc
for switch in $SWITCHES; do
    gcc "$switch" -c empty.c 2>said || g++ "$switch" -c empty.cc || echo "unknown switch: $switch"
done
mkdir -p "$OUT/bin"
echo 'int main() { return 0; }' >main.cc
g++ main.cc third/pink/libpink.a third/rocksdb/librocksdb.a -o "$OUT/bin/program"
"""

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("newer-compilers")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The build image of an OS."""

    name: str
    gcc: int
    """The first part of its version."""
    image: str
    spec: Spec
    folder: Path

    def compile(self, *, keep: bool) -> tuple[int, str, Mapping[str, str]]:
        """Compile both libraries: with -Werror counting and nothing added, or as matrix.yaml says.

        Returns:
            exit status, what was printed, and the guest's facts.
        """
        folder = self.folder / ("keep" if keep else "drop")
        folder.mkdir()
        source = {
            f"third/{library}/{path.relative_to(SAMPLE / library)}": path
            for library in LIBRARIES
            for path in sorted((SAMPLE / library).rglob("*"))
            if path.is_file()
        }
        added = () if keep else compilers.cxxflags(self.spec, self.name)
        job = Job(
            label=f"test-compilers-{self.name}-{folder.name}",
            image=self.image,
            argv=("sh", "guest/run.sh", "compile", "tree", "facts"),
            env={
                "PIKAFORGE_PRODUCT": "sample",
                "PIKAFORGE_VERSION": "1.0",
                "PIKAFORGE_JOBS": "2",
                "PIKAFORGE_TARGET_FLAGS": "-march=sandybridge -mtune=sandybridge",
                "PIKAFORGE_FRAME_POINTERS": "0",
                "PIKAFORGE_ALLOCATOR": "none",
                "PIKAFORGE_BINARIES": "bin/program",
                "PIKAFORGE_BASE_LIBS": " ".join(self.spec.defaults.base_libraries),
                "PIKAFORGE_CCACHE": "1",
                "PIKAFORGE_KEEP_WERROR": str(int(keep)),
                "PIKAFORGE_EXTRA_CXXFLAGS": " ".join(added),
                "SOURCE_DATE_EPOCH": "1600000000",
                "SWITCHES": " ".join(sorted(compilers.SWITCHES)),
            },
            inputs=(
                Input(folder="guest", archive=files({name: GUEST / name for name in SCRIPTS}, executable=SCRIPTS)),
                Input(folder="src", archive=files(source)),
                Input(folder="", archive=files({"recipe.sh": (BUILD + OTHERS).encode()})),
            ),
            outputs=("packed/facts.tar",),
            log=folder / "log",
            cache="ccache",
            timeout=600,
        )
        done = DockerEngine().run(job, folder)
        facts: dict[str, str] = {}
        if done.status == 0:
            with tarfile.open(done.outputs["packed/facts.tar"]) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is not None:
                        facts[Path(member.name).name] = content.read().decode()
        return done.status, job.log.read_text(encoding="utf-8", errors="replace"), facts


@pytest.fixture(scope="module", params=IMAGES)
def toolchain(
    request: pytest.FixtureRequest,
    new_project: Callable[[Path], Project],
    shrink: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Toolchain:
    """Images stay in the checkout's out/. What is built to have them made is tiny."""
    name = request.param
    folder = tmp_path_factory.mktemp(f"compilers-{name}")
    project = new_project(folder)
    project.out = ROOT / "out"
    shrink(project)
    project.build("R620", image=name, check=0)
    [key] = [n["key"] for n in project.plan("R620", image=name)["nodes"] if (n["stage"], n["label"]) == ("image", name)]
    record, problem = Store(project.out / "store").get("image", key)
    assert record is not None, problem
    assert str(record.facts["gcc"]).split(".")[0] == str(IMAGES[name])
    return Toolchain(
        name=name,
        gcc=IMAGES[name],
        image=str(record.facts["build"]),
        spec=load.load(ROOT / "matrix.yaml"),
        folder=folder,
    )


def errors(log: str) -> dict[str, list[str]]:
    """The compiler's errors, by library."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^== ", log, flags=re.MULTILINE)[1:]:
        library, _, text = part.partition("\n")
        text = re.sub("\x1b\\[[0-9;]*[mK]", "", text)
        found[library] = re.findall(r"^[a-z_/]+\.(?:cc|h):\d+:\d+: error: .*", text, flags=re.MULTILINE)
    return found


def test_each_compiler_refuses_what_it_knows(toolchain: Toolchain) -> None:
    status, log, _ = toolchain.compile(keep=True)
    assert status == 64
    found = errors(log)
    assert sorted(found) == sorted(LIBRARIES)
    for column, library in enumerate(LIBRARIES, 2):
        told = set()
        for trait in TRAITS:
            name, place = trait[0], str(trait[column])
            lines = [line for line in found[library] if line.startswith(f"{place}:")]
            pattern = MISSING.get(name, rf"\[-Werror={name}=?\]$")
            if any(re.search(pattern, line) for line in lines):
                told.add(name)
        assert told == {name for name, since, *_ in TRAITS if since <= toolchain.gcc}, "\n".join(found[library])
        # Nothing else: what no row names is a mistake in the sample, or follows from what was not included.
        broken = {trait[column] for trait in TRAITS if trait[0] in MISSING and trait[0] in told}
        others = [line for line in found[library] if line.partition(":")[0] not in broken and "uint" not in line]
        names = {match.group(1) for line in others if (match := WARNING.search(line))}
        assert names <= {trait[0] for trait in TRAITS} | ({"unused-function"} if toolchain.gcc > 12 else set()), others


def test_each_compiler_builds_them_with_what_it_needs(toolchain: Toolchain) -> None:
    status, log, facts = toolchain.compile(keep=False)
    assert status == 0, log[-5000:]
    assert errors(log) == {"pink": [], "rocksdb": [], "others": []}
    for name in ("class-memaccess", "pessimizing-move", "deprecated-copy", "array-bounds"):
        assert f"[-W{name}" in log, "they are told, and are no errors"
    # One call a file, and one of the tree's in "others".
    sources = [path for library in LIBRARIES for path in (SAMPLE / library / "src").glob("*.cc")]
    assert dict(line.split("\t")[::-1] for line in facts["dropped.tsv"].splitlines()) == {
        "-Werror": str(len(sources) + 1)
    }


def test_errors_of_newer_compilers_are_data(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> None:
    """gcc 14 made errors of warnings; what a product adds, or its tree asks for, lets them pass."""
    log = (toolchain.folder / "drop" / "log").read_text(encoding="utf-8")
    answers = dict(re.findall(r"^([a-z ]+): (yes|no)$", log, flags=re.MULTILINE))
    assert answers == {
        "plain": "no" if toolchain.gcc >= 14 else "yes",
        "permissive": "yes",
        "named": "yes",
        "asked for by the tree": "yes",
    }
    assert "unknown switch" not in log


def fails(project: Project) -> Done:
    """A build of the sample that ends in the compile stage."""
    done = project.build("R620")
    assert done.returncode == 4, done.text
    assert "  where: stage compile, debian12-sandybridge-none" in done.stdout
    return done


def test_a_product_that_keeps_its_errors_fails_with_their_names(ready: Project) -> None:
    ready.change(lambda matrix: matrix["product"].update(keep_werror=True))
    done = fails(ready)
    assert re.search(r"^  reason: src/\w+\.(cc|h):.*\[-Werror=[a-z-]+\]$", done.stdout, flags=re.MULTILINE), done.stdout
    [cell] = json.loads((ready.dist / "report.json").read_text(encoding="utf-8"))["cells"]
    assert cell["keep_werror"]
    assert [entry["gcc"] for entry in cell["adaptations"]] == [">=11"]
