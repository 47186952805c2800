"""Removal of what runs that have ended have left in an engine. It is bounded, because the engine may be stuck on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pikaforge.host import replies
from pikaforge.host.connection import LABEL, OK, load_sdk
from pikaforge.host.run_id import RunId
from pikaforge.host.text import one_line

if TYPE_CHECKING:
    from docker import APIClient  # noqa: TID251  # its type

    from pikaforge.host.engine_calls import EngineCalls

OWNER = f"{LABEL}.owner"
"""Label with the run id of what must not outlive its run."""
ONE, ALL = 20.0, 60.0
"""Seconds for a removal, and for all of a sweep."""
ABORT = 35.0
"""Seconds for all containers of a run to be killed."""


def gone(answer: object) -> list[str]:
    """Return ids of what runs that have ended have left, from a list of containers or networks."""
    found = []
    for entry in answer if isinstance(answer, list) else ():
        listed = replies.parse(replies.Listed, entry)
        made_by = RunId.parse((listed.labels or {}).get(OWNER, ""))
        if made_by is not None and made_by.gone():
            found.append(listed.id)
    return found


def is_clean(looked: tuple[int, object] | None) -> bool:
    """Return whether a list of containers or networks was got without the SDK, and has nothing of ended runs."""
    return looked is not None and looked[0] == OK and not gone(looked[1])


def sweep(api: APIClient, calls: EngineCalls, notice: Callable[[str], None]) -> int:
    """Remove containers and networks of runs that have ended; return how many those were.

    The engine lists them without looking into one: a container whose lock is held would make it wait.
    """
    filters = {"label": OWNER}
    containers = gone(api.containers(all=True, filters=filters))
    networks = gone(api.networks(filters=filters))
    removals = [
        *((f"container {id_[:12]}", partial(api.remove_container, id_, v=True, force=True)) for id_ in containers),
        *((f"network {id_[:12]}", partial(api.remove_network, id_)) for id_ in networks),
    ]
    return remove(removals, calls, notice)


def remove(
    removals: Iterable[tuple[str, Callable[[], object]]], calls: EngineCalls, notice: Callable[[str], None]
) -> int:
    """Make removals; return how many were made. What the engine refuses is in use, or gone already.

    Args:
        removals: what is removed, and the call that does it.
        calls: of the engine's client.
        notice: is told what the engine does not remove in time.
    """
    from pikaforge.host.http_session import LOST, timed_out  # noqa: PLC0415

    sdk = load_sdk()
    removed, end = 0, time.monotonic() + ALL
    for what, removal in removals:
        left = end - time.monotonic()
        if left <= 0:
            notice(f"{one_line(what)} of a run that has ended is left for a later run")
            continue
        try:
            with calls.at_most(min(ONE, left)):
                removal()
            removed += 1
        except sdk.errors.APIError:
            continue
        except LOST as error:
            if not timed_out(error):
                raise
            notice(f"the engine has not removed {one_line(what)} of a run that has ended; it is left for a later run")
    return removed


def all_at_once(works: Iterable[Callable[[], None]]) -> None:
    """Do several things in threads, and wait for them, but not longer than `ABORT`."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    end = time.monotonic() + ABORT
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
