"""Waivers: findings that somebody has looked at, by name, with a reason and an end."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pikaforge.cpu.features import INVALID, table

DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}$"
ANYTHING = re.compile(r"[*?\[\]!-]*")


def _feature(name: str) -> str:
    if name != INVALID and name not in table():
        close = difflib.get_close_matches(name, table(), n=1)
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
        """Whether a finding is waived by this."""
        return (
            feature in self.features
            and fnmatch.fnmatchcase(file, self.file)
            and fnmatch.fnmatchcase(function, self.function)
        )

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return date.fromisoformat(self.expires) < today

    def title(self) -> str:
        """What it is for, in one line."""
        return f"waiver for {', '.join(self.features)} in {self.function} of {self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the waivers of a run came to."""

    used: tuple[Waiver, ...]
    problems: tuple[str, ...]
    """A line for each waiver that has expired, or that nothing needed."""
    notes: tuple[str, ...]


class Ledger:
    """The waivers that apply to one tree, and which of them were needed.

    An expired waiver covers nothing: its findings fail as if it were not there. One whose features the target has all
    does not apply: one waiver serves every target that lacks some, and is not unused on those that do not.
    """

    def __init__(
        self,
        waivers: Iterable[Waiver],
        *,
        today: date,
        image: str = "",
        target: str = "",
        allocator: str = "",
        has: frozenset[str] = frozenset(),
        below: str = "",
    ) -> None:
        """Choose those that apply.

        Args:
            waivers: of the specification.
            today: after whose last day they are expired.
            image: that the tree is for; empty: waivers for any.
            target: that the tree is for.
            allocator: that the tree is for; empty: waivers for any.
            has: ids of the features that the target has.
            below: the folder of the tree that waivers' paths are relative to.
        """
        self._all = tuple(
            w
            for w in waivers
            if (not image or fnmatch.fnmatchcase(image, w.image))
            and (not allocator or fnmatch.fnmatchcase(allocator, w.allocator))
            and fnmatch.fnmatchcase(target, w.target)
            and not has.issuperset(w.features)
        )
        self._today = today
        self._start = f"{below}/" if below else ""
        self._used: dict[int, set[str]] = {}

    def covering(self, file: str, function: str, feature: str) -> Waiver | None:
        """The first waiver that covers a finding; it counts as used from then on."""
        name = file.removeprefix(self._start)
        for index, waiver in enumerate(self._all):
            if not waiver.expired(self._today) and waiver.covers(name, function, feature):
                self._used.setdefault(index, set()).add(feature)
                return waiver
        return None

    def close(self, *, demand_use: bool = True) -> Books:
        """The problems with the waivers, once all findings were looked up.

        Args:
            demand_use: whether an unused waiver is a problem, and an expired one; not so for files that are no whole
                tree of ours, where it only covers nothing.
        """
        problems: list[str] = []
        notes: list[str] = []
        for index, waiver in enumerate(self._all):
            used = self._used.get(index, set())
            if waiver.expired(self._today):
                (problems if demand_use else notes).append(
                    f"{waiver.title()} expired on {waiver.expires}: look at it again, then renew or remove it"
                )
            elif not used and demand_use:
                problems.append(f"{waiver.title()} is unused: remove it")
            elif used and (idle := _idle(waiver.features, used)):
                notes.append(f"{waiver.title()}: nothing needs {', '.join(idle)}")
        used_waivers = tuple(w for i, w in enumerate(self._all) if i in self._used)
        return Books(used=used_waivers, problems=tuple(problems), notes=tuple(notes))


def _idle(features: Sequence[str], used: set[str]) -> list[str]:
    return [f for f in features if f not in used]
