"""The seam of package formats: all that the rest of the tool needs to know of one.

A member is listed in `config.registry.FORMATS`. It makes a cell's packages, names a package file as package managers
do, indexes a repository, and tells client machines how to install from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from pikaforge.config.registry import FORMATS
from pikaforge.config.schema import Image, OsRelease, Spec
from pikaforge.formats import debuginfo
from pikaforge.formats.artifact import FileRecord, Role
from pikaforge.formats.layout import Entry, tree_entries
from pikaforge.formats.package_inputs import PackageInputs
from pikaforge.formats.payload import Rendered
from pikaforge.host.job import Input, Job
from pikaforge.host.workspace import Workspace, run_job
from pikaforge.plan.cells import Cell

STAGE = "package"


# ---- making packages


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One package file that was made."""

    format: str
    role: Role
    name: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What all formats of a cell's package are made from."""

    workspace: Workspace
    spec: Spec
    cell: Cell
    parts: PackageInputs
    manifest: Mapping[str, Any]
    rendered: Rendered
    extra: bytes
    """What goes in beside the tree, manifest included, as a tar archive."""
    tools: str
    """The tools image."""
    scratch: Path

    @property
    def image(self) -> Image:
        """The cell's image."""
        return self.spec.images[self.cell.image]

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH."""
        return self.parts.epoch

    @property
    def variant(self) -> str:
        """The allocator, unless it is the image's default."""
        return "" if self.cell.allocator == self.image.allocator else self.cell.allocator

    @property
    def top(self) -> str:
        """Where the tree is on a host."""
        return f"/opt/{self.spec.product.name}"

    def entries(self) -> tuple[Entry, ...]:
        """Return the tree with what lies beside it, as packages install them."""
        return (
            *tree_entries(self.parts.tree, folder="tree", prefix=self.top),
            *tree_entries(self.extra, folder="extra", prefix=self.top),
        )

    def debug(self) -> tuple[Entry, ...]:
        """Return debug information where debuggers look for it; nothing if the tree has none."""
        ids = self.parts.build_ids
        return debuginfo.debug_entries(self.parts.debug, folder="debug", prefix=self.top, build_ids=ids)

    def run(
        self, script: str, what: str, *, guest: Sequence[str], inputs: Sequence[Input], outputs: Sequence[str]
    ) -> list[Path]:
        """Run a guest script in the tools image.

        Args:
            script: its name without `.sh`.
            what: is made, for logs and errors.
            guest: all scripts that it needs.
            inputs: files that it reads.
            outputs: files that it writes, below out/.

        Returns:
            The files, in the order of `outputs`.
        """
        job = Job(
            label=f"{STAGE}-{self.cell.id}",
            image=self.tools,
            argv=("sh", "guest/run.sh", script),
            env={"PIKAFORGE_PRODUCT": self.spec.product.name, "SOURCE_DATE_EPOCH": str(self.epoch)},
            inputs=(self.workspace.guest(*guest), *inputs),
            outputs=tuple(f"out/{name}" for name in outputs),
            log=self.workspace.log_path(self.cell.id, f"{STAGE}-{what}"),
        )
        failed = f"the {what} could not be made"
        done = run_job(self.workspace, job, self.scratch, stage=STAGE, label=self.cell.id, failed=failed)
        return [done.outputs[f"out/{name}"] for name in outputs]


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
    scripts: tuple[str, ...]
    """Guest scripts that make it."""
    index: RepositoryIndex | None

    @property
    def families(self) -> frozenset[str]:
        """OS families whose own package manager installs it; none where Python or tar does."""

    def pack(self, work: Packing) -> list[Packed]:
        """Make the packages of a cell.

        Raises:
            StageError: a packer failed.
            PackingError: the tree cannot be packed in this format.
        """

    def material(self) -> Mapping[str, Any]:
        """Return key material beyond the source of this package and the guest scripts."""

    def identity(self, path: Path, of: BuildOrigin) -> tuple[str, str]:
        """Return name and version of a package file, as package managers know them."""

    def body(self, path: Path) -> str:
        """Return the digest of what a signature within the file leaves alone; "" where signatures are beside files.

        Raises:
            ForgeError: it is no such package.
        """

    def client_files(self, offer: InstallOffer) -> Mapping[str, str]:
        """Return configuration files for clients of a repository, by path below the root.

        Raises:
            ConfigError: a URL cannot be written into them.
        """

    def install_lines(self, offer: InstallOffer) -> tuple[str, ...]:
        """Return shell lines that install a package as root, to be copied from a page; none where that cannot be.

        Raises:
            ConfigError: a URL or a path cannot be written into a line.
        """


def of(name: str) -> Format:
    """Return a format by its name; raise KeyError if there is none."""
    return cast(Format, FORMATS.get(name))


def every() -> Iterator[Format]:
    """Return all formats, in the order in which people read them."""
    return map(of, FORMATS.names)


def pack(work: Packing) -> list[Packed]:
    """Make every format that the image asks for, in its order."""
    return [packed for name in work.image.formats for packed in of(name).pack(work)]
