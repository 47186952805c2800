"""`doctor`: print what this machine lacks, what that stops, and what mends it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.doctor.checks import judge
from pikaforge.doctor.finding import Diagnosis, DoctorReport, worst
from pikaforge.doctor.gather import Places, facts
from pikaforge.errors import EXIT_DONE, EXIT_HOST
from pikaforge.host.text import one_line

SIGNS = {"ok": "ok", "warning": "WARNING", "lacking": "LACKING"}


def doctor(context: Context) -> int:
    """Run `doctor`; return 3 if a build lacks something."""
    arguments = context.arguments
    seen = facts(
        Places(
            matrix=context.matrix,
            out=context.out,
            dist=context.dist,
            os=arguments.os,
            source=arguments.source,
            engine=arguments.engine,
            environ=os.environ,
        )
    )
    findings = judge(seen)
    report = DoctorReport(images=seen.images, state=worst(findings), findings=findings)
    if arguments.json:
        output.show_json(report.model_dump_json(indent=2))
    else:
        output.show("\n".join(_lines(report)))
    return EXIT_HOST if report.state == "lacking" else EXIT_DONE


def _lines(report: DoctorReport) -> Iterator[str]:
    """Yield a line for each finding, and below what is not well what it stops and what mends it."""
    width = max(len(finding.check) for finding in report.findings)
    for finding in report.findings:
        first, *rest = finding.says.splitlines() or [""]
        yield f"{SIGNS[finding.state]:<7}  {finding.check:<{width}}  {one_line(finding.subject)}: {one_line(first)}"
        margin = " " * (9 + width + 2)
        yield from (f"{margin}{one_line(line)}" for line in rest)
        if finding.stops:
            yield f"{margin}stops: {one_line(finding.stops)}"
        yield from (f"{margin}mend:  {one_line(line)}" for line in finding.mend)
    yield ""
    yield _verdict(report.findings)


def _verdict(findings: Sequence[Diagnosis]) -> str:
    lacking = [finding.check for finding in findings if finding.state == "lacking"]
    warned = sum(finding.state == "warning" for finding in findings)
    said = f"{output.count(len(findings), 'check')}, {output.count(warned, 'warning')}, {len(lacking)} lacking"
    if lacking:
        return f"{said}: a build needs what is lacking ({', '.join(dict.fromkeys(lacking))})"
    return f"{said}: a build has what it needs"
