"""`build`: run the plan and put the packages under dist/."""

from __future__ import annotations

from dataclasses import replace

from pikaforge import report
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError
from pikaforge.pipeline import Report
from pikaforge.setting import Setting, cwd
from pikaforge.stages import package
from pikaforge.workshop import Workshop


def build(setting: Setting) -> int:
    """`build`: run the plan and put the packages under dist/."""
    plan = setting.plan()
    if plan.problems:
        raise ConfigError(
            f"{len(plan.problems)} of {len(plan.cells)} cells cannot be built; nothing was started",
            where="images",
            hint="\n".join(f"{cell.id}: {cell.problem}" for cell in plan.problems),
        )
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
    deliver(workshop, done)
    return status(done)


def deliver(workshop: Workshop, done: Report) -> None:
    """Put the packages that were made into dist/, and tell of them."""
    start = cwd()
    sums: dict[str, dict[str, str]] = {}
    rows, fresh = [], 0
    for outcome in done.of(package.STAGE):
        if outcome.result is None:
            continue
        image = outcome.node.cells[0].image
        path, written = package.deliver(outcome.result, workshop.dist / image)
        fresh += written
        sums.setdefault(image, {})[path.name] = outcome.result.identity
        rows.append((outcome.result.identity, report.readable(path, start), report.size(path.stat().st_size)))
    for image, digests in sums.items():
        package.write_sums(workshop.dist / image, digests)
    ran = any(outcome.status != "cached" for outcome in done.outcomes.values())
    if rows and not ran and not fresh:
        report.show("everything is up to date")
    for _, name, size in rows:
        report.show(f"{name} ({size})")
    for digest, name, _ in rows:  # as sha256sum prints and checks them
        report.show(f"{digest}  {name}")


def status(done: Report) -> int:
    """The exit status of a run: the one kind of error that occurred, or 4 if there were several."""
    codes = {error.exit_code for error in done.errors}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_STAGE
