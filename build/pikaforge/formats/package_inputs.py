"""What a package is made of."""

from __future__ import annotations

from dataclasses import dataclass

from pikaforge.host.store import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageInputs:
    """The results that a package is made of."""

    source: Result
    image: Result
    compiled: Result
    audited: Result
    smoked: Result
    allocator: Result | None = None
    """Of the allocator that was built, if any."""
