"""Package managers: which packages are installed, what installs others, and how SBOMs name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pikaforge.host import process


@dataclass(frozen=True, slots=True, kw_only=True)
class Purl:
    """A package URL (https://github.com/package-url/purl-spec) without its namespace, which is the system's ID."""

    type: str
    name: str
    version: str
    qualifiers: Mapping[str, str] = field(default_factory=dict)


class PackageManager(Protocol):
    """A package manager and its database of installed packages."""

    @property
    def name(self) -> str:
        """Name of the database's tool."""

    def is_here(self) -> bool:
        """Return whether this machine has the database's tool."""

    def installed(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of those of the named packages that are installed on this machine."""

    def installer(self, major: int) -> str:
        """Return the program that installs packages on a major release of the system."""

    def install_command(self) -> str:
        """Return the command that installs packages on this machine, without their names."""

    def purl(self, package: str, version: str) -> Purl:
        """Return the package URL of a package as guest scripts list it."""


class DpkgManager:
    """dpkg with apt."""

    name = "dpkg"

    def is_here(self) -> bool:
        """Return whether this machine has dpkg-query."""
        return process.find("dpkg-query") is not None

    def installed(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of packages that are installed for dpkg-query."""
        wanted = list(names)
        if not wanted:
            return {}
        form = "${binary:Package}\t${db:Status-Abbrev}\t${Version}\n"
        done = process.run(["dpkg-query", "--show", f"--showformat={form}", *wanted])
        found = {}
        for line in done.text().splitlines():
            name, status, version = line.split("\t")
            if status[1:2] == "i":
                found[name.partition(":")[0]] = version
        return found

    def installer(self, major: int) -> str:
        """Return apt-get."""
        return "apt-get"

    def install_command(self) -> str:
        """Return apt-get's command."""
        return "apt-get install"

    def purl(self, package: str, version: str) -> Purl:
        """Return a purl of type deb; `package` may end with its architecture, after a colon."""
        return Purl(type="deb", name=package.partition(":")[0], version=version, qualifiers={"arch": "amd64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmManager:
    """rpm with dnf, or with yum before there was dnf."""

    first_dnf: int = 0
    """First major release of the system with dnf."""

    @property
    def name(self) -> str:
        """Return `rpm`."""
        return "rpm"

    def is_here(self) -> bool:
        """Return whether this machine has rpm."""
        return process.find("rpm") is not None

    def installed(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of packages that are installed for rpm."""
        wanted = list(names)
        if not wanted:
            return {}
        done = process.run(["rpm", "-q", "--queryformat", "%{NAME}\t%{VERSION}-%{RELEASE}\n", *wanted])
        pairs = (line.split("\t") for line in done.text().splitlines() if "\t" in line)
        return {line[0]: line[1] for line in pairs}

    def installer(self, major: int) -> str:
        """Return dnf or yum, by the release."""
        return "yum" if major < self.first_dnf else "dnf"

    def install_command(self) -> str:
        """Return the command of dnf, or of yum if there is no dnf on this machine."""
        return "dnf install" if process.find("dnf") else "yum install"

    def purl(self, package: str, version: str) -> Purl:
        """Return a purl of type rpm. Its epoch is a qualifier."""
        qualifiers = {"arch": "x86_64"}
        epoch, colon, rest = version.partition(":")
        if colon:
            version = rest
            if epoch not in ("", "0", "(none)"):
                qualifiers["epoch"] = epoch
        return Purl(type="rpm", name=package, version=version, qualifiers=qualifiers)


RPM = RpmManager()
"""The package manager of systems that have dnf in every release."""
