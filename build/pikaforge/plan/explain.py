"""Why a cell is what it is: its target, its flags, what leaves it out, and how it can be tried. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pikaforge.config import compilers
from pikaforge.config.nearest import KNOWN_LIMIT, did_you_mean, nearest
from pikaforge.config.schema import Rule, Spec
from pikaforge.cpu import emulation, microarch
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import ConfigError
from pikaforge.plan import twins
from pikaforge.plan.cells import Cell
from pikaforge.plan.matrix import Combinations, Triple, all_cells, cell_of, combinations

WHERE = "--why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A CPU of a model whose code the model's other CPUs do not all run."""

    cpu: str
    lacking: tuple[tuple[str, tuple[str, ...]], ...]
    """The CPUs that do not run it, each with the features that it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What decides a cell. Features have archspec's names."""

    cell: Cell
    cpus: tuple[str, ...]
    note: str
    """Of the model."""
    refused: tuple[Refused, ...]
    """CPUs of the model that cannot be the target."""
    gcc: str
    reason: str
    """Why the compiler cannot produce the wanted target; "" if it can."""
    nearest: str
    """The nearest that it can; "" if it can produce the wanted one."""
    given_up: tuple[str, ...]
    """Features of the wanted target that the nearest one does not use."""
    added: tuple[str, ...]
    """Flags of `product.compilers`, each list with its language."""
    left_out: str
    """Why the matrix does not have the cell; "" if it has."""
    tried: str
    """How the smoke test can run it."""


def explain(spec: Spec, cell_id: str, machine: Machine) -> Explanation:
    """Return what decides a cell, which may be one that the matrix leaves out.

    Args:
        spec: the specification.
        cell_id: MODEL-IMAGE-ALLOCATOR.
        machine: where the smoke tests would run.

    Raises:
        ConfigError: no model, image and allocator of the specification make that id; with the nearest ones.
    """
    triple = _triple(spec, cell_id)
    cell = cell_of(spec, triple)
    model, image = spec.hardware[cell.model], spec.images[cell.image]
    wanted = microarch.resolve(cell.wanted, image.gcc)
    lost = microarch.features(cell.wanted) - microarch.features(wanted.nearest) if wanted.nearest else frozenset()
    flags = (("C", compilers.cflags(spec, cell.image)), ("C++", compilers.cxxflags(spec, cell.image)))
    return Explanation(
        cell=cell,
        cpus=model.cpus,
        note=model.note,
        refused=_refused(model.cpus, cell.wanted),
        gcc=image.gcc,
        reason=wanted.reason,
        nearest=wanted.nearest,
        given_up=tuple(sorted(lost)),
        added=tuple(f"{language}: {' '.join(words)}" for language, words in flags if words),
        left_out=_left_out(combinations(spec), triple),
        tried=_tried(spec, cell, machine),
    )


def _triple(spec: Spec, cell_id: str) -> Triple:
    ids = {
        f"{model}-{image}-{allocator}": (model, image, allocator)
        for model in spec.hardware
        for image in spec.images
        for allocator in spec.allocators
    }
    if cell_id in ids:
        return ids[cell_id]
    if cell_id in spec.hardware:
        of_model = [name for name, (model, _, _) in ids.items() if model == cell_id]
        raise ConfigError(
            f"{cell_id} is a model; a cell is MODEL-IMAGE-ALLOCATOR",
            where=WHERE,
            hint=f"its cells: {', '.join(of_model[:4])}{', …' if len(of_model) > 4 else ''}",
        )
    known = list(ids)
    if len(known) > KNOWN_LIMIT:  # too many to compare: those of the models that it begins with
        models = [model for model in spec.hardware if cell_id.startswith(f"{model}-")]
        models = models or nearest(cell_id.partition("-")[0], spec.hardware, count=3, cutoff=0.5)
        known = [name for name, (model, _, _) in ids.items() if model in models][:KNOWN_LIMIT]
    raise ConfigError(
        f"there is no cell {cell_id!r}",
        where=WHERE,
        hint=did_you_mean(cell_id, known) or "`nox -s matrix -- --all` lists the cells",
    )


def _refused(cpus: tuple[str, ...], target: str) -> tuple[Refused, ...]:
    """Return the CPUs of a model that are not the target although they have more features than it."""
    found = []
    for cpu in dict.fromkeys(cpus):
        lacking = tuple(
            (other, tuple(sorted(microarch.features(cpu) - microarch.features(other))))
            for other in dict.fromkeys(cpus)
            if not microarch.features(cpu) <= microarch.features(other)
        )
        if cpu != target and lacking:
            found.append(Refused(cpu=cpu, lacking=lacking))
    return tuple(found)


def _left_out(matrix: Combinations, triple: Triple) -> str:
    if triple in matrix.triples:
        return ""
    rule = matrix.excluded.get(triple)
    if rule is None:
        return "matrix.axes do not have it"
    return f"matrix.exclude has {_globs(rule)}" + (f": {rule.reason}" if rule.reason else ", without a reason")


def _globs(rule: Rule) -> str:
    parts = (("model", rule.model), ("image", rule.image), ("allocator", rule.allocator))
    return ", ".join(f"{axis} {glob}" for axis, glob in parts if glob != "*") or "everything"


def _tried(spec: Spec, cell: Cell, machine: Machine) -> str:
    """Return how the smoke test runs what is built for a cell."""
    if cell.problem:
        return "not at all: it cannot be built"
    ways = [] if emulation.lacking(cell.target, machine.flags) else ["by this machine's CPU"]
    cpu = emulation.stand_for(cell.target)
    if machine.emulates and cpu.cpu:
        ways.append(f"emulated, as {cpu.cpu}")
    if ways:
        return " and ".join(ways)
    usual = {other.target for other in all_cells(spec) if other.image == cell.image and not other.problem}
    twin = twins.twin_of(cell.target, gcc=spec.images[cell.image].gcc, machine=machine, usual=usual)
    why = cpu.reason or "no emulator is configured (defaults.emulator)"
    if not twin:
        return f"not at all here: {why}"
    return f"as its twin {twin}, because this machine's CPU lacks a part of {cell.target}, and {why}"
