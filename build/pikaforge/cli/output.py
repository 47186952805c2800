"""What a person reads: the plan, the progress of a run, its end. Everything is printed in whole blocks."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from pikaforge.config import compilers
from pikaforge.config.schema import Spec
from pikaforge.errors import ForgeError
from pikaforge.pipeline.pipeline import Events, NodeOutcome, View
from pikaforge.pipeline.report import CellRecord, DispatchedRecord, WayRecord
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node, Plan

VERDICTS = ("CELL", "TARGET", "AUDIT", "NATIVE", "EMULATED", "PACKAGE")
MARKUP = re.compile(r"[\\`*_~\[\]<>|&$#!]")
"""What GitHub's Markdown takes for more than a character; all of it may have a backslash before it."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def cell_json(cell: Cell) -> dict[str, Any]:
    """A cell as the JSON faces print it."""
    return {
        "id": cell.id,
        "model": cell.model,
        "image": cell.image,
        "allocator": cell.allocator,
        "target": cell.target,
        "wanted": cell.wanted,
        "flags": list(cell.flags),
        "problem": cell.problem,
        "remark": cell.remark,
    }


def built_target(target: str, wanted: str) -> str:
    """The target of a cell for people: what was built, and what was wanted where that is another."""
    return target if target == wanted else f"{target} (wanted {wanted})"


def compilers_json(spec: Spec, plan: Plan) -> dict[str, Any]:
    """What is special about the compiler of each image of a plan, by image."""
    return {
        image: {
            "gcc": spec.images[image].gcc,
            "cflags": list(compilers.cflags(spec, image)),
            "cxxflags": list(compilers.cxxflags(spec, image)),
            **compilers.facts(spec, image),
        }
        for image in dict.fromkeys(cell.image for cell in plan.cells if not cell.problem)
    }


def plan_json(plan: Plan, views: Sequence[View], spec: Spec | None = None) -> str:
    """`plan --json`: cells and nodes, with keys and what is cached; with `spec`, what images' compilers need, too."""
    return json.dumps(
        {
            "cells": [{**cell_json(cell), "tried": cell.tried} for cell in plan.cells],
            "nodes": [
                {
                    "stage": view.node.stage,
                    "label": view.node.label,
                    "key": view.key,
                    "cells": [cell.id for cell in view.node.cells],
                    "needs": list(view.node.needs),
                    "cached": view.cached,
                    "why": view.why,
                }
                for view in views
            ],
            **({"compilers": compilers_json(spec, plan)} if spec is not None else {}),
            "warnings": list(plan.warnings),
            "problems": {cell.id: cell.problem for cell in plan.problems},
        },
        indent=2,
    )


def plan_text(plan: Plan, views: Sequence[View], spec: Spec | None = None) -> str:
    """`plan`: cells, then what images' compilers need (with `spec`), then nodes, then what to mind."""
    blocks = [
        table(
            ("CELL", "TARGET", "TRIED AS", "FLAGS"),
            [
                (
                    c.id,
                    *((built_target(c.target, c.wanted), c.tried) if not c.problem else "--"),
                    " ".join(c.flags) or "-",
                )
                for c in plan.cells
            ],
        ),
        *_compilers_text(spec, plan),
    ]
    if views:
        rows = [
            (
                view.node.stage,
                view.node.label,
                str(len(view.node.cells)),
                view.key[:12],
                "cached" if view.cached else "to do",
                view.why,
            )
            for view in views
        ]
        blocks.append(table(("STAGE", "NODE", "CELLS", "KEY", "STATE", "WHY"), rows))
    waiting = sum(not view.cached for view in views)
    notes = [f"{len(plan.cells)} cells, {len(views)} nodes, {waiting} to do"]
    notes.extend(f"warning: {text}" for text in plan.warnings)
    notes.extend(f"error: {cell.id}: {cell.problem}" for cell in plan.problems)
    return "\n\n".join([*blocks, "\n".join(notes)])


def _compilers_text(spec: Spec | None, plan: Plan) -> list[str]:
    """A table of what the compilers of a plan's images need for the product; nothing where there is nothing to tell."""
    if spec is None:
        return []
    rows = [
        (image, spec.images[image].gcc, entry.gcc, language, " ".join(flags), entry.why)
        for image in dict.fromkeys(cell.image for cell in plan.cells if not cell.problem)
        for entry in compilers.adaptations(spec, image)
        for language, flags in (("C", entry.cflags), ("C++", entry.cxxflags))
        if flags
    ]
    blocks = [table(("IMAGE", "GCC", "WITH", "LANGUAGE", "ADDED", "WHY"), rows)] if rows else []
    if spec.product.keep_werror:
        blocks.append("-Werror of the product's build files counts (product.keep_werror)")
    return blocks


def matrix_text(cells: Sequence[Cell], form: str) -> str:
    """`matrix --format table|json`."""
    if form == "json":
        return json.dumps({"cells": [cell_json(cell) for cell in cells]}, indent=2)
    rows = [
        (
            c.id,
            c.model,
            c.image,
            c.allocator,
            built_target(c.target, c.wanted),
            "no: " + c.problem if c.problem else "yes",
        )
        for c in cells
    ]
    return table(("CELL", "MODEL", "IMAGE", "ALLOCATOR", "TARGET", "POSSIBLE"), rows)


def verdicts(cells: Sequence[CellRecord]) -> str:
    """The table at the end of a build: what says yes and what says no, by cell; then what was not run or accepted."""
    notes = [*_not_run(cells), *dispatched(cells)]
    return "\n".join([table(VERDICTS, _verdict_rows(cells)), *(f"note: {text}" for text in notes)])


