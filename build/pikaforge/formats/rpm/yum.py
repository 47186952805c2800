"""Metadata of a yum repository, made by createrepo_c's library.

Packages that the metadata before lists are taken from there, as `createrepo_c --update` does, but without their files:
so a repository on a server is updated like one in a folder. Nothing depends on a clock or on who makes it: the same
packages and revision give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol
from xml.etree import ElementTree

from pikaforge.errors import PublishError
from pikaforge.formats.rpm.rpm_file import RpmError, read_rpm
from pikaforge.host import extras
from pikaforge.host.disk import refuse_full
from pikaforge.host.leftovers import temporary_folder

FOLDER = "repodata"
POINTER = f"{FOLDER}/repomd.xml"
NAMESPACE = "{http://linux.duke.edu/metadata/repo}"
KINDS = ("primary", "filelists", "other")
RPM_SETTINGS = Path("/usr/lib/rpm/rpmrc")


class IndexedRpm(Protocol):
    """A package as createrepo_c has it."""

    location_href: str
    time_file: int
    time_build: int


def library() -> ModuleType:
    """Import createrepo_c. It complains if rpm's settings are not on this machine, so it gets empty ones then.

    Raises:
        HostError: it is missing, or cannot be loaded.
    """
    if not RPM_SETTINGS.exists() and "RPM_CONFIGDIR" not in os.environ:
        with temporary_folder("rpm") as folder:
            for name in ("rpmrc", "macros"):
                (Path(folder) / name).touch()
            os.environ["RPM_CONFIGDIR"] = str(folder)
            try:
                return _import()
            finally:
                del os.environ["RPM_CONFIGDIR"]
    return _import()


def _import() -> ModuleType:
    module: ModuleType = extras.load("createrepo_c", package="createrepo_c", extra="publish")
    return module


def digests(repomd: bytes) -> dict[str, str]:
    """Return the digests that a repomd.xml names, by path.

    Raises:
        ValueError: it cannot be read, or names none.
    """
    if b"<!" in repomd:  # there is no need for entities, which can be bombs
        raise ValueError("it has a document type or a comment")
    try:
        tree = ElementTree.fromstring(repomd)  # noqa: S314  # without entities
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    found = {}
    for data in tree.iterfind(f"{NAMESPACE}data"):
        location, checksum = data.find(f"{NAMESPACE}location"), data.find(f"{NAMESPACE}checksum")
        if location is not None and checksum is not None and checksum.get("type") == "sha256":
            found[location.get("href", "")] = checksum.text or ""
    if not found:
        raise ValueError("it names no digests")
    return found


def metadata(
    packages: Mapping[str, Path | None], before: Mapping[str, bytes], *, revision: int
) -> tuple[dict[str, bytes], bytes]:
    """Return the metadata of a repository.

    Args:
        packages: by location relative to the folder with repodata/: the RPM, or None where the metadata before knows
            it.
        before: metadata files before, by name as repomd.xml has them; empty if there are none.
        revision: seconds since 1970 that all of it is dated.

    Returns:
        The files of repodata/ that are called after their digests, by name; and repomd.xml.

    Raises:
        PublishError: an RPM cannot be read, or the metadata before does not know a package that it should.
        FullDiskError: there is no room for temporary files.
        HostError: see `library`.
    """
    cr = library()
    with temporary_folder("yum") as folder, _write_errors(cr, folder):
        known = _known(cr, before, Path(folder), {name for name, path in packages.items() if path is None})
        for name, path in packages.items():
            if path is not None:
                known[name] = _read(cr, name, path)
        return _write(cr, [known[name] for name in sorted(packages)], Path(folder), revision)


def _known(cr: ModuleType, before: Mapping[str, bytes], folder: Path, wanted: Collection[str]) -> dict[str, IndexedRpm]:
    """Return what the metadata before says of packages, by location."""
    found: dict[str, IndexedRpm] = {}
    if wanted:
        paths = {}
        for kind in KINDS:
            name = next((name for name in before if f"-{kind}.xml." in name), None)
            if name is None:
                raise PublishError(
                    f"the metadata has no {kind}", where=FOLDER, hint="is the repository damaged? begin with a new root"
                )
            paths[kind] = folder / f"old-{name}"
            paths[kind].write_bytes(before[name])
        try:
            for package in cr.PackageIterator(*(str(paths[kind]) for kind in KINDS)):
                if package.location_href in wanted:
                    found[package.location_href] = package
        except (cr.CreaterepoCError, OSError) as error:
            raise PublishError(f"the metadata cannot be read: {error}", where=FOLDER) from error
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise PublishError(f"the metadata does not know {missing[0]}, which it should name", where=FOLDER)
    return found


def _read(cr: ModuleType, name: str, path: Path) -> IndexedRpm:
    """Return what an RPM's headers say."""
    try:
        read_rpm(path)  # a file that is none is not given to a library in C
        package: IndexedRpm = cr.package_from_rpm(str(path), location_href=name, changelog_limit=10)
    except RpmError as error:
        raise PublishError(error.message, where=str(path)) from error
    except (cr.CreaterepoCError, OSError) as error:
        raise PublishError(f"createrepo_c cannot read it: {error}", where=str(path)) from error
    package.time_file = package.time_build  # the file's own time differs from copy to copy
    return package


@contextmanager
def _write_errors(cr: ModuleType, folder: Path) -> Iterator[None]:
    """Raise this tool's errors for those of createrepo_c, which says of a full disk that an operation has failed."""
    try:
        yield
    except cr.CreaterepoCError as error:
        refuse_full(folder)
        raise PublishError(f"createrepo_c cannot write the metadata: {error}", where=FOLDER) from error


def _write(
    cr: ModuleType, packages: Sequence[IndexedRpm], folder: Path, revision: int
) -> tuple[dict[str, bytes], bytes]:
    """Return the metadata of packages: files by name, and repomd.xml.

    They are compressed by gzip, because yum of EL7 reads nothing newer. There are no databases: yum makes its own, and
    dnf wants none.
    """
    makers = {"primary": cr.PrimaryXmlFile, "filelists": cr.FilelistsXmlFile, "other": cr.OtherXmlFile}
    repomd = cr.Repomd()
    repomd.set_revision(str(revision))
    files: dict[str, bytes] = {}
    for kind in KINDS:
        path = folder / f"{kind}.xml.gz"
        stat = cr.ContentStat(cr.SHA256)
        xml = makers[kind](str(path), cr.GZ_COMPRESSION, stat)
        xml.set_num_of_pkgs(len(packages))
        for package in packages:
            xml.add_pkg(package)
        xml.close()
        record = cr.RepomdRecord(kind, str(path))
        record.load_contentstat(stat)
        record.fill(cr.SHA256)
        record.timestamp = revision
        record.rename_file()
        renamed = Path(record.location_real)
        files[renamed.name] = renamed.read_bytes()
        repomd.set_record(record)
    return files, repomd.xml_dump().encode()
