"""What a fresh clone of this checkout would have."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = "sources.lock"


def listed() -> list[str]:
    """The files that git would give to somebody, with changes that are not committed, but without this one's pins."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    return [name for name in names.split("\0") if name and name != LOCK and (ROOT / name).is_file()]
