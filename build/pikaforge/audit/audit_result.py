"""The rules of an audit, its result, and the result's lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.audit import judge_flags, judge_linkage
from pikaforge.audit.audit_record import AuditRecord, ElfRecord
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.file_summary import FileSummary, summaries
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.identities import NamedCode, WaivedRecord
from pikaforge.audit.judge_allocator import AllocatorRules, AllocatorVerdict
from pikaforge.audit.judge_instructions import WAIVERS, IsaVerdict
from pikaforge.audit.judge_linkage import LinkageRules, LinkageVerdict, library_versions
from pikaforge.config.scalars import plain
from pikaforge.config.waiver import NAMELESS, Waiver
from pikaforge.cpu import features
from pikaforge.host import hashing
from pikaforge.host.memo import library_version

if TYPE_CHECKING:
    from pikaforge.audit.elf.facts import ElfFacts
    from pikaforge.audit.isa.decode import FileScan

_STRICT = "look at it; without --strict it is accepted, and what is not proven may be waived"
_MANGLED = re.compile(r"\b_Z\w+")
REVISION = 6
"""Part of the key of a stored verdict: raise it when the audit judges differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules for a tree, beside the features that its target has."""

    linkage: LinkageRules = field(default_factory=lambda: LinkageRules(closed=False))
    forbidden: tuple[str, ...] = ()
    """Folders of the build: no file may hold a path below them."""
    march: str = ""
    """The -march of units that were compiled here; empty: anything but native."""
    waivers: tuple[Waiver, ...] = ()
    demand_waivers: bool = False
    """Whether an unused waiver is a violation."""
    memory: AllocatorRules | None = None
    """The allocator that the programs must use; None: any."""
    distribution: Distribution | None = None
    """What is known of the distribution's own libraries in the tree; None: nothing."""
    image: str = ""
    """The image that the tree is of, whose waivers apply; empty if it is not known."""
    allocator: str = ""
    """The allocator that the tree is of, whose waivers apply; empty if it is not known."""
    top: str | None = None
    """The folder in the tree that paths in waivers are relative to; None if it is not known."""
    strict: bool = False
    """Whether what is not proven is a violation."""


def material(rules: Rules, *, target: str, flags_used: Sequence[str], today: date) -> dict[str, object]:
    """Return the key material beside the compile stage's result.

    It is the rules, the tables, the decoder, and for each waiver whether it has expired. So a stored verdict becomes
    invalid on the day after a waiver's last day, and on no other day.
    """
    of_rules = {**_fields(rules), "waivers": (), "memory": None, "distribution": None}
    return {
        "revision": REVISION,
        "decoder": library_version("iced-x86"),
        "tables": hashing.files_digest(features.FOLDER, features.TABLES),
        "baseline": rules.distribution.baseline if rules.distribution is not None else "",
        "target": target,
        "flags": list(flags_used),
        "memory": [rules.memory.kind, list(rules.memory.programs), rules.memory.unwinder] if rules.memory else [],
        "rules": {**of_rules, "linkage": {**_fields(rules.linkage), "maxima": dict(rules.linkage.maxima)}},
        "waivers": [[plain(w), w.expired(today)] for w in rules.waivers],
    }


