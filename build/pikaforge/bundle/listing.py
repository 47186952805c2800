"""What the manifest of a bundle says, and how a bundle is written: for its writer and its reader.

A bundle is a tar archive in GNU's format, of plain files alone. `manifest.json` is its first member. The others follow
in the order in which the manifest lists them, each with the size and the SHA-256 that it has there. The headers say
nothing else (`header`). So a reader knows of each byte what it must be before it comes.

This module and `reader` use the standard library alone: they run before there is an environment with libraries.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pikaforge.errors import BundleError

FORMAT = 1
UNIT = tarfile.BLOCKSIZE
"""Bytes of a block of the archive, which a member's content fills up."""
END = 2 * UNIT
"""Zeros at the end of the archive."""
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64 << 20
MEMBERS_LIMIT = 200_000
SIZE_LIMIT = 1 << 40
"""Bytes of one member."""
NAME_LIMIT = 250
"""Bytes of a name: a file system takes 255 for each part of one."""
FOLDER = "{folder}"
"""Stands in `arguments` for the folder that the bundle is unpacked in."""
ROOMS = ("tool", "configuration", "store", "images", "downloads", "git", "source", "wheels", "keys")
"""Folders at the top of a bundle."""
DAMAGED = "carry it here again; `sha256sum` compares it with the digest that was printed when it was made"

_VERSION = re.compile(r"3\.[0-9]{1,2}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleMember:
    """A file in a bundle."""

    name: str
    """Its path, relative."""
    size: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The manifest of a bundle."""

    cells: tuple[str, ...]
    """Ids of the cells that can be built from it."""
    pythons: tuple[str, ...]
    """Versions of Python that it has wheels for, such as 3.11."""
    arguments: tuple[str, ...]
    """Of a build, before those that the user gives."""
    engine: str
    """`docker`, or `host`: then it has no images."""
    members: tuple[BundleMember, ...]
    contents: Mapping[str, object]
    """What `contents.Contents` reads."""

    def text(self) -> str:
        """Return the manifest as it is written."""
        members = [
            {"name": m.name, "size": m.size, "sha256": m.sha256, **({"executable": True} if m.executable else {})}
            for m in self.members
        ]
        body = {
            "format": FORMAT,
            "cells": self.cells,
            "pythons": self.pythons,
            "arguments": self.arguments,
            "engine": self.engine,
            "contents": self.contents,
            "members": members,
        }
        return json.dumps(body, indent=1, sort_keys=True) + "\n"


def header(name: str, size: int, *, executable: bool = False) -> bytes:
    """Return the header of a member: the only one that it can have. A long name takes several blocks."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o755 if executable else 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def parse(text: bytes, where: str) -> Listing:
    """Return the manifest in a text.

    Raises:
        BundleError: it is none, or names a file that must not be.
    """
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise BundleError(
                f"the bundle has format {found['format']!r:.20}; this tool reads format {FORMAT}",
                where=where,
                hint="take the setup.sh that is in the bundle: tar xf BUNDLE tool",
            )
        listing = Listing(
            cells=_texts(found["cells"]),
            pythons=_texts(found["pythons"]),
            arguments=_texts(found["arguments"]),
            engine=str(found["engine"]),
            members=tuple(_member(each) for each in found["members"]),
            contents=dict(found["contents"]),
        )
        if listing.engine not in ("docker", "host") or not all(_VERSION.fullmatch(v) for v in listing.pythons):
            raise ValueError("it names an engine or a Python that there is not")
        _check(listing)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"the manifest of the bundle is wrong: {error!s:.200}", where=where, hint=DAMAGED) from error
    return listing


def _texts(found: list[Any]) -> tuple[str, ...]:
    texts = tuple(found)
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ValueError("a text in it is none")
    return texts


def _member(found: Mapping[str, Any]) -> BundleMember:
    name, size, digest, executable = found["name"], found["size"], found["sha256"], found.get("executable", False)
    if not isinstance(name, str) or (why := refusal(name)):
        raise ValueError(f"it names {name!r:.100}, which {why if isinstance(name, str) else 'is no name'}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < SIZE_LIMIT:
        raise ValueError(f"{name} has the size {size!r:.40}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(executable, bool):
        raise ValueError(f"{name} has no SHA-256")
    return BundleMember(name=name, size=size, sha256=digest, executable=executable)


def refusal(name: str) -> str:
    """Return why a name cannot be that of a member, as the end of a sentence; "" if it can."""
    parts = name.split("/")
    reasons = {
        "is absolute": name.startswith("/"),
        "leads out of the folder": ".." in parts,
        "is no plain path": any(part in ("", ".") for part in parts) or "\\" in name or not name.isprintable(),
        "is too long": len(name.encode("utf-8", "replace")) > NAME_LIMIT,
        "cannot be written": not _is_text(name),
        f"is in none of the folders {', '.join(ROOMS)}": len(parts) < 2 or parts[0] not in ROOMS,
    }
    return next((reason for reason, wrong in reasons.items() if wrong), "")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(listing: Listing) -> None:
    """Raise ValueError for members that cannot all be there."""
    if len(listing.members) > MEMBERS_LIMIT:
        raise ValueError(f"it names more than {MEMBERS_LIMIT} files")
    names = {member.name for member in listing.members}
    if len(names) != len(listing.members):
        raise ValueError("it names a file twice")
    for name in names:
        inner = next((str(p) for p in PurePosixPath(name).parents if str(p) in names), None)
        if inner is not None:
            raise ValueError(f"{inner} is a file, and {name} is in it")
