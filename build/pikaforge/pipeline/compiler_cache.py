"""Which compiler cache a compilation may use, and the record of the one that it has used.

A cache belongs to one source: see `host.compiler_cache`. Compilations for several targets, images and allocators share
the cache of their source. They run the same code, and flags and compiler are part of what ccache hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pikaforge.host import hashing
from pikaforge.host.compiler_cache import NONE
from pikaforge.host.store import Result
from pikaforge.host.workspace import Workspace

FILE = "compiler-cache"
"""The record, as a file of the result: its facts would change the keys of what is made from it."""
SCRIPT = "ccache.conf"
"""The configuration of ccache, as a guest script."""
_RECORD = re.compile(r"none|sha256:[0-9a-f]{64}")


def name_of(workspace: Workspace, sources: Iterable[str]) -> str:
    """Return the digest that names the cache of some sources; "" if this run uses none.

    Args:
        workspace: of the run.
        sources: digests of all that brings code which runs in the compilation.
    """
    return hashing.digest("\n".join(sources)) if workspace.compiler_cache else ""


def record(cache: str, folder: Path) -> Path:
    """Write the record of a cache into a folder; return its path."""
    path = folder / FILE
    path.write_text(f"sha256:{cache}\n" if cache else f"{NONE}\n", encoding="ascii")
    return path


def used_by(result: Result | None) -> str:
    """Return the cache that a result was made with: `sha256:…` or `none`; "" if it does not say."""
    path = result.files.get(FILE) if result is not None else None
    if path is None:
        return ""
    with path.open("rb") as stream:
        text = stream.read(200).decode("ascii", "replace").strip()
    return text if _RECORD.fullmatch(text) else ""


def lost(result: Result, workspace: Workspace) -> str:
    """Return why a result cannot be used by a run without caches; "" if it can."""
    if workspace.compiler_cache or used_by(result) == NONE:
        return ""
    return "a compiler cache may have been used, and this run uses none"
