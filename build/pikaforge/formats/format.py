"""The seam of package formats: all that the rest of the tool needs to know of one.

A member is listed in `config.registry.FORMATS`. It makes a cell's packages, reads them, knows the name and version of a
package file, indexes a repository, and has the files and shell lines for client machines. Most members are a
`BaseFormat`, which has the usual answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from pikaforge.config import families, package_files
from pikaforge.config.registry import FORMATS
from pikaforge.config.schema import OsRelease
from pikaforge.formats.artifact import FileRecord, Role
from pikaforge.formats.embedded_signature import EmbeddedSignature
from pikaforge.formats.layout import PackingError
from pikaforge.formats.packing import Packed, Packing
from pikaforge.host import archive_kinds
from pikaforge.host.archives import Member

# ---- naming packages


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrigin:
    """What a build report says of a package file, for formats whose file names lack a part of the identity."""

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
    """Date of the index in seconds since 1970."""
    valid_until: int | None
    """Seconds since 1970 after which clients refuse the index; None: never."""
    listed: Mapping[str, FileRecord]
    """By location: the path below the format's folder."""
    kept: frozenset[str]
    """Locations that the former index has, too."""
    file: Callable[[str], Path]
    """Returns the path of a package on this machine, by its location; it may be downloaded for that."""
    before: Callable[[], Mapping[str, bytes]]
    """Returns the files of the former index, by path below the format's folder."""

    def packages(self) -> dict[str, Path | None]:
        """Return the file of each package by its location; None if the former index has the package."""
        return {location: None if location in self.kept else self.file(location) for location in self.listed}

    def known(self) -> Mapping[str, bytes]:
        """Return the files of the former index if it has a package that is listed again, else nothing."""
        return self.before() if self.kept else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A file with the signature of a pointer."""

    path: str
    of: str
    """The pointer's path."""
    clear: bool = False
    """Whether the file is the pointer's text with its signature; else the signature is detached and armored."""
    first: bool = False
    """Whether it is written before the pointer, because readers fetch it right after the pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFiles:
    """An index, with paths below the format's folder."""

    immutable: Mapping[str, bytes] = field(default_factory=dict)
    """Files whose names hold their digests."""
    pointers: Mapping[str, bytes] = field(default_factory=dict)
    """Files that change from generation to generation, in the order in which they are written."""
    signatures: Sequence[Signature] = ()


def _names_none(_pointer: bytes) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLayout:
    """Where the files of an index are, with paths below the format's folder."""

    names: frozenset[str]
    """Files and folders in the format's folder that are the index's alone."""
    pointer: str
    """The file that says what is in the index."""
    signature: str = ""
    """The pointer's detached signature; empty if it has none."""
    unchecked: frozenset[str] = frozenset()
    """Files that only package managers check."""
    digests: Callable[[bytes], Mapping[str, str]] = _names_none
    """Returns the SHA-256 that a pointer names, by path; raises ValueError if it cannot be read."""


class RepositoryIndex(Protocol):
    """Makes the metadata of a repository that package managers read."""

    layout: IndexLayout

    def verify(self) -> None:
        """Raise HostError if a library for it is missing on this machine."""

    def update(self, pool: Pool) -> IndexFiles:
        """Return the index of a pool; the same pool gives the same bytes.

        Raises:
            PublishError: a package cannot be read, or the former index is damaged.
            HostError: a library for it is missing on this machine.
        """


# ---- installing packages


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOffer:
    """A published package, or all packages of a format and image, for a client machine to install."""

    product: str
    image: str
    os: OsRelease | None
    """Of the image; None if the matrix does not have the image any more."""
    model: str | None
    """None for a machine that finds its model by itself."""
    package: str
    """Its name in the package manager."""
    version: str
    """Its version in the package manager."""
    base_url: str
    """Of the published root; that of a folder is file://…"""
    path: str
    """Of the package, below `base_url`."""
    key_url: str | None
    """Of the public key; None if nothing is signed."""
    port: str = ""
    """Of the first instance, where no package manager installs the server; empty if the product has none."""


