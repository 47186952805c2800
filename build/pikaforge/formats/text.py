"""Texts of packages of every kind."""

from __future__ import annotations

import unicodedata
from datetime import datetime

CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of characters that control, and of separators of lines."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def clean(text: str) -> str:
    """The text without control characters but line ends."""
    return "".join(" " if unicodedata.category(letter) in CONTROLS and letter != "\n" else letter for letter in text)


def names(moment: datetime) -> tuple[str, str]:
    """Day of the week and month in English, whatever the locale."""
    return WEEKDAYS[moment.weekday()], MONTHS[moment.month - 1]
