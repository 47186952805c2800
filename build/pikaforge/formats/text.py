"""Texts of packages of every kind."""

from __future__ import annotations

from datetime import datetime

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def names(moment: datetime) -> tuple[str, str]:
    """Day of the week and month in English, whatever the locale."""
    return WEEKDAYS[moment.weekday()], MONTHS[moment.month - 1]