def verdicts_markdown(title: str, cells: Sequence[CellRecord]) -> str:
    """The same under a title, as Markdown."""
    lines = [VERDICTS, ["---"] * len(VERDICTS), *([plain(word) for word in row] for row in _verdict_rows(cells))]
    notes = [f"- {plain(text)}" for text in (*_not_run(cells), *dispatched(cells))]
    return "\n".join([f"### {plain(title)}", "", *(f"| {' | '.join(line)} |" for line in lines), "", *notes]).rstrip()


def _not_run(cells: Iterable[CellRecord]) -> list[str]:
    """What was tried in the place of a target, once each with the cells that it is about."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.not_run:
            found.setdefault(cell.not_run, []).append(cell.id)
    return [f"{', '.join(ids)}: {text}" for text, ids in found.items()]


def dispatched(cells: Iterable[CellRecord]) -> list[str]:
    """The libraries of distributions that the audit let through because they ask the CPU first; each once."""
    targets: dict[tuple[str, DispatchedRecord], dict[str, None]] = {}
    for cell in cells:
        for library in cell.audit.dispatched if cell.audit is not None else ():
            targets.setdefault((cell.image, library), {})[cell.target] = None
    return [
        f"accepted on {image} for {', '.join(names)}: {library.file} of {library.package} {library.version} has "
        f"{', '.join(library.features)} in {_some(library.functions)}: {'; '.join(library.evidence)}"
        for (image, library), names in targets.items()
    ]


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more functions" if len(names) > limit else "")


def summary(cells: Sequence[CellRecord], command: Callable[[str], str]) -> str:
    """What a run came to where not every cell was built: counts, then each refused cell with reason and command.

    Args:
        cells: of the run.
        command: the command that builds one cell, by its id.
    """
    failed = [cell for cell in cells if cell.status == "failed"]
    lines = [f"{len(cells) - len(failed)} of {len(cells)} cells built, {len(failed)} refused"]
    for cell in failed:
        lines += [f"  {cell.id}: {_reason(cell)}", f"    to try it alone: {command(cell.id)}"]
    return "\n".join(lines)


def _reason(cell: CellRecord) -> str:
    """Why there is no package of a cell, in one line."""
    for stage in cell.stages:
        if stage.status == "failed":
            said = " ".join(stage.error[0].removeprefix("error: ").split()) if stage.error else "failed"
            return f"{stage.stage} {stage.label}: {said}"
    return "it was not built"


def plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line: reasons have file names, exchanges and compiler messages."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def _verdict_rows(cells: Iterable[CellRecord]) -> list[tuple[str, ...]]:
    return [
        (c.id, built_target(c.target, c.wanted), _audited(c), _ran(c, c.native), _ran(c, c.emulated), _packed(c))
        for c in cells
    ]


def _audited(cell: CellRecord) -> str:
    if cell.audit is None:
        return _unreached(cell, "audit")
    if not cell.audit.passed:
        return f"REFUSED ({len(cell.audit.violations)})"
    count, accepted = len(cell.audit.warnings), len(cell.audit.dispatched)
    parts = ["passed"]
    if count:
        parts.append(f"{count} warning{'s' if count > 1 else ''}")
    if accepted:
        parts.append(f"{accepted} librar{'ies' if accepted > 1 else 'y'} by dispatch")
    return ", ".join(parts)


def _ran(cell: CellRecord, way: WayRecord | None) -> str:
    if way is None:
        return _unreached(cell, "smoke")
    if not way.ran:
        return f"not run: {way.reason}"
    if way.problem:
        return f"FAILED: {', '.join(way.failed)}" if way.failed else "FAILED"
    made = [check for check in way.checks if not check.skipped]
    good = sum(check.passed for check in made)
    stand = f"as {cell.tried}: " if cell.tried not in ("", cell.target) else ""
    return f"{stand}{good} of {len(made)} checks passed in {sum(check.seconds for check in made):.1f} s"


def _packed(cell: CellRecord) -> str:
    return "yes" if cell.artifacts else _unreached(cell, "package") if cell.status == "failed" else "-"


def _unreached(cell: CellRecord, stage: str) -> str:
    """How a stage ended that left nothing to tell."""
    ended = next((s.status for s in cell.stages if s.stage == stage), "blocked")
    return "FAILED" if ended == "failed" else "-" if ended == "blocked" else ended


class Printer(Events):
    """Prints a run's progress, one line an event; each line stands for itself, because nodes run in parallel."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def _line(self, text: str) -> None:
        with self._lock:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    @staticmethod
    def _name(node: Node) -> str:
        return f"{node.stage:<8} {node.label}"

    def started(self, node: Node) -> None:
        """As `Events.started`."""
        self._line(f"{self._name(node)} ...")

    def ended(self, outcome: NodeOutcome) -> None:
        """As `Events.ended`; an error is printed at once, whole."""
        name = self._name(outcome.node)
        if outcome.status == "cached":
            self._line(f"{name} is up to date")
        elif outcome.status == "done":
            self._line(f"{name} done in {outcome.seconds:.1f} s")
        elif outcome.status == "blocked":
            self._line(f"{name} not run: it needs {outcome.blocked_by}")
        else:
            lines = outcome.error.lines() if outcome.error is not None else []
            self._line("\n".join([f"{name} FAILED after {outcome.seconds:.1f} s", *lines]))

    def notice(self, text: str) -> None:
        """As `Events.notice`."""
        self._line(f"note: {text}")


def show_error(error: ForgeError, stream: TextIO | None = None) -> None:
    """Print an error on standard error."""
    print("\n".join(error.lines()), file=stream or sys.stderr)


def show(text: str) -> None:
    """Print a result on standard output; a reader that went away (`| head`) is no error."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def readable(path: Path, start: Path) -> str:
    """A path as a person would type it: relative, if it is below `start`."""
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"
