"""Judge the features that code needs against those that the target has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from pikaforge.audit.allowed_features import Allowed, free
from pikaforge.audit.distribution import PackagedRecord
from pikaforge.audit.finding import LineRecord
from pikaforge.config.scalars import Strict
from pikaforge.cpu import features
from pikaforge.cpu.features import INVALID, SHORT_OPERAND

if TYPE_CHECKING:  # records are read where nothing is decoded
    from pikaforge.audit.isa.decode import FileScan, Hit
    from pikaforge.audit.isa.tzcnt import TzcntUse
    from pikaforge.audit.waivers import Ledger

SHOWN = 3
"""The most functions that a line names."""
WAIVERS = "waivers"
"""The place of violations that are about waivers themselves."""
HexBytes = Annotated[
    bytes,
    PlainSerializer(bytes.hex),
    BeforeValidator(lambda value: bytes.fromhex(value) if isinstance(value, str) else value),
]
"""Bytes that are hex digits in JSON."""
Level = Literal["fail", "warn", "dispatched", "waived", "guarded", "suspect", "harmless", "unproven"]
TZCNT = "tzcnt"
WITH_TZCNT = frozenset({"bmi1", "bmi2"})
"""Features that come with TZCNT: code that runs only on CPUs with one of them may use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Features that one function needs and the target lacks, with the verdict."""

    level: Level
    file: str
    function: str
    features: tuple[tuple[str, int], ...]
    """Ids of the features, each with the number of instructions that need it."""
    address: int
    code: HexBytes
    text: str
    """The first instruction, in AT&T syntax."""
    reason: str
    hints: tuple[str, ...] = ()
    doubt: str = ""
    """Why it was not accepted: there is no proof that the code runs only on CPUs with the features, a waiver that names
    it does not cover it, or what its TZCNT are used for."""
    pieces: tuple[tuple[int, int], ...] = ()
    """The code of the function that has such instructions: addresses of the first byte and of the one behind it."""

    def line(self) -> str:
        """Return the finding without the verdict."""
        counts = ", ".join(f"{name} x{count}" for name, count in self.features)
        signs = f" (hint, no proof: {'; '.join(self.hints)})" if self.hints and self.level == "fail" else ""
        return f"{self.function}: {counts}; first at {self.address:#x}: {self.code.hex(' ')}  {self.text}{signs}"


class DispatchedRecord(Strict):
    """A library of the distribution that was accepted with code beyond the target."""

    # Also a file that others built and that is audited alone: then package, version and digest are empty.

    file: str = Field(description="In the tree.")
    package: str = Field(description="The package that it is from.")
    version: str = Field(description="The package's.")
    sha256: str = Field(description="Of the file in the package.")
    functions: tuple[str, ...] = Field(description="The functions with such code.")
    features: tuple[str, ...] = Field(description="The features beyond the target that they need.")
    evidence: tuple[str, ...] = Field(description="What makes sure that they run only on CPUs that have them.")

    def line(self) -> str:
        """Return it in one line, for people."""
        some = ", ".join(self.functions[:SHOWN])
        more = f" and {len(self.functions) - SHOWN} more" if len(self.functions) > SHOWN else ""
        count = f"dispatched: {len(self.functions)} functions"
        origin = f", {self.package} {self.version} as its distribution has it" if self.package else f": {count}"
        ways = self.evidence if self.package else self.evidence[:SHOWN]
        rest = f" and {len(self.evidence) - len(ways)} more kinds of evidence" if len(self.evidence) > len(ways) else ""
        return f"{self.file}{origin}: {', '.join(self.features)} in {some}{more}; {'; '.join(ways)}{rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsaVerdict:
    """The verdict on the instructions of a tree."""

    target: str
    source: str
    """The origin of the allow-list."""
    findings: tuple[Finding, ...]
    used: tuple[str, ...]
    """Ids of the features beyond the baseline that the code uses without asking the CPU first."""
    violations: tuple[LineRecord, ...]
    warnings: tuple[LineRecord, ...]
    notes: tuple[str, ...]
    size: int
    """Bytes of code decoded."""
    dispatched: tuple[DispatchedRecord, ...] = ()
    unproven: tuple[LineRecord, ...] = ()
    """What is accepted, though it could not be shown that every CPU of the target runs it; a strict audit refuses
    it."""
    drafts: tuple[str, ...] = ()
    """The waivers that were used, and that nobody has examined."""

    @property
    def kernel_flags(self) -> tuple[str, ...]:
        """The flags that /proc/cpuinfo must show on a machine that runs the code; for the CPU gate."""
        return features.kernel_flags(self.used)

    @property
    def ungated(self) -> dict[str, str]:
        """The features that the CPU gate cannot tell, by id, with the reason, of code that may run without asking the
        CPU: those that were waived or refused."""
        open_ = (f for f in self.findings if f.level not in ("guarded", "dispatched", "harmless"))
        return features.ungated({*self.used, *(name for f in open_ for name, _ in f.features)})


@dataclass(slots=True)
class _FindingGroup:
    level: Level
    reason: str
    first: Hit
    counts: dict[str, int] = field(default_factory=dict)
    hints: dict[str, None] = field(default_factory=dict)
    doubts: dict[str, None] = field(default_factory=dict)
    pieces: dict[tuple[int, int], None] = field(default_factory=dict)

    def add(self, hit: Hit, doubt: str) -> None:
        """Add a hit, with the doubt if it was not accepted."""
        self.counts[hit.feature] = self.counts.get(hit.feature, 0) + hit.count
        self.hints.update(dict.fromkeys((*hit.hints, *([hit.evidence] if hit.evidence else []))))
        self.doubts.update(dict.fromkeys([doubt] if doubt else []))
        self.pieces.update(dict.fromkeys(hit.pieces))
        if hit.address < self.first.address:
            self.first = hit


@dataclass(slots=True)
class _Rulebook:
    """What the verdict on a finding depends on."""

    allowed: Allowed
    ledger: Ledger
    own: frozenset[str]
    packaged: Mapping[str, PackagedRecord]
    foreign: bool
    uses: Mapping[tuple[str, str], TzcntUse]
    proofs: dict[tuple[str, str], str] = field(default_factory=dict)
    """The evidence for functions that run only on CPUs with a feature of `WITH_TZCNT`, by file and function."""

    def dispatches(self, file: str) -> bool:
        """Return whether evidence counts in a file."""
        return file in self.packaged or (self.foreign and file not in self.own)

    def accepts(self, hit: Hit) -> bool:
        """Return whether there is evidence for a finding, in a file where that counts."""
        return bool(hit.evidence) and self.dispatches(hit.file)


def judge(
    scans: Sequence[FileScan],
    allowed: Allowed,
    ledger: Ledger,
    *,
    own: frozenset[str],
    demand_waivers: bool = True,
    distribution: Mapping[str, PackagedRecord] | None = None,
    uses: Mapping[tuple[str, str], TzcntUse] | None = None,
    foreign: bool = False,
    levels: Mapping[str, str] | None = None,
) -> IsaVerdict:
    """Judge the code of a tree.

    Args:
        scans: made with `allowed.sure`; those of the distribution's files with the features of its baseline.
        allowed: the features that the target's code may use.
        ledger: the waivers; it records which are used.
        own: files that were compiled for the target; in others TZCNT may stand for BSF.
        demand_waivers: whether an unused waiver is a violation.
        distribution: the distribution's own files: with evidence, they may need features that the target lacks.
        uses: what functions use TZCNT for, by file and function; of others that is open.
        foreign: whether others built the files: then evidence counts in all of them but `own`.
        levels: libraries that the loader takes only on CPUs of a level; they were scanned with its features.
    """
    work = _Rulebook(allowed, ledger, own, distribution or {}, foreign, uses or {})
    work.proofs |= _proofs(scans, work)
    apart = levels or {}
    used = {f for scan in scans if scan.file not in apart for f in scan.features} - free()
    groups: dict[tuple[str, str, Level, str], _FindingGroup] = {}
    for scan in scans:
        for hit in scan.hits:
            if hit.feature in allowed.sure:
                if not work.accepts(hit) and hit.file not in apart:
                    used.add(hit.feature)
                continue
            level, reason, doubt = _level(hit, work)
            if level == "warn" and hit.feature in allowed.doubtful:
                used.add(hit.feature)
            group = groups.setdefault((hit.file, hit.function, level, reason), _FindingGroup(level, reason, hit))
            group.add(hit, doubt)
    findings = tuple(_finding(group) for group in groups.values())
    books = ledger.close(demand_use=demand_waivers)
    violations = [_violation(f, allowed.target) for f in findings if f.level == "fail"]
    violations += [LineRecord(where=WAIVERS, what=text) for text in books.problems]
    warnings = _warnings(findings, allowed)
    return IsaVerdict(
        target=allowed.target,
        source=allowed.source,
        findings=findings,
        used=tuple(sorted(used)),
        violations=tuple(violations),
        warnings=tuple(warnings),
        notes=(*_notes(findings, scans), *books.notes),
        size=sum(scan.size for scan in scans),
        dispatched=_dispatched(findings, work.packaged),
        unproven=(*warnings, *_suspects(findings)),
        drafts=tuple(w.title() for w in books.used if w.draft),
    )


def _proofs(scans: Iterable[FileScan], work: _Rulebook) -> dict[tuple[str, str], str]:
    return {
        (hit.file, hit.function): hit.evidence
        for scan in scans
        for hit in scan.hits
        if hit.feature in WITH_TZCNT and work.accepts(hit)
    }


def _dispatched(findings: Iterable[Finding], packaged: Mapping[str, PackagedRecord]) -> tuple[DispatchedRecord, ...]:
    """Return the files whose code beyond the target was accepted with evidence."""
    files: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.level == "dispatched":
            files.setdefault(finding.file, []).append(finding)
    return tuple(
        DispatchedRecord(
            file=file,
            package=packaged[file].package if file in packaged else "",
            version=packaged[file].version if file in packaged else "",
            sha256=packaged[file].sha256 if file in packaged else "",
            functions=tuple(dict.fromkeys(f.function for f in members)),
            features=tuple(sorted({name for f in members for name, _ in f.features})),
            evidence=tuple(dict.fromkeys(f.reason for f in members)),
        )
        for file, members in files.items()
    )


def _level(hit: Hit, work: _Rulebook) -> tuple[Level, str, str]:
    """Return the level of a finding, the reason, and the doubt if it is not accepted."""
    if (known := _known(hit, work)) is not None:
        return (*known, "")
    use = None
    if hit.feature == TZCNT and hit.file not in work.own:
        from pikaforge.audit.isa import tzcnt  # noqa: PLC0415

        use = work.uses.get((hit.file, hit.function), tzcnt.OPEN)
        if use.answer == "harmless":
            return "harmless", use.why, ""
    waiver = work.ledger.covering(hit.file, hit.function, hit.feature)
    if waiver is not None:
        return "waived", f"{waiver.reason} (until {waiver.expires})", ""
    objection = work.ledger.objection(hit.file, hit.function, hit.feature)
    # For TZCNT no evidence of a dispatch is looked for. A distribution's own library may dispatch what calls it.
    if use is not None and (use.answer == "open" or hit.file in work.packaged):
        return "unproven", use.why, objection
    doubts = [use.why if use is not None else "", hit.doubt if work.dispatches(hit.file) else "", objection]
    return "fail", "", "; ".join(filter(None, doubts))


def _known(hit: Hit, work: _Rulebook) -> tuple[Level, str] | None:
    """Return level and reason of a finding that no waiver is needed for; None if it is no such finding."""
    if work.accepts(hit):
        return "dispatched", hit.evidence
    if hit.feature == TZCNT and (proof := work.proofs.get((hit.file, hit.function))):
        return "dispatched", proof
    if hit.suspect:
        return "suspect", "most likely data: it follows bytes that are no instruction, outside of any function"
    feature = features.table().get(hit.feature)
    if feature is not None and feature.policy == "guarded" and (why := features.guarded(hit.function, hit.feature)):
        return "guarded", why
    if hit.feature in work.allowed.doubtful:
        return "warn", work.allowed.objections.get(hit.feature, "not all of these CPUs have it")
    return None


def _finding(group: _FindingGroup) -> Finding:
    return Finding(
        level=group.level,
        file=group.first.file,
        function=group.first.function,
        features=tuple(sorted(group.counts.items())),
        address=group.first.address,
        code=group.first.code,
        text=group.first.text,
        reason=group.reason,
        hints=tuple(group.hints),
        doubt="; ".join(group.doubts),
        pieces=tuple(group.pieces),
    )


def _violation(finding: Finding, target: str) -> LineRecord:
    names = [name for name, _ in finding.features]
    if names == [INVALID]:
        return LineRecord(
            where=finding.file,
            what=f"{finding.line()}: bytes within a function that are no known instruction",
            do="data without an object symbol, or newer than the decoder? once that is clear, waive `invalid` by name",
        )
    blind = features.ungated(names)
    lacking = [name for name in names if name not in blind]
    parts = [f"{target} lacks {', '.join(lacking)}"] if lacking else []
    parts += [f"no gate can tell whether a host runs {name}: {why}" for name, why in blind.items()]
    for name in names:
        entry = features.table().get(name)
        if entry is not None and entry.policy == "dangerous":
            parts.append(f"{target} runs {name} as {'bsr' if name == 'lzcnt' else 'bsf'}: no trap, a wrong result")
        elif name == SHORT_OPERAND:
            parts.append("CPUs of AMD branch elsewhere than those of Intel")
        elif name == "xgetbv":
            parts.append(f"{target} may lack it")
    if finding.doubt:
        parts.append(finding.doubt)
    return LineRecord(
        where=finding.file,
        what=f"{finding.line()}: {'; '.join(parts)}",
        do="compile it for the target; if it runs only after a CPU check, waive it by file, function and feature",
    )


def _warnings(findings: Iterable[Finding], allowed: Allowed) -> list[LineRecord]:
    """Return one warning for each file and reason: a prebuilt library may have hundreds of TZCNT."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.level in ("warn", "unproven"):
            groups.setdefault((finding.file, finding.reason), []).append(finding)
    lines = []
    for (file, reason), members in groups.items():
        more = f"; {len(members) - 1} more functions" if len(members) > 1 else ""
        lines.append(LineRecord(where=file, what=f"{members[0].line()}{more}: {reason}"))
    if allowed.warning:
        lines.append(LineRecord(where="audit", what=f"{allowed.warning}: judged by {allowed.source}"))
    return lines


