"""The layout of a package: its entries, and the list of them that docker/guest/layout.sh copies files by.

The entries are made here from the members of the tar archives that a job gets as inputs; the guest script only copies.
So contents, modes and owners follow from the inputs alone, and not from a umask or from the user that unpacks them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pikaforge.errors import ForgeError
from pikaforge.host.archives import tar_entries

Kind = Literal["file", "dir", "link"]
PATH = re.compile(r"(/[A-Za-z0-9._@+~=,:-]+)+")
"""Without blanks, quotes, globs and macros: the file lists of packers quote them in different ways."""
USER = re.compile(r"[a-z_][a-z0-9_-]*")
LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|authors)([.-].*)?", re.IGNORECASE)
"""Names of files with the licence, at the top of a tree."""
LICENCES = "licenses"
"""The folder of a tree with a folder for each that has licences, made by docker/guest/licences.sh."""


class PackingError(ForgeError):
    """Something cannot be described as a package."""

    kind = "E-packing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A path of a package."""

    path: str
    kind: Kind = "file"
    source: str = ""
    """Of a file: its path below the job's root, `tree/bin/server`."""
    target: str = ""
    """Of a link: the path that it leads to."""
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    config: bool = False
    """Whether an upgrade keeps the file that an operator has changed, and puts the new one beside it."""
    doc: bool = False
    licence: bool = False

    def __post_init__(self) -> None:
        _check_path(self.path)
        if self.kind == "file":
            _check_path(f"/{self.source}")
        elif self.source or self.config or self.doc or self.licence:
            raise PackingError(f"{self.path}: a {self.kind} has no content", hint="leave its source and marks out")
        if (self.kind == "link") != bool(self.target):
            raise PackingError(f"{self.path}: a link has a target, and nothing else has")
        if self.kind == "link" and not PATH.fullmatch(posixpath.join("/", self.target)):
            raise PackingError(f"{self.path}: its target {self.target!r} cannot be written into a package")
        if not 0 <= self.mode <= 0o777:
            raise PackingError(f"{self.path}: the mode {self.mode:o} is not one of a plain file")
        if not USER.fullmatch(self.owner) or not USER.fullmatch(self.group):
            raise PackingError(f"{self.path}: {self.owner}:{self.group} is no owner")


def _check_path(path: str) -> None:
    if not PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise PackingError(
            f"the path {path!r} cannot be written into a package",
            hint="letters, digits and . _ @ + ~ = , : - only; rename it in the recipe",
        )


def tree_entries(archive: Path | bytes, *, folder: str, prefix: str) -> tuple[Entry, ...]:
    """Return the members of a tar archive as entries, without its top. Root owns them; modes are 755 and 644.

    Args:
        archive: an input of the job.
        folder: the folder below the job's root into which it is unpacked.
        prefix: the folder of the package that its top becomes.

    Raises:
        PackingError: a member is neither file, folder nor link within the tree, or has an odd name.
    """
    found: dict[str, Entry] = {}
    for member in tar_entries(archive, where=folder):
        name = posixpath.normpath(member.name)
        if name == ".":
            continue
        path = f"{prefix}/{name}"
        if member.kind == "folder":
            found[path] = Entry(path=path, kind="dir", mode=0o755)
        elif member.kind in ("file", "hardlink"):  # a hard link is a file once it is unpacked
            mode = 0o755 if member.mode & 0o111 else 0o644
            found[path] = Entry(path=path, source=f"{folder}/{name}", mode=mode)
        elif member.kind == "symlink":
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.target))
            if member.target.startswith("/") or inside.split("/")[0] == "..":
                raise PackingError(
                    f"{folder}/{name} is a link to {member.target}, which leaves the tree",
                    hint="make it relative, or leave it out in the recipe",
                )
            found[path] = Entry(path=path, kind="link", target=member.target, mode=0o777)
        else:
            raise PackingError(f"{folder}/{name} is neither file, folder nor link", hint="leave it out")
    return tuple(found[path] for path in sorted(found))


def with_folders(entries: Iterable[Entry], *, below: str) -> tuple[Entry, ...]:
    """Return entries and all their folders from `below` on (which is among them), each once, sorted by path."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        parent = posixpath.dirname(path)
        while parent == below or parent.startswith(f"{below}/"):
            found.setdefault(parent, Entry(path=parent, kind="dir", mode=0o755))
            parent = posixpath.dirname(parent)
    return tuple(found[path] for path in sorted(found))


def layout_text(entries: Sequence[Entry]) -> str:
    """Return the list for layout.sh: lines of kind, mode, path, and source or target, separated by tabs; folders first.

    Raises:
        PackingError: two different entries have the same path.
    """
    seen: dict[str, tuple[str, str, int]] = {}
    for entry in entries:
        what = (entry.kind, entry.source or entry.target, entry.mode)
        if seen.setdefault(entry.path, what) != what:
            raise PackingError(f"{entry.path} is in the package twice", hint="name one of the two otherwise")
    order = sorted(seen, key=lambda path: (seen[path][0] != "dir", path))
    return "".join(f"{kind}\t{mode:o}\t{path}\t{source}\n" for path in order for kind, source, mode in [seen[path]])
