"""The allocator in use by a running server: the libraries that it has mapped, and their statistics at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pikaforge.audit.judge_allocator import is_allocator
from pikaforge.plan import allocators
from pikaforge.plan.allocators.kind import Presence


def environment() -> dict[str, str]:
    """Return variables that make allocators of all kinds print statistics when a program ends."""
    found: dict[str, str] = {}
    for presence in _presences():
        if presence.statistics is not None:
            found.update(presence.statistics.environment)
    return found


def mapped_wrong(files: Sequence[str], *, kind: str, root: str) -> str:
    """Return what is wrong with the allocators that a process has mapped; "" if nothing is.

    Args:
        files: paths that it has mapped.
        kind: the kind of the chosen allocator.
        root: the folder with the tree, as the process sees it.
    """
    found = [path for path in files if is_allocator(path)]
    presence = allocators.of(kind).presence
    if presence is None:
        return f"the allocator is {kind}, but {', '.join(found)} is mapped" if found else ""
    whole = [path for path in found if presence.is_whole(path)]
    if not whole:
        return f"{presence.unused}: /proc/PID/maps shows no {presence.library}"
    outside = [path for path in whole if not path.startswith(f"{root}/tree/")]
    if outside:
        return f"{outside[0]} is mapped, and not the one that travels in the tree"
    return f"there are {len(found)} allocators in one process: {', '.join(found)}" if len(found) > 1 else ""


def served(log: str) -> tuple[str, int] | None:
    """Return the allocator whose statistics are in a server's log, and the bytes that it had got from the system.

    Returns:
        None if the log has no statistics.
    """
    for presence in _presences():
        count = presence.statistics.served(log) if presence.statistics is not None else None
        if count is not None:
            return presence.title, count
    return None


def _presences() -> Iterator[Presence]:
    return (kind.presence for kind in allocators.every() if kind.presence is not None)


def served_wrong(log: str, *, kind: str, at_least: float) -> str:
    """Return what is wrong with the statistics in a server's log; "" if nothing is, or if the allocator prints none.

    Args:
        log: all that the server printed, with `environment()` in its environment.
        kind: the kind of the chosen allocator.
        at_least: MiB that it must have got from the system.
    """
    presence = allocators.of(kind).presence
    if presence is None:
        found = served(log)
        return f"the allocator is {kind}, but {found[0]} has printed its statistics" if found is not None else ""
    if presence.statistics is None:
        return ""
    count = presence.statistics.served(log)
    if count is None:
        asked = " ".join(f"{name}={value}" for name, value in presence.statistics.environment.items())
        return f"{presence.unused}: at the server's end it has printed no statistics ({asked})"
    if count < at_least * (1 << 20):
        mebibytes = count / (1 << 20)
        return (
            f"{presence.title} has served {mebibytes:.1f} MiB, less than {at_least:g}: something else serves the rest"
        )
    return ""
