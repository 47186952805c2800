"""What goes into a container before it is started. All that is small goes in one request: each takes time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pikaforge.host import confinement
from pikaforge.host.archives import tar_size
from pikaforge.host.confinement import BLOCK, CHUNK, NOBODY
from pikaforge.host.container import ROOT, unpack
from pikaforge.host.job import Input

if TYPE_CHECKING:
    from pikaforge.host.connection import Container

TOGETHER = 16 << 20
"""Bytes of the inputs that are sent together, because they are copied in memory."""
UNPACKED = "unpack"
"""Folder below the root for archives that the job unpacks itself (run.sh): `unpack/src.tar` goes to `src`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Folders below the root, beside those of the inputs."""

    made: str
    """One that is made, and to which the container's user can write."""
    only: bool = False
    """Whether the user can write to that one only, and not to all but the inputs that are sealed."""


def fill(container: Container, inputs: tuple[Input, ...], folders: Folders, *, podman: bool) -> None:
    """Fill the root folder of a container.

    Args:
        container: was not started yet.
        inputs: unpacked there, or sent as they are if the job unpacks them.
        folders: the others.
        podman: whether the engine is podman.
    """
    packed = [item for item in inputs if item.packed]
    inputs = tuple(item for item in inputs if not item.packed)
    open_to = (folders.made,) if folders.only else (folders.made, *(i.folder for i in inputs if not i.sealed))
    owners = {**{i.folder: 0 for i in inputs}, **dict.fromkeys(open_to, NOBODY)}
    # As in /tmp, everybody can make files there, and nobody can remove those of root.
    mode = 0o755 if folders.only else 0o1777
    small: list[tuple[str, int, confinement.PlainArchive]] = []
    large: list[tuple[str, int, Path | bytes]] = []
    left = TOGETHER
    for item in inputs:
        owner = NOBODY if item.folder in open_to and not item.sealed else 0
        plain = confinement.plain(item.archive, left)
        if plain is None:
            large.append((item.folder, owner, item.archive))
        else:
            small.append((item.folder, owner, plain))
            left -= plain.size
    first = confinement.volume_root(ROOT, podman=podman, mode=mode, folders=owners, contents=small)
    container.put_archive(ROOT, _with_packed(packed, first, bare=podman))
    for folder, owner, archive in large:
        unpack(container, f"{ROOT}/{folder}", archive, bare=podman, owner=owner)


def _with_packed(packed: Iterable[Input], rest: bytes, *, bare: bool) -> Iterator[bytes]:
    """Yield an archive with other archives as files before its members.

    Args:
        packed: the others.
        rest: the archive.
        bare: as for `unpack`.
    """
    for number, item in enumerate(packed):
        if number == 0:
            yield _header(UNPACKED, tarfile.DIRTYPE)
        with item.archive.open("rb") if isinstance(item.archive, Path) else io.BytesIO(item.archive) as stream:
            left = size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            yield _header(f"{UNPACKED}/{item.folder}.tar", tarfile.REGTYPE, size)
            while left > 0 and (block := stream.read(min(CHUNK, left))):
                left -= len(block)
                yield block
            yield bytes(left + -size % BLOCK)  # all that was announced, even if the file has become shorter
    yield rest[: tar_size(io.BytesIO(rest))] if bare else rest


def _header(name: str, kind: bytes, size: int = 0) -> bytes:
    """Return the header of a member that belongs to the container's user."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644, size
    info.uid = info.gid = NOBODY
    return info.tobuf(tarfile.GNU_FORMAT)
