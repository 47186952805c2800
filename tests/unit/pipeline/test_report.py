"""dist/report.json: the last word on each cell, over several runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from unit.helpers import make_spec, the_cell

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.elf.facts import ElfFacts
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.judge_flags import FlagVerdict, UnitGroup
from pikaforge.audit.judge_instructions import Finding, IsaVerdict
from pikaforge.audit.judge_linkage import Hardening, LinkageVerdict
from pikaforge.config.schema import Spec
from pikaforge.cpu import microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import ForgeError, HostError, StageError, StageFailure
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.store import Result
from pikaforge.pipeline.expected import EarlierTimes
from pikaforge.pipeline.outcomes import NodeOutcome, Report
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.report import load, merge, schema, write
from pikaforge.pipeline.report_record import BuildReport, CellRecord, StageRecord
from pikaforge.pipeline.smoke.record import CheckRecord, SmokeFacts, WayRecord
from pikaforge.plan.budget import AFTER_KILL, COMPILES, MARGIN
from pikaforge.plan.plan import Plan, expand

R620, R720, R640 = "R620-debian12-none", "R720-debian12-none", "R640-debian12-none"
SANDY, SKY = "debian12-sandybridge-none", "debian12-skylake_avx512-none"
NOW = datetime(2026, 6, 15, 12, 30, 1, 999_999, tzinfo=timezone.utc)
LATER = datetime(2026, 6, 16, 8, 0, 0, tzinfo=timezone.utc)
SHARED = ("image:tools", "source:v1.0", "image:debian12")


# ---- runs by hand


def verdict(*violations: LineRecord, warnings: Sequence[LineRecord] = ()) -> AuditRecord:
    """The record of a verdict that has something of everything."""
    finding = Finding(
        level="waived",
        file="bin/demo",
        function="work",
        features=(("avx2", 3), ("fma", 1)),
        address=0x401000,
        code=b"\xc5\xfd",
        text="vpaddd",
        reason="asks the CPU first",
        hints=("near cpuid",),
    )
    return AuditResult(
        title=SANDY,
        target="sandybridge",
        files=(ElfFacts(name="bin/demo", bits=64, machine=62, kind="dyn", pie=True, needed=("libc.so.6",)),),
        isa=IsaVerdict(
            target="sandybridge",
            source="the compiler's macros",
            findings=(finding,),
            used=("avx", "sse3"),
            violations=violations,
            warnings=tuple(warnings),
            notes=("a note",),
            size=1234,
        ),
        linkage=LinkageVerdict(
            violations=(),
            notes=(),
            highest={"GLIBC": "2.34"},
            system=("libc.so.6",),
            hardening=(Hardening(file="bin/demo", pie="pie", relro="full", canary=True),),
        ),
        flags=FlagVerdict(
            units=(
                UnitGroup(
                    file="bin/demo", own=True, march="sandybridge", mtune="", native=False, count=2, example="a.c"
                ),
            ),
            dropped=((7, "-march=native"),),
            violations=(),
            notes=(),
        ),
    ).record()


PING = CheckRecord(name="ping", passed=True, seconds=0.5)
INFO = CheckRecord(name="info", passed=False, seconds=0.25, detail="step 1: sent INFO")
ADVICE = CheckRecord(name="advice", passed=False, seconds=0.1, detail="it would be nicer", required=False)
SKIPPED = CheckRecord(name="later", passed=False, seconds=0.0, skipped="it needs info, which has not passed")
SMOKED = SmokeFacts(
    target="sandybridge",
    tried="sandybridge",
    native=WayRecord(ran=True, checks=(PING,), rest={"fds": 10, "rss_kib": 1000}),
    emulated=WayRecord(ran=False, reason="no emulator"),
    checks=(PING,),
)
FACTS: Mapping[str, BaseModel] = {
    "audit": verdict(warnings=[LineRecord(where="bin/demo", what="aes", do="look")]),
    "smoke": SMOKED,
    "package": PackageFacts(artifacts=(), manifest={"cell": "as packed", "format": 2}),
}


def planned(*cells: str) -> Plan:
    spec = make_spec()
    return expand(spec, [the_cell(spec, name) for name in cells])


def ended(
    plan: Plan,
    *,
    failed: Mapping[str, ForgeError] | None = None,
    cached: Collection[str] = (),
    seconds: float = 2.0,
    keys: Mapping[str, str] | None = None,
) -> Report:
    """A run as the pipeline reports it: what depends on a failure is blocked."""
    report = Report(plan=plan)
    for node in plan.nodes:
        key = (keys or {}).get(node.id, f"key of {node.id}")
        bad = next((need for need in node.needs if report.outcomes[need].result is None), None)
        outcome = NodeOutcome(node=node, status="blocked", blocked_by=bad or "")
        if node.id in (failed or {}):
            outcome = NodeOutcome(node=node, status="failed", key=key, error=(failed or {})[node.id], seconds=seconds)
        elif bad is None:
            # As the store gives them.
            plain = json.loads(FACTS[node.stage].model_dump_json()) if node.stage in FACTS else {}
            result = Result(stage=node.stage, key=key, identity="i", facts=plain, files={})
            outcome = NodeOutcome(node=node, status="done", key=key, result=result, seconds=seconds)
            if node.id in cached:
                outcome = NodeOutcome(node=node, status="cached", key=key, result=result)
        report.outcomes[node.id] = outcome
    return report


def stage_error(node: str, facts: BaseModel | None = None) -> StageError:
    stage, _, label = node.partition(":")
    return StageError("it says no", StageFailure(stage=stage, label=label, findings=("because",), facts=facts))


Merge = Callable[..., BuildReport]


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    return tmp_path / "dist"


@pytest.fixture
def merged(dist: Path) -> Merge:
    """What a run makes of the report before; packages are those that the run made, and are put under dist."""

    def merged(
        done: Report, *, earlier: BuildReport | None = None, spec: Spec | None = None, now: datetime = NOW
    ) -> BuildReport:
        packed = {o.node.label for o in done.of("package") if o.result is not None}
        artifacts = {}
        for name in packed:
            path = dist / "debian12" / f"{name}.tar.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            artifacts[name] = (
                ArtifactRecord(format="tar", role="main", path=f"debian12/{name}.tar.gz", sha256="ab", bytes=7),
            )
        return merge(spec or make_spec(), done, artifacts, earlier=earlier, dist=dist, now=now)

    return merged


def cell(report: BuildReport, name: str) -> CellRecord:
    [found] = [each for each in report.cells if each.id == name]
    return found


def test_it_tells_what_the_compiler_needed_also_of_a_cell_that_failed(merged: Merge) -> None:
    entry = {"gcc": ">=12", "cxxflags": ["-include", "limits"], "why": "no <limits>"}
    spec = make_spec(product__compilers=[entry], product__keep_werror=True)
    node = f"compile:{SANDY}"
    report = merged(ended(planned(R620, R640), failed={node: stage_error(node)}), spec=spec)
    for name in (R620, R640):
        found = cell(report, name)
        assert [each.model_dump(mode="json") for each in found.adaptations] == [{**entry, "cflags": []}]
        assert found.keep_werror
    text = report.model_dump_json()
    assert BuildReport.model_validate_json(text) == report


def stage(report: BuildReport, name: str, node: str) -> StageRecord:
    [found] = [each for each in cell(report, name).stages if f"{each.stage}:{each.label}" == node]
    return found


# ---- one run


def test_the_first_report_tells_of_each_cell(merged: Merge) -> None:
    report = merged(ended(planned(R720, R640, R620)))
    assert (report.format, report.product, report.version) == (1, "demo", "v1.0")
    assert [each.id for each in report.cells] == sorted([R620, R640, R720])
    found = cell(report, R620)
    assert (found.model, found.image, found.allocator) == ("R620", "debian12", "none")
    assert (found.target, found.wanted) == ("sandybridge", "sandybridge")
    assert found.flags == ("-march=sandybridge", "-mtune=sandybridge")
    assert (found.adaptations, found.keep_werror) == ((), False)
    assert (found.status, found.finished) == ("done", "2026-06-15T12:30:01+00:00")
    assert found.artifacts == (
        ArtifactRecord(format="tar", role="main", path=f"debian12/{R620}.tar.gz", sha256="ab", bytes=7),
    )
    assert found.manifest == {"cell": "as packed", "format": 2}


def test_a_cell_has_its_own_stages_in_the_order_of_the_plan(merged: Merge) -> None:
    report = merged(ended(planned(R620, R720, R640), seconds=2.00049))
    assert [f"{s.stage}:{s.label}" for s in cell(report, R720).stages] == [
        *SHARED, f"compile:{SANDY}", f"audit:{SANDY}", f"smoke:{SANDY}", f"package:{R720}",
    ]  # fmt: skip
    assert stage(report, R640, f"compile:{SKY}") == StageRecord(
        stage="compile", label=SKY, key=f"key of compile:{SKY}", status="done", seconds=2.0
    )


def test_a_twin_is_told_in_the_record_of_those_that_it_stands_for(merged: Merge) -> None:
    spec = make_spec()
    machine = Machine(flags=microarch.kernel_flags("sandybridge"), emulates=False)
    plan = expand(spec, [the_cell(spec, R640), the_cell(spec, R620)], machine=machine)
    done = ended(plan)
    for node in ("sandybridge", "skylake_avx512"):
        outcome = done.outcomes[f"smoke:debian12-{node}-none"]
        assert outcome.result is not None
        facts = SMOKED.model_copy(update={"target": node}).model_dump(mode="json")
        done.outcomes[outcome.node.id] = replace(outcome, result=replace(outcome.result, facts=facts))
    report = merged(done)
    twin, own = cell(report, R640), cell(report, R620)
    assert (twin.target, twin.tried) == ("skylake_avx512", "sandybridge")
    assert twin.not_run == "function tried as sandybridge; AVX-512 code audited, not run"
    assert twin.native is not None
    assert twin.native.ran
    assert f"compile:{SANDY}" in [f"{s.stage}:{s.label}" for s in twin.stages]
    assert (own.tried, own.not_run) == ("sandybridge", "")
    assert f"compile:{SKY}" not in [f"{s.stage}:{s.label}" for s in own.stages]


def test_the_verdict_of_the_audit_is_in_the_record_whole(merged: Merge) -> None:
    found = cell(merged(ended(planned(R620))), R620).audit
    assert found is not None
    assert found.passed
    assert [line.model_dump() for line in found.warnings] == [{"where": "bin/demo", "what": "aes", "do": "look"}]
    assert found == FACTS["audit"]


def test_both_ways_of_the_smoke_checks_are_in_the_record(merged: Merge) -> None:
    found = cell(merged(ended(planned(R620))), R620)
    assert found.native is not None
    assert (found.native.ran, found.native.rest) == (True, {"fds": 10, "rss_kib": 1000})
    assert [(c.name, c.passed, c.seconds) for c in found.native.checks] == [("ping", True, 0.5)]
    assert found.emulated == WayRecord(ran=False, reason="no emulator")


def test_only_required_checks_that_were_made_have_failed() -> None:
    found = WayRecord(ran=True, checks=(PING, INFO, ADVICE, SKIPPED))
    assert found.failed == ("info",)


# ---- failures


def test_a_refused_audit_is_told_with_all_its_violations(merged: Merge) -> None:
    lines = [LineRecord(where=f"bin/{n}", what="avx2", do="compile it for the target") for n in range(20)]
    error = stage_error(f"audit:{SANDY}", verdict(*lines))
    report = merged(ended(planned(R620, R720, R640), failed={f"audit:{SANDY}": error}))
    for name in (R620, R720):
        found = cell(report, name)
        assert (found.status, found.artifacts, found.manifest) == ("failed", (), {})
        assert found.audit is not None
        assert not found.audit.passed
        assert [line.where for line in found.audit.violations] == [f"bin/{n}" for n in range(20)]
        assert found.native is not None, "the smoke stage does not wait for the audit"
        failed = stage(report, name, f"audit:{SANDY}")
        assert (failed.status, failed.seconds) == ("failed", 2.0)
        assert failed.error == tuple(error.lines())
        assert "  reason: because" in failed.error
        packed = stage(report, name, f"package:{name}")
        assert (packed.status, packed.blocked_by, packed.key, packed.error) == ("blocked", f"audit:{SANDY}", "", ())
    assert cell(report, R640).status == "done"


def test_failed_smoke_checks_are_told(merged: Merge) -> None:
    problem = "1 of 2 smoke checks failed: info"
    error = stage_error(
        f"smoke:{SANDY}",
        SmokeFacts(
            target="sandybridge",
            native=WayRecord(ran=True, checks=(PING, INFO), problem=problem),
            emulated=WayRecord(ran=False, reason="the native run has failed", cpu="SandyBridge"),
        ),
    )
    found = cell(merged(ended(planned(R620), failed={f"smoke:{SANDY}": error})), R620)
    assert found.status == "failed"
    assert found.native is not None
    assert (found.native.problem, found.native.failed) == (problem, ("info",))
    assert found.native.checks[1].detail == "step 1: sent INFO"
    assert found.emulated is not None
    assert (found.emulated.ran, found.emulated.reason) == (False, "the native run has failed")
    assert found.audit is not None


@pytest.mark.parametrize("error", [HostError("no engine", hint="start it"), stage_error(f"compile:{SANDY}")])
def test_a_stage_that_was_never_reached_left_nothing(merged: Merge, error: ForgeError) -> None:
    node = f"compile:{SANDY}"
    report = merged(ended(planned(R620), failed={node: error}))
    found = cell(report, R620)
    assert (found.status, found.audit, found.native, found.emulated) == ("failed", None, None, None)
    assert [(s.stage, s.status) for s in found.stages[3:]] == [
        ("compile", "failed"), ("audit", "blocked"), ("smoke", "blocked"), ("package", "blocked"),
    ]  # fmt: skip
    assert stage(report, R620, node).error == tuple(error.lines())
    assert stage(report, R620, f"smoke:{SANDY}").blocked_by == node


def test_a_smoke_stage_that_could_not_be_tried_left_nothing(merged: Merge) -> None:
    found = cell(merged(ended(planned(R620), failed={f"smoke:{SANDY}": stage_error(f"smoke:{SANDY}")})), R620)
    assert (found.native, found.emulated, found.status) == (None, None, "failed")


def test_a_cell_that_cannot_be_built_is_failed_without_stages(merged: Merge) -> None:
    report = merged(ended(planned("R640-el7-none", R620)))
    assert (cell(report, "R640-el7-none").status, cell(report, "R640-el7-none").stages) == ("failed", ())
    assert cell(report, R620).status == "done"


# ---- several runs


def test_a_run_replaces_its_own_cells_and_keeps_the_others_as_they_are(merged: Merge) -> None:
    first = merged(ended(planned(R620, R640)))
    error = stage_error(f"compile:{SANDY}")
    second = merged(ended(planned(R720, R620), failed={f"compile:{SANDY}": error}), earlier=first, now=LATER)
    assert [each.id for each in second.cells] == sorted([R620, R640, R720])
    assert cell(second, R640) == cell(first, R640)
    assert (cell(second, R620).status, cell(second, R620).finished) == ("failed", "2026-06-16T08:00:00+00:00")
    assert cell(second, R620).artifacts == (), "what was said before of the cell is gone"
    third = merged(ended(planned(R620)), earlier=second)
    assert cell(third, R620).status == "done"
    assert cell(third, R620).audit is not None


def test_a_cell_whose_package_vanished_is_forgotten(merged: Merge, dist: Path) -> None:
    first = merged(ended(planned(R620, R720, R640)))
    (dist / cell(first, R720).artifacts[0].path).unlink()
    second = merged(ended(planned(R640)), earlier=first)
    assert [each.id for each in second.cells] == [R620, R640]


def test_all_files_of_a_cell_must_be_there(merged: Merge, dist: Path) -> None:
    first = merged(ended(planned(R620)))
    one, two = (
        cell(first, R620).artifacts[0],
        ArtifactRecord(format="tar", role="main", path="debian12/second", sha256="cd", bytes=1),
    )
    both = first.model_copy(update={"cells": (cell(first, R620).model_copy(update={"artifacts": (one, two)}),)})
    assert [each.id for each in merged(ended(planned(R640)), earlier=both).cells] == [R640]
    (dist / two.path).mkdir()
    assert [each.id for each in merged(ended(planned(R640)), earlier=both).cells] == [R640], "a folder is no file"
    (dist / two.path).rmdir()
    (dist / two.path).write_text("")
    assert [each.id for each in merged(ended(planned(R640)), earlier=both).cells] == [R620, R640]


def test_a_failure_is_forgotten_by_a_run_about_other_cells(merged: Merge) -> None:
    first = merged(ended(planned(R620), failed={f"smoke:{SANDY}": stage_error(f"smoke:{SANDY}")}))
    assert [each.id for each in merged(ended(planned(R640)), earlier=first).cells] == [R640]


def test_where_nothing_was_done_the_report_of_the_run_that_did_it_stays(merged: Merge) -> None:
    plan = planned(R620, R720)
    everything = [node.id for node in plan.nodes]
    first = merged(ended(plan, seconds=12.0))
    second = merged(ended(plan, cached=everything), earlier=first, now=LATER)
    assert second == first
    third = merged(ended(plan, cached=set(everything) - {f"package:{R720}"}, seconds=3.0), earlier=second, now=LATER)
    assert cell(third, R620) == cell(first, R620), "one cell's work is not another's"
    assert cell(third, R720).finished == "2026-06-16T08:00:00+00:00"
    assert {s.stage: s.seconds for s in cell(third, R720).stages if s.status == "done"} == {"package": 3.0}


def test_a_cell_that_is_cached_under_another_key_is_reported_anew(merged: Merge) -> None:
    plan = planned(R620)
    everything = [node.id for node in plan.nodes]
    first = merged(ended(plan))
    second = merged(ended(plan, cached=everything, keys={f"smoke:{SANDY}": "another"}), earlier=first, now=LATER)
    assert {s.status for s in cell(second, R620).stages} == {"cached"}
    assert cell(second, R620).finished == "2026-06-16T08:00:00+00:00"


def test_a_cell_whose_package_was_another_is_reported_anew(merged: Merge) -> None:
    plan = planned(R620)
    first = merged(ended(plan))
    other = cell(first, R620).artifacts[0].model_copy(update={"sha256": "cd"})
    first = first.model_copy(update={"cells": (cell(first, R620).model_copy(update={"artifacts": (other,)}),)})
    second = merged(ended(plan, cached=[node.id for node in plan.nodes]), earlier=first, now=LATER)
    assert cell(second, R620).artifacts[0].sha256 == "ab"
    assert cell(second, R620).finished == "2026-06-16T08:00:00+00:00"


def test_a_cached_stage_keeps_the_time_that_it_took(merged: Merge) -> None:
    plan = planned(R620)
    node = f"package:{R620}"
    cached = [each.id for each in plan.nodes if each.id != node]
    report = merged(ended(plan, seconds=12.3456))
    for _ in range(2):
        report = merged(ended(plan, cached=cached, seconds=1.0), earlier=report)
        found = cell(report, R620).stages
        assert {s.status for s in found[:-1]} == {"cached"}
        assert {s.seconds for s in found[:-1]} == {12.346}
        assert (found[-1].status, found[-1].seconds) == ("done", 1.0)


def test_what_a_failed_run_had_done_keeps_its_time(merged: Merge) -> None:
    plan = planned(R620)
    first = merged(ended(plan, failed={f"smoke:{SANDY}": stage_error(f"smoke:{SANDY}")}, seconds=12.0))
    second = merged(ended(plan, cached=[node.id for node in plan.nodes]), earlier=first)
    assert stage(second, R620, f"compile:{SANDY}").seconds == 12.0
    assert (cell(second, R620).status, stage(second, R620, f"smoke:{SANDY}").status) == ("done", "cached")


def test_the_time_of_another_key_says_nothing(merged: Merge) -> None:
    plan = planned(R620)
    node = f"compile:{SANDY}"
    first = merged(ended(plan, seconds=12.0))
    second = merged(ended(plan, cached=[n.id for n in plan.nodes], keys={node: "another"}), earlier=first)
    assert {s.stage: s.seconds for s in cell(second, R620).stages if s.seconds != 12.0} == {"compile": 0.0}


def test_a_stage_with_the_key_of_another_one_has_its_own_time(merged: Merge) -> None:
    first_plan, plan = planned(R620), planned(R640)
    keys = {n.id: "one key" for p in (first_plan, plan) for n in p.nodes}
    first = merged(ended(first_plan, seconds=12.0, keys=keys))
    second = merged(ended(plan, cached=[n.id for n in plan.nodes], keys=keys), earlier=first)
    known = {f"{s.stage}:{s.label}" for s in cell(second, R640).stages if s.seconds == 12.0}
    assert known == set(SHARED), "those that both cells need"


def test_the_time_of_a_shared_stage_is_known_from_a_cell_that_vanished(merged: Merge, dist: Path) -> None:
    first = merged(ended(planned(R620), seconds=12.0))
    (dist / cell(first, R620).artifacts[0].path).unlink()
    plan = planned(R720)
    second = merged(ended(plan, cached=[f"compile:{SANDY}"], seconds=1.0), earlier=first)
    assert stage(second, R720, f"compile:{SANDY}").seconds == 12.0
    assert [each.id for each in second.cells] == [R720]


def test_what_never_got_a_key_gives_nothing_its_time(merged: Merge) -> None:
    node = "source:v1.0"
    first = merged(ended(planned(R620), failed={node: HostError("out of reach")}, keys={node: ""}, seconds=30.0))
    second = merged(ended(planned(R620), cached=[node], keys={node: ""}), earlier=first)
    assert stage(second, R620, node).seconds == 0.0


@pytest.mark.parametrize("change", [{"product__name": "other"}, {"product__version": "v1.1"}])
def test_another_product_or_version_starts_anew(merged: Merge, change: dict[str, Any]) -> None:
    first = merged(ended(planned(R620), seconds=12.0))
    plan = planned(R640)
    second = merged(ended(plan, cached=[n.id for n in plan.nodes]), earlier=first, spec=make_spec(**change))
    assert [each.id for each in second.cells] == [R640]
    assert {s.seconds for s in cell(second, R640).stages} == {0.0}
    wanted = {"product__name": second.product, "product__version": second.version}
    assert all(wanted[name] == value for name, value in change.items())


# ---- the file


def test_what_is_written_is_read_again(merged: Merge, dist: Path) -> None:
    error = stage_error(f"audit:{SANDY}", verdict(LineRecord(where="bin/demo", what="grüße")))
    report = merged(ended(planned(R620, R640), failed={f"audit:{SANDY}": error}))
    assert write(dist, report) == dist / "report.json"
    found = load(dist)
    assert found is not None
    assert found.model_dump_json() == report.model_dump_json()
    assert cell(found, R640) == cell(report, R640)
    text = (dist / "report.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text)["cells"][1]["id"] == R640


def test_a_report_of_the_format_before_is_read(merged: Merge, dist: Path) -> None:
    report = merged(ended(planned(R620, R640)))
    (dist / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    assert load(dist) == report
    write(dist, report)
    assert json.loads((dist / "report.json").read_text(encoding="utf-8"))["format"] == 2
    assert load(dist) == report


def test_cells_of_a_file_share_what_they_have_in_common(merged: Merge, dist: Path) -> None:
    """The kind: a report of 1,000 cells, whose stages, audits and images were objects of their own in each."""
    report = merged(ended(planned(R620, R720)))
    image = {"name": "debian12", "build_packages": {"libc6": "2.36"}}
    changed = [each.model_copy(update={"manifest": {**each.manifest, "image": dict(image)}}) for each in report.cells]
    write(dist, report.model_copy(update={"cells": tuple(changed)}))
    found = load(dist)
    assert found is not None
    first, second = found.cells
    assert first.audit is second.audit is not None
    assert first.manifest["image"] is second.manifest["image"]
    shared = [(one, other) for one in first.stages for other in second.stages if one == other]
    assert len(shared) >= 5, "all stages but the last are of both"
    assert all(one is other for one, other in shared)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(json.loads(text), indent=1),
        lambda text: text.replace("\n ", "\n   "),
        lambda text: text.replace(',\n "cells"', ',\n\n "cells"'),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=2),
    ],
)
def test_a_file_with_other_lines_says_the_same(merged: Merge, dist: Path, change: Callable[[str], str]) -> None:
    report = merged(ended(planned(R620, R720)))
    path = write(dist, report)
    text = re.sub('"sha256": "[0-9a-f]{64}"\n', '"sha256": ""\n', path.read_text(encoding="utf-8"))
    path.write_text(change(text), encoding="utf-8")
    assert load(dist) == report


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-2],
        lambda text: text.replace('"audits": {', '"audit": {'),
        lambda text: text.replace('"format": 2', '"format": 3'),
        lambda text: text.replace('"product": "demo"', '"product": 7'),
        lambda text: re.sub(r'"audit":"[0-9a-f]+"', '"audit":"0123456789abcdef"', text),
        lambda text: text.replace('"label":', '"lable":'),
        lambda text: re.sub(r' "cells": \[.*', ' "more": []\n}\n', text, flags=re.DOTALL),
    ],
)
def test_a_damaged_file_is_no_report(merged: Merge, dist: Path, change: Callable[[str], str]) -> None:
    path = write(dist, merged(ended(planned(R620, R720))))
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    assert load(dist) is None


# ---- memory


def used(report: Report, node: str, memory: int, *, jobs: int = 1, killed: bool = False) -> Report:
    """The run, in which a node has used so much memory."""
    report.outcomes[node] = replace(report.outcomes[node], memory=memory, jobs=jobs, out_of_memory=killed)
    return report


def test_the_memory_of_a_compilation_is_recorded_for_each_process(merged: Merge) -> None:
    plan = planned(R620)
    node = f"compile:{SANDY}"
    first = merged(used(ended(plan), node, 4001, jobs=4))
    assert stage(first, R620, node).memory == 1001
    smaller = merged(used(ended(plan), node, 800, jobs=1), earlier=first)
    assert stage(smaller, R620, node).memory == 1001, "as when it came from a compiler cache"
    cached = merged(ended(plan, cached=[node]), earlier=smaller)
    assert stage(cached, R620, node).memory == 1001
    packed = f"package:{R620}"
    assert stage(merged(used(ended(plan), packed, 4001, jobs=4)), R620, packed).memory == 4001


def test_what_was_killed_gets_more_in_the_next_run(merged: Merge) -> None:
    plan = planned(R620)
    node = next(each for each in plan.nodes if each.id == f"compile:{SANDY}")
    nothing = EarlierTimes.of([])
    assert nothing.demand(node) == COMPILES
    failed = ended(plan, failed={node.id: stage_error(node.id)})
    first = merged(used(failed, node.id, 4000, jobs=4, killed=True))
    assert EarlierTimes.of([first]).demand(node).memory == 1000 * AFTER_KILL
    second = merged(used(ended(plan), node.id, 3000, jobs=2), earlier=first)
    assert EarlierTimes.of([second]).demand(node).memory == 1500 * MARGIN
    assert EarlierTimes.of([second]).demand(node).least == COMPILES.memory


def test_what_several_cells_have_is_written_once(merged: Merge, dist: Path) -> None:
    """The kind: facts of a compilation, and of an image, in each of its cells (70 kB a cell)."""
    image = {"name": "debian12", "build_packages": {f"package-{number}": "1.0" for number in range(500)}}

    def with_image(*cells: str) -> BuildReport:
        report = merged(ended(planned(*cells)))
        more = {"image": image}
        changed = [each.model_copy(update={"manifest": {**each.manifest, **more}}) for each in report.cells]
        return report.model_copy(update={"cells": tuple(changed)})

    one = write(dist, with_image(R620)).stat().st_size
    both = with_image(R620, R720)
    path = write(dist, both)
    assert path.stat().st_size < one + 3000
    file = json.loads(path.read_text(encoding="utf-8"))
    assert (len(file["audits"]), len(file["ways"]), len(file["images"])) == (1, 2, 1)
    first, second = file["cells"]
    assert all(first[name] == second[name] for name in ("audit", "native", "emulated", "manifest_image"))
    assert first["audit"] in file["audits"]
    assert "image" not in first["manifest"]
    assert load(dist) == both
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("  ") for line in lines) == 1 + 2 + 1 + 2, "each fact and each cell is a line"


def test_control_what_differs_stays_apart(merged: Merge, dist: Path) -> None:
    report = merged(ended(planned(R620)))
    other = verdict(LineRecord(where="bin/demo", what="avx2"))
    changed = report.cells[0].model_copy(update={"id": "x", "audit": other})
    path = write(dist, report.model_copy(update={"cells": (report.cells[0], changed)}))
    assert len(json.loads(path.read_text(encoding="utf-8"))["audits"]) == 2


def test_findings_of_one_kind_are_bounded(merged: Merge) -> None:
    whole = verdict()
    [first] = whole.findings
    many = [replace(first, function=f"work{number}") for number in range(5000)]
    some = [replace(first, reason="another"), *(replace(first, file=f"lib/{number}") for number in range(300))]
    error = stage_error(f"audit:{SANDY}", whole.model_copy(update={"findings": (*many, *some)}))
    found = cell(merged(ended(planned(R620), failed={f"audit:{SANDY}": error})), R620)
    assert found.audit is not None
    shown = found.audit.findings
    assert [f.function for f in shown[:6]] == ["work0", "work1", "work2", "work3", "work4", "work"]
    assert shown[5].reason == "another"
    assert len(shown) == 200
    assert found.findings_left_out == 5301 - 200


def test_control_few_findings_are_all_there(merged: Merge) -> None:
    found = cell(merged(ended(planned(R620))), R620)
    assert found.audit == FACTS["audit"]
    assert found.findings_left_out == 0


def test_a_report_that_was_read_is_kept_byte_by_byte(merged: Merge, dist: Path) -> None:
    write(dist, merged(ended(planned(R620))))
    before = (dist / "report.json").read_bytes()
    found = load(dist)
    assert found is not None
    number = (dist / "report.json").stat().st_ino
    write(dist, merge(make_spec(), Report(plan=planned()), {}, earlier=found, dist=dist, now=LATER))
    assert (dist / "report.json").read_bytes() == before
    assert (dist / "report.json").stat().st_ino == number, "and not written again"


def test_nothing_is_left_beside_the_report(merged: Merge, dist: Path) -> None:
    report = merged(ended(planned(R620)))
    for _ in range(2):
        write(dist, report)
        assert sorted(path.name for path in dist.iterdir()) == ["debian12", "report.json"]
    assert (dist / "report.json").stat().st_mode & 0o777 == 0o644


def test_a_report_is_replaced_whole_or_not_at_all(merged: Merge, dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(dist, merged(ended(planned(R620))))
    before = (dist / "report.json").read_bytes()
    number = (dist / "report.json").stat().st_ino

    def replace(self: Path, target: Path) -> Path:
        assert target.read_bytes() == before, "until the new one is whole, the old one is there"
        assert json.loads(self.read_bytes())["cells"][0]["id"] == R640
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        with pytest.raises(OSError, match="No space"):
            write(dist, merged(ended(planned(R640))))
    assert (dist / "report.json").read_bytes() == before
    assert sorted(path.name for path in dist.iterdir()) == ["debian12", "report.json"]
    write(dist, merged(ended(planned(R640))))
    assert (dist / "report.json").stat().st_ino != number, "a new file, so who reads the old one reads it to its end"


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        data = json.loads(content)
        change(data)
        return json.dumps(data).encode()

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-20], id="cut off"),
        pytest.param(lambda content: b"\xff\xfe" + content, id="binary"),
        pytest.param(lambda content: b"[]", id="a list"),
        pytest.param(lambda content: b"null", id="null"),
        pytest.param(_edited(lambda data: data.update(format=3)), id="a later format"),
        pytest.param(_edited(lambda data: data.update(extra=1)), id="more than is known"),
        pytest.param(_edited(lambda data: data["cells"][0].update(status="good")), id="another status"),
        pytest.param(_edited(lambda data: data["cells"][0].pop("id")), id="less than is needed"),
        pytest.param(_edited(lambda data: data.update(version=1)), id="another type"),
        pytest.param(_edited(lambda data: data["audits"].clear()), id="a fact that is not there"),
        pytest.param(_edited(lambda data: data["cells"][0].update(audit={})), id="a fact in place of its key"),
    ],
)
def test_what_is_no_report_of_ours_is_none(merged: Merge, dist: Path, edit: Callable[[bytes], bytes]) -> None:
    path = write(dist, merged(ended(planned(R620))))
    assert load(dist) is not None
    path.write_bytes(re.sub(rb'^ "sha256": "[0-9a-f]{64}"', b' "sha256": ""', path.read_bytes(), flags=re.MULTILINE))
    assert load(dist) is not None, "as somebody leaves it who changes it by hand"
    path.write_bytes(edit(path.read_bytes()))
    assert load(dist) is None


def test_a_wrong_bit_of_a_report_is_found(merged: Merge, dist: Path) -> None:
    """Also where what comes out is a report: cells of which nothing is made again are kept as they are there."""
    write(dist, merged(ended(planned(R620))))
    path = dist / "report.json"
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 41):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(data))
        assert load(dist) is None, bit


def test_no_report_and_one_that_cannot_be_read_are_none(dist: Path) -> None:
    assert load(dist) is None
    (dist / "report.json").mkdir(parents=True)
    assert load(dist) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\0",
    ],
)
def test_after_an_unreadable_report_the_next_run_begins_anew(merged: Merge, dist: Path, content: bytes) -> None:
    dist.mkdir()
    (dist / "report.json").write_bytes(content)
    write(dist, merged(ended(planned(R620)), earlier=load(dist)))
    found = load(dist)
    assert found is not None
    assert [each.id for each in found.cells] == [R620]


# ---- the schema

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def _wrong(value: Any, schema: Any, top: dict[str, Any], where: str = "") -> list[str]:
    """Where `value` is not as `schema` says, for the keywords that ours use; another one raises KeyError."""
    if schema is True:
        return []
    if schema is False:
        return [where]

    def kind(name: str) -> list[str]:
        return [] if isinstance(value, _TYPES[name]) and (name == "boolean") == isinstance(value, bool) else [where]

    def parts(schemas: Mapping[str, Any]) -> list[str]:
        return [
            w for name in value if name in schemas for w in _wrong(value[name], schemas[name], top, f"{where}/{name}")
        ]

    def rest(other: Any) -> list[str]:
        named = schema.get("properties", {})
        return [w for name in value if name not in named for w in _wrong(value[name], other, top, f"{where}/{name}")]

    def some(members: Sequence[Any]) -> list[str]:
        return [] if any(not _wrong(value, member, top, where) for member in members) else [where]

    def first(schemas: Sequence[Any]) -> list[str]:
        return [
            w for n, (v, s) in enumerate(zip(value, schemas, strict=False)) for w in _wrong(v, s, top, f"{where}/{n}")
        ]

    def each(item: Any) -> list[str]:
        after = len(schema.get("prefixItems", ()))
        return [w for n, v in enumerate(value[after:]) for w in _wrong(v, item, top, f"{where}/{n}")]

    checks: dict[str, Callable[[Any], list[str]]] = {
        "$ref": lambda ref: _wrong(value, top["$defs"][ref.rpartition("/")[2]], top, where),
        "anyOf": some,
        "const": lambda only: [] if value == only else [where],
        "enum": lambda values: [] if value in values else [where],
        "required": lambda names: [f"{where}/{name}" for name in names if name not in value],
        "properties": parts,
        "additionalProperties": rest,
        "prefixItems": first,
        "items": each,
        "minItems": lambda limit: [] if len(value) >= limit else [where],
        "maxItems": lambda limit: [] if len(value) <= limit else [where],
    }
    if "type" in schema and (bad := kind(schema["type"])):
        return bad
    silent = {"$schema", "$defs", "title", "description", "default", "type"}
    return [w for name, argument in schema.items() if name not in silent for w in checks[name](argument)]


@pytest.fixture
def written(merged: Merge, dist: Path) -> dict[str, Any]:
    """A report with a cell that is done, one that was refused, and one that was not reached."""
    failed = {
        f"audit:{SANDY}": stage_error(f"audit:{SANDY}", verdict(LineRecord(where="bin/demo", what="avx2"))),
        f"compile:{SKY}": stage_error(f"compile:{SKY}"),
    }
    first = merged(ended(planned("R620-el7-none")))
    path = write(dist, merged(ended(planned(R620, R640), failed=failed), earlier=first))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert [(c["status"], c["audit"] is None) for c in found["cells"]] == [
        ("failed", False), ("done", False), ("failed", True)
    ]  # fmt: skip
    return found


def test_a_report_is_as_its_schema_says(written: dict[str, Any]) -> None:
    expected: dict[str, Any] = schema()
    assert _wrong(written, expected, expected) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data["cells"][1].update(status="good"), "/cells/1/status"),
        (lambda data: data["audits"][data["cells"][1]["audit"]].pop("violations"), "/audits/KEY/violations"),
        (
            lambda data: data["ways"][data["cells"][1]["native"]]["checks"][0].update(seconds="1"),
            "/ways/KEY/checks/0/seconds",
        ),
        (lambda data: data["cells"][1]["artifacts"][0].update(bytes=True), "/cells/1/artifacts/0/bytes"),
        (lambda data: data["cells"][1]["stages"][0].update(more=1), "/cells/1/stages/0/more"),
        (lambda data: data.update(format=1), "/format"),
        (lambda data: data.pop("version"), "/version"),
    ],
)
def test_the_schema_refuses_what_the_tool_would_not_read(
    written: dict[str, Any], change: Callable[[dict[str, Any]], object], where: str
) -> None:
    expected: dict[str, Any] = schema()
    change(written)
    assert [re.sub("[0-9a-f]{16}", "KEY", found) for found in _wrong(written, expected, expected)] == [where]
    with pytest.raises(ValidationError):
        BuildReport.model_validate_json(json.dumps(written))


def test_every_field_of_the_schema_is_described() -> None:
    expected: dict[str, Any] = schema()
    for part in [expected, *expected["$defs"].values()]:
        for name, entry in part["properties"].items():
            assert len(entry.get("description", "")) > 3, name
