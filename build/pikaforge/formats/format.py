"""The seam of package formats: all that the rest of the tool needs to know of one.

A member is listed in `config.registry.FORMATS`. It makes a cell's packages, reads them, names a package file as package
managers do, indexes a repository, and tells client machines how to install from one. Most members are a `BaseFormat`,
which has the usual answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from pikaforge.config import families, package_files
from pikaforge.config.registry import FORMATS
from pikaforge.config.schema import OsRelease
from pikaforge.formats.artifact import FileRecord, Role
from pikaforge.formats.embedded_signature import EmbeddedSignature
from pikaforge.formats.packing import Packed, Packing
from pikaforge.host import archives
from pikaforge.host.archives import Member

# ---- naming packages


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrigin:
    """What a build report knows of a package file; for formats whose file names say less than package managers need."""

    product: str
    version: str
    """Of the product."""
    role: Role
    variant: str
    """The allocator, unless it is the image's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The name and version of a package file, as package managers know them."""

    name: str
    version: str
    release: str = ""
    """The packager's part of the version; empty where the format has none."""
    architecture: str = ""
    """As the format writes it; empty where it has none."""

    @property
    def full_version(self) -> str:
        """VERSION-RELEASE."""
        return f"{self.version}-{self.release}" if self.release else self.version


# ---- indexing repositories


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """All packages of one format in a repository."""

    product: str
    model: str
    place: str
    """The repository's folder below the root."""
    revision: int
    """Seconds since 1970 that the index is dated."""
    listed: Mapping[str, FileRecord]
    """By location: the path below the format's folder."""
    kept: frozenset[str]
    """Locations that the index before names, too."""
    file: Callable[[str], Path]
    """Returns the file at a location on this machine; it may be downloaded for that."""
    before: Callable[[], Mapping[str, bytes]]
    """Returns the files of the index before, by path below the format's folder."""

    def packages(self) -> dict[str, Path | None]:
        """Return files by location; None for what the index before knows."""
        return {location: None if location in self.kept else self.file(location) for location in self.listed}

    def known(self) -> Mapping[str, bytes]:
        """Return the index before, if it knows a package that is listed again; else nothing."""
        return self.before() if self.kept else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A file with the signature of a pointer."""

    path: str
    of: str
    """The pointer's path."""
    clear: bool = False
    """Whether the signature is in the text; else it is detached and armored."""
    first: bool = False
    """Whether readers look for it with the pointer at once, so that it must be there before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFiles:
    """An index, with paths below the format's folder."""

    immutable: Mapping[str, bytes] = field(default_factory=dict)
    """Files that are called after their digests."""
    pointers: Mapping[str, bytes] = field(default_factory=dict)
    """Files that change from generation to generation, in the order in which they are to be written."""
    signatures: Sequence[Signature] = ()


class RepositoryIndex(Protocol):
    """Makes what package managers read of a repository."""

    def verify(self) -> None:
        """Raise HostError if this machine lacks what makes it."""

    def update(self, pool: Pool) -> IndexFiles:
        """Return the index of a pool; the same pool gives the same bytes.

        Raises:
            PublishError: a package cannot be read, or the index before is damaged.
            HostError: this machine lacks what makes it.
        """


# ---- installing packages


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOffer:
    """A published package, or a whole format of an image, to be installed by a client machine."""

    product: str
    image: str
    os: OsRelease | None
    """Of the image; None if the matrix has it no more."""
    model: str | None
    """None for a machine that finds its model by itself."""
    package: str
    """As the package manager has it."""
    version: str
    """As the package manager has it."""
    base_url: str
    """Of everything that is published; a folder's is file://…"""
    path: str
    """Of the package, below `base_url`."""
    key_url: str | None
    """Where the key is that signs, if any does."""
    port: str = "9221"
    """For the first instance of a server that is not installed by a package manager."""


class Format(Protocol):
    """A package format."""

    name: str
    """As configuration, reports and repositories have it."""
    folder: str
    """Where its packages are, below a repository."""
    suffixes: tuple[str, ...]
    """Ends of the names of its files, in small letters. Of two formats that fit, the longer suffix decides."""
    scripts: tuple[str, ...]
    """Guest scripts that make it."""
    index: RepositoryIndex | None
    embedded: EmbeddedSignature | None
    """How a file holds a signature; None where signatures are beside files only."""
    holds_links: bool
    """Whether a file can hold symbolic links; else it has a copy of what a link leads to."""

    @property
    def families(self) -> frozenset[str]:
        """OS families whose own package manager installs it; none where Python or tar does."""

    def pack(self, work: Packing) -> list[Packed]:
        """Make the packages of a cell.

        Raises:
            StageError: a packer failed.
            PackingError: the tree cannot be packed in this format.
        """

    def material(self) -> Mapping[str, object]:
        """Return key material beyond the sources of `formats` and the guest scripts; JSON values."""

    def members(self, path: Path) -> Iterator[Member]:
        """Return the files and links of a package file, without unpacking it.

        Raises:
            AuditError: it is no such file, is compressed by a method that cannot be read here, is truncated or corrupt.
        """

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return what package managers know a package file by.

        Raises:
            PackingError: its name is none of this format.
        """

    def body(self, path: Path) -> str:
        """Return the digest of what a signature within the file leaves alone; "" where signatures are beside files.

        Two files with the same one are the same package, though one was signed once more.

        Raises:
            AuditError: it is no such package.
        """

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return configuration files for clients of a repository, by path below the root.

        Raises:
            ConfigError: a URL cannot be written into them.
        """

    def script_words(self, product: str) -> Mapping[str, str]:
        """Return words of the script that finds a machine's model (`detect-model.sh`), with what stands for them."""

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return shell lines that install a package as root, to be copied from a page; none where that cannot be.

        Raises:
            ConfigError: a URL or a path cannot be written into a line.
        """


class BaseFormat:
    """The usual answers of a format.

    A member adds `name`, `folder`, `suffixes` and `pack`, and what is peculiar to it.
    """

    name: str
    folder: str
    suffixes: tuple[str, ...]
    scripts: tuple[str, ...] = ()
    index: RepositoryIndex | None = None
    embedded: EmbeddedSignature | None = None
    holds_links: bool = True

    @property
    def families(self) -> frozenset[str]:
        """Return the families that list the format."""
        return families.taking(self.name)

    def material(self) -> Mapping[str, object]:
        """Return nothing: all is in the sources."""
        return {}

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of an archive: a zip if its name says so, else tar."""
        return archives.members(path)

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return what a package manager would call the build."""
        variant, debug = (f"-{of.variant}" if of.variant else ""), ("-debuginfo" if of.role == "debug" else "")
        return Identity(name=f"{of.product}{variant}{debug}", version=of.version)

    def body(self, path: Path) -> str:
        """Return what the embedded signature leaves alone; "" without one."""
        return self.embedded.body(path) if self.embedded is not None else ""

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return nothing: no package manager reads repositories of it."""
        return {}

    def script_words(self, product: str) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return nothing."""
        return ()


def of(name: str) -> Format:
    """Return a format by its name; raise KeyError if there is none."""
    return cast(Format, FORMATS.get(name))


def of_file(path: Path) -> Format | None:
    """Return the format that a file's name belongs to; None if there is none."""
    found = package_files.format_of(path)
    return None if found is None else of(found.name)


def every() -> Iterator[Format]:
    """Return all formats, in the order in which people read them."""
    return map(of, FORMATS.names)


def pack(work: Packing) -> list[Packed]:
    """Make every format that the image asks for, in its order."""
    return [packed for name in work.image.formats for packed in of(name).pack(work)]
