"""The offline mode: who would ask another machine is refused, with what was wanted, and nothing waits for a timeout.

`PIKAFORGE_OFFLINE` switches it on: `1`, or the folder of an unpacked bundle, from which caches are then filled (see
`bundle`). The container engine is no other machine here, wherever it is; but it pulls nothing, and builds no image.
"""

from __future__ import annotations

import os
from pathlib import Path

from pikaforge.errors import OfflineError

VARIABLE = "PIKAFORGE_OFFLINE"
HINT = (
    "carry it here: a bundle that is made for these cells has it (`nox -s bundle -- SELECTOR`, where there is a "
    f"network)\nor unset {VARIABLE}, if there is a network here after all"
)


def active() -> bool:
    """Return whether the mode is on."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def folder() -> Path | None:
    """Return the folder of the unpacked bundle that everything is taken from; None without one."""
    given = os.environ.get(VARIABLE, "")
    return Path(given) if active() and given != "1" else None


def refuse(wanted: str, *, hint: str = "") -> None:
    """Raise OfflineError in the offline mode; it is called before something is asked for in the network.

    Args:
        wanted: what is asked for, without secrets.
        hint: what else helps.
    """
    if active():
        raise OfflineError(
            f"offline: {wanted} is wanted, and {VARIABLE} forbids the network",
            hint="\n".join(filter(None, (hint, HINT))),
        )
