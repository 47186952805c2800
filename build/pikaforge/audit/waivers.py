"""Apply waivers to the findings of an audit, and report those that have expired or that nothing needs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pikaforge.config.waiver import NAMELESS, Waiver
from pikaforge.host import hashing


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverUse:
    """How the waivers of an audit were used."""

    used: tuple[Waiver, ...]
    problems: tuple[str, ...]
    """A line for each waiver that has expired, or that was not needed."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What a waiver may name a file by."""

    paths: tuple[str, ...]
    """Its path in the tree, and what that is below folders that the tree may lie in."""
    build_id: str = ""
    """In hex; empty if it has none."""
    place: Path | None = None
    """The file on disk, for its digest."""


def paths_of(name: str, top: str, outside: str = "") -> tuple[str, ...]:
    """Return the paths by which waivers may name a file, the longest first.

    Waivers have the paths of a compiled tree. A package has that tree below some folders, a folder that somebody names
    may be one of the tree's, and of a single file only the folder is known.

    Args:
        name: its path in the folder or package.
        top: the innermost folder of that which holds all files; the tree may begin at any folder above.
        outside: the path of the folder itself; empty: waivers cannot name what is outside.
    """
    full = f"{outside.strip('/')}/{name}" if outside.strip("/") else name
    above = len(full.split("/")) - len(name.split("/")) + (len(top.split("/")) if top else 0)
    parts = full.split("/")
    return tuple("/".join(parts[cut:]) for cut in range(min(above, len(parts) - 1) + 1))


class Ledger:
    """The waivers that apply to one tree, and which of them were used.

    An expired waiver covers nothing: its findings fail as if it did not exist. A waiver does not apply if the target
    has all its features: so one waiver serves several targets, and does not count as unused on those that need none.
    A waiver for some image or allocator applies only to a tree that is known to be of that one.

    A function without a symbol is covered only by a waiver with the build id or digest of its file, because its name is
    an address, at which another build of the file has other code.
    """

    def __init__(
        self,
        waivers: Iterable[Waiver],
        *,
        today: date,
        image: str = "",
        target: str = "",
        allocator: str = "",
        has: frozenset[str] = frozenset(),
        files: Mapping[str, FileIdentity] | None = None,
    ) -> None:
        """Choose the waivers that apply.

        Args:
            waivers: of the specification.
            today: a waiver has expired if its last day is before this one.
            image: the tree's image; empty if it is not known.
            target: the tree's target.
            allocator: the tree's allocator; empty if it is not known.
            has: ids of the features that the target has.
            files: the tree's files by path; a file that is not listed has no other name.
        """
        wanted = [w for w in waivers if fnmatch.fnmatchcase(target, w.target) and not has.issuperset(w.features)]
        limits = [(w, _limits(w, image, allocator)) for w in wanted]
        self._all = tuple(w for w, options in limits if options == "")
        self._others = tuple((w, options) for w, options in limits if options)
        self._today = today
        self._files = files or {}
        self._used: dict[int, set[str]] = {}
        self._placed: dict[tuple[int, str], bool] = {}
        self._digests: dict[Path, str] = {}

    def covering(self, file: str, function: str, feature: str) -> Waiver | None:
        """Return the first waiver that covers a finding, and count it as used; None if there is none."""
        for index, waiver in enumerate(self._all):
            if self._names(waiver, file, function, feature) and not self._objection(waiver, file, function):
                self._used.setdefault(index, set()).add(feature)
                return waiver
        return None

    def objection(self, file: str, function: str, feature: str) -> str:
        """Return why a waiver that names a finding does not cover it; empty if none names it."""
        for waiver in self._all:
            if self._names(waiver, file, function, feature):
                return f"the {waiver.title()} does not cover it: {self._objection(waiver, file, function)}"
        for waiver, said in self._others:
            if self._names(waiver, file, function, feature):
                return f"the {waiver.title()} is for other files, unless this one is of {said}: if so, say that"
        return ""

    def _names(self, waiver: Waiver, file: str, function: str, feature: str) -> bool:
        return feature in waiver.features and self._places(waiver, file) and waiver.names(function)

    def _places(self, waiver: Waiver, file: str) -> bool:
        found = self._placed.get((id(waiver), file))
        if found is None:
            known = self._files.get(file)
            found = any(waiver.places(path) for path in (known.paths if known is not None else (file,)))
            self._placed[id(waiver), file] = found
        return found

    def _objection(self, waiver: Waiver, file: str, function: str) -> str:
        """Return why a waiver that names a function of a file does not cover it; empty if it does."""
        known = self._files.get(file, FileIdentity(paths=()))
        if waiver.expired(self._today):
            return f"it has expired on {waiver.expires}"
        if waiver.build_id is not None and waiver.build_id != known.build_id:
            return f"the file's build id is {known.build_id or 'missing'}, not {waiver.build_id}"
        if waiver.sha256 is not None and waiver.sha256 != self._digest(known.place):
            return "the file has another SHA-256"
        if NAMELESS.fullmatch(function) and not waiver.pinned:
            what = f"build_id: {known.build_id}" if known.build_id else "sha256, as it has no build id"
            return f"the function has no symbol, so the waiver must pin the file: add {what}"
        return ""

    def _digest(self, place: Path | None) -> str:
        if place is None:
            return ""
        if place not in self._digests:
            self._digests[place] = hashing.file_digest(place)
        return self._digests[place]

    def close(self, *, demand_use: bool = True) -> WaiverUse:
        """Return how the waivers were used, after all findings were looked up.

        Args:
            demand_use: whether an unused or expired waiver is a problem. It is none for files that are not a whole
                compiled tree.
        """
        problems: list[str] = []
        notes: list[str] = []
        for index, waiver in enumerate(self._all):
            used = self._used.get(index, set())
            if waiver.expired(self._today):
                (problems if demand_use else notes).append(
                    f"{waiver.title()} expired on {waiver.expires}: look at it again, then renew or remove it"
                )
            elif not used and demand_use:
                problems.append(f"{waiver.title()} is unused: remove it")
            elif used and (idle := _idle(waiver.features, used)):
                notes.append(f"{waiver.title()}: nothing needs {', '.join(idle)}")
        used_waivers = tuple(w for i, w in enumerate(self._all) if i in self._used)
        return WaiverUse(used=used_waivers, problems=tuple(problems), notes=tuple(notes))


def _limits(waiver: Waiver, image: str, allocator: str) -> str | None:
    """Return which options would make a waiver apply; empty if it does, None if it is for other trees.

    Args:
        waiver: a waiver for the tree's target.
        image: the tree's; empty if it is not known.
        allocator: the tree's; empty if it is not known.
    """
    options = []
    for name, glob, option in ((image, waiver.image, "--os"), (allocator, waiver.allocator, "--allocator")):
        if not fnmatch.fnmatchcase(name, glob):
            if name:
                return None
            options.append(f"{option} {glob}")
    return " and ".join(options)


def _idle(features: Sequence[str], used: set[str]) -> list[str]:
    return [f for f in features if f not in used]
