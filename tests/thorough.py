"""Parts of the tests that a plain run shortens, because they take long: PIKAFORGE_TEST_ALL asks for all of them.

Its value is a list of parts, such as `bare,readers`, or `all`.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

Part = Literal["bare", "standins", "readers"]
VARIABLE = "PIKAFORGE_TEST_ALL"


def whole(part: Part) -> bool:
    """Whether a part is to be run in full.

    bare: README's commands and all tests on each bare machine, instead of one of the two on one machine.
    standins: the sample on each stand-in of an image, instead of on EL 9 alone.
    readers: 500 publications under readers, instead of 120.

    Raises:
        ValueError: the variable names a part that does not exist.
    """
    asked = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")} - {""}
    if unknown := asked - {"all", *get_args(Part)}:
        raise ValueError(f"{VARIABLE}: there is no part {', '.join(sorted(unknown))}: {', '.join(get_args(Part))}, all")
    return bool(asked & {"all", part})
