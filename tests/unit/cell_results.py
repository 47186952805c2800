"""Results of all stages for one small cell, as packages are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from unit.helpers import make_spec, the_cell

from pikaforge.audit.audit_record import AuditRecord, ElfRecord
from pikaforge.audit.distribution import PackagedRecord
from pikaforge.audit.judge_instructions import DispatchedRecord
from pikaforge.host.job import files
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import package
from pikaforge.pipeline.compile import BundledLibrary, CompileFacts, LicenceRecord
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.package import CellResults, PackageFacts
from pikaforge.pipeline.smoke.record import CheckRecord, SmokeFacts, WayRecord
from pikaforge.pipeline.source.facts import PatchFacts, SourceFacts

CELL = "R620-debian12-none"
EPOCH = 1672531200

SOURCE = SourceFacts(
    origin="/home/somebody/clone",
    kind="product",
    url="https://example.org/demo.git",
    ref="v1.0",
    tag="v1.0",
    version="v1.0",
    commit="c" * 40,
    head="d" * 40,
    epoch=EPOCH,
    patches=(PatchFacts(name="pull-1", sha256="e" * 64, url="u", state="applied"),),
    submodules={"third/x": "f" * 40},
)

IMAGE = ImageStageFacts(
    base="bootstrap bookworm",
    build="pikaforge/x:1",
    runtime="pikaforge/x-runtime:1",
    ids={"pikaforge/x:1": "sha256:1"},
    packages={"build": (("gcc", "12.2"),), "runtime": (("libc6", "2.36"),)},
)

COMPILED = CompileFacts(
    compiler=("gcc 12.2.0",),
    dropped=((3, "-march=native"),),
    bundled=(
        BundledLibrary(soname="libz.so.1", path="lib/libz.so.1", package="zlib1g", version="1", sha256="0" * 64),
        BundledLibrary(soname="liby.so.1", path="lib/liby.so.1", package="unknown", version="-", sha256="1" * 64),
    ),
    licences=(
        LicenceRecord(of="demo", files=("licenses/demo/LICENSE",)),
        LicenceRecord(of="unknown", files=("licenses/unknown/COPYING",)),
        LicenceRecord(of="zlib1g", names=("Zlib",), files=("licenses/zlib1g/copyright",)),
    ),
    macros=("__AVX__",),
)

DISPATCHED = DispatchedRecord(
    file="lib/libz.so.1",
    package="zlib1g",
    version="1:1.2",
    sha256="0" * 64,
    functions=("crc",),
    features=("pclmulqdq",),
    evidence=("only by init, which asks the CPU",),
)

AUDITED = AuditRecord(
    title="debian12-sandybridge-none",
    target="sandybridge",
    passed=True,
    violations=(),
    warnings=(),
    notes=(),
    allow_list="the compiler's macros",
    code_bytes=1,
    features_used=("avx",),
    kernel_flags=("avx",),
    dispatched=(DISPATCHED,),
    packaged={"lib/libz.so.1": PackagedRecord(package="zlib1g", version="1:1.2", sha256="0" * 64, code="c" * 64)},
    findings=(),
    symbol_versions={"GLIBC": "2.34"},
    system_libraries=("libc.so.6",),
    library_versions={"libc.so.6": ("GLIBC_2.2.5", "GLIBC_2.34")},
    allocator={"library": "", "unwinder": ""},
    hardening=(),
    units=(),
    dropped_flags=((3, "-march=native"),),
    files=(
        ElfRecord(
            name="bin/demo",
            kind="exec",
            pie=False,
            soname="",
            needed=(),
            run_path=(),
            build_id="abcdef",
            bytes=20,
            symbols=True,
        ),
    ),
)

PASSED = (CheckRecord(name="version", passed=True, seconds=1.25), CheckRecord(name="ping", passed=True, seconds=0.5))

SMOKED = SmokeFacts(
    target="sandybridge",
    tried="sandybridge",
    native=WayRecord(ran=True, checks=PASSED),
    emulated=WayRecord(ran=True, cpu="SandyBridge", checks=PASSED),
    checks=PASSED,
)


def result(stage: str, facts: BaseModel, held: Mapping[str, Path] | None = None) -> Result:
    """A stage's result, as the store has it."""
    plain = facts.model_dump(mode="json")
    return Result(stage=stage, key="k", identity=f"{stage}-identity", facts=plain, files=held or {})


def results() -> CellResults:
    """The results of all stages, without files."""
    return CellResults(
        source=result("source", SOURCE),
        image=result("image", IMAGE),
        compiled=result("compile", COMPILED),
        audited=result("audit", AUDITED),
        smoked=result("smoke", SMOKED),
    )


FACTS: Mapping[str, BaseModel] = {
    "source": SOURCE,
    "image": IMAGE,
    "compile": COMPILED,
    "audit": AUDITED,
    "smoke": SMOKED,
    "package": PackageFacts(artifacts=(), manifest={}),
}
"""By stage."""

TREE = {"bin/demo": b"\x7fELF and more", "conf/demo.conf": b"port 1\n"}


def trees(tmp_path: Path, debug: Mapping[str, bytes] | None = None) -> CellResults:
    """The results with a tree, and debug information for some of its files."""
    tree, apart = tmp_path / "tree.tar", tmp_path / "debug.tar"
    tree.write_bytes(files(TREE, executable=["bin/demo"]))
    apart.write_bytes(files(debug or {}))
    return replace(results(), compiled=result("compile", COMPILED, {"tree.tar": tree, "debug.tar": apart}))


def pack(workspace: Workspace, given: CellResults, *, cell: str = CELL, **changes: Any) -> tuple[Result, PackageFacts]:
    """Run the package stage; its result and facts."""
    spec = make_spec(**changes)
    made = package.make(workspace, spec, the_cell(spec, cell), given, key="2" * 32, tools="tools:1", others={})
    return made, made.read(PackageFacts)
