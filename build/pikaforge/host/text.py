"""Text for people: what comes from outside must not control a terminal, or GitHub's runner."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that control, and of separators of lines."""
REASON = re.compile(r"^forge: reason: (.*)$", re.MULTILINE)
"""A line in which a guest script says why it fails (`reason` in docker/guest/lib.sh)."""
COMMAND = re.compile(r"(?m)^(\s*):(?=:)|##(?=\[)")
"""What GitHub's runner obeys: two colons at the start of a line, `##[` anywhere (actions/runner, ActionCommand.cs)."""

UNICODE = ("utf-8", "utf8")


def clean(text: str) -> str:
    """Return a text for packages, in which blanks replace control characters. Line ends stay."""
    return "".join(" " if unicodedata.category(letter) in CONTROLS and letter != "\n" else letter for letter in text)


def size_text(number: int) -> str:
    """Return a number of bytes in the largest unit of which it has one, without a fraction."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << shift:
            return f"{number >> shift} {unit}"
    return f"{number} bytes"


def printable(text: str) -> str:
    """Return a text for terminals and logs: control characters as escapes, and nothing that GitHub's runner obeys.

    Line ends stay. Everything that is printed goes through this function.
    """
    if not text.replace("\n", "").isprintable():
        text = "".join(letter if letter == "\n" or letter.isprintable() else _escaped(letter) for letter in text)
    if "::" not in text and "##[" not in text:
        return text  # nearly all are of this kind, and a plan has thousands
    return COMMAND.sub(lambda found: f"{found[1]}: " if found[1] is not None else "## ", text)


def printable_json(text: str) -> str:
    """Return a JSON text for terminals and logs. It says the same: only strings can hold what is escaped."""
    return printable(text.replace("##[", "#\\u0023["))


def one_line(text: str) -> str:
    """Return a text for a place in a line: as `printable`, and line ends are escapes."""
    return printable(text.replace("\n", "\\x0a"))


def width(text: str) -> int:
    """Return the columns that a text takes on a terminal: East Asian wide letters have two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def cut(text: str, columns: int, mark: str = "~") -> str:
    """Return a text on one line that takes at most so many columns; the mark stands for what is left out in its middle.

    The ends of names differ more than their middles do.
    """
    if width(text) <= columns:
        return text
    if columns <= width(mark):
        return mark[: max(0, columns)]
    room = columns - width(mark)
    start = _head(text, (room + 1) // 2)
    return f"{start}{mark}{_head(text[::-1], room - width(start))[::-1]}"


def _head(text: str, columns: int) -> str:
    """Return the start of a text that fits into columns."""
    taken = 0
    for place, letter in enumerate(text):
        taken += width(letter)
        if taken > columns:
            return text[:place]
    return text


def writable(text: str, encoding: str) -> str:
    """Return a text in which escapes replace the letters that an encoding does not have."""
    return text if encoding.lower() in UNICODE else text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def filled(template: Path, words: Mapping[str, str]) -> str:
    """Return the text of a template with a value for each @WORD@.

    The values are names by the model's patterns: nothing is quoted.
    """
    _, named = _template(template)
    return _filled(template, tuple((word, value) for word, value in words.items() if word in named))


@lru_cache(maxsize=256)
def _filled(template: Path, words: tuple[tuple[str, str], ...]) -> str:
    """Return the text with the words that are in it. Many packages have the same ones."""
    text, _ = _template(template)
    for word, value in words:
        text = text.replace(f"@{word}@", value)
    return text


@lru_cache(maxsize=64)
def _template(path: Path) -> tuple[str, frozenset[str]]:
    """Return the text of a template of this tool, and the words that may be in it; it is read once."""
    text = path.read_text(encoding="utf-8")
    return text, frozenset(text.split("@"))


def ignore(_text: str) -> None:
    """Ignore a notice; for callers who want none."""
