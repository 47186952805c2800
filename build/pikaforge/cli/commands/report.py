"""`report`: reports of several runs as one page for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pikaforge.cli import output
from pikaforge.cli.context import Context
from pikaforge.cli.output import count
from pikaforge.errors import EXIT_DONE, ConfigError
from pikaforge.host import http
from pikaforge.host.disk import full_disk_errors
from pikaforge.host.process import cwd
from pikaforge.pipeline import report as report_json
from pikaforge.pipeline import report_file
from pikaforge.pipeline.report_page import merge, page
from pikaforge.pipeline.report_page.merge import FoundReport
from pikaforge.pipeline.report_record import BuildReport
from pikaforge.plan.cells import Cell

LIMIT = 256 << 20
"""Bytes of a published report. A report of a thousand cells has some 20 MB."""


def report(context: Context) -> int:
    """Run `report`; return the exit status."""
    arguments = context.arguments
    folders = [cwd() / each for each in arguments.folders] or [context.dist]
    target = cwd() / arguments.page if arguments.page else context.dist / page.NAME
    found = _found(folders, product=context.spec.product.name if arguments.matrix else "")
    whole = merge.merged(found, base=target.parent)
    earlier = _earlier(arguments.since, product=whole.product) if arguments.since else None
    logs = cwd() / arguments.logs if arguments.logs else None
    planned = _planned(context) if arguments.matrix else ()
    given = page.sources(
        target, whole, earlier=earlier, since=http.redacted(arguments.since), planned=planned, logs=logs
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_errors(target.parent):
        page.write(target, whole, given)
    failed = sum(cell.status == "failed" for cell in whole.cells)
    cells, reports = count(len(whole.cells), "cell", "cells"), count(len(found), "report", "reports")
    output.show(f"{target}: {cells} of {reports}, {failed} failed")
    return EXIT_DONE


def _planned(context: Context) -> Sequence[Cell]:
    from pikaforge.plan.matrix import all_cells  # noqa: PLC0415

    return all_cells(context.spec)


def _found(folders: Sequence[Path], *, product: str) -> list[FoundReport]:
    """Read the reports of folders, and of the folders in them.

    Args:
        folders: as they were named.
        product: the one whose reports are wanted; empty: of any.

    Raises:
        ConfigError: a folder is missing, or has no report; or a report cannot be read.
    """
    found: list[FoundReport] = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("there is no such folder", where=str(folder), hint="name folders that have a report.json")
        for file in (*folder.glob("report*.json"), *folder.glob("*/report*.json")):
            if report_json.load(file.parent, file.name) is None:
                hint = "it is damaged, or of a newer version of the tool; remove it, or build again"
                raise ConfigError("this is no build report that this version reads", where=str(file), hint=hint)
        here = [each for each in merge.reports(folder) if product in ("", each.report.product)]
        if not here:
            of = f" of {product}" if product else ""
            hint = "`nox -s build` writes one beside the packages; a folder's own folders are searched, too"
            raise ConfigError(f"there is no build report{of}", where=str(folder), hint=hint)
        found += here
    return found


def _earlier(where: str, *, product: str) -> BuildReport:
    """Return the report that is to be compared with: a file, or that of a folder or a published root.

    Raises:
        ConfigError: there is none, or it is about another product.
    """
    data = _read(where)
    found = report_file.parsed(data)
    if found is None:
        raise ConfigError(
            "this is no build report that this version reads",
            where=f"--since {http.redacted(where)}",
            hint="name a report.json, or a folder or a published root that has one",
        )
    if found.product != product:
        raise ConfigError(f"this is a report of {found.product}, and not of {product}", where=f"--since {where}")
    return found


def _read(where: str) -> bytes:
    if re.match("https?:", where, re.IGNORECASE):
        base = where if where.endswith(".json") else f"{where.rstrip('/')}/{report_json.NAME}"
        return http.get(base, limit=LIMIT)
    path = cwd() / where
    file = path / report_json.NAME if path.is_dir() else path
    try:
        return file.read_bytes()
    except OSError as error:
        hint = "name a report.json, or a folder or a published root that has one"
        raise ConfigError(f"cannot read it: {error.strerror}", where=f"--since {file}", hint=hint) from error
