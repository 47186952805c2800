"""The audit stage: a tree may be packed only if it runs on every CPU and host that its package is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

from pikaforge.audit import audit_result
from pikaforge.audit.audit_record import AuditRecord
from pikaforge.audit.audit_result import AuditResult, Rules
from pikaforge.audit.distribution import Distribution, PackagedRecord
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.judge_allocator import AllocatorRules
from pikaforge.audit.judge_instructions import WAIVERS
from pikaforge.audit.judge_linkage import LinkageRules
from pikaforge.config.schema import Spec
from pikaforge.errors import StageError, StageFailure
from pikaforge.formats.manifest import BUILT_HERE
from pikaforge.host import hashing
from pikaforge.host.store import Result
from pikaforge.host.text import clean
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import compile as compile_stage
from pikaforge.pipeline.allocator import AllocatorFacts
from pikaforge.pipeline.compile import BundledLibrary, CompileFacts
from pikaforge.pipeline.image import libraries
from pikaforge.pipeline.image.facts import ImageStageFacts
from pikaforge.pipeline.image.libraries import Libraries
from pikaforge.pipeline.stage import BaseStage, Inputs, Material, RunContext
from pikaforge.plan.budget import Demand
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Node
from pikaforge.plan.stages import Needs, Scope, Slot

STAGE_NAME = "audit"
BUILD_FOLDER = "/forge"
"""Where containers compile (`host.container`)."""
SHOWN = 12
"""Violations in an error; the log has all of them."""


def _rules(
    spec: Spec,
    cell: Cell,
    *,
    maxima: Mapping[str, str],
    forbidden: tuple[str, ...],
    libraries: Mapping[str, str] | None = None,
    distribution: Distribution | None = None,
) -> Rules:
    entry = spec.allocators[cell.allocator]
    return Rules(
        linkage=LinkageRules(base_libraries=spec.defaults.base_libraries, maxima=maxima),
        forbidden=forbidden,
        memory=AllocatorRules(
            kind=entry.kind,
            programs=spec.product.binaries,
            unwinder=entry.unwinder or "",
            ours=libraries or {},
        ),
        waivers=spec.waivers,
        distribution=distribution or Distribution(baseline=spec.images[cell.image].baseline),
        image=cell.image,
        allocator=cell.allocator,
    )


def distribution(baseline: str, bundled: Sequence[BundledLibrary], record: Libraries) -> Distribution:
    """Return what the image's record says of the bundled libraries, by their digests before they were changed.

    The digests are the word of a container in which a recipe has run as root. So the audit compares the code of the
    files in the tree with the record, too.
    """
    known = record.by_digest()
    found: dict[str, PackagedRecord] = {}
    strangers: dict[str, str] = {}
    for library in bundled:
        if library.package == BUILT_HERE:
            continue
        if (entry := known.get(library.sha256)) is not None:
            found[library.path] = entry
        else:
            altered = [name for name in record.altered if name.rpartition("/")[2].startswith(library.soname)]
            strangers[library.path] = (
                f"{altered[0]} in the image is not what its package has brought"
                if altered
                else f"no package of the image has brought this file (of {library.package})"
            )
    return Distribution(baseline=baseline, libraries=found, strangers=strangers)


def material(spec: Spec, cell: Cell, *, today: date) -> dict[str, object]:
    """Return the key material: rules, tables, decoder, and which waivers have expired."""
    rules = _rules(spec, cell, maxima={}, forbidden=())
    return audit_result.material(rules, target=cell.target, flags_used=cell.flags, today=today)


def make(
    workspace: Workspace,
    spec: Spec,
    cell: Cell,
    compiled: Result,
    image: Result,
    *,
    key: str,
    today: date,
    allocator: Result | None = None,
) -> Result:
    """Judge the tree of a target, and the allocator that was built for it; store the `AuditRecord`.

    Raises:
        StageError: the tree is refused. Every violation is in the log, the first ones in the error, and the record is
            in it.
        AuditError: it cannot be read.
    """
    label = cell.group
    log = workspace.log_path(label, STAGE_NAME)
    facts = compiled.read(CompileFacts)
    # Not the folder above: what is compiled against a library there has its path by right.
    own_folder = workspace.engine.root(f"{compile_stage.STAGE_NAME}-{label}") if workspace.engine.kind == "host" else ""
    rules = _rules(
        spec,
        cell,
        maxima=image.read(ImageStageFacts).abi,
        forbidden=(BUILD_FOLDER, own_folder) if own_folder else (BUILD_FOLDER,),
        libraries=allocator.read(AllocatorFacts).libraries if allocator is not None else None,
        distribution=distribution(spec.images[cell.image].baseline, facts.bundled, libraries.read(image)),
    )
    from pikaforge.audit import audit  # noqa: PLC0415  # what decodes; keys and records need none of it
    from pikaforge.audit.isa.worker_pool import at_most  # noqa: PLC0415

    with workspace.store.scratch() as scratch, at_most(workspace.jobs):
        verdict = audit.audit_compiled(
            compiled.files["tree.tar"],
            [result.files["debug.tar"] for result in (compiled, allocator) if result is not None],
            scratch,
            label=label,
            target=cell.target,
            flags_used=cell.flags,
            macros=facts.macros,
            # What was built here is our own code, too, and held to the same flags.
            bundled=[library.path for library in facts.bundled if library.package != BUILT_HERE],
            dropped=facts.dropped,
            rules=rules,
            today=today,
        )
    lines = audit_result.demangled(verdict.lines(limit=1 << 20))
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    record = verdict.record()
    if verdict.violations:
        raise _refusal(verdict, cell, record, log, facts.bundled)
    identity = hashing.digest(record.model_dump_json())
    return workspace.store.put(STAGE_NAME, key, identity=identity, facts=record, files={})


def _refusal(
    verdict: AuditResult, cell: Cell, record: AuditRecord, log: Path, bundled: Iterable[BundledLibrary]
) -> StageError:
    """Return the error with the first violations of each file, and the number of all."""
    refused = {violation.where for violation in verdict.violations}
    causes = [
        clean(
            f"{library.path} is of the image's package {library.package}; it travels in the tree because no glob of "
            f"defaults.base_libraries fits {library.soname}"
        )
        for library in bundled
        if library.path in refused and library.package != BUILT_HERE
    ]
    count = len(verdict.violations)
    shown = _some(verdict)
    lines = audit_result.demangled([f"{v.where}: {v.what}" for v in shown])
    more = [f"{count - len(shown)} more, all in the log"] if count > len(shown) else []
    return StageError(
        f"the audit refuses it for {cell.target}: {count} violation{'s' if count > 1 else ''}",
        StageFailure(stage=STAGE_NAME, label=cell.group, log=str(log), findings=(*lines, *more), facts=record),
        hint="\n".join(dict.fromkeys([*(v.do for v in verdict.violations if v.do), *causes])),
    )


def _some(verdict: AuditResult) -> list[LineRecord]:
    """Return the violations for an error: functions, and at least half as many of other kinds, if there are any."""
    functions = [violation for violation in verdict.isa.violations if violation.where != WAIVERS]
    others = [violation for violation in verdict.violations if violation not in functions]
    room = max(SHOWN - len(others), SHOWN // 2)
    return [*functions[:room], *others[: SHOWN - min(len(functions), room)]]


class AuditStage(BaseStage):
    """Judges a tree that goes into packages; a twin's own tree does not."""

    name = STAGE_NAME
    scope: Scope = "group"
    facts = AuditRecord
    reads = frozenset({"allocator", "compile"})
    demand = Demand(memory=512 << 20)
    seconds = 15.0

    def needs(self, slot: Slot) -> Needs | None:
        """Return that it needs tree, image and allocator."""
        if not slot.own:
            return None
        return Needs(ids=(f"compile:{slot.label}", slot.image, *slot.allocator), cells=slot.own)

    def material(self, node: Node, run: RunContext, *, offline: bool) -> Material:
        """Return rules, tables and waivers as key material."""
        return Material(facts=material(run.spec, node.cell, today=run.request.today))

    def make(self, inputs: Inputs, run: RunContext, *, key: str) -> Result:
        """Judge the tree."""
        return make(
            run.workspace,
            run.spec,
            inputs.node.cell,
            inputs.of("compile"),
            inputs.image,
            key=key,
            today=run.request.today,
            allocator=inputs.allocator,
        )


STAGE = AuditStage()