def _suspects(findings: Iterable[Finding]) -> list[LineRecord]:
    """Return a line for each file with suspect data."""
    files: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.level == "suspect":
            files.setdefault(finding.file, []).append(finding)
    return [
        LineRecord(where=file, what=f"{members[0].line()}; {len(members) - 1} more places: {members[0].reason}")
        for file, members in files.items()
    ]


def _notes(findings: Iterable[Finding], scans: Sequence[FileScan]) -> list[str]:
    """Return one line for each file and matter that needs no action, or that limits the audit."""
    notes = []
    kinds: dict[tuple[str, Level], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.file, finding.level), []).append(finding)
    for (file, level), members in kinds.items():
        names = ", ".join(sorted({name for f in members for name, _ in f.features}))
        if level == "suspect":
            notes.append(f"{file}: suspect data in {len(members)} gaps would be {names}; first: {members[0].line()}")
        elif level in ("waived", "guarded", "harmless"):
            reasons = "; ".join(dict.fromkeys(f.reason for f in members))
            notes.append(f"{file}: {len(members)} functions {level} ({names}): {reasons}")
    for scan in scans:
        if scan.problem:
            notes.append(f"{scan.file}: {scan.problem}; code is decoded as gaps there")
        if scan.pieces and not scan.named:
            notes.append(f"{scan.file}: no symbols; functions are named by their addresses")
    return notes
