"""Open the inputs of an audit, which are files, folders and packages, as trees of ELF files on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from filecmp import cmp
from pathlib import Path

from pikaforge.audit.containers import Collector, NotJudged, add_link
from pikaforge.audit.elf.layout import is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.host.archive_kinds import START
from pikaforge.host.archives import archive_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfTree:
    """ELF files that belong together: those of one folder or package, or a single file."""

    title: str
    """The path that was named."""
    whole: bool
    """Whether it is a folder or package, so that its files may need one another."""
    elves: dict[str, Path]
    """The file with the bytes, by path in the tree (relative, with `/`). A member of an archive within the tree is
    called `ARCHIVE!/MEMBER`, and the second file of one name `NAME#2`."""
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
        paths: files, folders, packages (`config.package_files.suffixes`), archives and compressed files.
        scratch: an empty folder; the ELF files of packages are unpacked there, with numbers as names.

    Raises:
        AuditError: a path does not exist, is neither ELF nor package, or a package is bad.
    """
    trees = []
    for number, path in enumerate(dict.fromkeys(paths)):
        into = scratch / str(number)
        if path.is_dir():
            trees.append(_folder(path, into))
        elif package_files.is_package(path):
            trees.append(open_package(path, into))
        else:
            trees.append(_file(path, into))
    return trees


def _file(path: Path, into: Path) -> ElfTree:
    found = Collector(str(path), into)
    try:
        real = path.resolve(strict=True)
        with real.open("rb") as stream:
            start = stream.read(START)
            size = os.fstat(stream.fileno()).st_size
        if not package_files.is_container(start):
            found.on_disk(path.name, real)
    except OSError as error:
        raise AuditError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error
    if package_files.is_container(start):
        with archive_errors(str(path)):
            found.members(package_files.contained(real, path.name, start), size=size)
    tree = _tree(found, str(path))
    if not is_elf(start) and not tree.elves:
        raise AuditError(
            "this is neither an ELF file nor a package with one",
            where=str(path),
            hint="\n".join(
                [
                    *(f"{left.where}: {left.why}" for left in tree.not_judged[:5]),
                    f"packages are known by their names: {' '.join(package_files.suffixes())}",
                ]
            ),
        )
    return tree if len(tree.elves) > 1 or not is_elf(start) else replace(tree, whole=False)


def _tree(found: Collector, title: str) -> ElfTree:
    """Open the containers that were found, and return all files."""
    found.open_all()
    return ElfTree(
        title=title,
        whole=True,
        elves=found.elves,
        links=found.links,
        others=found.others,
        not_judged=found.not_judged,
    )


def _folder(path: Path, into: Path) -> ElfTree:
    found = Collector(str(path), into)
    seen: dict[tuple[int, int], str] = {}
    for folder, names, files in os.walk(path, onerror=_walk_failed):
        names.sort()
        for name in sorted([*names, *files]):
            full = Path(folder) / name
            inside = full.relative_to(path).as_posix()
            if full.is_symlink():
                add_link(found.links, inside, str(full.readlink()))
                continue
            if not full.is_file():
                continue
            status = full.stat()
            same = (status.st_dev, status.st_ino)
            if same in seen:  # a hard link to a file that is listed already
                found.links[inside] = seen[same]
            elif _take(found, inside, full) and status.st_nlink > 1:
                seen[same] = inside
    return _tree(found, str(path))


def _walk_failed(error: OSError) -> None:
    raise AuditError(f"cannot read the folder: {error.strerror or error}", where=str(error.filename)) from error


def _take(found: Collector, name: str, path: Path) -> bool:
    try:
        return found.on_disk(name, path)
    except OSError as error:
        raise AuditError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error


def open_package(path: Path, into: Path) -> ElfTree:
    """Return the tree in a package; its ELF files are written to `into` as `0`, `1`, …

    Raises:
        AuditError: the package is of an unknown kind, truncated, corrupt, or larger than `TOTAL_LIMIT`.
    """
    found = Collector(str(path), into)
    with archive_errors(str(path)):
        size = path.stat().st_size
        found.members(package_files.members(path), size=size)
        found.members(package_files.wrapping(path), size=size)
    for copy, original in package_files.copies(path).items():
        # Else a file would be judged twice, and a waiver, which names it once, would not cover its copy.
        if (
            copy != original
            and copy in found.elves
            and original in found.elves
            and cmp(found.elves[copy], found.elves[original], shallow=False)
        ):
            del found.elves[copy]
            found.links[copy] = original
    return _tree(found, str(path))
