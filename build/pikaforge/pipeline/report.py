"""The build report, dist/report.json: what was built, what proves it, and how long it took. It is for scripts.

It has the last state of each cell. A run replaces the cells that it was about. It keeps the others while their
packages are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config.compilers import adaptations
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import schema_of
from pikaforge.errors import PublishError
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.host.store import sha256, write_atomically
from pikaforge.pipeline import compiler_cache
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.smoke.record import SmokeFacts, WayRecord
from pikaforge.plan import twins

if TYPE_CHECKING:
    from pikaforge.config.schema import Spec
    from pikaforge.pipeline.pipeline import NodeOutcome, Report
    from pikaforge.plan.cells import Cell

NAME = "report.json"
OTHERS = "report.{}.json"


class AdaptationRecord(Strict):
    """An entry of product.compilers that was for the cell's compiler."""

    gcc: str = Field(description="Range of versions.")
    cflags: tuple[str, ...] = Field(description="Added where C was compiled.")
    cxxflags: tuple[str, ...] = Field(description="Added where C++ was compiled.")
    why: str = Field(description="What does not compile without.")


class StageRecord(Strict):
    """One stage that a cell needed."""

    stage: str = Field(description="Its name.")
    label: str = Field(description="What it was run for: an image, a target of an image, a cell.")
    key: str = Field(description="Hash of what decides its result; empty where it never came so far.")
    status: Literal["cached", "done", "failed", "blocked"] = Field(description="How it ended in the last run.")
    seconds: float = Field(description="How long it took when it was last run.")
    error: tuple[str, ...] = Field(default=(), description="What was said when it failed.")
    blocked_by: str = Field(default="", description="The stage without whose result it was not run.")
    cache: str = Field(
        default="",
        description="Of a compilation: the compiler cache that it used, by the digest of the sources to which that "
        "belongs, or `none`.",
    )


class CellRecord(Strict):
    """The last word on one cell."""

    id: str = Field(description="MODEL-IMAGE-ALLOCATOR.")
    model: str = Field(description="Hardware model.")
    image: str = Field(description="OS image.")
    allocator: str = Field(description="Memory allocator.")
    target: str = Field(description="Microarchitecture that it was built for.")
    wanted: str = Field(description="The best one that all CPUs of the model run.")
    flags: tuple[str, ...] = Field(description="The compiler flags of the target.")
    tried: str = Field(
        default="",
        description="The microarchitecture whose smoke test counts: `target`, or where that cannot be run its twin, "
        "which was compiled from the same; empty where nothing was run.",
    )
    not_run: str = Field(default="", description="For people: what was tried in the place of `target`, and what not.")
    adaptations: tuple[AdaptationRecord, ...] = Field(
        default=(), description="What the compiler needed beyond these, by its version."
    )
    keep_werror: bool = Field(default=False, description="Whether -Werror of the product's build files counted.")
    status: Literal["done", "failed"] = Field(description="Whether there is a package that everything says yes to.")
    finished: str = Field(description="When this was written, ISO 8601 in UTC.")
    stages: tuple[StageRecord, ...] = Field(description="In the order of the plan.")
    audit: AuditRecord | None = Field(default=None, description="Null where it did not come so far.")
    native: WayRecord | None = Field(default=None, description="Null where it did not come so far.")
    emulated: WayRecord | None = Field(default=None, description="Null where it did not come so far.")
    artifacts: tuple[ArtifactRecord, ...] = Field(default=(), description="What was put under dist/.")
    manifest: dict[str, object] = Field(
        default_factory=dict, description="The package's manifest.json: source, patches, image, compiler."
    )

    @property
    def epoch(self) -> int:
        """Return the date of the source in seconds since 1970; 0 if no package says it."""
        date = self.manifest.get("source_date_epoch")
        return date if isinstance(date, int) else 0


class BuildReport(Strict):
    """dist/report.json."""

    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    cells: tuple[CellRecord, ...] = Field(description="Sorted by id.")


def schema() -> dict[str, object]:
    """Return the JSON schema of dist/report.json."""
    return schema_of(BuildReport)


def load(dist: Path, name: str = NAME) -> BuildReport | None:
    """Read a report of a folder; return None if there is none that this version reads."""
    try:
        return BuildReport.model_validate_json((dist / name).read_bytes())
    except (OSError, ValidationError):
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
    data = (report.model_dump_json(indent=2) + "\n").encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
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
    took = {
        (s.stage, s.label, s.key): s.seconds
        for cell in (earlier.cells if earlier else ())
        for s in cell.stages
        if s.key
    }
    cells = {
        cell.id: cell
        for cell in (earlier.cells if earlier else ())
        if cell.artifacts and all((dist / a.path).is_file() for a in cell.artifacts)
    }
    for cell in done.plan.cells:
        fresh = _cell(cell, done, artifacts.get(cell.id, ()), took, now, spec=spec)
        old = cells.get(cell.id)
        # Where nothing was done, the report of the run that did it stays, with its times.
        cells[cell.id] = old if old is not None and _says_the_same(old, fresh) else fresh
    return BuildReport(
        product=spec.product.name, version=spec.product.version, cells=tuple(cells[name] for name in sorted(cells))
    )


def _cell(
    cell: Cell,
    done: Report,
    artifacts: tuple[ArtifactRecord, ...],
    took: Mapping[tuple[str, str, str], float],
    now: datetime,
    *,
    spec: Spec,
) -> CellRecord:
    outcomes = [o for n in done.plan.nodes if cell in n.cells and (o := done.outcomes.get(n.id)) is not None]
    audit = done.facts(f"audit:{cell.group}", AuditRecord)
    smoke = done.facts(f"smoke:{cell.group}", SmokeFacts)
    packed = done.facts(f"package:{cell.id}", PackageFacts)
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
        stages=tuple(_stage(outcome, took) for outcome in outcomes),
        audit=audit,
        native=smoke.native if smoke is not None else None,
        emulated=smoke.emulated if smoke is not None else None,
        artifacts=artifacts,
        manifest=packed.manifest if packed is not None else {},
    )


def _says_the_same(old: CellRecord, fresh: CellRecord) -> bool:
    return (
        all(stage.status == "cached" for stage in fresh.stages)
        and [(s.stage, s.label, s.key, s.cache) for s in old.stages]
        == [(s.stage, s.label, s.key, s.cache) for s in fresh.stages]
        and old.artifacts == fresh.artifacts
    )


def _stage(outcome: NodeOutcome, took: Mapping[tuple[str, str, str], float]) -> StageRecord:
    node = outcome.node
    seconds = outcome.seconds
    if outcome.status == "cached":
        seconds = took.get((node.stage, node.label, outcome.key), 0.0)
    return StageRecord(
        stage=node.stage,
        label=node.label,
        key=outcome.key,
        status=outcome.status,
        seconds=round(seconds, 3),
        error=tuple(outcome.error.lines()) if outcome.error is not None else (),
        blocked_by=outcome.blocked_by,
        cache=compiler_cache.used_by(outcome.result),
    )


def caches_of(cell: Cell, done: Report) -> dict[str, str]:
    """Return the compiler cache of each compilation of a cell, by stage; nothing for what does not say."""
    outcomes = [o for n in done.plan.nodes if cell in n.cells and (o := done.outcomes.get(n.id)) is not None]
    found = {outcome.node.stage: compiler_cache.used_by(outcome.result) for outcome in outcomes}
    return {stage: cache for stage, cache in found.items() if cache}
