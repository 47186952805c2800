"""Waivers, as matrix.yaml writes them: reviewed findings of the audit, by name, with a reason and a last day."""

from __future__ import annotations

import fnmatch
import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pikaforge.config.nearest import nearest
from pikaforge.config.scalars import DIGEST_PATTERN, Strict
from pikaforge.cpu.features import INVALID, table

DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}$"
BUILD_ID_PATTERN = r"^([0-9a-f]{2}){4,64}$"

ANYTHING = re.compile(r"[*?\[\]!-]*")
LETTER = re.compile(r"\[[*?\[]\]")
"""A glob for one letter that would be a glob without brackets."""
NAMELESS = re.compile(r"(?:range|gap)@0x[0-9a-f]+")
"""What the audit calls a function without a symbol, by its address (`isa.ranges`). Another build has other code
there, so such a name means something only together with the identity of the file."""
ADDRESS = re.compile(r"^(?:range|gap)@|@0x")
"""Finds an address in a waiver's name of a function."""
DRAFT = "draft: "
"""What the reason of a waiver begins with that `audit --draft-waivers` has written and nobody has examined."""


def _feature(name: str) -> str:
    if name != INVALID and name not in table():
        close = nearest(name, table())
        raise ValueError(f"no feature is called {name!r}" + (f": did you mean {close[0]}?" if close else ""))
    return name


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


def _some(glob: str) -> str:
    if ANYTHING.fullmatch(LETTER.sub("x", glob)):
        raise ValueError("a waiver names what it is for: not everything")
    return glob


class Waiver(BaseModel):
    """Instructions that a target's CPUs lack, allowed in named functions because they run only where they can."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    file: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1,
        max_length=255,
        description="Path in the tree, such as bin/server; a glob if it has *, ? or [, such as lib/libzstd.so.*.",
    )
    function: Annotated[str, AfterValidator(_some)] = Field(
        min_length=1,
        max_length=1024,
        description="Name of a symbol as in the file (not demangled); a glob if it has *, ? or [.",
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
    build_id: str | None = Field(
        default=None,
        pattern=BUILD_ID_PATTERN,
        description="Build id of the file. A function without a symbol, in a stripped file, needs it or sha256.",
    )
    sha256: str | None = Field(
        default=None, pattern=DIGEST_PATTERN, description="SHA-256 of the file, where it has no build id."
    )

    @model_validator(mode="after")
    def _pinned(self) -> Waiver:
        if ADDRESS.search(self.function) and not self.pinned:
            raise ValueError(
                f"{self.function} is an address, where another build of the file has other code: add the file's "
                "build_id or sha256, as `nox -s audit -- FILE --draft-waivers` prints it"
            )
        return self

    @property
    def pinned(self) -> bool:
        """Whether it is for one file only, by its build id or digest."""
        return self.build_id is not None or self.sha256 is not None

    @property
    def draft(self) -> bool:
        """Whether `audit --draft-waivers` has written it, and nobody has examined it since."""
        return self.reason.startswith(DRAFT)

    def names(self, function: str) -> bool:
        """Return whether it is for a function of this name."""
        return _fits(function, self.function)

    def places(self, file: str) -> bool:
        """Return whether it is for a file at this path."""
        return _fits(file, self.file)

    def covers(self, file: str, function: str, feature: str) -> bool:
        """Return whether it waives a finding, as far as names decide that."""
        return feature in self.features and self.places(file) and self.names(function)

    def expired(self, today: date) -> bool:
        """Return whether its last day is over."""
        return date.fromisoformat(self.expires) < today

    def title(self) -> str:
        """Return what it is for, in one line."""
        return f"waiver for {', '.join(self.features)} in {self.function} of {self.file}"


class WaiverFile(Strict):
    """A file of waivers, as `audit --waivers` reads it and `audit --draft-waivers` prints it."""

    waivers: tuple[Waiver, ...] = Field(description="Findings of the audit that somebody has looked at.")


def _fits(name: str, wanted: str) -> bool:
    """Return whether a name is the wanted one, or fits it if it is a glob: in Go, `[` is a part of names."""
    return name == wanted or fnmatch.fnmatchcase(name, wanted)
