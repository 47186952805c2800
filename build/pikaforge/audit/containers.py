"""Collect the ELF files of a tree, also those within archives and compressed files that are its members.

A container is known by its first bytes, whatever its name. Containers are opened one after the other, and the one in
which they are is closed by then: so the memory is that of one decompressor. Names are those of folders that end with
`!`: `x.deb!/usr/lib/libx.a!/y.o` is a member of a static library in a DEB. What cannot be judged is listed with the
reason, and never an error: it may be a test's broken archive.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import IO

from pikaforge.audit import attached
from pikaforge.audit.elf.layout import is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.host.archive_kinds import FURTHEST, START, may_be_image, unreadable
from pikaforge.host.archives import MEMBER_LIMIT, Member, archive_errors
from pikaforge.host.raw import joined
from pikaforge.host.streams import TOTAL_LIMIT, unpacked_limit
from pikaforge.host.zips import LOCAL, ends_as_zip

WITHIN = "!/"
"""Between the name of a container and that of its member."""
NESTED_LIMIT = 8
"""Containers in each other. A wheel in a tarball of a layer of an image has three or four."""
CONTENTS_LIMIT = 500_000
"""Members of all containers in the members of a tree. The source of Linux has 90,000 files."""
SECONDS = 300
"""For all containers in the members of a tree. The source of Linux, in a package, takes 60 s."""
LINES_LIMIT = 1000
"""Lines of what is not judged; one more says how many others there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJudged:
    """Something in a tree that may hold code and was not judged."""

    where: str
    """The path in the tree, as of ELF files; the tree's title for something of the tree itself."""
    why: str


