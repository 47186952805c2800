"""The allocator stage: an allocator is built in the image for the target, under the compiler wrapper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pikaforge.audit.elf.facts import ElfFacts, read_facts
from pikaforge.audit.judge_linkage import library_versions
from pikaforge.config import families
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import Spec, Tarball
from pikaforge.errors import AuditError, StageError
from pikaforge.host.archives import tar_entries
from pikaforge.host.confinement import OutputError
from pikaforge.host.download import PinnedFile
from pikaforge.host.http import redacted
from pikaforge.host.job import Input, Job
from pikaforge.host.source_tarball import SourceTarball, without_top
from pikaforge.host.store import Result, sha256
from pikaforge.host.workspace import Workspace, explained, guest_digests, run_job
from pikaforge.pipeline import compiler_cache, members
from pikaforge.pipeline.guest_facts import GuestFacts, guest_facts, unreadable
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import allocators
from pikaforge.plan.budget import COMPILES
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

STAGE_NAME = "allocator"
PREFIX = "prefix.tar"
DEBUG = "debug.tar"


def _messages(name: str) -> Mapping[int, tuple[str, str]]:
    """Return message and hint for the exit statuses of an allocator's guest script."""
    return {
        64: (f"{name} could not be built", "see the log; another version: allocators.{allocator}.tarballs"),
        65: (f"{name} is not what was asked for", "allocators.{allocator} says what is asked for"),
        66: ("the build image lacks something", "see docker/{family}/Dockerfile and allocators.{allocator}.packages"),
    }


def material(spec: Spec, cell: Cell, home: Path) -> dict[str, object]:
    """Return the key material: digests of the sources, scripts, flags, and what the kind of allocator adds."""
    kind = allocators.kind_of(spec, cell.allocator)
    tarballs = allocators.sources(spec, cell.image, cell.allocator)
    return {
        "tarballs": {folder: [t.version, t.sha256] for folder, t in tarballs.items()},
        **kind.material(spec.allocators[cell.allocator]),
        "flags": list(cell.flags),
        "scripts": guest_digests(home, kind.scripts),
    }


class TarballFacts(Strict):
    """A source tarball of an allocator."""

    version: str
    url: str
    """Without credentials."""
    sha256: str


class AllocatorFacts(Strict):
    """Facts of an allocator that was built."""

    version: str
    tarballs: Mapping[str, TarballFacts]
    """By the folder that they are unpacked in."""
    unwinder: Mapping[str, str]
    """How it walks the stack: what was asked for (`asked`), chosen and compiled in; see the guest script."""
    libraries: Mapping[str, str]
    """Build id of each shared library, by soname."""
    needs: Mapping[str, tuple[str, ...]]
    """Symbol versions that the libraries need of others, by soname of those."""
    compiler: tuple[str, ...]
    dropped: tuple[tuple[int, str], ...]
    """How often the compiler wrapper dropped which flag."""
    epoch: int
    """Date of the source in seconds since 1970."""


