"""Verification: whether artifacts are what was built, by whom they say, and hold what they say.

A verdict is never an exception: whatever is wrong with an artifact or what lies beside it is a check that says no, so
that all of it is told at once. What could not be checked is said, too, and never counts as a yes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

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
from pikaforge.errors import ForgeError
from pikaforge.formats import format as formats
from pikaforge.formats.embedded_signature import EmbeddedSignature, SignatureVerdict
from pikaforge.formats.manifest import MANIFEST, Manifest
from pikaforge.host.store import sha256

COMPANIONS = (SBOM_SUFFIX, PROVENANCE_SUFFIX)
"""Files beside an artifact that SHA256SUMS lists; signatures prove themselves."""
DIGEST = re.compile(r"([0-9a-f]{64}) [ *](.+)")
SHOWN = 5
"""Reasons of one check that are told; the rest is counted."""


def _plain(text: str) -> str:
    """Text for a terminal: names in an artifact that nobody has vouched for may hold anything."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One thing that was looked at."""

    file: str
    what: str
    verdict: Literal["yes", "no", "not checked"]
    why: str = ""
    """By what it holds, or what is wrong."""

    def __str__(self) -> str:
        return _plain(f"{self.verdict:<11}  {self.file}: {self.what}{f': {self.why}' if self.why else ''}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """Everything that was looked at for one path or URL."""

    title: str
    checks: tuple[CheckResult, ...]

    @property
    def refusals(self) -> tuple[CheckResult, ...]:
        """What says no."""
        return tuple(check for check in self.checks if check.verdict == "no")

    @property
    def passed(self) -> bool:
        """Whether something was checked, and nothing says no."""
        return not self.refusals and any(check.verdict == "yes" for check in self.checks)

    def lines(self) -> list[str]:
        """For people: every check, then the word on all of them."""
        said_no, left = self.refusals, sum(check.verdict == "not checked" for check in self.checks)
        done = len(self.checks) - left
        more = f", {left} not checked" if left else ""
        if self.passed:
            word = f"verified: all {done} checks say yes{more}"
        else:
            files = ", ".join(dict.fromkeys(check.file for check in said_no)) or "nothing could be checked"
            word = f"REFUSED: {len(said_no)} of {done} checks say no{more}: {files}"
        return [*(str(check) for check in self.checks), _plain(f"{self.title}: {word}")]

    def facts(self) -> dict[str, object]:
        """For scripts."""
        return {"title": self.title, "passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def read_sums(text: str) -> tuple[dict[str, str], list[str]]:
    """Digests by name as sha256sum writes them, and what is wrong with the lines that are not like that."""
    sums: dict[str, str] = {}
    bad: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
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
    """The artifact that a file describes or signs; the file itself if it is one."""
    for suffix in (SIGNATURE_SUFFIX, *COMPANIONS):
        if name.endswith(suffix) and name != suffix:
            return artifact_of(name.removesuffix(suffix))
    return name


class Signatures(Protocol):
    """Judges signatures by the keys that are trusted (`signing.Verifier`)."""

    def check(self, data: Path, signature: Path) -> SignatureVerdict:
        """A detached one."""

    def check_embedded(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict:
        """Judge the signature inside a file; raise AuditError if the file is damaged."""

    def check_by_program(self, path: Path, embedded: EmbeddedSignature) -> SignatureVerdict | None:
        """Return what the format's own program says; None where it is missing."""


Audit = Callable[[Path, Manifest, PackageContents], Sequence[str]]
"""Audits an artifact for its manifest's target, below the manifest's folder as its top: what says no.

Raises ForgeError where it cannot be read.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyContext:
    """What is needed to verify."""

    audit: Audit
    signatures: Signatures | None
    """None: there is no key, which only `unsigned` allows."""
    unsigned: bool = False
    """Accept what is not signed; a signature that is there, and for which there is a key, must be good still."""


def verify_folder(folder: Path, means: VerifyContext, *, title: str = "") -> VerifyResult:
    """Verify everything in a folder; hidden files are not part of it."""
    examiner = _Examiner(folder, means)
    return VerifyResult(title=title or str(folder), checks=tuple(examiner.whole()))


def verify_file(path: Path, means: VerifyContext, *, title: str = "") -> VerifyResult:
    """Verify one artifact by what lies beside it; what describes or signs one stands for it."""
    examiner = _Examiner(path.parent, means)
    return VerifyResult(title=title or str(path), checks=tuple(examiner.alone(artifact_of(path.name))))


@dataclass(slots=True)
class _Examiner:
    """Looks at the files of one folder."""

    folder: Path
    means: VerifyContext
    _digests: dict[str, str] = field(default_factory=dict)
    _audited: dict[object, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """What was audited: the first artifact with these programs, and what was said of them."""

    def whole(self) -> Iterator[CheckResult]:
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        files = [path.name for path in paths if path.is_file() and not path.is_symlink()]
        sums = yield from self._sums()
        for path in paths:
            if path.name not in files:
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
        if (self.folder / SUMS).exists():
            sums = yield from self._sums()
            for part in (name, *(name + suffix for suffix in COMPANIONS)):
                if sums is not None and (part in sums or (self.folder / part).exists()):
                    yield self._digest(part, sums)
        else:
            yield CheckResult(file=SUMS, what="digests", verdict="not checked", why="there is none beside the file")
        yield from self._artifact(name)

    def _sums(self) -> Generator[CheckResult, None, dict[str, str] | None]:
        """The folder's SHA256SUMS: the generator's value is the digests, or None."""
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

    def _signature(self, name: str) -> CheckResult:
        what, beside = "signature", self.folder / f"{name}{SIGNATURE_SUFFIX}"
        if not beside.is_file():
            if self.means.unsigned:
                why = "it is not signed, which --unsigned accepts"
                return CheckResult(file=name, what=what, verdict="not checked", why=why)
            return CheckResult(file=name, what=what, verdict="no", why=f"it is not signed: there is no {beside.name}")
        if self.means.signatures is None:
            return CheckResult(file=name, what=what, verdict="not checked", why="no key was given (--key FILE)")
        verdict = self.means.signatures.check(self.folder / name, beside)
        return CheckResult(file=name, what=what, verdict="yes" if verdict.good else "no", why=verdict.why)

    @staticmethod
    def _said(file: str, what: str, wrong: Sequence[str], *, why: str = "") -> CheckResult:
        """Yes if nothing is wrong."""
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
        """The signature inside a file."""
        path, what = self.folder / name, embedded.title
        if self.means.signatures is None:
            yield CheckResult(file=name, what=what, verdict="not checked", why="no key was given (--key FILE)")
            return
        try:
            verdict = self.means.signatures.check_embedded(path, embedded)
        except ForgeError as error:
            yield CheckResult(file=name, what=what, verdict="no", why=error.message)
            return
        if verdict.missing and self.means.unsigned:
            why = f"{verdict.why}, which --unsigned accepts"
            yield CheckResult(file=name, what=what, verdict="not checked", why=why)
            return
        yield CheckResult(file=name, what=what, verdict="yes" if verdict.good else "no", why=verdict.why)
        what, own = embedded.program_title, self.means.signatures.check_by_program(path, embedded)
        if own is None:
            yield CheckResult(file=name, what=what, verdict="not checked", why=embedded.program_missing)
        else:
            yield CheckResult(file=name, what=what, verdict="yes" if own.good else "no", why=own.why)

    def _provenance(self, name: str, digest: str) -> Generator[CheckResult, None, Statement | None]:
        """The generator's value is the statement if it is of this file."""
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
        """Manifest, contents and audit."""
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
            wrong = self.means.audit(self.folder / name, manifest, package)
        except ForgeError as error:
            return CheckResult(file=name, what=what, verdict="no", why=error.message)
        self._audited[key] = (name, wrong)
        return self._said(name, what, wrong)
