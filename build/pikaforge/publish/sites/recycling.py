"""The folder of an old generation becomes that of a new one.

Two generations that follow one another have nearly all files in common. So the folder that nobody reads any more is
not removed, and a whole one made: only the names that differ are changed in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Files of a folder that a new generation has in common with the current one."""

    folder: Path
    """Of the current generation."""
    names: Collection[str]
    regular: Mapping[str, int]
    """All regular files that are there, with the numbers of their inodes."""

    @classmethod
    def of(cls, folder: Path, names: Collection[str]) -> Kept:
        """Look at the folder of the current generation."""
        return cls(folder=folder, names=names, regular={} if not folder.exists() else _listed(folder)[0])


def strip(folder: Path, kept: Mapping[str, Kept]) -> dict[str, Collection[str]]:
    """Remove all from a folder but the files that are those of the current generation, too: hard links to the same.

    So what stays has the bytes that a new link would have, whatever happened to the old generation or its names.

    Args:
        folder: of the old generation.
        kept: what the new generation takes over, by path below the folder.

    Returns:
        The names that stay, by path.
    """
    above = {parent for path in kept for parent in _above(path)}
    stays: dict[str, Collection[str]] = {}
    todo = [""]
    while todo:
        at = todo.pop()
        here = folder / at
        regular, folders, others = _listed(here)
        stays[at] = _same(here, regular, kept[at]) if at in kept else ()
        for name in {*regular, *others}.difference(stays[at]):
            (here / name).unlink()
        for name in folders:
            path = f"{at}/{name}" if at else name
            if path in kept or path in above:
                todo.append(path)
            else:
                shutil.rmtree(here / name)
    return stays


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _same(folder: Path, regular: Mapping[str, int], kept: Kept) -> Collection[str]:
    """Return the names under which two folders have the same file.

    A listing has the numbers of inodes, which takes much less time than to ask for each file. Some file systems list
    none, or others than a file has: so all must differ in each of the folders, and one file is asked for.
    """
    if any(len(set(numbers.values())) < len(numbers) for numbers in (regular, kept.regular)):
        return ()
    there = kept.regular
    same = frozenset([name for name in kept.names if name in regular and regular[name] == there.get(name)])
    for name in same:
        return same if os.path.samestat(os.lstat(folder / name), os.lstat(kept.folder / name)) else ()
    return same


def _listed(folder: Path) -> tuple[dict[str, int], list[str], list[str]]:
    """Return the regular files in a folder with the numbers of their inodes, the folders, and all else."""
    regular: dict[str, int] = {}
    folders: list[str] = []
    others: list[str] = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_file(follow_symlinks=False):
                regular[entry.name] = entry.inode()
            else:
                (folders if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    return regular, folders, others
