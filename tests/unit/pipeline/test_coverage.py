"""Sweeps: what they build, and the table that they leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from unit.cell_results import AUDITED
from unit.helpers import ROOT, make_spec, refusal

from pikaforge.audit.finding import LineRecord
from pikaforge.cli.commands.sweep import _source, _status, representatives, sliced
from pikaforge.config import load
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import ConfigError, ForgeError, HostError, StageError, StageFailure, UnreachableError
from pikaforge.formats.artifact import ArtifactRecord, Role
from pikaforge.host.store import Result
from pikaforge.pipeline import coverage
from pikaforge.pipeline.coverage import Coverage, Row
from pikaforge.pipeline.image.facts import ImageStageFacts, OsReleaseFacts
from pikaforge.pipeline.outcomes import NodeOutcome, Report
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.smoke.record import CheckRecord, SmokeFacts, WayRecord
from pikaforge.plan.matrix import all_cells
from pikaforge.plan.plan import Plan, expand
from pikaforge.plan.selectors import Selection, select

DAY = date(2026, 5, 4)
SHIPPED = load.load(ROOT / "matrix.yaml")
EVERYTHING = Selection(selectors=("all",), os="all", allocator="all")
PING = CheckRecord(name="ping", passed=True, seconds=0.5)
ADVICE = CheckRecord(name="advice", passed=False, seconds=0.5, required=False)
SMOKED = SmokeFacts(
    target="sandybridge",
    tried="sandybridge",
    native=WayRecord(ran=True, checks=(PING, PING, ADVICE)),
    emulated=WayRecord(ran=True, cpu="SandyBridge", checks=(PING,)),
)
IMAGE = ImageStageFacts(base="x", gcc="12.2.0")


def _package(format_: str, role: Role = "main") -> ArtifactRecord:
    return ArtifactRecord(format=format_, role=role, path="x", sha256="0", bytes=1)


FACTS: Mapping[str, BaseModel] = {
    "image": IMAGE,
    "audit": AUDITED,
    "smoke": SMOKED,
    "package": PackageFacts(artifacts=(_package("tar"), _package("rpm"), _package("rpm", "debug")), manifest={}),
}


# ---- what is built


def test_every_model_is_in_the_plan_of_a_sweep() -> None:
    """By default, all images with their own allocators; a cell that is not built itself shares a compilation."""
    chosen = representatives(select(SHIPPED, Selection(selectors=("all",), os="all")))
    plan = expand(SHIPPED, chosen, machine=Machine(flags=microarch.kernel_flags("x86_64_v2")))
    assert plan.problems == ()
    packed = {node.cell.group for node in plan.nodes if node.stage == "package"}
    for cell in select(SHIPPED, Selection(selectors=("all",), os="all")):
        assert cell.group in packed, cell.id
    rows = list(coverage.rows(all_cells(SHIPPED), _ended(plan), day=DAY))
    assert {model for row in rows for model in row.models} == set(SHIPPED.hardware)
    assert {row.image for row in rows} == set(SHIPPED.images)
    assert len({row.key for row in rows}) == len(rows) == len(packed)


def test_with_all_allocators_every_cell_is_covered() -> None:
    cells = select(SHIPPED, EVERYTHING)
    groups = [cell.group for cell in representatives(cells)]
    assert len(groups) == len(set(groups))
    assert set(groups) == {cell.group for cell in cells}


@pytest.mark.parametrize("parts", [1, 2, 5, 7, 36])
def test_slices_are_all_there_is_and_nothing_twice(parts: int) -> None:
    cells = representatives(select(SHIPPED, EVERYTHING))
    found = [cell for k in range(parts) for cell in sliced(cells, f"{k}/{parts}")]
    assert sorted(cell.id for cell in found) == sorted(cell.id for cell in cells)
    assert sliced(cells, f"{parts * 20589 + 1}/{parts}") == sliced(cells, f"{1 % parts}/{parts}"), "any day"
    assert sliced(cells, "") == cells


@pytest.mark.parametrize("text", ["1", "1/0", "-1/3", "a/b", "1/3/4", "1/ 3", "1/99999", "/3"])
def test_what_is_no_slice(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sliced(representatives(select(SHIPPED, EVERYTHING)), text)
    assert refusal(caught) == (f"{text!r} is no slice", "--slice", "K/N: every N-th, beginning with the K-th")


def test_a_slice_of_nothing() -> None:
    cells = representatives(select(SHIPPED, Selection(selectors=("R620",))))
    with pytest.raises(ConfigError, match="there are only 1 compilations"):
        sliced(cells, "1/2")


# ---- rows


def _ended(plan: Plan, failed: Mapping[str, ForgeError] | None = None, **facts: BaseModel) -> Report:
    """A run: everything is made, but for what fails and what needs it."""
    report = Report(plan=plan)
    for node in plan.nodes:
        bad = next((need for need in node.needs if report.outcomes[need].result is None), None)
        if node.id in (failed or {}):
            outcome = NodeOutcome(node=node, status="failed", error=(failed or {})[node.id])
        elif bad is not None:
            outcome = NodeOutcome(node=node, status="blocked", blocked_by=bad)
        else:
            found = facts.get(node.stage, FACTS.get(node.stage))
            plain = found.model_dump(mode="json") if found is not None else {}
            result = Result(stage=node.stage, key="k", identity="i", facts=plain, files={})
            outcome = NodeOutcome(node=node, status="done", result=result)
        report.outcomes[node.id] = outcome
    return report


def _rows(spec: Spec, failed: Mapping[str, ForgeError] | None = None, **facts: BaseModel) -> dict[str, Row]:
    chosen = representatives(select(spec, Selection(selectors=("all",), os="all")))
    found = coverage.rows(all_cells(spec), _ended(expand(spec, chosen), failed, **facts), day=DAY)
    return {f"{row.image}-{row.target}": row for row in found}


def test_a_row_tells_of_a_compilation() -> None:
    row = _rows(make_spec(images__el7__fallback="nearest"))["debian12-sandybridge"]
    assert row == Row(
        image="debian12",
        target="sandybridge",
        allocator="none",
        models=("R620", "R720"),
        state="built",
        audited="passed; dispatched: lib/libz.so.1",
        native="2 checks",
        emulated="1 checks on SandyBridge",
        tried="sandybridge",
        packages=("tar", "rpm"),
        compiler="12.2.0",
        day="2026-05-04",
    )


def test_a_target_that_the_compiler_does_not_know() -> None:
    assert _rows(make_spec(images__el7__fallback="nearest"))["el7-haswell"].wanted == ("skylake_avx512",)
    refused = _rows(make_spec())["el7-skylake_avx512"]
    assert (refused.state, refused.audited) == ("refused", "-")
    assert refused.why.startswith("gcc 4.8.5 cannot produce code for skylake_avx512")


def _unreached(image: str) -> UnreachableError:
    return UnreachableError(f"the registry cannot be reached\nfor {image}", where=f"images.{image}")


def test_an_image_that_cannot_be_had_is_not_tried() -> None:
    failed = {"image:el7": _unreached("el7")}
    row = _rows(make_spec(), failed)["el7-sandybridge"]
    assert (row.state, row.why, row.packages) == ("not tried", "the registry cannot be reached for el7", ())


@pytest.mark.parametrize("stage", ["compile", "audit", "smoke"])
def test_a_stage_that_says_no_refuses(stage: str) -> None:
    line = LineRecord(where="bin/demo", what="avx2")
    facts: Mapping[str, BaseModel] = {
        "audit": AUDITED.model_copy(update={"passed": False, "violations": (line, line)}),
        "smoke": SMOKED.model_copy(update={"native": WayRecord(ran=True, problem="x")}),
    }
    error = StageError("it says no", StageFailure(stage=stage, label="x", facts=facts.get(stage)))
    row = _rows(make_spec(), {f"{stage}:debian12-sandybridge-none": error})["debian12-sandybridge"]
    assert (row.state, row.why) == ("refused", "it says no")
    assert row.audited == {"compile": "-", "audit": "refused (2)"}.get(stage, "passed; dispatched: lib/libz.so.1")
    assert row.native == {"compile": "-", "smoke": "failed"}.get(stage, "2 checks")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("icelake: it has AVX-512", "not run: it has AVX-512"),
        ("this machine lacks clzero, sse4a", "not run: this machine lacks clzero, sse4a"),
        ("", "-"),
    ],
)  # fmt: skip
def test_why_one_way_was_not_run(reason: str, told: str) -> None:
    smoked = SMOKED.model_copy(update={"emulated": WayRecord(ran=False, reason=reason), "tried": "haswell"})
    row = _rows(make_spec(), smoke=smoked)["debian12-sandybridge"]
    assert row.emulated == told
    line = next(line for line in coverage.markdown(_coverage(row)).splitlines() if line.startswith("| debian12"))
    assert f"| {told} |" in line
    assert "as haswell" in line, "the other way was the twin's"


def test_a_stand_in_is_told() -> None:
    rows = _rows(make_spec(), image=IMAGE.model_copy(update={"os": OsReleaseFacts(variant="standin")}))
    assert all(row.stand_in for row in rows.values() if row.state == "built")


# ---- the exit status

COMPILE = "compile:debian12-sandybridge-none"


@pytest.mark.parametrize(
    ("failed", "status"),
    [
        ({}, 0),
        ({"image:el7": _unreached("el7")}, 0),
        ({"image:el7": StageError("no build image", StageFailure(stage="image", label="el7"))}, 4),
        ({"image:el7": _unreached("el7"), COMPILE: StageError("x", StageFailure(stage="compile", label="x"))}, 4),
        ({COMPILE: HostError("the disk is full")}, 3),
        ({COMPILE: UnreachableError("cannot download gperftools")}, 0),
        ({"image:el7": HostError("the image el7 has gcc 4, but matrix.yaml says 5")}, 3),
    ],
)  # fmt: skip
def test_the_status(failed: Mapping[str, ForgeError], status: int) -> None:
    spec = make_spec(images__el7__fallback="nearest")
    chosen = representatives(select(spec, Selection(selectors=("all",), os="all")))
    assert _status(_ended(expand(spec, chosen), failed)) == status


# ---- the files


def _coverage(*rows: Row, **changes: Any) -> Coverage:
    told: dict[str, Any] = {"product": "demo", "version": "v1", "source": "sample", "tool": "1", "machine": "haswell"}
    return Coverage.model_validate({**told, **changes, "rows": rows})


def _row(image: str = "debian12", target: str = "zen", **changes: Any) -> Row:
    told: dict[str, Any] = {
        "image": image,
        "target": target,
        "allocator": "none",
        "models": ("M",),
        "day": "2026-05-04",
    }
    return Row.model_validate({"state": "built", "day": "2026-05-04", **told, **changes})


ORDER = [("debian12", "zen", "none"), ("debian12", "zen2", "none"), ("el7", "zen", "none")]


def test_a_sweep_of_a_part_keeps_the_rest() -> None:
    old = _coverage(_row(day="2026-01-01"), _row(target="zen2"), _row(target="gone"))
    merged = coverage.merge(_coverage(_row(image="el7"), _row()), old, ORDER)
    assert [row.key for row in merged.rows] == ORDER
    assert merged.rows[0].day == "2026-05-04"


def test_what_cannot_be_tried_here_takes_the_place_of_nothing_that_was() -> None:
    not_tried = _row(state="not tried", why="no registry")
    assert coverage.merge(_coverage(not_tried), _coverage(_row()), ORDER).rows == (_row(),)
    assert coverage.merge(_coverage(not_tried), None, ORDER).rows == (not_tried,)
    assert coverage.merge(_coverage(_row()), _coverage(not_tried), ORDER).rows == (_row(),)


def test_another_version_begins_anew() -> None:
    assert coverage.merge(_coverage(_row()), _coverage(_row(target="zen2"), version="v0"), ORDER).rows == (_row(),)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert coverage.load(tmp_path) is None
    told = _coverage(_row(), _row(target="zen2", tried="zen"))
    for path in coverage.write(tmp_path, told):
        assert path.is_file()
    assert coverage.load(tmp_path) == told
    text = (tmp_path / "coverage.md").read_text(encoding="utf-8")
    coverage.write(tmp_path, told)
    assert (tmp_path / "coverage.md").read_text(encoding="utf-8") == text


def _nothing(data: dict[str, Any]) -> str:
    return "{"


def _unknown(data: dict[str, Any]) -> str:
    data["rows"][0]["state"] = "perhaps"
    return json.dumps(data)


@pytest.mark.parametrize("damage", [_nothing, _unknown])
def test_a_damaged_file_is_told_and_not_written_over(tmp_path: Path, damage: Callable[[dict[str, Any]], str]) -> None:
    _, path = coverage.write(tmp_path, _coverage(_row()))
    path.write_text(damage(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        coverage.load(tmp_path)
    assert (caught.value.where, caught.value.hint) == (str(path), "remove it to begin anew")


def test_the_table() -> None:
    told = _coverage(
        _row(models=("A", "B"), audited="passed", native="20 checks", emulated="9 checks on EPYC", packages=("tar",)),
        _row(target="zen4", tried="zen2", native="20 checks", compiler="12.2.0", wanted=("zen5",)),
        _row(image="el7", stand_in=True, state="refused", why="a | b"),
        emulator="10.0",
    )
    table = [line for line in coverage.markdown(told).splitlines() if line.startswith("|")]
    assert table[2:] == [
        "| debian12 | zen | none | A, B | passed | 20 checks | 9 checks on EPYC | tar | - | 2026-05-04 |",
        "| debian12 | zen4 (for zen5) | none | M | - | 20 checks as zen2 | - |  | 12.2.0 | 2026-05-04 |",
        "| el7 (stand-in) | zen | none | M | - | - | - | refused: a \\| b | - | 2026-05-04 |",
    ]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "2 built, 1 refused, 0 not tried here." in coverage.markdown(told)
    assert "haswell natively and emulates with qemu-user 10.0" in coverage.markdown(told)


def test_the_best_that_a_machine_runs() -> None:
    assert coverage.best_of(Machine(flags=microarch.kernel_flags("icelake"))) == "icelake"
    assert coverage.best_of(Machine(flags=frozenset())) == "x86_64"


@pytest.mark.parametrize(
    ("asked", "told"),
    [("sample", "sample"), ("/home/me/clone", "clone"), ("https://example.org/x/fork.git#v1", "fork.git"), ("", "")],
)
def test_no_path_of_this_machine_is_told(asked: str, told: str) -> None:
    assert _source(asked) == told
