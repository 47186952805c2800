"""The configuration of an instance, as deploy.sh makes it."""

import re
from pathlib import Path

from .base import TREE

RECOMMENDED = "utils/operate/recommended.tsv"
"""Of servers that are operated."""
SETTINGS = "utils/settings.tsv"


def settings() -> "list[tuple[str, str]]":
    """Return what each instance sets: keys, and values that may hold {port} and {data}."""
    recommended = TREE / RECOMMENDED
    lines = recommended.read_text(encoding="utf-8").splitlines() if recommended.exists() else []
    lines += (TREE / SETTINGS).read_text(encoding="utf-8").splitlines()
    return [(key, value) for key, _, value in (line.partition("\t") for line in lines)]


def with_settings(text: str, settings: "list[tuple[str, str]]", separator: str) -> str:
    """Return a configuration with the settings in place of those of the same name, or at its end."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for key, value in settings:
        kept: list[str] = []
        done = False
        for line in lines:
            if _key_of(line) != key:
                kept.append(line)
            elif not done:
                kept.append(key + separator + value)
                done = True
        if not done:
            kept.append(key + separator + value)
        lines = kept
    return "".join(line + "\n" for line in lines)


def _key_of(line: str) -> str:
    """Return the name that a line sets. Comments begin with #, which no name does."""
    return re.split(r"[ \t:=]", line.lstrip(" \t"), maxsplit=1)[0]


def value_of(text: str, key: str) -> str:
    """Return what a configuration sets a key to; empty if it does not."""
    for line in text.split("\n"):
        if _key_of(line) == key:
            return line.lstrip(" \t")[len(key) :].strip(" \t\r:=\"'")
    return ""


def filled(text: str, values: "dict[str, str]") -> str:
    """Return a text with its words replaced, all at once: what is put in is not looked at."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found.group()], text)


def read(path: Path) -> str:
    """Return a text, whatever its encoding: `surrogateescape` gives the same bytes back."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return stream.read()
