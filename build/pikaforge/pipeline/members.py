"""What may be in the trees that a compilation leaves: files, folders, links within the tree; plain names and modes.

Formats differ in what they make of anything else: a device cannot be in a wheel, RPM and DEB lose a set-user-ID bit
that the tarball keeps. So it is refused before something is made of it. The guest script looks, too (`check_kinds` in
toolchain.sh), before strip and patchelf change modes; but what comes from a build is not trusted to have done so.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pikaforge.errors import AuditError, StageError
from pikaforge.host.archives import DEPTH_LIMIT, LINK_LIMIT, MEMBERS_LIMIT, NAMES_LIMIT, TarEntry, tar_entries
from pikaforge.host.text import CONTROLS, size_text
from pikaforge.host.workspace import failure

NAMED = 10
"""Members that an error names."""
BITS = ((0o4000, "set-user-ID"), (0o2000, "set-group-ID"), (0o1000, "sticky"))
"""Bits of a mode that no format is known to keep."""
HINT = "the recipe decides what it leaves in OUT: files and folders without special bits, and links within it"


def check(*trees: Path, stage: str, label: str, log: Path) -> None:
    """Look at the members of trees that a compilation has left.

    Args:
        trees: tar archives.
        stage: of the node.
        label: of the node.
        log: of the node.

    Raises:
        StageError: something in them cannot be packed; it is named.
    """
    for tree in trees:
        if bad := _problems(tree):
            more = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
            found = replace(failure(stage=stage, label=label, log=log), findings=(*bad[:NAMED], *more))
            raise StageError("the build left what cannot be packed", found, hint=HINT)


def refusal(*trees: Path) -> str:
    """Return the first thing that is wrong with the members of trees; "" if nothing is."""
    return next((bad[0] for bad in map(_problems, trees) if bad), "")


def _problems(tree: Path) -> list[str]:
    """Return what is wrong with members of a tree, or with the tree itself."""
    try:
        return list(_bad(tree))
    except AuditError as error:
        return [error.message]


def _bad(tree: Path) -> Iterator[str]:
    """Yield what is wrong with members of a tree, at most one thing for each."""
    letters = 0
    for number, member in enumerate(tar_entries(tree, where="the tree"), 1):
        letters += len(member.name) + len(member.target)
        if number > MEMBERS_LIMIT or letters > NAMES_LIMIT:
            yield f"it has more than {MEMBERS_LIMIT} members, or names of more than {size_text(NAMES_LIMIT)}"
            return
        if wrong := _wrong(member):
            yield f"{member.name.removeprefix('./')!r} {wrong}"


def _wrong(member: TarEntry) -> str:
    """Return what is wrong with a member; "" if nothing is."""
    return _wrong_name(member) or _wrong_link(member) or _wrong_mode(member)


def _wrong_name(member: TarEntry) -> str:
    name = posixpath.normpath(member.name)
    if _controls(member.name):
        return "has a control character in its name, or a byte that is not UTF-8"
    if len(name) > LINK_LIMIT or name.count("/") >= DEPTH_LIMIT:
        return "has too long a name, or is too deep"
    return "is outside of the tree" if _outside(name) else ""


def _wrong_link(member: TarEntry) -> str:
    if member.kind not in ("symlink", "hardlink"):
        return ""
    if _controls(member.target):
        return "is a link to a name with a control character, or a byte that is not UTF-8"
    start = posixpath.dirname(posixpath.normpath(member.name)) if member.kind == "symlink" else ""
    leads = posixpath.normpath(posixpath.join(start, member.target))
    return f"is a link out of the tree, to {member.target!r}" if _outside(leads) else ""


def _wrong_mode(member: TarEntry) -> str:
    if member.kind == "other":
        return "is no file, folder or link, but a device or a pipe"
    bits = [text for bit, text in BITS if member.mode & bit]
    return f"has the {' and the '.join(bits)} bit" if bits and member.kind != "symlink" else ""


def _controls(text: str) -> bool:
    # A half of a surrogate stands for a byte that is not UTF-8.
    return any(unicodedata.category(letter) in CONTROLS for letter in text)


def _outside(path: str) -> bool:
    return path.startswith(("/", "../")) or path == ".."
