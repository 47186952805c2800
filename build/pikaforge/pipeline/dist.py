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
from pikaforge.host.store import Result, locked, sha256
from pikaforge.host.workspace import GUEST, Workspace
from pikaforge.pipeline import package, report
from pikaforge.pipeline.dist_before import Before, refuse_changed
from pikaforge.pipeline.dist_folder import descriptions, listed, put_package, write_sums
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
    """What is to be said of the key, and of files that were not as the last build has left them."""


def write(workspace: Workspace, spec: Spec, done: Report) -> DistFiles:
    """Put the packages of a run under dist/, describe and sign them, and write sums and report.

    Nothing is signed unless the environment names a key (`attest.signing`).

    Raises:
        SigningError: the key cannot sign.
        HostError: a file cannot be written, or GnuPG is missing.
    """
    with locked(workspace.dist / ".lock"), workspace.store.scratch() as scratch, configured_signer(scratch) as signer:
        before = Before.of(workspace.dist, spec.product.name)
        writer = _DistWriter(workspace=workspace, spec=spec, done=done, scratch=scratch, signer=signer, before=before)
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
    before: Before
    builder: Builder = field(default_factory=lambda: builder_of(os.environ))
    written: int = 0
    made: set[Path] = field(default_factory=set)
    """What is another file than before."""

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
                path, digests = self._put(cell, outcome.result, artifact, facts.manifest, builder)
                digest = digests[path.name]
                folders.setdefault(folder, {}).update(digests)
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
        self.before.look_for_others({cell.id for cell in self.done.plan.cells})
        made = report.merge(
            self.spec,
            self.done,
            artifacts,
            earlier=self.before.report,
            dist=self.workspace.dist,
            now=datetime.now(timezone.utc),
        )
        page.write_beside(report.write(self.workspace.dist, made), made, logs=self.workspace.out / "logs")
        notices = (*self.before.notices, *(self.signer.notices if self.signer is not None else ()))
        return DistFiles(report=made, artifacts=files, written=self.written, notices=notices)

    def _put(
        self, cell: Cell, result: Result, artifact: ArtifactRecord, manifest: Mapping[str, object], builder: Builder
    ) -> tuple[Path, dict[str, str]]:
        """Put a package and what describes it under dist/; return its path, and the digests of all by name."""
        folder = self.workspace.dist / cell.image
        noted = self.before.digests(folder / artifact.name)
        path, written = put_package(result, artifact, folder, noted=noted, changed=self.before.changed)
        self.written += written
        if written:
            self.made.add(path)
        if self.signer is not None and self.signer.sign_inside(path, partial(self._insert, cell)):
            self.written += 1
            self.made.add(path)
        return path, {path.name: sha256(path), **self._described(path, artifact, manifest, builder)}

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

    def _described(
        self, path: Path, artifact: ArtifactRecord, manifest: Mapping[str, object], builder: Builder
    ) -> dict[str, str]:
        """Write SBOM and provenance of a package, unless they are there as they should be; return their digests."""
        files = descriptions(path)
        found = {file.name: sha256(file) for file in files if file.is_file()}
        changed = [file for file in files if self.before.digests(file) != {found.get(file.name)}]
        named = _builder_in(files[1])
        same = named is not None and _used(named) == _used(builder)
        if path not in self.made and same and not changed:
            return found
        from pikaforge.attest.describe import describe  # noqa: PLC0415  # its library takes a third of a second

        # Who has built it stays, unless that is what has changed.
        if same and named is not None and (files[1] not in changed or not self.before.digests(files[1])):
            builder = named
        describe(path, builder=builder, manifest=None if artifact.role == "main" else manifest)
        now = {file.name: sha256(file) for file in files}
        for file in files:
            if now[file.name] != found.get(file.name):
                self.made.add(file)
                if path not in self.made and file.name in found and file in changed and self.before.digests(file):
                    self.before.changed(file)
        return now

    def _seal(self, folder: Path, sums: dict[str, str]) -> None:
        """Write the sums of a folder, and signatures of all that is in it."""
        lost = self.before.compare_sums(folder, sums, self.made)
        write_sums(folder, {**sums, **lost})
        for name in (*sums, SUMS):
            self.before.drop_damaged_signature(folder / name)  # gpg takes some that are
            if self.signer is not None:
                self.signer.sign(folder / name)


def _builder_in(statement: Path) -> Builder | None:
    """Return the builder that a provenance names; None if there is none."""
    return builder_in(statement.read_text(encoding="utf-8", errors="replace")) if statement.is_file() else None


def _used(builder: Builder) -> tuple[object, ...]:
    """Return which caches and shared results a builder has used."""
    return builder.compiler_caches, builder.shared_results


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
        noted: dict[Path, Mapping[str, str]] = {}
        for cell in done.cells:
            artifacts = []
            for artifact in cell.artifacts if cell.id in cells else ():
                path = report.package_path(folder, artifact)
                if path.parent not in noted:
                    noted[path.parent] = listed(path.parent).digests
                for file in filter(Path.is_file, descriptions(path)):
                    refuse_changed(file, sha256(file), noted[path.parent])
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
