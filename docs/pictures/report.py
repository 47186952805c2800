"""Draws the pictures of the report: `python docs/pictures/report.py DIR`. It needs a Chromium.

The report is made up (`tests/sample_reports.py`), and so the same each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import pictures  # noqa: E402

if __name__ == "__main__":
    pictures.main(Path(sys.argv[1]))
