"""dist/report.json: what was built, what proves it, and how long it took. For scripts; `report` prints for people.

The file holds the last word on each cell: a run replaces the cells that it was about, and keeps those whose packages
are still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from pikaforge.config.compilers import adaptations
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import FormatName, schema_of
from pikaforge.errors import PublishError, StageError
from pikaforge.host.store import sha256, write_atomically
from pikaforge.plan import allocators, twins

if TYPE_CHECKING:
    from pikaforge.config.schema import Spec
    from pikaforge.pipeline.pipeline import NodeOutcome, Report
    from pikaforge.plan.cells import Cell

NAME = "report.json"


class CheckRecord(Strict):
    """One smoke check."""

    name: str = Field(description="As in product.smoke; version, start and stop are always made.")
    passed: bool = Field(description="Whether it was made and held.")
    seconds: float = Field(description="How long it took.")
    detail: str = Field(default="", description="The exact exchange that failed.")
    required: bool = Field(default=True, description="Whether its failure fails the stage.")
    skipped: str = Field(default="", description="Why it was not made; then it has not passed.")
    note: str = Field(default="", description="What is to be known of it even if it passed.")


class WayRecord(Strict):
    """The smoke checks natively or under emulation."""

    ran: bool = Field(description="Whether the server was started in this way at all.")
    reason: str = Field(default="", description="Why not; such a way is never called passed.")
    problem: str = Field(default="", description="Why it is refused; empty if it passed.")
    cpu: str = Field(default="", description="The emulated CPU; empty natively.")
    checks: tuple[CheckRecord, ...] = Field(default=(), description="In the order in which they were made.")
    rest: dict[str, Any] = Field(
        default_factory=dict, description="What the server held at rest: file descriptors, threads, bytes of memory."
    )

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the required checks that did not hold."""
        return tuple(c.name for c in self.checks if c.required and not c.passed and not c.skipped)


class LineRecord(Strict):
    """A violation or warning of the audit."""

    where: str = Field(description="File of the tree, or part of the configuration.")
    what: str = Field(description="What is wrong.")
    do: str = Field(default="", description="What to do.")


class PackagedRecord(Strict):
    """A library in the tree that is the distribution's own."""

    package: str = Field(description="The package that it is from.")
    version: str = Field(description="The package's.")
    sha256: str = Field(description="Of the file in the package, before strip and patchelf.")
    code: str = Field(description="SHA-256 of what is executable in it, which these leave as it is.")


class DispatchedRecord(Strict):
    """A library of the distribution that was accepted with code beyond the target."""

    file: str = Field(description="In the tree.")
    package: str = Field(description="The package that it is from.")
    version: str = Field(description="The package's.")
    sha256: str = Field(description="Of the file in the package.")
    functions: tuple[str, ...] = Field(description="The functions with such code.")
    features: tuple[str, ...] = Field(description="The features beyond the target that they need.")
    evidence: tuple[str, ...] = Field(description="What makes sure that they run only on CPUs that have them.")


