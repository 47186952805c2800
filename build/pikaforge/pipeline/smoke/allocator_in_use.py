"""Which allocator serves a running server: what it has mapped, and what tcmalloc says at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pikaforge.audit.judge_allocator import UNUSED, WHOLE, is_allocator, is_whole

STATISTICS = {"MALLOCSTATS": "1"}
"""Makes tcmalloc print its statistics when the program ends (gperftools, src/tcmalloc.cc: ~TCMallocGuard)."""
_TOTAL = re.compile(r"^MALLOC:\s*=\s*(\d+)\s*\(.*\)\s*Virtual address space used\s*$", re.MULTILINE)


def mapped_wrong(files: Sequence[str], *, kind: str, root: str) -> str:
    """What is wrong with the allocators that a process has mapped; empty if nothing is.

    Args:
        files: paths that it has mapped.
        kind: of the allocator that was chosen.
        root: the folder below which the tree is, as the process sees it.
    """
    found = [path for path in files if is_allocator(path)]
    if kind == "none":
        return f"the allocator is none, but {', '.join(found)} is mapped" if found else ""
    whole = [path for path in found if is_whole(path)]
    if not whole:
        return f"{UNUSED}: /proc/PID/maps shows no {WHOLE[0].rstrip('*')}"
    outside = [path for path in whole if not path.startswith(f"{root}/tree/")]
    if outside:
        return f"{outside[0]} is mapped, and not the one that travels in the tree"
    return f"there are {len(found)} allocators in one process: {', '.join(found)}" if len(found) > 1 else ""


def served(log: str) -> int | None:
    """Bytes that tcmalloc had got from the system by the statistics in a server's log; None if there are none."""
    totals = _TOTAL.findall(log)
    return int(totals[-1]) if totals else None


def served_wrong(log: str, *, kind: str, at_least: float) -> str:
    """What is wrong with the statistics in a server's log; empty if nothing is.

    Args:
        log: all that it printed, with `STATISTICS` in its environment.
        kind: of the allocator that was chosen.
        at_least: MiB.
    """
    count = served(log)
    if kind == "none":
        return "the allocator is none, but tcmalloc has printed its statistics" if count is not None else ""
    if count is None:
        return f"{UNUSED}: at the server's end it has printed no statistics (MALLOCSTATS=1)"
    if count < at_least * (1 << 20):
        return (
            f"tcmalloc has served {count / (1 << 20):.1f} MiB, less than {at_least:g}: something else serves the rest"
        )
    return ""
