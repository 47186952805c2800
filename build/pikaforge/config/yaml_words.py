"""Words for values and paths of YAML in error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

KeyPath = Sequence[str | int]
"""Keys and indexes from the top of the document to a value."""


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def show_path(path: KeyPath) -> str:
    """Return a path as people write it: `product.smoke[2].steps[0]`. Keys that are no plain words are quoted."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
            continue
        plain = _PLAIN_KEY.fullmatch(part) is not None and len(part) <= 64
        shown += ("." if shown else "") + (part if plain else shorten(part))
    return shown


def shorten(text: str, *, limit: int = 60) -> str:
    """Return a text in quotes, on one line, and cut to what fits into a message."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def describe(value: object) -> str:
    """Return what a value is, for `wants …, got …`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {'true' if value else 'false'}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {shorten(value)}"
    return "a mapping" if isinstance(value, dict) else "a list"
