"""`plan` and `matrix`: they look and print, and change nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from pikaforge.cli import github, output
from pikaforge.cli.context import Context
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, HostError
from pikaforge.plan.cells import Cell
from pikaforge.plan.jobs import github_matrix


def matrix(context: Context) -> int:
    """`matrix`: the cells, in a form for people, scripts or GitHub Actions."""
    cells = context.cells()
    form = context.arguments.format
    if form == "github":
        _github(context, cells)
    else:
        output.show(output.matrix_text(cells, form))
    return EXIT_DONE


def _github(context: Context, cells: Sequence[Cell]) -> None:
    """The matrix of a job as one line of JSON; in a step of GitHub Actions also as its outputs `matrix` and `jobs`."""
    matrix = github_matrix(cells, github.cache_keys(context, cells))
    text = json.dumps(matrix)
    output.show(text)
    github.output(os.environ, matrix=text, jobs=str(len(matrix["include"])))
    for cell in cells:
        if cell.problem:
            print(f"left out: {cell.id}: {cell.problem}", file=sys.stderr)  # noqa: T201


def plan(context: Context) -> int:
    """`plan`: what a build would do and why; status 2 if the build would refuse the selection."""
    engine = context.engine()
    try:
        flags = engine.known_cpu_flags()
    except HostError:  # no engine answers: planned as if it could run everything
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
        output.show(output.plan_json(planned, views, context.spec))
    else:
        output.show(output.plan_text(planned, views, context.spec))
    return EXIT_CONFIG if planned.problems else EXIT_DONE
