"""`build`: run the plan and put the packages under dist/."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from pikaforge import record, report
from pikaforge.errors import EXIT_DONE, EXIT_STAGE, ConfigError
from pikaforge.host.store import locked
from pikaforge.model import Spec
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
    deliver(workshop, setting.spec, done)
    return status(done)


def deliver(workshop: Workshop, spec: Spec, done: Report) -> None:
    """Put the packages that were made into dist/ with sums and report, and tell of them."""
    with locked(workshop.dist / ".lock"):
        _deliver(workshop, spec, done)


def _deliver(workshop: Workshop, spec: Spec, done: Report) -> None:
    start = cwd()
    sums: dict[str, dict[str, str]] = {}
    artifacts: dict[str, tuple[record.ArtifactRecord, ...]] = {}
    rows, fresh = [], 0
    for outcome in done.of(package.STAGE):
        if outcome.result is None:
            continue
        cell = outcome.node.cells[0]
        image = cell.image
        path, written = package.deliver(outcome.result, workshop.dist / image)
        fresh += written
        sums.setdefault(image, {})[path.name] = outcome.result.identity
        name = str(path.relative_to(workshop.dist))
        count = path.stat().st_size
        artifacts[cell.id] = (record.ArtifactRecord(path=name, sha256=outcome.result.identity, bytes=count),)
        rows.append((outcome.result.identity, report.readable(path, start), report.size(count)))
    for image, digests in sums.items():
        package.write_sums(workshop.dist / image, digests)
    told = record.merge(
        spec,
        done,
        artifacts,
        earlier=record.load(workshop.dist),
        dist=workshop.dist,
        now=datetime.now(timezone.utc),
    )
    record.write(workshop.dist, told)
    ran = any(outcome.status != "cached" for outcome in done.outcomes.values())
    ids = {cell.id for cell in done.plan.cells}
    report.show(report.verdicts([cell for cell in told.cells if cell.id in ids]))
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
