"""Waivers, as matrix.yaml writes them: reviewed findings of the audit, by name, with a reason and a last day."""

from __future__ import annotations

import fnmatch
import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pikaforge.config.nearest import nearest
from pikaforge.cpu.features import INVALID, table

DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}$"


ANYTHING = re.compile(r"[*?\[\]!-]*")


def _feature(name: str) -> str:
    if name != INVALID and name not in table():
        close = nearest(name, table())
        raise ValueError(f"no feature is called {name!r}" + (f": did you mean {close[0]}?" if close else ""))
    return name


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


def _some(glob: str) -> str:
    if ANYTHING.fullmatch(glob):
        raise ValueError("a waiver names what it is for: not everything")
    return glob


class Waiver(BaseModel):
    """Instructions that a target's CPUs lack, allowed in named functions because they run only where they can."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1, max_length=255, description="Glob over paths in the tree, such as lib/libzstd.so.*."
    )
    function: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1, max_length=1024, description="Glob over symbol names as in the file (not demangled)."
    )
    features: tuple[Annotated[str, AfterValidator(_feature)], ...] = Field(
        min_length=1, description="Feature ids as the audit prints them, such as avx2."
    )
    reason: str = Field(min_length=10, description="How it is made sure that only CPUs with the features run it.")
    expires: Annotated[str, Field(pattern=DAY_PATTERN), AfterValidator(_day)] = Field(
        description="Last day on which it holds, YYYY-MM-DD."
    )
    image: str = Field(default="*", description="Glob over images that it is for.")
    target: str = Field(default="*", description="Glob over targets that it is for.")
    allocator: str = Field(default="*", description="Glob over allocators that it is for.")

    def covers(self, file: str, function: str, feature: str) -> bool:
        """Return whether it waives a finding."""
        return (
            feature in self.features
            and fnmatch.fnmatchcase(file, self.file)
            and fnmatch.fnmatchcase(function, self.function)
        )

    def expired(self, today: date) -> bool:
        """Return whether its last day is over."""
        return date.fromisoformat(self.expires) < today

    def title(self) -> str:
        """Return what it is for, in one line."""
        return f"waiver for {', '.join(self.features)} in {self.function} of {self.file}"
