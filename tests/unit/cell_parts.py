"""Results of all stages for one small cell, as packages are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unit.helpers import make_spec, the_cell

from pikaforge.formats.package_inputs import PackageInputs
from pikaforge.host.job import files
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import package

CELL = "R620-debian12-none"
EPOCH = 1672531200


def result(stage: str, held: dict[str, Path] | None = None, **facts: Any) -> Result:
    """A stage's result."""
    return Result(stage=stage, key="k", identity=f"{stage}-identity", facts=facts, files=held or {})


DISPATCHED = [
    {
        "file": "lib/libz.so.1",
        "package": "zlib1g",
        "version": "1:1.2",
        "sha256": "0" * 64,
        "functions": ["crc"],
        "features": ["pclmulqdq"],
        "evidence": ["only by init, which asks the CPU"],
    }
]


def inputs(tree: Path | None = None) -> dict[str, Result]:
    """The results of all stages."""
    return {
        "source": result(
            "source",
            origin="/home/somebody/clone",
            kind="product",
            url="https://example.org/demo.git",
            ref="v1.0",
            tag="v1.0",
            version="v1.0",
            commit="c" * 40,
            head="d" * 40,
            epoch=EPOCH,
            patches=[{"name": "pull-1", "sha256": "e" * 64, "url": "u", "why": "", "state": "present"}],
            submodules={"third/x": "f" * 40},
        ),
        "image": result(
            "image",
            base="bootstrap bookworm",
            build="pikaforge/x:1",
            ids={"pikaforge/x:1": "sha256:1"},
            packages={"build": [["gcc", "12.2"]], "runtime": [["libc6", "2.36"]]},
        ),
        "compiled": result(
            "compile",
            {"tree.tar": tree} if tree else None,
            compiler=["gcc 12.2.0"],
            dropped=[[3, "-march=native"]],
            bundled=[
                {
                    "soname": "libz.so.1",
                    "path": "lib/libz.so.1",
                    "package": "zlib1g",
                    "version": "1",
                    "sha256": "0" * 64,
                },
                {
                    "soname": "liby.so.1",
                    "path": "lib/liby.so.1",
                    "package": "unknown",
                    "version": "-",
                    "sha256": "1" * 64,
                },
            ],
            macros=["__AVX__"],
        ),
        "audited": result(
            "audit",
            allow_list="the compiler's macros",
            features_used=["avx"],
            kernel_flags=["avx"],
            symbol_versions={"GLIBC": "2.34"},
            system_libraries=["libc.so.6"],
            violations=[],
            library_versions={"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.34"]},
            files=[{"name": "bin/demo", "bytes": 20, "build_id": "abcdef"}],
            allocator={"library": "", "unwinder": ""},
            dispatched=DISPATCHED,
            packaged={"lib/libz.so.1": {"package": "zlib1g", "version": "1:1.2", "sha256": "0" * 64, "code": "c" * 64}},
        ),
        "smoked": result(
            "smoke",
            checks=[{"name": "version", "passed": True, "seconds": 1.25}, {"name": "ping", "seconds": 0.5}],
            target="sandybridge",
            tried="sandybridge",
        ),
    }


TREE = {"bin/demo": b"\x7fELF and more", "conf/demo.conf": b"port 1\n"}


def trees(tmp_path: Path, debug: Mapping[str, bytes] | None = None) -> dict[str, Result]:
    """The inputs with a tree, and debug information for some of its files."""
    tree, apart = tmp_path / "tree.tar", tmp_path / "debug.tar"
    tree.write_bytes(files(TREE, executable=["bin/demo"]))
    apart.write_bytes(files(debug or {}))
    found = inputs(tree)
    found["compiled"] = replace(found["compiled"], files={"tree.tar": tree, "debug.tar": apart})
    return found


def pack(workspace: Workspace, parts: dict[str, Result], **changes: Any) -> Result:
    """Run the package stage."""
    spec = make_spec(**changes)
    cell = the_cell(spec, CELL)
    return package.make(workspace, spec, cell, PackageInputs(**parts), key="2" * 32, tools="tools:1", others={})
