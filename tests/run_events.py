"""Events of runs, for tests of faces."""

from __future__ import annotations

from typing import Any

from pikaforge.cli.faces.events import (
    ArtifactPut,
    CellEnded,
    FailureText,
    NodeEnded,
    NodeProgressed,
    NodeStarted,
    RunClosed,
    RunInterrupted,
    RunNotice,
    RunOpened,
)

TIME = "2026-01-01T00:00:00.000+00:00"
CELLS = ("R620-debian12-none", "R720-debian12-none")
GROUP = "debian12-sandybridge-none"
DIGEST = "0123456789abcdef" * 4


def opened(**more: Any) -> RunOpened:
    """A run of two cells; a quarter of it is stored."""
    given = {"product": "demo", "version": "v1.0", "options": ("--source sample",), "cells": CELLS, "compilations": 1}
    times = {"nodes": 12, "cached": 3, "expected_seconds": 250.0, "unknown": 0}
    return RunOpened(**{"time": TIME, **given, **times, **more})


def notice(text: str, **more: Any) -> RunNotice:
    """A notice."""
    return RunNotice(time=TIME, text=text, **more)


def started(stage: str, label: str, expected: float | None = None) -> NodeStarted:
    """A node that begins."""
    node = f"{stage}:{label}"
    return NodeStarted(time=TIME, node=node, stage=stage, label=label, cells=CELLS, expected_seconds=expected)


def progressed(node: str, percent: int) -> NodeProgressed:
    """The progress of a build."""
    return NodeProgressed(time=TIME, node=node, fraction=percent / 100, text=f"{percent}%")


def ended(stage: str, label: str, status: Any, seconds: float = 0.0, **more: Any) -> NodeEnded:
    """A node that has ended."""
    given: dict[str, Any] = {"stage": stage, "label": label, "cells": CELLS, "status": status, "seconds": seconds}
    return NodeEnded(time=TIME, node=f"{stage}:{label}", **{**given, **more})


REASON = "src/table.cc:12:3: error: 'Slot' was not declared in this scope"
COMMAND = "env PYTHONPATH=/checkout/build python3 -m pikaforge build R620-debian12-none --source sample"


def failure(**more: Any) -> FailureText:
    """The failure of a compilation."""
    lines = (
        "error: the build failed",
        f"  where: stage compile, {GROUP}",
        f"  reason: {REASON}",
        "  last lines of the log:",
        "    | make: *** [Makefile:7: table.o] Error 1",
        "  log: out/logs/compile.log",
        "  hint: see the recipe",
    )
    given: dict[str, Any] = {"message": "the build failed", "where": f"stage compile, {GROUP}", "reasons": (REASON,)}
    given |= {"tail": ("make: *** [Makefile:7: table.o] Error 1",), "hints": ("see the recipe",), "lines": lines}
    return FailureText(**{**given, "exit_status": 4, **more})


def failed() -> NodeEnded:
    """A compilation that failed."""
    return ended("compile", GROUP, "failed", 64.0, error=failure(), reproduce=(COMMAND,))


def cell(id_: str = CELLS[0], **more: Any) -> CellEnded:
    """The verdicts on a cell that was built."""
    given: dict[str, Any] = {"target": "sandybridge", "wanted": "sandybridge", "flags": ("-march=sandybridge",)}
    given |= {"status": "done", "audit": "passed", "native": "9 of 9 checks passed in 2.1 s"}
    given |= {"emulated": "9 of 9 checks passed in 8.4 s", "package": "yes"}
    return CellEnded(**{"time": TIME, "cell": id_, **given, **more})


def artifact(id_: str = CELLS[0], file: str = "dist/debian12/demo-v1.0-R620.tar.gz", **more: Any) -> ArtifactPut:
    """A file in dist/."""
    given: dict[str, Any] = {"bytes": 12_345_678, "seconds": 93.4, "sha256": DIGEST, "made": "built"}
    return ArtifactPut(**{"time": TIME, "cell": id_, "file": file, **given, **more})


def closed(**more: Any) -> RunClosed:
    """The end of a run."""
    given: dict[str, Any] = {"exit_status": 0, "built": 2, "failed": 0, "seconds": 130.0}
    given |= {"report": "dist/report.json", "page": "dist/report.html"}
    return RunClosed(**{"time": TIME, **given, "next": ("nox -s publish -- R620",), **more})


def interrupted() -> RunInterrupted:
    """A run that Ctrl-C has ended."""
    return RunInterrupted(time=TIME, exit_status=130, kept=5, nodes=12, next=(COMMAND,))
