"""dist/: packages with what is told of them, their sums and signatures, and the report."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikaforge.attest import signing
from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX, SUMS
from pikaforge.attest.provenance import Builder, builder_in, builder_of
from pikaforge.config.schema import Spec
from pikaforge.formats.rpm.rpm_file import INSERT_SCRIPT, Insert, insert_here, insert_in
from pikaforge.host.process import cwd
from pikaforge.host.store import locked, sha256
from pikaforge.host.workspace import GUEST, Workspace
from pikaforge.pipeline import package
from pikaforge.pipeline import report as record
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import TOOLS_NODE

if TYPE_CHECKING:
    from pikaforge.attest.signing import Signer
    from pikaforge.pipeline.pipeline import Report


@dataclass(slots=True)
class DistFiles:
    """What a run has put under dist/."""

    report: record.BuildReport
    artifacts: list[tuple[Path, str]] = field(default_factory=list)
    """Path and SHA-256, in the plan's order."""
    written: int = 0
    """Files that were not there yet."""
    notices: tuple[str, ...] = ()


def deliver(workspace: Workspace, spec: Spec, done: Report) -> DistFiles:
    """Put the packages of a run under dist/, describe and sign them, and write sums and report.

    Signed is what the environment names a key for (`signing`); without one, nothing is.

    Raises:
        SigningError: the key cannot sign.
        HostError: a file cannot be written, or GnuPG is missing.
    """
    with locked(workspace.dist / ".lock"), workspace.store.scratch() as scratch, configured_signer(scratch) as signer:
        work = _DistWriter(workspace=workspace, spec=spec, done=done, scratch=scratch, signer=signer)
        return work.deliver()


@contextmanager
def configured_signer(scratch: Path) -> Iterator[Signer | None]:
    """The key that the environment names, ready to sign; None if it names none.

    Raises:
        ConfigError: it cannot be read or used.
        HostError: GnuPG is missing or too old.
    """
    where = signing.settings(os.environ, base=cwd())
    if not where.key:
        yield None
        return
    with signing.open_signer(where, scratch) as signer:
        yield signer


@dataclass(slots=True, kw_only=True)
class _DistWriter:
    workspace: Workspace
    spec: Spec
    done: Report
    scratch: Path
    signer: Signer | None
    builder: Builder = field(default_factory=lambda: builder_of(os.environ))
    written: int = 0

    def deliver(self) -> DistFiles:
        found: list[tuple[Path, str]] = []
        told: dict[str, tuple[record.ArtifactRecord, ...]] = {}
        folders: dict[Path, dict[str, str]] = {}
        for outcome in self.done.of(package.STAGE.name):
            if outcome.result is None:
                continue
            cell = outcome.node.cells[0]
            folder = self.workspace.dist / cell.image
            records = []
            for artifact in outcome.result.facts["artifacts"]:
                path, written = package.deliver(outcome.result, artifact, folder)
                self.written += written
                self._sign_header(path, cell)
                digest = self._describe(path, artifact, outcome.result.facts["manifest"], written=written)
                sums = folders.setdefault(folder, {})
                for file in (path, *_companions(path)):
                    sums[file.name] = digest if file == path else sha256(file)
                found.append((path, digest))
                records.append(
                    record.ArtifactRecord(
                        format=artifact["format"],
                        role=artifact["role"],
                        path=str(path.relative_to(self.workspace.dist)),
                        sha256=digest,
                        bytes=path.stat().st_size,
                    )
                )
            told[cell.id] = tuple(records)
        for folder, sums in folders.items():
            self._seal(folder, sums)
        report = record.merge(
            self.spec,
            self.done,
            told,
            earlier=record.load(self.workspace.dist),
            dist=self.workspace.dist,
            now=datetime.now(timezone.utc),
        )
        record.write(self.workspace.dist, report)
        notices = self.signer.notices if self.signer is not None else ()
        return DistFiles(report=report, artifacts=found, written=self.written, notices=notices)

    def _sign_header(self, path: Path, cell: Cell) -> None:
        if self.signer is not None and path.suffix == ".rpm":
            self.written += self.signer.sign_rpm(path, self._insert(cell))

    def _insert(self, cell: Cell) -> Insert:
        if self.workspace.engine.kind == "host":
            return insert_here(self.workspace.home / GUEST / INSERT_SCRIPT, self.scratch)
        tools = self.done.outcomes[TOOLS_NODE].result
        assert tools is not None  # the package was made with it
        return insert_in(self.workspace, tools=str(tools.facts["build"]), label=cell.id, folder=self.scratch)

    def _describe(self, path: Path, artifact: Mapping[str, Any], manifest: Mapping[str, Any], *, written: bool) -> str:
        """Write what is told of an artifact, unless it is there; the artifact's digest."""
        if written or not all(companion.is_file() for companion in _companions(path)):
            from pikaforge.attest.describe import describe  # noqa: PLC0415  # its library takes a third of a second

            describe(path, builder=self.builder, manifest=None if artifact["role"] == "main" else manifest)
        return sha256(path)

    def _seal(self, folder: Path, sums: dict[str, str]) -> None:
        """Sums of a folder, and signatures of all that is in it."""
        package.write_sums(folder, sums)
        if self.signer is not None:
            for name in (*sums, SUMS):
                self.signer.sign(folder / name)
        else:
            _unsigned(folder)


