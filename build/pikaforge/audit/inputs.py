"""Open the inputs of an audit, which are files, folders and packages, as trees of ELF files on disk."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from filecmp import cmp
from pathlib import Path
from typing import IO

from pikaforge.audit.elf.layout import is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.host.archives import MEMBER_LIMIT, archive_errors
from pikaforge.host.streams import TOTAL_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJudged:
    """Something in a tree that may hold code and was not opened."""

    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfTree:
    """ELF files that belong together: those of one folder or package, or a single file."""

    title: str
    """The path that was named."""
    whole: bool
    """Whether it is a folder or package, so that its files may need one another."""
    elves: dict[str, Path]
    """The file with the bytes, by path in the tree (relative, with `/`)."""
    links: dict[str, str] = field(default_factory=dict)
    """Links by path in the tree, with the path in the tree that each points to."""
    others: int = 0
    """The number of files that are no ELF files."""
    not_judged: tuple[NotJudged, ...] = ()
    """What may hold code and could not be opened, and why."""


def open_inputs(paths: Iterable[Path], scratch: Path) -> list[ElfTree]:
    """Return one tree for each path.

    A symbolic link that is named is followed; one within a folder is not, so that no file counts twice.

    Args:
        paths: files, folders, packages (`config.package_files.suffixes`).
        scratch: an empty folder; the ELF files of packages are unpacked there, with numbers as names.

    Raises:
        AuditError: a path does not exist, is neither ELF nor package, or a package is bad.
    """
    trees = []
    for number, path in enumerate(dict.fromkeys(paths)):
        if path.is_dir():
            trees.append(_folder(path))
        elif package_files.is_package(path):
            trees.append(open_package(path, scratch / str(number)))
        else:
            trees.append(_file(path))
    return trees


def _file(path: Path) -> ElfTree:
    try:
        real = path.resolve(strict=True)
        with real.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise AuditError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error
    if not is_elf(start):
        raise AuditError(
            "this is neither an ELF file nor a package",
            where=str(path),
            hint=f"packages are known by their names: {' '.join(package_files.suffixes())}",
        )
    return ElfTree(title=str(path), whole=False, elves={path.name: real})


def _folder(path: Path) -> ElfTree:
    elves: dict[str, Path] = {}
    links: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    others = 0
    for folder, names, files in os.walk(path, onerror=_walk_failed):
        names.sort()
        for name in sorted([*names, *files]):
            full = Path(folder) / name
            inside = full.relative_to(path).as_posix()
            if full.is_symlink():
                _add_link(links, inside, str(full.readlink()))
                continue
            if not full.is_file():
                continue
            status = full.stat()
            if not _starts_as_elf(full):
                others += 1
            elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                elves[inside] = full
            else:  # a hard link to a file that is listed already
                first = next(n for n, p in elves.items() if p.samefile(full))
                links[inside] = first
    return ElfTree(title=str(path), whole=True, elves=elves, links=links, others=others)


def _walk_failed(error: OSError) -> None:
    raise AuditError(f"cannot read the folder: {error.strerror or error}", where=str(error.filename)) from error


def _starts_as_elf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return is_elf(stream.read(4))
    except OSError as error:
        raise AuditError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error


def _add_link(links: dict[str, str], name: str, target: str) -> None:
    """Add a link that stays within its tree. An absolute target starts at the tree's top."""
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    joined = joined.lstrip("/")
    if not joined.startswith("../") and joined not in ("..", ".", ""):
        links[name] = joined


def open_package(path: Path, into: Path) -> ElfTree:
    """Return the tree in a package; its ELF files are written to `into` as `0`, `1`, …

    Raises:
        AuditError: the package is of an unknown kind, truncated, corrupt, or larger than `TOTAL_LIMIT`.
    """
    into.mkdir(parents=True, exist_ok=True)
    elves: dict[str, Path] = {}
    links: dict[str, str] = {}
    others = total = 0
    with archive_errors(str(path)):
        for member in package_files.members(path):
            if member.kind == "symlink":
                _add_link(links, member.name, member.target)
            elif member.kind == "hardlink":
                links[member.name] = member.target
            elif member.content is not None:
                start = member.content.read(4)
                if not is_elf(start):
                    others += 1
                    continue
                place = into / str(len(elves))
                total += _copy(start, member.content, place, path, TOTAL_LIMIT - total)
                elves[member.name] = place
    for copy, original in package_files.copies(path).items():
        # Else a file would be judged twice, and a waiver, which names it once, would not cover its copy.
        if (
            copy != original
            and copy in elves
            and original in elves
            and cmp(elves[copy], elves[original], shallow=False)
        ):
            del elves[copy]
            links[copy] = original
    return ElfTree(title=str(path), whole=True, elves=elves, links=links, others=others)


def _copy(start: bytes, content: IO[bytes], place: Path, package: Path, limit: int) -> int:
    limit = min(limit, MEMBER_LIMIT)
    with place.open("wb") as out:
        out.write(start)
        while block := content.read(1 << 20):
            out.write(block)
            if out.tell() > limit:
                raise AuditError(f"the package unpacks to more than {limit} bytes", where=str(package))
        return out.tell()
