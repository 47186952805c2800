"""The verdict of the audit as data: for the store, the build report and `audit --json`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

from pikaforge.audit.distribution import PackagedRecord
from pikaforge.audit.file_summary import FileSummary
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.identities import WaivedRecord
from pikaforge.audit.judge_flags import UnitGroup
from pikaforge.audit.judge_instructions import DispatchedRecord, Finding
from pikaforge.audit.judge_linkage import Hardening
from pikaforge.config.scalars import Strict

OPEN = WithJsonSchema({"additionalProperties": True, "type": "object"})
"""What the schema says of records whose fields may change: that they are objects."""


class ElfRecord(Strict):
    """An ELF file that was judged."""

    name: str
    """Path in the tree."""
    kind: str
    pie: bool
    soname: str
    needed: tuple[str, ...]
    run_path: tuple[str, ...]
    build_id: str
    bytes: int
    symbols: bool
    """Whether it has a symbol table."""


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
    findings: tuple[Annotated[Finding, OPEN], ...] = Field(
        description="Functions with instructions beyond the allow-list."
    )
    symbol_versions: dict[str, str] = Field(description="By namespace the highest that a host must have.")
    system_libraries: tuple[str, ...] = Field(description="Sonames that are taken from the host.")
    library_versions: dict[str, tuple[str, ...]] = Field(
        description="By library of the host, all symbol versions that it must have."
    )
    allocator: dict[str, str] = Field(
        description="The allocator's library in the tree, and whether it needs libunwind."
    )
    hardening: tuple[Annotated[Hardening, OPEN], ...] = Field(
        description="PIE, RELRO and stack protector of each file."
    )
    units: tuple[Annotated[UnitGroup, OPEN], ...] = Field(
        description="Compile units by file and the -march they were made with."
    )
    dropped_flags: tuple[tuple[int, str], ...] = Field(description="How often the compiler wrapper dropped what.")
    files: tuple[Annotated[ElfRecord, OPEN], ...] = Field(description="The ELF files.")
    summaries: tuple[Annotated[FileSummary, OPEN], ...] = Field(
        default=(), description="The verdict on each file, in a few numbers."
    )
    unproven: tuple[LineRecord, ...] = Field(
        default=(), description="What is accepted, though it is not shown that every CPU of the target runs it."
    )
    not_judged: tuple[LineRecord, ...] = Field(default=(), description="What was not judged, and why.")
    ungated: dict[str, str] = Field(
        default_factory=dict, description="The features in use that no CPU gate can see, each with the reason."
    )
    waived: tuple[Annotated[WaivedRecord, OPEN], ...] | None = Field(
        default=None, description="The functions that waivers cover, by their symbols."
    )
