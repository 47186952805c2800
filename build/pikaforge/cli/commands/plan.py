"""`plan` and `matrix`: print what a build would do, and the cells. Nothing is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from pikaforge.cli import github, output, plan_output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, ConfigError, HostError
from pikaforge.plan.cells import Cell
from pikaforge.plan.jobs import LIMITS, github_matrix, gitlab_pipeline, job_limit


def matrix(context: Context) -> int:
    """Run `matrix`; return the exit status."""
    arguments = context.arguments
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
        case _:
            output.show(plan_output.matrix_text(cells))
    if arguments.format in LIMITS and (text := plan_output.left_out(cells)):
        output.warn(text)
    return EXIT_DONE


def _print_github(context: Context, cells: Sequence[Cell]) -> None:
    """Print the matrix of a job as one line of JSON; in a step of GitHub Actions, set `matrix` and `jobs`, too."""
    limit = job_limit("github", context.arguments.chunks)
    matrix = github_matrix(cells, github.cache_keys(context, cells), limit=limit)
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

    views = context.pipeline(context.workspace(engine)).views(planned, engine_answers=answers)
    if context.arguments.json:
        output.show_json(plan_output.plan_json(planned, views, context.spec))
    else:
        output.show(plan_output.plan_text(planned, views, context.spec))
    return EXIT_CONFIG if planned.problems else EXIT_DONE
