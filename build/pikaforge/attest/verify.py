"""Verification of artifacts: digests, signatures, provenance, SBOM, manifest, contents and audit.

A verdict is never an exception: whatever is wrong with an artifact or with a file beside it is a check that says no, so
that the user sees all of it at once. What could not be checked is listed, too, and never counts as a yes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pikaforge.attest.check_result import CheckResult
from pikaforge.attest.claims import (
    Bill,
    ClaimError,
    judge_bill,
    judge_claims,
    judge_statement,
    parse,
    parse_statement,
    read_bytes,
)
from pikaforge.attest.contents import PackageContents, differences, read_package
from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX, SUMS
from pikaforge.attest.provenance import Statement
from pikaforge.attest.verify_index import examine, present
from pikaforge.errors import ForgeError, FullDiskError
from pikaforge.formats import format as formats
from pikaforge.formats.embedded_signature import EmbeddedSignature, SignatureVerdict
from pikaforge.formats.manifest import MANIFEST, Manifest
from pikaforge.host.store import sha256
from pikaforge.host.text import one_line

COMPANIONS = (SBOM_SUFFIX, PROVENANCE_SUFFIX)
"""Ends of the names of files beside an artifact that SHA256SUMS lists. Signatures need no digest."""
DIGEST = re.compile(r"([0-9a-f]{64}) [ *](.+)")
BAD_LINES = 100
"""Wrong lines after which the rest of a SHA256SUMS is not read."""
SHOWN = 5
"""Reasons of one check that are shown; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The checks of one path or URL."""

    title: str
    checks: tuple[CheckResult, ...]

    @property
    def refusals(self) -> tuple[CheckResult, ...]:
        """The checks that say no."""
        return tuple(check for check in self.checks if check.verdict == "no")

    @property
    def passed(self) -> bool:
        """Whether something was checked, and nothing says no."""
        return not self.refusals and any(check.verdict == "yes" for check in self.checks)

    def lines(self) -> list[str]:
        """Return lines for people: every check, then the verdict."""
        said_no, left = self.refusals, sum(check.verdict == "not checked" for check in self.checks)
        done = len(self.checks) - left
        more = f", {left} not checked" if left else ""
        if self.passed:
            word = f"verified: all {done} checks say yes{more}"
        else:
            files = ", ".join(dict.fromkeys(check.file for check in said_no)) or "nothing could be checked"
            word = f"REFUSED: {len(said_no)} of {done} checks say no{more}: {files}"
        return [*(str(check) for check in self.checks), one_line(f"{self.title}: {word}")]

    def facts(self) -> dict[str, object]:
        """Return the result for scripts, as JSON values."""
        return {"title": self.title, "passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def read_sums(text: str) -> tuple[dict[str, str], list[str]]:
    """Return digests by name from a text as sha256sum writes it, and what is wrong with other lines."""
    sums: dict[str, str] = {}
    bad: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(bad) >= BAD_LINES:
            bad.append("there is more that is no digest and name")
            break
        found = DIGEST.fullmatch(line)
        if found is None:
            bad.append(f"line {number} is no digest and name")
        elif "/" in found[2] or found[2].startswith("."):
            bad.append(f"line {number} names {found[2]}, which is no file of this folder")
        elif found[2] in sums:
            bad.append(f"line {number} names {found[2]} again")
        else:
            sums[found[2]] = found[1]
    return sums, bad


def artifact_of(name: str) -> str:
    """Return the name of the artifact that a file describes or signs; the name itself if it is an artifact."""
    for suffix in (SIGNATURE_SUFFIX, *COMPANIONS):
        if name.endswith(suffix) and name != suffix:
            return artifact_of(name.removesuffix(suffix))
    return name


class Signatures(Protocol):
    """Judges signatures by trusted keys (`signatures.Verifier`)."""

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        """Judge a detached signature."""

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        """Judge the signature inside a file; raise AuditError if the file is damaged."""

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        """Return what the format's own program says; None where it is missing."""