class AuditRecord(Strict):
    """The audit's verdict on the tree that a cell's package holds."""

    title: str = Field(description="What was judged.")
    target: str = Field(description="The microarchitecture that it was judged for, by archspec name.")
    passed: bool = Field(description="Whether there is no violation.")
    violations: tuple[LineRecord, ...] = Field(description="What says no.")
    warnings: tuple[LineRecord, ...] = Field(description="What a person should look at.")
    notes: tuple[str, ...] = Field(description="What was not judged, or is allowed and why.")
    allow_list: str = Field(description="Where the list of allowed instructions is from.")
    code_bytes: int = Field(description="Bytes of code that were decoded.")
    features_used: tuple[str, ...] = Field(description="CPU features in use beyond the baseline, by feature id.")
    kernel_flags: tuple[str, ...] = Field(description="What /proc/cpuinfo of a host must show.")
    dispatched: tuple[DispatchedRecord, ...] = Field(
        default=(), description="Libraries of the distribution that run some code only on CPUs that have it."
    )
    packaged: dict[str, PackagedRecord] = Field(
        default_factory=dict, description="The distribution's own libraries, by path in the tree."
    )
    findings: tuple[dict[str, Any], ...] = Field(description="Functions with instructions beyond the allow-list.")
    symbol_versions: dict[str, str] = Field(description="By namespace the highest that a host must have.")
    system_libraries: tuple[str, ...] = Field(description="Sonames that are taken from the host.")
    library_versions: dict[str, tuple[str, ...]] = Field(
        description="By library of the host, all symbol versions that it must have."
    )
    allocator: dict[str, str] = Field(
        description="The allocator's library in the tree, and whether it needs libunwind."
    )
    hardening: tuple[dict[str, Any], ...] = Field(description="PIE, RELRO and stack protector of each file.")
    units: tuple[dict[str, Any], ...] = Field(description="Compile units by file and the -march they were made with.")
    dropped_flags: tuple[tuple[int, str], ...] = Field(description="How often the compiler wrapper dropped what.")
    files: tuple[dict[str, Any], ...] = Field(description="The ELF files.")


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


class ArtifactRecord(Strict):
    """A package under dist/; its bill of materials and provenance are beside it."""

    format: FormatName = Field(description="What kind of package it is.")
    role: Literal["main", "debug", "allocator"] = Field(
        description=f"The product, its debug information, or {' or '.join(allocators.built())}."
    )
    path: str = Field(description="Relative to this report.")
    sha256: str = Field(description="Digest of its bytes, in hex.")
    bytes: int = Field(description="Size.")


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
    manifest: dict[str, Any] = Field(
        default_factory=dict, description="The package's manifest.json: source, patches, image, compiler."
    )


class BuildReport(Strict):
    """dist/report.json."""

    format: Literal[1] = Field(default=1, description="Version of this file's layout.")
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    cells: tuple[CellRecord, ...] = Field(description="Sorted by id.")


def schema() -> dict[str, Any]:
    """JSON schema of dist/report.json."""
    return schema_of(BuildReport)


def load(dist: Path) -> BuildReport | None:
    """The report that is there; None if there is none that this version reads."""
    try:
        return BuildReport.model_validate_json((dist / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def delivered(dist: Path, artifact: ArtifactRecord) -> Path:
    """A package as the report has it.

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
    """Write it beside and rename it into place, unless it is there already; its path."""
    path = dist / NAME
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
    """The report after a run.

    Args:
        spec: what was built.
        done: how it went.
        artifacts: by cell id.
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
    known = {outcome.node.stage: _facts(outcome) for outcome in outcomes}
    # Not that of its twin, which the cell needs, too.
    smoke = next((_facts(o) for o in outcomes if (o.node.stage, o.node.label) == ("smoke", cell.group)), {})
    tried = str(smoke.get("tried", ""))
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
        audit=_read(AuditRecord, known.get("audit", {})),
        native=_read(WayRecord, smoke.get("native", {})),
        emulated=_read(WayRecord, smoke.get("emulated", {})),
        artifacts=artifacts,
        manifest=dict(known.get("package", {}).get("manifest", {})),
    )


def _says_the_same(old: CellRecord, fresh: CellRecord) -> bool:
    return (
        all(stage.status == "cached" for stage in fresh.stages)
        and [(s.stage, s.label, s.key) for s in old.stages] == [(s.stage, s.label, s.key) for s in fresh.stages]
        and old.artifacts == fresh.artifacts
    )


_T = TypeVar("_T", bound=Strict)


def _read(kind: type[_T], facts: Mapping[str, Any]) -> _T | None:
    """Facts as a record: they come from JSON, where there are lists and no tuples."""
    return kind.model_validate(dict(facts), strict=False) if facts else None


def _facts(outcome: NodeOutcome) -> Mapping[str, Any]:
    if outcome.result is not None:
        return outcome.result.facts
    return outcome.error.failure.facts if isinstance(outcome.error, StageError) else {}


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
    )