def sign(
    folder: Path, report: record.BuildReport, cells: Collection[str], signer: Signer, insert: Insert
) -> record.BuildReport:
    """Sign what a build without a key has delivered: RPMs in their headers, sums, and everything beside itself.

    Args:
        folder: with the report.
        report: what was delivered.
        cells: ids of those that are to be signed; the others are left alone.
        signer: the key.
        insert: puts signatures into RPMs.

    Returns:
        The report with the digests of the signed RPMs; it is written, too.

    Raises:
        PublishError: a package is not what the report says: nobody's key vouches for such a thing.
        SigningError: the key cannot sign.
    """
    with locked(folder / ".lock"):
        changed = []
        sums: dict[Path, dict[str, str]] = {}
        for cell in report.cells:
            artifacts = []
            for artifact in cell.artifacts if cell.id in cells else ():
                path = record.delivered(folder, artifact)
                digest = artifact.sha256
                if path.suffix == ".rpm" and signer.sign_rpm(path, insert):
                    _describe_again(path, cell, artifact)
                    digest = sha256(path)
                files = sums.setdefault(path.parent, {})
                files[path.name] = digest
                files.update({file.name: sha256(file) for file in _companions(path) if file.is_file()})
                artifacts.append(artifact.model_copy(update={"sha256": digest, "bytes": path.stat().st_size}))
            changed.append(cell.model_copy(update={"artifacts": tuple(artifacts)}) if artifacts else cell)
        for place, digests in sums.items():
            package.write_sums(place, digests)
            for name in (*digests, SUMS):
                signer.sign(place / name)
        signed = report.model_copy(update={"cells": tuple(changed)})
        record.write(folder, signed)
    return signed


def _describe_again(path: Path, cell: record.CellRecord, artifact: record.ArtifactRecord) -> None:
    """Tell of an RPM that was signed what was told of it before: who has built it has not changed, its digest has."""
    from pikaforge.attest.describe import describe  # noqa: PLC0415  # its library takes a third of a second

    _, statement = _companions(path)
    before = statement.read_text(encoding="utf-8") if statement.is_file() else ""
    manifest = None if artifact.role == "main" else cell.manifest
    describe(path, builder=builder_in(before) or builder_of(os.environ), manifest=manifest)


def _companions(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + SBOM_SUFFIX), path.with_name(path.name + PROVENANCE_SUFFIX)


def _unsigned(folder: Path) -> None:
    """The sums' signature is of other sums, once a run without a key has written them."""
    signature = folder / f"{SUMS}{SIGNATURE_SUFFIX}"
    if signature.is_file() and signature.stat().st_mtime_ns < (folder / SUMS).stat().st_mtime_ns:
        signature.unlink()
