"""The record of a package file: for the store, dist/report.json and repo.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pikaforge.config.scalars import Strict
from pikaforge.config.schema import FormatName
from pikaforge.plan import allocators

Role = Literal["main", "debug", "allocator"]


class FileRecord(Strict):
    """A file and its digest."""

    path: str = Field(description="Below the folder that the record is about.")
    sha256: str = Field(description="Digest of its bytes, in hex.")
    bytes: int = Field(description="Size.")

    @property
    def name(self) -> str:
        """Return the file name."""
        return self.path.rpartition("/")[2]


class PackageRecord(Strict):
    """What a package file is."""

    format: FormatName = Field(description="What kind of package it is.")
    role: Role = Field(description=f"The product, its debug information, or {' or '.join(allocators.built())}.")


class ArtifactRecord(FileRecord, PackageRecord):
    """A package under dist/; its bill of materials and provenance are beside it."""

    path: str = Field(description="Relative to this report.")
