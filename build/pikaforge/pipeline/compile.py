"""The compile stage: the product's recipe runs under the compiler wrapper, and leaves a self-contained tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pikaforge.config import compilers, families
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import Spec
from pikaforge.errors import AuditError, StageError
from pikaforge.formats import format as formats
from pikaforge.formats.layout import PackingError
from pikaforge.formats.manifest import BUILT_HERE
from pikaforge.host.confinement import OutputError
from pikaforge.host.job import Input, Job, files
from pikaforge.host.store import Result, sha256
from pikaforge.host.text import clean
from pikaforge.host.workspace import Workspace, explained, failure, guest_digests, run_job
from pikaforge.pipeline import compiler_cache, members, recipe
from pikaforge.pipeline.guest_facts import GuestFacts, guest_facts, unreadable
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.source.facts import SourceFacts
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan import allocators
from pikaforge.plan.budget import COMPILES
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

STAGE_NAME = "compile"
SCRIPTS = ("compile.sh", "toolchain.sh", "bundle.sh", "licences.sh", "cc", compiler_cache.SCRIPT)

EXIT_RECIPE = 64
EXIT_OUTPUT = 65
EXIT_TOOLS = 66
MESSAGES: Mapping[int, tuple[str, str]] = {
    EXIT_RECIPE: ("the build failed", "see the recipe {recipe} and the log"),
    EXIT_OUTPUT: ("the build left no usable result", "product.binaries and product.files name what it must leave"),
    EXIT_TOOLS: ("the build image lacks something", "see docker/{family}/Dockerfile and product.packages"),
}
"""Message and hint for the exit statuses of compile.sh."""


def material(spec: Spec, cell: Cell, *, base: Path, home: Path) -> dict[str, object]:
    """Return the key material: recipe, scripts, flags, and the files that must be left.

    The number of jobs is not among it, because it changes no result.
    """
    product = spec.product
    allocator = spec.allocators[cell.allocator]
    use = dict(allocators.of(allocator.kind).use(allocator))
    return {
        "product": [product.name, product.version],
        "recipe": recipe.digest(base / product.recipe),
        "scripts": guest_digests(home, SCRIPTS),
        "flags": list(cell.flags),
        "extra": [list(compilers.cflags(spec, cell.image)), list(compilers.cxxflags(spec, cell.image))],
        "keep_werror": product.keep_werror,
        "allocator": [allocator.kind, allocator.frame_pointers, *([use] if use else [])],
        "binaries": list(product.binaries),
        "files": list(product.files),
        "licences": list(product.licence_files),
        "base_libraries": list(spec.defaults.base_libraries),
    }


class BundledLibrary(Strict):
    """A shared library that travels in the tree."""

    soname: str
    path: str
    """In the tree."""
    package: str
    """The package that brought it into the image; `allocator` for one that was built here."""
    version: str
    sha256: str
    """Of the file before strip and patchelf."""


class LicenceRecord(Strict):
    """The licences of the product, of a package whose library travels in the tree, or of a part of the allocator."""

    of: str
    """Name of that."""
    names: tuple[str, ...] = ()
    """What a package calls its licences; its own words, which SPDX need not know."""
    files: tuple[str, ...] = ()
    """Their texts, by path in the tree."""


class CompileFacts(Strict):
    """Facts of a compilation."""

    compiler: tuple[str, ...]
    """Lines that compiler and linker print of themselves."""
    dropped: tuple[tuple[int, str], ...]
    """How often the compiler wrapper dropped which flag."""
    bundled: tuple[BundledLibrary, ...]
    licences: tuple[LicenceRecord, ...]
    macros: tuple[str, ...]
    """Feature macros of the compiler for the target."""


def make(
    workspace: Workspace,
    spec: Spec,
    cell: Cell,
    source: Result,
    image: Result,
    *,
    key: str,
    allocator: Result | None = None,
) -> Result:
    """Compile for a target, against the allocator that was built for it, if any; store `CompileFacts`.

    The result has the files `tree.tar` (what the product is, without manifest) and `debug.tar`.

    Raises:
        StageError: the build failed, left no binary for this machine, or left what cannot be packed.
    """
    known = source.read(SourceFacts)
    unpatched = (spec.product.name, known.kind, known.url, known.commit)
    cache = compiler_cache.of(workspace, [source.identity], unpatched=unpatched)
    log = workspace.log_path(cell.group, STAGE_NAME)
    epoch = known.epoch
    with workspace.store.scratch() as scratch:
        job = Job(
            label=_label(cell),
            image=image.read(ImageStageFacts).build,
            argv=("sh", "guest/run.sh", "compile", "tree", "debug", "facts"),
            env=_environment(workspace, spec, cell, epoch=epoch, built=allocator is not None),
            inputs=(
                workspace.guest(*SCRIPTS),
                Input(folder="src", archive=source.files["source.tar"], packed=True),
                Input(folder="", archive=files({"recipe.sh": workspace.base / spec.product.recipe}), sealed=True),
                *(
                    ()
                    if allocator is None
                    else (Input(folder="allocator", archive=allocator.files["prefix.tar"], packed=True),)
                ),
            ),
            outputs=("packed/tree.tar", "packed/debug.tar"),
            facts=("packed/facts.tar",),
            log=log,
            cache=cache.name,
            timeout=workspace.bounds.seconds,
        )
        try:
            done = run_job(workspace, job, scratch, stage=STAGE_NAME, label=cell.group, failed="the build failed")
        except StageError as error:
            raise explained(
                error, MESSAGES, recipe=spec.product.recipe, family=families.of(spec.images[cell.image].family).recipe
            ) from None
        tree, debug = done.outputs["packed/tree.tar"], done.outputs["packed/debug.tar"]
        members.check(tree, debug, stage=STAGE_NAME, label=cell.group, log=log)
        _check_formats(spec, cell, tree, log)
        try:
            facts = _facts(guest_facts(done.outputs["packed/facts.tar"]))
        except (OutputError, AuditError) as error:
            raise unreadable(error, stage=STAGE_NAME, label=cell.group, log=log) from error
        kept = {"tree.tar": tree, "debug.tar": debug, compiler_cache.FILE: compiler_cache.record(cache, scratch)}
        return workspace.store.put(STAGE_NAME, key, identity=sha256(tree), facts=facts, files=kept)


def _check_formats(spec: Spec, cell: Cell, tree: Path, log: Path) -> None:
    """Raise StageError for what a format of the image cannot hold."""
    try:
        formats.check_tree(spec.images[cell.image].formats, tree)
    except PackingError as error:
        found = replace(failure(stage=STAGE_NAME, label=cell.group, log=log), findings=(error.message,))
        raise StageError(f"the tree cannot be packed ({error.where})", found, hint=error.hint) from error


def _label(cell: Cell) -> str:
    return f"{STAGE_NAME}-{cell.group}"


def _environment(workspace: Workspace, spec: Spec, cell: Cell, *, epoch: int, built: bool) -> dict[str, str]:
    """Return the variables of compile.sh; `built` if the allocator was built for the target."""
    product, entry = spec.product, spec.allocators[cell.allocator]
    kind = allocators.kind_of(spec, cell.allocator)
    return {
        "PIKAFORGE_PRODUCT": product.name,
        "PIKAFORGE_VERSION": product.version,
        "PIKAFORGE_JOBS": str(workspace.jobs),
        "PIKAFORGE_TARGET_FLAGS": " ".join(cell.flags),
        # No word of these has a blank in it: the model refuses them.
        "PIKAFORGE_EXTRA_CFLAGS": " ".join(compilers.cflags(spec, cell.image)),
        "PIKAFORGE_EXTRA_CXXFLAGS": " ".join(compilers.cxxflags(spec, cell.image)),
        "PIKAFORGE_KEEP_WERROR": str(int(product.keep_werror)),
        "PIKAFORGE_FRAME_POINTERS": str(int(entry.frame_pointers)),
        "PIKAFORGE_ALLOCATOR": "own" if built else "system" if kind.presence else "none",
        **kind.use(entry),
        **({"PIKAFORGE_ALLOCATOR_DIR": f"{workspace.engine.root(_label(cell))}/allocator"} if built else {}),
        "PIKAFORGE_BINARIES": " ".join(product.binaries),
        "PIKAFORGE_FILES": " ".join(product.files),
        "PIKAFORGE_LICENCES": " ".join(product.licence_files),
        "PIKAFORGE_BASE_LIBS": " ".join(spec.defaults.base_libraries),
        "PIKAFORGE_CCACHE": str(int(workspace.compiler_cache)),
        "SOURCE_DATE_EPOCH": str(epoch),
    }


def _facts(found: GuestFacts) -> CompileFacts:
    return CompileFacts(
        compiler=found.lines("compiler.txt"),
        dropped=found.dropped(),
        bundled=tuple(
            BundledLibrary(soname=soname, path=path, package=package, version=version, sha256=digest)
            for soname, path, package, version, digest in (r for r in found.rows("bundled.tsv") if len(r) == 5)
        ),
        licences=licence_records(found.rows("licences.tsv")),
        macros=found.lines("macros.txt"),
    )


def licence_records(rows: Iterable[Sequence[str]]) -> tuple[LicenceRecord, ...]:
    """Return what the lines of licences.tsv say, by name in the order of the lines."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, name, value in (row for row in rows if len(row) == 3):
        if kind in ("name", "file") and value.strip():
            found.setdefault(name, {"name": [], "file": []})[kind].append(clean(value).strip())
    return tuple(
        LicenceRecord(of=name, names=tuple(known["name"]), files=tuple(known["file"])) for name, known in found.items()
    )


