"""dist/: packages with SBOM and provenance, sums, signatures, and the build report with its page."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.attest import signing
from pikaforge.attest.describe import SUMS
from pikaforge.attest.provenance import Builder, builder_in, builder_of
from pikaforge.config.schema import Spec
from pikaforge.formats.artifact import ArtifactRecord
from pikaforge.formats.embedded_signature import Insert, Insertion, insert_here, insert_in
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.process import cwd
from pikaforge.host.store import locked, sha256
from pikaforge.host.workspace import GUEST, Workspace
from pikaforge.pipeline import package, report
from pikaforge.pipeline.dist_folder import descriptions, drop_stale_signature, put_package, write_sums
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.package import PackageFacts
from pikaforge.pipeline.report_page import page
from pikaforge.pipeline.report_record import BuildReport, CellRecord
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import TOOLS_NODE

if TYPE_CHECKING:
    from pikaforge.attest.signing import Signer
    from pikaforge.pipeline.outcomes import NodeOutcome, Report


@dataclass(slots=True)
class DistFiles:
    """What a run has put under dist/."""

    report: BuildReport
    artifacts: list[tuple[Path, str]] = field(default_factory=list)
    """Path and SHA-256, in the plan's order."""
    written: int = 0
    """Number of files that were not there yet."""
    notices: tuple[str, ...] = ()


def write(workspace: Workspace, spec: Spec, done: Report) -> DistFiles:
    """Put the packages of a run under dist/, describe and sign them, and write sums and report.

    Nothing is signed unless the environment names a key (`attest.signing`).

    Raises:
        SigningError: the key cannot sign.
        HostError: a file cannot be written, or GnuPG is missing.
    """
    with locked(workspace.dist / ".lock"), workspace.store.scratch() as scratch, configured_signer(scratch) as signer:
        writer = _DistWriter(workspace=workspace, spec=spec, done=done, scratch=scratch, signer=signer)
        with full_disk_errors(workspace.dist, scratch):
            return writer.write()


@contextmanager
def configured_signer(scratch: Path) -> Iterator[Signer | None]:
    """Yield the key that the environment names, ready to sign; None if it names none.

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

    def write(self) -> DistFiles:
        outcomes = self.done.by_cell()
        files: list[tuple[Path, str]] = []
        artifacts: dict[str, tuple[ArtifactRecord, ...]] = {}
        folders: dict[Path, dict[str, str]] = {}
        for outcome in self.done.of(package.STAGE.name):
            if outcome.result is None:
                continue
            cell = outcome.node.cells[0]
            facts = outcome.result.read(PackageFacts)
            folder = self.workspace.dist / cell.image
            builder = self._built(outcomes[cell.id])
            records = []
            for artifact in facts.artifacts:
                path, written = put_package(outcome.result, artifact, folder)
                self.written += written
                if self.signer is not None:
                    self.written += self.signer.sign_inside(path, partial(self._insert, cell))
                digest = self._describe(path, artifact, facts.manifest, builder, written=written)
                sums = folders.setdefault(folder, {})
                for file in (path, *descriptions(path)):
                    sums[file.name] = digest if file == path else sha256(file)
                files.append((path, digest))
                changes = {
                    "path": str(path.relative_to(self.workspace.dist)),
                    "sha256": digest,
                    "bytes": path.stat().st_size,
                }
                records.append(artifact.model_copy(update=changes))
            artifacts[cell.id] = tuple(records)
        for folder, sums in folders.items():
            self._seal(folder, sums)
        made = report.merge(
            self.spec,
            self.done,
            artifacts,
            earlier=report.load(self.workspace.dist, report.name_of(self.workspace.dist, self.spec.product.name)),
            dist=self.workspace.dist,
            now=datetime.now(timezone.utc),
        )
        page.write_beside(report.write(self.workspace.dist, made), made, logs=self.workspace.out / "logs")
        notices = self.signer.notices if self.signer is not None else ()
        return DistFiles(report=made, artifacts=files, written=self.written, notices=notices)

    def _insert(self, cell: Cell, job: Insertion) -> bytes:
        """Put a signature into a file, with this machine's programs or with those of the tools image."""
        if self.workspace.engine.kind == "host":
            return insert_here(self.workspace.home / GUEST, self.scratch)(job)
        tools = self.done.outcomes[TOOLS_NODE].result
        assert tools is not None  # the package was made with it
        build = tools.read(ImageStageFacts).build
        return insert_in(self.workspace, tools=build, label=cell.id, folder=self.scratch)(job)

    def _built(self, outcomes: Sequence[NodeOutcome]) -> Builder:
        """Return the builder of a cell, with the compiler caches and the results of others that it has used."""
        caches, shared = report.caches_of(outcomes), report.shared_of(outcomes)
        return self.builder.model_copy(update={"compiler_caches": caches, "shared_results": shared})

    def _describe(
        self, path: Path, artifact: ArtifactRecord, manifest: Mapping[str, object], builder: Builder, *, written: bool
    ) -> str:
        """Write SBOM and provenance of an artifact, unless they are there; return the artifact's digest."""
        if written or not _described(path, builder):
            from pikaforge.attest.describe import describe  # noqa: PLC0415  # its library takes a third of a second

            describe(path, builder=builder, manifest=None if artifact.role == "main" else manifest)
        return sha256(path)

    def _seal(self, folder: Path, sums: dict[str, str]) -> None:
        """Write the sums of a folder, and signatures of all that is in it."""
        write_sums(folder, sums)
        if self.signer is not None:
            for name in (*sums, SUMS):
                self.signer.sign(folder / name)
        else:
            drop_stale_signature(folder)


