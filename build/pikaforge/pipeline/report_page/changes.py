"""What has changed in a cell since another report, such as the last published one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict

from pikaforge.pages.notation import size
from pikaforge.pipeline.report_page.states import STATES, state_of
from pikaforge.pipeline.report_record import BuildReport, CellRecord

LISTED = 12
"""Names of a list that a change shows."""


class ChangeLine(TypedDict):
    """One change; `before` or `after` is empty where there was or is nothing."""

    what: str
    before: str
    after: str


def changes(report: BuildReport, earlier: BuildReport) -> dict[str, list[ChangeLine]]:
    """Return the changes of each cell by its id; a cell without changes has an empty list."""
    before = {cell.id: cell for cell in earlier.cells}
    versions = _line("version", earlier.version, report.version)
    return {
        cell.id: [*versions, *_changes(before[cell.id], cell)]
        if cell.id in before
        else [ChangeLine(what="cell", before="", after="new")]
        for cell in report.cells
    }


def _line(what: str, before: str, after: str) -> list[ChangeLine]:
    return [ChangeLine(what=what, before=before, after=after)] if before != after else []


def _changes(old: CellRecord, new: CellRecord) -> Iterator[ChangeLine]:
    yield from _line("state", STATES[state_of(old)].title, STATES[state_of(new)].title)
    if new.status == "failed":  # there is nothing to compare: the rest would say that everything is gone
        return
    yield from _line("target", old.target, new.target)
    yield from _line("compiler flags", " ".join(old.flags), " ".join(new.flags))
    yield from _line("tried on", old.tried, new.tried)
    yield from _manifests(old.manifest, new.manifest)
    yield from _audits(old, new)
    yield from _checks(old, new)
    yield from _packages(old, new)


def _members(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _manifests(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[ChangeLine]:
    for what, path in (
        ("source", ("source", "url")), ("commit", ("source", "commit")), ("release", ("release",)),
        ("compiler", ("compiler",)), ("base image", ("image", "base")),
    ):  # fmt: skip
        yield from _line(what, _text(_members(dict(old), *path)), _text(_members(dict(new), *path)))
    yield from _sets("patches", _patches(old), _patches(new))
    for what, name in (
        ("packages of the build image", "build_packages"),
        ("packages of the system", "runtime_packages"),
    ):
        yield from _maps(what, _members(dict(old), "image", name), _members(dict(new), "image", name))


def _patches(manifest: Mapping[str, object]) -> set[str]:
    found = _members(dict(manifest), "source", "patches")
    entries = found if isinstance(found, list | tuple) else ()
    return {f"{_text(_members(each, 'name'))} ({_text(_members(each, 'state')) or 'applied'})" for each in entries}


def _audits(old: CellRecord, new: CellRecord) -> Iterator[ChangeLine]:
    if old.audit is None or new.audit is None:
        return
    yield from _sets("CPU features in use", old.audit.features_used, new.audit.features_used)
    yield from _sets("flags a host's CPU must have", old.audit.kernel_flags, new.audit.kernel_flags)
    yield from _maps("symbol versions that a host must have", old.audit.symbol_versions, new.audit.symbol_versions)
    yield from _sets("libraries from the host", old.audit.system_libraries, new.audit.system_libraries)
    for level in ("dispatched", "waived", "unproven", "fail"):
        held = [
            {f"{each.function} of {each.file}" for each in audit.findings if each.level == level}
            for audit in (old.audit, new.audit)
        ]
        yield from _sets(f"functions beyond the target, {level}", *held)


def _checks(old: CellRecord, new: CellRecord) -> Iterator[ChangeLine]:
    for way in ("native", "emulated"):
        first, second = getattr(old, way), getattr(new, way)
        if first is None or second is None:
            continue
        held = [{f"{c.name} ({_verdict(c.passed, c.skipped)})" for c in each.checks} for each in (first, second)]
        yield from _sets(f"checks, {way}", *held)


def _verdict(passed: bool, skipped: str) -> str:
    return "passed" if passed else "skipped" if skipped else "failed"


def _packages(old: CellRecord, new: CellRecord) -> Iterator[ChangeLine]:
    before = {(each.format, each.role): each for each in old.artifacts}
    after = {(each.format, each.role): each for each in new.artifacts}
    for kind in sorted({*before, *after}):
        one, two = before.get(kind), after.get(kind)
        if one is None or two is None or one.sha256 != two.sha256:
            named = [f"{each.name}, {size(each.bytes)}, {each.sha256[:12]}" if each else "" for each in (one, two)]
            yield from _line(f"{kind[0]} ({kind[1]})", *named)


def _sets(what: str, old: Iterable[str], new: Iterable[str]) -> list[ChangeLine]:
    gone, come = set(old) - set(new), set(new) - set(old)
    return [ChangeLine(what=what, before=_list(gone), after=_list(come))] if gone or come else []


def _maps(what: str, old: object, new: object) -> list[ChangeLine]:
    pairs = [
        {f"{key} {item}" for key, item in value.items()} if isinstance(value, dict) else set() for value in (old, new)
    ]
    return _sets(what, *pairs)


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - LISTED
    return ", ".join(ordered[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
