"""Draws the pictures of the report: `python docs/pictures/report.py DIR`. It needs a Chromium.

The report is made up (`tests/sample_reports.py`), and so the same each time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import pictures  # noqa: E402

SHOWN = ("report", "report-cell-phone")
"""Those of all pictures that pages show."""


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        pictures.main(Path(scratch))
        for name in SHOWN:
            shutil.copyfile(Path(scratch) / f"{name}.png", folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
