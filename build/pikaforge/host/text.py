"""Text for people: what comes from outside must not control a terminal."""

from __future__ import annotations

import re
import unicodedata

CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that control, and of separators of lines."""
REASON = re.compile(r"^forge: reason: (.*)$", re.MULTILINE)
"""A line in which a guest script says why it fails (`reason` in docker/guest/lib.sh)."""


def clean(text: str) -> str:
    """Return a text in which blanks replace control characters. Line ends stay."""
    return "".join(" " if unicodedata.category(letter) in CONTROLS and letter != "\n" else letter for letter in text)


def size_text(number: int) -> str:
    """Return a number of bytes in the largest unit of which it has one, without a fraction."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << shift:
            return f"{number >> shift} {unit}"
    return f"{number} bytes"


def ignore(_text: str) -> None:
    """Ignore a notice; for callers who want none."""
