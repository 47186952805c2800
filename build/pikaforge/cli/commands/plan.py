"""`plan` and `matrix`: print what a build would do, and the cells. Nothing is changed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence

from pikaforge.cli import matrix_output, output, plan_output
from pikaforge.cli.context import Context
from pikaforge.cpu.emulation import Machine
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, ConfigError, HostError
from pikaforge.host import watch
from pikaforge.host.machine import cpu_flags
from pikaforge.host.text import printable_json
from pikaforge.plan.cells import Cell
from pikaforge.plan.explain import explain
from pikaforge.plan.jobs import LIMITS, github_matrix, gitlab_pipeline, job_limit


def matrix(context: Context) -> int:
    """Run `matrix`; return the exit status."""
    arguments = context.arguments
    if arguments.why:
        output.show(_why(context))
        return EXIT_DONE
    if arguments.chunks and arguments.format not in LIMITS:
        raise ConfigError("only the jobs of a service have chunks", where="--chunks", hint="add --format github")
    cells = context.cells_for_jobs() if arguments.format == "gitlab" else context.cells()
    match arguments.format:
        case "github":
            _print_github(context, cells)
        case "gitlab":
            output.show_json(json.dumps(gitlab_pipeline(cells, limit=job_limit("gitlab", arguments.chunks)), indent=2))
        case "json":
            output.show_json(plan_output.matrix_json(cells))
        case _ if context.arguments.all:
            output.show(plan_output.matrix_text(cells))
        case _:
            output.show(matrix_output.summary_text(context.spec, cells))
    if arguments.format in LIMITS and (text := plan_output.left_out(cells)):
        output.warn(text)
    return EXIT_DONE


def _why(context: Context) -> str:
    """Return the explanation of the cell that --why names.

    Raises:
        ConfigError: there is none, or other arguments choose cells, too.
    """
    arguments = context.arguments
    if arguments.selectors or arguments.os or arguments.allocator or arguments.format != "table":
        raise ConfigError(
            "--why explains one cell, for people: it takes no SELECTOR, --os, --allocator or --format",
            where="--why",
            hint=f"nox -s matrix -- --why {shlex.quote(arguments.why)}",
        )
    machine = Machine(flags=cpu_flags(), emulates=context.spec.defaults.emulator is not None)
    return matrix_output.why_text(explain(context.spec, arguments.why, machine))


def _print_github(context: Context, cells: Sequence[Cell]) -> None:
    """Print the matrix of a job as one line of JSON; in a step of GitHub Actions, set `matrix` and `jobs`, too."""
    from pikaforge.cli import github  # noqa: PLC0415  # only jobs of GitHub need it

    limit = job_limit("github", context.arguments.chunks)
    matrix = github_matrix(cells, github.cache_keys(context, cells), limit=limit, runners=context.spec.runners)
    text = json.dumps(matrix)
    output.show_json(text)
    github.output(os.environ, matrix=text, jobs=str(len(matrix["include"])))


def plan(context: Context) -> int:
    """Run `plan`; return the exit status, which is 2 if a build would refuse the selection."""
    engine = context.engine()
    try:
        flags = engine.known_cpu_flags()
    except HostError:  # no engine answers: the plan assumes that it can run every target
        flags = None
    planned = context.plan(None if flags is None else context.machine(flags), context.cells())

    def answers() -> bool:
        try:
            engine.verify()
        except HostError:
            return False
        return True

    workspace = context.workspace(engine)
    views = context.pipeline(workspace).views(planned, engine_answers=answers)
    if context.arguments.json:
        text = printable_json(plan_output.plan_json(planned, views, context.spec))
    else:
        text = plan_output.plan_text(planned, views, context.spec)
    output.show(text)
    status = EXIT_CONFIG if planned.problems else EXIT_DONE
    if (seen := watch.current()) is not None:
        from pikaforge.cli.unchanged.keep import keep_text  # noqa: PLC0415  # `matrix` needs none of it

        keep_text(workspace, seen, text, argv=context.argv, status=status)
    return status
