"""Which tool this is: all machines of a farm need the same, because its scripts and Dockerfiles decide keys."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pikaforge.host.hashing import digest, file_digest

PARTS = ("build/pikaforge", "docker")
"""Folders of the checkout that decide what the tool does."""


@lru_cache(maxsize=2)
def tool_digest(home: Path) -> str:
    """Return a digest of the files of a checkout that decide what the tool does."""
    lines = []
    for part in PARTS:
        for path in sorted((home / part).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                lines.append(f"{file_digest(path)} {path.relative_to(home).as_posix()}\n")
    return digest("".join(lines))
