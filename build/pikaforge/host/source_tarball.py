"""Source tarballs of releases, normalised for jobs."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pikaforge.errors import AuditError, HostError
from pikaforge.host.archives import TarEntry, archive_errors, tar_entries
from pikaforge.host.text import size_text

LIMIT = 1 << 30
"""Bytes unpacked. The tarballs that are built here have a hundredth of that."""
TYPES = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTarball:
    """A plain tar archive of a source tree without its top folder."""

    path: Path
    epoch: int
    """Time of the newest file in seconds, for SOURCE_DATE_EPOCH."""


def without_top(tarball: Path, into: Path) -> SourceTarball:
    """Write a source tarball to the archive `into`, without the one top folder that has all of its members.

    Owners, modes and times are normalised, so that the same sources give the same archive.

    Raises:
        HostError: it is no tar archive, has several top folders, or has a member that no source tree has.
    """
    newest = total = count = 0
    top = ""
    links: set[PurePosixPath] = set()
    try:
        with archive_errors(str(tarball)), tarfile.open(into, "w", format=tarfile.GNU_FORMAT) as out:
            for member in tar_entries(tarball):
                path = PurePosixPath(member.name)
                if path.is_absolute():
                    raise _bad(tarball, f"{member.name} is an absolute path")
                if not path.parts:  # the folder that was packed, `.`
                    continue
                head, name = path.parts[0], "/".join(path.parts[1:])
                if not name and member.kind != "folder":
                    raise _bad(tarball, f"{member.name} is beside the top folder")
                if top and head != top:
                    raise _bad(tarball, f"there are two top folders, {top} and {head}")
                top = head
                _check(tarball, member, top, links)
                total += member.size
                if total > LIMIT:
                    raise _bad(tarball, f"it unpacks to more than {size_text(LIMIT)}")
                if member.kind == "file":
                    count += 1
                    newest = max(newest, member.modified)
                if name:
                    out.addfile(_plain(member, name), member.open() if member.kind == "file" else None)
    except AuditError as error:
        raise _bad(tarball, f"it cannot be read as a tar archive: {error.__cause__ or error}") from error
    if not count:
        raise _bad(tarball, "there is no file in it")
    return SourceTarball(path=into, epoch=newest)


def _plain(member: TarEntry, name: str) -> tarfile.TarInfo:
    """Return the member under another name, with nothing but what a source tree needs."""
    plain = tarfile.TarInfo(name)
    # The content of a sparse file is read with its holes, so it becomes an ordinary file.
    plain.type, plain.size = TYPES[member.kind], member.size if member.kind == "file" else 0
    plain.mode = 0o755 if member.kind == "folder" or member.mode & 0o100 else 0o644
    plain.linkname = member.target
    if member.kind == "hardlink":
        plain.linkname = "/".join(PurePosixPath(member.target).parts[1:])
    return plain


def _check(tarball: Path, member: TarEntry, top: str, links: set[PurePosixPath]) -> None:
    """Raise HostError for a member that leaves the top folder or goes through a symbolic link.

    A path through a link may lead elsewhere than it says, so that the other checks would not hold.
    """
    if member.kind == "other":
        raise _bad(tarball, f"{member.name} is no file, folder or link")
    own = PurePosixPath(member.name)
    places = [own]
    if member.kind == "symlink":
        places.append(own.parent / member.target)
        links.add(own)
    if member.kind == "hardlink":
        places.append(PurePosixPath(member.target))
    for place in places:
        depth = 0
        for part in place.parts:
            depth += -1 if part == ".." else 1
            if depth < 1 or place.is_absolute():
                raise _bad(tarball, f"{member.name} leads out of {top}/")
        if place.parts[0] != top:
            raise _bad(tarball, f"{member.name} leads out of {top}/")
        passed = [parent for parent in place.parents if parent in links and parent != own]
        if passed:
            raise _bad(tarball, f"{member.name} goes through the link {passed[0]}")


def _bad(tarball: Path, what: str) -> HostError:
    return HostError(
        f"{tarball.name} is not a source tarball: {what}", where=str(tarball), hint="is it a release's own tarball?"
    )
