"""Pictures of pages, made by a real browser: `python tests/pictures.py FOLDER` writes them, the same each time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "build"), str(Path(__file__).resolve().parent)]

from browser import DESKTOP, PHONE, Browser, browser  # noqa: E402
from sample_reports import big  # noqa: E402

from pikaforge.pipeline.report_page import page  # noqa: E402
from pikaforge.pipeline.report_record import BuildReport, CellRecord  # noqa: E402

CELL = "R640-os1-none"
FAILED = "R790-os2-none"
HEIGHT = 1800
"""Pixels of a picture at most."""
PICTURES: dict[str, tuple[str, tuple[int, int], bool, bool]] = {
    "report": ("", DESKTOP, False, False),
    "report-dark": ("", DESKTOP, True, False),
    "report-phone": ("", PHONE, False, False),
    "report-print": ("", DESKTOP, False, True),
    "report-cell": (CELL, DESKTOP, False, False),
    "report-cell-dark": (CELL, DESKTOP, True, False),
    "report-cell-phone": (CELL, PHONE, False, False),
    "report-failed": (FAILED, DESKTOP, False, False),
}
"""By name: cell, size, whether dark, whether on paper."""


def sample() -> tuple[BuildReport, BuildReport]:
    """A report of 26 models and 2 images, and the one before it."""
    report = big(26, 2)
    cells = tuple(_other(each) if each.model == "R640" else each for each in report.cells)
    return report, report.model_copy(update={"cells": cells})


def _other(cell: CellRecord) -> CellRecord:
    return cell.model_copy(update={"flags": ("-march=nehalem",)})


def take(running: Browser, url: str, folder: Path) -> list[Path]:
    """Write the pictures of a report's page into a folder; their paths."""
    made = []
    for name, (cell, size, dark, printed) in PICTURES.items():
        opened = running.page(size=size, dark=dark)
        opened.media(dark=dark, printed=printed)
        opened.open(f"{url}#{cell}" if cell else url)
        made.append(opened.picture(folder / f"{name}.png", height=HEIGHT))
        opened.close()
    return made


def main(folder: Path) -> None:
    """Write all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    report, earlier = sample()
    with tempfile.TemporaryDirectory() as scratch, browser() as running:
        target = Path(scratch) / page.NAME
        page.write(target, report, page.sources(target, report, earlier=earlier, since="the last publication"))
        for path in take(running, target.as_uri(), folder):
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
