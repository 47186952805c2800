"""The records of a build report: cells, their stages, and what proves them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pikaforge.audit.audit_record import AuditRecord
from pikaforge.config.scalars import Strict
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.pipeline.smoke.record import WayRecord


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
    jobs: int = Field(
        default=0, description="How many processes it could start at once then; 0 where that is not known."
    )
    memory: int = Field(
        default=0,
        description="Bytes of memory that it used at most in any run so far; of a compilation for each process that it "
        "could start at once. 0 where that is not known.",
    )
    out_of_memory: bool = Field(
        default=False, description="Whether it was killed for lack of memory when it was last run."
    )
    error: tuple[str, ...] = Field(default=(), description="What was said when it failed.")
    blocked_by: str = Field(default="", description="The stage without whose result it was not run.")
    cache: str = Field(
        default="",
        description="Of a compilation: the compiler cache that it used, by the digest of the sources to which that "
        "belongs, or `none`.",
    )


class CellState(Strict):
    """The last word on one cell, without what proves it."""

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
    findings_left_out: int = Field(
        default=0, description="How many findings of the audit are not shown: `nox -s audit` of the package shows all."
    )
    artifacts: tuple[ArtifactRecord, ...] = Field(default=(), description="What was put under dist/.")


class CellRecord(CellState):
    """The last word on one cell."""

    audit: AuditRecord | None = Field(default=None, description="Null where it did not come so far.")
    native: WayRecord | None = Field(default=None, description="Null where it did not come so far.")
    emulated: WayRecord | None = Field(default=None, description="Null where it did not come so far.")
    manifest: dict[str, object] = Field(
        default_factory=dict, description="The package's manifest.json: source, patches, image, compiler."
    )

    @property
    def epoch(self) -> int:
        """Return the date of the source in seconds since 1970; 0 if no package says it."""
        date = self.manifest.get("source_date_epoch")
        return date if isinstance(date, int) else 0


class BuildReport(Strict):
    """A build report with all facts in each cell, as dist/report.json was until format 2."""

    format: Literal[1] = Field(default=1, description="Version of this layout.")
    product: str = Field(description="What is built.")
    version: str = Field(description="Its version.")
    cells: tuple[CellRecord, ...] = Field(description="Sorted by id.")
