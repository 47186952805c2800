"""`plan` and `matrix`: they look and print, and change nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from pikaforge.cli import github, output
from pikaforge.cli.context import Setting
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, HostError
from pikaforge.plan.cells import Cell
from pikaforge.plan.plan import github_matrix


def matrix(setting: Setting) -> int:
    """`matrix`: the cells, in a form for people, scripts or GitHub Actions."""
    cells = setting.cells()
    form = setting.arguments.format
    if form == "github":
        _github(setting, cells)
    else:
        output.show(output.matrix_text(cells, form))
    return EXIT_DONE


def _github(setting: Setting, cells: Sequence[Cell]) -> None:
    """The matrix of a job as one line of JSON; in a step of GitHub Actions also as its outputs `matrix` and `jobs`."""
    matrix = github_matrix(cells, github.cache_keys(setting, cells))
    text = json.dumps(matrix)
    output.show(text)
    github.output(os.environ, matrix=text, jobs=str(len(matrix["include"])))
    for cell in cells:
        if cell.problem:
            print(f"left out: {cell.id}: {cell.problem}", file=sys.stderr)  # noqa: T201


def plan(setting: Setting) -> int:
    """`plan`: what a build would do and why; status 2 if the build would refuse the selection."""
    engine = setting.engine()
    try:
        flags = engine.known_cpu_flags()
    except HostError:  # no engine answers: planned as if it could run everything
        flags = None
    planned = setting.plan(None if flags is None else setting.machine(flags), setting.cells())

    def answers() -> bool:
        try:
            engine.verify()
        except HostError:
            return False
        return True

    views = setting.pipeline(setting.workshop(engine)).views(planned, engine_answers=answers)
    if setting.arguments.json:
        output.show(output.plan_json(planned, views, setting.spec))
    else:
        output.show(output.plan_text(planned, views, setting.spec))
    return EXIT_CONFIG if planned.problems else EXIT_DONE
