"""The verdict on one file of an audit, in a few numbers and one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pikaforge.config.scalars import Strict

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts
    from pikaforge.audit.finding import LineRecord
    from pikaforge.audit.isa.decode import FileScan
    from pikaforge.audit.judge_instructions import Finding


class FileSummary(Strict):
    """The verdict on one file."""

    file: str = Field(description="Path in the tree.")
    verdict: Literal["passed", "refused", "not proven"] = Field(
        description="`not proven`: it is accepted, and something in it could not be shown."
    )
    decoded: int = Field(description="Executable bytes that were decoded.")
    data: dict[str, int] = Field(description="Executable bytes that are data, by the evidence for that.")
    unclassified: int = Field(description="Executable bytes that are neither.")
    dispatched: int = Field(description="Functions with code beyond the target that run only on CPUs that have it.")
    waived: int = Field(description="Functions with code beyond the target that a waiver covers.")
    unproven: int = Field(description="Functions and other places of which nothing could be shown.")

    def line(self) -> str:
        """Return it in one line, for people."""
        data = f" and {sum(self.data.values()):,} of data" if self.data else ""
        return (
            f"{self.file}: {self.verdict}; {self.decoded:,} bytes decoded{data}, {self.dispatched} functions "
            f"dispatched, {self.waived} waived, {self.unproven} unproven; {self.unclassified:,} bytes not judged"
        )


def summaries(
    files: Iterable[ElfFacts],
    scans: Iterable[FileScan],
    findings: Iterable[Finding],
    violations: Iterable[LineRecord],
    unproven: Iterable[LineRecord],
) -> tuple[FileSummary, ...]:
    """Return the summary of each file that was judged, in the order of the files."""
    read = {scan.file: scan for scan in scans}
    functions: dict[tuple[str, str], set[str]] = {}
    for finding in findings:
        functions.setdefault((finding.file, finding.level), set()).add(finding.function)
    open_ = Counter(line.where for line in unproven)
    refused = {line.where for line in violations}
    out = []
    for fact in files:
        scan = read.get(fact.name)
        held = {level: len(functions.get((fact.name, level), ())) for level in ("dispatched", "waived")}
        doubts = sum(len(functions.get((fact.name, level), ())) for level in ("warn", "unproven", "suspect"))
        verdict: Literal["passed", "refused", "not proven"] = "not proven" if open_[fact.name] else "passed"
        out.append(
            FileSummary(
                file=fact.name,
                verdict="refused" if fact.name in refused else verdict,
                decoded=scan.decoded if scan is not None else 0,
                data=dict(scan.data) if scan is not None else {},
                unclassified=scan.unclassified if scan is not None else 0,
                dispatched=held["dispatched"],
                waived=held["waived"],
                unproven=max(doubts, open_[fact.name]),
            )
        )
    return tuple(out)
