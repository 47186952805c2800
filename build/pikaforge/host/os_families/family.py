"""The seam of OS families: all that the rest of the tool needs to know about one.

A member is listed in `config.registry.FAMILIES`. `config.families` finds it by its name or by the ID of a system. Most
members are a `Family`, which is data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pikaforge.host.os_families.package_managers import RPM, PackageManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Folders in which packages put files for a system's service manager."""

    units: str
    """systemd.unit(5)."""
    tmpfiles: str
    """tmpfiles.d(5)."""
    sysusers: str
    """sysusers.d(5); "" if the system does not create users from it."""


class OsFamily(Protocol):
    """Systems with the same ways of building, packing and administration. Their releases may differ."""

    @property
    def name(self) -> str:
        """Its name in configurations: of images, and of lists of packages."""

    @property
    def recipe(self) -> str:
        """The folder below docker/ with the Dockerfile of its images."""

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of its systems in os-release(5)."""

    @property
    def alike(self) -> bool:
        """Whether its systems are compatible builds of one distribution, so that only the release matters."""

    @property
    def packages(self) -> PackageManager:
        """Its package manager."""

    @property
    def formats(self) -> frozenset[str]:
        """Package formats that its package manager installs."""

    @property
    def toolchain(self) -> tuple[str, ...]:
        """Packages that guest scripts need in addition to the product's. The Dockerfile installs the same ones."""

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
    """A family as data. The defaults are those of any system with systemd."""

    name: str
    recipe: str
    ids: frozenset[str] = frozenset()
    alike: bool = False
    packages: PackageManager = RPM
    formats: frozenset[str] = frozenset()
    toolchain: tuple[str, ...] = ()
    tag: str = "{id}{release}"
    """Last part of a package's release, from `{id}`, `{release}` (the version without dots) and `{major}`."""
    first_sysusers: int = 0
    """First major release whose systemd creates users."""
    first_zstd: int | None = None
    """First major release whose rpm reads zstd in all of its minor releases."""

    def services(self, version: str) -> Services:
        """Return the folders of systemd."""
        created = major(version) >= self.first_sysusers
        return Services(units=UNITS, tmpfiles=TMPFILES, sysusers=SYSUSERS if created else "")

    def dist_tag(self, id: str, version: str) -> str:
        """Return `tag` with its values."""
        return self.tag.format(id=id, release=version.replace(".", ""), major=major(version))

    def reads_zstd(self, version: str) -> bool:
        """Return whether the release is `first_zstd` or later."""
        return self.first_zstd is not None and major(version) >= self.first_zstd
