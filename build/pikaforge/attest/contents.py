"""The files of an artifact: those that its manifest lists before it is packed, and those that are in it afterwards."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pikaforge.audit.elf.layout import is_elf
from pikaforge.config import package_files
from pikaforge.errors import AuditError
from pikaforge.formats import format as formats
from pikaforge.formats.manifest import MANIFEST, ManifestFile
from pikaforge.host.archives import archive_errors, tar_entries
from pikaforge.host.streams import TOTAL_LIMIT

LINK_LIMIT = 40
"""Symbolic links on one path, as in Linux (path_resolution(7))."""
MANIFEST_LIMIT = 8 << 20
"""Bytes; a manifest that lists 20,000 files has half of that."""


def packed_mode(mode: int) -> str:
    """Return a file's mode as it is packed: packers keep nothing but the executable bit."""
    return "0755" if mode & 0o111 else "0644"


def contents_of(
    tree: Path, extra: Mapping[str, bytes | Path] | None = None, *, executable: Collection[str] = ()
) -> tuple[ManifestFile, ...]:
    """Return what a manifest lists, sorted by path.

    Args:
        tree: tar archive of the compile stage's tree; names begin with `./`.
        extra: files that are added to the tree, by path; they replace those of the tree.
        executable: those of `extra` that get mode 0755.

    Raises:
        AuditError: the archive cannot be read, or holds something that is neither file nor link.
    """
    found: dict[str, ManifestFile] = {}
    with archive_errors(str(tree)):
        for entry in tar_entries(tree):
            name = posixpath.normpath(entry.name)
            if entry.kind == "folder":
                continue
            if entry.kind == "symlink":
                found[name] = ManifestFile(path=name, link=entry.target)
                continue
            if entry.kind == "other":
                raise AuditError(f"{name} is neither file, folder nor link", where=str(tree))
            digest = _hashed(entry.open())[0]
            found[name] = ManifestFile(path=name, mode=packed_mode(entry.mode), sha256=digest)
    for name, data in (extra or {}).items():
        digest = hashlib.sha256(data if isinstance(data, bytes) else data.read_bytes()).hexdigest()
        mode = packed_mode(0o755 if name in executable else 0o644)
        found[name] = ManifestFile(path=name, mode=mode, sha256=digest)
    found.pop(MANIFEST, None)
    return tuple(found[name] for name in sorted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentEntry:
    """A file or link of an artifact."""

    sha256: str = ""
    link: str = ""
    """Of a symbolic link: where it leads."""
    mode: int | None = None
    """Permission bits; None if the package does not have them."""
    elf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageContents:
    """The files of an artifact."""

    files: Mapping[str, ContentEntry] = field(default_factory=dict)
    """By path in the package."""
    manifest: bytes | None = None
    """The manifest that is nearest to the top of the package."""
    top: str = ""
    """The manifest's folder, `opt/server`; empty if that is the top of the package."""
    holds_links: bool = True
    """Whether its format can hold symbolic links; else it has a copy of what a link leads to."""

    @property
    def manifest_sha256(self) -> str:
        """Digest of the manifest; empty without one."""
        return "" if self.manifest is None else hashlib.sha256(self.manifest).hexdigest()

    @property
    def inside(self) -> dict[str, ContentEntry]:
        """The files below the manifest's folder, by path relative to it, without the manifest."""
        start = f"{self.top}/" if self.top else ""
        inside = {name[len(start) :]: found for name, found in self.files.items() if name.startswith(start)}
        inside.pop(MANIFEST, None)
        return inside

    @property
    def programs(self) -> frozenset[tuple[str, str]]:
        """Path and SHA-256 of the ELF files.

        Below the manifest's folder the path is relative to that, so that the packages of one tree have the same
        programs in all formats.
        """
        start = f"{self.top}/" if self.top else ""
        return frozenset((name.removeprefix(start), file.sha256) for name, file in self.files.items() if file.elf)


def read_package(path: Path) -> PackageContents:
    """Read a package or archive of any kind, once, without unpacking it.

    Raises:
        AuditError: it is truncated, corrupt, or larger than anything that is built here.
    """
    files: dict[str, ContentEntry] = {}
    nearest, manifest = "", None
    same: list[tuple[str, str]] = []
    names: set[str] = set()
    total = 0
    with archive_errors(str(path)):
        for member in package_files.members(path):
            if member.kind in ("rest", "unread"):
                raise AuditError("the package has bytes that programs do not read alike", where=str(path))
            if member.name in names:
                raise AuditError(f"{member.name} is in the package twice", where=str(path))
            names.add(member.name)
            if member.kind == "hardlink":
                same.append((member.name, member.target))
            elif member.content is None:
                files[member.name] = ContentEntry(link=member.target)
            else:
                wanted = posixpath.basename(member.name) == MANIFEST and (
                    manifest is None or _nearness(member.name) < _nearness(nearest)
                )
                keep = MANIFEST_LIMIT if wanted else 4
                digest, size, start = _hashed(member.content, keep)
                total += size
                if total > TOTAL_LIMIT:
                    raise AuditError(f"the package unpacks to more than {TOTAL_LIMIT} bytes", where=str(path))
                files[member.name] = ContentEntry(sha256=digest, mode=member.mode, elf=is_elf(start[:4]))
                if wanted and size <= keep:
                    nearest, manifest = member.name, start
    for name, target in same:
        if target not in files:
            raise AuditError(f"{name} is a hard link to {target}, which is not there", where=str(path))
        files[name] = files[target]
    if manifest is None:
        return PackageContents(files=files)
    kind = formats.of_file(path)
    return PackageContents(
        files=files,
        manifest=manifest,
        top=posixpath.dirname(nearest),
        holds_links=kind is None or kind.holds_links,
    )


def _nearness(name: str) -> tuple[int, str]:
    """Return what is less for a manifest that is nearer to the top of its package."""
    return name.count("/"), name


def _hashed(content: IO[bytes], keep: int = 0) -> tuple[str, int, bytes]:
    """Return SHA-256 and size of a stream, and its first `keep` bytes."""
    digest, size, start = hashlib.sha256(), 0, b""
    while block := content.read(1 << 20):
        digest.update(block)
        start += block[: max(keep - size, 0)]
        size += len(block)
    return digest.hexdigest(), size, start


def _copied(item: ManifestFile, listed: Mapping[str, ManifestFile]) -> ManifestFile:
    """Return what a link leads to, through other links; the item itself if it leads to nothing that is listed."""
    end = item
    for _ in range(LINK_LIMIT):
        if end.link is None:
            return end
        target = posixpath.normpath(posixpath.join(posixpath.dirname(end.path), end.link))
        if target not in listed:
            return item
        end = listed[target]
    return item


def differences(listed: Iterable[ManifestFile], package: PackageContents) -> list[str]:
    """Return where an artifact and the list in its manifest disagree: one line each, at most one for a path."""
    wanted = {item.path: item for item in listed}
    found = package.inside
    if not package.holds_links:
        wanted = {name: _copied(item, wanted) for name, item in wanted.items()}
    out = [f"{name} is listed, and not there" for name in sorted(wanted.keys() - found.keys())]
    out += [f"{name} is there, and not listed" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        item, file = wanted[name], found[name]
        if item.link is not None or file.link:
            if item.link != file.link:
                out.append(f"{name} is a link to {file.link or 'nothing'}, not {item.link or 'a file'}")
        elif item.sha256 != file.sha256:
            out.append(f"{name} has SHA-256 {file.sha256}, not {item.sha256}")
        elif file.mode is not None and item.mode != f"{file.mode:04o}":
            out.append(f"{name} has mode {file.mode:04o}, not {item.mode}")
    return out
