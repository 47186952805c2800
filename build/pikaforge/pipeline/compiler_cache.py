"""Which compiler cache a compilation may use, and the record of the one that it has used.

A cache belongs to one source: see `host.compiler_cache`. Compilations for several targets, images and allocators share
the cache of their source. They run the same code, and flags and compiler are part of what ccache hashes.

Who writes patches may let all series on one commit share a cache. Then a patch can decide what is compiled with another
one, so the record says so, and other runs do not take such a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pikaforge.host import hashing
from pikaforge.host.compiler_cache import NONE
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace

FILE = "compiler-cache"
"""The record, as a file of the result: its facts would change the keys of what is made from it."""
SCRIPT = "ccache.conf"
"""The configuration of ccache, as a guest script."""
SHARED = "shared"
"""In the record: sources with other patches use the cache, too."""
_RECORD = re.compile(rf"(?P<cache>none|sha256:[0-9a-f]{{64}})\n?(?P<shared>{SHARED}\n)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerCache:
    """The cache of a compilation."""

    name: str
    """A digest; empty: none is used."""
    shared: bool = False
    """Whether sources with other patches use it, too."""


def of(workspace: Workspace, sources: Iterable[str], *, unpatched: Iterable[str] = ()) -> CompilerCache:
    """Return the cache of some sources.

    Args:
        workspace: of the run.
        sources: digests of all that brings code which runs in the compilation.
        unpatched: what names the source without its patches; empty if there are no patches.
    """
    if not workspace.compiler_cache:
        return CompilerCache(name="")
    base = tuple(unpatched) if workspace.shares_cache else ()
    name = hashing.digest("\n".join([SHARED, *base] if base else sources))
    return CompilerCache(name=name, shared=bool(base))


def record(cache: CompilerCache, folder: Path) -> Path:
    """Write the record of a cache into a folder; return its path."""
    path = folder / FILE
    kept = f"sha256:{cache.name}\n" if cache.name else f"{NONE}\n"
    path.write_text(f"{kept}{SHARED}\n" if cache.shared else kept, encoding="ascii")
    return path


def used_by(result: Result | None) -> str:
    """Return the cache that a result was made with: `sha256:…` or `none`; "" if it does not say."""
    return _record(result)[0]


def _record(result: Result | None) -> tuple[str, bool]:
    """Return the cache that a result was made with, and whether it was shared."""
    path = result.files.get(FILE) if result is not None else None
    if path is None:
        return "", False
    with path.open("rb") as stream:
        found = _RECORD.fullmatch(stream.read(200).decode("ascii", "replace"))
    return (found["cache"], found["shared"] is not None) if found else ("", False)


def lost(result: Result, workspace: Workspace) -> str:
    """Return why a run cannot use a result that was made with a cache; "" if it can."""
    used, shared = _record(result)
    if not workspace.compiler_cache and used != NONE:
        return "a compiler cache may have been used, and this run uses none"
    if shared and not workspace.shares_cache:
        return "it was made with the compiler cache of other patches, too, and this run shares none"
    return ""