@dataclass(slots=True)
class _Allowance:
    """Bytes that may be unpacked from one container, and from the containers in it."""

    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A container that is to be opened."""

    name: str
    path: Path
    depth: int
    """How many containers it is in, with itself."""
    allowance: _Allowance
    temporary: bool
    """Whether its bytes are a copy, which is removed."""
    start: bytes
    """Its first bytes, or those of what it is in spite of them."""


class Collector:
    """The files of one tree, as far as they were found."""

    def __init__(self, title: str, into: Path) -> None:
        """Begin with nothing.

        Args:
            title: of the tree, for errors.
            into: the folder for ELF files of archives, which get numbers as names; it is made when it is needed.
        """
        self.elves: dict[str, Path] = {}
        self.links: dict[str, str] = {}
        self.others = 0
        self._title, self._into = title, into
        self._waiting: deque[_Waiting] = deque()
        self._repeated: Counter[str] = Counter()
        self._not_judged: list[NotJudged] = []
        self._lines_left_out = self._files = self._total = self._members = 0
        self._end = 0.0

    @property
    def not_judged(self) -> tuple[NotJudged, ...]:
        """What was found and cannot be judged."""
        if not self._lines_left_out:
            return tuple(self._not_judged)
        more = NotJudged(where=self._title, why=f"{self._lines_left_out} more of this kind")
        return (*self._not_judged, more)

    def leave(self, where: str, why: str) -> None:
        """Note that something is not judged."""
        if len(self._not_judged) < LINES_LIMIT:
            self._not_judged.append(NotJudged(where=where or self._title, why=why))
        else:
            self._lines_left_out += 1

    def members(self, members: Iterable[Member], *, size: int) -> None:
        """Take the members of the tree's own package.

        Args:
            members: what it has.
            size: its bytes, which decide how much the containers in it may unpack to.

        Raises:
            AuditError: it is truncated, corrupt, or larger than `TOTAL_LIMIT`.
        """
        allowance = _Allowance(unpacked_limit(size))
        for member in members:
            self._member(member, "", 0, allowance)

    def on_disk(self, name: str, path: Path) -> bool:
        """Take a file of a folder where it is, and return whether it is an ELF file."""
        with path.open("rb") as content:
            start = _start(content)
            allowance = _Allowance(unpacked_limit(os.fstat(content.fileno()).st_size))
            if is_elf(start):
                self.elves[name] = path
                self._attached(name, start, path, 0, allowance)
            else:
                self._other(name, start, content, 0, allowance, path=path)
        return is_elf(start)

    def open_all(self) -> None:
        """Open the containers that were found, and those in them."""
        self._end = time.monotonic() + SECONDS
        while self._waiting:
            container = self._waiting.popleft()
            try:
                with archive_errors(container.name):
                    for member in package_files.contained(container.path, container.name, container.start):
                        self._check(container)
                        self._member(member, container.name + WITHIN, container.depth, container.allowance)
            except AuditError as error:
                self.leave(container.name, error.message)
            finally:
                if container.temporary:
                    container.path.unlink()

    def _check(self, container: _Waiting) -> None:
        """Raise AuditError if the containers together have too many members or take too long."""
        self._members += 1
        if self._members > CONTENTS_LIMIT:
            raise AuditError(f"the archives of the tree have more than {CONTENTS_LIMIT} members", where=container.name)
        if time.monotonic() > self._end:
            raise AuditError(f"to read the archives of the tree takes more than {SECONDS} s", where=container.name)

    def _member(self, member: Member, within: str, depth: int, allowance: _Allowance) -> None:
        name = within + member.name
        if member.kind == "unread":
            self.leave(within.removesuffix(WITHIN), member.target)
        elif member.kind == "symlink":
            add_link(self.links, member.name, member.target, within=within)
        elif member.kind == "hardlink":
            self.links[name] = within + member.target
        elif member.content is not None:
            name = name if member.kind == "file" else within + attached.REST
            self._content(name, member.content, depth, allowance)

    def _content(self, name: str, content: IO[bytes], depth: int, allowance: _Allowance) -> None:
        """Take a file that is to be copied if it is of use."""
        start = _start(content)
        if is_elf(start):
            self._elf(name, start, content, depth, allowance)
        else:
            self._other(name, start, content, depth, allowance)

    def _attached(self, name: str, start: bytes, path: Path, depth: int, allowance: _Allowance) -> None:
        """Take what makes a program more than its own code."""
        if attached.is_packed(start):
            self.leave(name, "it is packed by UPX: the code that it unpacks when it runs is not seen")
        try:
            for place, found in attached.carried(path):
                begin = found.read(START)
                if place == attached.REST and (why := attached.follows(path, begin)):
                    self.leave(name + WITHIN + place, why)
                self._further(name + WITHIN + place, joined(begin, found), depth, allowance)
        except AuditError as error:
            self.leave(name, error.message)

    def _further(self, name: str, content: IO[bytes], depth: int, allowance: _Allowance) -> None:
        if depth >= NESTED_LIMIT:
            self.leave(name, f"it is in {depth} archives")
            return
        try:
            self._content(name, content, depth + 1, allowance)
        except AuditError as error:
            self.leave(name, error.message)

    def _elf(self, name: str, start: bytes, content: IO[bytes], depth: int, allowance: _Allowance) -> None:
        if depth > 0 and attached.is_32_bit(start):
            self.leave(name, "it is 32-bit code, which is not judged here")
            return
        place = self._copy(start, content, None if depth == 0 else allowance)
        if name in self.elves:
            # Programs that unpack archives differ in which one they leave: the last, the first, or that which is newer.
            if cmp(self.elves[name], place, shallow=False):
                place.unlink()
                return
            first = name
            while name in self.elves:
                self._repeated[first] += 1
                name = f"{first}#{self._repeated[first] + 1}"
        self.elves[name] = place
        self._attached(name, start, place, depth, allowance)

    def _other(
        self,
        name: str,
        start: bytes,
        content: IO[bytes],
        depth: int,
        allowance: _Allowance,
        *,
        path: Path | None = None,
    ) -> None:
        """Take what is no ELF file: a container, to be opened later, or any other file; `path` is where it stays."""
        try:
            if package_files.is_container(start):
                self._later(name, start, content, depth, allowance, path=path)
                return
            self.others += 1
            if why := unreadable(start):
                self.leave(name, f"{why}: it cannot be opened here")
            else:
                self._unknown(name, start, content, depth, allowance, path=path)
        except AuditError as error:
            self.leave(name, error.message)

    def _later(
        self, name: str, start: bytes, content: IO[bytes], depth: int, allowance: _Allowance, *, path: Path | None
    ) -> None:
        """Note a container, which is opened when the one that it is in is closed."""
        if depth >= NESTED_LIMIT:
            self.leave(name, f"it is in {depth} archives")
            return
        place = path or self._copy(start, content, allowance)
        self._waiting.append(
            _Waiting(name=name, path=place, depth=depth + 1, allowance=allowance, temporary=path is None, start=start)
        )

    def _unknown(
        self, name: str, start: bytes, content: IO[bytes], depth: int, allowance: _Allowance, *, path: Path | None
    ) -> None:
        """Take what a file of an unknown kind carries: an archive behind a script or zeros, programs, a zip archive."""
        found: IO[bytes] | None = None
        if start.startswith(b"\0"):
            start = attached.behind_zeros(start, content)
            found = joined(start, content) if attached.is_known(start) else None
        elif attached.is_script(start):
            found = attached.payload(start, content)
            start = content.read(START) if found is None else b""
        if found is not None:
            self._further(name + WITHIN + attached.REST, found, depth, allowance)
        elif path is not None:
            self._search(name, path, depth, allowance, temporary=False)
        elif (part := attached.search(start, content)) is not None:
            self._search(name, self._copy(b"", part, allowance), depth, allowance, temporary=True)

    def _search(self, name: str, path: Path, depth: int, allowance: _Allowance, *, temporary: bool) -> None:
        """Take the programs in a file of an unknown kind, or the zip archive that it is by its end."""
        with path.open("rb") as content:
            zipped = ends_as_zip(content)
        if zipped and depth < NESTED_LIMIT:
            self._waiting.append(
                _Waiting(name=name, path=path, depth=depth + 1, allowance=allowance, temporary=temporary, start=LOCAL)
            )
            return
        try:
            for place, found in attached.within(path):
                self._further(name + WITHIN + place, found, depth, allowance)
        finally:
            if temporary:
                path.unlink()

    def _copy(self, start: bytes, content: IO[bytes], allowance: _Allowance | None) -> Path:
        """Write a member to disk, and return where.

        Raises:
            AuditError: it is larger than the tree's package, or the container that it is in, may unpack to.
        """
        limit = min(TOTAL_LIMIT - self._total, MEMBER_LIMIT)
        if allowance is not None:
            limit = min(limit, allowance.left)
        self._into.mkdir(parents=True, exist_ok=True)
        place = self._into / str(self._files)
        self._files += 1
        try:
            with place.open("wb") as out:
                out.write(start)
                while block := content.read(1 << 20):
                    out.write(block)
                    if out.tell() > limit:
                        raise AuditError(f"the package unpacks to more than {limit} bytes", where=self._title)
                size = out.tell()
        except BaseException:
            place.unlink()
            raise
        self._total += size
        if allowance is not None:
            allowance.left -= size
        return place


def _start(content: IO[bytes]) -> bytes:
    """Return the first bytes of a file, as many as tell its kind."""
    start = content.read(START)
    if len(start) == START and may_be_image(start[:512]) and not is_elf(start):
        start += content.read(FURTHEST - START)
    return start


def add_link(links: dict[str, str], name: str, target: str, *, within: str = "") -> None:
    """Add a link that stays within its tree.

    Args:
        links: those of the tree.
        name: of the link, without that of the container that it is in.
        target: where it leads; an absolute target starts at the top of the tree or container.
        within: the container, with what is between its name and that of a member; empty for the tree itself.
    """
    joined_ = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    joined_ = joined_.lstrip("/")
    if not joined_.startswith("../") and joined_ not in ("..", ".", ""):
        links[within + name] = within + joined_
