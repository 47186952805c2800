"""What a terminal can show: the letters of its locale, and the signs that are safe on it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

POSIX = ("", "C", "POSIX")
AMBIGUOUS = ("zh", "ja", "ko")
"""Languages on whose terminals blocks and check marks may take two columns (UAX 11, class A)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """Signs on a board. Words beside them say the same."""

    done: str
    failed: str
    cached: str
    blocked: str
    full: str
    empty: str
    cut: str


DRAWN = Signs(done="✓", failed="✗", cached="=", blocked="-", full="█", empty="░", cut="…")
PLAIN = Signs(done="+", failed="x", cached="=", blocked="-", full="#", empty=".", cut="~")


def locale_name(environ: Mapping[str, str]) -> str:
    """Return the locale of the environment, by the order of setlocale(3)."""
    return next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := environ.get(name, ""))), "")


def encoding_of(stream: TextIO, environ: Mapping[str, str]) -> str:
    """Return an encoding that has the letters which a stream's reader can show.

    Python writes UTF-8 in the C locale (PEP 538, PEP 540), and where a locale is not installed. A terminal that was set
    up for another encoding shows something else then.
    """
    own = stream.encoding or "utf-8"
    if not stream.isatty():
        return own
    name = locale_name(environ)
    forced = not environ.get("LC_ALL") and name == "C.UTF-8" and environ.get("LANG", "") in POSIX  # by Python itself
    if name in POSIX or forced:
        return "ascii"
    charset = name.partition(".")[2].partition("@")[0]
    try:
        return own if not charset or codecs.lookup(charset) == codecs.lookup(own) else "ascii"
    except LookupError:
        return "ascii"


def signs_for(encoding: str, environ: Mapping[str, str]) -> Signs:
    """Return the signs that a terminal can show, each in one column."""
    if locale_name(environ)[:2] in AMBIGUOUS:
        return PLAIN
    try:
        "".join((DRAWN.done, DRAWN.failed, DRAWN.full, DRAWN.empty, DRAWN.cut)).encode(encoding)
    except UnicodeEncodeError:
        return PLAIN
    return DRAWN