def make(workspace: Workspace, spec: Spec, cell: Cell, image: Result, *, key: str) -> Result:
    """Build the allocator; store `AllocatorFacts`.

    The result has the files `prefix.tar` (lib/, include/, share/doc/) and `debug.tar` (`PATH.debug`).

    Raises:
        HostError: a tarball cannot be had, or has another digest.
        StageError: the build failed, or has another unwinder than was asked for.
    """
    kind = allocators.kind_of(spec, cell.allocator)
    tarballs = allocators.sources(spec, cell.image, cell.allocator)
    log = workspace.log_path(cell.group, STAGE_NAME)
    cache = compiler_cache.of(workspace, [f"{folder} {t.sha256}" for folder, t in sorted(tarballs.items())])
    with workspace.store.scratch() as scratch:
        sources = _sources(workspace, tarballs, kind.name, scratch)
        epoch = next((source.epoch for _, source in sources if source.epoch), 0)
        job = Job(
            label=f"{STAGE_NAME}-{cell.group}",
            image=image.read(ImageStageFacts).build,
            argv=("sh", "guest/run.sh", kind.scripts[0].removesuffix(".sh"), "prefix", "debug", "facts"),
            env=_environment(workspace, spec, cell, version=_version(tarballs), epoch=epoch),
            inputs=(
                workspace.guest(*kind.scripts),
                *(Input(folder=folder, archive=source.path) for folder, source in sources),
            ),
            outputs=("packed/prefix.tar", "packed/debug.tar"),
            facts=("packed/facts.tar",),
            log=log,
            cache=cache.name,
            timeout=workspace.bounds.seconds,
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
        prefix, debug = done.outputs["packed/prefix.tar"], done.outputs["packed/debug.tar"]
        members.check(prefix, debug, stage=STAGE_NAME, label=cell.group, log=log)
        try:
            found = guest_facts(done.outputs["packed/facts.tar"])
            facts = _facts(tarballs, found, _libraries(prefix, scratch), epoch=epoch)
        except (OutputError, AuditError) as error:
            raise unreadable(error, stage=STAGE_NAME, label=cell.group, log=log) from error
        return workspace.store.put(
            STAGE_NAME,
            key,
            identity=sha256(prefix),
            facts=facts,
            files={PREFIX: prefix, DEBUG: debug, compiler_cache.FILE: compiler_cache.record(cache, scratch)},
        )


def _sources(
    workspace: Workspace, tarballs: Mapping[str, Tarball], name: str, scratch: Path
) -> list[tuple[str, SourceTarball]]:
    """Fetch the tarballs; return each without its top folder, by the folder that it is unpacked in.

    A file that the user gives for the allocator takes the place of the first one, which is the allocator's own.
    """
    found: list[tuple[str, SourceTarball]] = []
    for folder, tarball in tarballs.items():
        given = None if found else workspace.given.get(name)
        wanted = PinnedFile(name=tarball.file, url=tarball.url, sha256=tarball.sha256)
        found.append((folder, without_top(workspace.downloads.get(wanted, given=given), scratch / f"{folder}.tar")))
    return found


def _version(tarballs: Mapping[str, Tarball]) -> str:
    return next(iter(tarballs.values())).version


def _environment(workspace: Workspace, spec: Spec, cell: Cell, *, version: str, epoch: int) -> dict[str, str]:
    """Return the variables of the guest script."""
    kind = allocators.kind_of(spec, cell.allocator)
    return {
        "PIKAFORGE_PRODUCT": kind.name,
        "PIKAFORGE_VERSION": version,
        **kind.environment(spec.allocators[cell.allocator]),
        "PIKAFORGE_JOBS": str(workspace.jobs),
        "PIKAFORGE_TARGET_FLAGS": " ".join(cell.flags),
        "PIKAFORGE_CCACHE": str(int(workspace.compiler_cache)),
        "SOURCE_DATE_EPOCH": str(epoch),
    }


def _facts(
    tarballs: Mapping[str, Tarball], found: GuestFacts, libraries: Sequence[ElfFacts], *, epoch: int
) -> AllocatorFacts:
    own = {library.soname for library in libraries}
    outside = {soname for library in libraries for soname in library.needed} - own
    return AllocatorFacts(
        version=_version(tarballs),
        tarballs={
            folder: TarballFacts(version=t.version, url=redacted(t.url), sha256=t.sha256)
            for folder, t in tarballs.items()
        },
        unwinder={name: " ".join(values) for name, *values in found.rows("unwinder.tsv")},
        libraries={library.soname: library.build_id for library in libraries},
        needs={soname: tuple(versions) for soname, versions in library_versions(libraries, outside).items()},
        compiler=found.lines("compiler.txt"),
        dropped=found.dropped(),
        epoch=epoch,
    )


def _libraries(prefix: Path, scratch: Path) -> list[ElfFacts]:
    """Return the facts of each shared library, sorted by soname."""
    found = []
    for member in tar_entries(prefix):
        if member.kind == "file" and ".so" in member.name:
            path = scratch / "library"
            path.write_bytes(member.read())
            found.append(read_facts(path, name=member.name))
    return sorted(found, key=lambda facts: facts.soname)


class AllocatorStage(BaseStage):
    """Builds an allocator for a target."""

    name = STAGE_NAME
    scope: Scope = "group"
    facts = AllocatorFacts
    demand = COMPILES
    seconds = 60.0

    def needs(self, slot: Slot) -> Needs | None:
        """Return that it needs the image, if there is something to build."""
        return Needs(ids=(slot.image,)) if slot.allocator else None

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return tarballs, options and flags as key material."""
        return Material(facts=material(run.spec, node.cell, run.home))

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return that a run without compiler caches takes nothing that was made with one."""
        return compiler_cache.lost(result, run.workspace)

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return what is wrong with the trees, as for one that was built here."""
        wanted = {PREFIX, DEBUG, compiler_cache.FILE}
        if set(result.files) != wanted:
            return f"its files are not {', '.join(sorted(wanted))}"
        return members.refusal(result.files[PREFIX], result.files[DEBUG])

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Build the allocator."""
        return make(run.workspace, run.spec, inputs.node.cell, inputs.image, key=key)


STAGE = AllocatorStage()
