"""Apply waivers to the findings of an audit, and report those that have expired or that nothing needs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from pikaforge.config.waiver import Waiver


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverUse:
    """How the waivers of an audit were used."""

    used: tuple[Waiver, ...]
    problems: tuple[str, ...]
    """A line for each waiver that has expired, or that was not needed."""
    notes: tuple[str, ...]


class Ledger:
    """The waivers that apply to one tree, and which of them were used.

    An expired waiver covers nothing: its findings fail as if it did not exist. A waiver does not apply if the target
    has all its features: so one waiver serves several targets, and does not count as unused on those that need none.
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
        """Choose the waivers that apply.

        Args:
            waivers: of the specification.
            today: a waiver has expired if its last day is before this one.
            image: the tree's image; empty: waivers of any image apply.
            target: the tree's target.
            allocator: the tree's allocator; empty: waivers of any allocator apply.
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
        """Return the first waiver that covers a finding, and count it as used; None if there is none."""
        name = file.removeprefix(self._start)
        for index, waiver in enumerate(self._all):
            if not waiver.expired(self._today) and waiver.covers(name, function, feature):
                self._used.setdefault(index, set()).add(feature)
                return waiver
        return None

    def close(self, *, demand_use: bool = True) -> WaiverUse:
        """Return how the waivers were used, after all findings were looked up.

        Args:
            demand_use: whether an unused or expired waiver is a problem. It is none for files that are not a whole
                compiled tree.
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
        return WaiverUse(used=used_waivers, problems=tuple(problems), notes=tuple(notes))


def _idle(features: Sequence[str], used: set[str]) -> list[str]:
    return [f for f in features if f not in used]
