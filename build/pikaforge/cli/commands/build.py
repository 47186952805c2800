"""`build`: run the plan, and put the packages into dist/."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pikaforge.cli import github
from pikaforge.cli.context import Context
from pikaforge.cli.faces.closing import close_run
from pikaforge.cli.faces.opening import chosen_face, reporting
from pikaforge.cli.faces.reporter import Reporter
from pikaforge.cli.faces.reproduce import command_for, options_of
from pikaforge.cli.plan_output import left_out
from pikaforge.cli.unchanged import again
from pikaforge.cli.unchanged.heard import HeardFace
from pikaforge.cli.unchanged.keep import keep_build
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, SelectionError
from pikaforge.host import offline, watch
from pikaforge.host.store_folders import refuse_unwritable
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import dist, report
from pikaforge.pipeline.expected import EarlierTimes, seconds_of
from pikaforge.pipeline.image.building import check_family
from pikaforge.pipeline.outcomes import Report
from pikaforge.pipeline.pipeline import Pipeline, budget_of
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell, extended
from pikaforge.plan.plan import Plan

if TYPE_CHECKING:
    from pikaforge.cli.farm import Farm


def build(context: Context) -> int:
    """Run `build`; return the exit status."""
    heard = HeardFace(*chosen_face(context))
    ended = _build(context, heard)
    if ended is None:
        return EXIT_DONE
    keep_answer(context, ended, heard)
    near = ended.run.farm is None and (ended.run.workspace.engine.kind == "host" or watch.asks_here())
    if near and ended.code == EXIT_DONE and again.is_worth_it(ended.made, len(ended.done.plan.nodes)):
        again.build_again(context.argv, heard.name, partial(_once_more, context))
    return ended.code


def _once_more(context: Context, heard: HeardFace) -> None:
    """Build what has just been built, and keep the answer."""
    anew = Context(context.arguments, context.argv)
    ended = _build(anew, heard)
    if ended is not None:
        keep_answer(anew, ended, heard)


def _build(context: Context, heard: HeardFace) -> EndedBuild | None:
    """Build; return what has run, or None if there was nothing to build."""
    with reporting(context, heard) as reporter, farm_of(context) as farm:
        cells = context.cells()
        if context.arguments.chunk and (text := left_out(context.cells_for_jobs())):
            reporter.warning(text)
        if not cells:  # of a chunk; selectors that select nothing are refused
            reporter.notice(f"there are fewer jobs than {context.arguments.chunk}: nothing is left for this one")
            return None
        refuse_problems(cells)
        refuse_early(context, cells)
        run = prepare(context, reporter, farm)
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
    return EndedBuild(run=run, done=done, written=put.written, code=code)


def keep_answer(context: Context, ended: EndedBuild, heard: HeardFace) -> None:
    """Keep the answer of a run that has made nothing, if it is one that the next call may take."""
    seen = watch.current()
    if seen is not None and ended.run.farm is None and not ended.written and not ended.run.left:
        keep_build(ended.run.workspace, seen, heard.events, face=heard.name, argv=context.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What a run works with. The engine answers, and the source is known."""

    workspace: Workspace
    pipeline: Pipeline
    machine: Machine
    reporter: Reporter
    farm: Farm | None = None
    """What makes nodes, if that is not this machine."""
    left: int = 0
    """What killed runs had left, and was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedBuild:
    """What a build has done."""

    run: PreparedRun
    done: Report
    written: int
    """Number of files that it has put into dist/ and that were not there yet."""
    code: int
    """The exit status."""

    @property
    def made(self) -> int:
        """The number of nodes that it has made."""
        return sum(outcome.status == "done" for outcome in self.done.outcomes.values())


@contextmanager
def farm_of(context: Context) -> Iterator[Farm | None]:
    """Connect to the cluster of --farm, if there is one."""
    if not getattr(context.arguments, "farm", ""):
        yield None
        return
    from pikaforge.cli.farm import connection  # noqa: PLC0415  # most builds have none

    with connection(context) as farm:
        yield farm


def prepare(context: Context, reporter: Reporter, farm: Farm | None = None) -> PreparedRun:
    """Look up the engine, its CPU and the source, and remove what killed runs have left.

    Args:
        context: the call.
        reporter: takes what is to be said.
        farm: what makes nodes, if that is not this machine.

    Raises:
        HostError: no engine answers, a folder cannot be written, or the source cannot be reached.
        ConfigError: the source differs from its pin.
    """
    refuse_unwritable(context.out, context.out / "store", context.dist)
    engine = farm.engine if farm is not None else context.engine()
    engine.verify()
    workspace = context.workspace(engine)
    workspace = replace(workspace.sized(), on_log=reporter.log_begun)
    left = engine.sweep(reporter.notice) + workspace.sweep()
    if left:
        reporter.notice(f"removed {left} leftovers of a run that was killed")
    _take_bundle(context, workspace, reporter)
    pipeline = context.pipeline(workspace)
    pipeline.identify_source()
    flags = engine.known_cpu_flags()
    if flags is None:  # the engine is on another machine: a container has to look
        flags = engine.cpu_flags(pipeline.tools_image(reporter))
    machine = context.machine(flags)
    if farm is not None:
        machine = farm.machine(machine)
    return PreparedRun(workspace=workspace, pipeline=pipeline, machine=machine, reporter=reporter, farm=farm, left=left)


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
    times = _times(context)
    views = run.pipeline.views(plan, engine_answers=lambda: True)
    given = options_of(context.arguments)
    options = [f"--{name.replace('_', '-')}{'' if value is None else f' {value}'}" for name, value in given]
    budget = run.farm.budget if run.farm is not None else budget_of(run.workspace)
    reporter.opened(context.spec.product, plan, views, times, options, budget=budget)
    cached = {view.node.id for view in views if view.cached}
    runner = run.farm.runner(run.pipeline, run.workspace, reporter) if run.farm is not None else None
    done = run.pipeline.execute(
        plan, reporter, runner=runner, seconds=seconds_of(plan, cached, times), demand=times.demand
    )
    if run.workspace.shared is not None and (text := run.workspace.shared.summary()):
        reporter.notice(text)
    return done


def _times(context: Context) -> EarlierTimes:
    """Return the times of earlier runs. Nothing else of their report is held while nodes are made."""
    earlier = report.load(context.dist, report.name_of(context.dist, context.spec.product.name))
    return EarlierTimes.of([earlier] if earlier is not None else [])


def refuse_early(context: Context, cells: Sequence[Cell]) -> None:
    """Refuse what a run would find out only after it has begun.

    Raises:
        ConfigError: a patch file is missing, a given tarball is another one, or an image's family is unknown.
    """
    context.check_patches()
    context.check_given(cells)
    for image, allocator in dict.fromkeys((cell.image, cell.allocator) for cell in cells):
        check_family(context.spec, image, context.home)
        if allocators.adds_packages(context.spec, image, allocator):
            check_family(context.spec, extended(image, allocator), context.home)


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