def _fields(rules: Rules | LinkageRules) -> dict[str, object]:
    """Return the fields of rules by name. `asdict` would copy what is in them, for each of hundreds of trees."""
    return {each.name: getattr(rules, each.name) for each in fields(rules)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOrigin:
    """What is known of where a tree comes from."""

    image: str = ""
    allocator: str = ""
    top: str | None = None
    """As in `Rules`. The next two have paths below it."""
    distribution: Distribution | None = None
    named: tuple[NamedCode, ...] = ()
    """Functions whose symbols were stripped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """The verdicts on one tree."""

    title: str
    """The label or path of the tree."""
    target: str
    files: tuple[ElfFacts, ...]
    """The x86-64 programs and libraries that were judged."""
    isa: IsaVerdict
    linkage: LinkageVerdict
    flags: judge_flags.FlagVerdict
    memory: AllocatorVerdict = field(default_factory=AllocatorVerdict)
    unreadable: tuple[LineRecord, ...] = ()
    notes: tuple[str, ...] = ()
    """What limits the audit."""
    packaged: Mapping[str, PackagedRecord] = field(default_factory=dict)
    """The files that were found to be the distribution's own."""
    scans: tuple[FileScan, ...] = ()
    """What was read of each file's code."""
    not_judged: tuple[LineRecord, ...] = ()
    """What was not judged, and why."""
    strict: bool = False
    """Whether what is not proven or not judged is a violation."""
    places: Mapping[str, Path] = field(default_factory=dict)
    """The files on disk; those of packages are gone when the audit's scratch folder is."""

    @property
    def unproven(self) -> tuple[LineRecord, ...]:
        """What is accepted, though it could not be shown that every CPU of the target runs it."""
        return (*self.isa.unproven, *_unclear(self.scans, self.files, self.linkage), *_drafts(self.isa))

    @property
    def summaries(self) -> tuple[FileSummary, ...]:
        """The verdict on each file, in a few numbers."""
        return summaries(self.files, self.scans, self.isa.findings, self.violations, self.unproven)

    @property
    def violations(self) -> tuple[LineRecord, ...]:
        """All violations of the tree."""
        return (
            *self.unreadable,
            *self.memory.violations,
            *self.isa.violations,
            *self.linkage.violations,
            *self.flags.violations,
            *(self._doubts() if self.strict else ()),
        )

    def _doubts(self) -> Iterator[LineRecord]:
        for line in self.unproven:
            yield LineRecord(where=line.where, what=f"not proven: {line.what}", do=_STRICT)
        for line in self.not_judged:
            yield LineRecord(where=line.where, what=f"not judged: {line.what}", do=_STRICT)

    @property
    def passed(self) -> bool:
        """Whether there is no violation."""
        return not self.violations

    @property
    def kernel_flags(self) -> tuple[str, ...]:
        """The flags that /proc/cpuinfo must show on a host: for the manifest and the CPU gate."""
        return self.isa.kernel_flags

    def lines(self, *, limit: int = 40) -> list[str]:
        """Return the verdict for people: at most `limit` lines of each kind, and the number of the others."""
        mebibytes = self.isa.size / (1 << 20)
        word = "passed" if self.passed else f"REFUSED, {_count(len(self.violations), 'violation')}"
        judged = f"{_count(len(self.files), 'ELF file')}, {mebibytes:.1f} MiB of code; allow-list: {self.isa.source}"
        out = [f"{self.title}: {word} for {self.target} ({judged})"]
        out += _cut("violation", [f"{v.where}: {v.what}" for v in self.violations], limit)
        out += [f"  to do: {text}" for text in dict.fromkeys(v.do for v in self.violations if v.do)]
        out += _cut("warning", [str(w) for w in self.isa.warnings], limit)
        out += _cut("dispatched", [d.line() for d in self.isa.dispatched], limit)
        out += _cut("note", [*self.notes, *self.isa.notes, *self.linkage.notes, *self.flags.notes], limit)
        out += _cut("hardening", [_hardening(h) for h in self.linkage.hardening], limit)
        if self.memory.library:
            out.append(f"  allocator: {self.memory.library}, unwinder by its needs: {self.memory.unwinder}")
        out.append(f"  needs of the CPU: {' '.join(self.kernel_flags) or 'nothing beyond x86-64'}")
        out += [f"  beyond the CPU gate: {name}: {why}" for name, why in self.isa.ungated.items()]
        highest = " ".join(f"{n}_{v}" for n, v in self.linkage.highest.items())
        if highest:
            out.append(f"  needs of the system: {highest}; {' '.join(self.linkage.system)}")
        out += [f"  file: {line.where}: refused; not judged: {line.what}" for line in self.unreadable]
        out += [f"  file: {line.where}: not judged: {line.what}" for line in self.not_judged]
        return [*out, *(f"  file: {summary.line()}" for summary in self.summaries)]

    def record(self) -> AuditRecord:
        """Return the verdict as data; without the facts of each file's regions."""
        return AuditRecord(
            title=self.title,
            target=self.target,
            passed=self.passed,
            violations=self.violations,
            warnings=self.isa.warnings,
            notes=(*self.notes, *self.isa.notes, *self.linkage.notes, *self.flags.notes),
            allow_list=self.isa.source,
            code_bytes=self.isa.size,
            features_used=self.isa.used,
            kernel_flags=self.kernel_flags,
            dispatched=self.isa.dispatched,
            packaged=dict(self.packaged),
            findings=self.isa.findings,
            symbol_versions=dict(self.linkage.highest),
            system_libraries=self.linkage.system,
            library_versions={
                soname: tuple(versions)
                for soname, versions in library_versions(self.files, self.linkage.system).items()
            },
            allocator={"library": self.memory.library, "unwinder": self.memory.unwinder},
            hardening=self.linkage.hardening,
            units=self.flags.units,
            dropped_flags=self.flags.dropped,
            files=tuple(_elf_record(fact) for fact in self.files),
            summaries=self.summaries,
            unproven=self.unproven,
            not_judged=self.not_judged,
            ungated=self.isa.ungated,
            waived=self._waived() or None,
        )

    def _waived(self) -> tuple[WaivedRecord, ...]:
        build_ids = {fact.name: fact.build_id for fact in self.files}
        return tuple(
            WaivedRecord(
                file=finding.file,
                build_id=build_ids.get(finding.file, ""),
                function=finding.function,
                features=tuple(name for name, _ in finding.features),
                code=finding.pieces,
            )
            for finding in self.isa.findings
            if finding.level == "waived" and not NAMELESS.fullmatch(finding.function)
        )


def _unclear(scans: Iterable[FileScan], files: Iterable[ElfFacts], linkage: LinkageVerdict) -> Iterator[LineRecord]:
    """Yield what could not be read as code or data, and code that is not fixed."""
    for scan in scans:
        if scan.unclassified:
            yield LineRecord(where=scan.file, what=f"{scan.unclassified} executable bytes are neither code nor data")
    refused = {violation.where for violation in linkage.violations}
    for fact in files:
        if fact.writable_code and fact.name not in refused:
            what = f"{', '.join(fact.writable_code)} is writable and executable: other code may run than the file has"
            yield LineRecord(where=fact.name, what=what)
        if fact.text_relocations:
            what = "text relocations change its code when it starts: other code may run than the file has"
            yield LineRecord(where=fact.name, what=what)


def _drafts(verdict: IsaVerdict) -> Iterator[LineRecord]:
    for title in verdict.drafts:
        yield LineRecord(where=WAIVERS, what=f"the {title} is a draft that nobody has examined")


def today() -> date:
    """Return the day that decides which waivers are valid: that of UTC, so that it is the same everywhere."""
    return datetime.now(timezone.utc).date()


def demangled(lines: Sequence[str]) -> list[str]:
    """Return lines with demangled C++ names, each followed by its symbol, which waivers need.

    Without c++filt (binutils) the lines stay as they are.
    """
    from pikaforge.host import process  # noqa: PLC0415

    names = sorted({name for line in lines for name in _MANGLED.findall(line)})
    if not names or process.find("c++filt") is None:
        return list(lines)
    done = process.run(["c++filt"], stdin="\n".join(names).encode(), timeout=60)
    plain = done.text().splitlines()
    if done.status != 0 or len(plain) != len(names):
        return list(lines)
    table = {name: f"{text} [{name}]" if text != name else name for name, text in zip(names, plain, strict=True)}
    return [_MANGLED.sub(lambda match: table[match.group()], line) for line in lines]


def _hardening(found: judge_linkage.Hardening) -> str:
    canary = "stack protector" if found.canary else "no stack protector"
    return f"{found.file}: {found.pie}, RELRO {found.relro}, {canary}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _cut(kind: str, texts: Sequence[str], limit: int) -> list[str]:
    out = [f"  {kind}: {text}" for text in texts[:limit]]
    if len(texts) > limit:
        out.append(f"  {kind}: … and {len(texts) - limit} more")
    return out


def _elf_record(fact: ElfFacts) -> ElfRecord:
    return ElfRecord(
        name=fact.name,
        kind=fact.kind,
        pie=fact.pie,
        soname=fact.soname,
        needed=fact.needed,
        run_path=fact.run_path,
        build_id=fact.build_id,
        bytes=fact.size,
        symbols=fact.has_symbols,
    )