Audit = Callable[[Path, Manifest, PackageContents], Sequence[str]]
"""Audits an artifact for the target of its manifest; returns what says no. Paths are relative to the manifest's folder.

Raises ForgeError if the artifact cannot be read.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyContext:
    """What a verification needs."""

    audit: Audit
    signatures: Signatures | None
    """None if there is no key, which only `unsigned` allows."""
    unsigned: bool = False
    """Accept what is not signed. A signature that is there must be good even then, if there is a key."""


def verify_folder(folder: Path, context: VerifyContext, *, title: str = "") -> VerifyResult:
    """Verify all files of a folder but hidden ones."""
    examiner = _Examiner(folder, context)
    return VerifyResult(title=title or str(folder), checks=tuple(examiner.whole()))


def verify_file(path: Path, context: VerifyContext, *, title: str = "") -> VerifyResult:
    """Verify one artifact by the files beside it. The name of such a file stands for the artifact."""
    examiner = _Examiner(path.parent, context)
    return VerifyResult(title=title or str(path), checks=tuple(examiner.alone(artifact_of(path.name))))


@dataclass(slots=True)
class _Examiner:
    """Checks the files of one folder."""

    folder: Path
    context: VerifyContext
    _digests: dict[str, str] = field(default_factory=dict)
    _audited: dict[object, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """The first artifact that was audited with some programs and claims, and what says no of it."""

    def whole(self) -> Iterator[CheckResult]:
        """Check all files of the folder."""
        indexes = present(self.folder, {kind.name: kind.index.layout for kind in formats.every() if kind.index})
        of_indexes = {name for index in indexes for name in index.names}
        paths = sorted(p for p in self.folder.iterdir() if not p.name.startswith(".") and p.name not in of_indexes)
        files = [path.name for path in paths if path.is_file() and not path.is_symlink()]
        sums = yield from self._sums()
        for index in indexes:
            yield from examine(self.folder, index, self._signature)
        for path in paths:
            if path.name not in files and not path.is_symlink() and (path / SUMS).is_file():
                # Packages that have taken the place of others of the same name are in a folder of their own.
                inner = _Examiner(path, self.context)
                yield from (replace(check, file=f"{path.name}/{check.file}") for check in inner.whole())
            elif path.name not in files:
                kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no file"
                yield CheckResult(
                    file=path.name, what="belongs here", verdict="no", why=f"it is {kind}, which nothing proves"
                )
        listed = [name for name in files if not name.endswith(SIGNATURE_SUFFIX) and name != SUMS]
        if sums is not None:
            for name in sorted({*sums, *listed}):
                yield self._digest(name, sums)
        for name in files:
            about = artifact_of(name)
            if about not in (name, SUMS) and about not in files:
                yield CheckResult(file=name, what="belongs here", verdict="no", why=f"there is no {about}")
        artifacts = [name for name in listed if artifact_of(name) == name]
        if not artifacts:
            yield CheckResult(file=str(self.folder.name), what="has an artifact", verdict="no", why="there is none")
        for name in artifacts:
            yield from self._artifact(name)

    def alone(self, name: str) -> Iterator[CheckResult]:
        """Check one artifact and the files that describe it."""
        if (self.folder / SUMS).exists():
            sums = yield from self._sums()
            for part in (name, *(name + suffix for suffix in COMPANIONS)):
                if sums is not None and (part in sums or (self.folder / part).exists()):
                    yield self._digest(part, sums)
        else:
            yield CheckResult(file=SUMS, what="digests", verdict="not checked", why="there is none beside the file")
        yield from self._artifact(name)

    def _sums(self) -> Generator[CheckResult, None, dict[str, str] | None]:
        """Check the folder's SHA256SUMS. The generator's value is the digests by name, or None."""
        try:
            sums, bad = read_sums(read_bytes(self.folder / SUMS).decode("utf-8", "replace"))
        except ClaimError as error:
            yield CheckResult(file=SUMS, what="digests", verdict="no", why=str(error))
            return None
        if bad or not sums:
            yield self._said(SUMS, "digests", bad or ["it is empty"])
        yield self._signature(SUMS)
        return sums

    def _digest(self, name: str, sums: Mapping[str, str]) -> CheckResult:
        what = f"digest in {SUMS}"
        if name not in sums:
            return CheckResult(file=name, what=what, verdict="no", why="it is not listed")
        try:
            found = self._sha256(name)
        except OSError as error:
            return CheckResult(file=name, what=what, verdict="no", why=f"the file cannot be read: {error.strerror}")
        if found != sums[name]:
            return CheckResult(file=name, what=what, verdict="no", why=f"it has SHA-256 {found}, not {sums[name]}")
        return CheckResult(file=name, what=what, verdict="yes")

    def _sha256(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = sha256(self.folder / name)
        return self._digests[name]

    def _signature(self, name: str, beside_name: str = "") -> CheckResult:
        what, beside = "signature", self.folder / (beside_name or f"{name}{SIGNATURE_SUFFIX}")
        if not beside.is_file():
            if self.context.unsigned:
                why = "it is not signed, which --unsigned accepts"
                return CheckResult(file=name, what=what, verdict="not checked", why=why)
            return CheckResult(file=name, what=what, verdict="no", why=f"it is not signed: there is no {beside.name}")
        if self.context.signatures is None:
            return CheckResult(file=name, what=what, verdict="not checked", why="no key was given (--key FILE)")
        verdict = self.context.signatures.check(self.folder / name, beside)
        return CheckResult(file=name, what=what, verdict="yes" if verdict.good else "no", why=verdict.why)

    @staticmethod
    def _said(file: str, what: str, wrong: Sequence[str], *, why: str = "") -> CheckResult:
        """Return a check that says yes if nothing is wrong."""
        if not wrong:
            return CheckResult(file=file, what=what, verdict="yes", why=why)
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        return CheckResult(file=file, what=what, verdict="no", why="; ".join([*wrong[:SHOWN], *more]))

    def _artifact(self, name: str) -> Iterator[CheckResult]:
        try:
            digest = self._sha256(name)
        except OSError as error:
            yield CheckResult(file=name, what="file", verdict="no", why=f"it cannot be read: {error.strerror}")
            return
        yield self._signature(name)
        kind = formats.of_file(self.folder / name)
        if kind is not None and kind.embedded is not None:
            yield from self._embedded(name, kind.embedded)
        statement = yield from self._provenance(name, digest)
        yield self._bill(name, digest, statement)
        yield from self._inside(name, statement)

    def _embedded(self, name: str, embedded: EmbeddedSignature) -> Iterator[CheckResult]:
        """Check the signature inside a file."""
        path, what = self.folder / name, embedded.title
        if self.context.signatures is None:
            yield CheckResult(file=name, what=what, verdict="not checked", why="no key was given (--key FILE)")
            return
        try:
            verdict = self.context.signatures.check_embedded(path, embedded)
        except FullDiskError:
            raise
        except ForgeError as error:
            yield CheckResult(file=name, what=what, verdict="no", why=error.message)
            return
        if verdict.missing and self.context.unsigned:
            why = f"{verdict.why}, which --unsigned accepts"
            yield CheckResult(file=name, what=what, verdict="not checked", why=why)
            return
        yield CheckResult(file=name, what=what, verdict="yes" if verdict.good else "no", why=verdict.why)
        what, own = embedded.program_title, self.context.signatures.check_by_program(path, embedded)
        if own is None:
            yield CheckResult(file=name, what=what, verdict="not checked", why=embedded.program_missing)
        else:
            yield CheckResult(file=name, what=what, verdict="yes" if own.good else "no", why=own.why)

    def _provenance(self, name: str, digest: str) -> Generator[CheckResult, None, Statement | None]:
        """Check the provenance. The generator's value is the statement if it is of this file, else None."""
        file, what = f"{name}{PROVENANCE_SUFFIX}", "provenance is of the artifact"
        try:
            statement = parse_statement(read_bytes(self.folder / file))
        except ClaimError as error:
            yield CheckResult(file=file, what=what, verdict="no", why=str(error))
            return None
        wrong = judge_statement(statement, artifact=name, digest=digest)
        yield self._said(file, what, wrong)
        return None if wrong else statement

    def _bill(self, name: str, digest: str, statement: Statement | None) -> CheckResult:
        file, what = f"{name}{SBOM_SUFFIX}", "SBOM is of the artifact"
        try:
            wrong = judge_bill(parse(Bill, read_bytes(self.folder / file)), digest=digest)
        except ClaimError as error:
            return CheckResult(file=file, what=what, verdict="no", why=str(error))
        byproducts = statement.predicate.details.byproducts or () if statement else ()
        digests = {item.name: item.sha256 for item in byproducts}
        if not wrong and statement and digests.get(file) != self._sha256(file):
            wrong = ["it is not the one that the provenance names"]
        return self._said(file, what, wrong)

    def _inside(self, name: str, statement: Statement | None) -> Iterator[CheckResult]:
        """Check manifest, contents and audit."""
        what = MANIFEST
        try:
            package = read_package(self.folder / name)
            if package.manifest is None:
                if statement is not None and statement.debug:
                    why = "there is none in debug information"
                    yield CheckResult(file=name, what=what, verdict="not checked", why=why)
                else:
                    yield CheckResult(file=name, what=what, verdict="no", why="there is none in it")
                return
            manifest = parse(Manifest, package.manifest)
        except FullDiskError:
            raise
        except ForgeError as error:
            yield CheckResult(file=name, what=what, verdict="no", why=error.message)
            return
        except ClaimError as error:
            yield CheckResult(file=name, what=what, verdict="no", why=str(error))
            return
        if statement is None:
            yield CheckResult(
                file=name, what="manifest.json agrees with provenance", verdict="no", why="there is none of it"
            )
        else:
            wrong = judge_claims(manifest, statement, manifest_sha256=package.manifest_sha256)
            yield self._said(name, "manifest.json agrees with provenance", wrong, why=manifest.cell)
        yield self._contents(name, manifest, package)
        yield self._audit(name, manifest, package)

    def _contents(self, name: str, manifest: Manifest, package: PackageContents) -> CheckResult:
        what = "contents agree with manifest.json"
        if manifest.contents is None:
            return CheckResult(file=name, what=what, verdict="no", why="the manifest does not list them")
        known = "" if all(f.link or f.mode is not None for f in package.inside.values()) else ", modes not compared"
        outside = len(package.files) - len(package.inside) - 1
        more = f", {outside} beside them by digest alone" if outside else ""
        why = f"{len(manifest.contents)} files{known}{more}"
        return self._said(name, what, differences(manifest.contents, package), why=why)

    def _audit(self, name: str, manifest: Manifest, package: PackageContents) -> CheckResult:
        what = f"audit for {manifest.target}"
        libraries = tuple((library.path, library.version, library.code) for library in manifest.bundled_libraries)
        image = (manifest.image.name, manifest.image.baseline)
        key = (manifest.target, image, manifest.allocator.name, libraries, package.programs)
        if key in self._audited:
            first, wrong = self._audited[key]
            return self._said(name, what, wrong, why=f"the same programs as in {first}")
        try:
            wrong = self.context.audit(self.folder / name, manifest, package)
        except FullDiskError:
            raise
        except ForgeError as error:
            return CheckResult(file=name, what=what, verdict="no", why=error.message)
        self._audited[key] = (name, wrong)
        return self._said(name, what, wrong)
