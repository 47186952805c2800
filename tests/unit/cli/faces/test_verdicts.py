"""The end of a build: verdicts on cells, refusals, and remarks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.judge_instructions import DispatchedRecord
from pikaforge.cli.faces import github, lines, verdicts
from pikaforge.cli.faces.ending import Ending
from pikaforge.cli.faces.events import RunClosed, RunNotice, RunOpened
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.pipeline.report_record import CellRecord, StageRecord
from pikaforge.pipeline.smoke.record import CheckRecord, WayRecord

SHOWN = ("image", "source", "compile", "smoke", "package")


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


NOW = "2026-01-01T00:00:00+00:00"


def _ending(cells: Sequence[CellRecord]) -> Ending:
    ending = Ending()
    for cell in cells:
        assert ending.keeps(verdicts.cell_ended(cell, now=NOW, command=f"build {cell.id} --x"))
    for text in verdicts.notes(cells):
        assert ending.keeps(RunNotice(time=NOW, text=text))
    return ending


def _shown(cells: Sequence[CellRecord]) -> list[str]:
    """The lines of the end."""
    closed = RunClosed(time=NOW, exit_status=0, built=1, failed=0, seconds=0.1, report="")
    return _ending(cells).text(closed)


def _table(cells: Sequence[CellRecord]) -> list[str]:
    """The lines from the table of verdicts on."""
    shown = _shown(cells)
    return shown[next(place for place, line in enumerate(shown) if line.startswith("CELL ")) :]


def _markdown(title: str, cells: Sequence[CellRecord]) -> list[str]:
    """The lines of the summary up to what is folded."""
    opened = RunOpened(
        time=NOW,
        product=title,
        version="v1.0",
        options=(),
        cells=(),
        compilations=1,
        nodes=1,
        cached=0,
        expected_seconds=None,
        unknown=1,
    )
    text = github.summary(opened, _ending(cells), [])
    return text[: text.index("\n\n<details>")].splitlines()


def _row(cell: CellRecord) -> dict[str, str]:
    """The cell's line of the table, by the columns' names."""
    header, line = _table([cell])
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


RAN = WayRecord(ran=True, checks=(_check("version", 0.25), _check("ping", 1.5)))
MADE = (ArtifactRecord(format="tar", role="main", path="el7/x.tar.gz", sha256="ab", bytes=1),)


def test_the_verdicts_of_a_build_are_a_table() -> None:
    emulated = WayRecord(ran=False, reason="no qemu")
    good = _cell(audit=_verdict(), native=RAN, emulated=emulated, artifacts=MADE)
    bad = _cell({"package": "blocked"}, id="R720-debian12-system", audit=_verdict(2), native=RAN, emulated=emulated)
    assert _table([good, bad]) == [
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
    shown = _table(cells)
    assert [line.split()[0] for line in shown] == ["CELL", "b", "a", "c"]
    assert _row(_cell(artifacts=MADE))["TARGET"] == "sandybridge"
    assert _row(_cell(artifacts=MADE, wanted="ivybridge"))["TARGET"] == "sandybridge (wanted ivybridge)"
    assert _row(_cell(artifacts=MADE))["PACKAGE"] == "yes"
    assert lines.verdict_table([]) == ["CELL  TARGET  AUDIT  NATIVE  EMULATED  PACKAGE"]
    assert _shown([]) == []


TWIN = "function tried as haswell; AVX-512 code audited, not run"


def test_a_twin_is_told_in_its_row_and_once_below() -> None:
    tried: dict[str, Any] = {"target": "skylake_avx512", "tried": "haswell", "not_run": TWIN}
    twin = {**tried, "native": RAN, "artifacts": MADE}
    cells = [_cell(**twin), _cell(artifacts=MADE, tried="sandybridge"), _cell(id="R740-el7-none", **twin)]
    shown = _table(cells)
    assert "as haswell: 2 of 2 checks passed in 1.8 s" in shown[1]
    assert "as " not in shown[2]
    assert shown[4:] == [f"note: R620-el7-none, R740-el7-none: {TWIN}"]
    assert _markdown("demo", cells)[-2:] == [
        "",
        f"- {github.plain(shown[4][6:])}",
    ]


def test_a_run_with_refused_cells_begins_its_end_with_them() -> None:
    def stage(name: str, status: Any, *error: str) -> StageRecord:
        return StageRecord(stage=name, label=f"of-{name}", key="", status=status, seconds=1.0, error=error)

    audit = stage("audit", "failed", "error: the audit refuses it\n for zen: 2 violations", "  reason: x")
    failed = _cell({"audit": "failed"})
    refused = failed.model_copy(update={"id": "R6415-el7-none", "stages": (stage("source", "done"), audit)})
    shared = failed.model_copy(update={"id": "R710-el7-none", "stages": (stage("image", "failed"),)})
    assert _shown([_cell(), refused, shared])[:5] == [
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
    assert _markdown("demo", [good, bad]) == [
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
    assert github.plain(text) == shown
    way = WayRecord(ran=False, reason=text)
    [row] = _markdown(text, [_cell(native=way)])[4:]
    assert row.split(" | ")[3] == f"not run: {shown}"
    assert _markdown(text, [])[0] == f"### {shown} v1.0"


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
    shown = _table(cells)
    assert [re.split(r"  +", line)[2] for line in shown[1:4]] == ["passed, 1 library by dispatch"] * 3
    text = "has pclmulqdq in a, b, c and 2 more functions: only by init, which asks the CPU; known dispatcher"
    assert shown[4:] == [
        f"note: accepted on el7 for sandybridge, x86_64_v3: lib/liblzma.so.5 of liblzma5 5.4.1-1 {text}",
        f"note: accepted on el8 for sandybridge: lib/liblzma.so.5 of liblzma5 5.4.1-2 {text}",
    ]
    markdown = _markdown("demo", cells)
    assert [line[:30] for line in markdown if line.startswith("- ")] == [
        "- accepted on el7 for sandybri",
        "- accepted on el8 for sandybri",
    ]


# ---- what the CPU gate cannot see


def test_features_beyond_the_cpu_gate_are_below_the_table_once_with_their_cells() -> None:
    blind = _verdict().model_copy(update={"ungated": {"fsgsbase": "it faults under old kernels"}})
    cells = [_cell(audit=blind), _cell(audit=blind, id="R670-el7-none"), _cell(id="R620-el8-none")]
    text = "R620-el7-none, R670-el7-none: beyond the CPU gate: fsgsbase: it faults under old kernels"
    assert _table(cells)[4:] == [f"note: {text}"]
    assert _markdown("demo", cells)[-1] == f"- {text}"
    assert not [line for line in _table(cells[2:]) if line.startswith("note:")]


def test_a_refused_cell_shows_what_was_accepted_all_the_same() -> None:
    refused = _accepting("avx2").model_copy(update={"passed": False})
    assert len(_table([_cell({"audit": "failed"}, audit=refused)])) == 3


def test_a_cpu_that_no_emulator_stands_for_is_named() -> None:
    xeon = WayRecord(ran=True, checks=(_check("ping"),), machine="Intel(R) Xeon(R) Gold 6248 (cascadelake)")
    emulated = WayRecord(ran=False, reason="skylake_avx512: it has AVX-512, which the emulator cannot execute")
    more: dict[str, Any] = {"tried": "skylake_avx512", "native": xeon, "emulated": emulated}
    cells = [_cell(id=f"{model}-el7-none", model=model, target="skylake_avx512", **more) for model in ("R640", "R740")]
    said = "R640-el7-none, R740-el7-none: ran on Intel(R) Xeon(R) Gold 6248 (cascadelake)"
    assert said in verdicts.notes(cells)
    assert verdicts.notes([_cell(tried="sandybridge", native=xeon)]) == [], "an emulator would do as well"
    twin = _cell(target="skylake_avx512", tried="haswell", native=xeon)
    assert not any("ran on" in text for text in verdicts.notes([twin])), "its twin ran there, and not it"
