"""`build`: run the plan, and put the packages into dist/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from pikaforge.cli import github
from pikaforge.cli.context import Context
from pikaforge.cli.faces.closing import close_run
from pikaforge.cli.faces.expected import EarlierTimes
from pikaforge.cli.faces.opening import chosen_face, reporting
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.faces.reproduce import command_for, options_of
from pikaforge.cli.plan_output import left_out
from pikaforge.cli.unchanged.heard import HeardFace
from pikaforge.cli.unchanged.keep import keep_build
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, SelectionError
from pikaforge.host import offline, watch
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import dist, report
from pikaforge.pipeline.image.image import check_family
from pikaforge.pipeline.pipeline import Pipeline, Report
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import Plan


def build(context: Context) -> int:
    """Run `build`; return the exit status."""
    heard = HeardFace(*chosen_face(context))
    with reporting(context, heard) as reporter:
        cells = context.cells()
        if context.arguments.chunk and (text := left_out(context.cells_for_jobs())):
            reporter.warning(text)
        if not cells:  # of a chunk; selectors that select nothing are refused
            reporter.notice(f"there are fewer jobs than {context.arguments.chunk}: nothing is left for this one")
            return EXIT_DONE
        refuse_problems(cells)
        refuse_early(context, cells)
        run = prepare(context, reporter)
        plan = context.plan(run.machine, cells)
        refuse_problems(plan.cells)
        done = execute(context, run, plan)
        put = dist.write(run.workspace, context.spec, done)
        code = status(done)
        close_run(
            reporter,
            done,
            put,
            spec=context.spec,
            selectors=context.arguments.selectors,
            report=context.dist / report.name_of(context.dist, context.spec.product.name),
            command=partial(command_for, context.arguments),
            status=code,
        )
        github.build_outputs(os.environ, context.dist, put.report, {cell.id for cell in cells})
    if not put.written and not run.left:
        keep_answer(context, run.workspace, heard)
    return code


def keep_answer(context: Context, workspace: Workspace, heard: HeardFace) -> None:
    """Keep the answer of a run that has made nothing, if it is one that the next call may take."""
    seen = watch.current()
    if seen is not None:
        keep_build(workspace, seen, heard.events, face=heard.name, argv=context.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What a run works with. The engine answers, and the source is known."""

    workspace: Workspace
    pipeline: Pipeline
    machine: Machine
    reporter: Reporter
    left: int = 0
    """What killed runs had left, and was removed."""


def prepare(context: Context, reporter: Reporter) -> PreparedRun:
    """Look up the engine, its CPU and the source, and remove what killed runs have left.

    Args:
        context: the call.
        reporter: takes what is to be said.

    Raises:
        HostError: no engine answers, or the source cannot be reached.
        ConfigError: the source differs from its pin.
    """
    engine = context.engine()
    engine.verify()
    workspace = context.workspace(engine)
    workspace = replace(workspace, jobs=workspace.jobs or engine.cores(), on_log=reporter.log_begun)
    left = engine.sweep(reporter.notice) + workspace.sweep()
    if left:
        reporter.notice(f"removed {left} leftovers of a run that was killed")
    _take_bundle(context, workspace, reporter)
    pipeline = context.pipeline(workspace)
    pipeline.identify_source()
    flags = engine.known_cpu_flags()
    if flags is None:  # the engine is on another machine: a container has to look
        flags = engine.cpu_flags(pipeline.tools_image(reporter))
    return PreparedRun(
        workspace=workspace, pipeline=pipeline, machine=context.machine(flags), reporter=reporter, left=left
    )


def _take_bundle(context: Context, workspace: Workspace, reporter: Reporter) -> None:
    """Fill the caches from the unpacked bundle that PIKAFORGE_OFFLINE names, if it names one."""
    folder = offline.folder()
    if folder is not None:
        from pikaforge.bundle import feed  # noqa: PLC0415  # most builds have none

        cells = context.cells()
        feed.check_cells(folder, cells)
        feed.fill(folder, workspace, cells, reporter.notice)


def execute(context: Context, run: PreparedRun, plan: Plan) -> Report:
    """Run a plan, after a report of what it will do."""
    reporter = run.reporter
    for warning in plan.warnings:
        reporter.warning(warning)
    earlier = report.load(context.dist, report.name_of(context.dist, context.spec.product.name))
    times = EarlierTimes.of([earlier] if earlier is not None else [])
    views = run.pipeline.views(plan, engine_answers=lambda: True)
    given = options_of(context.arguments)
    options = [f"--{name.replace('_', '-')}{'' if value is None else f' {value}'}" for name, value in given]
    reporter.opened(context.spec.product, plan, views, times, options)
    return run.pipeline.execute(plan, reporter)


def refuse_early(context: Context, cells: Sequence[Cell]) -> None:
    """Refuse what a run would find out only after it has begun.

    Raises:
        ConfigError: a patch file is missing, a given tarball is another one, or an image's family is unknown.
    """
    context.check_patches()
    context.check_given(cells)
    for image in dict.fromkeys(cell.image for cell in cells):
        check_family(context.spec, image, context.home)


def refuse_problems(cells: Sequence[Cell]) -> None:
    """Raise ConfigError if cells cannot be built; it names all of them."""
    bad = [cell for cell in cells if cell.problem]
    if bad:
        raise SelectionError(
            f"{len(bad)} of {len(cells)} cells cannot be built; nothing was started",
            where="images",
            hint="\n".join(f"{cell.id}: {cell.problem}" for cell in bad),
        )


def status(done: Report) -> int:
    """Return the exit status of a run: that of the one kind of error that occurred, or 4 if there were several."""
    codes = {error.exit_code for error in done.errors}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_STAGE
