"""Registries: the members of each seam of this project, by the names that a configuration may use.

A registry lists its members with the module of each, as entry points of Python packages do. A member's module is
imported when the member is asked for, so that checking a name does not need what the member needs. This file is the
only place that lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from pathlib import Path

    from pikaforge.config.schema import Allocator, Destination
    from pikaforge.config.smoke_checks import Probe
    from pikaforge.host import archives
    from pikaforge.host.os_families.family import OsFamily

Member = TypeVar("Member")


class Registry(Generic[Member]):
    """The members of one seam, in the order in which people read them."""

    def __init__(self, members: Mapping[str, str]) -> None:
        """Import nothing yet.

        Args:
            members: `MODULE:ATTRIBUTE` of each member, by name.
        """
        self._places = dict(members)
        self._loaded: dict[str, Member] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all members."""
        return tuple(self._places)

    def get(self, name: str) -> Member:
        """Return a member; raise KeyError if there is none of that name."""
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(":")
            self._loaded[name] = cast(Member, getattr(import_module(module), attribute))
        return self._loaded[name]

    def all(self) -> Iterator[Member]:
        """Return all members, in order."""
        return map(self.get, self.names)

    @contextmanager
    def registered(self, name: str, member: Member) -> Iterator[None]:
        """Add a member for the time of a block.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._places:
            raise ValueError(f"there is a member of the name {name!r} already")
        self._places[name] = f"{type(member).__module__}:{type(member).__qualname__}"
        self._loaded[name] = member
        try:
            yield
        finally:
            del self._places[name], self._loaded[name]


class PackageReader(Protocol):
    """What rooms below `formats` need to know of a package format; see `formats.format.Format`."""

    @property
    def name(self) -> str:
        """As configuration has it."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Ends of the names of its files, in small letters."""

    @property
    def start(self) -> bytes:
        """The first bytes of its files; empty if they are those of archives, too."""

    def members(self, path: Path) -> Iterator[archives.Member]:
        """Return the files and links of a package file; raise AuditError if it cannot be read."""

    def wrapping(self, path: Path) -> Iterator[archives.Member]:
        """Return what a package file has beside the files that it installs, such as programs that its manager runs."""

    def copies(self, path: Path) -> Mapping[str, str]:
        """Return members that stand for links: by name, the name of the file that each says it is a copy of."""


class DestinationKind(Protocol):
    """What a configuration needs to know of a kind of destination; see `publish.sites.site.SiteKind`."""

    required: frozenset[str]
    """Fields that a destination of this kind must have."""
    optional: frozenset[str]
    """Further fields that it may have. Every kind takes `kind` and `requires`."""

    def place(self, destination: Destination) -> str:
        """Return where it publishes to; two destinations with one place would overwrite each other."""


class AllocatorOption(Protocol):
    """What a configuration needs to know of a kind of allocator; see `plan.allocators.kind.AllocatorKind`."""

    @property
    def name(self) -> str:
        """Its name in configurations, and the command line's option that names a file to use as its tarball."""

    @property
    def about(self) -> str:
        """What it is: the text that follows its name in the schema."""

    @property
    def own(self) -> bool:
        """Whether it is built for a target. A product may then say which version it needs, in a field of its name."""

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that an entry of this kind must have."""

    @property
    def optional(self) -> frozenset[str]:
        """Further fields that an entry may have. Every kind takes `kind` and `packages`."""

    @property
    def fields(self) -> Mapping[str, str]:
        """The meaning of the fields that only this kind has, for the schema and for errors."""

    def check(self, entry: Allocator) -> None:
        """Raise ValueError if the fields of an entry contradict each other."""


class ProbeOption(Protocol):
    """What a configuration needs to know of a kind of probe; see `pipeline.smoke.probes.probe.ProbeKind`."""

    @property
    def about(self) -> str:
        """What it is: the text that follows its name in the schema."""

    @property
    def required(self) -> frozenset[str]:
        """Fields that a probe of this kind must have."""

    @property
    def optional(self) -> frozenset[str]:
        """Further fields that it may have. Every kind takes `kind`."""

    @property
    def serverless(self) -> bool:
        """Whether it needs no server."""

    def check(self, probe: Probe) -> None:
        """Raise ValueError if the fields of a probe contradict each other."""


class ObjectStoreOption(Protocol):
    """What a configuration needs to know of a kind of shared store; see `sharing.objects.ObjectStoreKind`."""

    @property
    def title(self) -> str:
        """Its name in texts, with the article: `a folder`."""


STAGES: Registry[object] = Registry(
    {
        "source": "pikaforge.pipeline.source.source:STAGE",
        "image": "pikaforge.pipeline.image.image:STAGE",
        "allocator": "pikaforge.pipeline.allocator:STAGE",
        "compile": "pikaforge.pipeline.compile:STAGE",
        "audit": "pikaforge.pipeline.audit:STAGE",
        "smoke": "pikaforge.pipeline.smoke.smoke:STAGE",
        "package": "pikaforge.pipeline.package:STAGE",
    }
)
"""Stages, in the order in which people read them; see `pipeline.stage.Stage`."""

FORMATS: Registry[PackageReader] = Registry(
    {
        "tar": "pikaforge.formats.tar.package:FORMAT",
        "rpm": "pikaforge.formats.rpm.package:FORMAT",
        "deb": "pikaforge.formats.deb.package:FORMAT",
        "wheel": "pikaforge.formats.wheel.package:FORMAT",
    }
)
"""Package formats; see `formats.format.Format`. `config.package_files` finds that of a file."""

SITES: Registry[DestinationKind] = Registry(
    {
        "directory": "pikaforge.publish.sites.directory:KIND",
        "http": "pikaforge.publish.sites.web:KIND",
        "index": "pikaforge.publish.sites.pypi:KIND",
    }
)
"""Kinds of destinations; see `publish.sites.site.SiteKind`."""

FAMILIES: Registry[OsFamily] = Registry(
    {
        "debian": "pikaforge.host.os_families.debian:DEBIAN",
        "el": "pikaforge.host.os_families.enterprise_linux:EL",
        "el7": "pikaforge.host.os_families.enterprise_linux:EL7",
    }
)
"""OS families of images; see `host.os_families.family.OsFamily`. `config.families` finds them."""

ALLOCATORS: Registry[AllocatorOption] = Registry(
    {
        "none": "pikaforge.plan.allocators.kind:NONE",
        "system": "pikaforge.plan.allocators.gperftools:SYSTEM",
        "gperftools": "pikaforge.plan.allocators.gperftools:BUILT",
    }
)
"""Kinds of memory allocators; see `plan.allocators.kind.AllocatorKind`."""

PROBES: Registry[ProbeOption] = Registry(
    {
        "resp": "pikaforge.pipeline.smoke.probes.resp_probe:KIND",
        "tcp": "pikaforge.pipeline.smoke.probes.tcp:KIND",
        "http": "pikaforge.pipeline.smoke.probes.http_probe:KIND",
        "command": "pikaforge.pipeline.smoke.probes.command:KIND",
    }
)
"""Kinds of probes; see `pipeline.smoke.probes.probe.ProbeKind`."""

STORES: Registry[ObjectStoreOption] = Registry(
    {
        "file": "pikaforge.sharing.folder:KIND",
        "http": "pikaforge.sharing.web:KIND",
        "https": "pikaforge.sharing.web:KIND",
        "s3": "pikaforge.sharing.file_systems:S3",
    }
)
"""Kinds of shared stores, by the scheme of their URLs; see `sharing.objects.ObjectStoreKind`. Those that are not here
are asked of the Python package fsspec."""
