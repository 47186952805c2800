"""What a person, or a script, reads."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import make_spec, the_cell

from pikaforge.cli import output
from pikaforge.errors import StageError, StageFailure
from pikaforge.pipeline.pipeline import NodeOutcome, View
from pikaforge.pipeline.report import (
    ArtifactRecord,
    AuditRecord,
    CellRecord,
    CheckRecord,
    DispatchedRecord,
    StageRecord,
    WayRecord,
)
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand


def _planned() -> tuple[Plan, list[View]]:
    spec = make_spec(product__warning="given up upstream")
    whole = expand(spec, [the_cell(spec, i) for i in ("R620-debian12-none", "R640-el7-none", "R720-debian12-none")])
    plan = replace(whole, nodes=tuple(node for node in whole.nodes if node.stage in SHOWN))
    views = [
        View(node=node, key=f"{number:032x}", cached=node.stage == "image", why="because")
        for number, node in enumerate(plan.nodes)
    ]
    return plan, views


SHOWN = ("image", "source", "compile", "smoke", "package")
PROBLEM = (
    "gcc 4.8.5 cannot produce code for skylake_avx512; the nearest it can produce is haswell "
    "(`fallback: nearest` at images.el7 accepts it)"
)


def test_a_table_has_columns_and_no_trailing_spaces() -> None:
    text = output.table(("A", "LONG"), [("wide cell", ""), ("x", "y")])
    assert text == "A          LONG\nwide cell\nx          y"
    assert output.table(("A", "B"), []) == "A  B"


def test_the_plan_as_text() -> None:
    plan, views = _planned()
    assert output.plan_text(plan, views) == "\n".join(
        [
            "CELL                TARGET       TRIED AS     FLAGS",
            "R620-debian12-none  sandybridge  sandybridge  -march=sandybridge -mtune=sandybridge",
            "R640-el7-none       -            -            -",
            "R720-debian12-none  sandybridge  sandybridge  -march=sandybridge -mtune=sandybridge",
            "",
            "STAGE    NODE                       CELLS  KEY           STATE   WHY",
            "image    tools                      2      000000000000  cached  because",
            "source   v1.0                       2      000000000000  to do   because",
            "image    debian12                   2      000000000000  cached  because",
            "compile  debian12-sandybridge-none  2      000000000000  to do   because",
            "smoke    debian12-sandybridge-none  2      000000000000  to do   because",
            "package  R620-debian12-none         1      000000000000  to do   because",
            "package  R720-debian12-none         1      000000000000  to do   because",
            "",
            "3 cells, 7 nodes, 5 to do",
            "warning: given up upstream",
            f"error: R640-el7-none: {PROBLEM}",
        ]
    )


def test_a_plan_of_nothing_possible() -> None:
    spec = make_spec()
    plan = expand(spec, [the_cell(spec, "R640-el7-none")])
    assert output.plan_text(plan, []).splitlines()[-2:] == [
        "1 cells, 0 nodes, 0 to do",
        f"error: R640-el7-none: {PROBLEM}",
    ]


def test_the_plan_as_json() -> None:
    plan, views = _planned()
    data = json.loads(output.plan_json(plan, views))
    assert list(data) == ["cells", "nodes", "warnings", "problems"]
    assert data["problems"] == {"R640-el7-none": PROBLEM}
    assert data["warnings"] == ["given up upstream"]
    assert data["nodes"][3] == {
        "stage": "compile",
        "label": "debian12-sandybridge-none",
        "key": f"{3:032x}",
        "cells": ["R620-debian12-none", "R720-debian12-none"],
        "needs": ["source:v1.0", "image:debian12"],
        "cached": False,
        "why": "because",
    }


def test_the_matrix_as_table_and_json() -> None:
    spec = make_spec(matrix__axes={"allocator": ["none"]})
    cells = all_cells(spec)
    assert output.matrix_text(cells, "table").splitlines()[:4] == [
        "CELL                MODEL  IMAGE     ALLOCATOR  TARGET          POSSIBLE",
        "R620-el7-none       R620   el7       none       sandybridge     yes",
        "R620-debian12-none  R620   debian12  none       sandybridge     yes",
        "R720-el7-none       R720   el7       none       sandybridge     yes",
    ]
    assert f"R640-el7-none       R640   el7       none       skylake_avx512  no: {PROBLEM}" in output.matrix_text(
        cells, "table"
    )
    data = json.loads(output.matrix_text(cells, "json"))
    assert [cell["id"] for cell in data["cells"]] == [cell.id for cell in cells]


# ---- the end of a build


def _check(name: str, seconds: float = 1.0, **more: Any) -> CheckRecord:
    return CheckRecord(name=name, passed=more.pop("passed", True), seconds=seconds, **more)


def _verdict(violations: int = 0, warnings: int = 0) -> AuditRecord:
    lines = [{"where": "bin/x", "what": str(n)} for n in range(max(violations, warnings))]
    data: dict[str, Any] = {
        "title": "x",
        "target": "sandybridge",
        "passed": not violations,
        "violations": lines[:violations],
        "warnings": lines[:warnings],
        "allow_list": "",
        "code_bytes": 0,
        "symbol_versions": {},
        "allocator": {},
        "library_versions": {},
    }
    empty = [name for name, field in AuditRecord.model_fields.items() if name not in data and field.is_required()]
    return AuditRecord.model_validate({**dict.fromkeys(empty, ()), **data}, strict=False)


def _cell(stages: dict[str, str] | None = None, **more: Any) -> CellRecord:
    """A cell whose stages ended so; without any, all are done."""
    ended = stages or dict.fromkeys(SHOWN, "done")
    data = {
        "id": "R620-el7-none",
        "model": "R620",
        "image": "el7",
        "allocator": "none",
        "target": "sandybridge",
        "wanted": more.get("target", "sandybridge"),
        "flags": (),
        "status": "done" if set(ended.values()) <= {"done", "cached"} else "failed",
        "finished": "",
        "stages": tuple(
            StageRecord(stage=name, label="x", key="", status=status, seconds=1.0)  # type: ignore[arg-type]
            for name, status in ended.items()
        ),
        **more,
    }
    return CellRecord.model_validate(data)


def _row(cell: CellRecord) -> dict[str, str]:
    """The cell's line of the table, by the columns' names."""
    header, line = output.verdicts([cell]).splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


RAN = WayRecord(ran=True, checks=(_check("version", 0.25), _check("ping", 1.5)))
MADE = (ArtifactRecord(format="tar", role="main", path="el7/x.tar.gz", sha256="ab", bytes=1),)


def test_the_verdicts_of_a_build_are_a_table() -> None:
    emulated = WayRecord(ran=False, reason="no qemu")
    good = _cell(audit=_verdict(), native=RAN, emulated=emulated, artifacts=MADE)
    bad = _cell({"package": "blocked"}, id="R720-debian12-system", audit=_verdict(2), native=RAN, emulated=emulated)
    assert output.verdicts([good, bad]).splitlines() == [
        "CELL                  TARGET       AUDIT        NATIVE                         EMULATED          PACKAGE",
        "R620-el7-none         sandybridge  passed       2 of 2 checks passed in 1.8 s  not run: no qemu  yes",
        "R720-debian12-system  sandybridge  REFUSED (2)  2 of 2 checks passed in 1.8 s  not run: no qemu  -",
    ]


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (_verdict(), "passed"),
        (_verdict(warnings=3), "passed, 3 warnings"),
        (_verdict(violations=1), "REFUSED (1)"),
        (_verdict(violations=17, warnings=3), "REFUSED (17)"),
    ],
)
def test_the_audit_in_a_word(verdict: AuditRecord, text: str) -> None:
    assert _row(_cell(audit=verdict))["AUDIT"] == text


@pytest.mark.parametrize(
    ("way", "text"),
    [
        (WayRecord(ran=False, reason="this machine lacks avx"), "not run: this machine lacks avx"),
        (WayRecord(ran=True, checks=(_check("version", 0.5), _check("ping"))), "2 of 2 checks passed in 1.5 s"),
        (
            WayRecord(ran=True, checks=(_check("ping"), _check("more", 9.0, passed=False, skipped="it needs info"))),
            "1 of 1 checks passed in 1.0 s",
        ),
        (
            WayRecord(ran=True, checks=(_check("ping"), _check("advice", 9.0, passed=False, required=False))),
            "1 of 2 checks passed in 10.0 s",
        ),
        (WayRecord(ran=True, problem="it never answered"), "FAILED"),
        (
            WayRecord(
                ran=True,
                problem="2 of 5 failed",
                checks=(
                    _check("version"),
                    _check("info", passed=False),
                    _check("advice", passed=False, required=False),
                    _check("later", passed=False, skipped="it needs info"),
                    _check("stop", passed=False),
                ),
            ),
            "FAILED: info, stop",
        ),
        (WayRecord(ran=True, problem="it died", checks=(_check("version"),)), "FAILED"),
    ],
)
@pytest.mark.parametrize(("name", "column"), [("native", "NATIVE"), ("emulated", "EMULATED")])
def test_a_run_of_the_checks_in_a_word(way: WayRecord, text: str, name: str, column: str) -> None:
    row = _row(_cell({"smoke": "failed"}, **{name: way}))
    assert row[column] == text
    assert row[({"NATIVE", "EMULATED"} - {column}).pop()] == "FAILED", "of the other one nothing is known"


@pytest.mark.parametrize(
    ("stages", "audit", "smoke", "package"),
    [
        ({"compile": "failed", "audit": "blocked", "smoke": "blocked", "package": "blocked"}, "-", "-", "-"),
        ({"compile": "done", "audit": "failed", "smoke": "done", "package": "blocked"}, "FAILED", "done", "-"),
        ({"compile": "done", "audit": "cached", "smoke": "failed", "package": "blocked"}, "cached", "FAILED", "-"),
        ({"audit": "done", "smoke": "done", "package": "failed"}, "done", "done", "FAILED"),
        ({"image": "failed"}, "-", "-", "-"),
    ],
)
def test_what_left_nothing_to_tell_is_told_by_how_it_ended(
    stages: dict[str, str], audit: str, smoke: str, package: str
) -> None:
    row = _row(_cell(stages))
    assert (row["AUDIT"], row["NATIVE"], row["EMULATED"], row["PACKAGE"]) == (audit, smoke, smoke, package)


def test_a_table_has_the_target_that_was_built_and_the_cells_in_the_order_given() -> None:
    cells = [_cell().model_copy(update={"id": name}) for name in ("b", "a", "c")]
    lines = output.verdicts(cells).splitlines()
    assert [line.split()[0] for line in lines] == ["CELL", "b", "a", "c"]
    assert _row(_cell(artifacts=MADE))["TARGET"] == "sandybridge"
    assert _row(_cell(artifacts=MADE, wanted="ivybridge"))["TARGET"] == "sandybridge (wanted ivybridge)"
    assert _row(_cell(artifacts=MADE))["PACKAGE"] == "yes"
    assert output.verdicts([]) == "CELL  TARGET  AUDIT  NATIVE  EMULATED  PACKAGE"


TWIN = "function tried as haswell; AVX-512 code audited, not run"


def test_a_twin_is_told_in_its_row_and_once_below() -> None:
    tried: dict[str, Any] = {"target": "skylake_avx512", "tried": "haswell", "not_run": TWIN}
    twin = {**tried, "native": RAN, "artifacts": MADE}
    cells = [_cell(**twin), _cell(artifacts=MADE, tried="sandybridge"), _cell(id="R740-el7-none", **twin)]
    lines = output.verdicts(cells).splitlines()
    assert "as haswell: 2 of 2 checks passed in 1.8 s" in lines[1]
    assert "as " not in lines[2]
    assert lines[4:] == [f"note: R620-el7-none, R740-el7-none: {TWIN}"]
    assert output.verdicts_markdown("demo", cells).splitlines()[-2:] == ["", f"- {output.plain(lines[4][6:])}"]


def test_a_run_with_refused_cells_begins_its_end_with_them() -> None:
    def stage(name: str, status: Any, *error: str) -> StageRecord:
        return StageRecord(stage=name, label=f"of-{name}", key="", status=status, seconds=1.0, error=error)

    audit = stage("audit", "failed", "error: the audit refuses it\n for zen: 2 violations", "  reason: x")
    failed = _cell({"audit": "failed"})
    refused = failed.model_copy(update={"id": "R6415-el7-none", "stages": (stage("source", "done"), audit)})
    shared = failed.model_copy(update={"id": "R710-el7-none", "stages": (stage("image", "failed"),)})
    assert output.summary([_cell(), refused, shared], "build {} --x".format).splitlines() == [
        "1 of 3 cells built, 2 refused",
        "  R6415-el7-none: audit of-audit: the audit refuses it for zen: 2 violations",
        "    to try it alone: build R6415-el7-none --x",
        "  R710-el7-none: image of-image: failed",
        "    to try it alone: build R710-el7-none --x",
    ]


def test_the_verdicts_as_markdown() -> None:
    emulated = WayRecord(ran=False, reason="no qemu")
    good = _cell(audit=_verdict(), native=RAN, emulated=emulated, artifacts=MADE)
    bad = _cell({"package": "blocked"}, target="skylake_avx512", audit=_verdict(2), native=RAN, emulated=emulated)
    assert output.verdicts_markdown("demo v1.0", [good, bad]).splitlines() == [
        "### demo v1.0",
        "",
        "| CELL | TARGET | AUDIT | NATIVE | EMULATED | PACKAGE |",
        "| --- | --- | --- | --- | --- | --- |",
        "| R620-el7-none | sandybridge | passed | 2 of 2 checks passed in 1.8 s | not run: no qemu | yes |",
        "| R620-el7-none | skylake\\_avx512 | REFUSED (2) | 2 of 2 checks passed in 1.8 s | not run: no qemu | - |",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, 1.5 s (a/b-c.d)", "plain words, 1.5 s (a/b-c.d)"),
        ("a | b", r"a \| b"),
        ("two\nlines\r\nand\ttabs", "two lines and tabs"),
        ("<img src=x> &amp; [a](b) ![c](d)", r"\<img src=x\> \&amp; \[a\](b) \!\[c\](d)"),
        (r"`*_~$#\|", r"\`\*\_\~\$\#\\\|"),
    ],
)
def test_markdown_shows_every_text_as_it_is(text: str, shown: str) -> None:
    assert output.plain(text) == shown
    way = WayRecord(ran=False, reason=text)
    [row] = output.verdicts_markdown(text, [_cell(native=way)]).splitlines()[4:]
    assert row.split(" | ")[3] == f"not run: {shown}"
    assert output.verdicts_markdown(text, []).splitlines()[0] == f"### {shown}"


def test_the_printer_tells_each_end() -> None:
    plan, _ = _planned()
    node = next(n for n in plan.nodes if n.stage == "compile")
    stream = io.StringIO()
    printer = output.Printer(stream)
    error = StageError("the build failed", StageFailure(stage="compile", label=node.label))
    printer.notice("something new")
    printer.started(node)
    printer.ended(NodeOutcome(node=node, status="cached"))
    printer.ended(NodeOutcome(node=node, status="done", seconds=12.345))
    printer.ended(NodeOutcome(node=node, status="blocked", blocked_by="image:el7"))
    printer.ended(NodeOutcome(node=node, status="failed", seconds=1.0, error=error))
    name = "compile  debian12-sandybridge-none"
    assert stream.getvalue().splitlines() == [
        "note: something new",
        f"{name} ...",
        f"{name} is up to date",
        f"{name} done in 12.3 s",
        f"{name} not run: it needs image:el7",
        f"{name} FAILED after 1.0 s",
        "error: the build failed",
        "  where: stage compile, debian12-sandybridge-none",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 KiB"), (1536, "1.5 KiB"), ((1 << 20) - 1, "1024.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 29, "2560.0 MiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


def test_paths_are_relative_where_that_is_shorter() -> None:
    assert output.readable(Path("/a/b/c"), Path("/a")) == "b/c"
    assert output.readable(Path("/a/b/c"), Path("/x")) == "/a/b/c"


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            return stand_in.fileno()

    with (tmp_path / "stdout").open("w") as stand_in:
        monkeypatch.setattr(sys, "stdout", Closed())
        output.show("text")


def test_show_prints_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.show("grüße")
    shown: Any = capsys.readouterr()
    assert (shown.out, shown.err) == ("grüße\n", "")


# ---- what was accepted of the distribution's libraries


def _accepting(*features: str, version: str = "5.4.1-1") -> AuditRecord:
    told = DispatchedRecord(
        file="lib/liblzma.so.5",
        package="liblzma5",
        version=version,
        sha256="ab",
        functions=("a", "b", "c", "d", "e"),
        features=features,
        evidence=("only by init, which asks the CPU", "known dispatcher"),
    )
    return _verdict().model_copy(update={"dispatched": (told,)})


def test_what_was_accepted_is_below_the_table_once_for_all_targets() -> None:
    cells = [
        _cell(audit=_accepting("pclmulqdq")),
        _cell(audit=_accepting("pclmulqdq"), id="R670-el7-none", target="x86_64_v3"),
        _cell(audit=_accepting("pclmulqdq", version="5.4.1-2"), id="R620-el8-none", image="el8"),
    ]
    lines = output.verdicts(cells).splitlines()
    assert [re.split(r"  +", line)[2] for line in lines[1:4]] == ["passed, 1 library by dispatch"] * 3
    text = "has pclmulqdq in a, b, c and 2 more functions: only by init, which asks the CPU; known dispatcher"
    assert lines[4:] == [
        f"note: accepted on el7 for sandybridge, x86_64_v3: lib/liblzma.so.5 of liblzma5 5.4.1-1 {text}",
        f"note: accepted on el8 for sandybridge: lib/liblzma.so.5 of liblzma5 5.4.1-2 {text}",
    ]
    markdown = output.verdicts_markdown("demo", cells).splitlines()
    assert [line[:30] for line in markdown if line.startswith("- ")] == [
        "- accepted on el7 for sandybri",
        "- accepted on el8 for sandybri",
    ]


def test_a_refused_cell_shows_what_was_accepted_all_the_same() -> None:
    refused = _accepting("avx2").model_copy(update={"passed": False})
    assert len(output.verdicts([_cell({"audit": "failed"}, audit=refused)]).splitlines()) == 3
