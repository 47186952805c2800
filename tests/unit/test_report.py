"""What a person, or a script, reads."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.helpers import make_spec, the_cell

from pikaforge import report
from pikaforge.errors import StageError, StageFailure
from pikaforge.pipeline import Outcome, View
from pikaforge.plan import Plan, all_cells, expand


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
    text = report.table(("A", "LONG"), [("wide cell", ""), ("x", "y")])
    assert text == "A          LONG\nwide cell\nx          y"
    assert report.table(("A", "B"), []) == "A  B"


def test_the_plan_as_text() -> None:
    plan, views = _planned()
    assert report.plan_text(plan, views) == "\n".join(
        [
            "CELL                TARGET       FLAGS",
            "R620-debian12-none  sandybridge  -march=sandybridge -mtune=sandybridge",
            "R640-el7-none       -            -",
            "R720-debian12-none  sandybridge  -march=sandybridge -mtune=sandybridge",
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
    assert report.plan_text(plan, []).splitlines()[-2:] == [
        "1 cells, 0 nodes, 0 to do",
        f"error: R640-el7-none: {PROBLEM}",
    ]


def test_the_plan_as_json() -> None:
    plan, views = _planned()
    data = json.loads(report.plan_json(plan, views))
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


def test_the_matrix_as_table_json_and_for_github() -> None:
    spec = make_spec(matrix__axes={"allocator": ["none"]})
    cells = all_cells(spec)
    assert report.matrix_text(cells, "table").splitlines()[:4] == [
        "CELL                MODEL  IMAGE     ALLOCATOR  TARGET          POSSIBLE",
        "R620-el7-none       R620   el7       none       sandybridge     yes",
        "R620-debian12-none  R620   debian12  none       sandybridge     yes",
        "R720-el7-none       R720   el7       none       sandybridge     yes",
    ]
    assert f"R640-el7-none       R640   el7       none       skylake_avx512  no: {PROBLEM}" in report.matrix_text(
        cells, "table"
    )
    data = json.loads(report.matrix_text(cells, "json"))
    assert [cell["id"] for cell in data["cells"]] == [cell.id for cell in cells]
    text = report.matrix_text(cells, "github")
    assert "\n" not in text, "a step's output is one line"
    assert [entry["name"] for entry in json.loads(text)["include"]] == [
        "el7-sandybridge-none",
        "debian12-sandybridge-none",
        "debian12-skylake_avx512-none",
    ]


def test_the_printer_tells_each_end() -> None:
    plan, _ = _planned()
    node = next(n for n in plan.nodes if n.stage == "compile")
    stream = io.StringIO()
    printer = report.Printer(stream)
    error = StageError("the build failed", StageFailure(stage="compile", label=node.label))
    printer.notice("something new")
    printer.started(node)
    printer.ended(Outcome(node=node, status="cached"))
    printer.ended(Outcome(node=node, status="done", seconds=12.345))
    printer.ended(Outcome(node=node, status="blocked", blocked_by="image:el7"))
    printer.ended(Outcome(node=node, status="failed", seconds=1.0, error=error))
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
    assert report.size(count) == text


def test_paths_are_relative_where_that_is_shorter() -> None:
    assert report.readable(Path("/a/b/c"), Path("/a")) == "b/c"
    assert report.readable(Path("/a/b/c"), Path("/x")) == "/a/b/c"


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            return stand_in.fileno()

    with (tmp_path / "stdout").open("w") as stand_in:
        monkeypatch.setattr(sys, "stdout", Closed())
        report.show("text")


def test_show_prints_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report.show("grüße")
    shown: Any = capsys.readouterr()
    assert (shown.out, shown.err) == ("grüße\n", "")
