"""How pages write things: names in order, points in time, sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache

from pikaforge.attest.describe import PROVENANCE_SUFFIX, SBOM_SUFFIX, SIGNATURE_SUFFIX

LABELS: Mapping[str, str] = {SBOM_SUFFIX: "SBOM", PROVENANCE_SUFFIX: "provenance", SIGNATURE_SUFFIX: "signature"}
"""Labels of the files beside a package, by what their names have behind the package's name."""


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """Return a sort key that puts R620 before R6415."""
    return tuple((other, int(digits or 0)) for other, digits in re.findall(r"([^0-9]*)([0-9]*)", text))


@lru_cache(maxsize=4096)
def moment(text: str) -> str:
    """Return a point in time in UTC, to the second, in one notation; a text that is none is returned unchanged."""
    try:
        found = datetime.fromisoformat(re.sub("Z$", "+00:00", text))  # Python 3.10 knows no Z
    except ValueError:
        return text
    if found.tzinfo is None:
        found = found.replace(tzinfo=timezone.utc)
    return found.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def size(number: int) -> str:
    """Return a number of bytes for people."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
