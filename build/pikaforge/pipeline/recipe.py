"""The recipe of a product, as far as the tool reads it itself."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from pikaforge.host import hashing

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


def digest(path: Path) -> str:
    """Return the digest of what of a recipe decides the result of a compilation."""
    status = path.stat()
    return _digest(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=16)
def _digest(path: Path, _changed: tuple[int, int]) -> str:
    """Return the digest; it is computed again only if the file's time or size has changed."""
    text = path.read_bytes().decode("latin-1")  # each byte is a letter, so that nothing is lost
    return hashing.digest(effective(text).encode("latin-1"))


def effective(text: str) -> str:
    """Return a recipe without its comments and blank lines: what decides the result of a compilation.

    Where that cannot be said line by line, the text is returned as it is: if it has here-documents or strings of
    several lines, in which such a line is content, or if it reads itself or its line numbers.
    """
    if any(word in text for word in ("<<", "$0", "LINENO", "$'")):
        return text
    kept: list[str] = []
    for line in text.split("\n"):
        code = _without_comment(line)
        if code is None or (not code and kept and kept[-1].endswith("\\")):
            return text
        if code:
            kept.append(code)
    return "\n".join(kept)


def _without_comment(line: str) -> str | None:
    """Return a line of a shell script without its comment; None if a string does not end in it."""
    quote, escaped = "", False
    for place, sign in enumerate(line):
        if escaped:
            escaped = False
        elif sign == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and (place == 0 or line[place - 1] in " \t"):
            if place > 1 and line[place - 2] == "\\":
                return None  # the blank before it is escaped, so that it may be part of a word
            return line[:place].rstrip(" \t")
    return None if quote else line.rstrip(" \t") if not escaped else line
