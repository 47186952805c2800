"""The state of each patch of the series: applied, present in the source already, or in conflict with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pikaforge.config.patch_series import PatchEntry, Series
from pikaforge.host.http import redacted
from pikaforge.host.text import clean
from pikaforge.pipeline.source.patches import Patch, entry_name, patch_start

State = Literal["applied", "present", "conflict"]
Facts = Mapping[str, Sequence[tuple[str, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """A hunk that fits, but not at its very lines."""

    path: str
    hunk: int
    lines: int
    """How much further down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchVerdict:
    """What series.sh found out about a patch, and did with it."""

    patch: Patch
    state: State
    offsets: tuple[Offset, ...] = ()
    notes: tuple[str, ...] = ()
    """How it comes to be there."""
    reasons: tuple[str, ...] = ()
    """Why it does not apply."""

    @property
    def refused(self) -> bool:
        """Whether it is in the source, and must not be."""
        return self.state == "present" and self.patch.already == "refuse"

    @property
    def findings(self) -> tuple[str, ...]:
        """The reasons why the stage fails because of it; empty if it does not."""
        if self.refused:
            return (
                f"patch {self.patch.name} is in the source already, and `already: refuse` forbids that",
                *self.notes,
            )
        return self.reasons

    def facts(self) -> dict[str, Any]:
        """Return it as the stage's result and the manifest of packages have it."""
        return {
            "name": self.patch.name,
            "sha256": self.patch.sha256,
            "url": redacted(self.patch.url),
            "why": self.patch.why,
            "state": self.state,
            "offsets": [{"path": o.path, "hunk": o.hunk, "lines": o.lines} for o in self.offsets],
            "notes": list(self.notes),
            **({"reasons": list(self.reasons)} if self.reasons else {}),
        }


def read(facts: Facts, patches: Sequence[Patch]) -> tuple[PatchVerdict, ...]:
    """Read the verdicts on patches, in order, from the facts of series.sh.

    Raises:
        ValueError: the facts do not fit the patches.
    """

    def of(key: str, number: int) -> list[tuple[str, ...]]:
        return [tuple(map(clean, values[1:])) for values in facts.get(key, ()) if int(values[0]) == number]

    found = []
    for number, patch in enumerate(patches):
        states: dict[str, State] = {"applied": "applied", "present": "present", "conflict": "conflict"}
        said = [state for (state,) in of("state", number) if state in states]
        if len(said) != 1:
            raise ValueError(f"series.sh says of the patch {patch.name}: {said}")
        found.append(
            PatchVerdict(
                patch=patch,
                state=states[said[0]],
                offsets=tuple(Offset(path=p, hunk=int(h), lines=int(n)) for p, h, n in of("offset", number)),
                notes=tuple(note for (note,) in of("note", number)),
                reasons=tuple(reason for (reason,) in of("reason", number)),
            )
        )
    return tuple(found)


def remark(facts: Sequence[Mapping[str, Any]]) -> str:
    """Name the patches that a source has already, in one line; return "" if there are none.

    Args:
        facts: `patches` of the source stage's result.
    """
    there = [
        f"{patch['name']} ({'; '.join(patch['notes'])})" if patch["notes"] else str(patch["name"])
        for patch in facts
        if patch["state"] == "present"
    ]
    return f"in the source already, so not applied: {', '.join(there)}" if there else ""


HEADER = ("PATCH", "STATE", "REMARKS")
_WORDS = {"applied": "applies", "present": "present", "conflict": "conflict"}


def rows(series: Series, facts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield every entry of a series with its state, as `patches check` shows it; a quilt folder's patches one by one.

    Args:
        series: the series.
        facts: of its patches, in order: those of the stage's result, or of its failure.
    """
    left = list(facts)
    for entry in series.patches:
        if not entry.enabled:
            yield entry_name(entry), "disabled", entry.why or "-"
            continue
        for fact in _of_entry(entry, series, left):
            refused = fact["state"] == "present" and entry.already == "refuse"
            state = "refused" if refused else _WORDS[str(fact["state"])]
            # The first reason is that it is in conflict.
            remarks = [*_offsets(fact["offsets"]), *fact["notes"], *fact.get("reasons", ())[1:2]]
            yield str(fact["name"]), state, "; ".join(remarks) or "-"


def _of_entry(entry: PatchEntry, series: Series, left: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Take the facts of an entry's patches from the front."""
    if entry.quilt is None:
        yield left.pop(0)
        return
    while left and str(left[0]["name"]).startswith(patch_start(entry, series)):
        yield left.pop(0)


def _offsets(offsets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for path in dict.fromkeys(str(offset["path"]) for offset in offsets):
        hunks = ", ".join(f"#{o['hunk']} {o['lines']:+}" for o in offsets if o["path"] == path)
        yield f"{path}: hunk {hunks} lines"
