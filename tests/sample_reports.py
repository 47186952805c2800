"""Build reports of any size for the tests and measurements of pages, with a little of everything in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pikaforge.pipeline.report_record import BuildReport, CellRecord

TARGETS = ("x86_64_v2", "sandybridge", "ivybridge", "haswell", "skylake_avx512", "zen")
FUNCTIONS = 40
"""Functions with findings in each audit."""


def digest(*words: object) -> str:
    """A SHA-256 that depends on some words."""
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


def audit(target: str, *, seed: str = "", passed: bool = True, functions: int = FUNCTIONS) -> dict[str, Any]:
    """An audit with dispatched, waived and refused functions, linkage and flags."""
    levels = ("dispatched", "waived", "unproven") if passed else ("fail", "dispatched", "waived", "unproven")
    findings = [
        {
            "level": levels[number % len(levels)],
            "file": f"lib/lib{number % 4}.so.1",
            "function": f"crc32_{target}_{number}",
            "features": [["avx2", number + 1], ["bmi2", 2]],
            "address": 0x1000 + 64 * number,
            "code": "c5fd6f06",
            "text": "vmovdqa (%rsi),%ymm0",
            "reason": f"reason {number} {seed}",
            "hints": ["a call of __cpu_indicator_init is near"] if number % 3 == 0 else [],
        }
        for number in range(functions)
    ]
    return {
        "title": target, "target": target, "passed": passed, "allow_list": "the compiler's macros",
        "violations": [] if passed else [{"where": "bin/demo", "what": "needs avx2", "do": "compile it for less"}],
        "warnings": [{"where": "bin/demo", "what": "has no RELRO", "do": ""}], "notes": ["glibc is the host's"],
        "code_bytes": 12_345_678, "features_used": ["avx", "sse4_2"], "kernel_flags": ["avx", "sse4_2", "popcnt"],
        "dispatched": [
            {
                "file": "lib/libz.so.1", "package": "zlib1g", "version": "1:1.2", "sha256": digest("libz"),
                "functions": [f"crc_{number}" for number in range(20)], "features": ["pclmulqdq"],
                "evidence": ["only by init, which asks the CPU"],
            }
        ],
        "packaged": {
            "lib/libz.so.1": {"package": "zlib1g", "version": "1:1.2", "sha256": digest(1), "code": digest(2)}
        },
        "findings": findings,
        "symbol_versions": {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}, "system_libraries": ["libc.so.6", "libm.so.6"],
        "library_versions": {"libc.so.6": [f"GLIBC_2.{number}" for number in range(2, 35)]},
        "allocator": {"library": "lib/libtcmalloc.so.4", "unwinder": "libunwind.so.8"},
        "hardening": [{"file": "bin/demo", "pie": "yes", "relro": "full", "canary": True}],
        "units": [
            {
                "file": "bin/demo", "own": True, "march": target, "mtune": target, "native": False, "count": 12,
                "example": "src/main.cc",
            }
        ],
        "dropped_flags": [[31, "-march=native"], [2, "-mtune=native"]],
        "files": [
            {
                "name": f"lib/lib{number}.so.1", "kind": "library", "pie": True, "soname": f"lib{number}.so.1",
                "needed": ["libc.so.6"], "run_path": ["$ORIGIN"], "build_id": digest(number)[:40], "bytes": 123456,
                "symbols": True,
            }
            for number in range(10)
        ],
        "summaries": [
            {
                "file": f"lib/lib{number}.so.1", "verdict": "passed", "decoded": 100_000, "data": {"tables": 12},
                "unclassified": 0, "dispatched": 1, "waived": 0, "unproven": 0,
            }
            for number in range(10)
        ],
        "waived": [
            {"file": each["file"], "function": each["function"], "build_id": "a", "features": ["x"], "code": [[1, 2]]}
            for each in findings if each["level"] == "waived"
        ],
    }  # fmt: skip


def way(cpu: str = "", *, checks: int = 12, failed: Iterable[str] = (), **changes: Any) -> dict[str, Any]:
    """The smoke checks in one way."""
    bad = set(failed)
    made = [
        {
            "name": f"check {number}", "passed": f"check {number}" not in bad, "seconds": 0.1 * number,
            "exchanges": [f"GET {number} → 'x'"],
            "detail": f"step 1: sent GET {number}; wanted 'x'; got (nil)" if f"check {number}" in bad else "",
        }
        for number in range(checks)
    ]  # fmt: skip
    problem = f"checks failed: {', '.join(sorted(bad))}" if bad else ""
    rest = {"threads": 24, "file_descriptors": 31}
    return {"ran": True, "cpu": cpu, "checks": made, "problem": problem, "rest": rest, **changes}


def stage(name: str, label: str, **changes: Any) -> dict[str, Any]:
    """A stage that was done."""
    seconds = {"compile": 812.5, "image": 95.0, "smoke": 41.2}.get(name, 3.5)
    return {"stage": name, "label": label, "key": digest(name, label), "status": "done", "seconds": seconds, **changes}


def packages(id_: str, image: str, *, seed: str = "") -> list[dict[str, Any]]:
    """A tarball and a DEB."""
    return [
        {"path": f"{image}/demo-v1-{id_}.{suffix}", "format": kind, "role": "main", "bytes": 12 << 20,
         "sha256": digest(id_, kind, seed)}
        for kind, suffix in (("tar", "tar.gz"), ("deb", "deb"))
    ]  # fmt: skip


def manifest(model: str, image: str, *, commit: str = "c" * 40) -> dict[str, Any]:
    """What a package says of itself."""
    return {
        "model": model,
        "source_date_epoch": 1_600_000_000,
        "compiler": ["gcc 12.2.0", "g++ 12.2.0"],
        "source": {
            "url": "https://example.org/demo.git", "version": "v1.0", "ref": "v1.0", "commit": commit, "head": "d" * 40,
            "patches": [
                {"name": f"pull-{number}", "url": f"https://example.org/pull/{number}", "sha256": digest(number),
                 "state": "applied", "why": "it does not compile without"}
                for number in range(8)
            ],
            "submodules": {"third/x": "f" * 40},
        },
        "files": {f"bin/file-{number}": digest(number) for number in range(60)},
        "image": {
            "name": image, "base": "bootstrap bookworm",
            "build_packages": {f"build-{number}": f"1.{number}" for number in range(300)},
            "runtime_packages": {f"run-{number}": f"1.{number}" for number in range(120)},
        },
    }  # fmt: skip


def cell(model: str, image: str, allocator: str, *, target: str = "sandybridge", **changes: Any) -> CellRecord:
    """A cell that was built."""
    id_, group = f"{model}-{image}-{allocator}", f"{image}-{target}-{allocator}"
    data: dict[str, Any] = {
        "id": id_, "model": model, "image": image, "allocator": allocator, "target": target, "wanted": target,
        "flags": [f"-march={target}", "-mtune=generic"], "tried": target, "status": "done",
        "finished": "2026-01-01T00:00:00+00:00",
        "adaptations": [{"gcc": ">=13", "cflags": [], "cxxflags": ["-include cstdint"], "why": "a header is missing"}],
        "stages": [
            stage("source", "v1.0"), stage("image", image), stage("compile", group, cache="a" * 64),
            stage("audit", group), stage("smoke", group), stage("package", id_),
        ],
        "audit": audit(target, seed=group), "native": way(), "emulated": way("SandyBridge"),
        "artifacts": packages(id_, image), "manifest": manifest(model, image),
    }  # fmt: skip
    return CellRecord.model_validate_json(json.dumps({**data, **changes}))


def failed_cell(model: str, image: str, allocator: str, **changes: Any) -> CellRecord:
    """A cell whose compilation failed."""
    group = f"{image}-sandybridge-{allocator}"
    error = [
        "error: the recipe failed",
        f"  where: stage compile, {group}",
        "  reason: main.cc:3:1: error: no such thing",
    ]
    broken: dict[str, Any] = {
        "status": "failed", "audit": None, "native": None, "emulated": None, "artifacts": [], "manifest": {},
        "tried": "",
        "stages": [
            stage("source", "v1.0"), stage("image", image), stage("compile", group, status="failed", error=error),
            stage("audit", group, status="blocked", key="", seconds=0.0, blocked_by="compile"),
        ],
    }  # fmt: skip
    return cell(model, image, allocator, **{**broken, **changes})


def big(models: int, images: int, allocators: int = 1) -> BuildReport:
    """A report of many cells: each seventeenth is not wholly proven, each twenty-third has failed."""
    names = ("none", "system", "libunwind", "frame-pointers", "other")[:allocators]
    cells, number = [], 0
    for image in range(images):
        for allocator in names:
            for model in range(models):
                number += 1
                where = (f"R{600 + 10 * model}", f"os{image + 1}", allocator)
                if number % 23 == 0:
                    cells.append(failed_cell(*where))
                else:
                    open_ = {"not_run": "only its twin was run"} if number % 17 == 0 else {}
                    cells.append(cell(*where, target=TARGETS[model % len(TARGETS)], **open_))
    return BuildReport(product="demo", version="v1.0", cells=tuple(sorted(cells, key=lambda each: each.id)))
