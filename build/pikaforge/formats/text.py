"""Small functions for texts of packages, and for the output of programs."""

from __future__ import annotations

from datetime import datetime

from pikaforge.formats.layout import PackingError
from pikaforge.host.text import clean

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
REASON_LIMIT = 200
"""Characters of what a program printed that an error message has."""


def names(moment: datetime) -> tuple[str, str]:
    """Return the names of weekday and month in English. `strftime` would use the locale."""
    return WEEKDAYS[moment.weekday()], MONTHS[moment.month - 1]


def one_line(text: str) -> str:
    """Return a text as one line, without control characters and with single blanks.

    Raises:
        PackingError: there is nothing in it.
    """
    line = " ".join(clean(text).split())
    if not line:
        raise PackingError("a field of the package is empty", hint="summary, licence and section need a text")
    return line


def last_line(text: str) -> str:
    """Return the last line of what a program printed that is not blank, shortened to `REASON_LIMIT`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:REASON_LIMIT] if lines else "it says nothing"
