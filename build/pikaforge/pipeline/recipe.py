"""The recipe of a product, as far as the tool reads it itself."""

from __future__ import annotations

import re
from pathlib import Path

OLD_NAME = re.compile(r"(?<![A-Z0-9_])FORGE_([A-Z][A-Z0-9_]*)")
"""A variable of a job by the name that it had before all variables began with PIKAFORGE_."""


def old_names(path: Path, shown: str) -> str:
    """Return a notice about the old names of variables in a recipe; empty if there are none.

    Args:
        path: the recipe.
        shown: what the notice calls it.

    Each name is reported once, with the first line that has it. Lines that are comments do not count. A recipe that
    cannot be read gives no notice: the compile stage reports it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("#"):
            for name in OLD_NAME.findall(line):
                found.setdefault(name, number)
    if not found:
        return ""
    places = ", ".join(f"{shown}:{number}: FORGE_{name} is now PIKAFORGE_{name}" for name, number in found.items())
    return f"{places}; for now, jobs set the old names as well"
