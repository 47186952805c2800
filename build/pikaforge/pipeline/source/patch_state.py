"""The state of each patch of the series: applied, present in the source already, or in conflict with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pikaforge.config.patch_series import PatchEntry, Series
from pikaforge.host.http import redacted
from pikaforge.host.text import clean
from pikaforge.pipeline.source.facts import Offset, PatchFacts, State
from pikaforge.pipeline.source.patches import Already, Patch, entry_name, patch_start

GuestLines = Mapping[str, Sequence[tuple[str, ...]]]
"""What series.sh wrote, by key; the first value of each line is the number of the patch."""

_STATES: Mapping[str, State] = {"applied": "applied", "present": "present", "conflict": "conflict"}


def read(lines: GuestLines, patches: Sequence[Patch]) -> tuple[PatchFacts, ...]:
    """Return the facts of patches, in order, from what series.sh wrote.

    Raises:
        ValueError: the lines do not fit the patches.
    """

    def of(key: str, number: int) -> list[tuple[str, ...]]:
        return [
            tuple(map(clean, values[1:]))
            for values in lines.get(key, ())
            if values and values[0].isdecimal() and int(values[0]) == number
        ]

    found = []
    for number, patch in enumerate(patches):
        states = [_STATES[state] for (state,) in of("state", number) if state in _STATES]
        if len(states) != 1:
            raise ValueError(f"series.sh says of the patch {patch.name}: {states}")
        found.append(
            PatchFacts(
                name=patch.name,
                sha256=patch.sha256,
                url=redacted(patch.url),
                why=patch.why,
                state=states[0],
                offsets=tuple(Offset(path=p, hunk=int(h), lines=int(n)) for p, h, n in of("offset", number)),
                notes=tuple(note for (note,) in of("note", number)),
                reasons=tuple(reason for (reason,) in of("reason", number)),
            )
        )
    return tuple(found)


def refused(patch: PatchFacts, already: Already) -> bool:
    """Return whether a patch is in the source, and must not be."""
    return patch.state == "present" and already == "refuse"


def findings(patch: PatchFacts, already: Already) -> tuple[str, ...]:
    """Return the reasons why the stage fails because of a patch; nothing if it does not."""
    if refused(patch, already):
        return (f"patch {patch.name} is in the source already, and `already: refuse` forbids that", *patch.notes)
    return patch.reasons


def remark(patches: Sequence[PatchFacts]) -> str:
    """Name the patches that a source has already, in one line; return "" if there are none."""
    present = [
        f"{patch.name} ({'; '.join(patch.notes)})" if patch.notes else patch.name
        for patch in patches
        if patch.state == "present"
    ]
    return f"in the source already, so not applied: {', '.join(present)}" if present else ""


HEADER = ("PATCH", "STATE", "REMARKS")
_WORDS: Mapping[State, str] = {"applied": "applies", "present": "present", "conflict": "conflict"}


def rows(series: Series, patches: Sequence[PatchFacts]) -> Iterator[tuple[str, str, str]]:
    """Yield every entry of a series with its state, as `patches check` shows it; a quilt folder's patches one by one.

    Args:
        series: the series.
        patches: its patches, in order.
    """
    left = list(patches)
    starts = [patch_start(entry) for entry in series.patches if entry.quilt is not None]
    for entry in series.patches:
        if not entry.enabled:
            yield entry_name(entry), "disabled", entry.why or "-"
            continue
        for patch in _of_entry(entry, starts, left):
            state = "refused" if refused(patch, entry.already) else _WORDS[patch.state]
            # The first reason is that it is in conflict.
            remarks = [*_offsets(patch.offsets), *patch.notes, *patch.reasons[1:2]]
            yield patch.name, state, "; ".join(remarks) or "-"


def _of_entry(entry: PatchEntry, starts: Sequence[str], left: list[PatchFacts]) -> Iterator[PatchFacts]:
    """Take the patches of an entry from the front; those of a folder within its own are another entry's."""
    if entry.quilt is None:
        yield left.pop(0)
        return
    own = patch_start(entry)
    while left and max((start for start in starts if left[0].name.startswith(start)), key=len, default="") == own:
        yield left.pop(0)


def _offsets(offsets: Sequence[Offset]) -> Iterator[str]:
    for path in dict.fromkeys(offset.path for offset in offsets):
        hunks = ", ".join(f"#{o.hunk} {o.lines:+}" for o in offsets if o.path == path)
        yield f"{path}: hunk {hunks} lines"
