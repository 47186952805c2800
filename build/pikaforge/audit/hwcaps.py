"""Libraries for higher levels of x86-64, which the loader takes only on CPUs that have the level.

glibc's loader (from 2.33 on) looks for a library in `glibc-hwcaps/x86-64-vN/` below each folder of its search path, for
each N that the CPU has, before it looks in the folder itself (ld.so(8); glibc sysdeps/x86_64/dl-hwcaps_subdirs.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pikaforge.audit.elf.facts import ElfFacts

_PLACE = re.compile(r"(?:^|/)glibc-hwcaps/x86-64-v([234])/[^/]+$")
_FOLDER = "glibc-hwcaps"


def level_of(path: str) -> str:
    """Return the microarchitecture of a library by its path, as archspec names it; empty if it is not for a level."""
    found = _PLACE.search(path)
    return f"x86_64_v{found[1]}" if found else ""


def levels(facts: Iterable[ElfFacts], links: Mapping[str, str]) -> dict[str, str]:
    """Return the microarchitecture of each library that the loader takes only on CPUs of a level, by name.

    There are none if such a library can be found in another way, too: by a link from elsewhere, a run path, or a need
    that names a folder of a level.

    Args:
        facts: of all files of a tree.
        links: the links in the tree, with the paths in the tree that they lead to.
    """
    files = list(facts)
    if any(_FOLDER in name for f in files for name in (*f.run_path, *f.needed)):
        return {}
    leading = [(link, target) for link, target in links.items() if _FOLDER in target]
    if any(not level_of(link) or level_of(link) != level_of(target) for link, target in leading):
        return {}
    return {f.name: level for f in files if f.kind == "dyn" and not f.pie and (level := level_of(f.name))}
