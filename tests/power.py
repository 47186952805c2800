"""Power cuts, without cutting the power: what a disk may have after each step of what this process writes.

`Recorder` takes down the state of a folder before each change of it, and what was written to the disk by fsync. From
that, `cuts` makes the folders that may be found after a cut, by a model that promises no more than POSIX does:

- what a file has is there if it was synced (fsync) since; else it is empty, torn, or whole;
- a name is in a folder, or gone from it, if that folder was synced since; else it may be so or not;
- a rename within one folder is one step.

Changes are seen by Python's audit hooks (PEP 578), so a change of the code cannot go past them, but for what other
programs write.
"""

from __future__ import annotations

import os
import random
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pikaforge.host.run_id import RunId

Fate = Literal["lost", "kept", "mixed"]
FATES: tuple[Fate, ...] = ("lost", "kept", "mixed")
"""Of names that were not synced: none of them is on the disk, all are, or those of some folders."""
LASTING = 8
"""Digits of the machine in a run id that stay when it starts again."""
CHANGES = frozenset(
    {"open", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A file, a link or a folder, as it was at some moment."""

    number: int
    """Of the inode, and never given out again."""
    mode: int
    data: bytes = b""
    """Of a file, or the target of a link."""
    names: Mapping[str, int] = field(default_factory=dict)
    """Of a folder."""


State = dict[int, Node]
"""All nodes of a moment, by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Between two steps."""

    now: State
    synced: State
    """What is on the disk for certain; a file that was never synced has no data there, and a folder no names."""
    last: State
    """Each node as it was when it was seen last; some are gone meanwhile."""


Tree = Mapping[str, "tuple[int, bytes] | Tree"]
"""What is found after a cut: modes and data of files and links by name, and folders."""


class Recorder:
    """Takes down the changes of a folder while it is active."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._looking = threading.local()
        self._one = threading.RLock()
        self._numbers: dict[int, int] = {}
        self._next = 0
        self._now: State = {}
        self._last: State = {}
        self._synced: State = {}
        self._seen: dict[tuple[int, int, int, int], bytes] = {}
        self.look()
        self._synced = dict(self._now)
        self.moments.clear()
        self._take()

    def look(self) -> None:
        """Take down the state, if it has changed."""
        with self._one:
            self._looking.now = True
            try:
                now: State = {}
                numbers: dict[int, int] = {}
                self._walk(self.root, now, numbers)
                self._numbers = numbers
            finally:
                self._looking.now = False
            if now != self._now or not self.moments:
                self._now = now
                self._last.update(now)
                self._take()

    def _take(self) -> None:
        self.moments.append(Moment(now=self._now, synced=dict(self._synced), last=dict(self._last)))

    def _walk(self, path: Path, now: State, numbers: dict[int, int]) -> int:
        found = path.lstat()
        number = numbers.get(found.st_ino, self._numbers.get(found.st_ino, -1))
        if number < 0:
            self._next += 1
            number = self._next
        numbers[found.st_ino] = number
        if stat.S_ISDIR(found.st_mode):
            names = {each.name: self._walk(Path(each.path), now, numbers) for each in os.scandir(path)}
            now[number] = Node(number=number, mode=found.st_mode, names=names)
        elif stat.S_ISLNK(found.st_mode):
            now[number] = Node(number=number, mode=found.st_mode, data=os.fsencode(path.readlink()))
        else:
            key = (found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
            if key not in self._seen:
                self._seen[key] = path.read_bytes()
            now[number] = Node(number=number, mode=found.st_mode, data=self._seen[key])
        return number

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Look, if something is about to change."""
        if event not in CHANGES or getattr(self._looking, "now", False):
            return
        if event == "open":
            flags = arguments[2]
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        self.look()

    def synced(self, descriptor: int) -> None:
        """Take down that a file or a folder was written to the disk."""
        with self._one:
            self.look()
            number = self._numbers.get(os.fstat(descriptor).st_ino)
            if number is not None:
                self._synced[number] = self._now[number]
                self._take()


_active: Recorder | None = None
_installed = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _active is not None:
        _active.hook(event, arguments)


@contextmanager
def recorded(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Record what happens to a folder while the block runs. What is there before counts as synced."""
    global _active, _installed  # noqa: PLW0603  # an audit hook cannot be taken away
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    recorder = Recorder(root)

    def watched(sync: Callable[[int], None]) -> Callable[[object], None]:
        def call(file: object) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
            sync(descriptor)
            recorder.synced(descriptor)

        return call

    with patch.context() as context:
        for name in ("fsync", "fdatasync"):
            context.setattr(os, name, watched(getattr(os, name)))
        _active = recorder
        try:
            yield recorder
        finally:
            _active = None
    recorder.look()


# ---- what is found after a cut


def _found(moment: Moment, fate: Fate, chance: random.Random, number: int) -> Tree:
    """A folder after the cut."""
    now, synced = moment.now.get(number), moment.synced.get(number)
    kept = now is not None and (fate == "kept" or (fate == "mixed" and chance.random() < 0.5))
    node = now if kept else synced
    tree: dict[str, tuple[int, bytes] | Tree] = {}
    for name, member in sorted(node.names.items()) if node is not None else ():
        there = moment.now.get(member) or moment.synced.get(member) or moment.last[member]
        if stat.S_ISDIR(there.mode):
            tree[name] = _found(moment, fate, chance, member)
        elif stat.S_ISLNK(there.mode):
            tree[name] = (there.mode, there.data)
        else:
            tree[name] = (there.mode, _data(moment, fate, chance, there))
    return tree


def _data(moment: Moment, fate: Fate, chance: random.Random, there: Node) -> bytes:
    """The bytes of a file after the cut."""
    safe = moment.synced.get(there.number)
    if safe is not None and safe.data == there.data:
        return there.data
    before = safe.data if safe is not None else b""
    if fate == "lost":
        return before
    torn = there.data[: len(there.data) // 2]
    zeros = bytes(len(there.data))
    return chance.choice((before, torn, zeros) if fate == "kept" else (before, torn, zeros, there.data))


def _top(moment: Moment) -> int:
    return next(iter(set(moment.now) - {n for node in moment.now.values() for n in node.names.values()}))


def _hash(tree: Tree) -> int:
    """A number by which equal trees are known; Python keeps the hash of bytes, which may be many."""
    return hash(tuple((name, hash(m) if isinstance(m, tuple) else _hash(m)) for name, m in sorted(tree.items())))


def cuts(recorder: Recorder, chance: random.Random, *, draws: int = 1) -> list[Tree]:
    """The trees that may be found after a cut at each moment, each of them once.

    Args:
        recorder: has seen the steps.
        chance: decides about what was not synced.
        draws: how often it decides, for each moment.
    """
    found: dict[int, Tree] = {}
    fates: list[Fate] = ["lost", "kept"]
    fates += ["mixed" for _ in range(draws)]
    for moment in recorder.moments:
        for fate in fates:
            tree = _found(moment, fate, chance, _top(moment))
            found.setdefault(_hash(tree), tree)
    return list(found.values())


def after(recorder: Recorder, chance: random.Random) -> list[Tree]:
    """The trees that may be found after a cut at the end."""
    return [_found(recorder.moments[-1], fate, chance, _top(recorder.moments[-1])) for fate in FATES]


def put(tree: Tree, folder: Path) -> None:
    """Make what is found after a cut, when the machine has started again: names with a run id have one of before."""
    folder.mkdir(parents=True)
    machine = RunId.current().machine
    for name, member in tree.items():
        path = folder / name.replace(machine, machine[:LASTING] + "0" * (len(machine) - LASTING))
        if isinstance(member, tuple):
            mode, data = member
            if stat.S_ISLNK(mode):
                path.symlink_to(os.fsdecode(data))
            else:
                path.write_bytes(data)
                path.chmod(stat.S_IMODE(mode))
        else:
            put(member, path)
