"""The allocator stage: an allocator, built in the image for the target under the compiler wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pikaforge.audit.elf.facts import ElfFacts, read_facts
from pikaforge.audit.judge_linkage import library_versions
from pikaforge.config import families
from pikaforge.config.schema import Spec
from pikaforge.errors import StageError
from pikaforge.host.archives import tar_entries
from pikaforge.host.download import PinnedFile
from pikaforge.host.http import redacted
from pikaforge.host.job import Input, Job
from pikaforge.host.source_tarball import without_top
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace, explained, guest_digests, run_job
from pikaforge.pipeline.compile import CACHE, guest_facts
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

STAGE_NAME = "allocator"
PREFIX = "prefix.tar"
DEBUG = "debug.tar"


def _messages(name: str) -> Mapping[int, tuple[str, str]]:
    """Return what the exit statuses of an allocator's guest script mean, and what to do."""
    return {
        64: (f"{name} could not be built", "the log tells more; another version: allocators.{allocator}.tarballs"),
        65: (f"{name} is not what was asked for", "allocators.{allocator} says what is asked for"),
        66: ("the build image lacks something", "see docker/{family}/Dockerfile and allocators.{allocator}.packages"),
    }


def material(spec: Spec, cell: Cell, home: Path) -> dict[str, Any]:
    """Return key material: the sources' digests, scripts, flags, and what the kind of allocator adds."""
    kind = allocators.kind_of(spec, cell.allocator)
    tarballs = allocators.sources(spec, cell.image, cell.allocator)
    return {
        "tarballs": {folder: [t.version, t.sha256] for folder, t in tarballs.items()},
        **kind.material(spec.allocators[cell.allocator]),
        "flags": list(cell.flags),
        "scripts": guest_digests(home, kind.scripts),
    }


def make(workspace: Workspace, spec: Spec, cell: Cell, image: Result, *, key: str) -> Result:
    """Build the allocator.

    The result has the files `prefix.tar` (lib/, include/, share/doc/) and `debug.tar` (`PATH.debug`). Its facts:
    `version`; `tarballs` by folder with version, URL and digest; `unwinder` (what was asked for and what is compiled
    in); `libraries`, the build id of each shared library by soname; `needs`, the symbol versions that they need of
    others, by library; compiler, dropped flags.

    Raises:
        HostError: a tarball cannot be had, or has another digest.
        StageError: the build failed, or has another unwinder than was asked for.
    """
    kind = allocators.kind_of(spec, cell.allocator)
    log = workspace.log_path(cell.group, STAGE_NAME)
    tarballs = allocators.sources(spec, cell.image, cell.allocator)
    version = next(iter(tarballs.values())).version
    with workspace.store.scratch() as scratch:
        inputs: list[Input] = []
        epoch = 0
        for folder, tarball in tarballs.items():
            given = workspace.given.get(kind.name) if not inputs else None
            wanted = PinnedFile(name=tarball.file, url=tarball.url, sha256=tarball.sha256)
            source = without_top(workspace.downloads.get(wanted, given=given), scratch / f"{folder}.tar")
            inputs.append(Input(folder=folder, archive=source.path))
            epoch = epoch or source.epoch
        job = Job(
            label=f"{STAGE_NAME}-{cell.group}",
            image=str(image.facts["build"]),
            argv=("sh", "guest/run.sh", kind.scripts[0].removesuffix(".sh"), "prefix", "debug", "facts"),
            env={
                "PIKAFORGE_PRODUCT": kind.name,
                "PIKAFORGE_VERSION": version,
                **kind.environment(spec.allocators[cell.allocator]),
                "PIKAFORGE_JOBS": str(workspace.jobs),
                "PIKAFORGE_TARGET_FLAGS": " ".join(cell.flags),
                "PIKAFORGE_CCACHE": str(int(workspace.compiler_cache)),
                "SOURCE_DATE_EPOCH": str(epoch),
            },
            inputs=(workspace.guest(*kind.scripts), *inputs),
            outputs=("out/prefix.tar", "out/debug.tar", "out/facts.tar"),
            log=log,
            cache=CACHE if workspace.compiler_cache else "",
        )
        try:
            done = run_job(
                workspace, job, scratch, stage=STAGE_NAME, label=cell.group, failed=f"{kind.name} could not be built"
            )
        except StageError as error:
            raise explained(
                error,
                _messages(kind.name),
                allocator=cell.allocator,
                family=families.of(spec.images[cell.image].family).recipe,
            ) from None
        told = guest_facts(done.outputs["out/facts.tar"])
        prefix = done.outputs["out/prefix.tar"]
        unwinder = {name: " ".join(values) for name, *values in told.rows("unwinder.tsv")}
        libraries = _libraries(prefix, scratch)
        own = {library.soname for library in libraries}
        outside = {soname for library in libraries for soname in library.needed} - own
        facts = {
            "version": version,
            "tarballs": {
                folder: {"version": t.version, "url": redacted(t.url), "sha256": t.sha256}
                for folder, t in tarballs.items()
            },
            "unwinder": unwinder,
            "libraries": {library.soname: library.build_id for library in libraries},
            "needs": library_versions(libraries, outside),
            "compiler": told.lines("compiler.txt"),
            "dropped": [[int(count), flag] for count, flag in told.rows("dropped.tsv")],
            "epoch": epoch,
        }
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=sha256(prefix),
            facts=facts,
            files={PREFIX: prefix, DEBUG: done.outputs["out/debug.tar"]},
        )


def _libraries(prefix: Path, scratch: Path) -> list[ElfFacts]:
    """The facts of each shared library."""
    found = []
    for member in tar_entries(prefix):
        if member.kind == "file" and ".so" in member.name:
            path = scratch / "library"
            path.write_bytes(member.read())
            found.append(read_facts(path, name=member.name))
    return sorted(found, key=lambda facts: facts.soname)


class AllocatorStage(BaseStage):
    """An allocator that is built for a target."""

    name = STAGE_NAME
    scope: Scope = "group"
    alone = True

    def needs(self, slot: Slot) -> Needs | None:
        """Return that it needs the image, if there is something to build."""
        return Needs(ids=(slot.image,)) if slot.allocator else None

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return tarballs, options and flags."""
        return Material(facts=material(run.spec, node.cell, run.home))

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Compile it."""
        return make(run.workspace, run.spec, inputs.node.cell, inputs.image, key=key)


STAGE = AllocatorStage()
