"""The tables and documents of `plan` and `matrix`."""

from __future__ import annotations

import json
from dataclasses import replace

from unit.helpers import make_spec, the_cell

from pikaforge.cli import plan_output
from pikaforge.pipeline.outcomes import View
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand

SHOWN = ("image", "source", "compile", "smoke", "package")
PROBLEM = (
    "gcc 4.8.5 cannot produce code for skylake_avx512; the nearest it can produce is haswell "
    "(`fallback: nearest` at images.el7 accepts it)"
)


def _planned() -> tuple[Plan, list[View]]:
    spec = make_spec(product__warning="given up upstream")
    whole = expand(spec, [the_cell(spec, i) for i in ("R620-debian12-none", "R640-el7-none", "R720-debian12-none")])
    plan = replace(whole, nodes=tuple(node for node in whole.nodes if node.stage in SHOWN))
    views = [
        View(node=node, key=f"{number:032x}", cached=node.stage == "image", why="because")
        for number, node in enumerate(plan.nodes)
    ]
    return plan, views


def test_the_plan_as_text() -> None:
    plan, views = _planned()
    assert plan_output.plan_text(plan, views) == "\n".join(
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
    assert plan_output.plan_text(plan, []).splitlines()[-2:] == [
        "1 cell, 0 nodes, 0 to do",
        f"error: R640-el7-none: {PROBLEM}",
    ]


def test_the_plan_as_json() -> None:
    plan, views = _planned()
    data = json.loads(plan_output.plan_json(plan, views))
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
    assert plan_output.matrix_text(cells).splitlines()[:4] == [
        "CELL                MODEL  IMAGE     ALLOCATOR  TARGET          POSSIBLE",
        "R620-el7-none       R620   el7       none       sandybridge     yes",
        "R620-debian12-none  R620   debian12  none       sandybridge     yes",
        "R720-el7-none       R720   el7       none       sandybridge     yes",
    ]
    assert f"R640-el7-none       R640   el7       none       skylake_avx512  no: {PROBLEM}" in plan_output.matrix_text(
        cells
    )
    data = json.loads(plan_output.matrix_json(cells))
    assert [cell["id"] for cell in data["cells"]] == [cell.id for cell in cells]
