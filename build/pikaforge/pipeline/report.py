"""The build report, dist/report.json: what was built, what proves it, and how long it took. It is for scripts.

It has the last state of each cell. A run replaces the cells that it was about. It keeps the others while their
packages are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.judge_instructions import Finding
from pikaforge.config.compilers import adaptations
from pikaforge.config.schema import schema_of
from pikaforge.errors import PublishError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.durable import write_pieces
from pikaforge.host.store import sha256
from pikaforge.pipeline import compiler_cache, report_file
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.report_record import AdaptationRecord, BuildReport, CellRecord, StageRecord
from pikaforge.pipeline.smoke.record import SmokeFacts
from pikaforge.pipeline.stage import stage_of
from pikaforge.plan import twins

if TYPE_CHECKING:
    from pikaforge.config.schema import Spec
    from pikaforge.pipeline.outcomes import NodeOutcome, Report
    from pikaforge.plan.cells import Cell

NAME = "report.json"
OTHERS = "report.{}.json"
FINDINGS, ALL_FINDINGS = 5, 200
"""Findings of the audit in a report: of one file, level and reason, and of a cell. The store has all."""


def schema() -> dict[str, object]:
    """Return the JSON schema of dist/report.json."""
    return schema_of(report_file.ReportFile)


def load(dist: Path, name: str = NAME) -> BuildReport | None:
    """Read a report of a folder; return None if there is none that this version reads."""
    try:
        with (dist / name).open("rb") as stream:
            return report_file.read(stream)
    except OSError:
        return None


def name_of(dist: Path, product: str) -> str:
    """Return the file name of a product's report.

    A folder may have packages of several products, and a report is about one. It is report.json, unless that is of
    another product; report.PRODUCT.json then.
    """
    own = OTHERS.format(product)
    there = load(dist)
    if (dist / own).is_file() or (there is not None and there.product != product):
        return own
    return NAME


def all_of(dist: Path) -> list[BuildReport]:
    """Return the reports of a folder: one for each product."""
    names = [NAME, *sorted(path.name for path in dist.glob(OTHERS.format("*")))]
    return [found for name in names if (found := load(dist, name)) is not None]


def package_path(dist: Path, artifact: ArtifactRecord) -> Path:
    """Return the path of a package after a comparison with its record.

    Raises:
        PublishError: it is missing, or is not what the report says.
    """
    path = dist / artifact.path
    hint = "build it again: what is published is what a build has proven"
    if not path.is_file():
        raise PublishError("a package of the report is missing", where=str(path), hint=hint)
    if sha256(path) != artifact.sha256:
        raise PublishError("a package is not what the report says", where=str(path), hint=hint)
    return path


def write(dist: Path, report: BuildReport) -> Path:
    """Write a report into a folder, unless it is there already; return its path."""
    path = dist / name_of(dist, report.product)
    write_pieces(path, lambda: report_file.pieces(report))
    return path


def merge(
    spec: Spec,
    done: Report,
    artifacts: Mapping[str, tuple[ArtifactRecord, ...]],
    *,
    earlier: BuildReport | None,
    dist: Path,
    now: datetime,
) -> BuildReport:
    """Return the report after a run.

    Args:
        spec: what was built.
        done: the run.
        artifacts: packages by cell id.
        earlier: the report before; its other cells are kept if their files are still below `dist`.
        dist: the folder of the report.
        now: when the run ended.
    """
    if earlier is not None and (earlier.product, earlier.version) != (spec.product.name, spec.product.version):
        earlier = None
    facts = _NodeFacts(done, earlier)
    cells = {
        cell.id: cell
        for cell in (earlier.cells if earlier else ())
        if cell.artifacts and all((dist / a.path).is_file() for a in cell.artifacts)
    }
    outcomes = done.by_cell()
    for cell in done.plan.cells:
        fresh = _cell(cell, outcomes[cell.id], artifacts.get(cell.id, ()), facts=facts, now=now, spec=spec)
        old = cells.get(cell.id)
        # Where nothing was done, the report of the run that did it stays, with its times.
        cells[cell.id] = old if old is not None and _says_the_same(old, fresh) else fresh
    return BuildReport(
        product=spec.product.name, version=spec.product.version, cells=tuple(cells[name] for name in sorted(cells))
    )


class _NodeFacts:
    """Facts and records of a run's nodes. Each is made once, so that all cells that need a node have the same."""

    def __init__(self, done: Report, earlier: BuildReport | None) -> None:
        self._done = done
        self._took = {
            (s.stage, s.label, s.key): (s.seconds, s.jobs)
            for cell in (earlier.cells if earlier else ())
            for s in cell.stages
            if s.key
        }
        self._before = {(s.stage, s.label): s for cell in (earlier.cells if earlier else ()) for s in cell.stages}
        self._stages: dict[str, StageRecord] = {}
        self._audits: dict[str, tuple[AuditRecord | None, int]] = {}
        self._smokes: dict[str, SmokeFacts | None] = {}

    def audit(self, group: str) -> tuple[AuditRecord | None, int]:
        """Return what the audit of a group says, with some of its findings, and how many are left out."""
        if group not in self._audits:
            found, left_out = self._done.facts(f"audit:{group}", AuditRecord), 0
            if found is not None:
                shown = _some_findings(found.findings)
                left_out = len(found.findings) - len(shown)
                found = found.model_copy(update={"findings": shown})
            self._audits[group] = found, left_out
        return self._audits[group]

    def smoke(self, group: str) -> SmokeFacts | None:
        """Return what the smoke test of a group says."""
        if group not in self._smokes:
            self._smokes[group] = self._done.facts(f"smoke:{group}", SmokeFacts)
        return self._smokes[group]

    def manifest(self, cell: str) -> dict[str, object]:
        """Return the manifest of a cell's package; empty if there is none."""
        packed = self._done.facts(f"package:{cell}", PackageFacts)
        return packed.manifest if packed is not None else {}

    def stage(self, outcome: NodeOutcome) -> StageRecord:
        """Return the record of a node."""
        node = outcome.node
        if node.id not in self._stages:
            seconds, jobs = outcome.seconds, outcome.jobs
            if outcome.status == "cached":
                seconds, jobs = self._took.get((node.stage, node.label, outcome.key), (0.0, 0))
            used = -(-outcome.memory // max(1, jobs)) if stage_of(node).demand.elastic else outcome.memory
            before = self._before.get((node.stage, node.label))
            self._stages[node.id] = StageRecord(
                stage=node.stage,
                label=node.label,
                key=outcome.key,
                status=outcome.status,
                seconds=round(seconds, 3),
                jobs=jobs,
                memory=max(used, before.memory if before is not None else 0),
                out_of_memory=outcome.out_of_memory,
                error=tuple(outcome.error.lines()) if outcome.error is not None else (),
                blocked_by=outcome.blocked_by,
                cache=compiler_cache.used_by(outcome.result),
            )
        return self._stages[node.id]


def _cell(
    cell: Cell,
    outcomes: Sequence[NodeOutcome],
    artifacts: tuple[ArtifactRecord, ...],
    *,
    facts: _NodeFacts,
    now: datetime,
    spec: Spec,
) -> CellRecord:
    audit, left_out = facts.audit(cell.group)
    smoke = facts.smoke(cell.group)
    tried = smoke.tried if smoke is not None else ""
    return CellRecord(
        id=cell.id,
        model=cell.model,
        image=cell.image,
        allocator=cell.allocator,
        target=cell.target,
        wanted=cell.wanted,
        flags=cell.flags,
        tried=tried,
        not_run=twins.sentence(cell.target, tried),
        adaptations=tuple(AdaptationRecord(**entry.model_dump()) for entry in adaptations(spec, cell.image)),
        keep_werror=spec.product.keep_werror,
        status="done" if artifacts else "failed",
        finished=now.isoformat(timespec="seconds"),
        stages=tuple(map(facts.stage, outcomes)),
        findings_left_out=left_out,
        audit=audit,
        native=smoke.native if smoke is not None else None,
        emulated=smoke.emulated if smoke is not None else None,
        artifacts=artifacts,
        manifest=facts.manifest(cell.id),
    )


def _some_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the first findings of each file, level and reason: a library may have thousands of one kind."""
    counts: Counter[tuple[str, str, str]] = Counter()
    shown: list[Finding] = []
    for finding in findings:
        kind = finding.file, finding.level, finding.reason
        counts[kind] += 1
        if counts[kind] <= FINDINGS and len(shown) < ALL_FINDINGS:
            shown.append(finding)
    return tuple(shown)


def _says_the_same(old: CellRecord, fresh: CellRecord) -> bool:
    return (
        all(stage.status == "cached" for stage in fresh.stages)
        and [(s.stage, s.label, s.key, s.cache) for s in old.stages]
        == [(s.stage, s.label, s.key, s.cache) for s in fresh.stages]
        and old.artifacts == fresh.artifacts
    )


def shared_of(outcomes: Sequence[NodeOutcome]) -> dict[str, str]:
    """Return the shared store that results of a cell were taken from, by stage; nothing for what was made here.

    Args:
        outcomes: of the cell's nodes.
    """
    return {o.node.stage: o.result.origin for o in outcomes if o.result is not None and o.result.origin}


def caches_of(outcomes: Sequence[NodeOutcome]) -> dict[str, str]:
    """Return the compiler cache of each compilation of a cell, by stage; nothing for what does not say.

    Args:
        outcomes: of the cell's nodes.
    """
    found = {outcome.node.stage: compiler_cache.used_by(outcome.result) for outcome in outcomes}
    return {stage: cache for stage, cache in found.items() if cache}
