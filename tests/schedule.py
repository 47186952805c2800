"""The order in which workers get tests: the longest begin first.

`@pytest.mark.long(seconds)` says how long about a group takes, in CPU seconds of this machine's kind; `pytest --costs`
tells. Of a group without that mark, the cost of its part in `turns` counts. A group is what one worker runs as a whole:
an xdist_group, or else a single test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import turns
from thorough import takes_turns

FOLDERS = ("integration", "guest", "unit")
"""Of tests: the short ones of the last fill the gaps at the end."""


@dataclass(slots=True)
class Group:
    """What is known of a group."""

    seconds: float = 0.0
    engine: bool = False
    alone: bool = False


def arrange(items: list[pytest.Item], needs_engine: Callable[[pytest.Item], bool]) -> None:
    """Sort tests so that no worker has a long group left when the others are through.

    What must have the engine for itself waits until no other worker uses it; so it comes behind the others that do,
    and before those that do not. Within a group the order stays as it is.
    """
    groups: defaultdict[str, Group] = defaultdict(Group)

    def group_of(item: pytest.Item) -> Group:
        mark = item.get_closest_marker("xdist_group")
        return groups[str(mark.args[0]) if mark is not None else item.nodeid]

    for item in items:
        group, long = group_of(item), item.get_closest_marker("long")
        part = takes_turns(item) if item.get_closest_marker("xdist_group") is not None else None
        known = float(turns.PARTS[part]) if part is not None else 0.0
        group.seconds = max(group.seconds, float(long.args[0]) if long is not None else known)
        group.engine |= needs_engine(item)
        group.alone |= item.get_closest_marker("serial") is not None

    def place(item: pytest.Item) -> tuple[bool, bool, float, int]:
        group = group_of(item)
        folder = next((at for at, name in enumerate(FOLDERS) if name in item.path.parts), len(FOLDERS))
        return group.seconds == 0.0 and not group.engine, group.alone, -group.seconds, folder

    items.sort(key=place)
