"""After a build that has made something: the same build once more, unseen, for the answer to the next call.

In this process all modules are there, so it takes a fraction of what it would take the next call. It decides as every
build does; what it says is kept only if it had nothing to do. It can make nothing: the first node that it would make
ends it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from pikaforge.cli.faces.events import NodeStarted, RunEvent
from pikaforge.cli.unchanged import request
from pikaforge.cli.unchanged.heard import HeardFace
from pikaforge.cli.unchanged.keep import RECENT
from pikaforge.errors import ForgeError
from pikaforge.host import process, watch

SHARE = 20
"""It reads all results of the plan again. So it is done only if at least one of so many nodes was made."""


class NotSettledError(Exception):
    """The build would have made something."""


class SilentFace:
    """Shows nothing, and ends a run that begins to make something."""

    live = False

    def take(self, event: RunEvent) -> None:
        """As `Face.take`.

        Raises:
            NotSettledError: a node is being made.
        """
        if isinstance(event, NodeStarted):
            raise NotSettledError

    def tick(self) -> None:
        """As `Face.tick`."""

    def close(self) -> None:
        """As `Face.close`."""


def is_worth_it(made: int, nodes: int) -> bool:
    """Return whether to build once more costs little beside what a build has done.

    Args:
        made: nodes that it has made.
        nodes: nodes of its plan.
    """
    return made > 0 and nodes <= made * SHARE


def build_again(argv: Sequence[str], face: str, build: Callable[[HeardFace], None]) -> None:
    """Build once more, and watch it. Whatever prevents it is no harm: the next call decides by itself.

    Args:
        argv: the arguments of the call.
        face: the name of the face that has shown the run.
        build: builds, shows a face what happens, and keeps the answer.
    """
    seen = watch.current()
    if seen is None or not request.may_be_kept(list(argv), os.environ):
        return
    with suppress(ForgeError, OSError, NotSettledError, KeyboardInterrupt):
        # What the build has just written must be older than what is kept of it; see `keep`.
        process.pause(2 * RECENT / 1e9)
        with watch.watching(after=seen):
            build(HeardFace(face, SilentFace()))
