"""Source tarballs of others, made ready to be streamed into a job."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pikaforge.errors import HostError

LIMIT = 1 << 30
"""Bytes unpacked; what is built here has a hundredth of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTar:
    """An uncompressed archive of a source tree without its top folder."""

    path: Path
    epoch: int
    """Time of the newest file, in seconds: for SOURCE_DATE_EPOCH."""


def without_top(tarball: Path, into: Path) -> SourceTar:
    """Write the members of a source tarball, without the one top folder that all are in, to the archive `into`.

    Owners, modes and times are made plain, so that the same sources give the same archive.

    Raises:
        HostError: it is no tar archive, has several top folders, or a member that does not belong into a source tree.
    """
    newest = total = 0
    top = ""
    try:
        with tarfile.open(tarball, "r:*") as source, tarfile.open(into, "w", format=tarfile.GNU_FORMAT) as out:
            for member in source:
                head, _, name = member.name.removeprefix("./").partition("/")
                if not head:
                    continue
                if not name and not member.isdir():
                    raise _bad(tarball, f"{member.name} is beside the top folder")
                if top and head != top:
                    raise _bad(tarball, f"there are two top folders, {top} and {head}")
                top = head
                _check(tarball, member, top)
                total += member.size
                if total > LIMIT:
                    raise _bad(tarball, f"it unpacks to more than {LIMIT >> 20} MiB")
                newest = max(newest, int(member.mtime) if member.isfile() else 0)
                if not name:
                    continue
                plain = tarfile.TarInfo(name)
                plain.type, plain.size = member.type, member.size
                plain.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                plain.linkname = member.linkname.partition("/")[2] if member.islnk() else member.linkname
                out.addfile(plain, source.extractfile(member) if member.isfile() else None)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _bad(tarball, f"it cannot be read as a tar archive: {error}") from error
    if not newest:
        raise _bad(tarball, "there is no file in it")
    return SourceTar(path=into, epoch=newest)


def _check(tarball: Path, member: tarfile.TarInfo, top: str) -> None:
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise _bad(tarball, f"{member.name} is no file, folder or link")
    places = [PurePosixPath(member.name)]
    if member.issym():
        places.append(PurePosixPath(member.name).parent / member.linkname)
    if member.islnk():
        places.append(PurePosixPath(member.linkname))
    for place in places:
        depth = 0
        for part in place.parts:
            depth += -1 if part == ".." else 0 if part == "." else 1
            if depth < 1 or place.is_absolute():
                raise _bad(tarball, f"{member.name} leads out of {top}/")


def _bad(tarball: Path, what: str) -> HostError:
    return HostError(
        f"{tarball.name} is not a source tarball: {what}", where=str(tarball), hint="is it a release's own tarball?"
    )
