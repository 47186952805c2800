"""`build`: run the plan, and put the packages into dist/."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pikaforge.cli import build_output, github, output
from pikaforge.cli.context import Context
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, SelectionError
from pikaforge.host.process import cwd
from pikaforge.host.workspace import Workspace
from pikaforge.pipeline import dist
from pikaforge.pipeline.dist import DistFiles
from pikaforge.pipeline.image.image import check_family
from pikaforge.pipeline.pipeline import Pipeline, Report
from pikaforge.plan import allocators
from pikaforge.plan.cells import Cell


def build(context: Context) -> int:
    """Run `build`; return the exit status."""
    cells = context.cells()
    refuse_problems(cells)
    refuse_early(context, cells)
    run = prepare(context)
    plan = context.plan(run.machine, cells)
    refuse_problems(plan.cells)
    for warning in plan.warnings:
        output.show(f"warning: {warning}")
    done = run.pipeline.execute(plan, run.printer)
    print_summary(done, dist.write(run.workspace, context.spec, done), partial(command_for, context.arguments))
    return status(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """What a run works with. The engine answers, and the source is known."""

    workspace: Workspace
    pipeline: Pipeline
    machine: Machine
    printer: output.Printer


def prepare(context: Context) -> PreparedRun:
    """Look up the engine, its CPU and the source, and remove what killed runs have left.

    Raises:
        HostError: no engine answers, or the source cannot be reached.
        ConfigError: the source differs from its pin.
    """
    engine = context.engine()
    engine.verify()
    workspace = context.workspace(engine)
    workspace = replace(workspace, jobs=workspace.jobs or engine.cores())
    left = engine.sweep(output.note) + workspace.sweep()
    if left:
        output.note(f"removed {left} leftovers of a run that was killed")
    pipeline = context.pipeline(workspace)
    pipeline.identify_source()
    printer = output.Printer()
    flags = engine.known_cpu_flags()
    if flags is None:  # the engine is on another machine: a container has to look
        flags = engine.cpu_flags(pipeline.tools_image(printer))
    return PreparedRun(workspace=workspace, pipeline=pipeline, machine=context.machine(flags), printer=printer)


OPTIONS = (
    *("matrix", "out", "dist", "source", "engine", "formats"),
    *(name.replace("-", "_") for name in allocators.built()),
    *("jobs", "locked", "no_compiler_cache", "strict_targets", "require_run", "debug"),
)
"""Arguments that the command for one cell repeats. Its image and allocator are in the cell's id."""


def command_for(arguments: argparse.Namespace, selector: str) -> str:
    """Return the command line that builds `selector` with the options of this run, quoted for a shell."""
    words = ["nox", "-s", "build", "--", selector]
    for name in OPTIONS:
        value, option = getattr(arguments, name, None), f"--{name.replace('_', '-')}"
        if value in (None, "", False, ()) or (name, value) == ("engine", "docker"):
            continue
        words += [option] if value is True else [option, ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


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


def print_summary(done: Report, delivered: DistFiles, command: Callable[[str], str]) -> None:
    """Print the end of a build: refused cells, the table of verdicts, and the packages.

    In a job of GitHub Actions, the table is added to the job's summary.

    Args:
        done: the run.
        delivered: what it has put into dist/.
        command: returns the command that builds the cell with an id.
    """
    for notice in delivered.notices:
        output.note(notice)
    ids = {cell.id for cell in done.plan.cells}
    cells = [cell for cell in delivered.report.cells if cell.id in ids]
    if any(cell.status == "failed" for cell in cells):
        output.show(build_output.refusals(cells, command))
    output.show(build_output.verdicts(cells))
    title = f"{delivered.report.product} {delivered.report.version}"
    github.add_summary(os.environ, build_output.verdicts_markdown(title, cells))
    ran = any(outcome.status != "cached" for outcome in done.outcomes.values())
    if delivered.artifacts and not ran and not delivered.written:
        output.show("everything is up to date")
    files = [(path, digest, path.stat().st_size) for path, digest in delivered.artifacts]
    for line in build_output.packages(files, cwd()):
        output.show(line)


def status(done: Report) -> int:
    """Return the exit status of a run: that of the one kind of error that occurred, or 4 if there were several."""
    codes = {error.exit_code for error in done.errors}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_STAGE
