"""Texts of packages of every kind, and of the programs that make them."""

from __future__ import annotations

from datetime import datetime

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
REASON_LIMIT = 200
"""Characters of what a program printed that an error message has."""


def names(moment: datetime) -> tuple[str, str]:
    """Return day of the week and month in English, whatever the locale."""
    return WEEKDAYS[moment.weekday()], MONTHS[moment.month - 1]


def last_line(text: str) -> str:
    """Return the last line of what a program printed that is not blank, shortened to `REASON_LIMIT`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:REASON_LIMIT] if lines else "it says nothing"
