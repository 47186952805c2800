"""Submodules that patches move: which commits of a submodule contain others, and which files they have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pikaforge.errors import AuditError, ConfigError, HostError
from pikaforge.host import git, git_cache
from pikaforge.host.archives import tar_entries
from pikaforge.host.git_urls import join
from pikaforge.host.http import redacted
from pikaforge.pipeline.source import submodules
from pikaforge.pipeline.source.origin import URL, Origin
from pikaforge.pipeline.source.patches import Patch

_SUBPROJECT = re.compile(rb"^([-+])Subproject commit ([0-9a-f]{40}(?:[0-9a-f]{24})?)\r?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A submodule that a patch moves."""

    path: str
    old: str
    """The commit at which it stands before; "" if it is added."""
    new: str
    """Likewise afterwards; "" if it is removed."""


def moves(data: bytes, strip: int = 1) -> list[Move]:
    """Return the submodules that a mailbox or diff moves, in order. Only git's own form of diff can move one."""
    found: list[Move] = []
    sides: dict[bytes, str] = {}
    path = ""

    def end() -> None:
        if path and sides:
            found.append(Move(path=path, old=sides.get(b"-", ""), new=sides.get(b"+", "")))
        sides.clear()

    for line in data.split(b"\n"):
        if line.startswith(b"diff --git "):
            end()
            path = ""
        elif line.startswith((b"--- ", b"+++ ")) and not sides:
            name = line[4:].rstrip(b"\r").partition(b"\t")[0].decode("utf-8", "replace")
            if name != "/dev/null":
                path = "/".join(name.split("/")[strip:])
        elif match := _SUBPROJECT.match(line):
            sides[match.group(1)] = match.group(2).decode()
    end()
    return found


@dataclass(slots=True, kw_only=True)
class SubmodulePointers:
    """Facts about the submodules that a series moves."""

    holds: list[tuple[str, str, str]] = field(default_factory=list)
    """Path of a submodule, and two of its commits: the second one contains the first."""
    trees: list[tuple[str, str, str]] = field(default_factory=list)
    """Path of a submodule, one of its commits, and the tree of that: for a source that has files and no commits."""
    unknown: dict[str, str] = field(default_factory=dict)
    """By path, the reason why one of these is missing."""

    def inputs(self) -> dict[str, bytes]:
        """Return the input files of series.sh."""
        return {
            name: "".join("\t".join(line) + "\n" for line in lines).encode()
            for name, lines in (("holds", self.holds), ("trees", self.trees))
        }


def look_up(
    by_patch: Mapping[Patch, Sequence[Move]], origin: Origin, *, repository: Path, commit: str, cache: git_cache.Cache
) -> SubmodulePointers:
    """Find the commits that contain those to which the patches move submodules.

    Compared are the commit at which the source has the submodule, and those to which earlier patches move it. Where the
    source is as the series expects it, nothing is fetched: the usual build needs no history of a submodule.

    Args:
        by_patch: the moves of each patch of the series, in order.
        origin: the source.
        repository: a repository that has the commit of the source.
        commit: that commit.
        cache: for the repositories of submodules.
    """
    found = SubmodulePointers()
    every = [move for moved in by_patch.values() for move in moved]
    if not every:
        return found
    known = git.submodules(repository, commit)
    for path in dict.fromkeys(move.path for move in every):
        if path not in known:
            continue
        stands, url = known[path]
        here = [move for move in every if move.path == path]
        before = {move.old for move in here}
        reached = [stands]
        asked: list[tuple[Move, str]] = []
        for move in here:
            asked += [(move, at) for at in reached if move.new and at != move.new and at not in before]
            reached.append(move.new)
        if asked:
            _ask(path, asked, found, origin=origin, url=url, cache=cache)
    return found


def _ask(
    path: str,
    asked: Sequence[tuple[Move, str]],
    found: SubmodulePointers,
    *,
    origin: Origin,
    url: str,
    cache: git_cache.Cache,
) -> None:
    for move, at in dict.fromkeys(asked):
        places = [submodules.kept(origin, path), join(origin.relative_to, url)]
        for place in filter(None, places):
            try:
                repository, whole = cache.history(place, at)
            except (HostError, ConfigError) as error:
                found.unknown[path] = f"whether {at} holds {move.new} could not be looked up: {error.message}"
                continue
            # A move back leads to an ancestor, which every commit contains.
            if git.holds(repository, at, move.new) and not (move.old and git.holds(repository, move.old, move.new)):
                found.holds.append((path, move.new, at))
            elif not whole:
                found.unknown[path] = (
                    f"whether {at} holds {move.new} is not known: {redacted(place)} is a shallow clone"
                )
                continue
            found.unknown.pop(path, None)
            break


GITMODULES_LIMIT = 1 << 20
"""Bytes."""


def look_up_trees(
    by_patch: Mapping[Patch, Sequence[Move]], tarball: Path, *, cache: git_cache.Cache
) -> SubmodulePointers:
    """Find the trees of the commits to which the patches move submodules, to be compared with a tarball's folders.

    Args:
        by_patch: the moves of each patch of the series, in order.
        tarball: the source; relative URLs in it lead nowhere.
        cache: for the repositories of submodules.
    """
    found = SubmodulePointers()
    wanted = [move for moved in by_patch.values() for move in moved if move.new]
    urls = git.submodule_urls(_gitmodules(tarball)) if wanted else {}
    for path, commit in dict.fromkeys((move.path, move.new) for move in wanted):
        url = urls.get(path, "")
        if not URL.match(url):
            continue
        try:
            found.trees.append((path, commit, git.tree_of(cache.fetch(url, commit), commit)))
        except (HostError, ConfigError) as error:
            found.unknown[path] = f"whether {path} is as in {commit} could not be looked up: {error.message}"
    return found


def _gitmodules(tarball: Path) -> bytes:
    """Read .gitmodules at the top of a tarball, or in its one top folder; return nothing if it cannot be read."""
    try:
        for member in tar_entries(tarball):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if member.kind == "file" and parts[-1:] == [".gitmodules"] and len(parts) <= 2:
                return member.read(GITMODULES_LIMIT)
    except AuditError:
        pass  # the guest has other programs, and says what is wrong with it
    return b""
