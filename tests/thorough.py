"""Parts of the tests that a plain run shortens, because they take long: PIKAFORGE_TEST_ALL asks for all of them.

Its value is a list of parts, such as `bare,readers`, or `all`.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import pytest

Part = Literal["bare", "standins", "readers", "fuzz", "starts", "allocators", "audit"]
VARIABLE = "PIKAFORGE_TEST_ALL"


def whole(part: Part) -> bool:
    """Whether a part is to be run in full.

    bare: README's commands and all tests on each bare machine, instead of a share of it on one machine.
    standins: the sample on each stand-in of an image, instead of on EL 9 alone.
    readers: 500 publications under readers, and 40 to a server, instead of 40 and 20.
    fuzz: 8,000 mutated inputs for the readers of packages and documents, instead of 1,600.
    allocators: gperftools in both ways for two targets each, instead of one each.
    audit: all of glibc with waivers, and the largest programs of this machine, too.
    starts: each run of the tool in a process that Python has started for it, instead of a forked one.

    Raises:
        ValueError: the variable names a part that does not exist.
    """
    asked = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")} - {""}
    if unknown := asked - {"all", *get_args(Part)}:
        raise ValueError(f"{VARIABLE}: there is no part {', '.join(sorted(unknown))}: {', '.join(get_args(Part))}, all")
    return bool(asked & {"all", part})


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are marked `thorough(asked)` where `asked` is false.

    They are not skipped, because nothing is missing on this machine.
    """
    marks = {item: item.get_closest_marker("thorough") for item in items}
    left_out = [item for item, mark in marks.items() if mark is not None and not mark.args[0]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