def _described(path: Path, builder: Builder) -> bool:
    """Return whether SBOM and provenance of a package are there, and say which caches and shared results were used."""
    bill, statement = descriptions(path)
    if not bill.is_file() or not statement.is_file():
        return False
    named = builder_in(statement.read_text(encoding="utf-8", errors="replace"))
    wanted = (builder.compiler_caches, builder.shared_results)
    return named is not None and (named.compiler_caches, named.shared_results) == wanted


def sign(
    folder: Path, done: BuildReport, cells: Collection[str], signer: Signer, insert: Insert, *, logs: Path | None = None
) -> BuildReport:
    """Sign what a build without a key has put under dist/: files whose formats hold a signature; sums and all files.

    Args:
        folder: with the report.
        done: its report.
        cells: ids of the cells to be signed; the others are left alone.
        signer: the key.
        insert: puts signatures into files.
        logs: the folder with the builds' logs, for the report's page.

    Returns:
        The report with the digests of the files that have a signature inside now. It is written, too.

    Raises:
        PublishError: a package is not what the report says: nobody's key vouches for such a thing.
        SigningError: the key cannot sign.
    """
    with locked(folder / ".lock"):
        changed = []
        sums: dict[Path, dict[str, str]] = {}
        for cell in done.cells:
            artifacts = []
            for artifact in cell.artifacts if cell.id in cells else ():
                path = report.package_path(folder, artifact)
                digest = artifact.sha256
                if signer.sign_inside(path, insert):
                    _describe_again(path, cell, artifact)
                    digest = sha256(path)
                files = sums.setdefault(path.parent, {})
                files[path.name] = digest
                files.update({file.name: sha256(file) for file in descriptions(path) if file.is_file()})
                artifacts.append(artifact.model_copy(update={"sha256": digest, "bytes": path.stat().st_size}))
            changed.append(cell.model_copy(update={"artifacts": tuple(artifacts)}) if artifacts else cell)
        for place, digests in sums.items():
            write_sums(place, digests)
            for name in (*digests, SUMS):
                signer.sign(place / name)
        signed = done.model_copy(update={"cells": tuple(changed)})
        page.write_beside(report.write(folder, signed), signed, logs=logs)
    return signed


def _describe_again(path: Path, cell: CellRecord, artifact: ArtifactRecord) -> None:
    """Write SBOM and provenance of a file that was signed inside. Its digest has changed, and its builder has not."""
    from pikaforge.attest.describe import describe  # noqa: PLC0415  # its library takes a third of a second

    _, statement = descriptions(path)
    before = statement.read_text(encoding="utf-8") if statement.is_file() else ""
    manifest = None if artifact.role == "main" else cell.manifest
    describe(path, builder=builder_in(before) or builder_of(os.environ), manifest=manifest)
