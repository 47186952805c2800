"""Write waivers for what an audit refuses, so that a person can examine them one by one.

The text is YAML, as `audit --waivers` reads it. Names, build ids and findings come from the files, so every string is
quoted, and comments have one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta

from pikaforge.audit.audit_result import AuditResult
from pikaforge.audit.finding import LineRecord
from pikaforge.audit.judge_instructions import Finding
from pikaforge.config.waiver import BUILD_ID_PATTERN, DRAFT
from pikaforge.host import hashing
from pikaforge.host.text import one_line

DAYS = 180
"""For how long a draft holds."""
FILE_LIMIT, FUNCTION_LIMIT = 255, 1024
"""Letters of the names in a waiver."""
REASON_LIMIT = 300
HEAD = """\
# Waivers that `audit --draft-waivers` has written, and that nobody has examined. For each one: find out what makes sure
# that only CPUs with the features run the function, and write that as its reason; remove it if nothing does. As long as
# a reason begins with "draft:", the audit says so, and --strict refuses it.
"""


def draft(results: Iterable[AuditResult], *, today: date) -> str:
    """Return waivers for the code that some audits refuse; with strict rules, also for what is not proven."""
    lines = [line for result in results for line in _of_result(result, today)]
    return HEAD + ("waivers:\n" + "".join(f"{line}\n" for line in lines) if _some(lines) else _none(lines))


def _some(lines: Sequence[str]) -> bool:
    return any(not line.startswith("  #") for line in lines)


def _none(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines) + "waivers: []\n"


def _of_result(result: AuditResult, today: date) -> Iterator[str]:
    levels = ("fail", "unproven") if result.strict else ("fail",)
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in result.isa.findings:
        if finding.level in levels:
            found.setdefault((finding.file, finding.function), []).append(finding)
    for findings in found.values():
        yield from _of_function(result, findings, today)
    for violation in _others(result):
        yield f"  # no waiver helps here: {_comment(f'{violation.where}: {violation.what}')}"


def _others(result: AuditResult) -> Iterator[LineRecord]:
    yield from (*result.unreadable, *result.linkage.violations, *result.flags.violations)


def _of_function(result: AuditResult, findings: Sequence[Finding], today: date) -> Iterator[str]:
    first = findings[0]
    fact = next(fact for fact in result.files if fact.name == first.file)
    for finding in findings:
        yield f"  # {_comment(f'{first.file}: {finding.line()}')}"
        if finding.doubt:
            yield f"  # {_comment(finding.doubt)}"
    file, function = _exact(first.file), _exact(first.function)
    if len(file) > FILE_LIMIT or len(function) > FUNCTION_LIMIT or not _utf8(file + function):
        yield "  # no waiver can name this: a name is too long, or is not UTF-8"
        return
    signs = [*dict.fromkeys(sign for finding in findings for sign in finding.hints)]
    why = f"{DRAFT}not examined; " + (f"hints: {'; '.join(signs)}" if signs else "there is no hint of a dispatch")
    known = re.fullmatch(BUILD_ID_PATTERN, fact.build_id)
    pin = {"build_id": fact.build_id} if known else {"sha256": hashing.file_digest(result.places[first.file])}
    fields: dict[str, str | list[str]] = {
        "file": file,
        "function": function,
        "features": sorted({name for finding in findings for name, _ in finding.features}),
        "target": result.target,
        **pin,
        "reason": one_line(why)[:REASON_LIMIT],
        "expires": (today + timedelta(days=DAYS)).isoformat(),
    }
    for number, (key, value) in enumerate(fields.items()):
        text = _quoted(value) if isinstance(value, str) else f"[{', '.join(value)}]"
        yield f"  {'-' if number == 0 else ' '} {key}: {text}"


def _exact(name: str) -> str:
    """Return a pattern that fits a name only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _utf8(name: str) -> bool:
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def _quoted(text: str) -> str:
    """Return a string of YAML in double quotes (YAML 1.1, 5.6)."""
    letters = (f"\\{c}" if c in '\\"' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(letters)}"'


def _comment(text: str) -> str:
    return one_line(text)
