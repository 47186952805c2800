"""`build`: run the plan and put the packages under dist/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from pikaforge import actions, delivery, report
from pikaforge.delivery import Delivery
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError
from pikaforge.pipeline import Report
from pikaforge.plan import Cell
from pikaforge.setting import Setting, cwd


def build(setting: Setting) -> int:
    """`build`: run the plan and put the packages under dist/."""
    plan = setting.plan()
    refuse_problems(plan.cells)
    for warning in plan.warnings:
        report.show(f"warning: {warning}")
    engine = setting.engine()
    engine.verify()
    workshop = setting.workshop(engine)
    workshop = replace(workshop, jobs=workshop.jobs or engine.cores())
    left = engine.sweep() + workshop.store.sweep()
    if left:
        report.show(f"note: removed {left} leftovers of a run that was killed")
    pipeline = setting.pipeline(workshop)
    pipeline.identify_source()
    printer = report.Printer()
    done = pipeline.execute(plan, printer)
    tell(done, delivery.deliver(workshop, setting.spec, done))
    return status(done)


def refuse_problems(cells: Sequence[Cell]) -> None:
    """Raise a ConfigError with every cell that cannot be built."""
    bad = [cell for cell in cells if cell.problem]
    if bad:
        raise ConfigError(
            f"{len(bad)} of {len(cells)} cells cannot be built; nothing was started",
            where="images",
            hint="\n".join(f"{cell.id}: {cell.problem}" for cell in bad),
        )


def tell(done: Report, delivered: Delivery) -> None:
    """The table, and the packages as people and `sha256sum --check` read them; the table in a job's summary, too."""
    for notice in delivered.notices:
        report.show(f"note: {notice}")
    ids = {cell.id for cell in done.plan.cells}
    cells = [cell for cell in delivered.report.cells if cell.id in ids]
    report.show(report.verdicts(cells))
    title = f"{delivered.report.product} {delivered.report.version}"
    actions.summarise(os.environ, report.verdicts_markdown(title, cells))
    ran = any(outcome.status != "cached" for outcome in done.outcomes.values())
    if delivered.artifacts and not ran and not delivered.written:
        report.show("everything is up to date")
    start = cwd()
    for path, _ in delivered.artifacts:
        report.show(f"{report.readable(path, start)} ({report.size(path.stat().st_size)})")
    for path, digest in delivered.artifacts:
        report.show(f"{digest}  {report.readable(path, start)}")


def status(done: Report) -> int:
    """The exit status of a run: the one kind of error that occurred, or 4 if there were several."""
    codes = {error.exit_code for error in done.errors}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_STAGE
