"""`plan` and `matrix`: they look and print, and change nothing."""

from __future__ import annotations

import sys

from pikaforge import report
from pikaforge.errors import EXIT_CONFIG, EXIT_DONE, HostError
from pikaforge.setting import Setting


def matrix(setting: Setting) -> int:
    """`matrix`: the cells, in a form for people, scripts or GitHub Actions."""
    cells = setting.cells()
    form = setting.arguments.format
    report.show(report.matrix_text(cells, form))
    if form == "github":
        for cell in cells:
            if cell.problem:
                print(f"left out: {cell.id}: {cell.problem}", file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def plan(setting: Setting) -> int:
    """`plan`: what a build would do and why; status 2 if the build would refuse the selection."""
    planned = setting.plan()
    engine = setting.engine()

    def answers() -> bool:
        try:
            engine.verify()
        except HostError:
            return False
        return True

    views = setting.pipeline(setting.workshop(engine)).views(planned, engine_answers=answers)
    if setting.arguments.json:
        report.show(report.plan_json(planned, views))
    else:
        report.show(report.plan_text(planned, views))
    return EXIT_CONFIG if planned.problems else EXIT_DONE
