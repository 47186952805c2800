"""Bounds of JSON that anybody may have written."""

from __future__ import annotations

VALUES_LIMIT = 80_000
"""Values of one document. A model's errors take 2 kB of memory for each wrong value; a manifest has four for a file."""


class JsonError(ValueError):
    """A JSON text is more than this tool reads."""


def verify_size(text: bytes) -> None:
    """Raise JsonError if a text may have more than `VALUES_LIMIT` values.

    Depth needs no bound here: pydantic refuses what is nested more than 200 times.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise JsonError(f"it has more than {VALUES_LIMIT} values")
