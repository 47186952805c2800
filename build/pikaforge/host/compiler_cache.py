"""Names of compiler caches. A cache belongs to one source, because whoever builds with it can write to it.

What a build puts into its cache can come out in a later build that uses the same one. So the name of a cache is a
digest of the sources of the code that runs in its builds, and no other source ever sees it. Caches of old sources are
removed when new ones are made.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

NONE = "none"
"""What records say where no cache was used."""
FOLDER = "ccache"
START = f"pikaforge-{FOLDER}-"
"""Start of the names of volumes."""
KEPT = 32
"""Caches that stay when a new one is made, with that one. The file ccache.conf limits the size of each."""
LETTERS = 32
"""Of a digest in names."""


def volume_of(cache: str) -> str:
    """Return the name of a cache's volume."""
    return f"{START}{cache[:LETTERS]}"


def superfluous(names: list[tuple[str, str]]) -> list[str]:
    """Return the volumes that are to be removed: all but the newest, and those of other names.

    Args:
        names: names of volumes, and when each was made (as text that sorts).
    """
    own = sorted(((made, name) for name, made in names if name.startswith(START)), reverse=True)
    old = {name for _, name in own[KEPT:]}
    return [name for name, _ in names if name in old or not name.startswith(START)]


def local(parent: Path, cache: str) -> Path:
    """Return the folder of a cache on this machine; it is made, and others that were not used for long are removed.

    Args:
        parent: the folder of all caches.
        cache: the digest.
    """
    folder = parent / cache[:LETTERS]
    if not folder.is_dir():
        folder.mkdir(parents=True)
        used = sorted((path for path in parent.iterdir() if path != folder), key=_used, reverse=True)
        for path in used[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.unlink(missing_ok=True)
    folder.touch()
    return folder


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
