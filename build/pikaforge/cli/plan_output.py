"""What `plan` and `matrix` print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from pikaforge.cli.output import built_target, count, table
from pikaforge.config import compilers
from pikaforge.config.product import Adaptation
from pikaforge.config.scalars import Strict
from pikaforge.config.schema import Spec
from pikaforge.pipeline.outcomes import View
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Plan

# ---- documents for scripts: the fields of these models, in this order, are what is printed


class MatrixCell(Strict):
    """A cell in the document of `matrix`."""

    id: str
    model: str
    image: str
    allocator: str
    target: str
    wanted: str
    flags: tuple[str, ...]
    problem: str
    remark: str


class PlannedCell(MatrixCell):
    """A cell in the document of `plan`."""

    tried: str


class PlannedNode(Strict):
    """A node in the document of `plan`."""

    stage: str
    label: str
    key: str
    cells: tuple[str, ...]
    needs: tuple[str, ...]
    cached: bool
    why: str


class ImageCompiler(Strict):
    """What the compiler of an image gets beside the target's flags."""

    gcc: str
    cflags: tuple[str, ...]
    cxxflags: tuple[str, ...]
    adaptations: tuple[Adaptation, ...]
    keep_werror: bool


class MatrixDocument(Strict):
    """The output of `matrix --format json`."""

    cells: tuple[MatrixCell, ...]


class PlanDocument(Strict):
    """The output of `plan --json`."""

    cells: tuple[PlannedCell, ...]
    nodes: tuple[PlannedNode, ...]
    compilers: Mapping[str, ImageCompiler] | None
    """By image; None: they were not asked for."""
    warnings: tuple[str, ...]
    problems: Mapping[str, str]
    """Why cells cannot be built, by their ids."""


def _json(document: Strict) -> str:
    return json.dumps(document.model_dump(mode="json", exclude_none=True), indent=2)


def plan_json(plan: Plan, views: Sequence[View], spec: Spec | None = None) -> str:
    """Return the document of `plan`; with `spec`, it has the flags that each image's compiler gets."""
    document = PlanDocument(
        cells=tuple(PlannedCell.model_validate(cell, from_attributes=True) for cell in plan.cells),
        nodes=tuple(map(_planned_node, views)),
        compilers=None if spec is None else {image: _image_compiler(spec, image) for image in _images(plan)},
        warnings=plan.warnings,
        problems={cell.id: cell.problem for cell in plan.problems},
    )
    return _json(document)


def matrix_json(cells: Sequence[Cell]) -> str:
    """Return the document of `matrix`."""
    return _json(MatrixDocument(cells=tuple(MatrixCell.model_validate(c, from_attributes=True) for c in cells)))


def _planned_node(view: View) -> PlannedNode:
    return PlannedNode(
        stage=view.node.stage,
        label=view.node.label,
        key=view.key,
        cells=tuple(cell.id for cell in view.node.cells),
        needs=view.node.needs,
        cached=view.cached,
        why=view.why,
    )


def _image_compiler(spec: Spec, image: str) -> ImageCompiler:
    return ImageCompiler(
        gcc=spec.images[image].gcc,
        cflags=compilers.cflags(spec, image),
        cxxflags=compilers.cxxflags(spec, image),
        adaptations=compilers.adaptations(spec, image),
        keep_werror=spec.product.keep_werror,
    )


def _images(plan: Plan) -> Iterator[str]:
    """Return the images of the cells that can be built, once each."""
    return iter(dict.fromkeys(cell.image for cell in plan.cells if not cell.problem))


# ---- tables for people


def plan_text(plan: Plan, views: Sequence[View], spec: Spec | None = None) -> str:
    """Return a plan as tables: cells, flags that compilers get (with `spec`), and nodes; then warnings and problems."""
    blocks = [table(("CELL", "TARGET", "TRIED AS", "FLAGS"), [_cell_row(cell) for cell in plan.cells])]
    if spec is not None:
        blocks.extend(_compiler_blocks(spec, plan))
    if views:
        blocks.append(table(("STAGE", "NODE", "CELLS", "KEY", "STATE", "WHY"), [_node_row(view) for view in views]))
    waiting = sum(not view.cached for view in views)
    notes = [f"{count(len(plan.cells), 'cell')}, {count(len(views), 'node')}, {waiting} to do"]
    notes.extend(f"warning: {text}" for text in plan.warnings)
    notes.extend(f"error: {cell.id}: {cell.problem}" for cell in plan.problems)
    return "\n\n".join([*blocks, "\n".join(notes)])


def _cell_row(cell: Cell) -> tuple[str, ...]:
    if cell.problem:
        return cell.id, "-", "-", " ".join(cell.flags) or "-"
    return cell.id, built_target(cell.target, cell.wanted), cell.tried, " ".join(cell.flags) or "-"


def _node_row(view: View) -> tuple[str, ...]:
    node, state = view.node, "cached" if view.cached else "to do"
    return node.stage, node.label, str(len(node.cells)), view.key[:12], state, view.why


def _compiler_blocks(spec: Spec, plan: Plan) -> Iterator[str]:
    """Return a table of the flags that compilers get for the product, if there are any; and a line on -Werror."""
    rows = [
        (image, spec.images[image].gcc, entry.gcc, language, " ".join(flags), entry.why)
        for image in _images(plan)
        for entry in compilers.adaptations(spec, image)
        for language, flags in (("C", entry.cflags), ("C++", entry.cxxflags))
        if flags
    ]
    if rows:
        yield table(("IMAGE", "GCC", "WITH", "LANGUAGE", "ADDED", "WHY"), rows)
    if spec.product.keep_werror:
        yield "-Werror of the product's build files counts (product.keep_werror)"


def left_out(cells: Sequence[Cell]) -> str:
    """Return a line for each cell that no job builds, because it cannot be built."""
    return "\n".join(f"left out: {cell.id}: {cell.problem}" for cell in cells if cell.problem)


def matrix_text(cells: Sequence[Cell]) -> str:
    """Return cells as a table."""
    rows = [
        (
            cell.id,
            cell.model,
            cell.image,
            cell.allocator,
            built_target(cell.target, cell.wanted),
            f"no: {cell.problem}" if cell.problem else "yes",
        )
        for cell in cells
    ]
    return table(("CELL", "MODEL", "IMAGE", "ALLOCATOR", "TARGET", "POSSIBLE"), rows)