class Format(Protocol):
    """A package format."""

    name: str
    """Its name in configurations, reports and repositories."""
    folder: str
    """The folder of its packages in a repository."""
    suffixes: tuple[str, ...]
    """Ends of the names of its files, in small letters. If two formats fit a name, the longer suffix decides."""
    start: bytes
    """The first bytes of its files; empty if they are those of archives, too."""
    scripts: tuple[str, ...]
    """Guest scripts that make it."""
    index: RepositoryIndex | None
    embedded: EmbeddedSignature | None
    """How a file holds a signature; None where signatures are beside files only."""
    holds_links: bool
    """Whether a file can hold symbolic links; else it has a copy of the file that a link leads to."""

    @property
    def families(self) -> frozenset[str]:
        """OS families whose package manager installs it; none if Python or tar does."""

    def check_tree(self, tree: Path) -> None:
        """Check a compiled tree (a tar archive) for what the format cannot hold, long before it is packed.

        Raises:
            PackingError: the name or the kind of a member cannot be written into a package.
        """

    def pack(self, work: Packing) -> list[Packed]:
        """Make the packages of a cell.

        Raises:
            StageError: a packer failed.
            PackingError: the tree cannot be packed in this format.
        """

    def material(self) -> Mapping[str, object]:
        """Return key material in addition to the files of `formats/` and the guest scripts; JSON values."""

    def members(self, path: Path) -> Iterator[Member]:
        """Return the files and links of a package file, without unpacking it.

        Raises:
            AuditError: it is no such file, is compressed by a method that cannot be read here, is truncated or corrupt.
        """

    def wrapping(self, path: Path) -> Iterator[Member]:
        """Return what a package file has beside the files that it installs, such as programs that its manager runs."""

    def copies(self, path: Path) -> Mapping[str, str]:
        """Return members that stand for links: by name, the name of the file that each says it is a copy of.

        A package is not to be believed: who uses this compares the two.
        """

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return name and version of a package file, as package managers have them.

        Raises:
            PackingError: its name is none of this format.
        """

    def body(self, path: Path) -> str:
        """Return the digest of a file without the signature in it; empty if signatures are beside files only.

        Two files with the same digest are the same package: signing one again changes only its signature.

        Raises:
            AuditError: it is no such package.
        """

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return configuration files for clients of a repository, by path below the root.

        Raises:
            ConfigError: a URL cannot be written into them.
        """

    def script_words(self, product: str) -> Mapping[str, str]:
        """Return values for words of the script that finds a machine's model (`detect-model.sh`)."""

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return shell lines that install a package as root, for people to copy; none if there is no way.

        Raises:
            ConfigError: a URL or a path cannot be written into a line.
        """


class BaseFormat:
    """The usual answers of a format.

    A member adds `name`, `folder`, `suffixes` and `pack`, and replaces what is different for it.
    """

    name: str
    folder: str
    suffixes: tuple[str, ...]
    start: bytes = b""
    scripts: tuple[str, ...] = ()
    index: RepositoryIndex | None = None
    embedded: EmbeddedSignature | None = None
    holds_links: bool = True

    @property
    def families(self) -> frozenset[str]:
        """Return the families that list the format."""
        return families.taking(self.name)

    def check_tree(self, tree: Path) -> None:
        """Take any tree."""

    def material(self) -> Mapping[str, object]:
        """Return nothing: all is in the sources."""
        return {}

    def members(self, path: Path) -> Iterator[Member]:
        """Return the members of an archive: a zip if its name says so, else tar."""
        return archive_kinds.members(path)

    def wrapping(self, path: Path) -> Iterator[Member]:
        """Return nothing: all of it is installed."""
        return iter(())

    def copies(self, path: Path) -> Mapping[str, str]:
        """Return nothing: links are links."""
        return {}

    def identity(self, path: Path, of: BuildOrigin) -> Identity:
        """Return the identity that an RPM of the build would have, without a release."""
        variant, debug = (f"-{of.variant}" if of.variant else ""), ("-debuginfo" if of.role == "debug" else "")
        return Identity(name=f"{of.product}{variant}{debug}", version=of.version)

    def body(self, path: Path) -> str:
        """Return what the embedded signature says; empty without one."""
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


def check_tree(names: Iterable[str], tree: Path) -> None:
    """Check a compiled tree for what formats cannot hold.

    Raises:
        PackingError: as `Format.check_tree`; its `where` is the format.
    """
    for name in names:
        try:
            of(name).check_tree(tree)
        except PackingError as error:
            raise PackingError(error.message, where=f"format {name}", hint=error.hint) from error


def pack(work: Packing) -> list[Packed]:
    """Make every format that the image asks for, in its order."""
    return [packed for name in work.image.formats for packed in of(name).pack(work)]