class CompileStage(BaseStage):
    """Compiles the product for a target."""

    name = STAGE_NAME
    scope: Scope = "group"
    facts = CompileFacts
    demand = COMPILES
    seconds = 300.0

    def needs(self, slot: Slot) -> Needs:
        """Return that it needs source, image and allocator."""
        return Needs(ids=(slot.source, slot.image, *slot.allocator))

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return recipe, flags and guest scripts as key material."""
        return Material(facts=material(run.spec, node.cell, base=run.workspace.base, home=run.home))

    def remarks(self, result: Result, run: RunContext, *, fresh: bool) -> Iterable[str]:
        """Return what travels without its licence."""
        found = result.read(CompileFacts)
        known = {record.of for record in found.licences if record.files}
        bare = sorted({library.package for library in found.bundled if library.package != BUILT_HERE} - known)
        if fresh and bare:
            yield (
                f"the image has no licence of {', '.join(bare)}, so that packages have the libraries without it; does "
                "the image leave documents out?"
            )
        if fresh and run.spec.product.name not in known:
            yield "the source has no file with a licence; product.licence_files can name it"

    def lost(self, result: Result, run: RunContext, *, engine_answers: Callable[[], bool]) -> str:
        """Return that a run without compiler caches takes nothing that was made with one."""
        return compiler_cache.lost(result, run.workspace)

    def unfit(self, result: Result, run: RunContext) -> str:
        """Return what is wrong with the trees, as for one that was compiled here."""
        wanted = {"tree.tar", "debug.tar", compiler_cache.FILE}
        if set(result.files) != wanted:
            return f"its files are not {', '.join(sorted(wanted))}"
        return members.refusal(result.files["tree.tar"], result.files["debug.tar"])

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Compile the product."""
        return make(
            run.workspace,
            run.spec,
            inputs.node.cell,
            inputs.source,
            inputs.image,
            key=key,
            allocator=inputs.allocator,
        )


STAGE = CompileStage()
