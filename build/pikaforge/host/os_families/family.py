"""The seam of OS families: all that the rest of the tool needs to know of one.

A member is listed in `config.registry.FAMILIES`; `config.families` finds it by its name or by a system's ID. Most
members are a `Family`: data, and what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pikaforge.host.os_families.package_managers import RPM, PackageManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Folders from which a system's service manager takes what packages bring."""

    units: str
    """systemd.unit(5)."""
    tmpfiles: str
    """tmpfiles.d(5)."""
    sysusers: str
    """sysusers.d(5); "" where it creates no users."""


class OsFamily(Protocol):
    """Systems that are built, packed for and administered in one way. Their releases may differ."""

    @property
    def name(self) -> str:
        """As configuration has it, in images and for lists of packages."""

    @property
    def recipe(self) -> str:
        """Folder below docker/ with the Dockerfile of its images."""

    @property
    def ids(self) -> frozenset[str]:
        """ID of os-release(5) of its systems."""

    @property
    def alike(self) -> bool:
        """Whether its systems are compatible builds of one distribution, so that the release alone matters."""

    @property
    def packages(self) -> PackageManager:
        """Its package manager."""

    @property
    def formats(self) -> frozenset[str]:
        """Package formats that its package manager installs."""

    @property
    def toolchain(self) -> tuple[str, ...]:
        """Packages that the guest scripts need beside the product's own; its Dockerfile installs the same."""

    def services(self, version: str) -> Services:
        """Return the service manager of a release."""

    def dist_tag(self, id: str, version: str) -> str:
        """Return the last part of a package's release, by ID and VERSION_ID of os-release(5)."""

    def reads_zstd(self, version: str) -> bool:
        """Return whether every rpm of a release reads packages that are compressed by zstd."""


UNITS = "/usr/lib/systemd/system"
TMPFILES = "/usr/lib/tmpfiles.d"
SYSUSERS = "/usr/lib/sysusers.d"


def major(version: str) -> int:
    """Return the first number of a VERSION_ID."""
    return int(version.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family as data. The defaults are what any system with systemd has."""

    name: str
    recipe: str
    ids: frozenset[str] = frozenset()
    alike: bool = False
    packages: PackageManager = RPM
    formats: frozenset[str] = frozenset()
    toolchain: tuple[str, ...] = ()
    tag: str = "{id}{release}"
    """Of `{id}`, `{release}` (the version without dots) and `{major}`."""
    first_sysusers: int = 0
    """First major release whose systemd creates users."""
    first_zstd: int | None = None
    """First major release whose rpm reads zstd in all of its minor releases."""

    def services(self, version: str) -> Services:
        """Return the folders of systemd."""
        created = major(version) >= self.first_sysusers
        return Services(units=UNITS, tmpfiles=TMPFILES, sysusers=SYSUSERS if created else "")

    def dist_tag(self, id: str, version: str) -> str:
        """Return `tag`, filled in."""
        return self.tag.format(id=id, release=version.replace(".", ""), major=major(version))

    def reads_zstd(self, version: str) -> bool:
        """Return whether the release is `first_zstd` or later."""
        return self.first_zstd is not None and major(version) >= self.first_zstd
